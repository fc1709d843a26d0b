"""Which format a source has, by what is in it and not by what it is called."""

import gzip
import zlib
from pathlib import Path
from typing import Literal

from optformer.errors import SourceError

Format = Literal["vizier", "vizier-protos", "optuna", "optuna-journal", "jsonl", "csv", "hpob"]

_SQLITE = b"SQLite format 3\x00"


def detect(source: str) -> Format:
    """The format of a file, a folder or a database URL.

    Raises:
      SourceError: it does not exist, is empty, or has none of the formats.
    """
    if "://" in source:
        return _database(source)
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise SourceError(f"{source} does not exist. Check the path, or give a database URL.")
    head = _head(path)
    if not head:
        raise SourceError(f"{source} is empty. Export the studies again.")
    if head.startswith(_SQLITE):
        return _database(source)
    if path.name.endswith((".csv", ".csv.gz")):
        return "csv"
    start = head.lstrip()
    if start.startswith(b"{"):
        line = start.split(b"\n", 1)[0]
        if b'"op_code"' in line and b'"worker_id"' in line:
            return "optuna-journal"
        # A study has to name its parameters; HPO-B's files begin with numbers.
        if path.suffix == ".json" and b'"parameters"' not in head:
            return "hpob"
        return "jsonl"
    if path.suffix in (".db", ".sqlite", ".sqlite3"):
        raise SourceError(
            f"{source} is not an SQLite database, whatever its name says: it begins with "
            f"{head[:16]!r}. Check that it was copied whole."
        )
    raise SourceError(
        f"{source} has none of the formats that can be imported: a Vizier or Optuna database, an "
        "Optuna journal, JSON Lines, CSV with a spec beside it, HPO-B's JSON, or a folder of "
        "Vizier protos. If it has one of them, name it with --format."
    )


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
    raise SourceError(
        f"{path} is a folder without study logs: no *.jsonl, *.jsonl.gz, *.study.pb or HPO-B files "
        "in it. Give the file itself, or a database URL."
    )


def _database(source: str) -> Format:
    # SQLAlchemy takes a moment to import, and files need none of it.
    from optformer.data.importers.sql import schema

    return schema(source)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(65536)
            if head[:2] == b"\x1f\x8b":
                file.seek(0)
                return gzip.GzipFile(fileobj=file).read(65536)
            return head
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(
            f"{path} cannot be read ({error}). Check its permissions, or copy it again."
        ) from error
