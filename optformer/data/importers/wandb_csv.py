"""Weights & Biases: runs or sweeps as CSV; a file or a folder.

    Name,State,Sweep,Created,config.lr,config.optimizer,val_loss
    misty-fog-1,finished,a1b2,2026-01-01T10:00:00Z,0.01,adam,0.25
    warm-sun-2,crashed,a1b2,2026-01-01T11:00:00Z,0.3,sgd,

Columns config.* are the configuration; what never changes in it is metadata. Columns summary.*
are the metrics, or, where there are none, all other columns with numbers. With several metrics say
which is the objective: --metric val_loss. finished is COMPLETED; failed, crashed and killed are
INFEASIBLE; running and pending are ACTIVE. Runs of different sweeps are different studies. Runs are
sorted by Created.

The table of the script in W&B's guide to exporting data, whose columns name, config and summary
hold dictionaries as Python writes them, works too.
"""

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from optformer.data.importers import infer
from optformer.data.importers.cells import open_sheet
from optformer.data.importers.record import Options, Record
from optformer.data.importers.runs import Columns, has_prefix, tables
from optformer.errors import StudyError

_CONFIG = ("config.", "config/")
_SUMMARY = ("summary.", "summary/", "summary_metrics.")
_OWN = frozenset(
    "name state notes user tags created runtime sweep id group job type jobtype hostname updated "
    "commit github host os path url created_at heartbeat_at duration end time step".split()
) | {"job type", "end time", "start time", "gpu count", "gpu type", "python version"}
_NOT_FINITE = re.compile(r"(?<=[:,\[( ])-?(nan|inf|Infinity|NaN)(?=[,}\])])")


def matches(columns: Collection[str]) -> bool:
    """Whether a CSV file with these columns is such a table."""
    lower = {column.lower() for column in columns}
    has_runs = {"name", "state"} <= lower or "sweep" in lower
    return (has_prefix(columns, _CONFIG) and has_runs) or {"config", "summary", "name"} <= lower


def studies(paths: list[Path], options: Options, *, start: int = 0) -> Iterator[Record]:
    """The studies of the files in their order."""
    return infer.studies(paths, _tables, options, start)


def _tables(path: Path) -> list[infer.Table]:
    sheet = open_sheet(path)
    if not has_prefix(sheet.columns, _CONFIG):
        rows = [
            StudyError(row.fault) if row.fault else _of_dictionaries(row.cells)
            for row in sheet.rows
        ]
        return [infer.Table(name=path.name.split(".")[0], rows=rows, is_config=True)]
    meaning = Columns(
        parameters=_CONFIG,
        metrics=_SUMMARY if has_prefix(sheet.columns, _SUMMARY) else (),
        own=_OWN,
        state=("state",),
        group=("sweep",),
        order=("created", "created_at", "summary._timestamp", "_timestamp"),
    )
    return tables(path, meaning)


def _of_dictionaries(cells: Mapping[str, str]) -> infer.Row | StudyError:
    lower = {column.lower(): cell for column, cell in cells.items()}
    found = []
    for column in ("config", "summary"):
        try:
            # Only literals, and NaN and infinity, which are none in Python.
            document = ast.literal_eval(_NOT_FINITE.sub("None", lower[column]))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            document = None
        if not isinstance(document, dict):
            return StudyError(f"{column}={lower[column][:40]!r} is not a dictionary.")
        found.append({str(k): v for k, v in document.items() if not str(k).startswith("_")})
    numbers = {k: v for k, v in found[1].items() if isinstance(v, int | float) or v is None}
    return infer.Row(parameters=found[0], metrics=numbers, state=lower.get("state", ""))
