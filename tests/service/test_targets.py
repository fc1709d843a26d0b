"""A program as a target: what it is given, and what counts as its metric."""

import sys
from pathlib import Path

import pytest

from optformer.errors import ConfigError
from optformer.service.targets import command_target, read_space
from optformer.study import Condition, Metric, Parameter, ParameterType, Problem

PROBLEM = Problem(
    name="program",
    metrics=(Metric(name="loss"),),
    parameters=(
        Parameter(name="kind", type=ParameterType.CATEGORICAL, values=("a", "b")),
        Parameter(
            name="x",
            type=ParameterType.DOUBLE,
            bounds=(-1.0, 1.0),
            conditions=(Condition(parent="kind", values=("a",)),),
        ),
    ),
)
PRINTED = {
    "0.5": 0.5,
    "epoch 3: loss -1.5e-3": -1.5e-3,
    "1\n.25": 0.25,
    "7.": 7.0,
    "nan": None,  # no finite number: infeasible
    "loss inf": None,
    "5 banana": 5.0,  # not the nan in it
}


@pytest.mark.parametrize("printed", PRINTED)
def test_the_last_number_that_a_program_prints_is_the_metric(printed: str) -> None:
    code = f"print({printed!r})".replace("'", '"')
    target = command_target(f"{sys.executable} -c '{code}' {{kind}} {{x}}", PROBLEM)
    assert target.evaluate({"kind": "a", "x": 0.5}) == PRINTED[printed]


def test_values_are_single_words_and_inactive_parameters_are_empty() -> None:
    code = "import sys; print(len(sys.argv[1:]), len(sys.argv[2]))"
    target = command_target(f"{sys.executable} -c '{code}' --kind={{kind}} '{{x}}'", PROBLEM)
    assert target.evaluate({"kind": "b c; exit 1"}) == 0.0
    assert target.evaluate({"kind": "{x}", "x": 0.25}) == 4.0


@pytest.mark.parametrize(
    ("command", "rule"),
    [
        ("train.py {kind}", "parameter 'x' has no place"),
        ("nonexistent-program {kind} {x}", "cannot run 'nonexistent-program'"),
        (f"{sys.executable} -c pass {{kind}} {{x}}", "printed no number"),
    ],
)
def test_commands_that_cannot_be_tuned_are_refused(command: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        command_target(command, PROBLEM).evaluate({"kind": "a", "x": 0.5})


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (None, "there is no file"),
        ("{", "is not a search space"),
        ('{"metrics": [], "parameters": []}', "is not a search space"),
    ],
)
def test_a_bad_search_space_names_its_file(tmp_path: Path, text: str | None, rule: str) -> None:
    path = tmp_path / "space.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=rule) as refused:
        read_space(path)
    assert str(path) in str(refused.value)
