"""A problem and its trials as JSON: the format of study logs, and of the text columns of shards.

    {"name": "lcbench/openml-31", "title": "...", "algorithm": "random_search",
     "metadata": {"team": "vision"},
     "metrics": [{"name": "accuracy", "goal": "MAXIMIZE"},
                 {"name": "latency", "goal": "MINIMIZE", "safety_threshold": 20.0}],
     "parameters": [{"name": "lr", "type": "DOUBLE", "scale": "LOG", "bounds": [1e-4, 0.1]},
                    {"name": "opt", "type": "CATEGORICAL", "values": ["sgd", "adam"]},
                    {"name": "momentum", "type": "DOUBLE", "bounds": [0, 1],
                     "conditions": [{"parent": "opt", "values": ["sgd"]}]}],
     "data_set": "openml-31",
     "trials": [{"parameters": {"lr": 0.01, "opt": "adam"}, "metrics": {"accuracy": 80.1},
                 "curve": [{"step": 1, "metrics": {"accuracy": 61.0}},
                           {"step": 2, "metrics": {"accuracy": 74.9}}],
                 "notes": {"host": "a7"}}]}

Names, types, scales, goals and states are those of `optformer.study`. A trial's state is COMPLETED
by default. Other keys of a study or trial, and other metrics of a trial, are ignored, except keys
that look like a misspelling. Other keys of a parameter or metric are errors, because ignoring one
could change its meaning. A value of null means absent; true and false mean the categories "True"
and "False".
"""

import enum
import json
from collections.abc import Mapping, Sequence
from typing import TypeVar

from optformer.errors import StudyError, did_you_mean
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
    Trial,
    Value,
)

Json = Mapping[str, object]

STUDY_KEYS = (
    "name", "title", "algorithm", "metadata", "metrics", "parameters", "data_set", "trials",
)  # fmt: skip
_PARAMETER_KEYS = (
    "name", "type", "scale", "bounds", "values", "conditions", "default", "external_type",
)  # fmt: skip
_METRIC_KEYS = ("name", "goal", "safety_threshold")
_CONDITION_KEYS = ("parent", "values")
_TRIAL_KEYS = ("parameters", "metrics", "state", "curve")
_MEASUREMENT_KEYS = ("step", "metrics")
_STATES = {state.name: state for state in State}
_EXTERNAL_TYPES = ("INTERNAL", "BOOLEAN", "INTEGER", "FLOAT")

_Enum = TypeVar("_Enum", bound=enum.StrEnum)


def problem_to_json(problem: Problem) -> dict[str, object]:
    """The problem as a JSON object, without empty keys."""
    document: dict[str, object] = {"name": problem.name}
    if problem.title:
        document["title"] = problem.title
    if problem.metadata:
        document["metadata"] = dict(problem.metadata)
    return document | space_to_json(problem)


def space_to_json(problem: Problem) -> dict[str, object]:
    """The metrics and parameters of a problem, which studies of one search space share."""
    return {
        "metrics": [_metric_to_json(metric) for metric in problem.metrics],
        "parameters": [_parameter_to_json(parameter) for parameter in problem.parameters],
    }


def problem_from_json(document: object) -> Problem:
    """The problem of a JSON object, whose algorithm and trials are ignored here.

    Raises:
      StudyError: a key is unknown or missing, a value has the wrong type, or `Problem` or
        `Parameter` rejects it. Names the study and the parameter.
    """
    fields = _object(document, "the study", STUDY_KEYS, others=True)
    name = _text(fields, "name", "the study")
    where = f"study {name!r}"
    try:
        metadata = _object(fields.get("metadata", {}), "metadata")
        return Problem(
            name=name,
            title=_text(fields, "title", "the study"),
            metadata=tuple((key, _text(metadata, key, "metadata")) for key in metadata),
            metrics=tuple(_metric_from_json(item) for item in _items(fields, "metrics")),
            parameters=tuple(_parameter_from_json(item) for item in _items(fields, "parameters")),
        )
    except StudyError as error:
        message = str(error)
        already = message.startswith("problem ")  # the message names the study
        raise StudyError(message if already else f"{where}: {message}") from error


def trial_to_json(trial: Trial) -> dict[str, object]:
    """The trial as a JSON object, without a curve or notes if it has none."""
    document: dict[str, object] = {
        "parameters": dict(trial.parameters),
        "metrics": dict(trial.metrics),
        "state": trial.state.name,
    }
    if trial.curve:
        document["curve"] = [
            {"step": each.step, "metrics": dict(each.metrics)} for each in trial.curve
        ]
    return document | ({"notes": dict(trial.notes)} if trial.notes else {})


