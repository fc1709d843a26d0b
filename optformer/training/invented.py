"""Invented studies: random functions of parameters whose names mean nothing.

They teach the prior network to say nothing where it knows nothing: what `x1` in [-5, 5] does, no
earlier study can tell.

Array dimensions: R trials, P parameters, W waves.
"""

import numpy as np

from optformer.space import to_natural
from optformer.study import Goal, Metric, Parameter, ParameterType, Problem, Scale, State, Study

_NAMES = (
    *("x{}", "x_{}", "p{}", "param_{}", "param{}", "v{}", "var{}", "theta_{}", "theta{}", "d{}"),
    *(
        "arg{}",
        "z{}",
        "input_{}",
        "feature{}",
        "w{}",
        "coefficient_{}",
        "knob{}",
        "{}",
        "f{}_value",
    ),
)
_TITLES = (
    *("", "", "function {}", "problem {}", "objective", "benchmark function", "black box"),
    *("experiment {}", "study", "test function", "synthetic", "optimization", "f{}"),
)
_METRICS = ("value", "objective", "y", "metric", "f", "cost", "result", "loss", "reward", "score")


def invented(count: int, trials: int, seed: int) -> list[Study]:
    """So many studies of random trials."""
    return [_study(trials, np.random.default_rng([seed, number])) for number in range(count)]


def _study(trials: int, rng: np.random.Generator) -> Study:
    size = int(rng.integers(2, 13))
    pattern, kind = str(rng.choice(_NAMES)), rng.random()
    parameters = tuple(_parameter(pattern.format(index), kind, rng) for index in range(size))
    units_RP = rng.random((trials, size))
    # A sum of random waves, as long as some parameters' ranges and as short as a part of others'.
    length_P = np.exp(rng.normal(0.0, 1.0, size)) * size**0.5
    waves_PW = rng.standard_normal((size, 60)) / length_P[:, None]
    value_R = np.cos(4.0 * units_RP @ waves_PW + rng.uniform(0, 2 * np.pi, 60)).sum(1)
    if rng.random() < 0.4:  # a bowl, as in many benchmarks
        value_R -= 8.0 * ((units_RP - rng.random(size)) ** 2).sum(1)
    value_R += rng.choice([0.0, 0.5]) * rng.standard_normal(trials)
    goal = Goal.MINIMIZE if rng.random() < 0.5 else Goal.MAXIMIZE
    metric = Metric(name=str(rng.choice(_METRICS)), goal=goal)
    problem = Problem(
        parameters=parameters,
        metrics=(metric,),
        name="invented/function",
        title=str(rng.choice(_TITLES)).format(rng.integers(25)),
    )
    return Study(
        problem=problem,
        values_RP=to_natural(parameters, units_RP),
        metrics_RM=metric.sign * value_R[:, None],
        states_R=np.full(trials, State.COMPLETED, np.int8),
        algorithm="random_search",
    )


def _parameter(name: str, kind: float, rng: np.random.Generator) -> Parameter:
    chance = rng.random() if kind < 0.5 else 0.0  # half of the studies are all continuous
    if chance < 0.6:
        if rng.random() < 0.25:
            low = 10.0 ** rng.integers(-6, 1)
            bounds = (float(low), float(low * 10.0 ** rng.integers(1, 6)))
            return Parameter(name=name, type=ParameterType.DOUBLE, scale=Scale.LOG, bounds=bounds)
        ends = [(0.0, 1.0), (-5.0, 5.0), (-1.0, 1.0), (0.0, 10.0), (-100.0, 100.0)]
        scale = None if rng.random() < 0.3 else Scale.LINEAR
        bounds = ends[rng.integers(len(ends))]
        return Parameter(name=name, type=ParameterType.DOUBLE, scale=scale, bounds=bounds)
    if chance < 0.8:
        high = float(rng.choice([3, 5, 10, 20, 100, 1000]))
        return Parameter(
            name=name, type=ParameterType.INTEGER, scale=Scale.LINEAR, bounds=(0.0, high)
        )
    values = tuple(str(index) for index in range(int(rng.integers(2, 7))))
    return Parameter(name=name, type=ParameterType.CATEGORICAL, values=values)
