"""The contract of every policy: legal, reproducible, aware of what is pending."""

import dataclasses

import numpy as np
import pytest

from optformer import pyvizier
from optformer.errors import ConfigError, StudyError
from optformer.policies.acquisition import ACQUISITIONS
from optformer.policies.model import (
    OptFormer,
    PolicyConfig,
    Session,
    bin_probabilities,
    with_pending,
)
from optformer.study import Metric, Problem, State, Study, to_trials
from tests.studies import CONDITIONAL, MIXED, plane, random_study

SPACES = {"mixed": MIXED, "conditional": CONDITIONAL, "line": plane(1), "plane": plane(2)}


def policy(acquisition: str, **fields: object) -> PolicyConfig:
    return PolicyConfig(acquisition=acquisition, candidates=16, uniform=8, **fields)


@pytest.mark.parametrize("acquisition", ACQUISITIONS)
@pytest.mark.parametrize("space", SPACES)
def test_suggestions_are_legal_and_reproducible(
    model: OptFormer, space: str, acquisition: str
) -> None:
    problem = SPACES[space]
    for trials in (0, 7):
        study = random_study(problem, trials, np.random.default_rng(0))
        values_NP, again_NP, other_NP = (
            model.propose(study, 3, policy=policy(acquisition), seed=seed) for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(values_NP, again_NP)
        assert not np.array_equal(values_NP, other_NP)
        np.testing.assert_array_equal(problem.active(values_NP), ~np.isnan(values_NP))
        for column, parameter in enumerate(problem.parameters):
            for number in values_NP[:, column][~np.isnan(values_NP[:, column])]:
                assert parameter.to_number(parameter.from_number(number)) == number


def test_a_batch_on_a_continuous_space_has_no_repeats(model: OptFormer) -> None:
    study = random_study(plane(1), 5, np.random.default_rng(0))
    for acquisition in ("ei", "ts", "prior"):
        values_NP = model.propose(study, 8, policy=policy(acquisition), seed=0)
        assert len(np.unique(values_NP)) == 8


def test_discrete_points_are_not_repeated_while_there_are_others(model: OptFormer) -> None:
    problem = Problem(parameters=MIXED.parameters[2:], metrics=MIXED.metrics)
    study = random_study(problem, 0, np.random.default_rng(0))
    values_NP = model.propose(study, 9, policy=PolicyConfig(candidates=0, uniform=200), seed=0)
    assert len(np.unique(values_NP, axis=0)) == 9


def test_a_batch_equals_suggestions_one_by_one_with_the_others_pending(model: OptFormer) -> None:
    """Each suggestion of a batch sees those before it."""
    study = random_study(plane(2), 6, np.random.default_rng(0))
    batch_NP = model.propose(study, 2, policy=policy("mean"), seed=0)
    first_1P = model.propose(study, 1, policy=policy("mean"), seed=0)
    np.testing.assert_array_equal(batch_NP[:1], first_1P)
    pending = with_pending(study, batch_NP[0])
    assert pending.states_R[-1] == State.ACTIVE
    assert len(pending) == 7


def test_what_is_kept_of_a_study_does_not_change_what_is_suggested(model: OptFormer) -> None:
    """Trial by trial with a kept history, or all at once by a fresh session: the same."""
    study = random_study(plane(2), 12, np.random.default_rng(3))
    keys = [(study.problem, "gp_ucb")]
    kept = Session(model, keys)
    for trials in range(12):
        part = study.rows(slice(0, trials))
        settings = policy("mean")
        got = kept.propose([part], 1, settings, trials)[0]
        want = Session(model, keys).propose([part], 1, settings, trials)[0]
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_studies_of_different_shapes_go_together(model: OptFormer) -> None:
    rng = np.random.default_rng(0)
    studies = [random_study(MIXED, 5, rng), random_study(plane(1), 9, rng)]
    keys = [(study.problem, "gp_ucb") for study in studies]
    rows = Session(model, keys).propose(studies, 2, policy("ei"), 0)
    assert [row.shape for row in rows] == [(2, 4), (2, 1)]


def test_predictions_are_distributions_on_the_metrics_axis(model: OptFormer) -> None:
    study = random_study(plane(2), 9, np.random.default_rng(0))
    points_NP = np.random.default_rng(1).random((5, 2))
    probabilities_NQ, scaling = model.predict(study, points_NP)
    assert probabilities_NQ.shape == (5, 1000)
    assert (probabilities_NQ >= 0).all()
    # The rest is the chance that the trial is infeasible.
    assert (probabilities_NQ.sum(axis=1) <= 1 + 1e-9).all()
    np.testing.assert_allclose(scaling.from_units(np.array([0.2])), study.metrics_RM.min())
    np.testing.assert_allclose(scaling.from_units(np.array([0.8])), study.metrics_RM.max())


def test_a_higher_temperature_is_less_sure(model: OptFormer) -> None:
    logits_NO = np.random.default_rng(0).normal(size=(3, 1004)) * 3
    sharp, plain, flat = (
        bin_probabilities(logits_NO, model.tokenizer, temperature).max()
        for temperature in (0.5, 1.0, 4.0)
    )
    assert sharp > plain > flat


def test_viziers_types_go_in_and_out(model: OptFormer) -> None:
    study = random_study(CONDITIONAL, 6, np.random.default_rng(0))
    statement = pyvizier.problem_to_vizier(CONDITIONAL)
    trials = [
        pyvizier.trial_to_vizier(CONDITIONAL, trial, uid=index + 1)
        for index, trial in enumerate(to_trials(study))
    ]
    suggestions = model.suggest(statement, trials, 3, policy=policy("ei"), seed=0)
    assert len(suggestions) == 3
    for suggestion in suggestions:
        assert suggestion.parameters["kernel"].value in ("rbf", "poly", "linear")
        assert ("degree" in suggestion.parameters) == (
            suggestion.parameters["kernel"].value == "poly"
        )


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        (plane(36), "36 parameters; this model takes 35"),
        (
            dataclasses.replace(plane(1, "both"), metrics=(Metric(name="a"), Metric(name="b"))),
            r"'both' has the objectives \['a', 'b'\]",
        ),
    ],
)
def test_what_the_model_cannot_do_is_refused(model: OptFormer, problem: Problem, says: str) -> None:
    empty = Study(
        problem=problem,
        values_RP=np.zeros((0, len(problem.parameters))),
        metrics_RM=np.zeros((0, len(problem.metrics))),
        states_R=np.zeros(0, dtype=np.int8),
    )
    with pytest.raises(StudyError, match=says):
        model.propose(empty)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"candidates": 0}, "nothing to rank"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        PolicyConfig(**fields)
