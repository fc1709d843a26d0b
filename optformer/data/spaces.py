"""The unit cubes that teachers search: many studies at once, every parameter in [0, 1].

Array dimensions: B studies, P parameters, N points.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float64, Int64

from optformer.study import Parameter, ParameterType


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Spaces:
    """The search spaces of B studies with P parameters each.

    Attributes:
      levels_BP: 0 for a continuous parameter, otherwise its number of values; value k of L sits
        at (k + 0.5) / L.
      ordered_BP: False where the values are categories, so that distance means nothing.
    """

    levels_BP: Int64[np.ndarray, "B P"]
    ordered_BP: Bool[np.ndarray, "B P"]

    def snap(self, units_BNP: Float64[np.ndarray, "B N P"]) -> Float64[np.ndarray, "B N P"]:
        """The nearest legal points: clipped to [0, 1], discrete parameters moved to a level."""
        levels_B1P = self.levels_BP[:, None, :]
        clipped_BNP = np.clip(units_BNP, 0.0, 1.0)
        steps_B1P = np.maximum(levels_B1P, 1)
        index_BNP = np.minimum(np.floor(clipped_BNP * steps_B1P), steps_B1P - 1)
        return np.where(levels_B1P > 0, (index_BNP + 0.5) / steps_B1P, clipped_BNP)

    @classmethod
    def of(cls, parameters: tuple[Parameter, ...], studies: int = 1) -> "Spaces":
        """The space of these parameters, the same for each of `studies` studies."""
        levels_P = np.array([number_of_levels(parameter) for parameter in parameters])
        ordered_P = np.array([p.type != ParameterType.CATEGORICAL for p in parameters])
        return cls(
            levels_BP=np.tile(levels_P.astype(np.int64), (studies, 1)),
            ordered_BP=np.tile(ordered_P, (studies, 1)),
        )


def number_of_levels(parameter: Parameter) -> int:
    """How many values a parameter has; 0 if it is continuous."""
    if parameter.type == ParameterType.DOUBLE:
        return 0
    if parameter.bounds is not None:
        return int(parameter.bounds[1] - parameter.bounds[0]) + 1
    return len(parameter.values)
