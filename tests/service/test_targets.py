"""A program as a target: what it is given, and what is refused before it runs."""

import sys
import threading
import time
from pathlib import Path

import pytest

from optformer.errors import ConfigError
from optformer.service.client import Measured
from optformer.service.space_format import TEXT, page
from optformer.service.targets import Space, command_target, function_target, read_space
from optformer.study import Condition, Goal, Metric, Parameter, ParameterType, Problem

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
SPACE = Space(problem=PROBLEM)
PYTHON = sys.executable


def test_values_are_single_words_and_inactive_parameters_are_empty() -> None:
    code = "import sys; print(len(sys.argv[1:]) * 100 + len(sys.argv[2]))"
    target = command_target(f"{PYTHON} -c '{code}' --kind={{kind}} '{{x}}'", SPACE)
    assert target.evaluate({"kind": "b c; exit 1"}).metrics == {"loss": 200.0}
    assert target.evaluate({"kind": "{x}", "x": 0.25}).metrics == {"loss": 204.0}


SPACE_FILE = """{"metrics": [{"name": "loss", "goal": "MINIMIZE"}], "parameters": [
 {"name": "batch size", "type": "DISCRETE", "values": [16, 32]},
 {"name": "lr", "type": "DISCRETE", "values": [1e-3, 0.10, 1]},
 {"name": "n", "type": "INTEGER", "bounds": [1, 9]},
 {"name": "flag", "type": "CATEGORICAL", "values": ["True", "1.0"]}]}"""


def test_values_are_passed_as_the_space_has_them(tmp_path: Path) -> None:
    """argparse's type=int takes 32 and refuses 32.0."""
    (tmp_path / "space.json").write_text(SPACE_FILE)
    space = read_space(tmp_path / "space.json")
    out = tmp_path / "words"
    code = f'import sys; open("{out}", "w").write(" ".join(sys.argv[1:])); print(1)'
    # A place with a space in its name needs no quotes.
    command = f"{PYTHON} -c '{code}' {{batch size}} {{lr}} {{n}} {{flag}} {{{{lr}}}} {{}} '{{a:b}}'"
    target = command_target(command, space)
    values = {"batch size": 32.0, "lr": 0.001, "n": 3, "flag": "1.0"}
    assert target.evaluate(values) == Measured(metrics={"loss": 1.0})
    assert out.read_text() == "32 1e-3 3 1.0 {lr} {} {a:b}"
    target.evaluate({**values, "lr": 0.1})
    assert out.read_text().split()[1] == "0.10"


COMMANDS = [
    ("train.py {kind}", "parameter 'x' has no place"),
    ("nonexistent-program {kind} {x}", "there is no program 'nonexistent-program'"),
    (f"{PYTHON} {{kind}} {{x}} {{knid}}", "{knid} in the command is not a parameter.*Did you mean"),
    (f"{PYTHON} {{kind}} {{x}} {{X }}", "is not a parameter; those are kind, x"),
    (f"{PYTHON} '{{kind}} {{x}}", "cannot be split: No closing quotation"),
    ("", "the command is empty"),
    ("/tmp {kind} {x}", "there is no program '/tmp' that can be run"),
]


