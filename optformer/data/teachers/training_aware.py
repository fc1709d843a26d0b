"""Evolution that weighs accuracy against the time of a training step and the number of weights.

Array dimensions: B studies, P parameters, N points.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float64, Int64

from optformer.data.teachers.evolution import RegularizedEvolution
from optformer.data.teachers.teacher import TeacherFactory
from optformer.space import Spaces

# Tan and Le, EfficientNetV2: Smaller Models and Faster Training, 2021, section 3.3.
STEP_TIME_WEIGHT, SIZE_WEIGHT = -0.07, -0.05

Need = Callable[[Float64[np.ndarray, "B N P"]], Float64[np.ndarray, "B N"]]


def training_aware_reward(
    quality: Float64[np.ndarray, "*B"],
    step_time: Float64[np.ndarray, "*B"],
    size: Float64[np.ndarray, "*B"],
    step_time_weight: float = STEP_TIME_WEIGHT,
    size_weight: float = SIZE_WEIGHT,
) -> Float64[np.ndarray, "*B"]:
    """EfficientNetV2's A·S^w·P^v of quality A, step time S and size P, in any units of S and P.

    With a size weight of 0 and a device's latency as S it is the reward of MnasNet (Tan et al.,
    2019), with whose framework EfficientNet-EdgeTPU was searched. A negative quality, of which the
    papers have none, is made worse by more of either too.
    """
    discount = step_time**step_time_weight * size**size_weight
    return np.where(quality >= 0, quality * discount, quality / discount)


def training_aware_teacher(
    step_time: Need, size: Need, weighed_B: Bool[np.ndarray, " B"] | None = None
) -> TeacherFactory:
    """A teacher that knows what every point needs, without training it.

    Like `layernas_teacher` it belongs to one block of problems, so it is not in `TEACHERS`.

    Args:
      weighed_B: where values are a reward with the needs in it already, and not a quality; all
        are qualities if None.
    """

    def factory(
        spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], budget: int
    ) -> TrainingAwareEvolution:
        weighed = np.zeros(len(seeds_B), bool) if weighed_B is None else weighed_B
        return TrainingAwareEvolution(spaces, seeds_B, budget, step_time, size, weighed)

    return factory


class TrainingAwareEvolution:
    """Regularized evolution for `training_aware_reward`.

    EfficientNetV2 samples at random or by reinforcement learning; the tournament is ours. Of two
    trials the one that is no worse in quality, step time and size never loses it. Where the
    value already holds what counts (`weighed_B`), it is regularized evolution on that value.
    """

    def __init__(
        self,
        spaces: Spaces,
        seeds_B: Int64[np.ndarray, " B"],
        budget: int,
        step_time: Need,
        size: Need,
        weighed_B: Bool[np.ndarray, " B"],
    ) -> None:
        self._evolution = RegularizedEvolution(spaces, seeds_B, budget)
        self._step_time, self._size = step_time, size
        self._weighed_B = weighed_B

    def suggest(self) -> Float64[np.ndarray, "B P"]:
        return self._evolution.suggest()

    def observe(
        self, units_BP: Float64[np.ndarray, "B P"], values_B: Float64[np.ndarray, " B"]
    ) -> None:
        step_time_B, size_B = (
            need(units_BP[:, None])[:, 0] for need in (self._step_time, self._size)
        )
        reward_B = training_aware_reward(values_B, step_time_B, size_B)
        self._evolution.observe(units_BP, np.where(self._weighed_B, values_B, reward_B))
