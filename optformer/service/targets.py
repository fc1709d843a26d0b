"""What a client tunes: a search space with a function, or with a program that is run."""

import dataclasses
import json
import math
import re
import shlex
import subprocess
from pathlib import Path

from optformer.errors import ConfigError, StudyError
from optformer.service.client import Evaluate, Values
from optformer.study import Problem

_PLACE = re.compile(r"\{([^{}]*)\}")
_NUMBER = re.compile(
    r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?|inf|nan)\b", re.IGNORECASE
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A search space and how its points are measured."""

    problem: Problem
    evaluate: Evaluate


def command_target(command: str, problem: Problem) -> Target:
    """A program to run once a trial, without a shell; its last printed number is the metric.

    Its standard error stays on the terminal. If it ends with another status than 0, or its metric
    is no finite number, the trial is infeasible.

    Raises:
      ConfigError: a parameter has no place in the command; or later, no number was printed.
    """
    words = shlex.split(command)
    names = {parameter.name for parameter in problem.parameters}
    for parameter in problem.parameters:
        if not any(f"{{{parameter.name}}}" in word for word in words):
            raise ConfigError(
                f"parameter {parameter.name!r} has no place in the command {command!r}. Write "
                f"{{{parameter.name}}} where its value goes."
            )

    def evaluate(values: Values) -> float | None:
        filled = [_PLACE.sub(lambda place: _shown(place, names, values), word) for word in words]
        try:
            ended = subprocess.run(filled, stdout=subprocess.PIPE, text=True, check=False)
        except OSError as error:
            raise ConfigError(f"cannot run {filled[0]!r}: {error.strerror}.") from error
        if ended.returncode:
            return None
        numbers = _NUMBER.findall(ended.stdout)
        if not numbers:
            raise ConfigError(
                f"{shlex.join(filled)} printed no number. Its last number on standard output is "
                f"the metric {problem.objectives[0].name!r}."
            )
        metric = float(numbers[-1])
        return metric if math.isfinite(metric) else None

    return Target(problem=problem, evaluate=evaluate)


def read_space(path: Path) -> Problem:
    """The search space and metric in a JSON file, as in a study of the JSON Lines format.

    {"name": "cnn", "metrics": [{"name": "accuracy", "goal": "MAXIMIZE"}],
     "parameters": [{"name": "lr", "type": "DOUBLE", "scale": "LOG", "bounds": [1e-4, 0.1]}]}

    Raises:
      ConfigError: the file is missing, no JSON, or describes no search space.
    """
    from optformer.convert.study_json import problem_from_json

    try:
        problem = problem_from_json(json.loads(path.read_text("utf-8")))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {path}.") from error
    except (ValueError, StudyError) as error:
        raise ConfigError(f"{path} is not a search space: {error}") from error
    return problem if problem.name else dataclasses.replace(problem, name=path.stem)


def _shown(place: re.Match[str], names: set[str], values: Values) -> str:
    """A parameter's value; empty while it is inactive. Braces around other words stay."""
    return str(values.get(place[1], "")) if place[1] in names else place[0]
