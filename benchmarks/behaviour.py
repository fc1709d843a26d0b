"""How suggestions behave where trials fail, break constraints, run at once, or stop improving.

    python benchmarks/behaviour.py
    python benchmarks/behaviour.py --scenarios failing --seeds 20 --first-seed 100
    python benchmarks/behaviour.py --optimizers optformer tpe random --trials 40

Every optimizer is an Optuna sampler and sees the same problems, drawn by seed:

- failing: 10 to 90 % of a space of 1 to 10 parameters fails: a side of a parameter, a box, a ball,
  or some categories. Counted are failed trials and the regret of the best one that works.
- constraint: one or two functions must not be above 0, which they are in most of the space. Counted
  are trials that break one, and the regret of the best that breaks none.
- batch: trials are asked for in batches of 4 or 16. Counted are the regret, and how near to each
  other the two closest points of a batch are.
- stall: smooth functions with the optimum inside. Counted are the logarithm of the regret, and
  trials at a bound.

Shown are means over seeds with 95 % intervals; smaller is better, but for `apart`. Regret is a
share of the function's range over random points.
"""

import os

os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    }
)

import argparse
import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import optuna
import scipy.spatial
import scipy.stats
from jaxtyping import Bool, Float64
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

import optformer

FEW, MANY = 1, 10
"""Of how many parameters the failing spaces are."""

