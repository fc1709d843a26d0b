"""Ax's table of trials: `client.summarize().to_csv("trials.csv")`; a file or a folder.

    trial_index,arm_name,trial_status,generation_node,loss,lr,optimizer
    0,0_0,COMPLETED,Sobol,0.25,0.01,adam
    1,1_0,FAILED,Sobol,,0.3,sgd

Every file is a study with the file's name. The table does not say which columns are metrics:
--metric loss names the objective, and all other columns are parameters. COMPLETED stays; FAILED,
ABANDONED and EARLY_STOPPED are INFEASIBLE; RUNNING, STAGED and CANDIDATE are ACTIVE. Ax's own JSON
is for Ax alone: its form is not documented and changes.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from optformer.data.importers import infer
from optformer.data.importers.cells import open_sheet, scalar
from optformer.data.importers.record import Options, Record
from optformer.errors import SourceError, StudyError

_STATUS = "trial_status"
_OWN = frozenset(
    f"trial_index arm_name {_STATUS} generation_node generation_method fail_reason".split()
)


def matches(columns: Collection[str]) -> bool:
    """Whether a CSV file with these columns is such a table."""
    return {"trial_index", "arm_name", _STATUS} <= set(columns)


def studies(paths: list[Path], options: Options, *, start: int = 0) -> Iterator[Record]:
    """The studies of the files in their order."""
    return infer.studies(paths, lambda path: _tables(path, options.metric), options, start)


def _tables(path: Path, metric: str) -> list[infer.Table]:
    sheet = open_sheet(path)
    others = [column for column in sheet.columns if column and column not in _OWN]
    if metric not in others:
        raise SourceError(
            f"{path}: say which column is the objective, with --metric NAME; the others are "
            f"parameters. The columns are {', '.join(others)}."
        )
    rows: list[infer.Row | StudyError] = []
    for row in sheet.rows:
        if row.fault:
            rows.append(StudyError(row.fault))
            continue
        cells = {
            name: scalar(row.cells[name], decimal_comma=sheet.decimal_comma) for name in others
        }
        objective = cells.pop(metric)
        state = row.cells[_STATUS]
        rows.append(infer.Row(parameters=cells, metrics={metric: objective}, state=state))
    return [infer.Table(name=path.name.split(".")[0], rows=rows, is_config=True)]
