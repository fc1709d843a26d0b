"""Runs of optimizers whose code has a version, kept for other results folders.

    <cache>/runs/<optimizer>/<hash of its settings, the task and the seed>.parquet

Whoever evaluates one model after another does not run the others each time.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Protocol, runtime_checkable

from optformer.errors import make_folder
from optformer.eval.task import Task, file_name
from optformer.files import atomic_write


@runtime_checkable
class Versioned(Protocol):
    """Makes optimizers that depend on their settings (its `repr`) and this version only."""

    @property
    def version(self) -> str: ...


def kept(cache: Path, optimizer: str, factory: object, task: Task, seed: int) -> Path | None:
    """Where the cache keeps this run; None for optimizers that have no version."""
    if not isinstance(factory, Versioned):
        return None
    told = (repr(factory), factory.version, task.name, task.family, task.record(), seed)
    content = hashlib.sha256(repr(told).encode()).hexdigest()[:32]
    return cache / "runs" / file_name(optimizer) / f"{content}.parquet"


def copy(source: Path, target: Path) -> None:
    """Copies a run's file, in one step."""
    make_folder(target.parent)
    with atomic_write(target, shared=True) as new:
        shutil.copyfile(source, new)
