"""The command line: quick, forgiving of typing mistakes, and without tracebacks for users."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from optformer import cli
from tests.data.importers import logs

ROOT = Path(__file__).parents[1]
SPACE = {
    "name": "square",
    "metrics": [{"name": "loss", "goal": "MINIMIZE"}],
    "parameters": [
        {"name": "x", "type": "DOUBLE", "bounds": [-1, 1]},
        {"name": "kind", "type": "CATEGORICAL", "values": ["a", "b c"]},
    ],
}
PROGRAM = """import sys
x, kind = float(sys.argv[1]), sys.argv[2]
if kind == "a":
    sys.exit(3)
print(f"loss: {x * x}")
print("saved to model-7.pt")
"""


def run(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> tuple[int, str, str]:
    """Exit status, output and errors of `optformer` with these words."""
    monkeypatch.setattr(sys, "argv", ["optformer", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capfd.readouterr()
    return ended.value.code, out, err


def rows_of(out: str) -> list[list[str]]:
    """The rows of a tuning's table, as words: number, metric, ..."""
    return [
        line.split() for line in out.splitlines() if re.match(r" *\d+ +(failed|[-\d.e]+) ", line)
    ]


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from optformer import cli; "
        "assert CliRunner().invoke(cli.app, ['--help']).exit_code == 0; "
        "heavy = {'jax', 'vizier', 'sklearn', 'matplotlib', 'pyarrow', 'scipy', 'grpc'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


COMMANDS = (
    "demo", "logs", "generate", "collect", "import",
    "train", "tune", "serve", "evaluate", "inspect",
)  # fmt: skip


def test_every_command_is_listed_and_has_help() -> None:
    listing = CliRunner().invoke(cli.app, ["--help"])
    for command in COMMANDS:
        assert command in listing.output
        assert CliRunner().invoke(cli.app, [command, "--help"]).exit_code == 0


