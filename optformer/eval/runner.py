"""Runs optimizers on tasks: optimizer x task x seed -> one row a trial, in Parquet.

    results = run({"random_search": factory}, tasks, seeds=range(5), out=Path("runs/bbob"))

Runs are paired: a seed gives a task the same starting points and, at the same trial, the same
noise, whichever optimizer is asked. Each run is a file of its own, written in one step when the
run has ended; calling `run` again does only what is missing. An optimizer that raises an error
keeps the rows that it has and gets a last one with the error.
"""

import dataclasses
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64, Int8

from optformer.data.problems import ObjectiveBlock, to_natural, to_units
from optformer.data.spaces import number_of_levels
from optformer.errors import ConfigError, OptFormerError, StudyError
from optformer.eval.results import Results, TaskRecord, read, write_plan
from optformer.progress import Progress, silent
from optformer.study import Parameter, ParameterType, Problem, State


@runtime_checkable
class Optimizer(Protocol):
    """One study being optimized. Values are as in `Study.values_RP`: natural units, or the index
    of a category."""

    def suggest(self, count: int) -> Float64[np.ndarray, "N P"]:
        """The next `count` points to try."""
        ...

    def update(
        self,
        values_NP: Float64[np.ndarray, "N P"],
        metrics_NM: Float64[np.ndarray, "N M"],
        states_N: Int8[np.ndarray, " N"],
    ) -> None:
        """Tells what became of points, its own or others': metrics in their own units."""
        ...


OptimizerFactory = Callable[[Problem, int], Optimizer]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """Trials that an optimizer is told before its first suggestion.

    Attributes:
      values_NP: natural values.
      metric_N: what was measured, in the metric's units.
      exact_N: the noiseless value, larger better.
    """

    values_NP: Float64[np.ndarray, "N P"]
    metric_N: Float64[np.ndarray, " N"]
    exact_N: Float64[np.ndarray, " N"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """One function to optimize within a number of trials.

    Attributes:
      family: what tasks are grouped by in reports.
      block: an objective block of one function.
      starts: starting trials by seed; they do not count as trials.
      low, high: the noiseless values, larger better, that score 0 and 1; NaN where unknown.
    """

    name: str
    family: str
    block: ObjectiveBlock
    trials: int
    starts: Mapping[int, Start] = dataclasses.field(default_factory=dict)
    low: float = float("nan")
    high: float = float("nan")

    def __post_init__(self) -> None:
        if len(self.block.problems) != 1:
            raise ConfigError(
                f"task {self.name!r}: a block of {len(self.block.problems)} functions. "
                "A task is one function: split the block."
            )
        if self.trials < 1:
            raise ConfigError(f"task {self.name!r}: {self.trials} trials. Give at least 1.")

    @property
    def problem(self) -> Problem:
        """The task's search space and metric."""
        return self.block.problems[0]

    def record(self) -> TaskRecord:
        """What a results folder keeps about the task."""
        points = np.random.default_rng(0).random((1, 3, len(self.problem.parameters)))
        exact_3 = self.block.evaluate_exact(self.block.spaces.snap(points))[0]
        starts = [(seed, start.metric_N.tolist()) for seed, start in sorted(self.starts.items())]
        told = repr((self.problem, self.trials, [f"{value:.6e}" for value in exact_3], starts))
        return TaskRecord(
            name=self.name,
            family=self.family,
            trials=self.trials,
            parameters=len(self.problem.parameters),
            low=self.low,
            high=self.high,
            fingerprint=f"{zlib.crc32(told.encode()):08x}",
        )


def run(
    optimizers: Mapping[str, OptimizerFactory],
    tasks: Sequence[Task],
    seeds: Sequence[int],
    out: Path,
    *,
    protocol: str,
    workers: int = 1,
    fresh_processes: bool = False,
    progress: Progress = silent,
) -> Results:
    """Runs what is missing in `out` and returns all results there.

    Args:
      protocol: what kind of results these are, "bbob" or "hpob"; a folder holds one kind.
      workers: processes; 1 runs in this one.
      fresh_processes: a new process for every run, for optimizers that leak memory or may kill
        their process. Such a death is recorded as that run's error.
      progress: called after each run.

    With several workers or fresh processes, factories and tasks are pickled.

    Raises:
      ConfigError: the folder holds another protocol, another task under the same name, or an
        optimizer with other settings under the same name.
    """
    names = [task.name for task in tasks]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"two tasks are named {repeated[0]!r}. Give each its own name.")
    write_plan(
        out,
        protocol=protocol,
        optimizers={name: _description(factory) for name, factory in optimizers.items()},
        tasks=[task.record() for task in tasks],
        seeds=list(seeds),
    )
    # Seeds outermost: a killed run has compared all optimizers on the seeds that it reached.
    jobs = [
        _Job(
            optimizer=name, factory=factory, task=task, seed=seed, part=_part(out, name, task, seed)
        )
        for seed in seeds
        for task in tasks
        for name, factory in optimizers.items()
    ]
    waiting = [job for job in jobs if not job.part.exists()]
    done = len(jobs) - len(waiting)
    if workers == 1 and not fresh_processes:
        ended: Iterator[_Job] = (_run_job(job) for job in waiting)
    else:
        ended = _run_in_processes(waiting, workers, fresh_processes)
    for job in ended:
        done += 1
        progress(done, len(jobs), f"{job.optimizer} on {job.task.name}, seed {job.seed}")
    return read(out)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    optimizer: str
    factory: OptimizerFactory
    task: Task
    seed: int
    part: Path


