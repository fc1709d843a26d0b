"""A run goes on after any end: killed, interrupted, its disk full."""

import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from optformer.errors import CheckpointError
from optformer.training import train as training
from optformer.training.config import load_config
from optformer.training.reports import Report, read_log
from tests.training.tiny import PLANES, SMALL

ROOT = Path(__file__).parents[2]


def run(folder: Path, *overrides: str, **options: object) -> list[str]:
    """What a run of one layout says."""
    said: list[str] = []
    config = load_config(None, [*SMALL, *overrides])
    training.train(config, folder, PLANES, report_seconds=0.0, say=said.append, **options)
    return said


def losses(folder: Path) -> dict[int, float]:
    return {report.step: report.loss for report in read_log(folder)}


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_moment_goes_on_to_the_same_losses(tmp_path: Path) -> None:
    """Bit by bit. Steps are saved so often that some kills fall into a save."""
    settings = ["train.steps=30", "train.checkpoint_every=2", "train.evaluate_every=15"]
    run(tmp_path / "unbroken", *settings)
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.training.tiny", str(folder), *settings]
    rng = np.random.default_rng(int.from_bytes(os.urandom(4)))
    metrics = folder / "metrics.jsonl"
    for kill in range(2):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        enough, deadline = 8 * kill + rng.integers(3, 9), time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.is_file() and len(metrics.read_text("utf-8").splitlines()) > enough:
                break
            time.sleep(0.002)
        time.sleep(float(rng.uniform(0, 0.05)))
        process.kill()
        process.wait()
    said = run(folder, *settings)
    assert "resumes from step" in said[0]
    assert losses(folder) == losses(tmp_path / "unbroken")
    assert list(losses(folder)) == list(range(1, 31))


@pytest.mark.parametrize(
    ("number", "ends_with"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_run_that_is_told_to_stop_saves_its_state_first(
    number: int, ends_with: type[BaseException], tmp_path: Path
) -> None:
    before = signal.getsignal(number)

    def stop(report: Report) -> None:
        if report.step == 3:  # a step is not cut off: the next one is the last
            os.kill(os.getpid(), number)

    said: list[str] = []
    config = load_config(None, [*SMALL, "train.steps=8"])
    with pytest.raises(ends_with):
        training.train(config, tmp_path, PLANES, report=stop, report_seconds=0.0, say=said.append)
    assert said == ["the run stopped after step 4; the same command resumes it"]
    assert signal.getsignal(number) == before
    assert run(tmp_path, "train.steps=8") == ["the run resumes from step 4"]
    assert list(losses(tmp_path)) == list(range(1, 9))
    assert "the run is over since step 8" in run(tmp_path, "train.steps=8")[0]


# Orbax' threads end by the error, too.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files there")
def test_a_full_disk_is_an_error_and_the_last_state_stays_good(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(report: Report) -> None:
        if report.step == 7:
            while not (tmp_path / "state" / "5").is_dir():  # still being written
                time.sleep(0.01)
            # Python then gets an error of the file system, like that of a full disk.
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))

    settings = ["train.steps=12", "train.evaluate_every=5"]
    config = load_config(None, [*SMALL, *settings])
    try:
        with pytest.raises(
            CheckpointError, match=r"could not be written to .*Free some space there"
        ):
            training.train(config, tmp_path, PLANES, report=fill, report_seconds=0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert run(tmp_path, *settings) == ["the run resumes from step 5"]
    assert list(losses(tmp_path)) == list(range(1, 13))


def test_reports_can_be_read_by_tensorboard_and_steps_be_traced(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="extra `tensorboard`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    said = run(tmp_path, "train.steps=10", "train.tensorboard=true", profile=2)
    assert said == [f"a trace of 2 steps is in {tmp_path / 'profile'}"]
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    last = list(read_log(tmp_path))[-1]
    assert last.validation is not None
    assert last.validation["log_density"] == pytest.approx(
        np.log(1000) - last.validation["value"], abs=0.1
    )
    assert 0 <= last.validation["quantile_error"] <= 0.5
    for name, want in (
        ("training/loss", last.loss),
        ("validation/log_density", last.validation["log_density"]),
    ):
        assert [event.step for event in events.Tensors(name)][-1] == 10
        got = events.Tensors(name)[-1].tensor_proto.float_val[0]
        assert got == pytest.approx(want, rel=1e-6)


def test_accumulated_batches_are_data_of_their_own_and_resume(tmp_path: Path) -> None:
    settings = ["train.steps=6", "train.accumulate=2", "train.checkpoint_every=3"]
    run(tmp_path / "whole", *settings)
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "state" / "6")
    assert run(tmp_path / "part", *settings) == ["the run resumes from step 3"]
    assert losses(tmp_path / "part") == losses(tmp_path / "whole")
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 6
    assert json.loads(lines[0]) == dataclasses.asdict(next(read_log(tmp_path / "whole")))
