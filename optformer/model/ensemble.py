"""The experts of one model: they learn from a study's trials, and the model weighs and mixes them.

Whoever suggests asks this object alone. The experts' mathematics is in `model/experts.py`, that of
their mixture in `model/mixture.py`.

Array dimensions: see `optformer.model`; R trials, K parameters in the order of a trial's tokens,
E experts, M those that count, G = 1 + M predictions with the transformer's own.
"""

import dataclasses
import functools

import jax
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from optformer.model import experts, mixture, prior_experts
from optformer.model.decode import size_class
from optformer.model.experts import Posterior
from optformer.model.points import Points
from optformer.model.prior import Prior
from optformer.model.prior_experts import InformedPosterior
from optformer.model.transformer import Ids, Weights


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Weighed:
    """Which experts count for some points, and how much.

    Attributes:
      experts_M: those that count for some point.
      log_weights_NG: of the transformer's own prediction, and of theirs.
    """

    experts_M: Int64[np.ndarray, " M"]
    log_weights_NG: Float32[np.ndarray, "N 1+M"]


class Ensemble:
    """The experts of one model.

    Args:
      gates: the model's learned weights for them.
    """

    def __init__(self, gates: Weights, ids: Ids) -> None:
        self._gates, self._ids = gates, ids
        self._log_weights = jax.jit(mixture.log_weights)
        self._mix = jax.jit(functools.partial(mixture.mix, ids=ids))

    def condition(
        self,
        trials: Points,
        values_R: Float64[np.ndarray, " R"],
        pending_R: Bool[np.ndarray, " R"],
        ordered_K: Bool[np.ndarray, " K"],
        prior: Prior | None = None,
    ) -> Posterior:
        """What the experts know after these trials.

        Args:
          values_R: metrics on the bins' axis; NaN where a trial has none.
          ordered_K: whether a parameter's values have an order.
          prior: what is known of the problem without trials: experts that know it join the others.
        """
        bins = self._ids.bins
        plain = experts.condition(trials.inputs_NK, values_R, pending_R, ordered_K, bins)
        if prior is None:
            return plain
        learned = prior_experts.condition(prior, trials.values_NP, values_R, pending_R, bins)
        return InformedPosterior.of(plain, learned)

    def weigh_by_evidence(self, posterior: Posterior) -> Float64[np.ndarray, " E"]:
        """Log weights of all experts, by their evidence only."""
        nothing_1D = np.zeros((1, self._gates["hidden"].shape[0]), np.float32)
        return self._weights(nothing_1D, posterior)[0, 1:].astype(np.float64)

    def weigh(self, hidden_ND: Float32[np.ndarray, "N D"], posterior: Posterior) -> Weighed:
        """The experts that count for some point, by the transformer's hidden state there."""
        count = len(hidden_ND)
        padded_ND = np.pad(hidden_ND, [(0, size_class(count, 1) - count), (0, 0)], mode="edge")
        chosen_M, log_weights_NG = mixture.choose_experts(
            self._weights(padded_ND, posterior)[:count]
        )
        return Weighed(experts_M=chosen_M, log_weights_NG=log_weights_NG)

    def mix(
        self,
        logits_NO: Float32[np.ndarray, "N O"],
        weighed: Weighed,
        posterior: Posterior,
        points: Points,
    ) -> Float32[np.ndarray, "N O"]:
        """The points' log-odds with those of the experts mixed in."""
        count = len(points)
        more = size_class(count, 1) - count
        said = posterior.predict(points, weighed.experts_M)
        logits_NO, log_weights_NG, mean_NM, scale_NM = (
            np.pad(array, [(0, more), (0, 0)], mode="edge").astype(np.float32)
            for array in (logits_NO, weighed.log_weights_NG, said.mean_NM, said.scale_NM)
        )
        with jax.enable_x64(False):
            mixed_NO = self._mix(
                logits_NO,
                log_weights_NG,
                mean_NM,
                scale_NM,
                said.warp_M.astype(np.int32),
                np.float32(said.freedom),
            )
        return np.asarray(mixed_NO)[:count]

    def compile_for(self, candidates: int) -> None:
        """Compiles `mix` for so many candidates: which experts count depends on a study."""
        size = size_class(candidates, 1)
        with jax.enable_x64(False):
            for count in (mixture.FEW, mixture.MANY):
                self._mix(
                    np.zeros((size, self._ids.outputs), np.float32),
                    np.zeros((size, 1 + count), np.float32),
                    np.zeros((size, count), np.float32),
                    np.ones((size, count), np.float32),
                    np.zeros(count, np.int32),
                    np.float32(1.0),
                )

    def _weights(
        self, hidden_ND: Float32[np.ndarray, "N D"], posterior: Posterior
    ) -> Float32[np.ndarray, "N G"]:
        evidence_NE = np.broadcast_to(
            posterior.evidence_E.astype(np.float32), (len(hidden_ND), len(posterior.evidence_E))
        )
        with jax.enable_x64(False):
            weights_NG = np.asarray(self._log_weights(self._gates, hidden_ND, evidence_NE))
        if isinstance(posterior, InformedPosterior):
            return posterior.weights_with(weights_NG)
        return weights_NG