MISTAKES = {
    "a command": (["trian"], "Did you mean 'train'?"),
    "an option": (["tune", "--porblem", "svc/wine"], "--problem"),
    "a problem": (["tune", "--problem", "svc/wines"], "Did you mean svc/wine?"),
    "a learner": (["collect", "x", "--learner", "random_forrest"], "Did you mean random_forest?"),
    "a table": (["collect", "x", "--tables", "sklearn/wines"], "Did you mean wine?"),
    "a problem to log": (["logs", "x.db", "--problem", "svc/wines"], "Did you mean svc/wine?"),
    "a format to describe": (["import", "--describe", "cvs"], "Did you mean csv?"),
    "a list in a setting": (
        ["generate", "out", "--set", "mixture.0.weight=2"],
        "mixture is not a section",
    ),
    "a folder as a space": (["tune", "--command", "ls {x}", "--space", "."], "is a folder, not"),
    "a setting of a policy": (
        ["tune", "--problem", "svc/iris", "--checkpoint", "x", "--set", "candidate=3"],
        "candidates",
    ),
    "a model's algorithm": (
        ["tune", "--problem", "svc/iris", "--algorithm", "ei"],
        "OPTFORMER_EI needs a model: pass --checkpoint",
    ),
    "nothing to tune": (["tune"], "--problem svc/wine"),
    "a program without a space": (["tune", "--command", "x"], "--command needs --space"),
    "nobody to ask": (["tune", "--problem", "svc/iris"], "--checkpoint"),
    "an algorithm": (
        ["tune", "--problem", "svc/iris", "--algorithm", "RANDOM_SAERCH"],
        "Did you mean RANDOM_SEARCH?",
    ),
    "no such service": (
        ["tune", "--problem", "svc/iris", "--server", "localhost:1"],
        "no Vizier service answers at localhost:1",
    ),
    "a service without a port": (
        ["tune", "--problem", "svc/iris", "--server", "localhost"],
        "host:port",
    ),
    "a service with a model": (
        ["tune", "--problem", "svc/iris", "--server", "localhost:1", "--checkpoint", "x"],
        "leave out --checkpoint",
    ),
    "no checkpoint": (["serve", "nowhere"], "there is no checkpoint folder nowhere"),
    "a database": (
        ["serve", "x", "--database", "postgres://me:hunter2@db/x"],
        "DIALECT://USER@HOST/DATABASE. Did you mean postgresql?",
    ),
    "no log": (["import", "nowhere.db", "out"], "nowhere.db does not exist"),
    "nothing to train on": (["train", "out"], "nothing to train on"),
    "a setting": (["train", "out", "--set", "train.stpes=3"], "Did you mean train.steps?"),
    "a setting of generation": (["generate", "out", "--set", "blok=3"], "Did you mean block?"),
    "an optimizer": (
        ["evaluate", "bbob", "out", "--optimizer", "random_serach"],
        "Did you mean random_search?",
    ),
    "nothing to inspect": (["inspect", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_message_with_a_way_out(
    mistake: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words, hint = MISTAKES[mistake]
    status, _, err = run(capfd, monkeypatch, *words)
    assert status != 0
    assert hint in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


def test_debug_keeps_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["optformer", "--debug", "serve", "nowhere"])
    with pytest.raises(cli.OptFormerError, match="no checkpoint folder"):
        cli.main()


def test_a_program_is_tuned_and_its_study_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "space.json").write_text(json.dumps(SPACE))
    (tmp_path / "program.py").write_text(PROGRAM)
    words = [
        "tune",
        "--command", f"{sys.executable} {tmp_path / 'program.py'} {{x}} {{kind}}",
        "--space", str(tmp_path / "space.json"),
        "--algorithm", "QUASI_RANDOM_SEARCH",
        "--database", str(tmp_path / "studies.db"),
        "--name", "square",
        "--trials", "4",
    ]  # fmt: skip
    status, out, _ = run(capfd, monkeypatch, *words)
    assert status == 0
    rows = rows_of(out)
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    for row in rows:
        assert ("kind=a" in row) == (row[1] == "failed") == ("status" in row)
    measured = [float(row[1]) for row in rows if row[1] != "failed"]
    assert measured and all(0 <= value <= 1 for value in measured)
    assert f"Best loss: {min(measured):.3g}"[:14] in out

    # --trials counts those that the study has.
    status, out, _ = run(capfd, monkeypatch, *words)
    assert status == 0
    assert rows_of(out) == []
    assert "The study resumes: it has 4 trials" in out
    assert "raise --trials above 4" in out

    # Enough that some are of the kind that does not fail: a run without any ends with status 1.
    status, out, _ = run(capfd, monkeypatch, *words[:-1], "12")
    assert status == 0
    assert [row[0] for row in rows_of(out)] == [str(number) for number in range(5, 13)]
    assert "8 more to come" in out

    words[words.index("QUASI_RANDOM_SEARCH")] = "RANDOM_SEARCH"
    status, _, err = run(capfd, monkeypatch, *words)
    assert status == 1
    assert "another algorithm: QUASI_RANDOM_SEARCH" in " ".join(err.split())


def test_import_says_what_it_found_and_what_it_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = logs.jsonl(tmp_path, False)
    status, out, _ = run(capfd, monkeypatch, "import", source, str(tmp_path / "shards"))
    assert status == 0
    for word in ("studies", "by algorithm", "skipped"):
        assert word in out
    assert "skipped studies  none" not in out
    status, out, _ = run(capfd, monkeypatch, "inspect", str(tmp_path / "shards"))
    assert status == 0
    assert "trials" in out


def test_every_format_of_logs_and_the_space_describe_themselves() -> None:
    for format in cli.Format:
        shown = CliRunner().invoke(cli.app, ["import", "--describe", format.value])
        assert shown.exit_code == 0
        assert "\n    " in shown.output  # an example
    help = CliRunner().invoke(cli.app, ["tune", "--help"], env={"COLUMNS": "120"}).output
    for word in ("INTEGER", "DISCRETE", '"conditions"', '"default"', '"safety_threshold"'):
        assert word in help


def test_an_interrupted_tuning_says_the_best_and_how_to_resume(tmp_path: Path) -> None:
    (tmp_path / "space.json").write_text(json.dumps(SPACE))
    (tmp_path / "program.py").write_text(
        "import sys, time, pathlib\n"
        f"count = pathlib.Path(r'{tmp_path}/count')\n"
        "n = len(count.read_text()) if count.exists() else 0\n"
        "count.write_text('x' * (n + 1))\n"
        "time.sleep(300 if n else 0)\nprint(0.25)\n"
    )
    words = [
        "tune", "--command", f"{sys.executable} {tmp_path / 'program.py'} {{x}} {{kind}}",
        "--space", str(tmp_path / "space.json"), "--algorithm", "QUASI_RANDOM_SEARCH",
        "--database", str(tmp_path / "studies.db"), "--name", "square",
    ]  # fmt: skip
    # Tests that run in a shell's background begin with interrupts ignored.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "sys.argv[0] = 'optformer'; from optformer.cli import main; main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        while not (tmp_path / "count").exists() or (tmp_path / "count").read_text() != "xx":
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Best loss so far: 0.25." in out
    assert "run the same command with --name square" in out