def trials_from_json(problem: Problem, trials: object) -> list[Trial]:
    """The trials of a JSON list. `from_trials` checks their values against the search space.

    Raises:
      StudyError: a trial is malformed. Names the study, the trial (from 1) and the error.
    """
    result = []
    for row, trial in enumerate(readable_trials(problem, trials), start=1):
        if isinstance(trial, StudyError):
            raise StudyError(f"study {problem.name!r}, trial {row}: {trial}") from trial
        result.append(trial)
    return result


def readable_trials(problem: Problem, trials: object) -> list[Trial | StudyError]:
    """`trials_from_json` with an error in place of each trial that cannot be read.

    Raises:
      StudyError: the trials are not a list.
    """
    if not isinstance(trials, Sequence) or isinstance(trials, str):
        raise StudyError(f"study {problem.name!r}: trials must be a list, not {_kind(trials)}.")
    categorical = frozenset(
        parameter.name
        for parameter in problem.parameters
        if parameter.type == ParameterType.CATEGORICAL
    )
    metrics = frozenset(metric.name for metric in problem.metrics)
    result: list[Trial | StudyError] = []
    for item in trials:
        try:
            result.append(_trial_from_json(item, categorical, metrics))
        except StudyError as error:
            result.append(error)
    return result


def _trial_from_json(item: object, categorical: frozenset[str], wanted: frozenset[str]) -> Trial:
    fields = _object(item, "a trial", _TRIAL_KEYS, others=True)
    parameters: dict[str, Value] = {}
    for name, value in _object(fields.get("parameters"), "parameters").items():
        if isinstance(value, bool) and name in categorical:
            parameters[name] = str(value)
        elif isinstance(value, float | int | str):
            parameters[name] = value
        elif value is not None:
            raise StudyError(f"{name} is {_kind(value)}, not a number or a string.")
    state = fields.get("state", "COMPLETED")
    if not isinstance(state, str) or state not in _STATES:
        raise StudyError(f"state is {state!r}; it can be {', '.join(_STATES)}.")
    # Notes are for people, so other types in them are dropped rather than rejected.
    given = fields.get("notes")
    notes = notes_of(given) if isinstance(given, Mapping) else {}
    return Trial(
        parameters=parameters,
        metrics=_metrics(fields, wanted),
        state=_STATES[state],
        notes=notes,
        curve=tuple(_measurement(each, wanted) for each in _items(fields, "curve"))
        if fields.get("curve") is not None
        else (),
    )


def _metrics(fields: Json, wanted: frozenset[str]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name, value in _object(fields.get("metrics") or {}, "metrics").items():
        if name not in wanted or value is None:
            continue
        if not isinstance(value, float | int) or isinstance(value, bool):
            raise StudyError(f"metric {name!r} is {value!r}, not a number.")
        metrics[name] = _number(value, f"metric {name!r}")
    return metrics


def _measurement(item: object, wanted: frozenset[str]) -> Measurement:
    fields = _object(item, "a measurement of the curve", _MEASUREMENT_KEYS)
    step = _number(fields.get("step"), "a measurement's step")
    return Measurement(step=step, metrics=_metrics(fields, wanted))


def notes_of(given: Mapping[str, object]) -> dict[str, str]:
    """The entries that are text or numbers, as text."""
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in given.items()
        if isinstance(value, str | int | float)
    }


def _metric_to_json(metric: Metric) -> dict[str, object]:
    document: dict[str, object] = {"name": metric.name, "goal": metric.goal.value}
    if metric.safety_threshold is not None:
        document["safety_threshold"] = metric.safety_threshold
    return document


def _metric_from_json(item: object) -> Metric:
    fields = _object(item, "a metric", _METRIC_KEYS)
    name = _text(fields, "name", "a metric")
    where = f"metric {name!r}"
    threshold = fields.get("safety_threshold")
    return Metric(
        name=name,
        goal=_member(Goal, fields.get("goal"), f"{where}: goal"),
        safety_threshold=None if threshold is None else _number(threshold, where),
    )


