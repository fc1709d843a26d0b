"""CSV of any origin, one trial a row, with a small file that says what the columns mean.

    dataset,status,lr,booster,accuracy
    wine,COMPLETED,0.01,tree,0.8
    wine,FAILED,0.1,linear,

The spec lies beside the file under the same name (log.csv and log.toml), as TOML or JSON, or is
named with --spec. It is a study of the format jsonl without trials, and may name two columns:

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
    [[parameters]]
    name = "booster"
    type = "CATEGORICAL"
    values = ["tree", "linear"]

- Each parameter and metric has the column of its name; other columns are ignored. An empty cell,
  NaN or NA means absent.
- Separators are commas, semicolons, tabs or bars. With the last three, numbers may have a decimal
  comma. Separators of thousands are refused.
- States are also the words of other tools: COMPLETE, finished, FAILED, PRUNED, killed, RUNNING.
- true and FALSE are the categories "True" and "False"; 32.0 is the category "32".
- A row with more or fewer cells than the header is left out. A completed trial without a finite
  metric counts as infeasible.
- With a study column, the rows of one study follow each other.

Tools without a documented file of their own (HEBO, Nevergrad, your own scripts) write this one.
"""

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from optformer.convert.study_json import STUDY_KEYS, problem_from_json
from optformer.data.importers import text
from optformer.data.importers.cells import (
    Row,
    is_absent,
    number,
    open_sheet,
    scalar,
    state_of,
)
from optformer.data.importers.detect import spec_beside
from optformer.data.importers.infer import label
from optformer.data.importers.record import Options, Record, Remark, records, skipped
from optformer.errors import SourceError, StudyError, did_you_mean
from optformer.study import Parameter, ParameterType, Problem, State, Study, Trial, Value

_COLUMN_KEYS = ("study_column", "state_column")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """What the columns of a CSV file mean."""

    path: Path
    problem: Problem
    algorithm: str
    data_set: str
    study_column: str
    state_column: str


def studies(source: str, options: Options, *, start: int = 0) -> Iterator[Record]:
    """The studies of a CSV file, plain or packed, in the order of their rows, one at a time.

    Args:
      start: how many studies to pass over without checking them.
    """
    path = Path(source)
    spec = read_spec(path, options.spec)
    sheet = open_sheet(path)
    wanted = [
        *(parameter.name for parameter in spec.problem.parameters),
        *(metric.name for metric in spec.problem.metrics),
        *(column for column in (spec.study_column, spec.state_column) if column),
    ]
    missing = [column for column in wanted if column not in sheet.columns]
    if missing:
        raise SourceError(
            f"{path} has no column {missing[0]!r}, which {spec.path} names. Its columns are "
            f"{', '.join(sheet.columns)}."
        )
    finished: set[str] = set()
    name, rows, done = "", list[Row](), 0.0

    def read() -> Iterator[Study | Remark]:
        where = f"{path}, line {rows[0].line}"
        if name in finished:
            reason = f"study {name!r} has rows in two places. Sort the file by"
            yield skipped(f"{reason} {spec.study_column!r}.", where=where, study=name)
            return
        trials = [_trial(spec, row, decimal_comma=sheet.decimal_comma) for row in rows]
        problem = dataclasses.replace(spec.problem, name=name)
        said = {"algorithm": spec.algorithm, "data_set": spec.data_set}
        yield from records(problem, trials, options=options, where=where, **said)

    for row in sheet.rows:
        this = row.cells.get(spec.study_column, name) if spec.study_column else spec.problem.name
        if rows and this != name:
            start -= 1
            if start < 0:
                for record in read():
                    yield record, done
            finished.add(name)
            rows = []
        name = this
        rows.append(row)
        done = row.done
    if rows and start <= 0:
        for record in read():
            yield record, 1.0


def read_spec(path: Path, spec: Path | None) -> Spec:
    """The spec of a CSV file.

    Raises:
      SourceError: there is none, or it is broken. Names the file that is looked for.
    """
    spec = spec or spec_beside(path)
    if spec is None:
        stem = path.name.split(".")[0]
        raise SourceError(
            f"{path}: its search space is unknown. Describe it in {stem}.toml beside it, or name "
            "the file with --spec; `optformer import --describe csv` shows an example."
        )
    try:
        if spec.suffix == ".json":
            document = text.document(spec)
        else:
            document = tomllib.loads(spec.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # the parser's errors are ValueErrors
        raise SourceError(
            f"{spec} cannot be read as the spec of {path} ({error}). Write it as TOML, or as JSON "
            "in a file whose name ends in .json."
        ) from error
    if not isinstance(document, dict):
        raise SourceError(f"{spec} must hold one study as an object, without trials.")
    known = [key for key in (*STUDY_KEYS, *_COLUMN_KEYS) if key != "trials"]
    for key in document:
        if key not in known:
            raise SourceError(
                f"{spec} has the unknown key {key!r}.{did_you_mean(key, known)} The keys are "
                f"{', '.join(known)}."
            )
    columns = {key: document.pop(key, "") for key in _COLUMN_KEYS}
    for key, value in columns.items():
        if not isinstance(value, str):
            raise SourceError(f"{spec}: {key} must be a column's name, not {value!r}.")
    try:
        problem = problem_from_json(document)
    except StudyError as error:
        raise SourceError(f"{spec}: {error}") from error
    said = {key: str(document.get(key, "")) for key in ("algorithm", "data_set")}
    return Spec(path=spec, problem=problem, **said, **columns)


def _trial(spec: Spec, row: Row, *, decimal_comma: bool) -> Trial | StudyError:
    if row.fault:
        return StudyError(f"line {row.line}: {row.fault}")
    try:
        parameters = {
            parameter.name: _value(parameter, row.cells[parameter.name], decimal_comma)
            for parameter in spec.problem.parameters
            if not _is_missing(parameter, row.cells[parameter.name])
        }
        metrics = {
            metric.name: number(cell, f"metric {metric.name}", decimal_comma=decimal_comma)
            for metric in spec.problem.metrics
            if not is_absent(cell := row.cells[metric.name])
        }
        state = state_of(row.cells[spec.state_column]) if spec.state_column else State.COMPLETED
    except StudyError as error:
        return error
    return Trial(parameters=parameters, metrics=metrics, state=state)


def _is_missing(parameter: Parameter, cell: str) -> bool:
    return is_absent(cell) and cell not in parameter.values


def _value(parameter: Parameter, cell: str, decimal_comma: bool) -> Value:
    if parameter.type != ParameterType.CATEGORICAL:
        return number(cell, parameter.name, decimal_comma=decimal_comma)
    if cell in parameter.values:
        return cell
    return _alike(parameter.values, cell, decimal_comma) or cell


def _alike(values: Sequence[object], cell: str, decimal_comma: bool) -> str:
    """The only category that means the same: "32" for 32.0, "True" for TRUE; "" for none."""
    meant = scalar(cell, decimal_comma=decimal_comma)
    if meant is None or isinstance(meant, str):
        return ""
    of_label: Mapping[str, str] = {
        label(plain): str(value) for value in values if (plain := scalar(str(value))) is not None
    }
    return of_label.get(label(meant), "")
