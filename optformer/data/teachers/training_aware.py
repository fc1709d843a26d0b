"""Evolution for a reward of accuracy, training step time and number of weights.

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

Resource = Callable[[Float64[np.ndarray, "B N P"]], Float64[np.ndarray, "B N"]]


def training_aware_reward(
    quality: Float64[np.ndarray, "*B"],
    step_time: Float64[np.ndarray, "*B"],
    size: Float64[np.ndarray, "*B"],
    step_time_weight: float = STEP_TIME_WEIGHT,
    size_weight: float = SIZE_WEIGHT,
) -> Float64[np.ndarray, "*B"]:
    """EfficientNetV2's A·S^w·P^v of quality A, step time S and size P, in any units of S and P.

    With a size weight of 0 and a device's latency as S it is the reward of MnasNet (Tan et al.,
    2019), which was also used to search EfficientNet-EdgeTPU. The papers have no negative quality;
    here, larger S and P also make a negative reward worse.
    """
    discount = step_time**step_time_weight * size**size_weight
    return np.where(quality >= 0, quality * discount, quality / discount)


def training_aware_teacher(
    step_time: Resource, size: Resource, weighed_B: Bool[np.ndarray, " B"] | None = None
) -> TeacherFactory:
    """A teacher with the step time and size of every point, which need no training.

    Like `layernas_teacher`, it belongs to one block of problems, so it is not in `TEACHERS`.

    Args:
      weighed_B: True for studies whose values are rewards that already include step time and size;
        by default, all values are qualities.
    """

    def factory(
        spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], budget: int
    ) -> TrainingAwareEvolution:
        weighed = np.zeros(len(seeds_B), bool) if weighed_B is None else weighed_B
        return TrainingAwareEvolution(spaces, seeds_B, budget, step_time, size, weighed)

    return factory


class TrainingAwareEvolution:
    """Regularized evolution for `training_aware_reward`.

    EfficientNetV2 itself samples at random or by reinforcement learning. A trial that is no worse
    in quality, step time and size never loses the tournament against the other. For studies in
    `weighed_B` it is regularized evolution on their values.
    """

    def __init__(
        self,
        spaces: Spaces,
        seeds_B: Int64[np.ndarray, " B"],
        budget: int,
        step_time: Resource,
        size: Resource,
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
            resource(units_BP[:, None])[:, 0] for resource in (self._step_time, self._size)
        )
        reward_B = training_aware_reward(values_B, step_time_B, size_B)
        self._evolution.observe(units_BP, np.where(self._weighed_B, values_B, reward_B))
