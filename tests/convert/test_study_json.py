"""Problems and trials as JSON."""

import json

import pytest

from optformer.convert.study_json import (
    problem_from_json,
    problem_to_json,
    trial_to_json,
    trials_from_json,
)
from optformer.errors import StudyError
from optformer.study import Measurement, Trial
from tests.data.test_store import odd, plain


def test_problems_survive_json() -> None:
    for problem in (odd().problem, plain("x").problem):
        assert problem_from_json(json.loads(json.dumps(problem_to_json(problem)))) == problem


def test_bools_are_read_as_categories() -> None:
    document = problem_to_json(odd().problem)
    written = json.dumps(document).replace('["False", "True"]', "[false, true]")
    assert problem_from_json(json.loads(written)) == odd().problem


def test_notes_of_other_types_are_dropped() -> None:
    problem = plain("x").problem
    trial = {"parameters": {"x": 0.5}, "metrics": {"y": 1.0}}
    for notes, kept in (
        ({"host": "a7", "epoch": 3, "log": [1]}, {"host": "a7", "epoch": "3"}),
        ("diverged", {}),
        (None, {}),
    ):
        assert trials_from_json(problem, [{**trial, "notes": notes}])[0].notes == kept
    assert trials_from_json(problem, [{**trial, "note": "a word like it"}])[0].notes == {}


def test_trials_with_curves_survive_json() -> None:
    problem = plain("x").problem
    curve = (Measurement(step=1, metrics={"y": 0.25}), Measurement(step=10, metrics={}))
    trials = [Trial(parameters={"x": 0.5}, metrics={"y": 1.0}, curve=curve)]
    written = json.loads(json.dumps([trial_to_json(trial) for trial in trials]))
    assert trials_from_json(problem, written) == trials


def test_a_measurement_without_its_step_is_refused() -> None:
    trial = {"parameters": {"x": 0.5}, "metrics": {"y": 1.0}, "curve": [{"metrics": {"y": 1.0}}]}
    with pytest.raises(StudyError, match="trial 1: a measurement's step: None is not a number"):
        trials_from_json(plain("x").problem, [trial])
