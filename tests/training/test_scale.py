"""Many devices and processes train as one. Devices are virtual ones of the CPU."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from optformer.errors import ConfigError
from optformer.training import sharding
from optformer.training import train as training
from optformer.training.config import load_config
from optformer.training.reports import read_log
from tests.training.tiny import PLANES, SMALL

ROOT = Path(__file__).parents[2]
# Of a machine that does much else; a minute would do.
TIMEOUT = 900.0
SETTINGS = ["train.steps=6", "train.checkpoint_every=3", "train.evaluate_every=6"]

# Sums in another order: single precision, and Adam's first steps make much of little.
CLOSE = {"rtol": 2e-4}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on one device."""
    folder = tmp_path_factory.mktemp("one") / "run"
    config = load_config(None, [*SMALL, *SETTINGS])
    training.train(config, folder, PLANES, report_seconds=0.0)
    return folder


def start(folder: Path, *overrides: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.training.tiny", str(folder), *SETTINGS, *overrides]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def devices(count: int) -> dict[str, str]:
    flags = os.environ.get("XLA_FLAGS", "")
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count} {flags}"}


def check_equal(folder: Path, one: Path, steps: int = 6) -> None:
    got, want = list(read_log(folder)), list(read_log(one))
    assert [report.step for report in got] == [report.step for report in want]
    np.testing.assert_allclose([r.loss for r in got], [r.loss for r in want], **CLOSE)
    assert got[-1].validation is not None
    assert want[-1].validation is not None
    for name, value in want[-1].validation.items():
        np.testing.assert_allclose(got[-1].validation[name], value, rtol=1e-3, err_msg=name)


@pytest.mark.slow
def test_eight_devices_have_the_losses_of_one(one: Path, tmp_path: Path) -> None:
    """Rows over four, each of which is a pair that shares the model."""
    process = start(tmp_path / "run", "train.tensor_parallel=2", **devices(8))
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, output
    check_equal(tmp_path / "run", one)


@pytest.mark.slow
def test_a_run_of_one_device_goes_on_with_eight(one: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(one, tmp_path / "run"))
    shutil.rmtree(folder / "state" / "6")
    process = start(folder, **devices(8))
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, output
    assert "resumes from step 3" in output
    check_equal(folder, one)


@pytest.mark.slow
def test_two_processes_train_as_one(one: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [
        start(
            tmp_path / "run",
            "train.distributed=true",
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(number),
            **devices(1),
        )
        for number in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=TIMEOUT)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    check_equal(tmp_path / "run", one)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["train.devices=99"], r"train.devices=99, but JAX finds \d+ cpu device"),
        (["train.tensor_parallel=3"], "train.tensor_parallel=3 must divide the number of devices"),
    ],
)
def test_devices_that_are_not_there_are_named(settings: list[str], says: str) -> None:
    config = load_config(None, [*SMALL, *settings])
    with pytest.raises(ConfigError, match=says):
        sharding.make_mesh(config.train, config.model)


def test_a_process_that_nobody_waits_for_is_told_how_to_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="JAX_COORDINATOR_ADDRESS"):
        sharding.join()
