"""How good points are expected to be: the model's prediction of each, and the policy's score.

Array dimensions: N points, O outputs, Q bins, R measured trials, D width, G predictions: the
transformer's own and those of M experts.
"""

import numpy as np
from jaxtyping import Float, Float32, Float64

from optformer.model import predictive
from optformer.model.ensemble import Ensemble, Weighed
from optformer.model.experts import Posterior
from optformer.model.loaded import LoadedModel
from optformer.model.points import Points
from optformer.policies import acquisition, candidates
from optformer.policies.config import DOUBT, SURPRISE, PolicyConfig
from optformer.policies.view import View
from optformer.tokenization.vocabulary import Vocabulary


class Candidates:
    """Points of one study, and what the model predicts of each one's metric.

    Args:
      logits_NO, hidden_ND: what the engine's `rollout` gives for the points.
    """

    def __init__(
        self,
        model: LoadedModel,
        view: View,
        points: Points,
        logits_NO: Float32[np.ndarray, "N O"],
        hidden_ND: Float32[np.ndarray, "N D"],
    ) -> None:
        self.points = points
        self._view = view
        self._vocabulary = model.tokenizer.vocabulary
        self._calibrated = float(model.value_temperature.after(len(view.values_R)))
        self._own_NO = self._mixed_NO = logits_NO
        self._experts: tuple[Ensemble, Posterior, Weighed] | None = None
        if model.experts is not None and view.posterior is not None:
            weighed = model.experts.weigh(hidden_ND, view.posterior)
            self._experts = model.experts, view.posterior, weighed
            self._mixed_NO = model.experts.mix(logits_NO, weighed, view.posterior, points)

    def probabilities(self, temperature: float | None) -> Float64[np.ndarray, "N Q"]:
        """Of the bins, as `OptFormer.predict` gives them."""
        if temperature is None:
            temperature = self._calibrated
        return bin_probabilities(self._mixed_NO, self._vocabulary, temperature)

    def score(self, policy: PolicyConfig, rng: np.random.Generator) -> Float64[np.ndarray, " N"]:
        """As the policy ranks them: outside the trust region by numbers below all others."""
        first_N = self._view.first_scores(self.points)
        if first_N is not None and policy.acquisition not in ("ts", "ts_joint"):
            return first_N
        scores_N = self._acquire(policy, rng) * self._view.weight(self.points)
        return self._view.region.inside_first(scores_N, self.points.units_NP)

    def _acquire(self, policy: PolicyConfig, rng: np.random.Generator) -> Float64[np.ndarray, " N"]:
        """What the acquisition gives for trials that work."""
        view = self._view
        # A search that is made surer stays where it is.
        temperature = policy.value_temperature or max(self._calibrated, 1.0)
        if policy.stalled(view.values_R):
            if view.surprise(policy.patience) < SURPRISE:
                temperature *= DOUBT
            elif policy.acquisition == "ei" and view.posterior is not None:
                # Finer than bins: what is left to gain is less than one.
                return candidates.gain(view, self.points)
        levels_N = self.draw_levels(rng) if policy.acquisition == "ts_joint" else None
        return acquisition.score(
            policy.acquisition, self.probabilities(temperature), view.best, rng, levels_N
        )

    def draw_levels(self, rng: np.random.Generator) -> Float64[np.ndarray, " N"]:
        """One draw of the metric at all points, as quantiles of what is predicted of each.

        The prediction is a mixture: one of its parts is drawn by its weight and believed of all
        points, and a Gaussian process among them is drawn whole (`Posterior.draw_levels`).
        Weights may differ between points; the same random number then draws each one's part,
        so that near ones have the same. The transformer does not say how values hang together:
        where it is drawn, its quantiles are those of a process drawn by its weight among them.
        """
        assert self._experts is not None
        ensemble, posterior, weighed = self._experts
        weights_NG = np.exp(weighed.log_weights_NG.astype(np.float64))
        weights_NG /= weights_NG.sum(axis=1, keepdims=True)
        part_N = (weights_NG.cumsum(axis=1)[:, :-1] < rng.random()).sum(axis=1)
        mean_M = weights_NG[:, 1:].mean(axis=0)
        instead = 1 + rng.choice(len(mean_M), p=mean_M / mean_M.sum())
        process_N = np.where(part_N > 0, part_N, instead)
        levels_N = np.empty(len(part_N))
        for process in np.unique(process_N):
            expert = int(weighed.experts_M[process - 1])
            drawn_N = posterior.draw_levels(self.points, expert, rng)
            levels_N[process_N == process] = drawn_N[process_N == process]
        # All of each point's weight on its part.
        only_NG = np.full_like(weighed.log_weights_NG, -np.inf)
        only_NG[np.arange(len(part_N)), part_N] = 0.0
        only = Weighed(experts_M=weighed.experts_M, log_weights_NG=only_NG)
        part_NO = ensemble.mix(self._own_NO, only, posterior, self.points)
        part_NQ, whole_NQ = (
            bin_probabilities(logits_NO, self._vocabulary, 1.0, feasible=True)
            for logits_NO in (part_NO, self._mixed_NO)
        )
        return predictive.pit(whole_NQ, acquisition.quantile(part_NQ, levels_N))


def bin_probabilities(
    logits_NO: Float[np.ndarray, "N O"],
    vocabulary: Vocabulary,
    temperature: float,
    *,
    feasible: bool = False,
) -> Float64[np.ndarray, "N Q"]:
    """Probabilities of the bins; they sum to 1 less the chance of an infeasible trial, if any.

    Args:
      temperature: of the bins; the chance of an infeasible trial is another question's answer.
      feasible: given that the trial is feasible.
    """
    first = vocabulary.first_bin - vocabulary.first_output
    stop = first + vocabulary.bins
    bins_NQ = predictive.tempered(logits_NO[:, first:stop], temperature)
    if feasible or not vocabulary.statuses:
        return bins_NQ
    outcomes_NO = predictive.tempered(logits_NO[:, first : stop + 1], 1.0)
    return bins_NQ * outcomes_NO[:, : vocabulary.bins].sum(axis=1, keepdims=True)
