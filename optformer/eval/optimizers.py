"""Optimizers by name, for the runner: our teachers, Vizier's designers, Optuna's samplers.

    factories = {name: optimizer(name, budget=100) for name in ("random_search", "vizier_eagle")}

Teachers have their own names, the others a prefix. Factories are plain values: they can be pickled
and compared, and their repr says their settings.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
import inspect
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, Int8

from optformer.data import teachers
from optformer.data.teachers import TEACHERS
from optformer.errors import ConfigError, did_you_mean
from optformer.eval.task import Optimizer, OptimizerFactory, filled_units
from optformer.space import Spaces, number_of_levels, to_natural
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
    if what := missing(name):
        raise ConfigError(f"optimizer {name!r} {what}")
    if name in _VIZIER:
        return VizierFactory(designer=name)
    if name in _OPTUNA:
        return OptunaFactory(sampler=name)
    return TeacherFactory(teacher=name, budget=budget)


def missing(name: str) -> str:
    """What is not installed that an optimizer needs, and how to get it; "" if nothing is."""
    needs = {**_VIZIER, **_OPTUNA}.get(name, ())
    absent = [module for module in needs if importlib.util.find_spec(module) is None]
    if not absent:
        return ""
    if name == "optuna_gp":
        how = 'Install the extra: pip install "optformer[optuna-gp]"'
    elif absent[0] in ("cmaes", "scipy"):
        how = f"Install it: pip install {absent[0]}"
    else:
        extra = "vizier-gp" if name in _VIZIER else "optuna"
        how = f'Install the extra: pip install "optformer[{extra}]"'
    return f"needs the Python module {absent[0]!r}, which is not installed. {how}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherFactory:
    """Makes one of `optformer.data.teachers` search one study."""

    teacher: str
    budget: int

    @property
    def version(self) -> str:
        """A hash of all teachers' code."""
        sources = sorted(Path(teachers.__file__).parent.glob("*.py"))
        return f"{zlib.crc32(b''.join(source.read_bytes() for source in sources)):08x}"

    @property
    def random_trials(self) -> int | None:
        """How many of its first trials are random; None if all are."""
        if self.teacher in ("random_search", "quasi_random", "shuffled_grid_search"):
            return None
        return OptunaFactory(sampler="optuna_tpe").random_trials if self.teacher == "tpe" else 0

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
        units_NP = filled_units(self._problem, values_NP)
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
    version: str = dataclasses.field(
        default_factory=lambda: importlib.metadata.version("google-vizier")
    )

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
                    if parameter.name in trial.parameters
                    else np.nan  # inactive
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
                    if not np.isnan(value)
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
    version: str = dataclasses.field(default_factory=lambda: importlib.metadata.version("optuna"))

    @property
    def random_trials(self) -> int | None:
        """How many of its first trials are random; None if all are."""
        startup = inspect.signature(self._make).parameters.get("n_startup_trials")
        return None if startup is None else int(startup.default)

    def __call__(self, problem: Problem, seed: int) -> Optimizer:
        """The sampler at the start of a study."""
        return _Optuna(problem, self._make(seed=seed))

    @property
    def _make(self) -> "Callable[..., optuna.samplers.BaseSampler]":
        from optuna import samplers

        make: dict[str, Callable[..., samplers.BaseSampler]] = {
            "optuna_random": samplers.RandomSampler,
            "optuna_quasi_random": functools.partial(samplers.QMCSampler, scramble=True),
            "optuna_tpe": samplers.TPESampler,
            "optuna_cma_es": samplers.CmaEsSampler,
            "optuna_gp": samplers.GPSampler,
        }
        return make[self.sampler]


class _Optuna:
    def __init__(self, problem: Problem, sampler: "optuna.samplers.BaseSampler") -> None:
        import optuna

        # Below errors: it warns of every conditional parameter that it samples independently.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
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
            if self._problem.is_conditional:
                trial = self._study.ask()
                values_NP[row] = self._define_by_run(trial)
            else:
                trial = self._study.ask(self._distributions)
                for column, parameter in enumerate(self._problem.parameters):
                    values_NP[row, column] = _from_optuna(parameter, trial.params[parameter.name])
            self._pending[values_NP[row].tobytes()] = trial
        return values_NP

    def _define_by_run(self, trial: "optuna.Trial") -> Float64[np.ndarray, " P"]:
        """The trial's values, of which a parent's decides whether a child is asked for."""
        values_1P = np.full((1, len(self._problem.parameters)), np.nan)
        for column, parameter in enumerate(self._problem.parameters):
            if self._problem.active(values_1P)[0, column]:
                value = _ask_for(trial, parameter.name, self._distributions[parameter.name])
                values_1P[0, column] = _from_optuna(parameter, value)
        return values_1P[0]

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
            params = {
                parameter.name: _to_optuna(parameter, float(number))
                for parameter, number in zip(self._problem.parameters, values_P, strict=True)
                if not np.isnan(number)
            }
            trial = optuna.trial.create_trial(
                state=state,
                value=value,
                params=params,
                distributions={name: self._distributions[name] for name in params},
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


def _ask_for(
    trial: "optuna.Trial", name: str, distribution: "optuna.distributions.BaseDistribution"
) -> float | int:
    from optuna import distributions

    if isinstance(distribution, distributions.CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)  # type: ignore[return-value]
    if isinstance(distribution, distributions.IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, distributions.FloatDistribution)
    return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)


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
