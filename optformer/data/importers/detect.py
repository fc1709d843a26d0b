"""Detects the format of a study log from its contents, not from its name."""

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal, get_args

from optformer.convert.json_text import parse
from optformer.data.importers import (
    ax_csv,
    mlflow_csv,
    optuna_csv,
    ray_tune,
    smac,
    syne_tune,
    text,
    wandb_csv,
)
from optformer.data.importers.cells import split_header
from optformer.errors import SourceError, StudyError

Format = Literal[
    "vizier", "vizier-protos", "optuna", "optuna-journal", "optuna-csv", "jsonl", "csv", "hpob",
    "wandb", "mlflow", "ray-tune", "syne-tune", "smac", "hyperopt", "ax",
]  # fmt: skip
FORMATS: tuple[Format, ...] = get_args(Format)

# Tables: the first whose columns match.
_TABLES: tuple[tuple[Format, Callable[[Collection[str]], bool]], ...] = (
    ("optuna-csv", optuna_csv.matches),
    ("mlflow", mlflow_csv.matches),
    ("ray-tune", ray_tune.matches),
    ("ax", ax_csv.matches),
    ("wandb", wandb_csv.matches),
)
# JSON: the first that the beginning of the file, without white space, matches.
_JSON: tuple[tuple[Format, re.Pattern[str]], ...] = (
    ("hpob", re.compile(r'\{("[^"]*":\{\},?)*"[^"]*":\{"[^"]*":\{"[Xy]":')),
    ("hyperopt", re.compile(r'\[\{(?=.{0,60000}"tid":)(?=.{0,60000}"misc":)')),
    (
        "smac",
        re.compile(r'\{(?=.{0,60000}"data":\[)(?=.{0,60000}("config_id":|"configs":|\[\[|\[\d))'),
    ),
)
_SQLITE = b"SQLite format 3\x00"
_SPECS = (".toml", ".json")
# What other files begin with, and what to do about them.
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"PAR1", "a Parquet file", "Give the folder of study shards, or export the trials as CSV"),
    (b"ARROW1", "an Arrow file", "Export the trials as CSV"),
    (b"FEA1", "a Feather file", "Export the trials as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", "Save the sheet as CSV"),
    (b"BZh", "packed with bzip2", "Unpack it, or pack it with gzip"),
    (b"\xfd7zXZ", "packed with xz", "Unpack it, or pack it with gzip"),
    (b"\x28\xb5\x2f\xfd", "packed with Zstandard", "Unpack it, or pack it with gzip"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "Unpack it"),
    (b"\x89HDF", "an HDF5 file", "Export the trials as CSV"),
    (b"\x93NUMPY", "a NumPy array", "Export the trials as CSV"),
    (b"%PDF", "a PDF document", "Export the trials as CSV"),
    (b"\xff\xfe", "UTF-16 text", "Save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "Save it as UTF-8"),
    (b"<", "a page of HTML or XML", "Download the file itself: this may be an error page"),
    (b"# Syne", "a report of Syne Tune", "Give the folder of the experiment"),
)  # fmt: skip
_PICKLE = re.compile(rb"\x80[\x02-\x05]")


def detect(source: str, *, spec: Path | None = None) -> Format:
    """The format of a file, a folder or a database URL.

    Args:
      spec: the search space of a CSV file, if one is given.

    Raises:
      SourceError: it does not exist, is empty, or has none of the formats; says what it is.
    """
    if "://" in source:
        return _database(source)
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise SourceError(f"{source} does not exist. Check the path, or give a database URL.")
    with path.open("rb") as file:
        packed = file.read(8)
    if packed.startswith(_SQLITE[:8]):
        return _database(source)
    data = text.head(path)
    if not data:
        raise SourceError(f"{source} is empty. Export the studies again.")
    _refuse_others(path, packed, data)
    start = data.decode("utf-8-sig", errors="replace").lstrip()
    if start.startswith(("{", "[")):
        return _json(path, start, is_packed=not data.startswith(packed))
    if path.suffix in (".db", ".sqlite", ".sqlite3"):
        raise SourceError(
            f"{source} is not an SQLite database, whatever its name says: it begins with "
            f"{data[:16]!r}. Check that it was copied whole."
        )
    table = "csv" if spec else _table(path, start)
    if table is not None:
        return table
    raise SourceError(
        f"{source} has none of the formats that can be imported: {', '.join(FORMATS)}. If it has "
        "one of them, name it with --format; `optformer import --describe FORMAT` tells what it "
        "looks like."
    )


def paths_of(source: str, format: Format) -> list[Path]:
    """The files or folders with studies of a tool: the source itself, or those in the folder."""
    path = Path(source)
    if not path.is_dir():
        return [path]
    if format == "smac":
        found = sorted(path.rglob(smac.FILE))
    elif format == "syne-tune":
        found = syne_tune.experiments(path)
    elif format == "ray-tune" and ray_tune.experiments(path):
        found = ray_tune.experiments(path)
    elif format == "hyperopt":
        found = [file for file in _files(path, ".json") if _json_format(_start(file)) == format]
    else:
        found = [file for file in _files(path, ".csv") if _table(file, _start(file)) == format]
    if not found:
        raise SourceError(f"{source} is a folder without files of the format {format}.")
    return found


