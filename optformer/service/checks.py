"""What a study's search space, trials and measurements must be, checked before they are stored.

A stored trial that breaks a rule would stop all later suggestions of its study.
"""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from google.protobuf import struct_pb2
from vizier._src.service import study_pb2
from vizier.service import pyvizier as service_vz

from optformer.errors import did_you_mean
from optformer.service.limits import RefusedError, every_parameter

if TYPE_CHECKING:
    from vizier._src.service.study_pb2 import StudySpec

State = study_pb2.Trial.State
Value = float | str


def study_config(spec: "StudySpec") -> service_vz.StudyConfig:
    """The study's configuration as Vizier's algorithms take it.

    Raises:
      RefusedError: the search space breaks a rule; says which.
    """
    names: set[str] = set()
    for metric in spec.metrics:
        if metric.metric_id in names:
            raise RefusedError(f"two metrics have the name {metric.metric_id!r}.")
        names.add(metric.metric_id)
    for parameter in every_parameter(spec.parameters):
        _check_domain(parameter)
    roots = [parameter.parameter_id for parameter in spec.parameters]
    for name in roots:
        if roots.count(name) > 1:
            raise RefusedError(f"two parameters have the name {name!r}.")
    try:
        return service_vz.StudyConfig.from_proto(spec)
    except Exception as error:  # Vizier raises any kind, and nothing of ours runs in there
        raise RefusedError(f"the search space cannot be read: {error}") from error


def check_parameters(spec: "StudySpec", trial: study_pb2.Trial) -> None:
    """Checks that a trial has a value in its domain for each active parameter, and no other.

    Raises:
      RefusedError: names the parameter, its value and the rule.
    """
    given: dict[str, Value] = {}
    for each in trial.parameters:
        if each.parameter_id in given:
            raise RefusedError(f"the trial has two values of parameter {each.parameter_id!r}.")
        given[each.parameter_id] = _value(each.parameter_id, each.value)
    active = set()
    waiting = list(spec.parameters)
    while waiting:
        parameter = waiting.pop()
        name = parameter.parameter_id
        if name not in given:
            raise RefusedError(
                f"the trial has no value of parameter {name!r} (it has {sorted(given)})."
            )
        active.add(name)
        value = _in_domain(parameter, given[name])
        waiting += [
            child.parameter_spec
            for child in parameter.conditional_parameter_specs
            if value in _activating(child)
        ]
    for name in given.keys() - active:
        known = [each.parameter_id for each in every_parameter(spec.parameters)]
        reason = "is inactive at these values" if name in known else "is not in the search space"
        raise RefusedError(f"parameter {name!r} {reason}.{did_you_mean(name, known)}")


def check_measurement(
    trial: str, spec: "StudySpec", measurement: study_pb2.Measurement, *, final: bool
) -> None:
    """Checks that a measurement has finite values, of the study's metrics.

    Args:
      trial: its name, for the message.
      final: whether it must have every objective.

    Raises:
      RefusedError: names the metric, its value and the rule.
    """
    known = [metric.metric_id for metric in spec.metrics]
    measured = [each.metric_id for each in measurement.metrics]
    for each in measurement.metrics:
        if each.metric_id not in known:
            raise RefusedError(
                f"{trial}: metric {each.metric_id!r} is not one of the study's ({known})."
                f"{did_you_mean(each.metric_id, known)}"
            )
        if measured.count(each.metric_id) > 1:
            raise RefusedError(f"{trial}: metric {each.metric_id!r} was measured twice.")
        if not math.isfinite(each.value):
            raise RefusedError(
                f"{trial}: metric {each.metric_id!r} is {each.value}, but must be a finite "
                "number. Complete a failed trial with infeasible_reason."
            )
    for name in _objectives(spec) if final else []:
        if name not in measured:
            raise RefusedError(
                f"{trial}: metric {name!r} was not measured (measured: {sorted(measured)}). "
                "Complete the trial with it, or with infeasible_reason."
            )


