"""Trials as CSV, one a row, with a small file that says what the columns mean.

The spec lies beside the file under the same name, as TOML or JSON. It is a study in the form of
`study_json` without trials, and names the columns whose names do not say it themselves:

    name = "boosting"                 # of the study, if study_column does not say it
    algorithm = "random_search"
    study_column = "dataset"          # optional: rows with the same value are one study
    state_column = "status"           # optional: COMPLETED (or empty), INFEASIBLE, ACTIVE
    [[metrics]]
    name = "accuracy"
    goal = "MAXIMIZE"
    [[parameters]]
    name = "lr"
    type = "DOUBLE"
    scale = "LOG"
    bounds = [1e-4, 0.1]

Each parameter and metric has the column of its name; an empty cell means absent. Other columns
are ignored. With a study column, the rows of one study follow each other.
"""

import csv
import dataclasses
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from optformer.convert.study_json import problem_from_json
from optformer.data.importers.record import Options, Record, Skipped, build, open_text, skipped
from optformer.errors import SourceError, StudyError
from optformer.study import ParameterType, Problem, State, Study, Trial, Value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """What the columns of a CSV file mean."""

    path: Path
    problem: Problem
    algorithm: str
    study_column: str
    state_column: str


def studies(source: str, options: Options, *, start: int = 0) -> Iterator[Record]:
    """The studies of a CSV file (gzip or plain) in the order of their rows, one at a time.

    Args:
      start: how many studies to pass over without checking them.
    """
    path = Path(source)
    spec = read_spec(path, options.spec)
    finished: set[str] = set()
    name, rows, first, done = "", list[Mapping[str, str]](), 0, 0.0

    def record() -> Study | Skipped:
        where = f"{path}, line {first}"
        return _study(spec, name, rows, where, repeated=name in finished, options=options)

    for number, row, share in _rows(path, spec):
        this = (row[spec.study_column] or "") if spec.study_column else spec.problem.name
        if rows and this != name:
            start -= 1
            if start < 0:
                yield record(), done
            finished.add(name)
            rows = []
        if not rows:
            name, first = this, number
        rows.append(row)
        done = share
    if rows and start <= 0:
        yield record(), 1.0


def read_spec(path: Path, spec: Path | None) -> Spec:
    """The spec of a CSV file.

    Raises:
      SourceError: there is none, or it is broken. Names the file that is looked for.
    """
    if spec is None:
        stem = path.name.removesuffix(".gz").removesuffix(".csv")
        choices = [path.with_name(stem + ending) for ending in (".toml", ".json")]
        spec = next((choice for choice in choices if choice.is_file()), None)
        if spec is None:
            raise SourceError(
                f"{path}: its search space is unknown. Describe it in {choices[0].name} beside it, "
                "or name the file with --spec; the form is in optformer/data/importers/csv.py."
            )
    try:
        text = spec.read_text(encoding="utf-8")
        document = json.loads(text) if spec.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:  # both parsers' errors are ValueErrors
        raise SourceError(
            f"{spec} cannot be read as the spec of {path} ({error}). Write it as "
            f"{'JSON' if spec.suffix == '.json' else 'TOML'}; a spec ends in .json or .toml."
        ) from error
    if not isinstance(document, dict):
        raise SourceError(f"{spec} must hold one study as an object, without trials.")
    columns = {key: document.pop(key, "") for key in ("study_column", "state_column")}
    for key, value in columns.items():
        if not isinstance(value, str):
            raise SourceError(f"{spec}: {key} must be a column's name, not {value!r}.")
    try:
        problem = problem_from_json(document)
    except StudyError as error:
        raise SourceError(f"{spec}: {error}") from error
    return Spec(path=spec, problem=problem, algorithm=str(document.get("algorithm", "")), **columns)


def _rows(path: Path, spec: Spec) -> Iterator[tuple[int, Mapping[str, str], float]]:
    at, share = 0, 0.0

    def lines() -> Iterator[str]:
        nonlocal at, share
        for number, line, done in open_text(path):
            at, share = number, done
            yield line

    reader = csv.DictReader(lines(), strict=True)
    try:
        wanted = [
            *(parameter.name for parameter in spec.problem.parameters),
            *(metric.name for metric in spec.problem.metrics),
            *(column for column in (spec.study_column, spec.state_column) if column),
        ]
        missing = [column for column in wanted if column not in (reader.fieldnames or ())]
        if missing:
            raise SourceError(
                f"{path} has no column {missing[0]!r}, which {spec.path} names. Its columns are "
                f"{', '.join(reader.fieldnames or ())}."
            )
        for row in reader:
            yield at, row, share
    except csv.Error as error:
        raise SourceError(
            f"{path}, line {at}: not CSV ({error}). Quote cells that hold commas, "
            "quotes or line ends."
        ) from error


def _study(
    spec: Spec,
    name: str,
    rows: Sequence[Mapping[str, str]],
    where: str,
    *,
    repeated: bool,
    options: Options,
) -> Study | Skipped:
    try:
        if repeated:
            raise StudyError(
                f"study {name!r} has rows in two places. Sort the file by {spec.study_column!r}."
            )
        trials = []
        for number, row in enumerate(rows, start=1):
            try:
                trials.append(_trial(spec, row))
            except StudyError as error:
                raise StudyError(f"study {name!r}, trial {number}: {error}") from error
        problem = dataclasses.replace(spec.problem, name=name)
        return build(problem, trials, algorithm=spec.algorithm, options=options)
    except StudyError as error:
        return skipped(error, where=where, study=name)


def _trial(spec: Spec, row: Mapping[str, str | None]) -> Trial:
    # A short row has None in its last cells.
    parameters: dict[str, Value] = {}
    for parameter in spec.problem.parameters:
        cell = row[parameter.name]
        if cell:
            is_text = parameter.type == ParameterType.CATEGORICAL
            parameters[parameter.name] = cell if is_text else _number(cell, parameter.name)
    metrics = {}
    for metric in spec.problem.metrics:
        cell = row[metric.name]
        if cell:
            metrics[metric.name] = _number(cell, f"metric {metric.name}")
    state = (row[spec.state_column] if spec.state_column else None) or State.COMPLETED.name
    if state not in State.__members__:
        raise StudyError(f"state is {state!r}; it can be {', '.join(State.__members__)}.")
    return Trial(parameters=parameters, metrics=metrics, state=State[state])


def _number(cell: str, name: str) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise StudyError(f"{name}={cell!r} is not a number.") from error