Function = Callable[[Float64[np.ndarray, "N P"]], Float64[np.ndarray, " N"]]
Check = Callable[[Float64[np.ndarray, "N P"]], Bool[np.ndarray, " N"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A function on the unit cube to maximize, where it can be measured, and its limits.

    Attributes:
      categories: parameters that have so many categories instead of numbers; category k of L is at
        (k + 0.5) / L.
      limits: functions that must not be above 0.
      batch: how many trials run at once.
      counts: what is counted of a search (`count`).
    """

    parameters: int
    value: Function
    counts: tuple[str, ...]
    fails: Check = lambda units_NP: np.zeros(len(units_NP), bool)
    limits: tuple[Function, ...] = ()
    categories: Mapping[int, int] = dataclasses.field(default_factory=dict)
    batch: int = 1

    @property
    def space(self) -> dict[str, BaseDistribution]:
        """For Optuna."""
        return {
            f"x{index}": CategoricalDistribution([f"c{k}" for k in range(self.categories[index])])
            if index in self.categories
            else FloatDistribution(0.0, 1.0)
            for index in range(self.parameters)
        }

    def units(self, params: Mapping[str, float | str]) -> Float64[np.ndarray, "1 P"]:
        """Where a trial is in the cube."""
        values = (params[f"x{index}"] for index in range(self.parameters))
        return np.array(
            [
                [
                    (int(value[1:]) + 0.5) / self.categories[index]
                    if isinstance(value, str)
                    else value
                    for index, value in enumerate(values)
                ]
            ]
        )


def bowl(parameters: int, rng: np.random.Generator) -> Function:
    """A rotated parabola with its top inside."""
    top_P = rng.uniform(0.2, 0.8, parameters)
    axes_PP = rng.normal(size=(parameters, parameters)) / np.sqrt(parameters)
    return lambda units_NP: (
        -(((units_NP - top_P) @ axes_PP) ** 2).sum(1) - 0.3 * ((units_NP - top_P) ** 2).sum(1)
    )


def waves(parameters: int, rng: np.random.Generator) -> Function:
    """A parabola with ripples."""
    ripple_PW = rng.normal(size=(parameters, 8)) * 4 / np.sqrt(parameters)
    phase_W = rng.uniform(0, 6, 8)
    smooth = bowl(parameters, rng)
    return lambda units_NP: smooth(units_NP) + 0.03 * np.cos(units_NP @ ripple_PW + phase_W).sum(1)


def failing(rng: np.random.Generator) -> Task:
    """A region of 10 to 90 % of the space fails."""
    parameters = int(rng.integers(FEW, MANY + 1))
    kind = rng.choice(["side", "box", "ball", "categories"])
    share = rng.uniform(0.1, 0.9)
    probes_NP = rng.random((4000, parameters))
    categories: dict[int, int] = {}
    if kind == "side":
        column, sign = int(rng.integers(parameters)), rng.choice([-1.0, 1.0])

        def depth(units_NP: Float64[np.ndarray, "N P"]) -> Float64[np.ndarray, " N"]:
            return sign * units_NP[:, column]

    elif kind == "categories":
        categories = {0: 10}
        rank_C = rng.permutation(10) / 10

        def depth(units_NP: Float64[np.ndarray, "N P"]) -> Float64[np.ndarray, " N"]:
            return rank_C[np.minimum((units_NP[:, 0] * 10).astype(int), 9)]

    else:
        centre_P, order = rng.random(parameters), np.inf if kind == "box" else 2

        def depth(units_NP: Float64[np.ndarray, "N P"]) -> Float64[np.ndarray, " N"]:
            return -np.linalg.norm(units_NP - centre_P, ord=order, axis=1)

    level = np.quantile(depth(probes_NP), 1.0 - share)
    return Task(
        parameters=parameters,
        value=waves(parameters, rng),
        fails=lambda units_NP: depth(units_NP) > level,
        categories=categories,
        counts=("worthless", "regret"),
    )


def constraint(rng: np.random.Generator) -> Task:
    """One or two limits that hold in 15 to 40 % of the space each."""
    parameters = int(rng.integers(2, 6))
    probes_NP = rng.random((4000, parameters))
    limits = []
    for _ in range(int(rng.integers(1, 3))):
        raw, share = waves(parameters, rng), rng.uniform(0.15, 0.4)
        level = float(np.quantile(raw(probes_NP), 1.0 - share))
        limits.append(functools.partial(below, raw, level))
    return Task(
        parameters=parameters,
        value=waves(parameters, rng),
        limits=tuple(limits),
        counts=("worthless", "regret"),
    )


def below(
    function: Function, level: float, units_NP: Float64[np.ndarray, "N P"]
) -> Float64[np.ndarray, " N"]:
    """By how much the function is below the level."""
    return level - function(units_NP)


def batch(rng: np.random.Generator) -> Task:
    """Four or sixteen at once."""
    parameters = int(rng.integers(2, 6))
    return Task(
        parameters=parameters,
        value=waves(parameters, rng),
        batch=int(rng.choice([4, 16])),
        counts=("regret", "apart"),
    )


def stall(rng: np.random.Generator) -> Task:
    """Smooth, with the optimum inside."""
    parameters = int(rng.integers(2, 6))
    return Task(
        parameters=parameters, value=bowl(parameters, rng), counts=("log10 regret", "at bounds")
    )


SCENARIOS = {"failing": failing, "constraint": constraint, "batch": batch, "stall": stall}


def sampler(name: str, seed: int, space: Mapping[str, BaseDistribution]) -> BaseSampler:
    """The Optuna sampler of this name."""
    if name == "random":
        return RandomSampler(seed=seed)
    if name == "tpe":
        return TPESampler(seed=seed, multivariate=True)
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed, deterministic_objective=True)
    return optformer.OptFormerSampler(shared_model(name), seed=seed, space=space)


@functools.cache
def shared_model(name: str) -> optformer.OptFormer:
    """Loaded once."""
    return optformer.load("optformer-tiny" if name == "optformer" else name)


def run(task: Task, trials: int, name: str, seed: int) -> dict[str, float]:
    """One search, and what is counted of it."""
    study = optuna.create_study(direction="maximize", sampler=sampler(name, seed, task.space))
    units: list[np.ndarray] = []
    values: list[float] = []
    kept: list[bool] = []
    apart: list[float] = []
    while len(values) < trials:
        asked = [study.ask(task.space) for _ in range(min(task.batch, trials - len(values)))]
        places = [task.units(trial.params) for trial in asked]
        if len(places) > 1:
            apart.append(scipy.spatial.distance.pdist(np.concatenate(places)).min())
        for trial, units_1P in zip(asked, places, strict=True):
            limits = [float(limit(units_1P)[0]) for limit in task.limits]
            for index, number in enumerate(limits):
                trial.set_constraint(f"limit{index}", number)
            failed = bool(task.fails(units_1P)[0])
            value = -np.inf if failed else float(task.value(units_1P)[0])
            study.tell(trial, value)
            units.append(units_1P)
            values.append(value)
            kept.append(not failed and max(limits, default=0.0) <= 0.0)
    return count(task, np.concatenate(units), np.array(values), np.array(kept), apart)


def count(
    task: Task,
    units_RP: Float64[np.ndarray, "R P"],
    values_R: Float64[np.ndarray, " R"],
    kept_R: Bool[np.ndarray, " R"],
    apart: list[float],
) -> dict[str, float]:
    """What is counted of a search."""
    probes_NP = np.random.default_rng(0).random((20_000, task.parameters))
    for column, count in task.categories.items():
        probes_NP[:, column] = (np.floor(probes_NP[:, column] * count) + 0.5) / count
    fine_N = ~task.fails(probes_NP)
    for limit in task.limits:
        fine_N &= limit(probes_NP) <= 0.0
    probe_N = task.value(probes_NP)
    low, high = probe_N.min(), probe_N[fine_N].max()
    best = values_R[kept_R].max(initial=low)
    regret = max((high - best) / (high - low), 0.0)
    counted = {
        "worthless": float((~kept_R).sum()),
        "regret": regret,
        "log10 regret": float(np.log10(max(regret, 1e-9))),
        "apart": float(np.median(apart)) if apart else np.nan,
        "at bounds": float(((units_RP < 0.01) | (units_RP > 0.99)).any(axis=1).sum()),
    }
    return {name: counted[name] for name in task.counts}


def main() -> None:
    """Prints a table for each scenario."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=SCENARIOS)
    parser.add_argument("--optimizers", nargs="+", default=["optformer", "tpe", "gp", "random"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=30)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    for scenario in options.scenarios:
        print(f"\n{scenario}, {options.trials} trials, {options.seeds} seeds\n")
        header = None
        for name in options.optimizers:
            counted = []
            for seed in range(options.first_seed, options.first_seed + options.seeds):
                task = SCENARIOS[scenario](np.random.default_rng(seed))
                try:
                    counted.append(run(task, options.trials, name, seed))
                except ImportError as error:  # GPSampler needs torch
                    print(f"| {name} | {error.name} is not installed |")
                    break
            else:
                keys = list(counted[0])
                if header is None:
                    header = keys
                    print(f"| optimizer | {' | '.join(keys)} |\n|---{'|---' * len(keys)}|")
                cells = [interval(np.array([each[key] for each in counted])) for key in keys]
                print(f"| {name} | {' | '.join(cells)} |", flush=True)


def interval(numbers_S: Float64[np.ndarray, " S"]) -> str:
    """The mean and half the width of its 95 % interval."""
    if len(numbers_S) < 2:
        return f"{numbers_S.mean():.3g}"
    error = scipy.stats.sem(numbers_S) * scipy.stats.t.ppf(0.975, len(numbers_S) - 1)
    return f"{numbers_S.mean():.3g} ± {error:.2g}"


if __name__ == "__main__":
    main()
