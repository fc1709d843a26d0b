"""The contents of one of our folders or of a raw study log, as a renderable of rich."""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from optformer.data import store
from optformer.data.importers import Remark, read
from optformer.errors import StudyError, did_you_mean
from optformer.eval import results
from optformer.model import checkpoint
from optformer.model.saved import flatten
from optformer.study import Goal, Metric, Parameter, State, Study

# A function that shows a study's tokens, printed below its trials.
Tokenizer = Callable[[Study], RenderableType]

_STATE_STYLES = {State.COMPLETED: "green", State.INFEASIBLE: "red", State.ACTIVE: "yellow"}
_INACTIVE = "·"
_MOST_COLUMNS = 7  # of parameters and metrics, in a table of trials
_MOST_ROWS = 12  # in a table of counts
_BARS = "▏▎▍▌▋▊▉█"
_BAR_WIDTH = 24
_FATES = {
    "skipped": "skipped because of",
    "left out": "trials left out for",
    "infeasible": "trials infeasible for",
    "assumed": "assumed",
}


def describe(
    path: str,
    *,
    study: str | None = None,
    trials: int = 8,
    tokenizer: Tokenizer | None = None,
) -> RenderableType:
    """The contents of a checkpoint, a training run, evaluation results, or studies.

    For a shard folder or a raw log: counts, and one study with its first and last trials.

    Args:
      path: a folder that one of our commands wrote, or an input of `importers.read`.
      study: the name of the study to show; by default, the first.
      trials: the largest number of its trials to show.
      tokenizer: a function for further output about the study, such as its tokens.

    Raises:
      SourceError: nothing at `path` can be read.
      CheckpointError: the checkpoint is damaged, or of another version.
      StudyError: there is no study of that name. Suggests names.
    """
    is_run = (Path(path) / "metrics.jsonl").is_file()
    place = Path(path) if is_run else checkpoint.find(path)
    if (place / checkpoint.WEIGHTS).is_file() or checkpoint.is_t5x(place):
        return _fields(f"{path}: a checkpoint", _of_checkpoint(place))
    if (place / "metrics.jsonl").is_file():
        return _fields(f"{path}: a training run", _of_run(place))
    if (place / "plan.json").is_file():
        return _fields(f"{path}: results of an evaluation", _of_results(place))
    is_shards = place.suffix == ".parquet" or (place.is_dir() and any(place.glob("*.parquet")))
    counts, shown = _of_shards(place, study) if is_shards else _of_log(path, study)
    parts = [counts, _study(shown, trials)]
    if tokenizer is not None:
        parts.append(tokenizer(shown))
    return Group(*parts)


def _of_checkpoint(folder: Path) -> dict[str, str]:
    """Shape, tokenizer and origin of a model."""
    loaded = checkpoint.load(folder)
    weights = sum(array.size for array in flatten(loaded.weights).values())
    shape = loaded.config
    return {
        "weights": f"{weights:,}",
        "shape": f"{shape.encoder_layers} encoder and {shape.decoder_layers} decoder layers, width "
        f"{shape.width}",
        "bins": f"{loaded.tokenizer.options.bins:,}",
        "vocabulary": loaded.tokenizer.vocabulary.fingerprint,
        "value temperature": str(loaded.value_temperature),
        "imitates": ", ".join(loaded.algorithms) or "no algorithm by name",
    } | {
        name: str(value)
        for name, value in loaded.about.items()
        if name != "parameters" and not isinstance(value, dict)
    }


def _of_run(folder: Path) -> dict[str, str]:
    """The progress of a training run."""
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    if not lines:
        return {"steps": "none yet"}
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    fields = {
        "steps": f"{last['step']:,}, {last['done']:.0%} of the run",
        "time": f"{last['seconds']:.0f} s",
        "loss": f"{first['loss']:.3f} -> {last['loss']:.3f} nats per token",
    }
    for name in ("checkpoint", "best"):
        if (folder / name).is_dir():
            fields[name] = str(folder / name)
    return fields


def _of_results(folder: Path) -> dict[str, str]:
    """The plan of an evaluation and its progress."""
    planned = results.read(folder)
    return {
        "protocol": planned.protocol,
        "optimizers": ", ".join(planned.optimizers),
        "tasks": f"{len(planned.tasks)}, {len(planned.seeds)} seeds, {planned.trials} trials",
        "runs": f"{planned.runs - planned.missing:,} of {planned.runs:,}, "
        f"{len(planned.failures)} failed",
    }


