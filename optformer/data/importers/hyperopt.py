"""Hyperopt: `json.dump(trials.trials, file, default=str)`; a file or a folder of *.json.

    [{"tid": 0, "state": 2, "result": {"loss": 0.25, "status": "ok"},
      "misc": {"vals": {"lr": [0.01], "optimizer": [0]}}}]

Every file is a study with the file's name. Hyperopt minimizes the loss. The search space is what
was tried; of hp.choice, Hyperopt stores the number of the choice. Status ok is COMPLETED; fail, and
the job's state ERROR, are INFEASIBLE; NEW and RUNNING are ACTIVE.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from optformer.data.importers import infer, text
from optformer.data.importers.cells import scalar
from optformer.data.importers.record import Options, Record
from optformer.errors import SourceError, StudyError
from optformer.study import Goal

_DONE, _ERROR = 2, 3  # hyperopt.JOB_STATE_DONE, JOB_STATE_ERROR


def studies(paths: list[Path], options: Options, *, start: int = 0) -> Iterator[Record]:
    """The studies of the files in their order."""
    return infer.studies(paths, _tables, options, start)


def _tables(path: Path) -> list[infer.Table]:
    document = text.document(path)
    if not isinstance(document, Sequence) or isinstance(document, str):
        raise SourceError(f"{path} is not a list of Hyperopt's trials. Write `trials.trials`.")
    return [
        infer.Table(
            name=path.name.split(".")[0],
            rows=[_row(trial) for trial in document],
            goals={"loss": Goal.MINIMIZE},
        )
    ]


def _row(trial: object) -> infer.Row | StudyError:
    if not isinstance(trial, Mapping):
        return StudyError("a trial must be an object with keys.")
    result, misc = trial.get("result"), trial.get("misc")
    drawn = misc.get("vals") if isinstance(misc, Mapping) else None
    if not isinstance(drawn, Mapping) or not isinstance(result, Mapping):
        return StudyError("a trial needs 'result' and 'misc' with 'vals'.")
    job = trial.get("state")
    state = "error" if job == _ERROR else str(result.get("status", ""))
    state = state if job in (_DONE, _ERROR) else "running"
    # With `default=str`, whole numbers of NumPy have become text.
    parameters = {
        str(name): scalar(values[0]) if isinstance(values[0], str) else values[0]
        for name, values in drawn.items()
        if isinstance(values, Sequence) and values
    }
    loss = result.get("loss")
    loss = scalar(loss) if isinstance(loss, str) else loss
    return infer.Row(parameters=parameters, metrics={"loss": loss}, state=state)
