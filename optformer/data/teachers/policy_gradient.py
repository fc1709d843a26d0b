"""A controller for each decision, trained with REINFORCE.

Array dimensions: B studies, P parameters (decisions), L choices of a decision.
"""

import numpy as np
from jaxtyping import Float64, Int64

from optformer.data.teachers.teacher import Streams
from optformer.space import Spaces

CELLS = 10  # choices of a continuous parameter; a point is uniform within its cell
LEARNING_RATE = 0.25  # our choice, for studies of hundreds of trials instead of millions
MOMENTUM = 0.95  # of the reward's moving average, as in TuNAS


class PolicyGradient:
    """Independent softmax policies, updated by (reward - moving average) times the score function.

    Bender et al., Can Weight Sharing Outperform Random Architecture Search? (TuNAS), 2020, without
    the shared weights. Rewards are divided by their moving standard deviation, because metrics have
    different units. An infeasible trial counts as one deviation below the average.
    """

    def __init__(self, spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], budget: int) -> None:
        studies = len(spaces.levels_BP)
        self._spaces = spaces
        self._streams = Streams(seeds_B)
        self._choices_BP = np.where(spaces.levels_BP > 0, spaces.levels_BP, CELLS)
        most = int(self._choices_BP.max())
        self._there_BPL = np.arange(most) < self._choices_BP[:, :, None]
        self._logits_BPL = np.where(self._there_BPL, 0.0, -np.inf)
        self._mean_B = np.zeros(studies)
        self._square_B = np.zeros(studies)
        self._weight_B = np.zeros(studies)  # the total weight in the moving averages

    def suggest(self) -> Float64[np.ndarray, "B P"]:
        uniform_B2P = self._streams.uniform(2, self._choices_BP.shape[1])
        reached_BPL = np.cumsum(self._policy(), axis=2) > uniform_B2P[:, 0, :, None]
        choice_BP = np.minimum(np.argmax(reached_BPL, axis=2), self._choices_BP - 1)
        inside_BP = np.where(self._spaces.levels_BP > 0, 0.5, uniform_B2P[:, 1])
        return (choice_BP + inside_BP) / self._choices_BP

    def observe(
        self, units_BP: Float64[np.ndarray, "B P"], values_B: Float64[np.ndarray, " B"]
    ) -> None:
        feasible_B = ~np.isnan(values_B)
        mean_B = self._mean_B / np.maximum(self._weight_B, 1e-12)
        variance_B = self._square_B / np.maximum(self._weight_B, 1e-12) - mean_B**2
        deviation_B = np.sqrt(np.maximum(variance_B, 0.0))
        known_B = (self._weight_B > 0) & (deviation_B > 1e-9 * np.abs(mean_B))
        scaled_B = (values_B - mean_B) / np.where(known_B, deviation_B, 1.0)
        # Without a deviation yet, the advantage is 0; it is clipped at three deviations.
        advantage_B = np.where(known_B, np.clip(scaled_B, -3.0, 3.0), 0.0)
        advantage_B = np.where(feasible_B, advantage_B, -1.0)

        choice_BP = np.minimum((units_BP * self._choices_BP).astype(int), self._choices_BP - 1)
        taken_BPL = np.arange(self._there_BPL.shape[2]) == choice_BP[:, :, None]
        score_BPL = np.where(self._there_BPL, taken_BPL - self._policy(), 0.0)
        self._logits_BPL += LEARNING_RATE * advantage_B[:, None, None] * score_BPL

        clean_B = np.where(feasible_B, values_B, 0.0)
        for name, new_B in (("_mean_B", clean_B), ("_square_B", clean_B**2), ("_weight_B", 1.0)):
            old_B = getattr(self, name)
            moved_B = MOMENTUM * old_B + (1 - MOMENTUM) * new_B
            setattr(self, name, np.where(feasible_B, moved_B, old_B))

    def _policy(self) -> Float64[np.ndarray, "B P L"]:
        weights_BPL = np.exp(self._logits_BPL - self._logits_BPL.max(axis=2, keepdims=True))
        return weights_BPL / weights_BPL.sum(axis=2, keepdims=True)


def absolute_reward(
    quality_B: Float64[np.ndarray, " B"],
    cost_B: Float64[np.ndarray, " B"],
    target: float,
    weight: float = -0.07,
) -> Float64[np.ndarray, " B"]:
    """TuNAS's reward: quality, reduced by the relative distance of the cost from its target."""
    return quality_B + weight * np.abs(cost_B / target - 1.0)
