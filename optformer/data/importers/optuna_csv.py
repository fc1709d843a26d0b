"""Optuna's table of trials: `study.trials_dataframe().to_csv("trials.csv")`; a file or a folder.

    number,value,params_lr,params_optimizer,user_attrs_host,state
    0,0.25,0.01,adam,a7,COMPLETE
    1,,0.3,sgd,a7,FAIL

Every file is a study with the file's name. Columns params_* are the parameters, value, value_* and
values_* the metrics, user_attrs_* notes. The table does not say the direction: it is guessed from
the metric's name, or MINIMIZE, Optuna's default; --goal MAXIMIZE says otherwise. The search space
is what was tried. Optuna's database or journal says both: import that if you have it.
"""

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from optformer.data.importers import infer
from optformer.data.importers.cells import is_absent, open_sheet, scalar
from optformer.data.importers.record import Options, Record
from optformer.errors import StudyError
from optformer.study import Goal

_PARAMETER, _NOTE = "params_", "user_attrs_"
_METRIC = re.compile(r"values?_?(.*)")  # value, value_NAME, values_0, values_NAME


def matches(columns: Collection[str]) -> bool:
    """Whether a CSV file with these columns is such a table."""
    has_parameters = any(column.startswith(_PARAMETER) for column in columns)
    return has_parameters and {"number", "state"} <= set(columns)


def studies(paths: list[Path], options: Options, *, start: int = 0) -> Iterator[Record]:
    """The studies of the files in their order."""
    return infer.studies(paths, _tables, options, start)


def _tables(path: Path) -> list[infer.Table]:
    sheet = open_sheet(path)
    metrics = {
        column: f"value_{name[1]}" if name[1].isdigit() else name[1] or "value"
        for column in sheet.columns
        if (name := _METRIC.fullmatch(column))
    }
    rows: list[infer.Row | StudyError] = []
    for row in sheet.rows:
        if row.fault:
            rows.append(StudyError(row.fault))
            continue
        cells = {
            name: scalar(cell, decimal_comma=sheet.decimal_comma)
            for name, cell in row.cells.items()
        }
        rows.append(
            infer.Row(
                parameters={
                    name.removeprefix(_PARAMETER): value
                    for name, value in cells.items()
                    if name.startswith(_PARAMETER)
                },
                metrics={ours: cells[column] for column, ours in metrics.items()},
                state=row.cells["state"],
                notes={
                    name.removeprefix(_NOTE): cell
                    for name, cell in row.cells.items()
                    if name.startswith(_NOTE) and not is_absent(cell)
                },
            )
        )
    return [
        infer.Table(
            name=path.name.split(".")[0],
            rows=rows,
            goals=dict.fromkeys(metrics.values()),
            default_goal=Goal.MINIMIZE,
        )
    ]
