"""Points say the same in all their forms."""

import numpy as np
import pytest

from optformer.model.points import INACTIVE, Coordinates, joined
from optformer.study import Problem
from optformer.tokenization.tokenizer import StudyTokenizer
from tests.studies import CONDITIONAL, MIXED, plane
from tests.tokenization.released import released_tokenizer

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
    for again in (
        made.of_values(points.values_NP),
        made.of_ids(points.ids_NK),
        made.of_units(np.nan_to_num(points.units_NP, nan=0.5)),
    ):
        np.testing.assert_array_equal(again.ids_NK, points.ids_NK)
        np.testing.assert_allclose(again.values_NP, points.values_NP, rtol=1e-12)
        np.testing.assert_allclose(again.units_NP, points.units_NP, atol=1e-12)


@pytest.mark.parametrize("problem", SPACES, ids=lambda each: each.name)
def test_what_a_point_lacks_is_missing_in_every_form(problem: Problem) -> None:
    made = coordinates(problem)
    points = made.of_units(np.random.default_rng(3).random((40, len(problem.parameters))))
    lacks_NP = np.isnan(points.values_NP)
    np.testing.assert_array_equal(np.isnan(points.units_NP), lacks_NP)
    order_P = made.problem.order_P
    np.testing.assert_array_equal(points.inputs_NK == INACTIVE, lacks_NP[:, order_P])
    near_NK = np.abs(points.inputs_NK - points.units_NP[:, order_P])
    assert np.nanmax(near_NK) <= 0.5 / made.tokenizer.vocabulary.bins + 1e-9


def test_a_parameter_without_a_token_keeps_its_value() -> None:
    """The released format has none for parameters of one value."""
    made = coordinates(MIXED, released_tokenizer())
    points = made.of_units(np.random.default_rng(4).random((20, len(MIXED.parameters))))
    again = made.of_ids(points.ids_NK)
    np.testing.assert_array_equal(again.values_NP, points.values_NP)


def test_unique_rows_have_all_tokens_once() -> None:
    points = coordinates(MIXED).of_units(np.random.default_rng(5).random((30, 4)))
    twice = joined([points, points])
    once = twice.rows(twice.unique())
    assert len(once) == len(np.unique(points.ids_NK, axis=0))
    assert {row.tobytes() for row in once.ids_NK} == {row.tobytes() for row in points.ids_NK}
