"""Tables of runs, one a row, whose columns have prefixes: what W&B, MLflow and Ray Tune share."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from optformer.data.importers import infer
from optformer.data.importers.cells import open_sheet, scalar
from optformer.errors import StudyError


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of a tool's table of runs mean.

    Attributes:
      parameters, metrics: the prefixes of their columns; a metric has none where this is empty.
      own: columns of the tool itself, in lower case, which are neither.
      state, group, order, identity: columns by name in lower case, of several the first that is
        there: the run's state, its study, what sorts the runs by time, and the run itself. Of
        several rows of one run, the last counts.
    """

    parameters: tuple[str, ...]
    metrics: tuple[str, ...] = ()
    own: frozenset[str] = frozenset()
    state: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    identity: tuple[str, ...] = ()


def tables(path: Path, meaning: Columns) -> list[infer.Table]:
    """The studies of a table of runs, in the order of their first runs."""
    sheet = open_sheet(path)
    state, group, order, identity = (
        _first(sheet.columns, names)
        for names in (meaning.state, meaning.group, meaning.order, meaning.identity)
    )
    runs: dict[str, tuple[str, str, infer.Row | StudyError]] = {}
    for index, row in enumerate(sheet.rows):
        if row.fault:
            runs[f"row {index}"] = ("", "", StudyError(row.fault))
            continue
        cells = {
            name: scalar(cell, decimal_comma=sheet.decimal_comma)
            for name, cell in row.cells.items()
        }
        run: infer.Row | StudyError = infer.Row(
            parameters=_with_prefix(cells, meaning.parameters),
            metrics=_with_prefix(cells, meaning.metrics)
            if meaning.metrics
            else {
                name: value
                for name, value in cells.items()
                if name
                and name.lower() not in meaning.own
                and not name.startswith(("_", *meaning.parameters))
                and not isinstance(value, bool | str)
            },
            state=row.cells[state] if state else "",
        )
        key = row.cells[identity] if identity else f"row {index}"
        runs.pop(key, None)
        when = row.cells[order] if order else ""
        runs[key] = (row.cells[group].strip() if group else "", when, run)
    studies: dict[str, list[infer.Row | StudyError]] = {}
    for name, _, run in sorted(runs.values(), key=lambda each: each[1]):
        studies.setdefault(name, []).append(run)
    stem = path.name.split(".")[0]
    return [
        infer.Table(
            name=f"{stem}/{name}" if name and len(studies) > 1 else stem, rows=rows, is_config=True
        )
        for name, rows in studies.items()
    ]


def has_prefix(columns: Collection[str], prefixes: tuple[str, ...]) -> bool:
    """Whether a column has one of the prefixes."""
    return any(column.startswith(prefixes) for column in columns)


def _first(columns: Sequence[str], names: Sequence[str]) -> str:
    lower = {column.lower(): column for column in columns}
    return next((lower[name] for name in names if name in lower), "")


def _with_prefix(
    cells: dict[str, infer.Scalar | None], prefixes: tuple[str, ...]
) -> dict[str, object]:
    return {
        name.removeprefix(prefix): value
        for name, value in cells.items()
        for prefix in prefixes
        if name.startswith(prefix) and not name.removeprefix(prefix).startswith("_")
    }
