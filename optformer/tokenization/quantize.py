"""Numbers to bins and back: parameter values under their scale, metric values under a y-range.

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

    Args:
      centred: see `TokenizerOptions`. If False, as in the released format, value k of a discrete
        or categorical parameter is bin k; values are matched in single precision.
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
    """The parameter values of bins.

    A continuous value is the centre of its bin, or with `rng` a random point of the bin.
    """
    if parameter.bounds is None and not centred:
        return space.choices(parameter)[bins_R]
    units_R = from_bins(bins_R, bins)
    levels = space.number_of_levels(parameter)
    if rng is not None and (not levels or levels > bins):
        units_R += (rng.random(units_R.shape) - 0.5) / bins
    return space.column_from_units(parameter, units_R, centred=centred)


def value_bins(parameter: Parameter, bins: int, *, centred: bool = True) -> Bool[np.ndarray, " Q"]:
    """The bins that represent a legal value of the parameter; all bins for a continuous one.

    Without `centred`, all bins are legal for integers too: the released format rounds their values.
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


_LARGEST, _LARGEST_SINGLE = 1e300, 1e38


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValueScaling:
    """A linear map from one metric of one study to [0, 1], larger better.

    `low` and `high`, in units of sign x metric, map to `unit_low` and `unit_high`. Encoding a
    study returns its scalings, and decoding takes them as an argument. `single` computes in the
    precision and order of the released format, which decide the bins of the ends of the range.
    """

    sign: float
    low: float
    high: float
    unit_low: float
    unit_high: float
    single: bool = False

    @property
    def slope(self) -> float:
        """The length on [0, 1] of one unit of the metric."""
        width = self.high - self.low
        return (self.unit_high - self.unit_low) / float(np.float32(width) if self.single else width)

    def to_units(self, values_R: Float64[np.ndarray, "*R"]) -> Float64[np.ndarray, "*R"]:
        """Metric values mapped to [0, 1]; values outside the interval are clipped to its ends."""
        return np.clip(self.to_unclipped_units(values_R), 0.0, 1.0)

    def to_unclipped_units(self, values_R: Float64[np.ndarray, "*R"]) -> Float64[np.ndarray, "*R"]:
        """Metric values mapped like `to_units`, without clipping to [0, 1]."""
        signed_R = _within_range(self.sign * values_R, self.single)
        if self.single:
            offset = self.unit_low - self.slope * self.low
            return _to_single(signed_R) * self.slope + offset
        return self.unit_low + (signed_R - self.low) * self.slope

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
    """The scaling that maps the range of the finite values to [unit_low, unit_high].

    The defaults leave room for values better or worse than all so far, as OptFormer does at
    inference. If all values equal c, the range is [c-1, c+1]; with `imputed`, where trials without
    a value count as c-1, it is [c-1, c]. Without any value, the range is [-1, 1].
    """
    finite_R = _within_range(sign * values_R[np.isfinite(values_R)], single)
    if single:
        finite_R = _to_single(finite_R)
    low, high = (finite_R.min(), finite_R.max()) if len(finite_R) else (0.0, 0.0)
    # A range below the resolution of floats counts as constant: its slope would overflow.
    if high - low <= 1e-12 * max(abs(low), abs(high)) or high - low < 1e-290:
        # One unit, or a small part of the value if adding one unit would be rounded away.
        margin = max(1.0, (1e-12 if single else 1e-6) * abs(low))
        low, high = low - margin, high + (0.0 if imputed else margin)
        if single and imputed:  # the imputed value must differ from c in single precision, too
            low = min(np.float32(low), np.nextafter(np.float32(high), np.float32(-np.inf)))
    return ValueScaling(
        sign=sign,
        low=float(low),
        high=float(high),
        unit_low=unit_low,
        unit_high=unit_high,
        single=single,
    )


def _within_range(values_R: Float64[np.ndarray, "*R"], single: bool) -> Float64[np.ndarray, "*R"]:
    """The values, moved to where the difference of any two is a finite number."""
    most = _LARGEST_SINGLE if single else _LARGEST
    return np.clip(values_R, -most, most)


def _to_single(values_R: Float64[np.ndarray, "*R"]) -> Float64[np.ndarray, "*R"]:
    with np.errstate(over="ignore"):
        return values_R.astype(np.float32).astype(np.float64)
