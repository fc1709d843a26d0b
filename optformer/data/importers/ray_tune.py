"""Ray Tune: the folder of an experiment, or `results.get_dataframe().to_csv("results.csv")`.

    loss,training_iteration,trial_id,config/lr,config/optimizer
    0.25,10,5ccc2_00000,0.01,adam

In an experiment's folder every trial has a folder of its own with params.json and, by its progress,
result.json or progress.csv; the last report counts. A trial with an error.txt is INFEASIBLE. A file
result.json with reports of several trials works too. The configuration is the parameters; what
never changes in it is metadata. Ray does not store the metric and mode: with several metrics say
which is the objective, --metric loss, and where its name does not say it, --goal MINIMIZE.
"""

import collections
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from optformer.convert.json_text import parse
from optformer.data.importers import infer, text
from optformer.data.importers.cells import open_sheet, scalar
from optformer.data.importers.record import Options, Record
from optformer.data.importers.runs import Columns, has_prefix, tables
from optformer.errors import StudyError

_OWN = frozenset(
    "timestamp checkpoint_dir_name done training_iteration trial_id date time_this_iter_s "
    "time_total_s pid hostname node_ip time_since_restore iterations_since_restore config logdir "
    "timesteps_total episodes_total timesteps_since_restore experiment_id experiment_tag "
    "warmup_time should_checkpoint trial_log_path".split()
)
_COLUMNS = Columns(parameters=("config/",), own=_OWN, identity=("trial_id",))
_TRIAL_ID = re.compile(r"_([0-9a-f]{5,8}_\d{5})_")
PARAMETERS, _REPORTS, _PROGRESS = "params.json", "result.json", "progress.csv"


def matches(columns: Collection[str]) -> bool:
    """Whether a CSV file with these columns is such a table."""
    return "trial_id" in columns and has_prefix(columns, ("config/",))


def is_report(document: object) -> bool:
    """Whether a line of JSON is a trial's report."""
    return isinstance(document, Mapping) and {"trial_id", "config"} <= document.keys()


def experiments(folder: Path) -> list[Path]:
    """The experiments in a folder: itself, or folders in it."""
    candidates = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    return [path for path in candidates if any(path.glob(f"*/{PARAMETERS}"))]


def studies(paths: list[Path], options: Options, *, start: int = 0) -> Iterator[Record]:
    """The studies of folders and files in their order."""
    return infer.studies(paths, _tables, options, start)


def _tables(path: Path) -> list[infer.Table]:
    if path.is_dir():
        trials = sorted(file.parent for file in path.glob(f"*/{PARAMETERS}"))
        rows = [_of_folder(trial) for trial in sorted(trials, key=_identity)]
        return [infer.Table(name=path.name, rows=rows, is_config=True)]
    if path.name.startswith(_REPORTS) or text.head(path).lstrip().startswith(b"{"):
        last: dict[str, Mapping[str, object]] = {}
        for report in _reports(path):
            last[str(report.get("trial_id"))] = report
        rows = [_of_report(report, report.get("config"), "") for report in last.values()]
        return [infer.Table(name=path.name.split(".")[0], rows=rows, is_config=True)]
    return tables(path, _COLUMNS)


def _of_folder(folder: Path) -> infer.Row | StudyError:
    """The trial in a folder, by its last report."""
    try:
        config = parse((folder / PARAMETERS).read_text("utf-8"))
        state = "error" if (folder / "error.txt").is_file() else ""
        report: Mapping[str, object] = {}
        if (folder / _REPORTS).is_file():
            for last in collections.deque(_reports(folder / _REPORTS), maxlen=1):
                report = last
        elif (folder / _PROGRESS).is_file():
            rows = collections.deque(open_sheet(folder / _PROGRESS).rows, maxlen=1)
            report = {name: scalar(cell) for row in rows for name, cell in row.cells.items()}
        return _of_report(report, config, state)
    except (StudyError, OSError, UnicodeDecodeError) as error:
        return StudyError(f"the trial in {folder.name} cannot be read ({error}).")


def _of_report(report: Mapping[str, object], config: object, state: str) -> infer.Row | StudyError:
    if not isinstance(config, Mapping):
        return StudyError("the trial has no configuration.")
    return infer.Row(
        parameters=flat(config),
        metrics={
            name: value
            for name, value in report.items()
            if name not in _OWN
            and (value is None or isinstance(value, int | float))
            and not isinstance(value, bool)
        },
        state=state,
    )


def flat(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """The leaves of a nested configuration, named as `optimizer/lr`."""
    found: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}/")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _reports(path: Path) -> Iterator[Mapping[str, object]]:
    """A trial's reports; a line that was not written to its end is passed over."""
    for line in text.lines(path):
        if line.fault or not line.text.strip():
            continue
        try:
            document = parse(line.text)
        except StudyError:
            continue
        if isinstance(document, Mapping):
            yield document


def _identity(folder: Path) -> tuple[str, str]:
    """What sorts the trials by their starts: Ray counts them in the names of their folders."""
    counted = _TRIAL_ID.search(folder.name)
    return (counted[1] if counted else "", folder.name)