def _part(out: Path, optimizer: str, task: Task, seed: int) -> Path:
    def slug(name: str) -> str:  # readable, and different for different names
        return f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}-{zlib.crc32(name.encode()):08x}"

    return out / "parts" / slug(optimizer) / f"{slug(task.name)}.seed{seed}.parquet"


def _description(factory: OptimizerFactory) -> str:
    """The factory's settings in words, where its repr has no memory address in it."""
    text = repr(factory)
    return "" if " at 0x" in text else text


# --- one run ---------------------------------------------------------------------------------


def _run_job(job: _Job) -> _Job:
    _write_part(job, _Rows(job.task, job.seed).fill(job.factory))
    return job


class _Rows:
    """The rows of one run, as they come."""

    def __init__(self, task: Task, seed: int) -> None:
        self.task = task
        self.seed = seed
        self.sign = task.problem.objectives[0].sign
        self.rows: list[dict[str, object]] = []
        self.best = self.exact_best = float("nan")

    def fill(self, factory: OptimizerFactory) -> "list[dict[str, object]]":
        """Runs the optimizer to its end or its error."""
        problem = self.task.problem
        # What an optimizer raises is a result, to be shown beside the others' results. What the
        # objective raises is our fault and ends the evaluation.
        try:
            optimizer = factory(problem, self.seed)
            start = self.task.starts.get(self.seed)
            if start is not None:
                self._add_start(start)
                optimizer.update(start.values_NP, _column(problem, start.metric_N), _states(start))
        except Exception as error:
            self.add_error(1, 0.0, error)
            return self.rows
        for trial in range(1, self.task.trials + 1):
            began = time.perf_counter()
            try:
                values_1P = optimizer.suggest(1)
                seconds = time.perf_counter() - began
                values_1P = _checked(problem, values_1P)
            except Exception as error:
                self.add_error(trial, time.perf_counter() - began, error)
                return self.rows
            signed, exact = _evaluate(self.task, values_1P, self.seed, trial)
            metric_1 = np.array([self.sign * signed])
            state = State.INFEASIBLE if np.isnan(signed) else State.COMPLETED
            began = time.perf_counter()
            failure: Exception | None = None
            try:
                optimizer.update(
                    values_1P, _column(problem, metric_1), np.array([state], dtype=np.int8)
                )
            except Exception as error:
                failure = error
            seconds += time.perf_counter() - began
            self._add(trial, values_1P[0], float(metric_1[0]), exact, seconds)
            if failure is not None:
                self.add_error(trial + 1, 0.0, failure)
                return self.rows
        return self.rows

    def _add_start(self, start: Start) -> None:
        first = 1 - len(start.metric_N)  # the last starting trial is trial 0
        for row, (values_P, metric, exact) in enumerate(
            zip(start.values_NP, start.metric_N, start.exact_N, strict=True)
        ):
            self._add(first + row, values_P, float(metric), float(exact), 0.0)

    def _add(
        self,
        trial: int,
        values_P: Float64[np.ndarray, " P"],
        metric: float,
        exact: float,
        seconds: float,
    ) -> None:
        self.best = float(np.fmax(self.best, self.sign * metric))
        self.exact_best = float(np.fmax(self.exact_best, exact))
        self.rows.append(
            {
                "trial": trial,
                "values": values_P.tolist(),
                "metric": metric,
                "exact": exact,
                "best": self.best,
                "exact_best": self.exact_best,
                "seconds": seconds,
                "error": None,
            }
        )

    def add_error(self, trial: int, seconds: float, error: Exception) -> None:
        """The row of a trial that was not to be."""
        self.rows.append(
            {
                "trial": trial,
                "values": [],
                "metric": float("nan"),
                "exact": float("nan"),
                "best": self.best,
                "exact_best": self.exact_best,
                "seconds": seconds,
                "error": f"{type(error).__name__}: {error}",
            }
        )


def _evaluate(
    task: Task, values_1P: Float64[np.ndarray, "1 P"], seed: int, trial: int
) -> tuple[float, float]:
    """The measured and the noiseless value, larger better; NaN if infeasible."""
    units_11P = to_units(task.problem.parameters, values_1P)[None]
    noise = np.random.default_rng([zlib.crc32(task.name.encode()), seed, trial])
    measured = float(task.block.evaluate(units_11P, noise)[0, 0])
    exact = float(task.block.evaluate_exact(units_11P)[0, 0])
    return measured, exact if not np.isnan(measured) else float("nan")


