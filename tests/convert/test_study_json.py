"""Problems and trials as JSON."""

import json

from optformer.convert.study_json import problem_from_json, problem_to_json, trials_from_json
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
