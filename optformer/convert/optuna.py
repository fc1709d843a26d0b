"""Optuna's distributions, trials and define-by-run search spaces as ours.

- FloatDistribution: DOUBLE, LOG or LINEAR; with a step DISCRETE, or DOUBLE if that makes more
  than 1,000 values. IntDistribution: INTEGER; with a step DISCRETE. CategoricalDistribution:
  CATEGORICAL with the choices as text (True and False are Vizier's bools).
- A parameter that some trials lack is conditional: see `convert.conditions`.
- COMPLETE is COMPLETED. FAIL is INFEASIBLE. PRUNED is INFEASIBLE too, because the trial was stopped
  early and its last intermediate value is not a final one. That value is kept in the metric's
  column, which objectives ignore for infeasible trials. RUNNING and WAITING are ACTIVE.
- Each direction is a metric; a trial's constraints (feasible where not above 0) are safety
  metrics. Text and numbers among the study's user attributes are its metadata, except
  "algorithm".
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optformer.convert.study_json import notes_of
from optformer.errors import StudyError
from optformer.study import (
    Goal,
    Metric,
    Parameter,
    ParameterType,
    Problem,
    Scale,
    State,
    Trial,
    Value,
)

_MOST_VALUES = 1000  # of a float with a step; with more, it counts as continuous
_STATES = {
    TrialState.COMPLETE: State.COMPLETED,
    TrialState.PRUNED: State.INFEASIBLE,
    TrialState.FAIL: State.INFEASIBLE,
    TrialState.RUNNING: State.ACTIVE,
    TrialState.WAITING: State.ACTIVE,
}
_CONSTRAINTS = "constraints"  # Optuna's system attribute: a list, or one attribute for each name


def distributions(trials: Sequence[FrozenTrial]) -> dict[str, list[BaseDistribution]]:
    """The distinct distributions of each parameter, in order of first use."""
    by_name: dict[str, list[BaseDistribution]] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            seen = by_name.setdefault(name, [])
            if distribution not in seen:
                seen.append(distribution)
    return by_name


def problem(
    study: optuna.Study, parameters: Sequence[Parameter], trials: Sequence[FrozenTrial]
) -> Problem:
    """The study's problem with these parameters and the constraints that all `trials` have."""
    return Problem(
        name=study.study_name,
        parameters=tuple(parameters),
        metrics=_metrics(study, trials),
        metadata=tuple(
            (key, text) for key, text in notes_of(study.user_attrs).items() if key != "algorithm"
        ),
    )


def parameter(name: str, seen: Sequence[BaseDistribution]) -> Parameter:
    """One parameter for all these distributions: the smallest range that contains them all.

    Raises:
      StudyError: the distributions are of different kinds, or two choices are equal as text.
    """
    kinds = {(type(d), getattr(d, "log", None), getattr(d, "step", None)) for d in seen}
    if len(kinds) > 1:
        raise StudyError(
            f"parameter {name!r} changes from {seen[0]} to {seen[-1]} between trials. "
            "Give one kind of distribution its own name."
        )
    first = seen[0]
    if isinstance(first, CategoricalDistribution):
        choices = [
            choice
            for distribution in seen
            if isinstance(distribution, CategoricalDistribution)
            for choice in distribution.choices
        ]
        by_label: dict[str, CategoricalChoiceType] = {}
        for choice in choices:
            if type(by_label.setdefault(label(choice), choice)) is not type(choice):
                raise StudyError(
                    f"parameter {name!r} has the choices {choice!r} and "
                    f"{by_label[label(choice)]!r}, which look the same as text. Rename one."
                )
        return Parameter(
            name=name,
            type=ParameterType.CATEGORICAL,
            values=tuple(by_label),
            external_type="BOOLEAN" if all(isinstance(c, bool) for c in choices) else "INTERNAL",
        )
    numeric = [d for d in seen if isinstance(d, FloatDistribution | IntDistribution)]
    low, high = min(d.low for d in numeric), max(d.high for d in numeric)
    whole = isinstance(first, IntDistribution)
    step = numeric[0].step
    if step is not None and not (whole and step == 1) and (high - low) / step < _MOST_VALUES:
        grid = {
            float(Decimal(str(d.low)) + k * Decimal(str(step)))
            for d in numeric
            for k in range(round((d.high - d.low) / step) + 1)
        }
        return Parameter(
            name=name,
            type=ParameterType.DISCRETE,
            scale=Scale.LINEAR,
            values=tuple(sorted(grid)),
            external_type="INTEGER" if whole else "FLOAT",
        )
    return Parameter(
        name=name,
        type=ParameterType.INTEGER if whole else ParameterType.DOUBLE,
        scale=Scale.LOG if numeric[0].log else Scale.LINEAR,
        bounds=(float(low), float(high)),
    )


def _metrics(study: optuna.Study, trials: Sequence[FrozenTrial]) -> tuple[Metric, ...]:
    goals = [
        Goal.MAXIMIZE if direction == StudyDirection.MAXIMIZE else Goal.MINIMIZE
        for direction in study.directions
    ]
    several = len(goals) > 1
    names = study.metric_names or [f"value_{k}" if several else "value" for k in range(len(goals))]
    limits = [_constraints(trial) for trial in trials] or [{}]
    return (
        *(Metric(name=name, goal=goal) for name, goal in zip(names, goals, strict=True)),
        *(
            Metric(name=name, goal=Goal.MINIMIZE, safety_threshold=0.0)
            for name in limits[0]
            if all(name in each for each in limits)
        ),
    )


def trial(problem: Problem, frozen: FrozenTrial, values: Mapping[str, Value]) -> Trial:
    """The trial with these values of the problem's parameters (`values_of`)."""
    objectives = [metric.name for metric in problem.objectives]
    measured = frozen.values
    if measured is None and len(objectives) == 1 and frozen.intermediate_values:
        measured = [frozen.intermediate_values[max(frozen.intermediate_values)]]
    known = {metric.name for metric in problem.metrics}
    limits = {name: limit for name, limit in _constraints(frozen).items() if name in known}
    return Trial(
        parameters=values,
        metrics=dict(zip(objectives, measured or (), strict=False)) | limits,
        state=_STATES[frozen.state],
        notes=notes_of(frozen.user_attrs),
    )


def values_of(
    parameters: Mapping[str, Parameter], drawn: Mapping[str, Value | None]
) -> dict[str, Value]:
    """A trial's choices for these parameters as our values."""
    return {
        name: value
        if value is not None and parameters[name].type != ParameterType.CATEGORICAL
        else label(value)
        for name, value in drawn.items()
        if name in parameters
    }


def label(choice: CategoricalChoiceType) -> str:
    """A choice as text: 0.1, None, True or the text itself."""
    return choice if isinstance(choice, str) else repr(choice)


def _constraints(trial: FrozenTrial) -> dict[str, float]:
    """A trial's constraints by the names of their metrics."""
    listed = enumerate(trial.system_attrs.get(_CONSTRAINTS) or ())
    prefix = f"{_CONSTRAINTS}:"
    named = (
        (key.removeprefix(prefix), value)
        for key, value in trial.system_attrs.items()
        if key.startswith(prefix)
    )
    return {f"constraint_{name}": value for name, value in (*listed, *named)}