def _checked(problem: Problem, values_NP: Float64[np.ndarray, "N P"]) -> Float64[np.ndarray, "N P"]:
    """The suggestion if it is one point of the search space.

    Raises:
      StudyError: names the parameter, the value and the rule.
    """
    if values_NP.shape != (1, len(problem.parameters)):
        raise StudyError(
            f"suggest(1) returned an array of shape {values_NP.shape}, but one point of "
            f"{len(problem.parameters)} parameters was asked for."
        )
    legal = [
        _legal(parameter, float(value))
        for parameter, value in zip(problem.parameters, values_NP[0], strict=True)
    ]
    return np.array([legal])


def _legal(parameter: Parameter, value: float) -> float:
    if parameter.type == ParameterType.CATEGORICAL:
        levels = number_of_levels(parameter)
        if value in range(levels):
            return value
        raise StudyError(f"{parameter.name}={value!r} is not an index of its {levels} categories.")
    return parameter.to_number(value)


def _column(problem: Problem, metric_N: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, "N M"]:
    metrics_NM = np.full((len(metric_N), len(problem.metrics)), np.nan)
    metrics_NM[:, problem.metrics.index(problem.objectives[0])] = metric_N
    return metrics_NM


def _states(start: Start) -> Int8[np.ndarray, " N"]:
    return np.where(np.isnan(start.metric_N), State.INFEASIBLE, State.COMPLETED).astype(np.int8)


_SCHEMA = pa.schema(
    [
        ("optimizer", pa.string()),
        ("task", pa.string()),
        ("family", pa.string()),
        ("seed", pa.int64()),
        ("trial", pa.int64()),
        ("values", pa.list_(pa.float64())),
        ("metric", pa.float64()),
        ("exact", pa.float64()),
        ("best", pa.float64()),
        ("exact_best", pa.float64()),
        ("seconds", pa.float64()),
        ("error", pa.string()),
    ]
)


def _write_part(job: _Job, rows: list[dict[str, object]]) -> None:
    who = {
        "optimizer": job.optimizer,
        "task": job.task.name,
        "family": job.task.family,
        "seed": job.seed,
    }
    table = pa.Table.from_pylist([who | row for row in rows], schema=_SCHEMA)
    job.part.parent.mkdir(parents=True, exist_ok=True)
    unfinished = job.part.with_suffix(f".{os.getpid()}.tmp")
    pq.write_table(table, unfinished)
    os.replace(unfinished, job.part)


# --- many processes ---------------------------------------------------------------------------


def _run_in_processes(jobs: Sequence[_Job], workers: int, fresh: bool) -> Iterator[_Job]:
    """Runs jobs in other processes. A job whose process dies twice gets that as its error."""
    queue = list(reversed(jobs))
    suspects: list[_Job] = []
    while queue or suspects:
        # After a death nobody knows which running job was to blame: each is tried again alone.
        alone = bool(suspects)
        pool = ProcessPoolExecutor(
            max_workers=1 if alone else workers,
            mp_context=get_context("spawn"),  # JAX and forked processes deadlock
            initializer=_share_cores,
            initargs=(1 if alone else workers,),
            max_tasks_per_child=1 if fresh else None,
        )
        with pool:
            _check_starts(pool)
            running: dict[Future[_Job], _Job] = {}
            broken: list[_Job] = []
            while (queue or suspects or running) and not broken:
                while len(running) < (1 if alone else workers) and (suspects if alone else queue):
                    job = (suspects if alone else queue).pop()
                    running[pool.submit(_run_job, job)] = job
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    job = running.pop(future)
                    if isinstance(future.exception(), BrokenProcessPool):
                        broken.append(job)
                        continue
                    future.result()
                    yield job
                if alone:
                    break
            broken += running.values()
        for job in broken:
            if not alone:
                suspects.append(job)
                continue
            rows = _Rows(job.task, job.seed)
            rows.add_error(
                1, 0.0, ProcessDied("the run's process was killed, twice. Out of memory?")
            )
            _write_part(job, rows.rows)
            yield job


class ProcessDied(OptFormerError):
    """A run's process ended without a word."""


def _check_starts(pool: ProcessPoolExecutor) -> None:
    """Tells a process that cannot start from an optimizer that kills it.

    Raises:
      ConfigError: says what a script must look like.
    """
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool as error:
        raise ConfigError(
            "worker processes do not start: each imports the main script anew. Call run() under "
            '`if __name__ == "__main__":` in a script file, or use workers=1.'
        ) from error


def _share_cores(workers: int) -> None:
    """Keeps libraries that are loaded later from starting a thread a core in every process."""
    threads = str(max((os.cpu_count() or 1) // workers, 1))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, threads)


def random_start(task: Task, count: int, seed: int) -> Start:
    """`count` uniform points for a task, evaluated with the noise of that seed."""
    rng = np.random.default_rng([zlib.crc32(task.name.encode()), seed])
    units_1NP = task.block.spaces.snap(rng.random((1, count, len(task.problem.parameters))))
    sign = task.problem.objectives[0].sign
    return Start(
        values_NP=to_natural(task.problem.parameters, units_1NP[0]),
        metric_N=sign * task.block.evaluate(units_1NP, rng)[0],
        exact_N=task.block.evaluate_exact(units_1NP)[0],
    )
