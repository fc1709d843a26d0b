"""Syne Tune: the folder of an experiment, with metadata.json and results.csv.zip (or results.csv).

    loss,epoch,st_decision,trial_id,config_lr,config_optimizer
    0.25,1,CONTINUE,0,0.01,adam

A folder of experiments has one study for each. metadata.json says the metrics, the mode and the
search space. A trial's last report counts. One that failed, or was stopped or paused before it had
as many reports as others, is INFEASIBLE: its metric is not that of a whole trial.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from optformer.convert.json_text import parse
from optformer.data.importers import infer, text
from optformer.data.importers.cells import open_sheet, scalar
from optformer.data.importers.record import Options, Record
from optformer.errors import SourceError, StudyError
from optformer.study import Goal, Parameter, ParameterType, Scale

_CONFIG = "config_"
_METADATA, _RESULTS = "metadata.json", ("results.csv.zip", "results.csv")


def experiments(folder: Path) -> list[Path]:
    """The experiments in a folder: itself, or folders in it."""
    candidates = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    return [
        path
        for path in candidates
        if (path / _METADATA).is_file() and any((path / name).is_file() for name in _RESULTS)
    ]


def studies(paths: list[Path], options: Options, *, start: int = 0) -> Iterator[Record]:
    """The studies of the experiments' folders in their order."""
    return infer.studies(paths, _tables, options, start)


def _tables(folder: Path) -> list[infer.Table]:
    metadata = text.document(folder / _METADATA)
    if not isinstance(metadata, Mapping):
        raise SourceError(f"{folder / _METADATA} must hold an object.")
    sheet = open_sheet(next(folder / name for name in _RESULTS if (folder / name).is_file()))
    last: dict[str, Mapping[str, str]] = {}
    reports: dict[str, int] = {}
    rows: list[infer.Row | StudyError] = []
    for row in sheet.rows:
        if row.fault:
            rows.append(StudyError(row.fault))
            continue
        trial = row.cells.get("trial_id", "")
        last[trial] = row.cells
        reports[trial] = reports.get(trial, 0) + 1
    goals = _goals(metadata)
    for trial, cells in last.items():
        is_cut = cells.get("st_decision") in ("STOP", "PAUSE")
        is_cut &= reports[trial] < max(reports.values())
        has_failed = cells.get("st_status", "").lower() == "failed"
        rows.append(
            infer.Row(
                parameters={
                    name.removeprefix(_CONFIG): scalar(cell)
                    for name, cell in cells.items()
                    if name.startswith(_CONFIG)
                },
                metrics={name: scalar(cells[name]) for name in goals if name in cells},
                state="failed" if has_failed else "stopped" if is_cut else "",
            )
        )
    return [
        infer.Table(
            name=folder.name,
            rows=rows,
            goals=goals,
            parameters=_space(metadata.get("config_space")),
            is_config=True,
            algorithm=str(metadata.get("scheduler_name", "")),
        )
    ]


def _goals(metadata: Mapping[str, object]) -> dict[str, Goal | None]:
    names, modes = metadata.get("metric_names"), metadata.get("metric_mode")
    if not isinstance(names, Sequence) or isinstance(names, str):
        return {}
    listed = [modes] * len(names) if isinstance(modes, str) else list(modes or ())  # type: ignore[call-overload]
    word = {"min": Goal.MINIMIZE, "max": Goal.MAXIMIZE}
    return {
        str(name): word.get(str(listed[k])) if k < len(listed) else None
        for k, name in enumerate(names)
    }


def _space(description: object) -> tuple[Parameter, ...]:
    """The search space of `config_space_to_json_dict`; () if it has something that ours do not."""
    try:
        space = parse(description) if isinstance(description, str) else description
        if not isinstance(space, Mapping):
            return ()
        found = [
            _parameter(str(name), domain)
            for name, domain in space.items()
            if isinstance(domain, Mapping)
        ]
    except (StudyError, KeyError, TypeError, ValueError):
        return ()
    return tuple(found)


def _parameter(name: str, domain: Mapping[str, object]) -> Parameter:
    kind, arguments = domain["domain_cls"], domain["domain_kwargs"]
    if not isinstance(arguments, Mapping):
        raise StudyError(f"parameter {name!r} has no arguments.")
    if kind in ("Float", "Integer"):
        scales = {"LogUniform": Scale.LOG, "ReverseLogUniform": Scale.REVERSE_LOG}
        return Parameter(
            name=name,
            type=ParameterType.DOUBLE if kind == "Float" else ParameterType.INTEGER,
            scale=scales.get(str(domain.get("sampler_cls")), Scale.LINEAR),
            bounds=(float(arguments["lower"]), float(arguments["upper"])),
        )
    categories = arguments["categories"]  # of Categorical and of its ordinal kinds
    numbers = [c for c in categories if isinstance(c, int | float) and not isinstance(c, bool)]
    if kind != "Categorical" and len(numbers) == len(categories):
        whole = all(float(number).is_integer() for number in numbers)
        return Parameter(
            name=name,
            type=ParameterType.DISCRETE,
            values=tuple(sorted(map(float, numbers))),
            external_type="INTEGER" if whole else "FLOAT",
        )
    labels = tuple(infer.label(category) for category in categories)
    return Parameter(name=name, type=ParameterType.CATEGORICAL, values=labels)
