"""Tables in a folder: CSV or TSV files, plain or gzipped, each with a target column.

A folder may have an `index.json`, a list of objects with the `name` of a table (its file without
endings) and what it says of it, all optional: `target` (the target's column), `task`
("classification" or "regression"), `group` (the same for tables that hold the same data) and
`categorical` (a list of columns whose numbers are codes). Other keys are ignored.
"""

import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from optformer.data.data_tables.table import MOST_CATEGORIES, Table, Task, make_table
from optformer.errors import SourceError, did_you_mean

ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
INDEX = "index.json"
MOST_CLASSES = 20
"""A target of whole numbers with at most so many different ones is taken for classes."""

_MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "?", "None"]


def table_paths(folder: Path) -> dict[str, Path]:
    """The tables of a folder by name.

    Raises:
      SourceError: no such folder, or none in it.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder} is no folder. Give one that holds CSV or TSV files.")
    found = {
        path.name.removesuffix(ending): path
        for path in sorted(folder.iterdir())
        for ending in ENDINGS
        if path.name.endswith(ending) and not path.name.startswith(".")
    }
    if not found:
        raise SourceError(f"{folder} holds no tables ({', '.join(ENDINGS)}).")
    return found


def read_index(folder: Path) -> dict[str, Mapping[str, object]]:
    """What the folder's index says of each table.

    Raises:
      SourceError: it is no list of objects with names.
    """
    path = folder / INDEX
    if not path.exists():
        return {}
    try:
        entries = json.loads(path.read_text("utf-8"))
        return {str(entry["name"]): dict(entry) for entry in entries}
    except (ValueError, TypeError, KeyError) as error:
        raise SourceError(
            f"{path} is no list of objects that each have a name ({error}). Correct or remove it."
        ) from error


def read_table(
    path: Path, *, target: str = "target", name: str = "", said: Mapping[str, object] | None = None
) -> Table:
    """A file as a table.

    Text with few values is a category. Other text, dates and columns without values are left
    out, with a note.

    Args:
      target: the column to predict.
      said: what an index says of it.

    Raises:
      SourceError: it cannot be read, has no target column, two columns of one name, or what
        `make_table` refuses.
    """
    said = said or {}
    target = str(said.get("target", target))
    columns = _read(path)
    names = columns.column_names
    repeated = [column for column, count in Counter(names).items() if count > 1]
    if repeated:
        raise SourceError(f"{path} has two columns named {repeated[0]!r}. Rename one.")
    if target not in names:
        raise SourceError(
            f"{path} has no column {target!r} to predict.{did_you_mean(target, names)} Name it "
            f"with --target, or in {INDEX}. Columns: {', '.join(names[:10])}."
        )
    named_codes = said.get("categorical", ())
    codes = set(map(str, named_codes)) if isinstance(named_codes, list) else set()
    inputs, categorical, kept, notes = [], [], [], []
    for column in names:
        if column == target:
            continue
        values, is_categorical, why = _column(columns[column])
        if values is None:
            notes.append(f"column {column}: {why}")
            continue
        inputs.append(values)
        categorical.append(is_categorical or column in codes)
        kept.append(column)
    values, is_text, why = _column(columns[target], most=10_000)
    if values is None:
        raise SourceError(f"{path}: the target {target!r} is {why}. Name another column.")
    if not inputs:
        raise SourceError(f"{path} has no column to predict {target!r} from ({'; '.join(notes)}).")
    return make_table(
        name or path.name.split(".")[0],
        np.stack(inputs, axis=1),
        values,
        task=_task(path, values, is_text, said.get("task")),
        categorical_C=np.array(categorical),
        column_names=kept,
        twins=str(said.get("group", "")),
        notes=notes,
    )


def _task(path: Path, target_N: np.ndarray, is_text: bool, said: object) -> Task:
    if said is not None:
        if said not in tuple(Task):
            raise SourceError(
                f"{path}: task is {said!r} in {INDEX}; it can be {' or '.join(Task)}."
            )
        task = Task(str(said))
        if task == Task.REGRESSION and is_text:
            raise SourceError(f"{path}: the target is text, so its task is classification.")
        return task
    there_N = target_N[np.isfinite(target_N)]
    whole = bool(np.all(there_N == np.round(there_N)))
    few = len(np.unique(there_N)) <= MOST_CLASSES
    return Task.CLASSIFICATION if is_text or (whole and few) else Task.REGRESSION


def _read(path: Path) -> pa.Table:
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        tabs = ".tsv" in path.suffixes
        return csv.read_csv(
            io.BytesIO(content),
            read_options=csv.ReadOptions(use_threads=False),
            parse_options=csv.ParseOptions(delimiter="\t" if tabs else ","),
            convert_options=csv.ConvertOptions(null_values=_MISSING, strings_can_be_null=True),
        )
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        raise SourceError(
            f"{path} cannot be read as a table ({str(error).splitlines()[0][:200]}). It needs a "
            "header and the same number of fields in every line."
        ) from error


def _column(
    values: pa.ChunkedArray, most: int = MOST_CATEGORIES
) -> tuple[np.ndarray | None, bool, str]:
    """The column as numbers, whether they are codes of categories, and why not otherwise."""
    kind = values.type
    if pa.types.is_null(kind):
        return None, False, "no values"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        numbers = pc.fill_null(pc.cast(values, pa.float64()), float("nan")).to_numpy()
        return np.array(numbers, dtype=np.float64), False, ""
    if pa.types.is_boolean(kind) or pa.types.is_string(kind):
        texts: Sequence[object] = values.to_pylist()
        known = sorted({str(text) for text in texts if text is not None})
        if len(known) > most:
            return None, False, f"text with {len(known)} different values"
        code = {text: float(index) for index, text in enumerate(known)}
        return (
            np.array([np.nan if text is None else code[str(text)] for text in texts]),
            True,
            "",
        )
    return None, False, f"of the type {kind}"
