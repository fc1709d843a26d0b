"""Search spaces as unit cubes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optformer import space
from optformer.space import Spaces
from optformer.study import Parameter, ParameterType, Problem, Scale
from tests.studies import MIXED
from tests.tokenization.spaces import problems


@pytest.mark.parametrize(
    ("parameter", "numbers", "units"),
    [
        # Ends and the geometric middle; REVERSE_LOG is the mirror image.
        (("DOUBLE", Scale.LOG, (0.01, 100.0)), [0.01, 1.0, 100.0], [0.0, 0.5, 1.0]),
        (("DOUBLE", Scale.LINEAR, (-1.0, 3.0)), [-1.0, 1.0, 3.0], [0.0, 0.5, 1.0]),
        (("DOUBLE", Scale.REVERSE_LOG, (1.0, 100.0)), [1.0, 91.0, 100.0], [0.0, 0.5, 1.0]),
        # Integers lie at the centres of equal parts.
        (("INTEGER", Scale.LINEAR, (0, 3)), [0.0, 1.0, 2.0, 3.0], [0.125, 0.375, 0.625, 0.875]),
        # The widest range of floats, and ranges without width.
        (("DOUBLE", Scale.LINEAR, (-1.7e308, 1.7e308)), [-1.7e308, 0.0], [0.0, 0.5]),
        (("DOUBLE", Scale.LINEAR, (2.0, 2.0)), [2.0], [0.5]),
        (("DOUBLE", Scale.LINEAR, (0.0, 5e-324)), [0.0], [0.5]),
        # Neighbouring floats whose logarithms are equal.
        (("DOUBLE", Scale.LOG, (1e-300, 1.0000000000000002e-300)), [1e-300], [0.5]),
    ],
)
def test_scales_map_known_values(
    parameter: tuple, numbers: list[float], units: list[float]
) -> None:
    kind, scale, bounds = parameter
    scaled = Parameter(name="x", type=ParameterType[kind], scale=scale, bounds=bounds)
    np.testing.assert_allclose(space.column_to_units(scaled, np.array(numbers)), units, atol=1e-12)
    back = space.column_from_units(scaled, np.array(units))
    np.testing.assert_allclose(back, numbers, rtol=1e-9, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(problem=problems(), seed=st.integers(0, 2**32))
def test_any_point_of_the_cube_becomes_legal_values(problem: Problem, seed: int) -> None:
    units_NP = np.random.default_rng(seed).random((10, len(problem.parameters)))
    values_NP = space.to_natural(problem.parameters, units_NP)
    for parameter, values_N in zip(problem.parameters, values_NP.T, strict=True):
        assert [parameter.to_number(parameter.from_number(v)) for v in values_N] == list(values_N)


def test_units_of_values_are_the_snapped_units() -> None:
    units_NP = np.random.default_rng(0).random((50, len(MIXED.parameters)))
    values_NP = space.to_natural(MIXED.parameters, units_NP)
    snapped_NP = Spaces.of(MIXED.parameters).snap(units_NP[None])[0]
    np.testing.assert_allclose(space.to_units(MIXED.parameters, values_NP), snapped_NP, atol=1e-12)


def test_snapping_clips_and_does_not_move_legal_points() -> None:
    spaces = Spaces.of(MIXED.parameters, studies=2)
    snapped_BNP = spaces.snap(np.random.default_rng(0).uniform(-0.5, 1.5, (2, 30, 4)))
    assert ((snapped_BNP >= 0) & (snapped_BNP <= 1)).all()
    np.testing.assert_array_equal(spaces.snap(snapped_BNP), snapped_BNP)
    assert [len(np.unique(snapped_BNP[..., column])) for column in (1, 2, 3)] == [7, 3, 3]


def test_categories_have_no_order_and_a_single_value_is_fixed() -> None:
    assert Spaces.of(MIXED.parameters).ordered_BP.tolist() == [[True, True, True, False]]
    assert not any(map(space.is_fixed, MIXED.parameters))
    one = Parameter(name="x", type=ParameterType.CATEGORICAL, values=("only",))
    assert space.is_fixed(one) and space.number_of_levels(one) == 1


def test_the_trust_radius_grows_until_it_covers_the_cube() -> None:
    radius_N = space.trust_radius(np.arange(40), 3)
    assert radius_N[0] == 0.2
    inside_N = radius_N < 2
    assert (np.diff(radius_N) >= 0).all() and radius_N[inside_N].max() <= 0.5
    assert (radius_N[~inside_N] == 2).all() and not inside_N[-1]
