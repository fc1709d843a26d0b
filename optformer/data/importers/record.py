"""What an importer yields, one record for each study of its source: the study, or why not."""

import dataclasses
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from optformer.errors import SourceError, StudyError
from optformer.study import Parameter, ParameterType, Problem, Study, Trial, Value, from_trials

OutOfRange = Literal["error", "clip"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How to read a source.

    Attributes:
      out_of_range: what to do with a number outside its parameter's bounds or choices: "error"
        skips the study, "clip" moves the number to the nearest that is allowed.
      algorithm: who chose the trials, where the source does not say.
      spec: the file with the search space of a CSV file; by default the file beside it with the
        same name and the ending .toml or .json.
    """

    out_of_range: OutOfRange = "error"
    algorithm: str = ""
    spec: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """A study that was not imported, or some trials that were left out of one that was.

    Attributes:
      where: the file or database, and the line if it has lines.
      study: its name, "" if it could not be read.
      trial: the first bad trial, counted from 1, if the fault lies in one.
      kind: the reason in a few words, the same for all studies with that fault.
      reason: the whole reason with names and values.
      trials: how many trials were left out of a study that was imported; 0 means that the study
        was not imported.
    """

    where: str
    study: str
    trial: int | None = None
    kind: str
    reason: str
    trials: int = 0

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


# What an importer yields, with the share of the source that is read, from 0 to 1.
Record = tuple[Study | Skipped, float]

# How messages of StudyError are counted: the first part found in the message decides.
_KINDS = (
    ("lies outside", "a value outside its bounds"),
    ("is not one of", "a value that is not among its parameter's values"),
    ("is not a whole number", "an INTEGER that is not whole"),
    ("is not in the search space", "an unknown parameter"),
    ("is given, but its parent", "a value for an inactive parameter"),
    ("no parameter decides when", "a parameter that is missing without a rule"),
    (" is missing.", "a missing parameter"),
    ("was not measured", "a completed trial without its metric"),
    ("but the trial is completed", "a completed trial without its metric"),
    ("is not a number", "a value that is not a number"),
    ("has no trials", "a study without trials"),
    ("is not JSON", "a line that is not JSON"),
)


def skipped(error: StudyError, *, where: str, study: str) -> Skipped:
    """The record of a study that raised this error."""
    message = str(error)
    trial = re.match(r"study .*?, trial (\d+): ", message)
    found = [kind for part, kind in _KINDS if part in message]
    default = "a trial with a wrong form" if trial else "a study with a wrong form"
    return Skipped(
        where=where,
        study=study,
        trial=int(trial[1]) if trial else None,
        kind=found[0] if found else default,
        reason=message,
    )


def build(
    problem: Problem,
    trials: Sequence[Trial],
    *,
    algorithm: str,
    options: Options,
    data_set: str = "",
) -> Study:
    """The study of these trials, with `options` applied.

    Raises:
      StudyError: as `from_trials`; also for a study without trials.
    """
    if not trials:
        raise StudyError(f"study {problem.name!r} has no trials, so there is nothing to learn.")
    if options.out_of_range == "clip":
        by_name = {parameter.name: parameter for parameter in problem.parameters}
        trials = [
            dataclasses.replace(trial, parameters=_clip(by_name, trial.parameters))
            for trial in trials
        ]
    return from_trials(problem, trials, algorithm=algorithm or options.algorithm, data_set=data_set)


def _clip(by_name: Mapping[str, Parameter], values: Mapping[str, Value]) -> dict[str, Value]:
    return {
        name: nearest(by_name[name], value)
        if name in by_name and isinstance(value, float | int) and not np.isnan(value)
        else value
        for name, value in values.items()
    }


def nearest(parameter: Parameter, value: float | int) -> Value:
    """The allowed number that is nearest to `value`; categories have none and stay as they are."""
    if parameter.bounds is not None:
        low, high = parameter.bounds
        inside = min(max(float(value), low), high)
        return float(round(inside)) if parameter.type == ParameterType.INTEGER else inside
    if parameter.type == ParameterType.CATEGORICAL:
        return value
    choices = np.asarray(parameter.values, dtype=np.float64)
    return float(choices[np.argmin(np.abs(choices - value))])


def open_text(path: Path) -> Iterator[tuple[int, str, float]]:
    """The lines of a text file, gzip or plain: number from 1, text, share of the file read.

    Raises:
      SourceError: it cannot be read, or is not UTF-8.
    """
    size = max(path.stat().st_size, 1)
    number = 0
    try:
        with path.open("rb") as raw, _unpacked(raw) as text:
            for number, line in enumerate(text, start=1):
                yield number, line, raw.tell() / size
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path}, after line {number}: not UTF-8 text ({error.reason}). Is it another format?"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(
            f"{path} cannot be read after line {number} ({error}). Copy or export it again."
        ) from error


def _unpacked(raw: io.BufferedReader) -> io.TextIOWrapper:
    magic = raw.read(2)
    raw.seek(0)
    if magic == b"\x1f\x8b":
        return gzip.open(raw, "rt", encoding="utf-8", newline="")
    return io.TextIOWrapper(raw, encoding="utf-8", newline="")
