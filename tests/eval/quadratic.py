"""A tiny objective and optimizers for it, importable by worker processes."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from optformer.eval.task import Task
from optformer.space import Spaces, to_natural
from optformer.study import Goal, Metric, Parameter, ParameterType, Problem, Scale, State

PARAMETERS = (
    Parameter(name="lr", type=ParameterType.DOUBLE, scale=Scale.LOG, bounds=(1e-4, 1.0)),
    Parameter(name="layers", type=ParameterType.INTEGER, bounds=(1, 4)),
    Parameter(name="width", type=ParameterType.DISCRETE, values=(16.0, 64.0, 256.0)),
    Parameter(name="activation", type=ParameterType.CATEGORICAL, values=("relu", "tanh")),
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Quadratic:
    """-|u - 0.5|^2 with noise; points with a first coordinate above 0.9 are infeasible."""

    noise: float = 0.1
    goal: Goal = Goal.MINIMIZE
    parameters: tuple[Parameter, ...] = PARAMETERS
    problems: tuple[Problem, ...] = dataclasses.field(init=False)

    def __post_init__(self):
        problem = Problem(
            name="quadratic",
            parameters=self.parameters,
            metrics=(Metric(name="loss", goal=self.goal),),
        )
        object.__setattr__(self, "problems", (problem,))

    @property
    def spaces(self):
        return Spaces.of(self.parameters)

    @property
    def optimum_B(self):
        return np.array([0.0])

    @property
    def optimum_BP(self):
        return np.full((1, len(self.parameters)), 0.5)

    def evaluate(self, units_BNP, rng):
        values_BN = self.evaluate_exact(units_BNP)
        noisy_BN = values_BN + self.noise * rng.standard_normal(values_BN.shape)
        return np.where(units_BNP[..., 0] > 0.9, np.nan, noisy_BN)

    def evaluate_exact(self, units_BNP):
        return -((units_BNP - 0.5) ** 2).sum(-1)


def task(name="quadratic", trials=6, **fields):
    """A task of that objective; scores from -1 to 0."""
    block = fields.pop("block", Quadratic())
    return Task(name=name, family="q", block=block, trials=trials, low=-1.0, high=0.0, **fields)


class Recorder:
    """Uniform points; records its updates."""

    told: list

    def __init__(self, problem, seed):
        self.rng = np.random.default_rng(seed)
        self.problem = problem
        self.told = []
        Recorder.last = self

    def suggest(self, count):
        units = Spaces.of(self.problem.parameters).snap(self.rng.random((1, count, 4)))
        return to_natural(self.problem.parameters, units[0])

    def update(self, values_NP, metrics_NM, states_N):
        self.told += [
            (tuple(values), float(metrics[0]), State(state))
            for values, metrics, state in zip(values_NP, metrics_NM, states_N, strict=True)
        ]


class Corner(Recorder):
    """Always suggests the same point."""

    def suggest(self, count):
        return np.tile([0.01, 2.0, 64.0, 1.0], (count, 1))


class Breaks(Recorder):
    """Raises an error at its third suggestion."""

    def suggest(self, count):
        if len(self.told) == 2:
            raise RuntimeError("no third idea")
        return super().suggest(count)


class Kills(Recorder):
    """Kills its process."""

    def suggest(self, count):
        os._exit(3)


@dataclasses.dataclass(frozen=True)
class Counting:
    """Writes a file for every run that it starts."""

    folder: Path
    setting: int = 0

    def __call__(self, problem, seed):
        (self.folder / f"{seed}-{len(list(self.folder.iterdir()))}").touch()
        return Recorder(problem, seed)


@dataclasses.dataclass(frozen=True)
class Processes:
    """Writes a file with the process id of every run."""

    folder: Path
    fresh_process: bool = False

    def __call__(self, problem, seed):
        count = len(list(self.folder.iterdir()))
        (self.folder / f"{self.fresh_process}-{os.getpid()}-{count}").touch()
        return Recorder(problem, seed)


class Chorus:
    """Several `Recorder`s in lockstep; notes how many. Those with a seed in `broken` raise."""

    def __init__(self, together=2, broken=()):
        self.together = together
        self.broken = broken
        self.groups = []

    def __call__(self, problem, seed):
        self.groups.append(1)
        return Breaks(problem, seed) if seed in self.broken else Recorder(problem, seed)

    def many(self, problems, seeds):
        self.groups.append(len(problems))
        return _Singing(
            [
                Breaks(problem, seed) if seed in self.broken else Recorder(problem, seed)
                for problem, seed in zip(problems, seeds, strict=True)
            ]
        )


class _Singing:
    def __init__(self, voices):
        self.voices = voices

    def suggest(self):
        return [voice.suggest(1) for voice in self.voices]

    def update(self, row, values_NP, metrics_NM, states_N):
        self.voices[row].update(values_NP, metrics_NM, states_N)
