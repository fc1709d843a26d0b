"""MLflow's table of runs: `mlflow.search_runs().to_csv("runs.csv")`; a file or a folder.

    run_id,experiment_id,status,start_time,metrics.loss,params.lr,params.optimizer
    c2b3,1,FINISHED,2026-01-01 10:00:00,0.25,0.01,adam
    e149,1,FAILED,2026-01-01 09:00:00,,0.3,sgd

Columns params.* are the parameters; what never changes in them is metadata. Columns metrics.* are
the metrics; with several say which is the objective: --metric loss. FINISHED is COMPLETED; FAILED
and KILLED are INFEASIBLE; RUNNING and SCHEDULED are ACTIVE. Every experiment is a study, with its
runs by start_time: MLflow writes the newest first.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from optformer.data.importers import infer
from optformer.data.importers.record import Options, Record
from optformer.data.importers.runs import Columns, has_prefix, tables

_COLUMNS = Columns(
    parameters=("params.",),
    metrics=("metrics.",),
    state=("status",),
    group=("experiment_id",),
    order=("start_time",),
)


def matches(columns: Collection[str]) -> bool:
    """Whether a CSV file with these columns is such a table."""
    return "run_id" in columns and has_prefix(columns, ("params.",))


def studies(paths: list[Path], options: Options, *, start: int = 0) -> Iterator[Record]:
    """The studies of the files in their order."""
    return infer.studies(paths, lambda path: tables(path, _COLUMNS), options, start)
