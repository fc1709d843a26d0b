"""Search spaces as unit cubes: conversions between parameter values and points in [0, 1]^P.

Array dimensions: B studies, P parameters, N points, R trials, L values of a parameter.
"""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float64, Int64

from optformer.study import Parameter, ParameterType, Scale

TRUST_SMALLEST, TRUST_LARGEST, TRUST_FACTOR = 0.2, 0.5, 5.0

Number = TypeVar("Number")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Spaces:
    """The search spaces of B studies with P parameters each.

    Attributes:
      levels_BP: 0 for a continuous parameter, otherwise its number of values; value k of L lies
        at (k + 0.5) / L.
      ordered_BP: False for categories, between which there is no distance.
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
    """The number of values of a parameter; 0 if it is continuous."""
    if parameter.type == ParameterType.DOUBLE:
        return 0
    if parameter.bounds is not None:
        return int(parameter.bounds[1] - parameter.bounds[0]) + 1
    return len(parameter.values)


def to_natural(
    parameters: Sequence[Parameter], units_NP: Float64[np.ndarray, "N P"]
) -> Float64[np.ndarray, "N P"]:
    """Unit-cube points as rows of `Study.values_RP`, under each parameter's scale.

    With lr in [1e-4, 1] on a log scale and opt one of (sgd, adam):

        [0.5, 0.75]  ->  [0.01, 1.0]
    """
    return np.stack(
        [
            column_from_units(parameter, units_N)
            for parameter, units_N in zip(parameters, units_NP.T, strict=True)
        ],
        axis=1,
    )


def to_units(
    parameters: Sequence[Parameter], values_NP: Float64[np.ndarray, "N P"]
) -> Float64[np.ndarray, "N P"]:
    """Rows of `Study.values_RP` as unit-cube points, the inverse of `to_natural`."""
    return np.stack(
        [
            column_to_units(parameter, values_N)
            for parameter, values_N in zip(parameters, values_NP.T, strict=True)
        ],
        axis=1,
    )


def in_cube(
    parameters: Sequence[Parameter], values_NP: Float64[np.ndarray, "N P"]
) -> Float64[np.ndarray, "N P"]:
    """As `to_units`, of rows with NaN where a trial lacks the parameter: NaN there."""
    return np.where(np.isfinite(values_NP), to_units(parameters, values_NP), np.nan)


def column_to_units(
    parameter: Parameter, numbers_R: Float64[np.ndarray, "*R"], *, centred: bool = True
) -> Float64[np.ndarray, "*R"]:
    """A column of `Study.values_RP` in [0, 1], even under the parameter's scale.

    Value k of L discrete values or categories, and of L integers on a linear scale, sits in the
    middle of its share of the interval, (k + 0.5) / L, so that no value hides in an end point.
    Not `centred`, integers go from 0 to 1 as other numbers do.
    """
    if parameter.bounds is None:
        choices_L = choices(parameter)
        return (np.searchsorted(choices_L, numbers_R) + 0.5) / len(choices_L)
    low, high = _edges(parameter, centred)
    if low == high:
        return np.full(numbers_R.shape, 0.5)
    if parameter.scale == Scale.LOG:
        return np.clip(_log_share(numbers_R, low, high), 0.0, 1.0)
    if parameter.scale == Scale.REVERSE_LOG:
        return np.clip(1.0 - _log_share(low + (high - numbers_R), low, high), 0.0, 1.0)
    # Halves, so that a range as wide as floats themselves does not overflow.
    width = high / 2 - low / 2
    if width == 0:  # the two smallest floats
        return np.full(numbers_R.shape, 0.5)
    return np.clip((numbers_R / 2 - low / 2) / width, 0.0, 1.0)


def column_from_units(
    parameter: Parameter, units_R: Float64[np.ndarray, "*R"], *, centred: bool = True
) -> Float64[np.ndarray, "*R"]:
    """Numbers in [0, 1] as legal values of the parameter, the inverse of `column_to_units`."""
    if parameter.bounds is None:
        choices_L = choices(parameter)
        index_R = np.clip(np.floor(units_R * len(choices_L)), 0, len(choices_L) - 1)
        return choices_L[index_R.astype(np.int64)]
    low, high = _edges(parameter, centred)
    if parameter.scale == Scale.LOG:
        numbers_R = _from_log_share(units_R, low, high)
    elif parameter.scale == Scale.REVERSE_LOG:
        numbers_R = low + (high - _from_log_share(1.0 - units_R, low, high))
    else:
        numbers_R = low * (1.0 - units_R) + high * units_R
    if parameter.type == ParameterType.INTEGER:
        numbers_R = np.rint(numbers_R) + 0.0  # no negative zero
    return np.clip(numbers_R, *parameter.bounds)


def is_fixed(parameter: Parameter) -> bool:
    """Whether a parameter has only one value."""
    if parameter.bounds is not None:
        return parameter.bounds[0] == parameter.bounds[1]
    return len(parameter.values) == 1


def _log_share(
    numbers_R: Float64[np.ndarray, "*R"], low: float, high: float
) -> Float64[np.ndarray, "*R"]:
    # Differences of logarithms: the quotient of the bounds may overflow.
    width = np.log(high) - np.log(low)
    if width == 0:  # neighbouring floats
        return np.full(numbers_R.shape, 0.5)
    return (np.log(numbers_R) - np.log(low)) / width


def _from_log_share(
    units_R: Float64[np.ndarray, "*R"], low: float, high: float
) -> Float64[np.ndarray, "*R"]:
    return np.exp((1.0 - units_R) * np.log(low) + units_R * np.log(high))


def choices(parameter: Parameter) -> Float64[np.ndarray, " L"]:
    """The numbers of a parameter's values in a column of `Study.values_RP`."""
    if parameter.type == ParameterType.CATEGORICAL:
        return np.arange(len(parameter.values), dtype=np.float64)
    return np.asarray(parameter.values, dtype=np.float64)


def _edges(parameter: Parameter, centred: bool) -> tuple[float, float]:
    assert parameter.bounds is not None
    low, high = parameter.bounds
    if centred and parameter.type == ParameterType.INTEGER:
        return low - 0.5, high + 0.5
    return low, high


def trust_radius(measured: Number, parameters: Number) -> Number:
    """The largest distance of a suggestion from a measured point, along any ordered parameter.

    It grows with the number of trials, as in Vizier's GP bandit (google-vizier 0.1.24,
    designers/gp/acquisitions.py). Beyond 0.5 it is 2, which covers the whole cube.

    Args:
      measured, parameters: numbers of trials and parameters, also as arrays of NumPy or JAX.
    """
    level = measured / (TRUST_FACTOR * (parameters + 1))  # type: ignore[operator]
    radius = TRUST_SMALLEST + (TRUST_LARGEST - TRUST_SMALLEST) * level
    # Arithmetic instead of a branch, so that JAX can trace it.
    return radius + (radius > TRUST_LARGEST) * (2.0 - radius)
