"""What programs print as people write them, and the metric that is read from it.

Each row says why it is there. A failed trial has a reason that names the line or the status.
"""

import sys

import pytest

from optformer.service.printed import UnreadableError, metrics_in
from optformer.service.targets import Space, command_target
from optformer.study import Metric, Parameter, ParameterType, Problem

# What is printed, what the metric `loss` is (or a part of the reason), and why the row is there.
PRINTED: list[tuple[str, float | str, str]] = [
    ("0.5", 0.5, "a number alone"),
    ("0.5\n\n  \n", 0.5, "empty lines after it"),
    ("1\n.25", 0.25, "the last line counts, and numbers may begin with a point"),
    ("7.", 7.0, "or end with one"),
    ("  -1.5E-3  ", -1.5e-3, "white space around it"),
    ("+3", 3.0, "a plus"),
    ("1\r\n2\r\n", 2.0, "lines of Windows"),
    ("loss: 0.25", 0.25, "name: value"),
    ("loss=0.25", 0.25, "name=value"),
    ("loss = .25", 0.25, "with spaces"),
    ("LOSS: 0.25", 0.25, "capitals do not matter"),
    ("epoch 3: loss: -1.5e-3", -1.5e-3, "after other words"),
    ("loss: 0.9\nloss: 0.4\nsaved to model-7.pt", 0.4, "the last one, whatever follows"),
    ("accuracy: 0.9, loss: 0.25, took 3", 0.25, "among others, before a comma"),
    ("{'loss': 0.25, 'acc': 0.5}", 0.25, "a Python dictionary"),
    ("loss: 0.25.", 0.25, "the end of a sentence"),
    ("(loss=0.25)", 0.25, "in brackets"),
    ('{"loss": 0.25, "time": 3}', 0.25, "a JSON object"),
    ('{"loss": 1}', 1.0, "a whole number in JSON"),
    ('loss: 9\n{"loss": 0.25}', 0.25, "JSON on the last line is meant"),
    ("loss: 9\n0.5", 0.5, "so is a number alone on it"),
    ("0.5\nloss: 9\ndone", 9.0, "an earlier number alone is not"),
    ("time 12.3s", "the last line is 'time 12.3s'", "12 is not the metric"),
    ("exp_12/model-7.pt", "no metric 'loss'", "neither is -7"),
    ("tensor(0.0400, grad_fn=<MeanBackward0>)", "no metric 'loss'", "nor 0 of MeanBackward0"),
    ("loss: tensor(0.0400)", "no metric 'loss'", "not a number after the name"),
    ("1,234.5", "no metric 'loss'", "not 234.5"),
    ("loss: 1,234.5", "no metric 'loss'", "not 1 either"),
    ("loss: 12.3s", "no metric 'loss'", "a unit is no part of a number"),
    ("loss: 85%", "no metric 'loss'", "nor is a percent sign"),
    ("val_loss: 0.25", "no metric 'loss'", "another metric"),
    ("train/loss: 0.25", "no metric 'loss'", "another one"),
    ("loss 0.25", "no metric 'loss'", "no : or =, which `loss 3: 0.25` would be mistaken for"),
    ("loss 3: 0.25", "no metric 'loss'", "3 is the epoch"),
    ("5 banana", "no metric 'loss'", "and no nan in banana"),
    ("0.5 0.6", "no metric 'loss'", "two numbers: which one?"),
    ("", "it printed nothing", "no output"),
    ("\n \n", "it printed nothing", "only white space"),
    ('{"loss": "0.25"}', "no metric 'loss'", "text in JSON is no number"),
    ('{"loss": true}', "no metric 'loss'", "true is no number"),
    ('{"loss": null}', "no metric 'loss'", "null is none"),
    ("{" * 50_000, "no metric 'loss'", "deep JSON"),
    ('{"loss": 1' + "0" * 400 + "}", "is inf", "too large for a float"),
    ("nan", "the metric 'loss' is nan", "not a number"),
    ("loss: inf", "the metric 'loss' is inf", "infinite"),
    ("loss: -Infinity", "the metric 'loss' is -inf", "the other way"),
    ("1e999", "the metric 'loss' is inf", "overflows"),
    ("0x10", "no metric 'loss'", "hexadecimal"),
    ("1_000", "no metric 'loss'", "Python's own way to write a thousand"),
    ("٣", "no metric 'loss'", "a digit of another script"),
    ("\x1b[32mloss: 0.25\x1b[0m", 0.25, "colours"),
]

