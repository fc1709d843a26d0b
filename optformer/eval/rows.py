"""The rows of one run: suggestions, results and times.

Array dimensions: N points, P parameters, M metrics.
"""

import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64, Int8

from optformer.errors import StudyError
from optformer.eval.task import (
    Chooser,
    LockstepFactory,
    Optimizer,
    OptimizerFactory,
    Pool,
    Start,
    Task,
    filled_units,
    nearest,
    optimizer_seed,
    without_inactive,
)
from optformer.files import atomic_write
from optformer.space import number_of_levels
from optformer.study import Parameter, ParameterType, Problem, State

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
        ("together", pa.int64()),
        ("error", pa.string()),
    ]
)


class Rows:
    """The rows of one run, starting with those of the starting points.

    Args:
      together: the number of runs that share the time of a suggestion.
    """

    def __init__(self, task: Task, seed: int, together: int = 1) -> None:
        self.task = task
        self.seed = seed
        self.together = together
        self.sign = task.problem.objectives[0].sign
        self.rows: list[dict[str, object]] = []
        self.left: list[int] = []  # rows of the task's pool that are not tried yet
        if task.pool is not None:
            taken = set(task.pool.started.get(seed, np.empty(0, np.int64)).tolist())
            self.left = [row for row in range(len(task.pool.exact_N)) if row not in taken]
        self.best = self.exact_best = float("nan")
        self.start = task.starts.get(seed)
        if self.start is not None:
            self._add_start(self.start)

    def fill(self, factory: OptimizerFactory) -> "list[dict[str, object]]":
        """Runs the optimizer until its last trial or an error."""
        problem = self.task.problem
        # An optimizer's error is a result, and is reported with the others. An error of the
        # objective is a defect of ours, and ends the evaluation.
        try:
            optimizer = factory(problem, optimizer_seed(self.task, self.seed))
            if (start := self.start) is not None:
                optimizer.update(*_update_arguments(problem, start.values_NP, start.metric_N))
        except Exception as error:
            self.add_error(1, 0.0, error)
            return self.rows
        pool = self.task.pool
        for trial in range(1, self.task.trials + 1):
            if pool is not None and self.exact_best >= pool.exact_N.max():
                self._add(trial, np.empty(0), float("nan"), float("nan"), float("nan"))
                continue
            began = time.perf_counter()
            try:
                row = -1 if pool is None else self._choose(optimizer, pool)
                values_1P = optimizer.suggest(1) if pool is None else pool.values_NP[[row]]
                seconds = time.perf_counter() - began
                values_1P = _checked(problem, values_1P)
            except Exception as error:
                self.add_error(trial, time.perf_counter() - began, error)
                return self.rows
            if pool is None:
                metric_1, exact = self._evaluate(values_1P, trial)
            else:
                exact = float(pool.exact_N[row])
                metric_1 = np.array([self.sign * exact])
            began = time.perf_counter()
            failure: Exception | None = None
            try:
                optimizer.update(*_update_arguments(problem, values_1P, metric_1))
            except Exception as error:
                failure = error
            seconds += time.perf_counter() - began
            self._add(trial, values_1P[0], float(metric_1[0]), exact, seconds)
            if failure is not None:
                self.add_error(trial + 1, 0.0, failure)
                return self.rows
        return self.rows

    def _choose(self, optimizer: Optimizer, pool: Pool) -> int:
        """The pool's row that the optimizer tries next, removed from the remaining ones."""
        left_NP = pool.values_NP[self.left]
        if isinstance(optimizer, Chooser):
            place = optimizer.choose(left_NP)
        else:
            problem = self.task.problem
            wish_1P = filled_units(problem, optimizer.suggest(1))
            place = nearest(filled_units(problem, left_NP), wish_1P[0])
        return self.left.pop(place)

    def _evaluate(
        self, values_1P: Float64[np.ndarray, "1 P"], trial: int
    ) -> tuple[Float64[np.ndarray, " 1"], float]:
        """The metric in its own units, and the noiseless value, larger better.

        NaN if infeasible.
        """
        task = self.task
        units_11P = filled_units(task.problem, values_1P)[None]
        noise = np.random.default_rng([zlib.crc32(task.name.encode()), self.seed, trial])
        metric_1 = self.sign * task.block.evaluate(units_11P, noise)[0]
        exact = float(task.block.evaluate_exact(units_11P)[0, 0])
        return metric_1, exact if not np.isnan(metric_1[0]) else float("nan")

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
                "together": self.together,
                "error": None,
            }
        )

    def add_error(self, trial: int, seconds: float, error: Exception) -> None:
        """Adds a row for a trial that failed with an error of the optimizer."""
        self.rows.append(
            {
                "trial": trial,
                "values": [],
                "metric": float("nan"),
                "exact": float("nan"),
                "best": self.best,
                "exact_best": self.exact_best,
                "seconds": seconds,
                "together": self.together,
                "error": f"{type(error).__name__}: {error}",
            }
        )


