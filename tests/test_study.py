"""Studies as columns: conversions, selection of rows, and rejected input."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optformer.errors import StudyError
from optformer.study import (
    Condition,
    Curves,
    Goal,
    Metric,
    Parameter,
    ParameterType,
    Problem,
    Scale,
    State,
    Study,
    Trial,
    from_trials,
    to_trials,
    validate,
)
from tests.studies import CONDITIONAL, MIXED, assert_same_curves, random_curves, random_study
from tests.tokenization.spaces import studies

X = Parameter(name="x", type=ParameterType.DOUBLE, bounds=(0.0, 1.0))


@settings(max_examples=100, deadline=None)
@given(study=studies())
def test_a_study_equals_the_study_of_its_trials(study: Study) -> None:
    again = from_trials(study.problem, to_trials(study))
    np.testing.assert_array_equal(again.values_RP, study.values_RP)
    np.testing.assert_array_equal(again.metrics_RM, study.metrics_RM)
    np.testing.assert_array_equal(again.states_R, study.states_R)
    validate(again)


def test_rows_selects_every_column_alike() -> None:
    study = random_study(MIXED, 6, np.random.default_rng(0))
    study = dataclasses.replace(
        study,
        notes=tuple({"row": str(row)} for row in range(6)),
        predictive_R2=np.arange(12.0).reshape(6, 2),
    )
    for rows in (slice(1, 4), [4, 0], np.array([False, True] * 3)):
        part = study.rows(rows)
        index = np.arange(6)[rows]
        np.testing.assert_array_equal(part.values_RP, study.values_RP[index])
        np.testing.assert_array_equal(part.predictive_R2, study.predictive_R2[index])
        assert [note["row"] for note in part.notes] == [str(row) for row in index]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_curves_go_with_their_trials(seed: int) -> None:
    rng = np.random.default_rng(seed)
    study = random_study(MIXED, 6, rng)
    curves = random_curves(6, len(MIXED.metrics), rng)
    study = dataclasses.replace(study, curves=curves)
    index = rng.integers(0, 6, 5)  # some of them twice, in any order
    part = study.rows(index)
    assert part.curves is not None
    for row, trial in enumerate(index):
        ours, theirs = part.curves.trial_C == row, curves.trial_C == trial
        np.testing.assert_array_equal(part.curves.step_C[ours], curves.step_C[theirs])
        np.testing.assert_array_equal(part.curves.values_CM[ours], curves.values_CM[theirs])
    again = from_trials(MIXED, to_trials(study))
    assert_same_curves(again.curves, study.rows(slice(None)).curves)


def test_curves_of_other_trials_or_metrics_are_rejected() -> None:
    study = random_study(MIXED, 3, np.random.default_rng(0))
    metrics = len(MIXED.metrics)
    curves = Curves(
        trial_C=np.array([0, 3], np.int32), step_C=np.ones(2), values_CM=np.ones((2, metrics))
    )
    with pytest.raises(StudyError, match=r"a curve of trial 3 \(from 0\), but it has 3 trials"):
        dataclasses.replace(study, curves=curves)
    wide = dataclasses.replace(curves, values_CM=np.ones((2, metrics + 1)))
    with pytest.raises(StudyError, match=f"curves of {metrics + 1} metrics"):
        dataclasses.replace(study, curves=wide)


def test_the_objective_is_maximized_and_only_completed_trials_have_one() -> None:
    problem = Problem(
        parameters=(X,),
        metrics=(
            Metric(name="memory", safety_threshold=8.0),  # a constraint
            Metric(name="loss", goal=Goal.MINIMIZE),
        ),
    )
    study = Study(
        problem=problem,
        values_RP=np.full((3, 1), 0.5),
        metrics_RM=np.array([[1.0, 3.0], [1.0, 4.0], [1.0, 5.0]]),
        states_R=np.array([State.COMPLETED, State.INFEASIBLE, State.ACTIVE], np.int8),
    )
    np.testing.assert_array_equal(study.objective(), [-3.0, np.nan, np.nan])


def test_children_are_active_with_their_parents_values() -> None:
    kernels = CONDITIONAL.parameters[0]
    values_RP = np.array([[kernels.to_number(k), 1.0, 3.0] for k in ("rbf", "poly", "linear")])
    assert CONDITIONAL.active(values_RP).tolist() == [
        [True, True, False],
        [True, True, True],
        [True, False, False],
    ]


def test_values_near_a_bound_are_rounded_to_it_and_others_rejected() -> None:
    lr = Parameter(name="lr", type=ParameterType.DOUBLE, scale=Scale.LOG, bounds=(1e-4, 0.3))
    assert lr.to_number(0.3000001) == 0.3  # a log with seven digits
    assert lr.to_number("0.01") == 0.01
    with pytest.raises(StudyError, match=r"lr=0.31 lies outside \[0.0001, 0.3\]"):
        lr.to_number(0.31)
    width = Parameter(name="width", type=ParameterType.DISCRETE, values=(0.1, 0.2))
    assert width.to_number(np.float32(0.1).item()) == 0.1
    with pytest.raises(StudyError, match=r"width=0.15 is not one of \[0.1, 0.2\]"):
        width.to_number(0.15)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": "DOUBLE"}, "DOUBLE needs bounds and no values"),
        ({"type": "DOUBLE", "bounds": (1.0, 0.0)}, "must be finite numbers, the lower first"),
        ({"type": "INTEGER", "bounds": (0.5, 2.0)}, "must be whole numbers"),
        ({"type": "DOUBLE", "bounds": (0.0, 1.0), "scale": Scale.LOG}, "needs positive bounds"),
        ({"type": "DISCRETE", "values": (2.0, 1.0)}, "must ascend"),
        ({"type": "CATEGORICAL", "values": ("a", "a")}, "repeat"),
        ({"type": "CATEGORICAL"}, "needs at least one value"),
    ],
)
def test_inconsistent_parameters_are_rejected(fields: dict, message: str) -> None:
    fields = {**fields, "type": ParameterType[fields["type"]]}
    with pytest.raises(StudyError, match=f"parameter 'p': .*{message}"):
        Parameter(name="p", **fields)


def test_inconsistent_problems_are_rejected() -> None:
    metrics = (Metric(name="y"),)
    child = dataclasses.replace(X, name="c", conditions=(Condition(parent="x", values=(0.5,)),))
    with pytest.raises(StudyError, match="parameter name 'x' is used twice"):
        Problem(parameters=(X, X), metrics=metrics)
    with pytest.raises(StudyError, match="'c' depends on 'x', which is not listed before it"):
        Problem(parameters=(child, X), metrics=metrics)
    with pytest.raises(StudyError, match="has no metrics"):
        Problem(parameters=(X,), metrics=())


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        (Trial(parameters={"x": 0.5, "z": 1}, metrics={"y": 1.0}), "'z' is not in the search"),
        (Trial(parameters={}, metrics={"y": 1.0}), "parameter 'x' is missing"),
        (Trial(parameters={"x": 2.0}, metrics={"y": 1.0}), r"x=2.0 lies outside \[0.0, 1.0\]"),
        (Trial(parameters={"x": 0.5}), "metric 'y' is nan, but the trial is completed"),
    ],
)
def test_a_bad_trial_is_named_by_its_number(trial: Trial, message: str) -> None:
    problem = Problem(name="s", parameters=(X,), metrics=(Metric(name="y"),))
    good = Trial(parameters={"x": 0.5}, metrics={"y": 1.0})
    with pytest.raises(StudyError, match=f"study 's', trial 2: .*{message}"):
        from_trials(problem, [good, trial])