def usable(spec: "StudySpec", trials: Iterable[study_pb2.Trial]) -> list[study_pb2.Trial]:
    """The trials as algorithms can take them, where a database has some that break the rules.

    A completed trial whose measurement breaks a rule counts as infeasible. A trial whose parameters
    do is left out.
    """
    kept = []
    for trial in trials:
        try:
            check_parameters(spec, trial)
        except RefusedError:
            continue
        wrong = [each for each in trial.measurements if not _holds(trial, spec, each, final=False)]
        if wrong:
            right = [each for each in trial.measurements if each not in wrong]
            del trial.measurements[:]
            trial.measurements.extend(right)
        done = trial.state == State.SUCCEEDED
        if not _holds(trial, spec, trial.final_measurement, final=done):
            trial.ClearField("final_measurement")
            if done:
                trial.state = State.INFEASIBLE
                trial.infeasible_reason = "its measurement cannot be used"
        kept.append(trial)
    return kept


def _holds(
    trial: study_pb2.Trial, spec: "StudySpec", measurement: study_pb2.Measurement, *, final: bool
) -> bool:
    try:
        check_measurement(trial.name, spec, measurement, final=final)
    except RefusedError:
        return False
    return True


def _objectives(spec: "StudySpec") -> list[str]:
    return [each.metric_id for each in spec.metrics if not each.HasField("safety_config")]


def _check_domain(parameter: "StudySpec.ParameterSpec") -> None:
    name, kind = parameter.parameter_id, parameter.WhichOneof("parameter_value_spec")
    if not name:
        raise RefusedError("a parameter has no name.")
    if kind in ("double_value_spec", "integer_value_spec"):
        domain = getattr(parameter, kind)
        low, high = domain.min_value, domain.max_value
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise RefusedError(
                f"parameter {name!r} has the bounds [{low}, {high}]: they must be finite, and the "
                "first not above the second."
            )
    elif kind in ("categorical_value_spec", "discrete_value_spec"):
        values = getattr(parameter, kind).values
        if not values or len(set(values)) < len(values):
            raise RefusedError(f"parameter {name!r} has no values, or one of them twice.")
        if kind == "discrete_value_spec" and not all(map(math.isfinite, values)):
            raise RefusedError(f"parameter {name!r} has values that are not finite.")
    else:
        raise RefusedError(f"parameter {name!r} has no domain.")


def _value(name: str, value: struct_pb2.Value) -> Value:
    match value.WhichOneof("kind"):
        case "number_value":
            return float(value.number_value)
        case "string_value":
            return str(value.string_value)
        case "bool_value":
            return str(value.bool_value)  # Vizier's categories of a truth value: "True", "False"
        case kind:
            raise RefusedError(f"parameter {name!r} has a value of the kind {kind}.")


def _in_domain(parameter: "StudySpec.ParameterSpec", value: Value) -> Value:
    """The value, if it lies in the domain."""
    kind = parameter.WhichOneof("parameter_value_spec")
    domain = getattr(parameter, kind)
    if kind == "categorical_value_spec":
        inside, rule = value in domain.values, f"one of {list(domain.values)[:20]}"
    elif isinstance(value, str):
        inside, rule = False, "a number"
    elif kind == "discrete_value_spec":
        # Clients may have computed it.
        inside = any(math.isclose(value, each, rel_tol=1e-9) for each in domain.values)
        rule = f"one of {list(domain.values)[:20]}"
    else:
        # A client may have computed a bound in single precision.
        low, high = domain.min_value, domain.max_value
        noise = 1e-12 * max(abs(low), abs(high))
        inside = low - 1e-6 * abs(low) - noise <= value <= high + 1e-6 * abs(high) + noise
        rule = f"in [{low}, {high}]"
        if kind == "integer_value_spec" and not float(value).is_integer():
            inside, rule = False, "an integer"
    if not inside:
        raise RefusedError(f"{parameter.parameter_id}={value!r} must be {rule}.")
    return value


def _activating(child: "StudySpec.ParameterSpec.ConditionalParameterSpec") -> list[Value]:
    kind = child.WhichOneof("parent_value_condition")
    return list(getattr(child, kind).values) if kind else []
