"""COCO's official bbob suite: 24 noiseless functions, recorded by COCO's own observer.

The functions are those of coco-experiment. The trials are passed to COCO's observer after the runs,
in the same order, so that runs can share processes and resume after a kill. The files are the same,
because the functions have no noise. `cocopp` writes its report from them.

A task's score is on the scale of `eval/bbob.py`: 0 is the median of one random trial, 1 is the
optimum, which COCO provides.
"""

import contextlib
import dataclasses
import functools
import shutil
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from jaxtyping import Float64

from optformer.errors import ConfigError, SourceError
from optformer.eval.bbob import random_level
from optformer.eval.benchmark import Benchmark, Option, Protocol
from optformer.eval.task import ExactFunction, Task
from optformer.study import Goal, Metric, Parameter, ParameterType, Problem

if TYPE_CHECKING:
    import cocoex

FUNCTIONS = tuple(range(1, 25))
DIMENSIONS = (2, 3, 5, 10)
_LOW, _HIGH = -5.0, 5.0
_INSTALL = 'Install the extra: pip install "optformer[coco]" (https://coco-platform.org).'

# COCO's own groups of functions.
_GROUPS = (
    (5, "separable"),
    (9, "moderate conditioning"),
    (14, "high conditioning, unimodal"),
    (19, "multimodal, adequate structure"),
    (24, "multimodal, weak structure"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CocoBlock(ExactFunction):
    """One function of the suite; an `ObjectiveBlock`. Larger is better: COCO's value, negated."""

    function: int
    dimension: int
    instance: int
    problem: Problem = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parameters = tuple(
            Parameter(name=f"x{index}", type=ParameterType.DOUBLE, bounds=(_LOW, _HIGH))
            for index in range(self.dimension)
        )
        metric = Metric(name="bbob_eval", goal=Goal.MINIMIZE)
        name = f"coco/f{self.function:03d}/{self.dimension}d/i{self.instance:02d}"
        problem = Problem(name=name, parameters=parameters, metrics=(metric,))
        object.__setattr__(self, "problem", problem)

    @property
    def optimum_B(self) -> Float64[np.ndarray, " 1"]:
        """The best value there is."""
        bare = _bare(self.function, self.dimension, self.instance)
        return np.array([-float(bare.best_value())])

    def evaluate_exact(self, units_BNP: Float64[np.ndarray, "1 N P"]) -> Float64[np.ndarray, "1 N"]:
        """The function's values, negated."""
        bare = _bare(self.function, self.dimension, self.instance)
        x_NP = np.ascontiguousarray(_LOW + (_HIGH - _LOW) * units_BNP[0])
        return -np.asarray(bare(x_NP), dtype=np.float64).reshape(1, -1)


def tasks(
    *,
    functions: Sequence[int] = FUNCTIONS,
    dimensions: Sequence[int] = DIMENSIONS,
    instances: int = 5,
    trials: int = 100,
) -> list[Task]:
    """A task for each function, dimension and instance (from 1).

    Raises:
      ConfigError: a function or dimension that the suite does not have.
      SourceError: coco-experiment is not installed.
    """
    for number in functions:
        if number not in FUNCTIONS:
            raise ConfigError(f"function {number}: COCO's bbob suite has functions 1 to 24.")
    for size in dimensions:
        if size not in (2, 3, 5, 10, 20, 40):
            raise ConfigError(
                f"{size} dimensions: COCO's bbob suite has functions of 2, 3, 5, 10, 20 and 40."
            )
    found = []
    for number in functions:
        for size in dimensions:
            for instance in range(1, instances + 1):
                block = CocoBlock(function=number, dimension=size, instance=instance)
                name = block.problem.name
                rng = np.random.default_rng(zlib.crc32(name.encode()))
                found.append(
                    Task(
                        name=name,
                        family=next(group for last, group in _GROUPS if number <= last),
                        block=block,
                        trials=trials,
                        low=random_level(block, rng),
                        high=float(block.optimum_B[0]),
                    )
                )
    return found


def observe(folder: Path) -> list[Path]:
    """Passes all trials of the first seed in a results folder to COCO's observer.

    Returns:
      A folder for each optimizer, `<folder>/exdata/<optimizer>`; one that was there is replaced.

    Raises:
      SourceError: coco-experiment is not installed.
    """
    import pyarrow.parquet as pq

    cocoex = _cocoex()
    cocoex.log_level("warning")
    columns = ["optimizer", "task", "seed", "trial", "values"]
    rows = pq.read_table(folder / "rows.parquet", columns=columns).to_pylist()
    first = min(row["seed"] for row in rows)
    runs: dict[str, dict[tuple[int, int, int], list]] = {}
    for row in rows:
        if row["seed"] == first and row["values"]:
            _, function, size, instance = row["task"].split("/")
            key = (int(size[:-1]), int(function[1:]), int(instance[1:]))
            runs.setdefault(row["optimizer"], {}).setdefault(key, []).append(row)
    written = []
    for optimizer, theirs in runs.items():
        sizes, functions, instances = (sorted({key[i] for key in theirs}) for i in range(3))
        suite = cocoex.Suite(
            "bbob",
            f"instances: {_listed(instances)}",
            f"dimensions: {_listed(sizes)} function_indices: {_listed(functions)}",
        )
        shutil.rmtree(folder / "exdata" / optimizer, ignore_errors=True)
        with contextlib.chdir(folder):  # COCO always writes into exdata/ of the current folder
            observer = cocoex.Observer(
                "bbob", f"result_folder: {optimizer} algorithm_name: {optimizer}"
            )
            for size, function, instance in sorted(theirs):
                problem = suite.get_problem_by_function_dimension_instance(function, size, instance)
                problem.observe_with(observer)
                for row in sorted(theirs[size, function, instance], key=lambda row: row["trial"]):
                    problem(np.array(row["values"]))
                problem.free()
        written.append(folder / "exdata" / optimizer)
    return written


def report(folder: Path, observed: Sequence[Path]) -> Path:
    """COCO's own report of observed runs, in `<folder>/ppdata`; returns its page.

    It runs in a process of its own: cocopp changes the settings of matplotlib.

    Raises:
      SourceError: cocopp is not installed, or fails; says with what.
    """
    out = folder / "ppdata"
    words = [sys.executable, "-m", "cocopp", "-o", str(out.resolve())]
    words += [str(path.resolve()) for path in observed]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if "No module named cocopp" in done.stderr:
        raise SourceError(f"COCO's report needs cocopp, which is not installed. {_INSTALL}")
    if done.returncode or not (out / "index.html").exists():
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise SourceError(
            f"cocopp failed on {folder / 'exdata'}: {''.join(last)}. Its input is there; run it by "
            "hand, or with another version."
        )
    return out / "index.html"


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _cocoex() -> "cocoex":
    try:
        import cocoex
    except ImportError as error:
        raise SourceError(
            f"COCO's suite needs coco-experiment, which is not installed. {_INSTALL}"
        ) from error
    return cocoex


@functools.lru_cache(maxsize=4096)
def _bare(function: int, dimension: int, instance: int) -> "cocoex.BareProblem":
    return _cocoex().BareProblem("bbob", function, dimension, instance)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CocoOptions:
    """Which of the suite's functions are optimized."""

    functions: Annotated[tuple[int, ...], Option("1 to 24; by default all.", "--function")] = ()
    dimensions: Annotated[tuple[int, ...], Option("By default 2, 3, 5 and 10.", "--dimension")] = ()
    instances: Annotated[int, Option("Instances of each function.", min=1)] = 5
    postprocess: Annotated[bool, Option("Have cocopp write its report, in OUT/ppdata.")] = True


def _after(options: CocoOptions, out: Path) -> None:
    observed = observe(out)
    if options.postprocess:
        report(out, observed)


COCO = Benchmark(
    name="coco",
    help="COCO's official bbob suite: the observer's files, cocopp's report, and ours.",
    protocols=(
        Protocol(
            name="coco",
            title="COCO's bbob suite",
            score="The score is the best value so far on a scale where 0 is what one random trial "
            "finds in the median and 1 is the optimum (optformer/eval/coco.py). COCO's own report, "
            "by its own measures, is ppdata/index.html; its observer's files are in exdata.",
        ),
    ),
    options=CocoOptions,
    tasks=lambda options, trials: tasks(
        functions=options.functions or FUNCTIONS,
        dimensions=options.dimensions or DIMENSIONS,
        instances=options.instances,
        trials=trials,
    ),
    defaults={"acquisitions": ("ei",)},
    after=_after,
)
