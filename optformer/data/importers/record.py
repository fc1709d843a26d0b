"""What an importer yields for each study of its source: the study, and what was wrong with it."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from optformer.errors import StudyError
from optformer.study import (
    Goal,
    Measurement,
    Parameter,
    ParameterType,
    Problem,
    State,
    Study,
    Trial,
    Value,
    from_trials,
)

OutOfRange = Literal["drop", "clip"]
Fate = Literal["skipped", "left out", "infeasible", "assumed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How to read a source.

    Attributes:
      out_of_range: what to do with a number outside its parameter's bounds or choices: "drop"
        leaves the trial out, "clip" moves the number to the nearest that is allowed.
      algorithm: who chose the trials, where the source does not say.
      spec: the file with the search space of a CSV file; by default the file beside it with the
        same name and the ending .toml or .json.
      metric: the objective, where the source has several metrics and does not say which.
      goal: which way the objective improves, where the source does not say.
    """

    out_of_range: OutOfRange = "drop"
    algorithm: str = ""
    spec: Path | None = None
    metric: str = ""
    goal: Goal | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remark:
    """What an importer says about a study: that it is not imported, or not quite as it was.

    Attributes:
      where: the file or database, and the line if it has lines.
      study: its name, "" if it could not be read.
      trial: the first bad trial, counted from 1, if the fault lies in one.
      kind: the reason in a few words, the same for everything with that fault.
      reason: the whole reason with names and values.
      fate: "skipped", the study is not imported; "left out", these trials of an imported study
        are missing; "infeasible", these trials count as infeasible; "assumed", the log did not
        say something about an imported study.
      trials: how many trials are left out or infeasible.
    """

    where: str
    study: str
    trial: int | None = None
    kind: str
    reason: str
    fate: Fate = "skipped"
    trials: int = 0

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


# What an importer yields, with the share of the source that is read, from 0 to 1.
Record = tuple[Study | Remark, float]

# How messages of StudyError are counted: the first part found in the message decides.
_KINDS = (
    ("counts as infeasible", "a completed trial without a finite metric"),
    ("lies outside", "a value outside its bounds"),
    ("is not one of", "a value that is not among its parameter's values"),
    ("is not a whole number", "an INTEGER that is not whole"),
    ("is not in the search space", "an unknown parameter"),
    ("is given, but its parent", "a value for an inactive parameter"),
    ("no parameter decides when", "a parameter that is missing without a rule"),
    ("before all its parameters were drawn", "a trial that ended before it had all parameters"),
    (" is missing.", "a missing parameter"),
    ("decimal comma", "a number with a comma"),
    ("but the header", "a row with too few or too many cells"),
    ("is not a number", "a value that is not a number"),
    ("has no trials", "a study without trials"),
    ("is not JSON", "a line that is not JSON"),
    ("is longer than", "a line that is too long"),
    ("is not UTF-8", "a line that is not UTF-8"),
)


def kind_of(message: str, default: str) -> str:
    """The kind of fault that a message tells of, in a few words."""
    return next((kind for part, kind in _KINDS if part in message), default)


def skipped(error: StudyError | str, *, where: str, study: str) -> Remark:
    """The record of a study that raised this error."""
    message = str(error)
    trial = re.match(r"study .*?, trial (\d+): ", message)
    default = "a trial with a wrong form" if trial else "a study with a wrong form"
    return Remark(
        where=where,
        study=study,
        trial=int(trial[1]) if trial else None,
        kind=kind_of(message, default),
        reason=message,
    )


