"""A results folder: its plan, its measurements, and both as arrays.

    <folder>/plan.json      protocol, optimizers, tasks, seeds
    <folder>/parts/...      one Parquet file a run, written by `rows.py`
    <folder>/rows.parquet   all rows of the planned runs, written each time the folder is read

Columns of the rows: optimizer, task, family, seed, trial (from 1; starting trials end at 0), values
(natural units, categories as indices), metric (its own units, as the optimizer saw it; NaN if
infeasible), exact (noiseless, larger better), best and exact_best (the best so far of either,
larger better), seconds (the suggestion and the update that followed it), error.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float64, Int64

from optformer.errors import ConfigError, SourceError, did_you_mean, make_folder
from optformer.eval.task import TaskRecord
from optformer.files import atomic_write

_FORMAT = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """A run that ended with an error before this trial."""

    optimizer: str
    task: str
    seed: int
    trial: int
    error: str


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """All runs of a folder. Index t of the last axis is "after t trials".

    Attributes:
      best_OKST: the best measured value so far, larger better. NaN where there is no run, or
        before its first feasible trial. A failed run keeps its last value to the end.
      exact_best_OKST: the same of the noiseless values.
      seconds_OKST: time of the optimizer for trial t; NaN where it was not called.
      together_O: the largest number of studies that shared one pass; times are shares of it.
      ended_OKS: whether a run has ended, by its last trial or by an error.
    """

    folder: Path
    protocol: str
    optimizers: tuple[str, ...]
    tasks: tuple[TaskRecord, ...]
    seeds: tuple[int, ...]
    best_OKST: Float64[np.ndarray, "O K S T"]
    exact_best_OKST: Float64[np.ndarray, "O K S T"]
    seconds_OKST: Float64[np.ndarray, "O K S T"]
    together_O: Int64[np.ndarray, " O"]
    ended_OKS: Bool[np.ndarray, "O K S"]
    failures: tuple[Failure, ...]

    @property
    def missing(self) -> int:
        """How many planned runs have not ended yet."""
        return int((~self.ended_OKS).sum())

    @property
    def trials(self) -> int:
        """The largest number of trials of a task."""
        return self.best_OKST.shape[-1] - 1

    @property
    def runs(self) -> int:
        """How many runs were planned."""
        return self.ended_OKS.size

    def scores(self) -> Float64[np.ndarray, "O K S T"]:
        """Noiseless best so far on the task's scale from low to high, clipped to [0, 1].

        A run that failed before its first value scores 0. NaN where no run is, where a task
        has no scale, and at index 0 of tasks without starting points.
        """
        low_K = np.array([task.low for task in self.tasks])[:, None, None]
        high_K = np.array([task.high for task in self.tasks])[:, None, None]
        scores_OKST = np.clip((self.exact_best_OKST - low_K) / (high_K - low_K), 0.0, 1.0)
        for failure in self.failures:
            run = (
                self.optimizers.index(failure.optimizer),
                [task.name for task in self.tasks].index(failure.task),
                self.seeds.index(failure.seed),
            )
            scores_T = scores_OKST[run]
            scores_T[1:] = np.where(np.isnan(scores_T[1:]), 0.0, scores_T[1:])
        return scores_OKST

    def on(self, tasks: Collection[str]) -> "Results":
        """The results on these tasks only, in the order of the folder."""
        rows = [place for place, task in enumerate(self.tasks) if task.name in tasks]
        return dataclasses.replace(
            self,
            tasks=tuple(self.tasks[row] for row in rows),
            best_OKST=self.best_OKST[:, rows],
            exact_best_OKST=self.exact_best_OKST[:, rows],
            seconds_OKST=self.seconds_OKST[:, rows],
            ended_OKS=self.ended_OKS[:, rows],
            failures=tuple(failure for failure in self.failures if failure.task in tasks),
        )

    def of(self, optimizers: Sequence[str]) -> "Results":
        """The results of these optimizers only, in this order.

        Raises:
          ConfigError: for a name that is not in the folder; suggests the nearest.
        """
        for name in optimizers:
            if name not in self.optimizers:
                raise ConfigError(
                    f"{self.folder} has no results of {name!r}, only of "
                    f"{', '.join(self.optimizers)}.{did_you_mean(name, self.optimizers)}"
                )
        rows = [self.optimizers.index(name) for name in optimizers]
        return dataclasses.replace(
            self,
            optimizers=tuple(optimizers),
            best_OKST=self.best_OKST[rows],
            exact_best_OKST=self.exact_best_OKST[rows],
            seconds_OKST=self.seconds_OKST[rows],
            together_O=self.together_O[rows],
            ended_OKS=self.ended_OKS[rows],
            failures=tuple(f for f in self.failures if f.optimizer in optimizers),
        )


def merge(parts: Sequence[Results]) -> Results:
    """Several folders' results on the tasks and seeds that all of them have.

    An optimizer whose name is in two folders is called `<folder's name>/<optimizer>`.

    Raises:
      ConfigError: protocols or numbers of trials differ, or tasks of one name, or nothing is
        common to all.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    for other in parts[1:]:
        if other.protocol != first.protocol:
            raise ConfigError(
                f"{first.folder} holds results of protocol {first.protocol!r}, {other.folder} of "
                f"{other.protocol!r}: they cannot be compared."
            )
        if other.trials != first.trials:
            raise ConfigError(
                f"{first.folder} holds runs of {first.trials} trials, {other.folder} of "
                f"{other.trials}: they cannot be compared. Evaluate one of them again, in a new "
                "folder, with the other's --trials."
            )
    records = [{task.name: task for task in part.tasks} for part in parts]
    common = [task for task in first.tasks if all(task.name in known for known in records)]
    for task in common:
        for part, known in zip(parts, records, strict=True):
            if known[task.name].fingerprint != task.fingerprint:
                raise ConfigError(
                    f"task {task.name!r} of {part.folder} is not that of {first.folder}: "
                    f"fingerprints {known[task.name].fingerprint} and {task.fingerprint}. "
                    "Evaluate one of them again."
                )
    seeds = tuple(seed for seed in first.seeds if all(seed in part.seeds for part in parts))
    if not common or not seeds:
        raise ConfigError(
            f"{' and '.join(str(part.folder) for part in parts)} have no "
            f"{'seeds' if common else 'tasks'} in common."
        )
    used = [name for part in parts for name in part.optimizers]
    shown = labels([part.folder for part in parts])
    names = [
        tuple(f"{label}/{name}" if used.count(name) > 1 else name for name in part.optimizers)
        for part, label in zip(parts, shown, strict=True)
    ]

    def joined(field: str) -> np.ndarray:
        pieces = []
        for part, known in zip(parts, records, strict=True):
            order = list(known)
            rows = [order.index(task.name) for task in common]
            columns = [part.seeds.index(seed) for seed in seeds]
            pieces.append(getattr(part, field)[:, rows][:, :, columns])
        return np.concatenate(pieces)

    kept = {task.name for task in common}
    best_OKST = joined("best_OKST")
    return Results(
        folder=first.folder.parent,
        protocol=first.protocol,
        optimizers=tuple(name for group in names for name in group),
        tasks=tuple(common),
        seeds=seeds,
        best_OKST=best_OKST,
        exact_best_OKST=joined("exact_best_OKST"),
        seconds_OKST=joined("seconds_OKST"),
        together_O=np.concatenate([part.together_O for part in parts]),
        ended_OKS=joined("ended_OKS"),
        failures=tuple(
            dataclasses.replace(failure, optimizer=group[part.optimizers.index(failure.optimizer)])
            for part, group in zip(parts, names, strict=True)
            for failure in part.failures
            if failure.task in kept and failure.seed in seeds
        ),
    )


