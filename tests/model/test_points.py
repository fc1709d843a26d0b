"""Points say the same in all their forms."""

import numpy as np
import pytest

from optformer.model.points import INACTIVE, Coordinates, joined
from optformer.study import Metric, Parameter, ParameterType, Problem, Scale
from optformer.tokenization.tokenizer import StudyTokenizer
from tests.studies import CONDITIONAL, MIXED, plane
from tests.tokenization.released import released_tokenizer

BINS = 1000
SPACES = [MIXED, CONDITIONAL, plane(3)]


def coordinates(problem: Problem, tokenizer: StudyTokenizer | None = None) -> Coordinates:
    tokenizer = tokenizer or StudyTokenizer()
    return Coordinates(problem=tokenizer.encode_problem(problem, ""), tokenizer=tokenizer)


@pytest.mark.parametrize("problem", SPACES, ids=lambda each: each.name)
def test_points_of_the_unit_cube_are_legal_and_come_back(problem: Problem) -> None:
    made = coordinates(problem)
    units_NP = np.random.default_rng(2).random((50, len(problem.parameters)))
    points = made.of_units(units_NP)
    np.testing.assert_array_equal(problem.active(points.values_NP), ~np.isnan(points.values_NP))
    legal = made.tokenizer.legal_tokens(made.problem)
    for column, allowed_O in enumerate(legal.tokens_PO):
        given_N = points.ids_NK[:, column] != legal.inactive
        assert allowed_O[points.ids_NK[given_N, column]].all()
    again = made.of_units(np.nan_to_num(points.units_NP, nan=0.5))
    np.testing.assert_array_equal(again.ids_NK, points.ids_NK)
    np.testing.assert_allclose(again.values_NP, points.values_NP, rtol=1e-12)
    # Tokens say it but for the place in a bin.
    for rng in (None, np.random.default_rng(0)):
        said = made.of_ids(points.ids_NK, rng)
        np.testing.assert_array_equal(made.of_values(said.values_NP).ids_NK, points.ids_NK)
        assert np.nanmax(np.abs(said.units_NP - points.units_NP)) <= 1.001 / BINS


@pytest.mark.parametrize("problem", SPACES, ids=lambda each: each.name)
def test_what_a_point_lacks_is_missing_in_every_form(problem: Problem) -> None:
    made = coordinates(problem)
    points = made.of_units(np.random.default_rng(3).random((40, len(problem.parameters))))
    lacks_NP = np.isnan(points.values_NP)
    np.testing.assert_array_equal(np.isnan(points.units_NP), lacks_NP)
    order_P = made.problem.order_P
    np.testing.assert_array_equal(points.inputs_NK == INACTIVE, lacks_NP[:, order_P])
    seen_NK = np.where(np.isnan(points.units_NP), INACTIVE, points.units_NP)[:, order_P]
    np.testing.assert_array_equal(points.inputs_NK, seen_NK)


def test_a_parameter_without_a_token_keeps_its_value() -> None:
    """The released format has none for parameters of one value."""
    fixed = Parameter(name="fixed", type=ParameterType.DISCRETE, values=(7.0,))
    problem = Problem(parameters=(fixed, *MIXED.parameters), metrics=MIXED.metrics)
    made = coordinates(problem, released_tokenizer())
    points = made.of_units(np.random.default_rng(4).random((20, len(problem.parameters))))
    again = made.of_ids(points.ids_NK)
    assert points.ids_NK.shape == (20, len(MIXED.parameters))
    for each in (points, again):
        np.testing.assert_array_equal(each.values_NP[:, 0], 7.0)
    np.testing.assert_array_equal(again.values_NP[:, 2:], points.values_NP[:, 2:])


def test_unique_rows_have_all_points_once() -> None:
    points = coordinates(MIXED).of_units(np.random.default_rng(5).random((30, 4)))
    twice = joined([points, points])
    once = twice.rows(twice.unique())
    assert len(once) == len(np.unique(points.values_NP, axis=0))
    assert {row.tobytes() for row in once.values_NP} == {row.tobytes() for row in points.values_NP}


MANY = [
    Parameter(name="n", type=ParameterType.INTEGER, bounds=(0, 10_000)),
    Parameter(name="n", type=ParameterType.INTEGER, bounds=(1, 50_000), scale=Scale.LOG),
    Parameter(name="n", type=ParameterType.DISCRETE, values=tuple(float(k) for k in range(3000))),
]


@pytest.mark.parametrize("parameter", MANY, ids=["linear", "log", "discrete"])
def test_more_values_than_bins_are_all_reached(parameter: Parameter) -> None:
    """From the cube, and from tokens, which choose a bin only."""
    problem = Problem(parameters=(parameter,), metrics=(Metric(name="y"),))
    made = coordinates(problem)
    values_R = np.array(parameter.values or np.arange(*parameter.bounds) + 0.0)[-3000:]
    points = made.of_values(values_R[:, None])
    np.testing.assert_array_equal(made.of_units(points.units_NP).values_NP, points.values_NP)
    rng = np.random.default_rng(0)
    few = points.rows(np.arange(40))
    drawn = {
        float(value) for _ in range(400) for value in made.of_ids(few.ids_NK, rng).values_NP[:, 0]
    }
    assert set(few.values_NP[:, 0].tolist()) <= drawn
    assert all(parameter.to_number(parameter.from_number(value)) == value for value in drawn)
