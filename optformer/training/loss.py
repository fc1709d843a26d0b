"""The weighted loss of tokens, and its metrics.

Array dimensions: see `optformer.model`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from optformer.model import mixture, transformer
from optformer.model.config import ModelConfig
from optformer.model.transformer import AnyArray, Ids, Weights
from optformer.tokenization.trajectory import Role
from optformer.training.batches import Batch
from optformer.training.config import LossConfig

SPREAD = 8
"""The range of soft targets to either side, in bins."""


class Outputs(NamedTuple):
    """The model's outputs for the targets of a batch.

    Attributes:
      logits_BTO: logits, from the output layer of the target's role.
      weights_BRG: for each trial's first metric, log weights of the transformer's own prediction
        and of the experts' (`model/mixture.py`); R is 0 without experts.
    """

    logits_BTO: Float[Array, "B T O"]
    weights_BRG: Float[Array, "B R G"]


def loss_and_metrics(
    weights: Weights,
    config: ModelConfig,
    ids: Ids,
    batch: Batch,
    loss: LossConfig,
    soft_bins: Float[Array, ""] | float = 0.0,
    dropout: PRNGKeyArray | None = None,
    *,
    rematerialize: bool = False,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The mean loss of a batch in nats per token, and sums for its metrics: see `of_outputs`."""
    outputs = compute(weights, config, ids, batch, dropout, rematerialize=rematerialize)
    return of_outputs(outputs, ids, batch, loss, soft_bins)