@pytest.mark.parametrize(("command", "rule"), COMMANDS, ids=[row[1] for row in COMMANDS])
def test_commands_that_cannot_be_tuned_are_refused_before_they_run(command: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        command_target(command, SPACE)


@pytest.mark.parametrize(
    ("pattern", "rule"), [("(", "not a regular expression"), (r"loss=\S+", "needs a group")]
)
def test_a_bad_pattern_is_refused_before_anything_runs(pattern: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        command_target(f"{PYTHON} {{kind}} {{x}}", SPACE, metric_pattern=pattern)


def test_a_run_that_takes_too_long_fails_with_its_children(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import time; "
        "time.sleep(60)'])\nprint(1)\n"
    )
    target = command_target(f"{PYTHON} {tmp_path}/slow.py {{kind}} {{x}}", SPACE, timeout=1.0)
    began = time.monotonic()
    assert target.evaluate({"kind": "b"}).failure == "it took longer than --timeout 1 s."
    assert time.monotonic() - began < 30


def test_stopping_a_target_ends_what_runs() -> None:
    target = command_target(f"{PYTHON} -c 'import time; time.sleep(60)' {{kind}} {{x}}", SPACE)
    found: list[Measured] = []
    thread = threading.Thread(target=lambda: found.append(target.evaluate({"kind": "b"})))
    thread.start()
    while not found and thread.is_alive():
        target.stop()
        thread.join(0.05)
    assert found[0].failure.startswith("it ended with signal 9")


def test_a_failed_run_is_tried_again(tmp_path: Path) -> None:
    """What fails now and then, such as a full GPU, says nothing about the values."""
    script = tmp_path / "flaky.py"
    script.write_text(
        f"import pathlib\ncount = pathlib.Path(r'{tmp_path}/count')\n"
        "n = len(count.read_text()) if count.exists() else 0\ncount.write_text('x' * (n + 1))\n"
        "assert n >= 2\nprint(n)\n"
    )
    command = f"{PYTHON} {script} {{kind}} {{x}}"
    assert command_target(command, SPACE, retries=1).evaluate({"kind": "b"}).failure
    assert command_target(command, SPACE, retries=1).evaluate({"kind": "b"}).metrics == {"loss": 2}


def test_a_function_that_returns_none_or_nan_has_failed() -> None:
    results = iter([0.5, None, float("nan")])
    target = function_target(PROBLEM, lambda values: next(results))
    assert target.evaluate({}) == Measured(metrics={"loss": 0.5})
    assert target.evaluate({}).failure
    assert target.evaluate({}).failure == "the metric 'loss' is nan"


FILES = [
    (None, "there is no file"),
    ("{", "is not a search space: the text is not JSON"),
    ('{"metrics": [], "parameters": []}', "is not a search space"),
    ("[" * 100_000, "nested too deeply"),
    (b"\xff\xfe{", "cannot be read as a search space"),
    ('{"name": "a", "name": "b"}', "the key 'name' is there twice"),
    (SPACE_FILE.replace('"lr"', '"n"'), "parameter name 'n' is used twice"),
    (SPACE_FILE.replace("[16, 32]", "[32, 16]"), "must ascend"),
    (
        SPACE_FILE.replace('"goal": "MINIMIZE"}', '"goal": "MINIMIZE", "safety_threshold": 1}'),
        "must have one metric to optimize, but has none",
    ),
    (
        SPACE_FILE.replace("MINIMIZE", 'MINIMIZE"}, {"name": "acc", "goal": "MAXIMIZE'),
        "must have one metric to optimize, but has loss, acc",
    ),
]


@pytest.mark.parametrize(("text", "rule"), FILES, ids=[row[1] for row in FILES])
def test_a_bad_search_space_names_its_file(
    tmp_path: Path, text: str | bytes | None, rule: str
) -> None:
    path = tmp_path / "space.json"
    if isinstance(text, bytes):
        path.write_bytes(text)
    elif text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=rule) as refused:
        read_space(path)
    assert str(path) in str(refused.value)


def test_a_folder_is_no_search_space(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder, not a file with a search space"):
        read_space(tmp_path)


def test_the_example_of_the_documentation_is_a_search_space(tmp_path: Path) -> None:
    path = tmp_path / "space.json"
    lines = TEXT.splitlines()
    path.write_text("\n".join(lines[lines.index("    {") : lines.index("    }") + 1]))
    problem = read_space(path).problem
    assert {parameter.type for parameter in problem.parameters} == set(ParameterType)
    assert [metric.goal for metric in problem.metrics] == [Goal.MAXIMIZE, Goal.MINIMIZE]
    written = Path(__file__).parents[2] / "docs" / "space-format.md"
    assert written.read_text("utf-8") == page() + "\n", "run: optformer tune --describe-space"
