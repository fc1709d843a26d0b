"""CSV as programs of many kinds and countries write it, and what its cells mean."""

import csv
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from optformer.data.importers import text
from optformer.errors import SourceError, StudyError
from optformer.study import State

STATES = {
    State.COMPLETED: "complete completed success succeeded finished done terminated ok",
    State.INFEASIBLE: (
        "infeasible fail failed error crash crashed killed pruned stopped early_stopped timeout "
        "memoryout abandoned preempted"
    ),
    State.ACTIVE: "active running waiting pending scheduled queued staged candidate inprogress",
}
"""Our state -> the words for it in Optuna, W&B, MLflow, Ray Tune, Syne Tune, SMAC, Hyperopt, Ax."""

_STATE_OF = {word: state for state, words in STATES.items() for word in words.split()}
_SEPARATORS = ",;\t|"
_ABSENT = frozenset(("", "nan", "null", "na", "n/a", "<na>"))
_LONGEST_ROW = 1 << 20  # characters; an open quote would take the rest of the file
_WITH_COMMA = re.compile(r"[+-]?\d+(,\d+)+(\.\d+)?(e[+-]?\d+)?|[+-]?\d+(\.\d+)+,\d+", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)
_DECIMAL_POINT = re.compile(r"[+-]?\d*\.\d+(e[+-]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table.

    Attributes:
      line: where it begins, from 1.
      cells: by column; {} if the row cannot be used.
      done: share of the file that is read.
      fault: why the row cannot be used; "" if it can.
    """

    line: int
    cells: Mapping[str, str]
    done: float
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """The columns of a CSV file, and its rows, which can be read once.

    Attributes:
      decimal_comma: whether numbers are written as 0,5.
    """

    columns: tuple[str, ...]
    decimal_comma: bool
    rows: Iterator[Row]


def open_sheet(path: Path) -> Sheet:
    """A CSV file, plain or packed, whose cells are separated by commas, semicolons, tabs or bars.

    Raises:
      SourceError: it cannot be read, is not UTF-8, or has a column name twice. The rows raise one
        for a quote that is never closed.
    """
    reading = text.lines(path)
    first = next(_joined(reading, path), None)
    if first is None:
        raise SourceError(f"{path} is empty. Export the trials again.")
    if "\r" in first.text.rstrip("\r\n"):
        raise SourceError(f"{path} has line ends of one carriage return. Save it with line feeds.")
    separator, columns = split_header(first.text)
    names = [column for column in columns if column]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SourceError(f"{path} has the column {twice!r} twice. Remove or rename one.")
    return Sheet(
        columns=columns,
        decimal_comma=separator != "," and _has_decimal_commas(path, separator),
        rows=_rows(reading, path, separator, columns),
    )


def split_header(line: str) -> tuple[str, tuple[str, ...]]:
    """The separator that splits the first line of a file into most columns, and the columns."""
    splits = [(separator, _split(line, separator)) for separator in _SEPARATORS]
    separator, cells = max(splits, key=lambda split: len(split[1]))  # of equals, the first
    return separator, tuple(cell.strip() for cell in cells)


def _split(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True, strict=True), [])
    except csv.Error:
        return []


def _has_decimal_commas(path: Path, separator: str) -> bool:
    """Whether numbers in the first rows have decimal commas, and none has a decimal point."""
    data = text.head(path)
    cells = [
        cell.strip().strip('"')
        for line in data.decode("utf-8-sig", errors="ignore").splitlines()[1:]
        for cell in line.split(separator)
    ]
    return any(map(_DECIMAL_COMMA.fullmatch, cells)) and not any(
        map(_DECIMAL_POINT.fullmatch, cells)
    )


def _joined(reading: Iterator[text.Line], path: Path) -> Iterator[text.Line]:
    """The lines; those that a quoted cell spans are one."""
    for line in reading:
        if line.fault:
            raise SourceError(f"{path}, line {line.number}: {line.fault}. Save it as UTF-8 text.")
        whole, done = line.text, line.done
        while whole.count('"') % 2:
            more = next(reading, None)
            if more is None or more.fault or len(whole) > _LONGEST_ROW:
                raise SourceError(
                    f"{path}, line {line.number}: not CSV (a quote is never closed). Quote cells "
                    "that hold separators, quotes or line ends."
                )
            whole, done = whole + more.text, more.done
        yield text.Line(number=line.number, text=whole, done=done)


def _rows(
    reading: Iterator[text.Line], path: Path, separator: str, columns: tuple[str, ...]
) -> Iterator[Row]:
    for line in _joined(reading, path):
        if not line.text.strip():
            continue
        try:
            [cells] = csv.reader(
                [line.text], delimiter=separator, skipinitialspace=True, strict=True
            )
        except (csv.Error, ValueError) as error:
            fault = f"the row is not CSV ({error}). Quote cells that hold commas or quotes."
            yield Row(line=line.number, cells={}, done=line.done, fault=fault)
            continue
        fault = ""
        if len(cells) != len(columns):
            fault = (
                f"the row has {len(cells)} cells, but the header {len(columns)}. Quote cells that "
                f"hold {separator!r}, and write numbers with a decimal point."
            )
        pairs = {} if fault else dict(zip(columns, cells, strict=True))
        yield Row(line=line.number, cells=pairs, done=line.done, fault=fault)


def state_of(word: str) -> State:
    """Our state for a tool's word, in capitals or not; completed for none.

    Raises:
      StudyError: an unknown word.
    """
    key = word.strip().lower().replace(" ", "_")
    if not key:
        return State.COMPLETED
    if key not in _STATE_OF:
        known = "; ".join(f"{state.name}: {words}" for state, words in STATES.items())
        raise StudyError(f"state is {word!r}; it can be one of {known}.")
    return _STATE_OF[key]


def is_absent(cell: str) -> bool:
    """Whether a cell stands for no value: it is empty, or NaN as pandas and R write it."""
    return cell.strip().lower() in _ABSENT


def number(cell: str, name: str, *, decimal_comma: bool = False) -> float:
    """The number in a cell.

    Raises:
      StudyError: it has none; says so if a comma is the reason.
    """
    plain = cell.strip()
    if decimal_comma and "," in plain and "." not in plain and plain.count(",") == 1:
        plain = plain.replace(",", ".")
    elif decimal_comma and _DECIMAL_POINT.fullmatch(plain):
        raise StudyError(
            f"{name}={cell!r} has a point, where other cells have a decimal comma. Write all "
            "numbers in one way."
        )
    try:
        if "_" not in plain:  # Python takes it for a separator of thousands
            return float(plain)
    except ValueError:
        pass
    if _WITH_COMMA.fullmatch(plain):
        raise StudyError(
            f"{name}={cell!r} has a decimal comma or separators of thousands. Write it with a "
            "decimal point and without separators."
        )
    raise StudyError(f"{name}={cell!r} is not a number.")


def scalar(cell: str, *, decimal_comma: bool = False) -> bool | int | float | str | None:
    """What a cell holds, where no search space says its type; None for nothing."""
    plain = cell.strip()
    if plain.lower() in ("true", "false"):
        return plain.lower() == "true"
    if is_absent(plain):
        return None
    try:
        value = number(plain, "", decimal_comma=decimal_comma)
    except StudyError:
        return cell
    is_whole = re.fullmatch(r"[+-]?\d+", plain) is not None
    return int(value) if is_whole and math.isfinite(value) else value
