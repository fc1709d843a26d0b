"""A study as columns of numbers: a problem (search space, metrics, text) and its trials in order.

All other modules use these types. Users pass and receive Vizier's types, which
`convert/vizier.py` converts.

Array dimensions here: R trials (rows), P parameters, M metrics, C measurements of curves.
"""

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int32, Int64

from optformer.errors import StudyError


class ParameterType(enum.StrEnum):
    """Vizier's four parameter types."""

    DOUBLE = "DOUBLE"
    INTEGER = "INTEGER"
    DISCRETE = "DISCRETE"
    CATEGORICAL = "CATEGORICAL"


class Scale(enum.StrEnum):
    """The scale of a numeric parameter. These are Vizier's scales."""

    LINEAR = "LINEAR"
    LOG = "LOG"
    REVERSE_LOG = "REVERSE_LOG"
    UNIFORM_DISCRETE = "UNIFORM_DISCRETE"


class Goal(enum.StrEnum):
    """The direction in which a metric improves."""

    MAXIMIZE = "MAXIMIZE"
    MINIMIZE = "MINIMIZE"


class State(enum.IntEnum):
    """The state of a trial."""

    COMPLETED = 0
    INFEASIBLE = 1
    ACTIVE = 2  # suggested, not measured yet


Value = float | int | str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """A child parameter is active while `parent` is active and has one of `values`."""

    parent: str
    values: tuple[Value, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameter:
    """One dimension of a search space.

    DOUBLE and INTEGER have `bounds`; DISCRETE has ascending numeric `values`; CATEGORICAL has
    string `values`. `scale` is None if the study does not define one.

    Raises:
      StudyError: the fields contradict each other.
    """

    name: str
    type: ParameterType
    scale: Scale | None = None
    bounds: tuple[float, float] | None = None
    values: tuple[float, ...] | tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()  # one that holds activates; without any, always active
    default: Value | None = None
    external_type: str = "INTERNAL"  # Vizier's: INTERNAL, BOOLEAN, INTEGER, FLOAT

    def __post_init__(self) -> None:
        where = f"parameter {self.name!r}"
        if self.type in (ParameterType.DOUBLE, ParameterType.INTEGER):
            if self.bounds is None or self.values:
                raise StudyError(f"{where}: {self.type} needs bounds and no values.")
            low, high = self.bounds
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise StudyError(
                    f"{where}: bounds {self.bounds} must be finite numbers, the lower first."
                )
            if self.type == ParameterType.INTEGER and not (
                float(low).is_integer() and float(high).is_integer()
            ):
                raise StudyError(f"{where}: INTEGER bounds {self.bounds} must be whole numbers.")
            if self.scale in (Scale.LOG, Scale.REVERSE_LOG) and low <= 0:
                raise StudyError(
                    f"{where}: scale {self.scale} needs positive bounds, not {self.bounds}."
                )
        elif not self.values or self.bounds is not None:
            raise StudyError(f"{where}: {self.type} needs at least one value and no bounds.")
        elif len(set(self.values)) != len(self.values):
            raise StudyError(f"{where}: values {_short(self.values)} repeat.")
        elif self.type == ParameterType.CATEGORICAL:
            if not all(isinstance(value, str) for value in self.values):
                raise StudyError(f"{where}: categories must be strings: {_short(self.values)}.")
        elif not all(
            isinstance(value, int | float) and math.isfinite(value) for value in self.values
        ):
            raise StudyError(f"{where}: values {_short(self.values)} must be finite numbers.")
        elif list(self.values) != sorted(self.values):
            raise StudyError(f"{where}: values {_short(self.values)} must ascend.")

    @property
    def placeholder(self) -> float:
        """A legal number to fill places whose value does not matter."""
        if self.bounds is not None:
            return self.bounds[0]
        return 0.0 if self.type == ParameterType.CATEGORICAL else float(self.values[0])

    def to_number(self, value: Value) -> float:
        """The number that represents `value` in a column: itself, or a category's index.

        Raises:
          StudyError: `value` is not a legal value of this parameter. Names the broken rule.
        """
        if self.type == ParameterType.CATEGORICAL:
            if value in self.values:
                return float(self.values.index(value))
            raise StudyError(f"{self.name}={value!r} is not one of {_short(self.values)}.")
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise StudyError(f"{self.name}={value!r} is not a number.") from error
        if self.bounds is not None:
            low, high = self.bounds
            if not low <= number <= high:
                # Logs may round values to 7 digits beside exact bounds, so a value may exceed a
                # bound by that. The second term is for rounding errors near a bound of zero.
                noise = 1e-12 * max(abs(low), abs(high))
                if not low - 1e-6 * abs(low) - noise <= number <= high + 1e-6 * abs(high) + noise:
                    raise StudyError(f"{self.name}={value!r} lies outside [{low!r}, {high!r}].")
                number = min(max(number, low), high)
            if self.type == ParameterType.INTEGER and not number.is_integer():
                raise StudyError(f"{self.name}={value!r} is not a whole number.")
            return number
        if number in self.values:
            return number
        choices = np.asarray(self.values, dtype=np.float64)
        nearest = float(choices[np.argmin(np.abs(choices - number))])
        with np.errstate(over="ignore"):
            matches = np.float32(nearest) == np.float32(number)  # as in the OptFormer paper
        if not matches:
            raise StudyError(f"{self.name}={value!r} is not one of {_short(self.values)}.")
        return nearest

    def from_number(self, number: float) -> Value:
        """The parameter's value for a column's number: str, int or float by its type."""
        if self.type == ParameterType.CATEGORICAL:
            return self.values[int(number)]
        if self.type == ParameterType.INTEGER:
            return int(number)
        return float(number)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """One measured quantity. With a safety threshold it is a constraint, not an objective."""

    name: str
    goal: Goal = Goal.MAXIMIZE
    safety_threshold: float | None = None

    @property
    def sign(self) -> float:
        """+1 if larger is better, -1 if smaller is."""
        return 1.0 if self.goal == Goal.MAXIMIZE else -1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """An optimization problem: a search space, metrics, and descriptions as text.

    Raises:
      StudyError: names are repeated or missing, or a condition names no earlier parameter.
    """

    parameters: tuple[Parameter, ...]
    metrics: tuple[Metric, ...]
    name: str = ""
    title: str = ""
    metadata: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        where = f"problem {self.name!r}"
        if not self.parameters:
            raise StudyError(f"{where} has no parameters. A search space needs at least one.")
        if not self.metrics:
            raise StudyError(f"{where} has no metrics. Name at least one, with its goal.")
        for kind, names in (
            ("parameter", [parameter.name for parameter in self.parameters]),
            ("metric", [metric.name for metric in self.metrics]),
        ):
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise StudyError(f"{where}: {kind} name {repeated[0]!r} is used twice.")
        seen: dict[str, Parameter] = {}
        for parameter in self.parameters:
            for condition in parameter.conditions:
                parent = seen.get(condition.parent)
                if parent is None:
                    raise StudyError(
                        f"{where}: parameter {parameter.name!r} depends on {condition.parent!r}, "
                        "which is not listed before it. List parents first."
                    )
                for value in condition.values:
                    parent.to_number(value)
            seen[parameter.name] = parameter

    @property
    def is_conditional(self) -> bool:
        """Whether the problem has conditional parameters."""
        return any(parameter.conditions for parameter in self.parameters)

    @property
    def objectives(self) -> tuple[Metric, ...]:
        """The metrics to optimize: those without a safety threshold."""
        return tuple(metric for metric in self.metrics if metric.safety_threshold is None)

    def active(self, values_RP: Float64[np.ndarray, "R P"]) -> Bool[np.ndarray, "R P"]:
        """Which parameters are active in each trial, given their parents' values."""
        active_RP = np.ones(values_RP.shape, dtype=bool)
        column = {parameter.name: index for index, parameter in enumerate(self.parameters)}
        for index, parameter in enumerate(self.parameters):
            if not parameter.conditions:
                continue
            active_RP[:, index] = False
            for condition in parameter.conditions:
                parent = column[condition.parent]
                numbers = [self.parameters[parent].to_number(value) for value in condition.values]
                active_RP[:, index] |= active_RP[:, parent] & np.isin(values_RP[:, parent], numbers)
        return active_RP


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Curves:
    """Learning curves of a study's trials, with one row for each measurement, in any order.

    Attributes:
      trial_C: the trial that was measured, counted from 0.
      step_C: the amount of training so far, in the study's own unit: epochs, rounds, seconds.
      values_CM: the metrics at that step, in their own units; NaN where not measured.

    Raises:
      StudyError: the shapes are inconsistent.
    """

    trial_C: Int32[np.ndarray, " C"]
    step_C: Float64[np.ndarray, " C"]
    values_CM: Float64[np.ndarray, "C M"]

    def __post_init__(self) -> None:
        lengths = (len(self.trial_C), len(self.step_C), len(self.values_CM))
        if len(set(lengths)) > 1:
            raise StudyError(
                f"curves have {lengths[0]} trials, {lengths[1]} steps and {lengths[2]} values. "
                "Give one of each for every measurement."
            )

    def __len__(self) -> int:
        return len(self.trial_C)

    def of_trials(self, trials_R: Int64[np.ndarray, " R"]) -> "Curves":
        """The curves of these trials, renumbered by their positions in `trials_R`."""
        order_C = np.argsort(self.trial_C, kind="stable")
        sorted_C = self.trial_C[order_C]
        first_R = np.searchsorted(sorted_C, trials_R, side="left")
        count_R = np.searchsorted(sorted_C, trials_R, side="right") - first_R
        ends_R = np.cumsum(count_R)
        shift_R = first_R - (ends_R - count_R)
        rows_C = order_C[np.arange(count_R.sum()) + np.repeat(shift_R, count_R)]
        return Curves(
            trial_C=np.repeat(np.arange(len(trials_R)), count_R).astype(np.int32),
            step_C=self.step_C[rows_C],
            values_CM=self.values_CM[rows_C],
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """A problem with its trials in order, as columns.

    Attributes:
      values_RP: one row a trial. DOUBLE, INTEGER and DISCRETE hold the value itself,
        CATEGORICAL its index; NaN where a conditional parameter is inactive.
      metrics_RM: measured values in the metric's own units; NaN where not measured.
      states_R: `State` of each trial.
      algorithm: the algorithm that chose the trials.
      predictive_R2: the exact mean and standard deviation of the first metric at each trial given
        all earlier trials, in the metric's units; None if the generator does not provide them.
      notes: texts of each trial, by key (Vizier's trial metadata); None if no trial has any. They
        are for people: models do not read them.
      curves: intermediate measurements of trials; None if there are none.
      data_set: the name of the data set of the objective, if known. Splits keep studies of one data
        set on one side. Models do not read it, so that they cannot memorize results by data set.

    Raises:
      StudyError: the shapes are inconsistent. `validate` checks the rest.
    """

    problem: Problem
    values_RP: Float64[np.ndarray, "R P"]
    metrics_RM: Float64[np.ndarray, "R M"]
    states_R: Int8[np.ndarray, " R"]
    algorithm: str = ""
    predictive_R2: Float64[np.ndarray, "R 2"] | None = None
    notes: tuple[Mapping[str, str], ...] | None = None
    curves: Curves | None = None
    data_set: str = ""

    def __post_init__(self) -> None:
        trials = len(self.states_R)
        want = {
            "values_RP": (trials, len(self.problem.parameters)),
            "metrics_RM": (trials, len(self.problem.metrics)),
        }
        for field, shape in want.items():
            got = getattr(self, field).shape
            if got != shape:
                raise StudyError(
                    f"study {self.name!r}: {field} has shape {got}, but its problem and states "
                    f"require {shape}."
                )
        if self.notes is not None and len(self.notes) != trials:
            raise StudyError(
                f"study {self.name!r}: {len(self.notes)} notes, but {trials} trials. "
                "Give each trial its own notes, which may be empty."
            )
        if self.curves is not None and len(self.curves):
            metrics = self.curves.values_CM.shape[1]
            if metrics != len(self.problem.metrics):
                raise StudyError(
                    f"study {self.name!r}: curves of {metrics} metrics, but its problem has "
                    f"{len(self.problem.metrics)}."
                )
            last = int(self.curves.trial_C.max())
            if last >= trials or self.curves.trial_C.min() < 0:
                raise StudyError(
                    f"study {self.name!r}: a curve of trial {last} (from 0), but it has "
                    f"{trials} trials."
                )

    def __len__(self) -> int:
        return len(self.states_R)

    @property
    def name(self) -> str:
        """The problem's name."""
        return self.problem.name

    def rows(self, rows: slice | Sequence[int] | np.ndarray) -> "Study":
        """The same study with only these trials."""
        kept_R = np.arange(len(self))[rows]
        notes = self.notes
        if notes is not None:
            notes = tuple(notes[row] for row in kept_R)
        return dataclasses.replace(
            self,
            values_RP=self.values_RP[rows],
            metrics_RM=self.metrics_RM[rows],
            states_R=self.states_R[rows],
            predictive_R2=None if self.predictive_R2 is None else self.predictive_R2[rows],
            notes=notes,
            curves=None if self.curves is None else self.curves.of_trials(kept_R),
        )

    def objective(self) -> Float64[np.ndarray, " R"]:
        """The first objective, negated if smaller is better; NaN if a trial is not completed."""
        index = self.problem.metrics.index(self.problem.objectives[0])
        signed_R = self.problem.metrics[index].sign * self.metrics_RM[:, index]
        return np.where(self.states_R == State.COMPLETED, signed_R, np.nan)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """Metrics of a trial during its run, after `step` units of training (see `Curves`)."""

    step: float
    metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial with the user's own values. Studies are built from trials and converted back."""

    parameters: Mapping[str, Value]
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    state: State = State.COMPLETED
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    curve: tuple[Measurement, ...] = ()


def from_trials(
    problem: Problem, trials: Sequence[Trial], *, algorithm: str = "", data_set: str = ""
) -> Study:
    """The study of these trials. Every value is checked against the search space.

    Raises:
      StudyError: names the study, the trial (counted from 1), the value and the broken rule.
    """
    values_RP = np.full((len(trials), len(problem.parameters)), np.nan)
    metrics_RM = np.full((len(trials), len(problem.metrics)), np.nan)
    states_R = np.array([trial.state for trial in trials], dtype=np.int8)
    names = {parameter.name for parameter in problem.parameters}
    for row, trial in enumerate(trials):
        where = f"study {problem.name!r}, trial {row + 1}"
        unknown = sorted(set(trial.parameters) - names)
        if unknown:
            raise StudyError(
                f"{where}: parameter {unknown[0]!r} is not in the search space "
                f"({_short(tuple(sorted(names)))})."
            )
        for column, parameter in enumerate(problem.parameters):
            if parameter.name in trial.parameters:
                try:
                    values_RP[row, column] = parameter.to_number(trial.parameters[parameter.name])
                except StudyError as error:
                    raise StudyError(f"{where}: {error}") from error
        for column, metric in enumerate(problem.metrics):
            if metric.name in trial.metrics:
                metrics_RM[row, column] = trial.metrics[metric.name]
    study = Study(
        problem=problem,
        values_RP=values_RP,
        metrics_RM=metrics_RM,
        states_R=states_R,
        algorithm=algorithm,
        notes=tuple(dict(trial.notes) for trial in trials)
        if any(trial.notes for trial in trials)
        else None,
        curves=_curves(problem, trials),
        data_set=data_set,
    )
    validate(study)
    return study


def _curves(problem: Problem, trials: Sequence[Trial]) -> Curves | None:
    measured = [(row, each) for row, trial in enumerate(trials) for each in trial.curve]
    if not measured:
        return None
    return Curves(
        trial_C=np.array([row for row, _ in measured], dtype=np.int32),
        step_C=np.array([each.step for _, each in measured], dtype=np.float64),
        values_CM=np.array(
            [
                [each.metrics.get(metric.name, np.nan) for metric in problem.metrics]
                for _, each in measured
            ],
            dtype=np.float64,
        ),
    )


def _measurements(study: Study) -> list[tuple[Measurement, ...]]:
    """Each trial's curve."""
    found: list[list[Measurement]] = [[] for _ in range(len(study))]
    if study.curves is not None:
        curves = study.curves
        for row, step, values_M in zip(
            curves.trial_C, curves.step_C, curves.values_CM, strict=True
        ):
            found[row].append(
                Measurement(step=float(step), metrics=_by_name(study.problem, values_M))
            )
    return [tuple(curve) for curve in found]


def _by_name(problem: Problem, values_M: Float64[np.ndarray, " M"]) -> dict[str, float]:
    return {
        metric.name: float(number)
        for metric, number in zip(problem.metrics, values_M, strict=True)
        if not np.isnan(number)
    }


def to_trials(study: Study) -> list[Trial]:
    """The study's trials in the user's own values; inactive and unmeasured ones are left out."""
    return [
        Trial(
            parameters={
                parameter.name: parameter.from_number(number)
                for parameter, number in zip(study.problem.parameters, values_P, strict=True)
                if not np.isnan(number)
            },
            metrics=_by_name(study.problem, metrics_M),
            state=State(state),
            notes=notes,
            curve=curve,
        )
        for values_P, metrics_M, state, notes, curve in zip(
            study.values_RP,
            study.metrics_RM,
            study.states_R,
            study.notes or ({},) * len(study),
            _measurements(study),
            strict=True,
        )
    ]


def validate(study: Study) -> None:
    """Checks the properties that training and serving rely on. `Study` itself checks its shapes.

    Raises:
      StudyError: a parameter is missing while active or present while inactive, or a completed
        trial's objective is missing or not finite. Names the study, the trial and the value.
    """
    active_RP = study.problem.active(study.values_RP)
    given_RP = ~np.isnan(study.values_RP)
    for row, column in np.argwhere(active_RP != given_RP)[:1]:
        parameter = study.problem.parameters[column].name
        where = f"study {study.name!r}, trial {row + 1}"
        if active_RP[row, column]:
            raise StudyError(f"{where}: parameter {parameter!r} is missing.")
        raise StudyError(f"{where}: parameter {parameter!r} is given, but its parent disables it.")
    completed_R = study.states_R == State.COMPLETED
    for column, metric in enumerate(study.problem.metrics):
        bad_R = completed_R & ~np.isfinite(study.metrics_RM[:, column])
        if metric.safety_threshold is None and bad_R.any():
            row = int(np.argmax(bad_R))
            raise StudyError(
                f"study {study.name!r}, trial {row + 1}: metric {metric.name!r} is "
                f"{study.metrics_RM[row, column]}, but the trial is completed. A completed trial "
                "needs a finite value; mark a failed one INFEASIBLE."
            )


def _short(values: Sequence[object], limit: int = 6) -> str:
    shown = ", ".join(repr(value) for value in values[:limit])
    return f"[{shown}, … {len(values)} in all]" if len(values) > limit else f"[{shown}]"
