"""Optimizers by name, for the runner: our teachers, Vizier's designers, Optuna's samplers.

    factories = {name: optimizer(name, budget=100) for name in ("random_search", "vizier_eagle")}

Teachers have their own names, the others a prefix. Factories are plain values: they can be pickled
and compared, and their repr says their settings.
"""

import contextlib
import dataclasses
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, Int8

from optformer.data.teachers import TEACHERS
from optformer.errors import ConfigError, did_you_mean
from optformer.eval.task import Optimizer, OptimizerFactory
from optformer.space import Spaces, number_of_levels, to_natural, to_units
from optformer.study import Parameter, ParameterType, Problem, Scale, State, Trial

if TYPE_CHECKING:
    import optuna
    from vizier import algorithms as vza
    from vizier import pyvizier as vz

# name -> the modules that it needs beyond optformer's own, and how to get them
_VIZIER = {
    "vizier_random": (),
    "vizier_quasi_random": (),
    "vizier_eagle": (),
    "vizier_gp_bandit": ("jaxopt", "tensorflow_probability", "typeguard"),
    "vizier_gp_ucb_pe": ("jaxopt", "tensorflow_probability", "typeguard"),
}
_OPTUNA = {
    "optuna_random": ("optuna",),
    "optuna_quasi_random": ("optuna", "scipy"),
    "optuna_tpe": ("optuna",),
    "optuna_cma_es": ("optuna", "cmaes"),
    "optuna_gp": ("optuna", "torch", "scipy"),
}


def names() -> tuple[str, ...]:
    """All names that `optimizer` knows, installed or not."""
    # The optimum must be told to that teacher: nobody can run it on an unknown function.
    return (*sorted(set(TEACHERS) - {"optimum"}), *_VIZIER, *_OPTUNA)


def optimizer(name: str, *, budget: int = 100) -> OptimizerFactory:
    """The factory of this optimizer; `budget` is how many trials it may plan for.

    Raises:
      ConfigError: an unknown name (suggests the nearest), or packages that are not installed.
    """
    if name not in names():
        raise ConfigError(
            f"there is no optimizer named {name!r}.{did_you_mean(name, names())} There are: "
            f"{', '.join(names())}."
        )
    needs = {**_VIZIER, **_OPTUNA}.get(name, ())
    absent = [module for module in needs if importlib.util.find_spec(module) is None]
    if absent:
        extra = "vizier-gp" if name in _VIZIER else "optuna"
        raise ConfigError(
            f"optimizer {name!r} needs the Python module {absent[0]!r}, which is not installed. "
            + (
                f"Install it: pip install {absent[0]}"
                if absent[0] in ("torch", "cmaes", "scipy")
                else f'Install the extra: pip install "optformer[{extra}]"'
            )
        )
    if name in _VIZIER:
        return VizierFactory(designer=name)
    if name in _OPTUNA:
        return OptunaFactory(sampler=name)
    return TeacherFactory(teacher=name, budget=budget)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherFactory:
    """Makes one of `optformer.data.teachers` search one study."""

    teacher: str
    budget: int

    def __call__(self, problem: Problem, seed: int) -> Optimizer:
        """The teacher at the start of a study."""
        kind = _RandomSearch if self.teacher == "random_search" else _Teacher
        return kind(problem, seed, self)


class _Teacher:
    def __init__(self, problem: Problem, seed: int, factory: TeacherFactory) -> None:
        self._parameters = problem.parameters
        self._problem = problem
        self._teacher = TEACHERS[factory.teacher](
            Spaces.of(problem.parameters), np.array([seed], dtype=np.int64), factory.budget
        )

    def suggest(self, count: int) -> Float64[np.ndarray, "N P"]:
        """The teacher's next points, each pending while the next is chosen."""
        units_NP = np.concatenate([self._teacher.suggest() for _ in range(count)])
        return to_natural(self._parameters, units_NP)

    def update(
        self,
        values_NP: Float64[np.ndarray, "N P"],
        metrics_NM: Float64[np.ndarray, "N M"],
        states_N: Int8[np.ndarray, " N"],
    ) -> None:
        """Tells the teacher, larger better; infeasible is NaN."""
        signed_N = _signed(self._problem, metrics_NM, states_N)
        units_NP = to_units(self._parameters, values_NP)
        for row in range(len(signed_N)):
            self._teacher.observe(units_NP[row : row + 1], signed_N[row : row + 1])


