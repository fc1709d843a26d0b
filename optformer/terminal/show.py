"""What commands say on the terminal: results as a few lines, errors as one panel.

Results go to standard output, bars and errors to standard error.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from optformer.errors import plural
from optformer.progress import Progress
from optformer.study import Problem

if TYPE_CHECKING:
    from optformer.data import importers
    from optformer.eval.benchmark import Evaluated
    from optformer.service.client import Tried
    from optformer.training.calibration import Calibrated
    from optformer.training.reports import Report
    from optformer.training.train import TrainResult

out = Console(highlight=False, soft_wrap=True)
err = Console(highlight=False, stderr=True)


def error(problem: Exception) -> None:
    """An error that is meant for the user."""
    # A panel needs a terminal: in a log file, one line can be searched for.
    if err.is_terminal:
        err.print(
            Panel(escape(str(problem)), title="Error", title_align="left", border_style="red")
        )
    else:
        err.print(f"Error: {escape(str(problem))}", soft_wrap=True)


@contextlib.contextmanager
def bar(
    title: str, *, every: float = 60.0, clock: Callable[[], float] = time.monotonic
) -> Iterator[Progress]:
    """A progress bar with title, share, note and time left; gone when the block is done.

    Where standard error is not a terminal, a line every so many seconds instead.
    """
    from rich.progress import (
        BarColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    if not err.is_terminal:
        yield _lines(title.strip(), every, clock)
        return
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("[dim]{task.fields[note]}"),
        console=err,
        transient=True,
    )
    with bars:
        task = bars.add_task(title, total=None, note="")

        def report(done: int, total: int, note: str = "") -> None:
            bars.update(task, completed=done, total=total, note=note)

        yield report


def _lines(title: str, every: float, clock: Callable[[], float]) -> Progress:
    said = clock()

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal said
        if clock() - said >= every:
            said = clock()
            share = f"{done / max(total, 1):.0%}"
            err.print(f"{title}: {', '.join(filter(None, (share, note)))}", soft_wrap=True)

    return report


def line(text: str) -> None:
    """One line of a result."""
    out.print(text)


def fields(pairs: Mapping[str, str]) -> None:
    """Names and what they are, one below the other."""
    width = max(map(len, pairs), default=0)
    for name, text in pairs.items():
        out.print(f"  [dim]{name:<{width}}[/dim]  {escape(text)}")


def counted(counts: Mapping[str, int] | Mapping[int, int], most: int = 6) -> str:
    """`random_search: 20, grid_search: 20`; what is beyond `most` is only counted."""
    shown = [f"{name or '(none)'}: {count:,}" for name, count in list(counts.items())[:most]]
    if len(counts) > most:
        shown.append(f"{len(counts) - most} more")
    return ", ".join(shown) or "none"


def logged(*, studies: int, trials: int, infeasible: int, database: Path) -> None:
    """What clients of a service left in its database."""
    line(
        f"{plural(studies, 'study')} with {plural(trials, 'trial')} ({infeasible:,} infeasible) "
        f"in {database}"
    )


def generated(manifest: Mapping[str, object], folder: Path) -> None:
    """What `generate` made."""
    studies, trials = int(str(manifest["studies"])), int(str(manifest["trials"]))
    line(f"{plural(studies, 'study')} with {trials:,} trials in {folder}")
    named = {
        "by algorithm": "studies_by_teacher",
        "by function": "studies_by_family",
        "by parameters": "studies_by_parameters",
        "refused": "studies_refused",
    }
    found = {name: manifest[key] for name, key in named.items()}
    fields({name: counted(value) for name, value in found.items() if isinstance(value, Mapping)})


def collected(manifest: Mapping[str, object], folder: Path) -> None:
    """What `collect` made."""
    studies, trials = int(str(manifest["studies"])), int(str(manifest["trials"]))
    line(
        f"{plural(studies, 'study')} with {trials:,} trials in {folder}; "
        f"{manifest['fits_per_second']} fits/s in each process"
    )
    named = {
        "by learner": "studies_by_learner",
        "by table": "studies_by_table",
        "not counted": "studies_refused",
        "failed trials": "failures",
    }
    found = {name: manifest[key] for name, key in named.items()}
    fields({name: counted(value) for name, value in found.items() if isinstance(value, Mapping)})
    refused = manifest["tables_refused"]
    assert isinstance(refused, Mapping)
    for reason in refused.values():
        line(f"left out: {reason}")


def import_progress(progress: Progress) -> "Callable[[importers.Progress], None]":
    """Shows how much of the source is read."""

    def update(at: "importers.Progress") -> None:
        note = f"{plural(at.studies, 'study')}, {plural(at.trials, 'trial')}"
        progress(round(100 * at.done), 100, note + (f", {at.skipped} skipped" * bool(at.skipped)))

    return update


def imported(report: "importers.ImportReport", folder: Path) -> None:
    """What an import found, and what it left out and why."""
    line(
        f"{plural(report.studies, 'study')} with {plural(report.trials, 'trial')} and "
        f"{plural(report.parameters, 'different parameter')} in {folder}"
    )
    pairs = {
        "source": f"{report.source} ({report.format})",
        "by algorithm": counted(report.algorithms),
        "skipped studies": counted(report.skipped),
        "trials left out": counted(report.left_out),
        "trials infeasible": counted(report.infeasible),
        "assumed": counted(report.assumed),
    }
    if report.resumed_at:
        pairs["imported before"] = plural(report.resumed_at, "study")
    fields(pairs)
    for example in report.examples:
        out.print(f"  [yellow]{escape(str(example))}[/yellow]")


def training_progress(progress: Progress) -> "Callable[[Report], None]":
    """Shows the share of the run that is over, the loss, and where no bar does, the time left."""

    def update(at: "Report") -> None:
        note = f"step {at.step:,}, loss {at.loss:.3f}, {at.tokens_per_second:,.0f} tokens/s"
        if not err.is_terminal:
            note += f", about {duration(at.seconds * (1 - at.done) / at.done)} left"
        # The last report comes before the model is saved, which takes its time.
        is_over = at.done >= 1.0
        progress(990 if is_over else round(990 * at.done), 1000, "saving" if is_over else note)

    return update


def training_note(text: str) -> None:
    """A line about a run: that it resumes, or stops."""
    err.print(f"{escape(text[:1].upper() + text[1:])}.", soft_wrap=True)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`"""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def trained(result: "TrainResult") -> None:
    """How a training run ended."""
    line(f"a model with {result.parameters:,} weights in {result.checkpoint}")
    if not result.reports:
        return
    first, last = result.reports[0], result.reports[-1]
    pairs = {
        "training": f"{plural(last.step, 'step')} in {last.seconds:.0f} s",
        "loss": f"{first.loss:.3f} -> {last.loss:.3f} nats per token",
    }
    measured = [report.validation for report in result.reports if report.validation]
    if measured:
        names = {
            "validation loss": "loss",
            "  parameters": "parameter",
            "  values": "value",
            "log density": "log_density",
            "quantile error": "quantile_error",
            "value temperature, start": "temperature_start",
            "  power of 1 + trials": "temperature_power",
        }
        for title, name in names.items():
            found = [f"{each[name]:.3f}" for each in measured if name in each]
            if found:
                pairs[title] = " -> ".join(dict.fromkeys([found[0], found[-1]]))
    if result.skipped:
        pairs["studies left out"] = counted(result.skipped)
    fields(pairs)


