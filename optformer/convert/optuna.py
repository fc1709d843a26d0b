"""Optuna's distributions, trials and define-by-run search spaces as ours.

- FloatDistribution: DOUBLE, LOG or LINEAR; with a step DISCRETE, or DOUBLE if that makes more
  than 1,000 values. IntDistribution: INTEGER; with a step DISCRETE. CategoricalDistribution:
  CATEGORICAL with the choices as text (True and False are Vizier's bools).
- A parameter that some trials lack is conditional. Its parent is the first parameter whose values
  separate the trials that have it from those that lack it.
- COMPLETE is COMPLETED. FAIL is INFEASIBLE. PRUNED is INFEASIBLE too, because the trial was stopped
  early and its last intermediate value is not a final one. That value is kept in the metric's
  column, which objectives ignore for infeasible trials. RUNNING and WAITING are ACTIVE.
- Each direction is a metric; a trial's constraints (feasible where not above 0) are safety
  metrics. Text and numbers among the study's user attributes are its metadata, except
  "algorithm".
"""

import dataclasses
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
    Condition,
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


def with_conditions(
    flat: Mapping[str, Parameter], trials: Sequence[Mapping[str, Value]]
) -> dict[str, Parameter]:
    """The parameters, parents first, with conditions inferred from the trials that lack them.

    Parameters for which no condition fits are left out.
    """
    placed = {
        name: parameter
        for name, parameter in flat.items()
        if all(name in trial for trial in trials)
    }
    waiting = {name: parameter for name, parameter in flat.items() if name not in placed}
    placed_one = True
    while placed_one:
        placed_one = False
        for name, parameter in waiting.items():
            condition = _condition(name, placed, trials)
            if condition is not None:
                placed[name] = dataclasses.replace(parameter, conditions=(condition,))
                del waiting[name]
                placed_one = True
                break
    return placed


def _condition(
    name: str, parents: Mapping[str, Parameter], trials: Sequence[Mapping[str, Value]]
) -> Condition | None:
    """The condition that separates the trials with `name` from the others, or None.

    Of several conditions, one on a parent that also has values without `name` is preferred, then
    one on the parent with the fewest values.
    """
    having = [trial for trial in trials if name in trial]
    lacking = [trial for trial in trials if name not in trial]
    candidates: list[tuple[bool, int, str, set[Value]]] = []
    for parent, parameter in parents.items():
        if parameter.type == ParameterType.DOUBLE or any(parent not in trial for trial in having):
            continue
        active = {trial[parent] for trial in having}
        inactive = {trial[parent] for trial in lacking if parent in trial}
        values = len(active) + len(inactive)
        # A number that differs in every trial separates any two groups of trials.
        is_evidence = parameter.type == ParameterType.CATEGORICAL or values < len(trials)
        if active.isdisjoint(inactive) and is_evidence:
            candidates.append((not inactive, values, parent, active))
    if not candidates:
        return None
    _, _, parent, active = min(candidates, key=lambda item: item[:2])
    return Condition(parent=parent, values=tuple(sorted(active, key=parents[parent].to_number)))


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


def is_complete(problem: Problem, values: Mapping[str, Value]) -> bool:
    """Whether these are exactly the parameters that are active under their own values."""
    active: dict[str, bool] = {}
    for parameter in problem.parameters:
        active[parameter.name] = not parameter.conditions or any(
            active[each.parent] and values.get(each.parent) in each.values
            for each in parameter.conditions
        )
    return values.keys() <= active.keys() and all(
        wanted == (name in values) for name, wanted in active.items()
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
