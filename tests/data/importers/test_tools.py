"""Logs that other tools wrote: kept samples, and new ones where the tool is installed."""

import importlib.util
import json
from pathlib import Path

import pytest

from optformer.data.importers import Remark, detect, read
from optformer.study import State, Study, to_trials
from tests.data.importers import tools

GOLDEN = Path(__file__).with_name("golden")
SAMPLES = sorted(path for path in GOLDEN.iterdir() if path.is_dir())


def compare(folder: Path, format: str, tried: list[dict[str, object]]) -> None:
    """What is read is what the objective saw, in the order in which it saw it."""
    assert detect(str(folder)) == format
    studies = [record for record in read(str(folder)) if not isinstance(record, Remark)]
    ours = studies[0]
    assert isinstance(ours, Study)
    trials = to_trials(ours)
    assert len(trials) == len(tried) == tools.TRIALS
    for trial, seen in zip(trials, tried, strict=True):
        wanted = dict(seen["parameters"])
        if format == "hyperopt":  # it stores the number of a choice
            wanted["optimizer"] = ("adam", "sgd").index(wanted["optimizer"])
        assert trial.parameters == pytest.approx(wanted)
        if seen["loss"] is None:
            assert trial.state == State.INFEASIBLE
        else:
            assert trial.state == State.COMPLETED
            assert list(trial.metrics.values()) == pytest.approx([seen["loss"]])


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
def test_what_a_tool_wrote_is_what_was_tried(sample: Path) -> None:
    tried = json.loads((sample / "tried.json").read_text())
    compare(sample, sample.name.rpartition("-")[0], tried)


def test_every_tool_has_a_sample() -> None:
    assert {sample.name.rpartition("-")[0] for sample in SAMPLES} == set(tools.TOOLS)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # these are other packages' own
@pytest.mark.parametrize("format", tools.TOOLS)
def test_what_the_installed_tool_writes_is_what_was_tried(format: str, tmp_path: Path) -> None:
    run, package = tools.TOOLS[format]
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        pytest.skip(f"{package} is not installed")
    tried = run(tmp_path)
    compare(tmp_path, format, tried)


def test_search_space_of_a_log_that_says_it_is_not_what_was_tried() -> None:
    for format in ("smac", "syne-tune"):
        sample = next(path for path in SAMPLES if path.name.startswith(format))
        records = list(read(str(sample)))
        (study,) = records  # nothing had to be assumed
        assert isinstance(study, Study)
        bounds = {p.name: p.bounds for p in study.problem.parameters}
        assert (bounds["lr"], bounds["layers"]) == ((1e-4, 1.0), (1.0, 8.0))
