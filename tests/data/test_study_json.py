"""A problem written as JSON is the problem that is read back."""

import json

from optformer.data.study_json import problem_from_json, problem_to_json
from tests.data.test_store import odd, plain


def test_problems_survive_json() -> None:
    for problem in (odd().problem, plain("x").problem):
        assert problem_from_json(json.loads(json.dumps(problem_to_json(problem)))) == problem


def test_bools_stand_for_their_categories() -> None:
    document = problem_to_json(odd().problem)
    written = json.dumps(document).replace('["False", "True"]', "[false, true]")
    assert problem_from_json(json.loads(written)) == odd().problem
