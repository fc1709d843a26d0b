"""Numbers to bins and back: a parameter's value under its scale, a metric's under its y range.

Array dimensions: R trials, Q bins.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float64, Int64

from optformer import space
from optformer.study import Parameter, ParameterType


def to_bins(units_R: Float64[np.ndarray, "*R"], bins: int) -> Int64[np.ndarray, "*R"]:
    """The bin of each number in [0, 1]: min(int(x·Q), Q-1) [OptFormer, section 4.1]."""
    return np.clip(np.floor(units_R * bins), 0, bins - 1).astype(np.int64)


def from_bins(bins_R: Int64[np.ndarray, "*R"], bins: int) -> Float64[np.ndarray, "*R"]:
    """The centre of each bin, in [0, 1]: (bin + 0.5) / Q."""
    return (bins_R + 0.5) / bins


def to_parameter_bins(
    parameter: Parameter, numbers_R: Float64[np.ndarray, "*R"], bins: int, *, centred: bool = True
) -> Int64[np.ndarray, "*R"]:
    """The bin of each number in a column of `Study.values_RP`.

    Not `centred`, it is the released format's: value k of a discrete parameter or a category is
    bin k, matched in single precision.
    """
    if parameter.bounds is None and not centred:
        with np.errstate(over="ignore"):
            choices_L = space.choices(parameter).astype(np.float32)
            singles_R = numbers_R.astype(np.float32)
        return np.searchsorted(choices_L, singles_R).astype(np.int64)
    return to_bins(space.column_to_units(parameter, numbers_R, centred=centred), bins)


def from_parameter_bins(
    parameter: Parameter,
    bins_R: Int64[np.ndarray, "*R"],
    bins: int,
    *,
    centred: bool = True,
    rng: np.random.Generator | None = None,
) -> Float64[np.ndarray, "*R"]:
    """The values of bins: a continuous one is the middle of its bin or, given `rng`, anywhere."""
    if parameter.bounds is None and not centred:
        return space.choices(parameter)[bins_R]
    units_R = from_bins(bins_R, bins)
    if rng is not None and parameter.type == ParameterType.DOUBLE:
        units_R += (rng.random(units_R.shape) - 0.5) / bins
    return space.column_from_units(parameter, units_R, centred=centred)


def value_bins(parameter: Parameter, bins: int, *, centred: bool = True) -> Bool[np.ndarray, " Q"]:
    """The bins that stand for a value of the parameter: all of them for a continuous one.

    Not `centred`, integers have all bins too: the released format rounds what they stand for.
    """
    if parameter.type == ParameterType.DOUBLE:
        return np.ones(bins, dtype=bool)
    if parameter.bounds is None:
        numbers = space.choices(parameter)
    elif not centred or parameter.bounds[1] - parameter.bounds[0] >= bins:
        return np.ones(bins, dtype=bool)
    else:
        numbers = np.arange(parameter.bounds[0], parameter.bounds[1] + 1, dtype=np.float64)
    legal_Q = np.zeros(bins, dtype=bool)
    legal_Q[to_parameter_bins(parameter, numbers, bins, centred=centred)] = True
    return legal_Q


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValueScaling:
    """How one metric of one study maps to [0, 1], larger better.

    `low` and `high`, in units of sign x metric, go to `unit_low` and `unit_high`. Encoding a
    study returns it and decoding takes it back. `single` computes in the released format's
    precision and order, which decide into which bin the ends of the range fall.
    """

    sign: float
    low: float
    high: float
    unit_low: float
    unit_high: float
    single: bool = False

    @property
    def slope(self) -> float:
        """How far one unit of the metric is on [0, 1]."""
        width = self.high - self.low
        return (self.unit_high - self.unit_low) / float(np.float32(width) if self.single else width)

    def to_units(self, values_R: Float64[np.ndarray, "*R"]) -> Float64[np.ndarray, "*R"]:
        """Metric values in [0, 1]; what lies outside the interval is clipped to its ends."""
        return np.clip(self.to_line(values_R), 0.0, 1.0)

    def to_line(self, values_R: Float64[np.ndarray, "*R"]) -> Float64[np.ndarray, "*R"]:
        """Metric values on the line of which [0, 1] is the part that has bins."""
        if self.single:
            offset = self.unit_low - self.slope * self.low
            return _to_single(self.sign * values_R) * self.slope + offset
        return self.unit_low + (self.sign * values_R - self.low) * self.slope

    def from_units(self, units_R: Float64[np.ndarray, "*R"]) -> Float64[np.ndarray, "*R"]:
        """Numbers in [0, 1] in the metric's own units."""
        return self.sign * (self.low + (units_R - self.unit_low) / self.slope)


def fit_scaling(
    values_R: Float64[np.ndarray, " R"],
    sign: float,
    unit_low: float = 0.2,
    unit_high: float = 0.8,
    *,
    single: bool = False,
    imputed: bool = False,
) -> ValueScaling:
    """The scaling that takes the finite values' range to [unit_low, unit_high].

    The defaults leave room for values better and worse than all seen so far, as in OptFormer at
    inference. A constant history c gets the range [c-1, c+1], or [c-1, c] where trials without a
    value are `imputed` and count as c-1; an empty one [-1, 1].
    """
    finite_R = sign * values_R[np.isfinite(values_R)]
    if single:
        finite_R = _to_single(finite_R)
    low, high = (finite_R.min(), finite_R.max()) if len(finite_R) else (0.0, 0.0)
    # Narrower than floats resolve is constant: the slope would overflow.
    if high - low <= 1e-12 * max(abs(low), abs(high)) or high - low < 1e-290:
        # One unit, or where that vanishes in rounding, a small part.
        margin = max(1.0, (1e-12 if single else 1e-6) * abs(low))
        low, high = low - margin, high + (0.0 if imputed else margin)
        if single and imputed:  # the imputed trials' value is a single too, and another one
            low = min(np.float32(low), np.nextafter(np.float32(high), np.float32(-np.inf)))
    return ValueScaling(
        sign=sign,
        low=float(low),
        high=float(high),
        unit_low=unit_low,
        unit_high=unit_high,
        single=single,
    )


def _to_single(values_R: Float64[np.ndarray, "*R"]) -> Float64[np.ndarray, "*R"]:
    with np.errstate(over="ignore"):
        return values_R.astype(np.float32).astype(np.float64)