def calibrated(made: "Calibrated", folder: Path) -> None:
    """What a checkpoint's temperature was and is, and what its predictions are worth with each."""
    line(
        f"the temperature of values in {folder} is now {made.after.temperature}, by "
        f"{plural(made.predictions, 'prediction')}; it was {made.before.temperature}"
    )
    names = {
        "log density": "log_density",
        "quantile error": "quantile_error",
        "ECE": "ece",
    }
    pairs = {
        title: f"{getattr(made.before, name):.3f} -> {getattr(made.after, name):.3f}"
        for title, name in names.items()
    }
    if made.skipped:
        pairs["studies left out"] = counted(made.skipped)
    fields(pairs)
    line("[dim]The old temperature is kept in config.json, as value_temperature_before.[/dim]")


def tuning(
    problem: Problem, algorithm: str, name: str, *, server: str, database: Path | None
) -> None:
    """What is about to be tuned, and where its study is kept."""
    metric = problem.objectives[0]
    line(f"{problem.name}: {metric.name}, {metric.goal.lower()}d by {algorithm}")
    where = f"at {server}" if server else f"in {database}" if database else "in memory only"
    line(f"[dim]study {escape(name)}, kept {escape(where)}[/dim]")
    if not server and algorithm.startswith("OPTFORMER"):
        line("[dim]The model is compiled for its first suggestions; they take some 30 s.[/dim]")


