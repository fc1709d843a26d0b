"""The command for minutes on an accelerator: on a CPU, with nothing installed but what it names."""

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from optformer.data import store
from optformer.errors import ConfigError
from optformer.model import checkpoint
from optformer.settings import to_toml
from optformer.training import accelerator
from optformer.training.config import load_config
from optformer.training.prepared import open_prepared, prepare
from tests.studies import plane, random_study
from tests.training.tiny import PLANES, SMALL

ROOT = Path(__file__).parents[2]
COMMAND = ROOT / "scripts" / "pretrain-accelerator"

NEEDS = (
    *("jax", "flax", "optax", "orbax-checkpoint", "sentencepiece", "safetensors", "pyarrow"),
    *("scipy", "numpy", "jaxtyping", "typer", "rich"),
)


def blocked_modules() -> set[str]:
    """The installed modules that belong to no package of `NEEDS` or what these need."""
    wanted, waiting = set[str](), list(NEEDS)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in wanted:
            continue
        wanted.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += [re.split(r"[^\w.-]", need)[0] for need in needs if "extra ==" not in need]
    modules = importlib.metadata.packages_distributions()
    return {
        module
        for module, packages in modules.items()
        if module != "optformer"
        and not {re.sub(r"[-_.]+", "-", package).lower() for package in packages} & wanted
    }


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """In which nothing else can be imported, by any process of the command."""
    folder = tmp_path_factory.mktemp("blocked")
    blocked = sorted(blocked_modules())
    assert {"tomli_w", "vizier", "sqlalchemy", "pytest"} & set(blocked)
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        f"BLOCKED = frozenset({blocked!r})\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in BLOCKED:\n"
        "            raise ModuleNotFoundError(f'{name} is not there', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    return os.environ | {"PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"}


def folder_of(task: str, folder: Path) -> Path:
    """A prepared folder of a tiny run."""
    if task == "prior":
        studies = [
            random_study(plane(2), 80, np.random.default_rng(seed), algorithm="random_search")
            for seed in range(3)
        ]
        changes = ["views=2", "trials=8", "sizes=[12]", "optima=0"]
        config = None
    else:
        studies, changes, config = PLANES, [], folder / "run.toml"
        config.write_text(to_toml(load_config(None, SMALL)))
    store.write(studies, folder / "shards", source="test")
    made = prepare(folder / "ready", task, config, changes, shards=[folder / "shards"])
    assert len(made.losses) == 2
    assert made.studies()
    return made.folder


def command(prepared: Path, out: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, str(COMMAND), str(prepared), "--out", str(out)),
        *("--run", str(out.with_name("run")), "--workers", "1", *options),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["trajectories", "prior"])
def test_the_command_checks_trains_saves_and_resumes(
    task: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    prepared, out = folder_of(task, tmp_path), tmp_path / "out"
    for steps in ("3", "5"):
        done = subprocess.run(
            command(prepared, out, "--seconds", "900", "--first-step", "900", "--steps", steps),
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert ": alike" in done.stdout
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) <= 8
    for name in ("last", "best"):
        model = checkpoint.load(out / name)
        assert (model.prior is not None) == (task == "prior")
    model = checkpoint.load(out / "last")
    if model.prior is not None:
        assert model.prior.about["steps"] == 5
    else:
        assert model.about["step"] == 5
        facts = json.loads((out / "report.json").read_text())
        assert facts["alike"]
        assert facts["last"]["step"] == 5


@pytest.mark.slow
def test_a_killed_command_leaves_a_checkpoint(tmp_path: Path, environment: dict[str, str]) -> None:
    prepared, out = folder_of("trajectories", tmp_path), tmp_path / "out"
    process = subprocess.Popen(
        command(prepared, out, "--seconds", "900", "--first-step", "900"),
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    try:
        for _ in range(9000):
            if (out / "best").is_dir():
                break
            assert process.poll() is None
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert checkpoint.load(out / "best").config == open_prepared(prepared).task.config.model


def test_a_training_that_does_not_begin_is_started_again_without_autotuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    marker = tmp_path / "marker"
    program = (
        "import os, sys, time, pathlib\n"
        "flags = os.environ.get('XLA_FLAGS', '')\n"
        f"if {accelerator.CAREFUL!r} not in flags: {{first}}\n"
        f"pathlib.Path({str(marker)!r}).touch()\n"
    )
    for first, seconds in (("time.sleep(100)", 0.5), ("sys.exit(1)", 60.0)):
        code = program.format(first=first)
        status = accelerator.supervise(
            [sys.executable, "-c", code], seconds=120, first_step=seconds, marker=marker
        )
        assert status == 0
        assert marker.exists()


def test_a_training_that_does_not_end_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "GRACE", 0.5)
    marker = tmp_path / "marker"
    code = f"import pathlib, time; pathlib.Path({str(marker)!r}).touch(); time.sleep(100)"
    status = accelerator.supervise(
        [sys.executable, "-c", code], seconds=1.0, first_step=60.0, marker=marker
    )
    assert status == 1


def test_a_folder_that_is_too_large_or_of_several_shapes_is_refused(tmp_path: Path) -> None:
    store.write(PLANES, tmp_path / "shards", source="test")
    with pytest.raises(ConfigError, match=r"batch\.sizes=4, but each shape"):
        prepare(tmp_path / "a", "trajectories", None, [*SMALL, "batch.sizes=4"], shards=[])
    with pytest.raises(ConfigError, match="is not a prepared folder"):
        open_prepared(tmp_path / "a")
    with pytest.raises(ConfigError, match="Name fewer studies"):
        prepare(
            tmp_path / "b",
            "trajectories",
            None,
            SMALL,
            shards=[tmp_path / "shards"],
            most_bytes=1000,
        )