def _fields(title: str, pairs: Mapping[str, str]) -> Panel:
    """A list of names and texts."""
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, text in pairs.items():
        table.add_row(name, Text(text))
    return Panel(table, title=Text(title), title_align="left", border_style="cyan")


def _of_shards(path: Path, name: str | None) -> tuple[RenderableType, Study]:
    summary = store.summarize(path)
    shown = _find(store.scan(path), name)
    size = summary.bytes / 2**20
    counts = _counts(
        f"{path}: {summary.shards:,} shard{'s' * (summary.shards != 1)}, {size:,.1f} MiB",
        {
            "studies": summary.studies,
            "trials": summary.trials,
            "search spaces": summary.spaces,
        },
        summary.states,
        [
            ("algorithm", summary.algorithms),
            ("parameters", {str(k): n for k, n in summary.dimensions.items()}),
            ("source", summary.sources),
        ],
    )
    return counts, shown


def _of_log(path: str, name: str | None) -> tuple[RenderableType, Study]:
    algorithms: Counter[str] = Counter()
    dimensions: Counter[int] = Counter()
    states: Counter[str] = Counter()
    faults: Counter[tuple[str, str]] = Counter()
    names: list[str] = []
    examples: dict[str, str] = {}
    shown: Study | None = None
    for record in read(path):
        if isinstance(record, Remark):
            faults[record.fate, record.kind] += record.trials or 1
            examples.setdefault(record.kind, f"{record.fate}: {record}")
            continue
        names.append(record.name)
        algorithms[record.algorithm] += 1
        dimensions[len(record.problem.parameters)] += 1
        for state in State:
            states[state.name] += int((record.states_R == state).sum())
        if shown is None and name in (None, record.name):
            shown = record
    if shown is None:
        raise _unknown(name, names, examples.values())
    remarks = Text("".join(f"\n{text}" for text in examples.values()), style="yellow")
    counts = _counts(
        f"{path}: a study log, not imported yet",
        {"studies": len(names), "trials": states.total()},
        states,
        [
            ("algorithm", dict(algorithms.most_common())),
            ("parameters", {str(k): n for k, n in sorted(dimensions.items())}),
            *(
                (title, {kind: n for (fate, kind), n in faults.most_common() if fate == wanted})
                for wanted, title in _FATES.items()
            ),
        ],
    )
    return (Group(counts, remarks) if examples else counts), shown


def _find(studies: Iterable[Study], name: str | None) -> Study:
    names: list[str] = []
    for study in studies:
        if name in (None, study.name):
            return study
        names.append(study.name)
    raise _unknown(name, names)


def _unknown(name: str | None, names: list[str], remarks: Iterable[str] = ()) -> StudyError:
    if name is None or not names:
        reasons = "".join(f" {text[:1].upper()}{text[1:].rstrip('.')}." for text in remarks)
        return StudyError(f"no study could be read.{reasons}")
    some = ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
    return StudyError(f"there is no study {name!r}, but {some}.{did_you_mean(name, names)}")


def _counts(
    title: str,
    totals: Mapping[str, int],
    states: Mapping[str, int],
    groups: list[tuple[str, Mapping[str, int]]],
) -> RenderableType:
    line = Text("  ").join(
        [
            *(Text.assemble((f"{n:,}", "bold"), f" {unit}") for unit, n in totals.items()),
            *(
                Text(f"{states[state.name]:,} {state.name.lower()}", style=_STATE_STYLES[state])
                for state in State
                if states.get(state.name)
            ),
        ]
    )
    tables = [_bars(name, counts) for name, counts in groups if counts]
    return Panel(
        Group(line, *(Padding(table, (1, 0, 0, 0)) for table in tables)),
        title=Text(title),
        title_align="left",
        border_style="cyan",
    )


