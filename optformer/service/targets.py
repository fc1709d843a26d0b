"""The target of a client: a search space with a function, or with a program that is run."""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from optformer.errors import ConfigError, StudyError
from optformer.service.client import Evaluate, Measured, Values
from optformer.service.printed import UnreadableError, metrics_in
from optformer.service.program import FailedError, Program
from optformer.study import Parameter, ParameterType, Problem, Value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A search space and how its points are measured.

    Attributes:
      stop: ends the measurements that are running, from another thread.
    """

    problem: Problem
    evaluate: Evaluate
    stop: Callable[[], None] = lambda: None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
    """A search space as its file has it.

    Attributes:
      written: of each DISCRETE parameter, its values as they are written there.
    """

    problem: Problem
    written: Mapping[str, Mapping[float, str]] = dataclasses.field(default_factory=dict)


def function_target(problem: Problem, function: Callable[[Values], float | None]) -> Target:
    """A Python function that returns the objective, or None where it fails."""

    def evaluate(values: Values) -> Measured:
        value = function(values)
        if value is None:
            return Measured(failure="the training diverged")
        return _finite({problem.objectives[0].name: value})

    return Target(problem=problem, evaluate=evaluate)


def command_target(
    command: str,
    space: Space,
    *,
    metric_pattern: str = "",
    timeout: float | None = None,
    retries: int = 0,
) -> Target:
    """A program to run once a trial, without a shell, and to read the metrics from its output.

    The trial fails if the program ends with another status than 0, takes too long, or prints no
    metric (`printed.metrics_in`) or one that is not finite.

    Args:
      metric_pattern: a regular expression whose first group is the objective.
      timeout: seconds that a run may take.
      retries: how often to run a program again that failed.

    Raises:
      ConfigError: the program cannot be run, the command and the search space do not fit together,
        or the pattern has no group.
    """
    names = [parameter.name for parameter in space.problem.parameters]
    metrics = [space.problem.objectives[0].name]
    metrics += [each.name for each in space.problem.metrics if each.name != metrics[0]]
    pattern = _compiled(metric_pattern) if metric_pattern else None
    program = Program(command, names, timeout=timeout)

    def evaluate(values: Values) -> Measured:
        words = {
            parameter.name: _word(parameter, values[parameter.name], space.written)
            for parameter in space.problem.parameters
            if parameter.name in values
        }
        measured = Measured(failure="it was not run")
        for _ in range(1 + retries):
            try:
                measured = _finite(metrics_in(program.run(words), metrics, pattern))
            except (FailedError, UnreadableError) as error:
                measured = Measured(failure=str(error))
            if not measured.failure:
                break
        return measured

    return Target(problem=space.problem, evaluate=evaluate, stop=program.stop)


def read_space(path: Path) -> Space:
    """The search space and metrics in a JSON file; `space_format` describes it.

    Raises:
      ConfigError: the file cannot be read, is not JSON, or describes no search space.
    """
    from optformer.convert.json_text import parse
    from optformer.convert.study_json import problem_from_json

    hint = "`optformer tune --describe-space` shows an example."
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {path}.") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path} is a folder, not a file with a search space. {hint}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a search space: {error}. {hint}") from error
    try:
        problem = problem_from_json(parse(text))
    except StudyError as error:
        raise ConfigError(f"{path} is not a search space: {error} {hint}") from error
    if len(problem.objectives) != 1:
        names = ", ".join(metric.name for metric in problem.objectives) or "none"
        raise ConfigError(
            f"{path} must have one metric to optimize, but has {names}. Give each of the others a "
            "safety_threshold, or leave it out."
        )
    problem = problem if problem.name else dataclasses.replace(problem, name=path.stem)
    return Space(problem=problem, written=_written(text, problem))


def _written(text: str, problem: Problem) -> dict[str, dict[float, str]]:
    """The values of DISCRETE parameters by their numbers, as the text has them."""
    document = json.loads(text, parse_float=str, parse_int=str)
    discrete = {p.name for p in problem.parameters if p.type == ParameterType.DISCRETE}
    return {
        each["name"]: {float(value): value for value in each["values"]}
        for each in document["parameters"]
        if each.get("name") in discrete
    }


def _word(parameter: Parameter, value: Value, written: Mapping[str, Mapping[float, str]]) -> str:
    """The value as the program gets it."""
    if parameter.type == ParameterType.DISCRETE:
        return written.get(parameter.name, {}).get(float(value), f"{value:g}")
    return str(value)


def _finite(metrics: Mapping[str, float]) -> Measured:
    for name, value in metrics.items():
        if not math.isfinite(value):
            return Measured(failure=f"the metric {name!r} is {value}")
    return Measured(metrics=metrics)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"--metric-pattern {pattern!r} is not a regular expression: {error}."
        ) from error
    if not compiled.groups:
        raise ConfigError(
            f"--metric-pattern {pattern!r} needs a group around the number, as in 'loss=(\\S+)'."
        )
    return compiled