def fill_together(runs: Sequence[Rows], factory: LockstepFactory) -> bool:
    """Runs an optimizer in lockstep on tasks of equal length; returns whether all succeeded.

    If one study raises an error, all rows are invalid, and the runs must be repeated one by one.
    Each run has an equal share of the time for a suggestion to all of them.
    """
    problems = [run.task.problem for run in runs]
    try:
        studies = factory.many(problems, [optimizer_seed(run.task, run.seed) for run in runs])
        for row, run in enumerate(runs):
            if (start := run.start) is not None:
                studies.update(
                    row, *_update_arguments(run.task.problem, start.values_NP, start.metric_N)
                )
    except Exception:
        return False
    for trial in range(1, runs[0].task.trials + 1):
        began = time.perf_counter()
        try:
            suggested = studies.suggest()
            seconds = (time.perf_counter() - began) / len(runs)
            points = [
                _checked(problem, values_1P)
                for problem, values_1P in zip(problems, suggested, strict=True)
            ]
        except Exception:
            return False
        for row, (run, values_1P) in enumerate(zip(runs, points, strict=True)):
            metric_1, exact = run._evaluate(values_1P, trial)
            began = time.perf_counter()
            try:
                studies.update(row, *_update_arguments(run.task.problem, values_1P, metric_1))
            except Exception:
                return False
            took = seconds + time.perf_counter() - began
            run._add(trial, values_1P[0], float(metric_1[0]), exact, took)
    return True


def _checked(problem: Problem, values_NP: Float64[np.ndarray, "N P"]) -> Float64[np.ndarray, "N P"]:
    """The suggestion, if it is one legal point; NaN for inactive parameters.

    Raises:
      StudyError: names the parameter, the value and the rule.
    """
    if values_NP.shape != (1, len(problem.parameters)):
        raise StudyError(
            f"suggest(1) returned an array of shape {values_NP.shape}, but one point of "
            f"{len(problem.parameters)} parameters was requested."
        )
    values_P = without_inactive(problem, values_NP)[0]
    inactive_P = np.isnan(values_P) & ~problem.active(values_NP)[0]
    legal = [
        float(value) if inactive else _legal(parameter, float(value))
        for parameter, value, inactive in zip(problem.parameters, values_P, inactive_P, strict=True)
    ]
    return np.array([legal])


def _legal(parameter: Parameter, value: float) -> float:
    if parameter.type == ParameterType.CATEGORICAL:
        levels = number_of_levels(parameter)
        if value in range(levels):
            return value
        raise StudyError(f"{parameter.name}={value!r} is not an index of its {levels} categories.")
    return parameter.to_number(value)


def _update_arguments(
    problem: Problem, values_NP: Float64[np.ndarray, "N P"], metric_N: Float64[np.ndarray, " N"]
) -> tuple[Float64[np.ndarray, "N P"], Float64[np.ndarray, "N M"], Int8[np.ndarray, " N"]]:
    """The arguments of `Optimizer.update`: values, metrics, states."""
    metrics_NM = np.full((len(metric_N), len(problem.metrics)), np.nan)
    metrics_NM[:, problem.metrics.index(problem.objectives[0])] = metric_N
    states_N = np.where(np.isnan(metric_N), State.INFEASIBLE, State.COMPLETED).astype(np.int8)
    return values_NP, metrics_NM, states_N


def write(path: Path, optimizer: str, run: Rows) -> None:
    """Writes the run's rows to a file, atomically."""
    key = {
        "optimizer": optimizer,
        "task": run.task.name,
        "family": run.task.family,
        "seed": run.seed,
    }
    table = pa.Table.from_pylist([key | row for row in run.rows], schema=_SCHEMA)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, shared=True) as new:
        pq.write_table(table, new)