def _bars(name: str, counts: Mapping[str, int]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(name)
    table.add_column("studies", justify="right", style="bold")
    table.add_column("")
    most = max(counts.values())
    for label, number in itertools.islice(counts.items(), _MOST_ROWS):
        eighths = max(1, round(8 * _BAR_WIDTH * number / most))
        bar = _BARS[-1] * (eighths // 8) + (_BARS[eighths % 8 - 1] if eighths % 8 else "")
        table.add_row(Text(label or "(not named)"), f"{number:,}", Text(bar, style="cyan"))
    if len(counts) > _MOST_ROWS:
        rest = list(counts.values())[_MOST_ROWS:]
        table.add_row(f"… {len(rest)} more", f"{sum(rest):,}", "")
    return table


def _study(study: Study, most: int) -> RenderableType:
    problem = study.problem
    text = Text()
    if problem.title:
        text.append(problem.title + "\n")
    text.append(f"algorithm {study.algorithm or '(not named)'}, {len(study):,} trials", "dim")
    for key, value in problem.metadata:
        text.append(f"\n{key}: {value}", "dim")
    return Panel(
        Group(
            text,
            _parameters(problem.parameters),
            _trials(study, most),
        ),
        title=Text(f"study {problem.name!r}"),
        title_align="left",
        border_style="magenta",
    )


def _parameters(parameters: Iterable[Parameter]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), header_style="dim")
    for column in ("parameter", "type", "scale", "range or values", "default", "active when"):
        table.add_column(column)
    for parameter in parameters:
        if parameter.bounds is not None:
            low, high = parameter.bounds
            space = f"[{low:g}, {high:g}]"
        else:
            values = [v if isinstance(v, str) else f"{v:g}" for v in parameter.values[:6]]
            more = f", … {len(parameter.values)} in all" if len(parameter.values) > 6 else ""
            space = ", ".join(values) + more
        table.add_row(
            Text(parameter.name, style="bold"),
            parameter.type.value,
            parameter.scale.value if parameter.scale else "",
            Text(space),
            "" if parameter.default is None else Text(str(parameter.default)),
            Text(
                " or ".join(
                    f"{c.parent} = {', '.join(str(value) for value in c.values)}"
                    for c in parameter.conditions
                )
            ),
        )
    return table


def _trials(study: Study, most: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), header_style="dim")
    table.add_column("trial", justify="right", style="dim")
    parameters = study.problem.parameters
    # More columns do not fit a terminal: then each trial's values are a text that wraps.
    is_wide = len(parameters) + len(study.problem.metrics) > _MOST_COLUMNS
    for parameter in () if is_wide else parameters:
        table.add_column(Text(parameter.name), justify="right")
    for metric in study.problem.metrics:
        table.add_column(Text(_heading(metric)), justify="right", style="bold")
    table.add_column("state")
    if is_wide:
        table.add_column("parameters", overflow="fold")
    objective_R = study.objective()
    best = -1 if np.isnan(objective_R).all() else int(np.nanargmax(objective_R))
    rows = list(range(len(study)))
    if len(rows) > most:
        rows = sorted({*rows[: most - most // 2], *rows[len(rows) - most // 2 :], best} - {-1})
    before = -1
    for row in rows:
        if row > before + 1:
            table.add_row("…")
        before = row
        state = State(study.states_R[row])
        cells = {
            parameter.name: _cell(parameter, number)
            for parameter, number in zip(parameters, study.values_RP[row], strict=True)
        }
        active = ", ".join(f"{name}={cell}" for name, cell in cells.items() if cell != _INACTIVE)
        table.add_row(
            str(row + 1),
            *(() if is_wide else map(Text, cells.values())),
            *("" if np.isnan(number) else f"{number:.5g}" for number in study.metrics_RM[row]),
            Text(state.name.lower(), style=_STATE_STYLES[state])
            + Text("  best" if row == best else "", style="bold cyan"),
            *((Text(active),) if is_wide else ()),
        )
    return table


def _heading(metric: Metric) -> str:
    arrow = "↑" if metric.goal == Goal.MAXIMIZE else "↓"
    if metric.safety_threshold is None:
        return f"{metric.name} {arrow}"
    sign = "≥" if metric.goal == Goal.MAXIMIZE else "≤"
    return f"{metric.name} {sign} {metric.safety_threshold:g}"


def _cell(parameter: Parameter, number: float) -> str:
    if np.isnan(number):
        return _INACTIVE
    value = parameter.from_number(float(number))
    return f"{value:.5g}" if isinstance(value, float) else str(value)
