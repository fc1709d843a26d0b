"""Tasks, and the interfaces of optimizers: of one study, or of several in lockstep.

Array dimensions: N points, P parameters, M metrics.
"""

import dataclasses
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int8, Int64

from optformer.data.problems import ObjectiveBlock
from optformer.errors import ConfigError
from optformer.space import Spaces, to_natural, to_units
from optformer.study import Problem


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
        """Adds evaluated points, its own or others'; metrics are in their own units."""
        ...


@runtime_checkable
class Chooser(Protocol):
    """An optimizer that can choose among given points. Of others, the nearest point to a suggestion
    counts."""

    def choose(self, values_NP: Float64[np.ndarray, "N P"]) -> int:
        """The row of the next point to try."""
        ...


@runtime_checkable
class Lockstep(Protocol):
    """Several studies being optimized together, one trial of each at a time."""

    def suggest(self) -> list[Float64[np.ndarray, "1 P"]]:
        """The next point of each study."""
        ...

    def update(
        self,
        row: int,
        values_NP: Float64[np.ndarray, "N P"],
        metrics_NM: Float64[np.ndarray, "N M"],
        states_N: Int8[np.ndarray, " N"],
    ) -> None:
        """As `Optimizer.update`, for study number `row`."""
        ...


@runtime_checkable
class LockstepFactory(Protocol):
    """Creates optimizers for which several studies together cost less than one after another.

    Attributes:
      together: how many studies at most it takes at once.
    """

    @property
    def together(self) -> int: ...

    def __call__(self, problem: Problem, seed: int) -> Optimizer:
        """The optimizer of a new study."""
        ...

    def many(self, problems: Sequence[Problem], seeds: Sequence[int]) -> Lockstep:
        """The optimizers of these new studies, which must not depend on each other."""
        ...


@runtime_checkable
class FreshFactory(Protocol):
    """Creates optimizers of which each run needs its own process, because they leak memory or may
    crash.

    Attributes:
      fresh_process: whether this one does.
    """

    @property
    def fresh_process(self) -> bool: ...

    def __call__(self, problem: Problem, seed: int) -> Optimizer:
        """The optimizer of a new study."""
        ...


OptimizerFactory = Callable[[Problem, int], Optimizer] | LockstepFactory


class ExactFunction:
    """Base of blocks of one noiseless function. Subclasses define `problem`, `optimum_B` and
    `evaluate_exact`."""

    problem: Problem

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The one problem."""
        return (self.problem,)

    @property
    def spaces(self) -> Spaces:
        """The unit cube."""
        return Spaces.of(self.problem.parameters)

    def evaluate(
        self, units_BNP: Float64[np.ndarray, "1 N P"], rng: np.random.Generator
    ) -> Float64[np.ndarray, "1 N"]:
        """The exact values."""
        del rng
        return self.evaluate_exact(units_BNP)

    def evaluate_exact(self, units_BNP: Float64[np.ndarray, "1 N P"]) -> Float64[np.ndarray, "1 N"]:
        """The function's values, larger better."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """Trials that an optimizer is given before its first suggestion.

    Attributes:
      values_NP: natural values.
      metric_N: measured values, in the metric's units.
      exact_N: the noiseless value, larger better.
    """

    values_NP: Float64[np.ndarray, "N P"]
    metric_N: Float64[np.ndarray, " N"]
    exact_N: Float64[np.ndarray, " N"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """Recorded points with their values. Only these can be tried, each once.

    A run that has found the best of them stops early and keeps that score.

    Attributes:
      values_NP: natural values.
      exact_N: larger better; measured values are the same.
      started: by seed, the rows that are starting points.
    """

    values_NP: Float64[np.ndarray, "N P"]
    exact_N: Float64[np.ndarray, " N"]
    started: Mapping[int, Int64[np.ndarray, " S"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """What a results folder keeps of a task; see `Task`."""

    name: str
    family: str
    trials: int
    parameters: int
    low: float
    high: float
    fingerprint: str
    group: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """One function to optimize within a number of trials.

    Attributes:
      family: the group of the task in reports.
      block: an objective block of one function.
      starts: starting trials by seed; they do not count as trials.
      low, high: the noiseless values, larger better, that score 0 and 1; NaN where unknown.
      pool: the only points that can be tried; all that are legal if None.
      group: tasks of one group are not independent, such as learners on one data set, so
        intervals resample whole groups. If empty, the task is its own group.
    """

    name: str
    family: str
    block: ObjectiveBlock
    trials: int
    starts: Mapping[int, Start] = dataclasses.field(default_factory=dict)
    low: float = float("nan")
    high: float = float("nan")
    pool: Pool | None = None
    group: str = ""

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
            group=self.group,
        )


def filled_units(
    problem: Problem, values_NP: Float64[np.ndarray, "N P"]
) -> Float64[np.ndarray, "N P"]:
    """Points in the unit cube; a parameter that is inactive, NaN, is in the middle."""
    missing_NP = np.isnan(values_NP)
    legal_P = np.array([parameter.placeholder for parameter in problem.parameters])
    units_NP = to_units(problem.parameters, np.where(missing_NP, legal_P, values_NP))
    return np.where(missing_NP, 0.5, units_NP)


def without_inactive(
    problem: Problem, values_NP: Float64[np.ndarray, "N P"]
) -> Float64[np.ndarray, "N P"]:
    """The points with NaN in place of inactive parameters, as in `Study.values_RP`."""
    if not problem.is_conditional:
        return values_NP
    return np.where(problem.active(values_NP), values_NP, np.nan)


def nearest(values_NP: Float64[np.ndarray, "N P"], to_P: Float64[np.ndarray, " P"]) -> int:
    """The row that lies nearest, by Euclid's distance."""
    return int(((values_NP - to_P) ** 2).sum(1).argmin())


def optimizer_seed(task: Task, seed: int) -> int:
    """The seed of an optimizer: the same for all optimizers, so that runs are paired, and different
    for each task, so that tasks are independent samples."""
    return int(rng_of(task.name, seed).integers(2**31))


def rng_of(name: str, seed: int) -> np.random.Generator:
    """A generator seeded by a name and a number, so that results do not depend on order."""
    return np.random.default_rng([zlib.crc32(name.encode()), seed])


def file_name(name: str) -> str:
    """A readable file name, unique for each name."""
    return f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)[:100]}-{zlib.crc32(name.encode()):08x}"


def random_start(task: Task, count: int, seed: int) -> Start:
    """`count` uniform points for a task, evaluated with the noise of that seed."""
    rng = rng_of(task.name, seed)
    units_1NP = task.block.spaces.snap(rng.random((1, count, len(task.problem.parameters))))
    sign = task.problem.objectives[0].sign
    return Start(
        values_NP=without_inactive(task.problem, to_natural(task.problem.parameters, units_1NP[0])),
        metric_N=sign * task.block.evaluate(units_1NP, rng)[0],
        exact_N=task.block.evaluate_exact(units_1NP)[0],
    )