class _RandomSearch(_Teacher):
    """Among given points, all are as likely; the nearest to a uniform point would not be."""

    def __init__(self, problem: Problem, seed: int, factory: TeacherFactory) -> None:
        super().__init__(problem, seed, factory)
        self._rng = np.random.default_rng(seed)

    def choose(self, values_NP: Float64[np.ndarray, "N P"]) -> int:
        """A random row."""
        return int(self._rng.integers(len(values_NP)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class VizierFactory:
    """Makes one of Vizier's designers, with its defaults."""

    designer: str

    @property
    def fresh_process(self) -> bool:
        """Its Gaussian processes compile for each new shape and keep all of it: after some 200
        suggestions, memory is at its end."""
        return self.designer.startswith("vizier_gp")

    def __call__(self, problem: Problem, seed: int) -> Optimizer:
        """The designer at the start of a study."""
        with _precision(self.designer):
            return _Vizier(problem, self._make(problem, seed), self.designer)

    def _make(self, problem: Problem, seed: int) -> "vza.Designer":
        # Not from vizier.algorithms.designers: that imports every designer's packages.
        from optformer.convert.vizier import problem_to_vizier

        statement = problem_to_vizier(problem)
        match self.designer:
            case "vizier_random":
                from vizier._src.algorithms.designers.random import RandomDesigner

                return RandomDesigner(statement.search_space, seed=seed)
            case "vizier_quasi_random":
                from vizier._src.algorithms.designers.quasi_random import QuasiRandomDesigner

                return QuasiRandomDesigner(statement.search_space, seed=seed)
            case "vizier_eagle":
                from vizier._src.algorithms.designers.eagle_strategy.eagle_strategy import (
                    EagleStrategyDesigner,
                )

                return EagleStrategyDesigner(statement, seed=seed)
            case "vizier_gp_bandit":
                from vizier._src.algorithms.designers.gp_bandit import VizierGPBandit

                return VizierGPBandit.from_problem(statement, seed)
            case _:
                import jax
                from vizier._src.algorithms.designers.gp_ucb_pe import VizierGPUCBPEBandit

                return VizierGPUCBPEBandit(statement, rng=jax.random.PRNGKey(seed))


class _Vizier:
    def __init__(self, problem: Problem, designer: "vza.Designer", name: str) -> None:
        self._problem = problem
        self._designer = designer
        self._name = name
        self._trials = 0
        # Eagle recognizes its fireflies by what it wrote into a suggestion's metadata.
        self._metadata: dict[bytes, vz.Metadata] = {}

    def suggest(self, count: int) -> Float64[np.ndarray, "N P"]:
        """The designer's suggestions as numbers."""
        from optformer.convert.vizier import trial_from_vizier

        with _precision(self._name):
            suggestions = self._designer.suggest(count)
        rows = []
        for suggestion in suggestions:
            trial = trial_from_vizier(self._problem, suggestion.to_trial(1))
            rows.append(
                [
                    parameter.to_number(trial.parameters[parameter.name])
                    for parameter in self._problem.parameters
                ]
            )
            self._metadata[np.array(rows[-1]).tobytes()] = suggestion.metadata
        return np.array(rows).reshape(len(rows), len(self._problem.parameters))

    def update(
        self,
        values_NP: Float64[np.ndarray, "N P"],
        metrics_NM: Float64[np.ndarray, "N M"],
        states_N: Int8[np.ndarray, " N"],
    ) -> None:
        """Tells the designer about completed or infeasible trials."""
        from vizier import algorithms as vza

        from optformer.convert.vizier import trial_to_vizier

        completed = []
        for values_P, metrics_M, state in zip(values_NP, metrics_NM, states_N, strict=True):
            self._trials += 1
            trial = Trial(
                parameters={
                    parameter.name: parameter.from_number(float(value))
                    for parameter, value in zip(self._problem.parameters, values_P, strict=True)
                },
                metrics={
                    metric.name: float(value)
                    for metric, value in zip(self._problem.metrics, metrics_M, strict=True)
                    if not np.isnan(value)
                },
                state=State(state),
            )
            told = trial_to_vizier(self._problem, trial, uid=self._trials)
            metadata = self._metadata.pop(values_P.tobytes(), None)
            if metadata is not None:
                told.metadata = metadata
            completed.append(told)
        with _precision(self._name):
            self._designer.update(vza.CompletedTrials(completed), vza.ActiveTrials())


def _precision(designer: str) -> contextlib.AbstractContextManager:
    """Vizier's Gaussian processes are written for 64-bit JAX; our model must not get it."""
    if not designer.startswith("vizier_gp"):
        return contextlib.nullcontext()
    import jax

    return jax.enable_x64(True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptunaFactory:
    """Makes one of Optuna's samplers, with its defaults."""

    sampler: str

    def __call__(self, problem: Problem, seed: int) -> Optimizer:
        """The sampler at the start of a study."""
        return _Optuna(problem, self._make(seed))

    def _make(self, seed: int) -> "optuna.samplers.BaseSampler":
        from optuna import samplers

        make: dict[str, Callable[[], samplers.BaseSampler]] = {
            "optuna_random": lambda: samplers.RandomSampler(seed=seed),
            "optuna_quasi_random": lambda: samplers.QMCSampler(scramble=True, seed=seed),
            "optuna_tpe": lambda: samplers.TPESampler(seed=seed),
            "optuna_cma_es": lambda: samplers.CmaEsSampler(seed=seed),
            "optuna_gp": lambda: samplers.GPSampler(seed=seed),
        }
        return make[self.sampler]()


class _Optuna:
    def __init__(self, problem: Problem, sampler: "optuna.samplers.BaseSampler") -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._problem = problem
        self._distributions = {
            parameter.name: _distribution(parameter) for parameter in problem.parameters
        }
        self._study = optuna.create_study(sampler=sampler, direction="maximize")
        self._pending: dict[bytes, optuna.Trial] = {}

    def suggest(self, count: int) -> Float64[np.ndarray, "N P"]:
        """The sampler's suggestions as numbers."""
        values_NP = np.empty((count, len(self._problem.parameters)))
        for row in range(count):
            trial = self._study.ask(self._distributions)
            for column, parameter in enumerate(self._problem.parameters):
                values_NP[row, column] = _from_optuna(parameter, trial.params[parameter.name])
            self._pending[values_NP[row].tobytes()] = trial
        return values_NP

    def update(
        self,
        values_NP: Float64[np.ndarray, "N P"],
        metrics_NM: Float64[np.ndarray, "N M"],
        states_N: Int8[np.ndarray, " N"],
    ) -> None:
        """Tells the study; infeasible trials are Optuna's failed ones."""
        import optuna

        signed_N = _signed(self._problem, metrics_NM, states_N)
        for values_P, signed in zip(values_NP, signed_N, strict=True):
            failed = bool(np.isnan(signed))
            state = optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE
            value = None if failed else float(signed)
            pending = self._pending.pop(values_P.tobytes(), None)
            if pending is not None:
                self._study.tell(pending, value, state)
                continue
            trial = optuna.trial.create_trial(
                state=state,
                value=value,
                params={
                    parameter.name: _to_optuna(parameter, float(number))
                    for parameter, number in zip(self._problem.parameters, values_P, strict=True)
                },
                distributions=self._distributions,
            )
            self._study.add_trial(trial)


def _distribution(parameter: Parameter) -> "optuna.distributions.BaseDistribution":
    """Optuna's kind for a parameter; DISCRETE values are their index, which keeps their order."""
    from optuna import distributions

    if parameter.type == ParameterType.CATEGORICAL:
        return distributions.CategoricalDistribution(range(len(parameter.values)))
    if parameter.type == ParameterType.DISCRETE:
        return distributions.IntDistribution(0, number_of_levels(parameter) - 1)
    assert parameter.bounds is not None
    low, high = parameter.bounds
    log = parameter.scale == Scale.LOG
    if parameter.type == ParameterType.INTEGER:
        return distributions.IntDistribution(int(low), int(high), log=log)
    return distributions.FloatDistribution(low, high, log=log)


def _from_optuna(parameter: Parameter, value: float | int) -> float:
    if parameter.type == ParameterType.DISCRETE:
        return float(parameter.values[int(value)])
    return float(value)


def _to_optuna(parameter: Parameter, number: float) -> float | int:
    if parameter.type == ParameterType.DISCRETE:
        return parameter.values.index(number)
    return number if parameter.type == ParameterType.DOUBLE else int(number)


def _signed(
    problem: Problem, metrics_NM: Float64[np.ndarray, "N M"], states_N: Int8[np.ndarray, " N"]
) -> Float64[np.ndarray, " N"]:
    """The first objective, larger better; NaN unless completed."""
    metric = problem.objectives[0]
    signed_N = metric.sign * metrics_NM[:, problem.metrics.index(metric)]
    return np.where(states_N == State.COMPLETED, signed_N, np.nan)
