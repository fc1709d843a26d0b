"""Bins of parameter and metric values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optformer import space
from optformer.study import Parameter, ParameterType
from optformer.tokenization import quantize
from tests.tokenization.spaces import BINS, parameters

UNITS = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20).map(np.array)


@given(units_R=UNITS, bins=st.integers(2, 1000))
def test_a_number_lies_in_its_bin(units_R: np.ndarray, bins: int) -> None:
    centres_R = quantize.from_bins(quantize.to_bins(units_R, bins), bins)
    np.testing.assert_array_less(np.abs(centres_R - units_R), 0.5 / bins + 1e-9)


@settings(max_examples=200, deadline=None)
@given(parameter=parameters("x"), centred=st.booleans(), seed=st.integers(0, 2**32))
def test_legal_bins_are_those_of_legal_values(
    parameter: Parameter, centred: bool, seed: int
) -> None:
    """Values have legal bins; legal bins have legal values, which have the same bin again."""
    rng = np.random.default_rng(seed)
    legal_Q = quantize.value_bins(parameter, BINS, centred=centred)
    numbers_R = space.column_from_units(parameter, rng.random(20))
    bins_R = quantize.to_parameter_bins(parameter, numbers_R, BINS, centred=centred)
    assert legal_Q[bins_R].all()
    back_Q = quantize.from_parameter_bins(
        parameter, np.flatnonzero(legal_Q), BINS, centred=centred, rng=rng
    )
    for number in back_Q:
        assert parameter.to_number(parameter.from_number(number)) == number
    if parameter.bounds is None:
        np.testing.assert_array_equal(
            quantize.to_parameter_bins(parameter, back_Q, BINS, centred=centred),
            np.flatnonzero(legal_Q),
        )


@settings(max_examples=100)
@given(
    values_R=st.lists(st.floats(-1e6, 1e6), max_size=12).map(np.array),
    sign=st.sampled_from([1.0, -1.0]),
    single=st.booleans(),
)
def test_a_scaling_maps_the_history_into_its_interval_and_back(
    values_R: np.ndarray, sign: float, single: bool
) -> None:
    values_R = values_R.astype(np.float32).astype(np.float64)
    scaling = quantize.fit_scaling(values_R, sign, 0.2, 0.8, single=single)
    units_R = scaling.to_units(values_R)
    assert ((units_R > 0.2 - 1e-6) & (units_R < 0.8 + 1e-6)).all()
    tolerance = 1e-5 * (scaling.high - scaling.low) + 1e-9
    np.testing.assert_allclose(scaling.from_units(units_R), values_R, atol=tolerance, rtol=1e-6)
    # Better values have larger units.
    order_R = np.argsort(sign * values_R)
    assert (np.diff(units_R[order_R]) >= -1e-9).all()


def test_only_clipping_distinguishes_the_two_maps() -> None:
    scaling = quantize.fit_scaling(np.array([0.0, 1.0]), 1.0)
    values_R = np.array([-10.0, 0.0, 0.5, 1.0, 10.0])
    unclipped_R = scaling.to_unclipped_units(values_R)
    assert unclipped_R[0] < 0 and unclipped_R[-1] > 1
    np.testing.assert_array_equal(scaling.to_units(values_R), np.clip(unclipped_R, 0, 1))


@pytest.mark.parametrize(
    ("values", "imputed", "low", "high"),
    [
        ([], False, -1.0, 1.0),
        ([5.0, 5.0], False, 4.0, 6.0),
        ([5.0, np.nan], True, 4.0, 5.0),  # the trial without a value counts as 4
        ([1e9, 1e9], False, 1e9 - 1e3, 1e9 + 1e3),  # one part in a million: a unit would vanish
    ],
)
def test_a_constant_history_has_a_range_too(
    values: list[float], imputed: bool, low: float, high: float
) -> None:
    scaling = quantize.fit_scaling(np.array(values), 1.0, imputed=imputed)
    assert (scaling.low, scaling.high) == pytest.approx((low, high))


def test_a_random_point_of_a_bin_stays_in_the_bin() -> None:
    rng = np.random.default_rng(0)
    bins_R = np.arange(BINS)
    parameter = Parameter(name="x", type=ParameterType.DOUBLE, bounds=(-3.0, 8.0))
    numbers_R = quantize.from_parameter_bins(parameter, bins_R, BINS, rng=rng)
    assert len(set(numbers_R.tolist())) == BINS
    np.testing.assert_array_equal(quantize.to_parameter_bins(parameter, numbers_R, BINS), bins_R)


@pytest.mark.parametrize("single", [False, True])
def test_values_near_the_largest_float_do_not_overflow(single: bool) -> None:
    values_R = np.array([1.7e308, -1.7e308, 0.0])
    scaling = quantize.fit_scaling(values_R, 1.0, single=single)
    np.testing.assert_allclose(scaling.to_units(values_R), [0.8, 0.2, 0.5], atol=1e-6)