SPACE = Space(
    problem=Problem(
        name="program",
        metrics=(Metric(name="loss"),),
        parameters=(Parameter(name="x", type=ParameterType.DOUBLE, bounds=(0.0, 1.0)),),
    )
)


@pytest.mark.parametrize(("output", "wanted", "why"), PRINTED, ids=[row[2] for row in PRINTED])
def test_metric_of_an_output(output: str, wanted: float | str, why: str) -> None:
    if isinstance(wanted, float):
        assert metrics_in(output, ["loss"]) == {"loss": wanted}, why
        return
    try:
        found = metrics_in(output, ["loss"])
    except UnreadableError as error:
        assert wanted in str(error), why
    else:
        assert f"is {found['loss']}" in wanted, why


# Code of a program, and what becomes of its trial.
PROGRAMS: list[tuple[str, float | str, str]] = [
    ("print(0.5)", 0.5, "the usual"),
    ("import sys; print(1); sys.exit(3)", "it ended with status 3, and said nothing", "a status"),
    ("raise ValueError('bad lr')", "it ended with status 1: ValueError: bad lr", "its last words"),
    ("import os; os.kill(os.getpid(), 11)", "it ended with signal 11", "a crash"),
    ("pass", "it printed nothing", "ends well, prints nothing: the run goes on"),
    ("print('nan')", "the metric 'loss' is nan", "a diverged training"),
    (
        r"import sys; sys.stdout.buffer.write(b'caf\xe9\n0.5\n')",
        0.5,
        "a byte that is not UTF-8 before the metric",
    ),
    (r"import sys; sys.stderr.buffer.write(b'\xff\n'); print(0.5)", 0.5, "or among the errors"),
    ("import sys; print(0.5, file=sys.stderr)", "it printed nothing", "on the wrong stream"),
    ("print('x' * 5_000_000); print(0.5)", 0.5, "megabytes of output"),
    ("import sys; print(len(sys.stdin.read()))", 0.0, "waits for no input"),
    ("import os; print(os.isatty(1) + 0.5)", 0.5, "output is no terminal"),
    (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'pass']); print(0.5)",
        0.5,
        "leaves a process behind",
    ),
]


@pytest.mark.parametrize(("code", "wanted", "why"), PROGRAMS, ids=[row[2] for row in PROGRAMS])
def test_trial_of_a_program(
    code: str, wanted: float | str, why: str, tmp_path: object, capfd: pytest.CaptureFixture[str]
) -> None:
    path = f"{tmp_path}/program.py"
    with open(path, "w") as file:
        file.write(code)
    measured = command_target(f"{sys.executable} {path} {{x}}", SPACE).evaluate({"x": 0.5})
    if isinstance(wanted, float):
        assert (measured.metrics, measured.failure) == ({"loss": wanted}, ""), why
    else:
        assert not measured.metrics
        assert wanted in measured.failure, why
    capfd.readouterr()


def test_standard_error_reaches_the_terminal(
    capfd: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    path = f"{tmp_path}/program.py"
    with open(path, "w") as file:
        file.write("import sys; print('epoch 1', file=sys.stderr); print(1)")
    command_target(f"{sys.executable} {path} {{x}}", SPACE).evaluate({"x": 0.5})
    assert "epoch 1" in capfd.readouterr().err


def test_constraints_are_read_by_their_names() -> None:
    output = "loss: 0.5\nlatency: 20\n"
    assert metrics_in(output, ["loss", "latency"]) == {"loss": 0.5, "latency": 20.0}
    with pytest.raises(UnreadableError, match="no metric 'memory'"):
        metrics_in(output, ["loss", "memory"])


def test_a_pattern_is_the_only_way_where_it_is_given() -> None:
    import re

    pattern = re.compile(r"took (\S+)s")
    assert metrics_in("took 1s\ntook 12.3s\n7", ["loss"], pattern) == {"loss": 12.3}
    with pytest.raises(UnreadableError, match="nothing in the output matches"):
        metrics_in("7", ["loss"], pattern)
    with pytest.raises(UnreadableError, match="found 'long', which is not a number"):
        metrics_in("took longs", ["loss"], pattern)