def _parameter_to_json(parameter: Parameter) -> dict[str, object]:
    document: dict[str, object] = {"name": parameter.name, "type": parameter.type.value}
    if parameter.scale is not None:
        document["scale"] = parameter.scale.value
    if parameter.bounds is not None:
        document["bounds"] = list(parameter.bounds)
    if parameter.values:
        document["values"] = list(parameter.values)
    if parameter.conditions:
        document["conditions"] = [
            {"parent": condition.parent, "values": list(condition.values)}
            for condition in parameter.conditions
        ]
    if parameter.default is not None:
        document["default"] = parameter.default
    if parameter.external_type != "INTERNAL":
        document["external_type"] = parameter.external_type
    return document


def _parameter_from_json(item: object) -> Parameter:
    fields = _object(item, "a parameter", _PARAMETER_KEYS)
    name = _text(fields, "name", "a parameter")
    where = f"parameter {name!r}"
    kind = _member(ParameterType, fields.get("type"), f"{where}: type")
    scale = fields.get("scale")
    bounds: tuple[float, float] | None = None
    if fields.get("bounds") is not None:
        numbers = [_number(bound, f"{where}: bounds") for bound in _items(fields, "bounds", where)]
        if len(numbers) != 2:
            raise StudyError(f"{where}: bounds are two numbers, not {len(numbers)}.")
        bounds = (numbers[0], numbers[1])
    values: tuple[float, ...] | tuple[str, ...] = ()
    if fields.get("values") is not None:
        items = _items(fields, "values", where)
        if kind == ParameterType.CATEGORICAL:
            values = tuple(_category(value, where) for value in items)
        else:
            values = tuple(_number(value, f"{where}: values") for value in items)
    default = fields.get("default")
    external = fields.get("external_type", "INTERNAL")
    if external not in _EXTERNAL_TYPES:
        raise StudyError(
            f"{where}: external_type is {external!r}; it can be {', '.join(_EXTERNAL_TYPES)}."
        )
    return Parameter(
        name=name,
        type=kind,
        scale=None if scale is None else _member(Scale, scale, f"{where}: scale"),
        bounds=bounds,
        values=values,
        conditions=tuple(
            _condition_from_json(condition, where)
            for condition in (_items(fields, "conditions", where) if "conditions" in fields else ())
        ),
        default=None if default is None else _value(default, f"{where}: default"),
        external_type=str(external),
    )


def _condition_from_json(item: object, where: str) -> Condition:
    fields = _object(item, f"{where}: a condition", _CONDITION_KEYS)
    return Condition(
        parent=_text(fields, "parent", f"{where}: a condition"),
        values=tuple(_value(value, f"{where}: condition") for value in _items(fields, "values")),
    )


def _object(value: object, where: str, keys: Sequence[str] = (), *, others: bool = False) -> Json:
    """The value, an object with these keys only; with `others`, without misspelt keys."""
    if not isinstance(value, Mapping):
        raise StudyError(f"{where} must be an object with keys, not {_kind(value)}.")
    for key in value.keys() - set(keys) if keys else ():
        hint = did_you_mean(str(key), keys, alike=0.75)
        if hint:
            raise StudyError(f"{where} has the unknown key {key!r}.{hint}")
        if not others:
            raise StudyError(
                f"{where} has the unknown key {key!r}. The keys are {', '.join(keys)}."
            )
    return value


def _items(fields: Json, key: str, where: str = "") -> Sequence[object]:
    value = fields.get(key)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return value
    prefix = f"{where}: " if where else ""
    if value is None:
        raise StudyError(f"{prefix}{key} is missing.")
    raise StudyError(f"{prefix}{key} must be a list, not {_kind(value)}.")


def _text(fields: Json, key: str, where: str) -> str:
    value = fields.get(key, "")
    if not isinstance(value, str):
        raise StudyError(f"{where}: {key} must be text, not {_kind(value)}.")
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, float | int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise StudyError(f"{where}: the number is too large for 64 bits.") from error
    raise StudyError(f"{where}: {value!r} is not a number.")


def _value(value: object, where: str) -> Value:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float | int | str):
        return value
    raise StudyError(f"{where}: {value!r} is not a number or a string.")


def _category(value: object, where: str) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return value
    raise StudyError(f"{where}: category {value!r} must be a string. Quote it, here and in trials.")


def _member(kind: type[_Enum], value: object, where: str) -> _Enum:
    names = [member.value for member in kind]
    if isinstance(value, str) and value in names:
        return kind(value)
    raise StudyError(f"{where} is {value!r}; it can be {', '.join(names)}.")


def _kind(value: object) -> str:
    if value is None:
        return "missing"
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return names.get(type(value), f"{value!r}")