def spec_beside(path: Path) -> Path | None:
    """The file with the search space of a CSV file, under the same name; None if there is none."""
    stem = path.name.removesuffix(".gz")
    stem = stem.rpartition(".")[0] or stem
    choices = [path.with_name(stem + ending) for ending in _SPECS]
    return next((choice for choice in choices if choice.is_file() and choice != path), None)


def _folder(path: Path) -> Format:
    if any(path.glob("*.study.*")):
        return "vizier-protos"
    if any(path.glob("meta-*-dataset*.json")):
        return "hpob"
    if any(path.glob("*.jsonl")) or any(path.glob("*.jsonl.gz")):
        return "jsonl"
    if any(path.glob("*.parquet")):
        raise SourceError(
            f"{path} holds study shards already. Train on it as it is; there is nothing to import."
        )
    if syne_tune.experiments(path):
        return "syne-tune"
    if ray_tune.experiments(path):
        return "ray-tune"
    if any(path.rglob(smac.FILE)):
        return "smac"
    for file in _files(path, ".csv"):
        table = _table(file, _start(file))
        if table not in (None, "csv"):
            return table
    if any(_json_format(_start(file)) == "hyperopt" for file in _files(path, ".json")):
        return "hyperopt"
    if (path / ray_tune.PARAMETERS).is_file():
        raise SourceError(
            f"{path} is one trial of Ray Tune. Give the folder of the experiment: {path.parent}"
        )
    raise SourceError(
        f"{path} is a folder without study logs: no *.jsonl, *.jsonl.gz, *.study.pb, tables of "
        "trials, experiments or HPO-B files in it. Give the file itself, or a database URL."
    )


def _files(folder: Path, ending: str) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.name.lower().removesuffix(".gz").endswith(ending)
    )


def _start(path: Path) -> str:
    return text.head(path).decode("utf-8-sig", errors="replace").lstrip()


def _refuse_others(path: Path, packed: bytes, data: bytes) -> None:
    for magic, kind, advice in _OTHERS:
        if data.startswith(magic) or packed.startswith(magic):
            raise SourceError(f"{path} is {kind}. {advice}.")
    if _PICKLE.match(data):
        raise SourceError(
            f"{path} is a pickled Python object, which could run any code when it is loaded. "
            "Export the trials from Python as CSV or JSON."
        )


def _json(path: Path, start: str, *, is_packed: bool) -> Format:
    """The format of a JSON file by its beginning.

    Raises:
      SourceError: it is another tool's, or has several lines a study.
    """
    first = start.split("\n", 1)[0]
    if '"op_code"' in first and '"worker_id"' in first:
        if is_packed:
            raise SourceError(
                f"{path} is a packed Optuna journal, which Optuna cannot read. Unpack it: gunzip."
            )
        return "optuna-journal"
    found = _json_format(start)
    if found is not None:
        return found
    try:
        document = parse(first)
    except StudyError:
        document = None
    if ray_tune.is_report(document):
        return "ray-tune"
    is_pretty = len(first.strip()) <= 2 and "\n" in start
    if is_pretty and '"parameters"' in start:
        many = "'.[]' " if start.startswith("[") else "."
        raise SourceError(
            f"{path} is pretty-printed JSON: a study takes several lines. Write one study a line: "
            f"jq -c {many} {path.name} > {path.stem}.jsonl"
        )
    if start.startswith("[") and '"parameters"' in start:
        raise SourceError(
            f"{path} is a list of studies in one line of JSON. Write one study a line: "
            f"jq -c '.[]' {path.name} > {path.stem}.jsonl"
        )
    if ".jsonl" in path.name or '"parameters"' in first or '"trials"' in first:
        return "jsonl"
    keys = re.findall(r'"([^"\n]{1,40})"\s*:', start)[:6]
    raise SourceError(
        f"{path} is JSON of another tool (with {', '.join(map(repr, keys)) or 'no keys'}). "
        "Write its studies as JSON Lines, or name another --format; `optformer import --describe "
        "jsonl` tells what a line looks like."
    )


def _json_format(start: str) -> Format | None:
    dense = re.sub(r"\s+", "", start)
    return next((format for format, pattern in _JSON if pattern.match(dense)), None)


def _table(path: Path, start: str) -> Format | None:
    """The format of a table by its first line; None if it is no table."""
    if spec_beside(path):
        return "csv"
    first, _, rest = start.partition("\n")
    separator, columns = split_header(first)
    for format, matches in _TABLES:
        if matches(columns):
            return format
    second = rest.partition("\n")[0]
    is_named = path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv"))
    alike = len(columns) > 1 and second.count(separator) == len(columns) - 1
    return "csv" if is_named or alike else None


def _database(source: str) -> Format:
    # SQLAlchemy takes a moment to import, and files need none of it.
    from optformer.data.importers.sql import schema

    return schema(source)
