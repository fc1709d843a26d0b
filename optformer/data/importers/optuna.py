"""Optuna's logs: a storage database or a journal file, read through Optuna itself.

How Optuna's words become ours:

- FloatDistribution: DOUBLE, LOG or LINEAR; with a step DISCRETE, or DOUBLE if that makes more
  than 1,000 values. IntDistribution: INTEGER; with a step DISCRETE. CategoricalDistribution:
  CATEGORICAL with the choices as text (True and False are Vizier's bools).
- A parameter whose range changed between trials gets the smallest range that holds them all.
- A parameter that some trials lack is conditional: its parent is the first parameter whose value
  tells the trials with it from those without. If no parameter does, the study is skipped.
- COMPLETE is COMPLETED. FAIL is INFEASIBLE. PRUNED is INFEASIBLE too: the trial was stopped
  because it did badly, and its last intermediate value is no final one; that value is kept in the
  metric's column, where no objective reads it. RUNNING is ACTIVE. WAITING trials, and failed or
  running ones that ended before all their parameters were drawn, are left out and counted.
- Each direction is a metric; a trial's constraints (feasible where not above 0) are safety
  metrics. Text and numbers among the study's user attributes are its metadata; the attribute
  "algorithm" says who chose the trials, because Optuna does not store its sampler.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import exc

from optformer.data.importers.record import Options, Record, Skipped, build, skipped
from optformer.data.importers.sql import read_only_url, shown
from optformer.errors import SourceError, StudyError
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

_MOST_VALUES = 1000  # of a float with a step, before it counts as continuous
_STATES = {
    TrialState.COMPLETE: State.COMPLETED,
    TrialState.PRUNED: State.INFEASIBLE,
    TrialState.FAIL: State.INFEASIBLE,
    TrialState.RUNNING: State.ACTIVE,
    TrialState.WAITING: State.ACTIVE,
}
_CONSTRAINTS = "constraints"  # Optuna's system attribute


def studies(
    source: str, options: Options, *, start: int = 0, journal: bool = False
) -> Iterator[Record]:
    """The studies of a storage in its own order.

    A database is read one study at a time; a journal has to be replayed into memory as a whole.

    Args:
      source: an SQLite file or SQLAlchemy URL, or with `journal` a journal file.
      start: how many studies to pass over without reading them.
    """
    where = shown(source)
    with _opened(source, journal) as storage:
        names = optuna.get_all_study_names(storage)
        for index, name in list(enumerate(names, start=1))[start:]:
            done = index / len(names)
            study = optuna.load_study(study_name=name, storage=storage)
            trials = study.get_trials(deepcopy=False)
            try:
                problem = _problem(study, trials)
                kept = [trial for trial in trials if _is_whole(problem, trial)]
                ours = build(
                    problem,
                    [_trial(problem, trial) for trial in kept],
                    algorithm=str(study.user_attrs.get("algorithm", "")),
                    options=options,
                )
            except StudyError as error:
                yield skipped(error, where=where, study=name), done
                continue
            if len(kept) < len(trials):
                yield _left_out(where, problem, trials), done
            yield ours, done


def _problem(study: optuna.Study, trials: Sequence[FrozenTrial]) -> Problem:
    started = [trial for trial in trials if trial.params and trial.state != TrialState.WAITING]
    # A trial that failed may lack parameters only because it never got to them.
    decided = [trial for trial in started if trial.state == TrialState.COMPLETE] or started
    if not decided:
        raise StudyError(f"study {study.study_name!r} has no trials that drew any parameters.")
    distributions: dict[str, list[BaseDistribution]] = {}
    for trial in decided:
        for name, distribution in trial.distributions.items():
            seen = distributions.setdefault(name, [])
            if distribution not in seen:
                seen.append(distribution)
    try:
        flat = {name: _parameter(name, seen) for name, seen in distributions.items()}
        parameters = _with_conditions(flat, [_values(flat, trial) for trial in decided])
    except StudyError as error:
        raise StudyError(f"study {study.study_name!r}: {error}") from error
    return Problem(
        name=study.study_name,
        parameters=parameters,
        metrics=_metrics(study, decided),
        metadata=tuple(
            (key, value if isinstance(value, str) else json.dumps(value))
            for key, value in study.user_attrs.items()
            if isinstance(value, str | int | float) and key != "algorithm"
        ),
    )


def _parameter(name: str, seen: Sequence[BaseDistribution]) -> Parameter:
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
            if type(by_label.setdefault(_label(choice), choice)) is not type(choice):
                raise StudyError(
                    f"parameter {name!r} has the choices {choice!r} and "
                    f"{by_label[_label(choice)]!r}, which look the same as text. Rename one."
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


def _with_conditions(
    flat: Mapping[str, Parameter], trials: Sequence[Mapping[str, Value]]
) -> tuple[Parameter, ...]:
    """The parameters, parents first, with the conditions that explain which trials lack them."""
    placed = {
        name: parameter
        for name, parameter in flat.items()
        if all(name in trial for trial in trials)
    }
    waiting = {name: parameter for name, parameter in flat.items() if name not in placed}
    while waiting:
        for name, parameter in waiting.items():
            condition = _condition(name, placed, trials)
            if condition is not None:
                placed[name] = dataclasses.replace(parameter, conditions=(condition,))
                break
        else:
            name = next(iter(waiting))
            row = next(row for row, trial in enumerate(trials, start=1) if name not in trial)
            raise StudyError(
                f"parameter {name!r} is missing from trial {row}, and no parameter decides when. "
                "Give every trial of the study the same parameters, or a choice that selects them."
            )
        del waiting[name]
    return tuple(placed.values())


def _condition(
    name: str, parents: Mapping[str, Parameter], trials: Sequence[Mapping[str, Value]]
) -> Condition | None:
    """The condition that tells the trials with `name` apart, or None.

    Of several, a parent that also has values without `name` is preferred, then the one with the
    fewest values.
    """
    having = [trial for trial in trials if name in trial]
    lacking = [trial for trial in trials if name not in trial]
    found: list[tuple[bool, int, str, set[Value]]] = []
    for parent, parameter in parents.items():
        if parameter.type == ParameterType.DOUBLE or any(parent not in trial for trial in having):
            continue
        active = {trial[parent] for trial in having}
        inactive = {trial[parent] for trial in lacking if parent in trial}
        values = len(active) + len(inactive)
        # A number that no two trials share would tell any trials apart.
        is_evidence = parameter.type == ParameterType.CATEGORICAL or values < len(trials)
        if active.isdisjoint(inactive) and is_evidence:
            found.append((not inactive, values, parent, active))
    if not found:
        return None
    _, _, parent, active = min(found, key=lambda item: item[:2])
    return Condition(parent=parent, values=tuple(sorted(active, key=parents[parent].to_number)))


def _metrics(study: optuna.Study, decided: Sequence[FrozenTrial]) -> tuple[Metric, ...]:
    goals = [
        Goal.MAXIMIZE if direction == StudyDirection.MAXIMIZE else Goal.MINIMIZE
        for direction in study.directions
    ]
    several = len(goals) > 1
    names = study.metric_names or [f"value_{k}" if several else "value" for k in range(len(goals))]
    limits = min((len(_constraints(trial)) for trial in decided), default=0)
    return (
        *(Metric(name=name, goal=goal) for name, goal in zip(names, goals, strict=True)),
        *(
            Metric(name=f"constraint_{k}", goal=Goal.MINIMIZE, safety_threshold=0.0)
            for k in range(limits)
        ),
    )


def _is_whole(problem: Problem, trial: FrozenTrial) -> bool:
    """Whether the trial has just the parameters that its values call for."""
    known = {parameter.name: parameter for parameter in problem.parameters}
    if trial.state == TrialState.WAITING or not trial.params.keys() <= known.keys():
        return False
    values = _values(known, trial)
    active: dict[str, bool] = {}
    for name, parameter in known.items():
        active[name] = not parameter.conditions or any(
            active[c.parent] and values.get(c.parent) in c.values for c in parameter.conditions
        )
    return all(active[name] == (name in values) for name in known)


def _trial(problem: Problem, trial: FrozenTrial) -> Trial:
    objectives = [metric.name for metric in problem.objectives]
    measured = trial.values
    if measured is None and len(objectives) == 1 and trial.intermediate_values:
        measured = [trial.intermediate_values[max(trial.intermediate_values)]]
    limits = [metric.name for metric in problem.metrics if metric.safety_threshold is not None]
    return Trial(
        parameters=_values({p.name: p for p in problem.parameters}, trial),
        metrics={
            **dict(zip(objectives, measured or (), strict=False)),
            **dict(zip(limits, _constraints(trial), strict=False)),
        },
        state=_STATES[trial.state],
    )


def _values(parameters: Mapping[str, Parameter], trial: FrozenTrial) -> dict[str, Value]:
    return {
        name: _label(value) if parameters[name].type == ParameterType.CATEGORICAL else value
        for name, value in trial.params.items()
    }


def _constraints(trial: FrozenTrial) -> Sequence[float]:
    return trial.system_attrs.get(_CONSTRAINTS) or ()


def _label(choice: CategoricalChoiceType) -> str:
    """A choice as text: 0.1, None, True or the text itself."""
    return choice if isinstance(choice, str) else repr(choice)


def _left_out(where: str, problem: Problem, trials: Sequence[FrozenTrial]) -> Skipped:
    left = [n for n, trial in enumerate(trials, start=1) if not _is_whole(problem, trial)]
    first = trials[left[0] - 1]
    return Skipped(
        where=where,
        study=problem.name,
        trial=left[0],
        kind="trials that ended before all their parameters were drawn",
        reason=(
            f"study {problem.name!r}, trial {left[0]}: left out, because it is "
            f"{first.state.name} with the parameters {sorted(first.params)}."
        ),
        trials=len(left),
    )


@contextlib.contextmanager
def _opened(source: str, journal: bool) -> Iterator[BaseStorage]:
    if journal:
        yield _replayed(source)
        return
    where = shown(source)
    url = read_only_url(source).render_as_string(hide_password=False)
    try:
        storage = RDBStorage(url, skip_table_creation=True)
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()
    except (RuntimeError, StorageInternalError, exc.SQLAlchemyError) as error:
        raise SourceError(
            f"{where}: Optuna cannot read it ({error}). Check the database with 'optuna studies'."
        ) from error


def _replayed(source: str) -> BaseStorage:
    try:
        return JournalStorage(JournalFileBackend(source))
    except (KeyError, ValueError, TypeError, AssertionError) as error:
        raise SourceError(
            f"{source} is damaged: Optuna cannot replay this journal ({error!r}). "
            "Cut it after its last whole line, or restore it from a copy."
        ) from error