def of_outputs(
    outputs: Outputs,
    ids: Ids,
    batch: Batch,
    loss: LossConfig,
    soft_bins: Float[Array, ""] | float = 0.0,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The mean loss of a batch in nats per token, and sums for its metrics.

    With experts, the loss is the sum of the losses of the transformer's own prediction and of the
    mixture, so that both are trained.

    Args:
      soft_bins: standard deviation, in bins, of the target of a continuous quantity; with 0, the
        target is a single bin.

    Returns:
      The loss, and for `parameter` and `value` tokens the summed one-hot cross entropy in nats
      (`*_nats`) and the number of tokens (`*_tokens`); `weight` is the divisor of the mean.
    """
    logits_BTO = outputs.logits_BTO
    is_value_BT = batch.roles_BT == Role.VALUE
    normalizer_BT = jax.nn.logsumexp(logits_BTO, axis=-1)
    target_BT = jnp.clip(batch.targets_BT - ids.first_output, 0, ids.outputs - 1)
    hard_BT = normalizer_BT - _at(logits_BTO, target_BT)
    soft_BT = normalizer_BT - soft_logits(logits_BTO, target_BT, ids, soft_bins)
    nats_BT = jnp.where(batch.smooth_BT, soft_BT, hard_BT)
    if loss.exact:
        exact_BT = normalizer_BT - exact_logits(logits_BTO, batch.predictive_BT2, ids)
        known_BT = batch.smooth_BT & (batch.predictive_BT2[..., 1] > 0)
        nats_BT = jnp.where(known_BT, exact_BT, nats_BT)
    weights_BT = batch.weights_BT * jnp.where(is_value_BT, loss.value_weight, 1.0)
    total = jnp.maximum(weights_BT.sum(), 1.0)
    summed = ((nats_BT + loss.z_loss * normalizer_BT**2) * weights_BT).sum()
    better = jnp.float32(0.0)
    if outputs.weights_BRG.shape[1]:
        places_BR, asked_BR = asked_experts(batch, ids)
        bins_BTQ = logits_BTO[..., ids.first_bin : ids.first_bin + ids.bins]
        any_BT = jax.nn.logsumexp(bins_BTQ, axis=-1)
        own_BR = jnp.take_along_axis(_at(logits_BTO, target_BT) - any_BT, places_BR, axis=1)
        mixed_BR = mixture.log_chance(outputs.weights_BRG, own_BR, batch.expert_logs_BRE)
        mixed_BR = jnp.take_along_axis(normalizer_BT - any_BT, places_BR, axis=1) - mixed_BR
        counted_BR = asked_BR * jnp.take_along_axis(batch.weights_BT, places_BR, axis=1)
        summed += loss.value_weight * (mixed_BR * counted_BR).sum()
        hard_BR = jnp.take_along_axis(hard_BT, places_BR, axis=1)
        better = ((hard_BR - mixed_BR) * counted_BR).sum()
    mean = summed / total
    metrics = {"weight": total}
    for name, role_BT in (("parameter", batch.roles_BT == Role.PARAMETER), ("value", is_value_BT)):
        counted_BT = role_BT * batch.weights_BT
        metrics[f"{name}_nats"] = (hard_BT * counted_BT).sum()
        metrics[f"{name}_tokens"] = counted_BT.sum()
    metrics["value_nats"] -= better  # the prediction of a first metric is the mixture's
    return mean, metrics


def asked_experts(batch: Batch, ids: Ids) -> tuple[Int[Array, "B R"], Bool[AnyArray, "B R"]]:
    """The position of each trial's first metric, 0 without a trial, and whether it is a bin."""
    places_BR = jnp.maximum(batch.value_places_BR, 0)
    bin_BR = jnp.take_along_axis(jnp.asarray(batch.targets_BT), places_BR, axis=1) - ids.text
    return places_BR, (batch.value_places_BR >= 0) & (bin_BR >= 0) & (bin_BR < ids.bins)


def first_metric_bins(batch: Batch, ids: Ids) -> Bool[AnyArray, "B T"]:
    """Which targets are bins of a first metric."""
    bin_BT = batch.targets_BT - ids.text
    is_bin_BT = (bin_BT >= 0) & (bin_BT < ids.bins)
    return is_bin_BT & (batch.roles_BT == Role.VALUE) & (batch.target_slots_BT == 1)


def compute(
    weights: Weights,
    config: ModelConfig,
    ids: Ids,
    batch: Batch,
    dropout: PRNGKeyArray | None = None,
    *,
    rematerialize: bool = False,
) -> Outputs:
    """The model's outputs for each target."""
    hidden_BTD = hidden_states(weights, config, ids, batch, dropout, rematerialize=rematerialize)
    is_value_BT = batch.roles_BT == Role.VALUE
    logits_BTO = jnp.where(
        is_value_BT[..., None],
        transformer.value_logits(weights, ids, hidden_BTD),
        transformer.token_logits(weights, ids, hidden_BTD),
    )
    weights_BRG = jnp.zeros((len(is_value_BT), 0, 1), jnp.float32)
    if config.experts:
        places_BR = jnp.maximum(batch.value_places_BR, 0)
        # In single precision, in which an accelerator sums the gradient without locks.
        wide_BTD = hidden_BTD.astype(jnp.float32)
        hidden_BRD = jnp.take_along_axis(wide_BTD, places_BR[..., None], axis=1)
        weights_BRG = mixture.log_weights(
            weights["experts"], hidden_BRD.astype(hidden_BTD.dtype), batch.evidence_BRE
        )
    return Outputs(logits_BTO, weights_BRG)


def bin_measures(
    outputs: Outputs, batch: Batch, ids: Ids
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Scores of predicted distributions over bins, at targets that are bins.

    Returns:
      The log density per unit of [0, 1], for which uniform predictions score 0, and the probability
      integral transform at the centre of the target's bin (`model.predictive`).
    """
    bins = slice(ids.first_bin, ids.first_bin + ids.bins)
    bins_BTQ = jax.nn.log_softmax(outputs.logits_BTO[..., bins])
    bin_BT = jnp.clip(batch.targets_BT - ids.first_output - ids.first_bin, 0, ids.bins - 1)
    log_shares_BT = _at(bins_BTQ, bin_BT)
    below_BTQ = jnp.arange(ids.bins) < bin_BT[..., None]
    pit_BT = (jnp.exp(bins_BTQ) * below_BTQ).sum(-1) + jnp.exp(log_shares_BT) / 2
    if outputs.weights_BRG.shape[1]:
        places_BR, asked_BR = asked_experts(batch, ids)
        own_BR, pit_BR = (
            jnp.take_along_axis(array_BT, places_BR, axis=1) for array_BT in (log_shares_BT, pit_BT)
        )
        mixed_BR = mixture.log_chance(outputs.weights_BRG, own_BR, batch.expert_logs_BRE)
        below_BRG = jnp.concatenate([pit_BR[..., None], batch.expert_below_BRE], axis=-1)
        mixed_pit_BR = (jnp.exp(outputs.weights_BRG) * below_BRG).sum(-1)
        # Positions beyond the row are dropped.
        row_B1 = np.arange(len(places_BR))[:, None]
        at_BR = row_B1, jnp.where(asked_BR, places_BR, log_shares_BT.shape[1])
        log_shares_BT = log_shares_BT.at[at_BR].set(mixed_BR, mode="drop")
        pit_BT = pit_BT.at[at_BR].set(mixed_pit_BR, mode="drop")
    return log_shares_BT + np.log(ids.bins), jnp.clip(pit_BT, 0.0, 1.0)


def hidden_states(
    weights: Weights,
    config: ModelConfig,
    ids: Ids,
    batch: Batch,
    dropout: PRNGKeyArray | None = None,
    *,
    rematerialize: bool = False,
) -> Float[Array, "B T D"]:
    """The hidden states that predict the targets of a batch."""
    return transformer.forward(
        weights,
        config,
        ids,
        text_BS=batch.text_BS,
        text_slots_BS=batch.text_slots_BS,
        text_segments_BS=batch.text_segments_BS,
        inputs_BT=batch.inputs_BT,
        input_slots_BT=batch.input_slots_BT,
        target_slots_BT=batch.target_slots_BT,
        segments_BT=batch.segments_BT,
        trials_T=batch.trials_T,
        dropout=dropout,
        rematerialize=rematerialize,
    )


def soft_logits(
    logits_BTO: Float[Array, "B T O"],
    target_BT: Int[AnyArray, "B T"],
    ids: Ids,
    soft_bins: Float[Array, ""] | float,
) -> Float[Array, "B T"]:
    """The expected logit under a Gaussian target over the nearby bins."""
    offsets = np.arange(-SPREAD, SPREAD + 1)
    share = jnp.exp(-0.5 * (offsets / jnp.maximum(soft_bins, 0.05)) ** 2)
    # Probability outside the range of bins is on the last bin.
    last_bin = ids.first_bin + ids.bins - 1
    near_BTW = jnp.clip(target_BT[..., None] + offsets, ids.first_bin, last_bin)
    near_logits_BTW = jnp.take_along_axis(logits_BTO, near_BTW, axis=-1)
    return (near_logits_BTW * share).sum(-1) / share.sum()


def exact_logits(
    logits_BTO: Float[Array, "B T O"], predictive_BT2: Float[AnyArray, "B T 2"], ids: Ids
) -> Float[Array, "B T"]:
    """The expected logit under a Gaussian on [0, 1], with its tails on the last bins."""
    mean_BT1, deviation_BT1 = predictive_BT2[..., :1], predictive_BT2[..., 1:]
    inner_E = np.arange(1, ids.bins, dtype=np.float32) / ids.bins
    # A narrower Gaussian would only move probability between two bins.
    spread_BT1 = jnp.maximum(deviation_BT1, 0.5 / ids.bins)
    # Not norm.cdf, which is exact in the tails, and took a tenth of a small model's step time.
    below_BTE = 0.5 + 0.5 * jax.lax.erf((inner_E - mean_BT1) / (np.sqrt(2) * spread_BT1))
    # sum_q (F_q+1 - F_q) l_q, summed by parts: a weighted sum of differences of adjacent logits.
    logits_BTQ = logits_BTO[..., ids.first_bin : ids.first_bin + ids.bins]
    steps_BTE = logits_BTQ[..., 1:] - logits_BTQ[..., :-1]
    return logits_BTQ[..., -1] - (below_BTE * steps_BTE).sum(-1)


def _at(logits_BTO: Float[Array, "B T O"], target_BT: Int[AnyArray, "B T"]) -> Float[Array, "B T"]:
    return jnp.take_along_axis(logits_BTO, target_BT[..., None], axis=-1)[..., 0]