def records(
    problem: Problem,
    trials: Sequence[Trial | StudyError],
    *,
    algorithm: str,
    options: Options,
    where: str,
    data_set: str = "",
) -> Iterator[Study | Remark]:
    """The study of these trials, after what was wrong with some of them.

    A trial that breaks a rule of the search space is left out. A completed one without a finite
    metric is infeasible. The other trials stay as they are.

    Args:
      trials: an error stands for a trial that could not be read.
    """
    named, algorithm = f"study {problem.name!r}", algorithm or options.algorithm
    faults: list[tuple[int, Fate, str]] = []
    kept: list[tuple[int, Trial]] = []
    by_name = {parameter.name: parameter for parameter in problem.parameters}
    for number, trial in enumerate(trials, start=1):
        if isinstance(trial, StudyError):
            faults.append((number, "left out", str(trial)))
            continue
        if options.out_of_range == "clip":
            clipped = _clip(by_name, trial.parameters)
            trial = dataclasses.replace(trial, parameters=clipped)
        kept.append((number, trial))
    measured = [(number, *_measured(problem, trial)) for number, trial in kept]
    study = _study(problem, [trial for _, trial, _ in measured], algorithm, data_set)
    if isinstance(study, StudyError):
        # Only now, because a check of single trials takes much longer than of all at once.
        checked = [(number, trial, why, _fault(problem, trial)) for number, trial, why in measured]
        faults += [(number, "left out", fault) for number, _, _, fault in checked if fault]
        measured = [(number, trial, why) for number, trial, why, fault in checked if not fault]
        study = _study(problem, [trial for _, trial, _ in measured], algorithm, data_set)
    faults += [(number, "infeasible", why) for number, _, why in measured if why]
    if isinstance(study, StudyError):
        if not trials:
            yield skipped(f"{named} has no trials.", where=where, study=problem.name)
        else:
            number, _, message = min(faults)
            reason = f"{named}, trial {number}: {message}"
            yield skipped(reason, where=where, study=problem.name)
        return
    groups: dict[tuple[Fate, str], list[tuple[int, str]]] = {}
    for number, fate, message in sorted(faults):
        kind = kind_of(message, "a trial with a wrong form")
        groups.setdefault((fate, kind), []).append((number, message))
    for (fate, kind), members in groups.items():
        number, message = members[0]
        yield Remark(
            where=where,
            study=problem.name,
            trial=number,
            kind=kind,
            reason=f"{named}, trial {number}: {message}",
            fate=fate,
            trials=len(members),
        )
    yield study


def _study(
    problem: Problem, trials: Sequence[Trial], algorithm: str, data_set: str
) -> Study | StudyError:
    if not trials:
        return StudyError(f"study {problem.name!r} has no trials.")
    try:
        return from_trials(problem, trials, algorithm=algorithm, data_set=data_set)
    except StudyError as error:
        return error


def _fault(problem: Problem, trial: Trial) -> str:
    """What is wrong with a trial, "" for nothing; with the way out where an option is one."""
    try:
        from_trials(problem, [trial])
    except StudyError as error:
        message = str(error).removeprefix(f"study {problem.name!r}, trial 1: ")
        if "lies outside" in message and "=nan " not in message:
            message += " Fix the export, or import with --out-of-range=clip."
        return message
    return ""


def _measured(problem: Problem, trial: Trial) -> tuple[Trial, str]:
    """The trial without metrics that are no finite numbers, and why it is infeasible for that."""
    finite = {name: value for name, value in trial.metrics.items() if math.isfinite(value)}
    why = ""
    if trial.state == State.COMPLETED:
        for metric in problem.metrics:
            given = metric.name in trial.metrics
            needed = given or metric.safety_threshold is None
            if needed and metric.name not in finite:
                value = f"{trial.metrics[metric.name]}" if given else "missing"
                why = f"metric {metric.name!r} is {value}, so the trial counts as infeasible."
                break
    curve = tuple(each for each in map(_finite, trial.curve) if each.metrics)
    state = State.INFEASIBLE if why else trial.state
    return dataclasses.replace(trial, metrics=finite, state=state, curve=curve), why


def _finite(measurement: Measurement) -> Measurement:
    """The measurement without values that are not finite; without any if its step is not."""
    metrics = {
        name: value
        for name, value in measurement.metrics.items()
        if math.isfinite(value) and math.isfinite(measurement.step)
    }
    return dataclasses.replace(measurement, metrics=metrics)


def _clip(by_name: Mapping[str, Parameter], values: Mapping[str, Value]) -> dict[str, Value]:
    return {
        name: nearest(by_name[name], value)
        if name in by_name and isinstance(value, float | int) and not _is_nan(value)
        else value
        for name, value in values.items()
    }


def _is_nan(value: float | int) -> bool:
    return isinstance(value, float) and math.isnan(value)


def nearest(parameter: Parameter, value: float | int) -> Value:
    """The allowed number that is nearest to `value`; categories have none and stay as they are."""
    if parameter.bounds is not None:
        low, high = parameter.bounds
        inside = min(max(value, low), high)  # compared before it is a float: it may be too large
        return float(round(inside)) if parameter.type == ParameterType.INTEGER else float(inside)
    if parameter.type == ParameterType.CATEGORICAL:
        return value
    choices = np.asarray(parameter.values, dtype=np.float64)
    inside = min(max(value, choices[0]), choices[-1])
    return float(choices[np.argmin(np.abs(choices - float(inside)))])