def labels(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as many parent folders as make them unique."""
    found: list[str] = []
    for depth in range(1, 1 + max((len(folder.resolve().parts) for folder in folders), default=0)):
        found = ["/".join(folder.resolve().parts[-depth:]) for folder in folders]
        if len(set(found)) == len(found):
            break
    return found


def protocol_of(folder: Path) -> str:
    """The protocol of a results folder.

    Raises:
      SourceError: it is not a results folder.
    """
    return str(_read_plan(folder)["protocol"])


def write_plan(
    folder: Path,
    *,
    protocol: str,
    optimizers: Mapping[str, str],
    tasks: Sequence[TaskRecord],
    seeds: Sequence[int],
) -> None:
    """Adds optimizers (name -> settings in words), tasks and seeds to the folder's plan.

    Raises:
      ConfigError: the folder holds another protocol, runs of other numbers of trials, or the
        same name for something else.
    """
    path = folder / "plan.json"
    plan = _read_plan(folder) if path.exists() else {}
    if plan and plan["protocol"] != protocol:
        raise ConfigError(
            f"{folder} holds results of protocol {plan['protocol']!r}, not {protocol!r}. "
            "Write to another folder."
        )
    known_optimizers: dict[str, str] = dict(plan.get("optimizers", {}))
    known_tasks = {task["name"]: task for task in plan.get("tasks", [])}
    # Means over runs of other lengths mislead: at each trial they would be of other tasks.
    lengths = {task["trials"] for task in known_tasks.values()}
    for task in tasks:
        if lengths and task.trials not in lengths:
            raise ConfigError(
                f"{folder} holds runs of {', '.join(map(str, sorted(lengths)))} trials, not "
                f"{task.trials}. Give it the same --trials, or write to another folder."
            )
    for name, settings in optimizers.items():
        if settings != known_optimizers.setdefault(name, settings):
            raise ConfigError(
                f"{folder} holds results of {name!r} with other settings: "
                f"{known_optimizers[name]}, now {settings}. Use another name or folder."
            )
    for task in tasks:
        known = known_tasks.setdefault(task.name, dataclasses.asdict(task))
        if known["fingerprint"] != task.fingerprint:
            raise ConfigError(
                f"{folder} holds results of another task named {task.name!r} "
                f"({known['trials']} trials, {known['parameters']} parameters, fingerprint "
                f"{known['fingerprint']}; now {task.trials}, {task.parameters}, "
                f"{task.fingerprint}). Write to another folder."
            )
    plan = {
        "format": _FORMAT,
        "protocol": protocol,
        "optimizers": known_optimizers,
        "tasks": list(known_tasks.values()),
        "seeds": sorted({*plan.get("seeds", []), *map(int, seeds)}),
    }
    make_folder(folder)
    with atomic_write(path, shared=True) as new:
        new.write_text(json.dumps(plan, indent=1), "utf-8")


def read(folder: Path) -> Results:
    """The folder's results; also writes `rows.parquet`.

    Raises:
      SourceError: the folder has no plan, or one of another format.
    """
    plan = _read_plan(folder)
    optimizers = tuple(plan["optimizers"])
    tasks = tuple(TaskRecord(**task) for task in plan["tasks"])
    seeds = tuple(plan["seeds"])
    parts = sorted(folder.glob("parts/*/*.parquet"))
    tables = [pq.ParquetFile(part).read() for part in parts]
    rows = pa.concat_tables(tables) if tables else None
    if rows is not None:
        with atomic_write(folder / "rows.parquet", shared=True) as path:
            pq.write_table(rows, path)
    return _arrays(folder, plan["protocol"], optimizers, tasks, seeds, rows)


def _read_plan(folder: Path) -> dict:
    path = folder / "plan.json"
    if not path.exists():
        raise SourceError(
            f"{folder} is not a results folder: it has no plan.json. Pass a folder that "
            "`optformer evaluate` wrote."
        )
    plan = json.loads(path.read_text())
    if plan.get("format") != _FORMAT:
        raise SourceError(
            f"{path} has format {plan.get('format')}, this version reads {_FORMAT}. Read it with "
            "the version of optformer that wrote it, or evaluate again."
        )
    return plan


def _arrays(
    folder: Path,
    protocol: str,
    optimizers: tuple[str, ...],
    tasks: tuple[TaskRecord, ...],
    seeds: tuple[int, ...],
    rows: pa.Table | None,
) -> Results:
    trials = max(task.trials for task in tasks)
    shape = (len(optimizers), len(tasks), len(seeds), trials + 1)
    best_OKST, exact_best_OKST, seconds_OKST = (np.full(shape, np.nan) for _ in range(3))
    failures: list[Failure] = []
    ended_OKS = np.zeros(shape[:3], dtype=bool)
    together_O = np.ones(shape[0], dtype=np.int64)
    if rows is not None:
        index = [
            _places(rows["optimizer"], optimizers),
            _places(rows["task"], [task.name for task in tasks]),
            _places(rows["seed"], seeds),
        ]
        trial_N = rows["trial"].to_numpy()
        error_N = np.array([text is not None for text in rows["error"].to_pylist()])
        ended_OKS[tuple(index)] = True
        kept_N = (trial_N >= 0) & ~error_N
        where = (*(places_N[kept_N] for places_N in index), trial_N[kept_N])
        best_OKST[where] = rows["best"].to_numpy()[kept_N]
        exact_best_OKST[where] = rows["exact_best"].to_numpy()[kept_N]
        seconds_OKST[where] = rows["seconds"].to_numpy()[kept_N]
        seconds_OKST[..., 0] = np.nan
        np.maximum.at(together_O, index[0], rows["together"].to_numpy())
        for row in rows.filter(pa.array(error_N)).to_pylist():
            names = {name: row[name] for name in ("optimizer", "task", "seed", "trial", "error")}
            failures.append(Failure(**names))
        for failure, *run in zip(failures, *(places_N[error_N] for places_N in index), strict=True):
            ended = tasks[run[1]].trials + 1
            for array in (best_OKST, exact_best_OKST):
                array[*run, failure.trial : ended] = array[*run, failure.trial - 1]
    return Results(
        folder=folder,
        protocol=protocol,
        optimizers=optimizers,
        tasks=tasks,
        seeds=seeds,
        best_OKST=best_OKST,
        exact_best_OKST=exact_best_OKST,
        seconds_OKST=seconds_OKST,
        together_O=together_O,
        ended_OKS=ended_OKS,
        failures=tuple(failures),
    )


def _places(column: pa.ChunkedArray, names: Sequence[str] | Sequence[int]) -> np.ndarray:
    place = {name: index for index, name in enumerate(names)}
    return np.array([place[name] for name in column.to_pylist()], dtype=np.int64)
