"""What failed and what broke a constraint is learned, and nothing where there is nothing."""

import dataclasses

import numpy as np
import pytest

from optformer.model.points import Coordinates, Points
from optformer.policies.feasibility import Feasibility, margins
from optformer.study import Goal, Metric, Problem, State, Study
from optformer.tokenization.tokenizer import StudyTokenizer
from tests.studies import CONDITIONAL, MIXED, plane, random_study

TOKENIZER = StudyTokenizer()


def learned(study: Study) -> tuple[Feasibility, Coordinates]:
    encoded = TOKENIZER.encode_problem(study.problem, "")
    made = Coordinates(problem=encoded, tokenizer=TOKENIZER)
    trials = made.of_values(study.values_RP)
    return Feasibility.of(study, trials, encoded.ordered_P, TOKENIZER.vocabulary.bins), made


def failing(study: Study, failed_R: np.ndarray) -> Study:
    states_R = np.where(failed_R, State.INFEASIBLE, State.COMPLETED).astype(np.int8)
    metrics_RM = np.where(failed_R[:, None], np.nan, study.metrics_RM)
    return dataclasses.replace(study, states_R=states_R, metrics_RM=metrics_RM)


def anywhere(made: Coordinates, count: int = 400) -> Points:
    rng = np.random.default_rng(1)
    return made.of_units(rng.random((count, len(made.problem.problem.parameters))))


@pytest.mark.parametrize("problem", [MIXED, CONDITIONAL, plane(3)], ids=lambda each: each.name)
def test_where_nothing_failed_everything_works(problem: Problem) -> None:
    study = random_study(problem, 8, np.random.default_rng(0))
    for trials in (0, 8):
        feasibility, made = learned(study.rows(slice(trials)))
        np.testing.assert_array_equal(feasibility.probability(anywhere(made)), 1.0)


@pytest.mark.parametrize("parameters", [1, 2, 6])
def test_a_failing_half_is_told_from_the_other(parameters: int) -> None:
    study = random_study(plane(parameters), 30, np.random.default_rng(2))
    feasibility, made = learned(failing(study, study.values_RP[:, 0] > 0.6))
    points = anywhere(made)
    chance_N = feasibility.probability(points)
    assert ((chance_N > 0) & (chance_N < 1)).all()
    fails_N = points.values_NP[:, 0] > 0.6
    # Of a pair, the one that works is said to work more likely than the other.
    assert (chance_N[~fails_N][:, None] > chance_N[fails_N]).mean() > 0.95


def test_a_failing_category_is_told_from_the_others() -> None:
    study = random_study(MIXED, 20, np.random.default_rng(3))
    feasibility, made = learned(failing(study, study.values_RP[:, 3] == 1))
    points = anywhere(made)
    chance_N = feasibility.probability(points)
    assert np.median(chance_N[points.values_NP[:, 3] == 1]) < 0.2
    assert np.median(chance_N[points.values_NP[:, 3] != 1]) > 0.6


def test_a_search_in_which_nothing_worked_is_drawn_away_from_its_failures() -> None:
    study = random_study(plane(2), 12, np.random.default_rng(4))
    low = dataclasses.replace(study, values_RP=0.4 * study.values_RP)
    feasibility, made = learned(failing(low, np.ones(12, bool)))
    points = anywhere(made)
    best_P = points.units_NP[feasibility.probability(points).argmax()]
    assert best_P.max() > 0.8


def limited(trials: int) -> Study:
    """`load` is x0 + x1 and may be 0.7 at most; it stands before the objective."""
    problem = dataclasses.replace(
        plane(2),
        metrics=(
            Metric(name="load", goal=Goal.MINIMIZE, safety_threshold=0.7),
            Metric(name="y"),
        ),
    )
    values_RP = np.random.default_rng(5).random((trials, 2))
    return Study(
        problem=problem,
        values_RP=values_RP,
        metrics_RM=np.column_stack([values_RP.sum(1), values_RP[:, 0]]),
        states_R=np.zeros(trials, np.int8),
    )


def test_a_constraint_is_predicted_from_its_metric() -> None:
    study = limited(15)
    np.testing.assert_allclose(margins(study)[:, 0], 0.7 - study.values_RP.sum(1))
    feasibility, made = learned(study)
    points = anywhere(made)
    sum_N = points.values_NP.sum(1)
    chance_N = feasibility.probability(points)
    assert (chance_N[sum_N < 0.6] > 0.8).all()
    assert (chance_N[sum_N > 0.8] < 0.2).all()


def test_a_broken_or_unknown_constraint_is_not_kept() -> None:
    study = limited(3)
    study.metrics_RM[:, 0] = [0.7, 0.71, np.nan]
    assert (margins(study)[:, 0] >= 0).tolist() == [True, False, False]