def resumed(problem: Problem, earlier: int, best: float | None, trials: int) -> None:
    """That a study has trials, and how many more it gets; nothing for a new one."""
    if not earlier:
        return
    found = "none of them feasible" if best is None else f"best {best:.6g}"
    text = f"The study resumes: it has {plural(earlier, 'trial')}, {found}"
    if earlier >= trials:
        line(f"{text}. It needs no more; for more, raise --trials above {earlier}.")
    else:
        line(f"{text}; {trials - earlier} more to come.")


def trial(tried: "Tried") -> None:
    """One row of the table that grows while a study runs; a star marks a new best."""
    metric = "failed" if tried.metric is None else f"{tried.metric:.5g}"
    best = "" if tried.best is None else f"{tried.best:.5g}"
    star = "[green]*[/green]" if tried.improved else " "
    trouble = f"  [yellow]{escape(tried.problem)}[/yellow]" if tried.problem else ""
    out.print(
        f"{tried.number:>4}  {metric:>10} {star}  [dim]best[/dim] {best:<10}  "
        f"[dim]{escape(values(tried.values))}[/dim]{trouble}"
    )


def interrupted(
    problem: Problem, tried: "Sequence[Tried]", before: float | None, name: str, *, kept: bool
) -> None:
    """What an interrupted study found, and how to resume it."""
    metric = problem.objectives[0].name
    best = tried[-1].best if tried else before
    found = f"Best {metric} so far: {best:.6g}." if best is not None else "Nothing found so far."
    line(f"Stopped after {plural(len(tried), 'trial')}. {found}")
    if kept:
        line(f"To resume, run the same command with --name {escape(name)}.")
    else:
        line("The study was in memory only. With --database FILE, the next one can be resumed.")


def tuned(problem: Problem, tried: "Sequence[Tried]") -> None:
    """The best of these trials, and whether the study had a better one before."""
    from optformer.service.client import best_of

    if not tried:
        return
    metric, best = problem.objectives[0].name, best_of(problem, tried)
    waited = statistics.median(each.waited for each in tried)
    if best is None:
        if any(each.metric is not None for each in tried):
            line("No trial keeps all constraints (the metrics with a safety_threshold).")
        else:
            line(
                f"All {plural(len(tried), 'trial')} failed. Run the program once by hand, with "
                "values in place of its parameters, to see why."
            )
        return
    line(
        f"Best {metric}: [bold]{best.metric:.6g}[/bold] at trial {best.number}, with "
        f"{escape(values(best.values))}"
    )
    if tried[-1].best != best.metric:
        line(f"Before, the study had found {tried[-1].best:.6g}.")
    line(f"[dim]{1000 * waited:.0f} ms a suggestion (median)[/dim]")


def evaluated(done: "Evaluated") -> None:
    """What an evaluation found, in a table."""
    grid = Table(box=None, pad_edge=False, padding=(0, 0, 0, 1))
    for index, name in enumerate(done.header):
        grid.add_column(name, justify="right" if index else "left")
    for row in done.rows:
        grid.add_row(*map(escape, row))
    line(escape(done.counted))
    out.print(grid)
    line(f"Report: {done.page}")


def values(settings: Mapping[str, float | int | str]) -> str:
    """`C=0.13, kernel=rbf`"""
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in settings.items()
    )
