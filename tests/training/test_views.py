"""Views of real studies: other names and ranges, the same facts."""

import dataclasses

import numpy as np
import pytest

from optformer.model import description
from optformer.space import to_natural
from optformer.study import (
    Condition,
    Goal,
    Metric,
    Parameter,
    ParameterType,
    Problem,
    Scale,
    State,
    Study,
)
from optformer.training import views
from optformer.training.views import ViewConfig

PARAMETERS = (
    Parameter(name="kernel", type=ParameterType.CATEGORICAL, values=("linear", "rbf")),
    Parameter(name="cost", type=ParameterType.DOUBLE, scale=Scale.LOG, bounds=(1e-3, 1e3)),
    Parameter(
        name="gamma",
        type=ParameterType.DOUBLE,
        scale=Scale.LOG,
        bounds=(1e-4, 10.0),
        conditions=(Condition(parent="kernel", values=("rbf",)),),
    ),
    Parameter(name="max_iter", type=ParameterType.INTEGER, bounds=(1, 50)),
)
NEVER = dict.fromkeys(
    (
        "rename",
        "prefix",
        "narrow",
        "drop",
        "permute",
        "title",
        "metric",
        "hidden",
        "wrong",
        "normalized",
    ),
    0.0,
)


def a_study(goal: Goal = Goal.MAXIMIZE, trials: int = 400) -> Study:
    """The metric is the logarithm of the cost, and half of that of gamma."""
    metric = Metric(name="accuracy", goal=goal)
    problem = Problem(
        parameters=PARAMETERS, metrics=(metric,), name="svm/3", title="svm on abalone 183"
    )
    units_RP = np.random.default_rng(0).random((trials, len(PARAMETERS)))
    values_RP = to_natural(PARAMETERS, units_RP)
    values_RP = np.where(problem.active(values_RP), values_RP, np.nan)
    worth_R = np.log(values_RP[:, 1]) + 0.5 * np.log(np.nan_to_num(values_RP[:, 2], nan=1.0))
    return Study(
        problem=problem,
        values_RP=values_RP,
        metrics_RM=metric.sign * worth_R[:, None],
        states_R=np.full(trials, State.COMPLETED, np.int8),
    )


@pytest.mark.parametrize("goal", list(Goal))
def test_a_score_is_zero_at_the_median_and_one_at_the_best(goal: Goal) -> None:
    score_R = views.score(a_study(goal).objective())
    assert np.median(score_R) == pytest.approx(0.0, abs=1e-9)
    assert score_R.max() == pytest.approx(1.0)
    assert score_R.min() >= -2.0
    order_R = np.argsort(a_study(goal).objective())
    assert (np.diff(score_R[order_R]) >= 0).all()


def test_a_trial_without_a_value_is_among_the_worst() -> None:
    score_R = views.score(np.array([0.0, 1.0, 2.0, np.nan]))
    assert score_R[3] == score_R.min()


def test_what_a_view_says_of_a_trial_is_true() -> None:
    """Whatever is renamed, narrowed or permuted: values and their scores belong together."""
    changes = dict.fromkeys(("changed", "rename", "narrow", "permute"), 1.0)
    config = ViewConfig(**NEVER | changes)
    for seed in range(20):
        view = views.view(a_study(), 60, 6, config, np.random.default_rng(seed))
        worth_N = np.log(view.values_NP[:, 1]) + 0.5 * np.log(
            np.where(view.inactive_NP[:, 2], 1.0, view.values_NP[:, 2])
        )
        order_N = np.argsort(worth_N)
        assert (np.diff(view.score_N[order_N]) >= -1e-5).all()
        assert view.inactive_NP[:, 4:].all()
        assert ((view.units_NP >= 0) & (view.units_NP <= 1)).all()
        # A category keeps its meaning: gamma is active where the kernel is rbf.
        rbf = np.flatnonzero((view.text.categories_PCW[0] == description.words("rbf", 8)).all(-1))
        np.testing.assert_array_equal(view.values_NP[:, 0] == rbf, ~view.inactive_NP[:, 2])


def test_the_name_of_a_data_set_is_never_shown() -> None:
    known = set(description.words("abalone", 64)) - {0}
    for seed in range(30):
        view = views.view(a_study(), 10, 4, ViewConfig(), np.random.default_rng(seed))
        # Single words may share a number with one of these.
        assert len(known & set(view.text.title_W)) < len(known) / 2


def test_a_hidden_view_has_no_word() -> None:
    config = ViewConfig(**NEVER | {"changed": 1.0, "hidden": 1.0})
    view = views.view(a_study(), 10, 4, config, np.random.default_rng(0))
    assert not view.text.names_PW.any()
    assert not view.text.title_W.any()


def test_names_kept_for_evaluation_are_never_trained_on() -> None:
    config = ViewConfig(**NEVER | {"changed": 1.0, "rename": 1.0})
    share = config.held_out
    kept = {n for names in views.synonyms().values() for n in names if views.is_held_out(n, share)}
    assert len(kept) >= 10
    originals = {tuple(description.words(one.name, 20)) for one in PARAMETERS}
    forbidden = {tuple(description.words(name, 20)) for name in kept} - originals
    for seed in range(100):
        view = views.view(a_study(), 10, 4, config, np.random.default_rng(seed))
        assert not forbidden & {tuple(row) for row in view.text.names_PW}


def test_a_tuned_optimum_stands_first_among_random_configurations() -> None:
    study = a_study().rows([5])
    view = views.view(study, 20, 4, ViewConfig(), np.random.default_rng(0))
    assert view.optimum
    again = views.plain(study, 20, 4, np.random.default_rng(1))
    np.testing.assert_allclose(
        again.values_NP[0], np.nan_to_num(study.values_RP[0]).astype(np.float32)
    )
    assert len(np.unique(again.values_NP[:, 1])) == 20


def test_studies_that_teach_nothing_are_told() -> None:
    study = a_study()
    assert views.is_useful(study)
    assert not views.is_useful(study.rows(slice(0, 20)))
    flat = dataclasses.replace(study, metrics_RM=np.ones((len(study), 1)))
    assert not views.is_useful(flat)


def test_a_normalized_view_shows_where_values_are_in_their_range() -> None:
    config = ViewConfig(**NEVER | {"changed": 1.0, "normalized": 1.0})
    view = views.view(a_study(), 60, 4, config, np.random.default_rng(0))
    np.testing.assert_allclose(
        view.values_NP[:, 1:],
        np.where(view.inactive_NP[:, 1:], 0.0, view.units_NP[:, 1:]),
        atol=1e-6,
    )
    assert len(np.unique(view.values_NP[:, 0])) == 2
