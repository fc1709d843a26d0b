"""Conversions between our types and Vizier's: problems, trials and suggestions.

Vizier's types are the ones that users pass and receive. The conversion is not lossless: Vizier
sorts categories and, in its protos, metrics. It has no study title, so ours is stored under the
metadata key "title". Only text in the root namespace of its metadata is read, because other
namespaces hold the state of algorithms.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float64
from vizier import pyvizier as vz

from optformer.errors import StudyError
from optformer.study import (
    Condition,
    Goal,
    Measurement,
    Metric,
    Parameter,
    ParameterType,
    Problem,
    Scale,
    State,
    Study,
    Trial,
    Value,
    from_trials,
)

_TITLE = "title"

NAMESPACE = "optformer"
"""The metadata namespace for the settings of our policies, which importers ignore."""


def problem_from_vizier(statement: vz.ProblemStatement, *, name: str = "") -> Problem:
    """The problem of a Vizier problem statement or study config.

    A child that occurs under several parents (or several values of one) becomes one parameter
    with several conditions. Parents come before their children; otherwise Vizier's order is kept.

    Raises:
      StudyError: a parameter is CUSTOM, a name has two different definitions, or `Problem`
        rejects the result. Names the study and the parameter.
    """
    try:
        parameters = _parameters_from_vizier(statement.search_space)
    except StudyError as error:
        raise StudyError(f"problem {name!r}: {error}") from error
    metadata = {key: value for key, value in statement.metadata.items() if isinstance(value, str)}
    title = metadata.pop(_TITLE, "")
    return Problem(
        parameters=parameters,
        metrics=tuple(
            Metric(
                name=metric.name,
                goal=Goal[metric.goal.name],
                safety_threshold=metric.safety_threshold,
            )
            for metric in statement.metric_information
        ),
        name=name,
        title=title,
        metadata=tuple(metadata.items()),
    )


def problem_to_vizier(problem: Problem) -> vz.ProblemStatement:
    """The problem as a Vizier problem statement, without the study's name.

    Raises:
      StudyError: Vizier cannot express the problem: an empty parameter name, or a child of a
        DOUBLE.
    """
    space = vz.SearchSpace()
    for parameter in problem.parameters:
        if not parameter.conditions:
            space.add(_config_to_vizier(problem, parameter))
    metadata = vz.Metadata(dict(problem.metadata))
    if problem.title:
        metadata[_TITLE] = problem.title
    return vz.ProblemStatement(
        search_space=space,
        metric_information=[
            vz.MetricInformation(
                name=metric.name,
                goal=vz.ObjectiveMetricGoal[metric.goal.name],
                safety_threshold=None
                if metric.safety_threshold is None
                else float(metric.safety_threshold),
            )
            for metric in problem.metrics
        ],
        metadata=metadata,
    )


def study_from_vizier(
    problem: Problem, trials: Sequence[vz.Trial], *, algorithm: str = ""
) -> Study:
    """The study of these trials in the given order; see `trial_from_vizier`.

    Raises:
      StudyError: a value is outside the search space, a parameter is unknown or missing, or a
        completed trial has no objective. Names the study, the trial (from 1) and the value.
    """
    rows = []
    for row, trial in enumerate(trials):
        try:
            rows.append(trial_from_vizier(problem, trial))
        except StudyError as error:
            raise StudyError(f"study {problem.name!r}, trial {row + 1}: {error}") from error
    return from_trials(problem, rows, algorithm=algorithm)


def trial_from_vizier(problem: Problem, trial: vz.Trial) -> Trial:
    """The trial with its final measurement; `from_trials` checks its values.

    Intermediate measurements become the trial's curve. Text in the root namespace of its metadata
    is kept as notes. Infeasible trials keep their measurement. Requested, active and stopping
    trials are ACTIVE.

    Raises:
      StudyError: the trial is completed, but an objective was not measured.
    """
    wanted = {metric.name for metric in problem.metrics}

    def metrics_of(measurement: vz.Measurement) -> dict[str, float]:
        return {
            name: metric.value for name, metric in measurement.metrics.items() if name in wanted
        }

    measured = {} if trial.final_measurement is None else metrics_of(trial.final_measurement)
    if trial.infeasible:
        state = State.INFEASIBLE
    elif trial.status == vz.TrialStatus.COMPLETED or trial.completion_time is not None:
        state = State.COMPLETED
        for metric in problem.objectives:
            if metric.name not in measured:
                given = sorted(trial.final_measurement.metrics) if trial.final_measurement else []
                raise StudyError(
                    f"metric {metric.name!r} was not measured (measured: {given}), but the trial "
                    "is completed. Complete it with that metric, or mark it infeasible."
                )
    else:
        state = State.ACTIVE
    by_name = {parameter.name: parameter for parameter in problem.parameters}
    return Trial(
        parameters={
            name: _value_from_vizier(by_name.get(name), value)
            for name, value in trial.parameters.items()
        },
        metrics=measured,
        state=state,
        notes={key: text for key, text in trial.metadata.items() if isinstance(text, str)},
        curve=tuple(
            Measurement(step=float(each.steps), metrics=metrics)
            for each in trial.measurements
            if (metrics := metrics_of(each))
        ),
    )


def trial_to_vizier(problem: Problem, trial: Trial, *, uid: int = 0) -> vz.Trial:
    """The trial as Vizier's, with this id; metrics become its final measurement.

    Its curve becomes intermediate measurements, whose steps are whole: Vizier cuts fractions off.
    """
    completed = trial.state == State.COMPLETED or (
        trial.state == State.INFEASIBLE and bool(trial.metrics)
    )
    return vz.Trial(
        id=uid,
        parameters=_parameters_to_vizier(problem, trial.parameters.items()),
        final_measurement=vz.Measurement(metrics=dict(trial.metrics)) if completed else None,
        infeasibility_reason="infeasible" if trial.state == State.INFEASIBLE else None,
        metadata=vz.Metadata(dict(trial.notes)),
        measurements=[
            vz.Measurement(metrics=dict(each.metrics), steps=each.step) for each in trial.curve
        ],
    )


def suggestion_to_vizier(
    problem: Problem, values_P: Float64[np.ndarray, " P"]
) -> vz.TrialSuggestion:
    """The suggestion for one row of a study's values; NaN (inactive) parameters are left out.

    Values have the types that Vizier's own algorithms give: str for categories ("True" and
    "False" for bools, which Vizier's clients turn into bools), int for INTEGER and for DISCRETE
    whose external type is INTEGER, float for the rest.
    """
    return vz.TrialSuggestion(
        parameters=_parameters_to_vizier(
            problem,
            (
                (parameter.name, parameter.from_number(float(number)))
                for parameter, number in zip(problem.parameters, values_P, strict=True)
                if not np.isnan(number)
            ),
        )
    )


def _parameters_from_vizier(space: vz.SearchSpace) -> tuple[Parameter, ...]:
    configs: dict[str, vz.ParameterConfig] = {}
    activators: dict[str, dict[str, list[Value]]] = {}  # child -> parent -> values

    def visit(config: vz.ParameterConfig, parent: str | None, value: Value | None) -> None:
        known = configs.get(config.name)
        if known is None:
            configs[config.name] = config
            activators[config.name] = {}
        elif known != config:
            raise StudyError(
                f"parameter {config.name!r} is defined in two different ways under different "
                "parents. Give each definition its own name."
            )
        if (parent is None or not activators[config.name]) and known is not None:
            raise StudyError(
                f"parameter {config.name!r} is both at the top level of the search space and a "
                "child of another parameter. Give the child its own name."
            )
        if parent is not None and value is not None:
            values = activators[config.name].setdefault(parent, [])
            if value in values:
                return  # this branch was visited under another parent of `parent`
            values.append(value)
        for branch, subspace in config.subspaces():
            for child in subspace.parameters:
                visit(child, config.name, branch)

    for config in space.parameters:
        visit(config, None, None)

    ordered: dict[str, Parameter] = {}
    waiting = dict(configs)
    while waiting:
        # One always exists: definitions contain those of their children, so there are no cycles.
        name = next(name for name in waiting if all(p in ordered for p in activators[name]))
        conditions = tuple(
            Condition(parent=parent, values=tuple(values))
            for parent, values in activators[name].items()
        )
        ordered[name] = _config_from_vizier(waiting.pop(name), conditions)
    return tuple(ordered.values())


def _config_from_vizier(config: vz.ParameterConfig, conditions: tuple[Condition, ...]) -> Parameter:
    if config.type == vz.ParameterType.CUSTOM:
        raise StudyError(
            f"parameter {config.name!r} has type CUSTOM, which has neither bounds nor values. "
            "Use DOUBLE, INTEGER, DISCRETE or CATEGORICAL."
        )
    bounds: tuple[float, float] | None = None
    values: tuple[float, ...] | tuple[str, ...] = ()
    if config.type in (vz.ParameterType.DOUBLE, vz.ParameterType.INTEGER):
        low, high = config.bounds
        bounds = (float(low), float(high))
    elif config.type == vz.ParameterType.CATEGORICAL:
        values = tuple(str(value) for value in config.feasible_values)
    else:
        values = tuple(float(value) for value in config.feasible_values)
    return Parameter(
        name=config.name,
        type=ParameterType[config.type.name],
        scale=None if config.scale_type is None else Scale[config.scale_type.name],
        bounds=bounds,
        values=values,
        conditions=conditions,
        default=config.default_value,
        external_type=config.external_type.name,
    )


def _config_to_vizier(problem: Problem, parameter: Parameter) -> vz.ParameterConfig:
    where = f"problem {problem.name!r}: parameter {parameter.name!r}"
    if not parameter.name:
        raise StudyError(f"{where}: Vizier needs a name for every parameter. Name it.")
    number = int if parameter.type == ParameterType.INTEGER else float
    config = vz.ParameterConfig.factory(
        name=parameter.name,
        bounds=None if parameter.bounds is None else tuple(number(b) for b in parameter.bounds),
        feasible_values=parameter.values or None,
        scale_type=None if parameter.scale is None else vz.ScaleType[parameter.scale.name],
        default_value=parameter.default,
        external_type=vz.ExternalType[parameter.external_type],
    )
    for child in problem.parameters:
        values = {
            value
            for condition in child.conditions
            if condition.parent == parameter.name
            for value in condition.values
        }
        if values and parameter.type == ParameterType.DOUBLE:
            raise StudyError(
                f"{where}: Vizier allows no children of a DOUBLE, and {child.name!r} is one. "
                "Make the parent DISCRETE or INTEGER."
            )
        for value in sorted(values, key=parameter.to_number):
            config.subspace(value).add(_config_to_vizier(problem, child))
    return config


def _value_from_vizier(parameter: Parameter | None, value: vz.ParameterValue) -> Value:
    if parameter is not None and parameter.type == ParameterType.CATEGORICAL:
        # Vizier's protos store bools as the numbers 0 and 1.
        if parameter.external_type == vz.ExternalType.BOOLEAN.name and value.as_bool is not None:
            return str(value.as_bool)
        return value.as_str
    return value.value


def _parameters_to_vizier(
    problem: Problem, values: Iterable[tuple[str, Value]]
) -> dict[str, Value]:
    whole = {
        parameter.name
        for parameter in problem.parameters
        if parameter.type == ParameterType.INTEGER
        or (
            parameter.type == ParameterType.DISCRETE
            and parameter.external_type == vz.ExternalType.INTEGER.name
        )
    }
    return {name: int(value) if name in whole else value for name, value in values}
