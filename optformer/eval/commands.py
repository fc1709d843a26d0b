"""The commands that wrote a results folder, with their environments: `commands.json`.

[{"command": "optformer evaluate bbob runs/bbob --seeds 5",
  "environment": {"python": "3.12.3", "packages": {"jax": "0.7.0"}, "machine": "x86_64",
                  "cores": 2, "workers": 1}}]
"""

import dataclasses
import importlib.metadata
import itertools
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from optformer.errors import plural
from optformer.eval.report.page import Code, Section, Text
from optformer.eval.results import labels
from optformer.files import atomic_write

FILE = "commands.json"

_PACKAGES = ("optformer", "numpy", "jax", "google-vizier", "optuna", "xgboost-cpu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment:
    """The environment of a command; `workers` is its number of processes, 0 if it has none."""

    python: str
    packages: Mapping[str, str]
    machine: str
    cores: int
    workers: int = 0

    @classmethod
    def here(cls, workers: int = 0) -> "Environment":
        """The environment of this process."""
        return cls(
            python=platform.python_version(),
            packages={name: version for name in _PACKAGES if (version := _version(name))},
            machine=platform.machine(),
            cores=os.cpu_count() or 1,
            workers=workers,
        )

    def __str__(self) -> str:
        versions = [f"{name} {version}" for name, version in self.packages.items()]
        counts = [self.machine, plural(self.cores, "core")]
        if self.workers:
            counts.append(plural(self.workers, "worker"))
        return f"{', '.join([f'Python {self.python}', *versions])}; {', '.join(counts)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noted:
    """A command that has ended; `environment` is None if it was not recorded."""

    command: str
    environment: Environment | None


def note(folder: Path, command: str, *, workers: int) -> None:
    """Appends a command that ran here, unless it repeats the last one, as when a run resumes."""
    known = read(folder)
    noted = Noted(command=command, environment=Environment.here(workers))
    if command and noted not in known[-1:]:
        rows = [dataclasses.asdict(one) for one in (*known, noted)]
        with atomic_write(folder / FILE, shared=True) as new:
            new.write_text(json.dumps(rows, indent=1), "utf-8")


def read(folder: Path) -> list[Noted]:
    """The folder's commands, oldest first; none if nothing is noted."""
    path = folder / FILE
    rows = json.loads(path.read_text("utf-8")) if path.exists() else []
    if isinstance(rows, dict):  # as older versions wrote it: each protocol's last command
        rows = [{"command": command, "environment": None} for command in rows.values()]
    return [
        Noted(
            command=row["command"],
            environment=Environment(**row["environment"]) if row["environment"] else None,
        )
        for row in rows
    ]


def sections(folders: Sequence[Path]) -> list[Section]:
    """All commands of these folders with their environments, and the folders' names if there are
    several."""
    made: list[Section] = []
    for folder, label in zip(folders, labels(folders), strict=True):
        commands = read(folder)
        if len(folders) > 1:
            said = "" if commands else " Its commands are unknown."
            made.append(Text(paragraphs=(f"Results folder {label}.{said}",)))
        blocks = [
            "\n".join([*(one.command for one in same), f"# {environment or 'versions unknown'}"])
            for environment, same in itertools.groupby(commands, lambda one: one.environment)
        ]
        if blocks:
            made.append(Code(text="\n\n".join(blocks)))
    return made


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
