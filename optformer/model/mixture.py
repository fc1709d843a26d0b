"""The prediction of a value: a mixture of the transformer's and of Gaussian-process experts'.

With `ModelConfig.experts`, the probability of a bin is

    w_0 p_own(bin) + sum_e w_e p_e(bin),    w = softmax(gate(hidden state) + b evidence),

with the experts' predictions and evidence of `model/experts.py`. Initially, the gates are flat and
b is 1: Bayesian model averaging of the experts, with a small prior weight of the transformer. The
probability that a trial has no value is the transformer's.

Array dimensions: see `optformer.model`; E experts, M chosen experts, G = 1 + E predictions.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int64

from optformer.model import experts
from optformer.model.transformer import AnyArray, Ids, Weights

NEGLIGIBLE = 0.02
"""The share of the experts' weight below which a group of experts is left out."""

FEW, MANY = 8, 32
"""The number of experts in a mixture: `FEW` if all others are negligible, otherwise `MANY`. There
are only two sizes because each is compiled."""


def log_weights(
    gates: Weights, hidden: Float[Array, "*T D"], evidence: Float[AnyArray, "*T E"]
) -> Float32[Array, "*T G"]:
    """The logarithms of the weights of all predictions; the first is the transformer's own."""
    logits = (hidden @ gates["hidden"]).astype(jnp.float32) + gates["offset"]
    share = gates["evidence"] * evidence
    share -= jax.nn.logsumexp(share, axis=-1, keepdims=True)
    return jax.nn.log_softmax(jnp.concatenate([logits[..., :1], logits[..., 1:] + share], axis=-1))


def log_chance(
    log_weights: Float[Array, "*T G"], own: Float[Array, "*T"], logs: Float[AnyArray, "*T E"]
) -> Float[Array, "*T"]:
    """The mixture's log probability of a bin, from those of its components."""
    return jax.nn.logsumexp(log_weights + jnp.concatenate([own[..., None], logs], axis=-1), axis=-1)


def choose_experts(
    log_weights_NG: Float32[np.ndarray, "N G"],
) -> tuple[Int64[np.ndarray, " M"], Float32[np.ndarray, "N 1+M"]]:
    """The experts with weight for some candidate, and the log weights of this mixture (`keep`)."""
    experts_NE = np.exp(log_weights_NG[:, 1:])
    order_E = np.argsort(-experts_NE.max(axis=0), kind="stable")
    rest_N = experts_NE[:, order_E[FEW:]].sum(axis=1)
    few = (rest_N < NEGLIGIBLE * experts_NE.sum(axis=1)).all()
    chosen_M = order_E[: FEW if few else MANY]
    chosen_NM = np.broadcast_to(chosen_M, (len(experts_NE), len(chosen_M)))
    return chosen_M, keep(log_weights_NG, chosen_NM)


def keep(
    log_weights_NG: Float32[np.ndarray, "N G"], chosen_NM: Int64[np.ndarray, "N M"]
) -> Float32[np.ndarray, "N 1+M"]:
    """The log weights of the chosen experts, which receive the weight of the others.

    The transformer's own weight does not change.
    """
    experts_NE = log_weights_NG[:, 1:]
    chosen_log_NM = np.take_along_axis(experts_NE, chosen_NM, axis=1)
    whole_N, left_N = (np.exp(logs).sum(axis=1) for logs in (experts_NE, chosen_log_NM))
    shared_NM = chosen_log_NM + np.log(whole_N / left_N)[:, None]
    return np.concatenate([log_weights_NG[:, :1], shared_NM], axis=1)


def mix(
    logits_NO: Float[Array, "N O"],
    log_weights_NG: Float[Array, "N G"],
    mean_NM: Float[Array, "N M"],
    scale_NM: Float[Array, "N M"],
    warp_M: Int[Array, " M"],
    freedom: Float[Array, ""],
    *,
    ids: Ids,
) -> Float32[Array, "N O"]:
    """The transformer's logits, with the logits of bins replaced by those of the mixture.

    Args:
      log_weights_NG: of the transformer's own prediction and of the given experts.
      mean_NM, scale_NM: of the experts' predictions under their warps `warp_M`.
    """
    bins = slice(ids.first_bin, ids.first_bin + ids.bins)
    edges_WF = jnp.asarray(experts.warp(np.linspace(0.0, 1.0, ids.bins + 1)), jnp.float32)

    def add(above_NF: Array, expert: tuple[Array, Array, Array, Array]) -> tuple[Array, None]:
        log_weight_N, mean_N, scale_N, warp = expert
        t_NF = (edges_WF[warp] - mean_N[:, None]) / scale_N[:, None]
        bent_NF = jnp.sqrt(freedom * jnp.log1p(t_NF * t_NF / freedom)) * (1.0 - 0.25 / freedom)
        # The probability above an edge, because improvements are in the upper tail, where 1 - p
        # loses digits. If the whole range is in the lower tail, the probability below.
        t_NF = jnp.where(t_NF[:, -1:] < 0, -t_NF, t_NF)
        beyond_NF = _erfc_of_positive(bent_NF * np.float32(np.sqrt(0.5)))
        tail_NF = jnp.where(t_NF < 0, 2.0 - beyond_NF, beyond_NF)
        inside_N = tail_NF[:, 0] - tail_NF[:, -1]
        inside_N = jnp.copysign(jnp.maximum(jnp.abs(inside_N), 1e-30), inside_N)
        share_N = jnp.exp(log_weight_N) * (1.0 - experts.FLOOR) / inside_N
        return above_NF + share_N[:, None] * (tail_NF - tail_NF[:, -1:]), None

    above_NF, _ = jax.lax.scan(
        add,
        jnp.zeros((len(logits_NO), ids.bins + 1), jnp.float32),
        (log_weights_NG[:, 1:].T, mean_NM.T, scale_NM.T, warp_M),
    )
    floor_N1 = jnp.exp(log_weights_NG[:, 1:]).sum(-1, keepdims=True) * experts.FLOOR / ids.bins
    chance_NQ = above_NF[:, :-1] - above_NF[:, 1:] + floor_N1
    own_NQ = jax.nn.log_softmax(logits_NO[:, bins])
    # An expert without probability in the range contributes only the floor.
    mixed_NQ = jax.nn.log_softmax(
        jnp.logaddexp(log_weights_NG[:, :1] + own_NQ, jnp.log(jnp.maximum(chance_NQ, 1e-30)))
    )
    whole_N1 = jax.nn.logsumexp(logits_NO[:, bins], axis=-1, keepdims=True)
    return logits_NO.at[:, bins].set(whole_N1 + mixed_NQ)


_ERFC = (
    *(-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806),
    *(0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277),
)


def _erfc_of_positive(x: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """The complementary error function with one exponential, with a relative error below 2e-7.

    From Press et al., Numerical Recipes, 6.2.2. XLA's exact function would take most of the time of
    a mixture.
    """
    k = 1.0 / (1.0 + 0.5 * x)
    exponent = jnp.full_like(k, _ERFC[-1])
    for coefficient in reversed(_ERFC[:-1]):
        exponent = exponent * k + coefficient
    return k * jnp.exp(exponent - x * x)
