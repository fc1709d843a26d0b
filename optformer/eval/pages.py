"""The page of a results folder: about all that the folder holds, whatever made it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from optformer.errors import ConfigError, plural
from optformer.eval import commands, prediction_runs, prediction_sections
from optformer.eval import prediction_sources as sources
from optformer.eval.benchmark import REPORT, Evaluated, Running
from optformer.eval.benchmarks import of_protocol
from optformer.eval.report.page import Cell, Heading, Page, Section, named, shown, write_page
from optformer.eval.report.report import write_report
from optformer.eval.report.sections import interval, median_time, over_baseline, sharing
from optformer.eval.report.view import View
from optformer.eval.results import Results, merge, protocol_of, read
from optformer.model import checkpoint as checkpoints

IMITATION = "imitation"
"""The protocol of `optformer evaluate imitation`."""


def write(
    out: Path,
    running: Running,
    used: Sequence[Path] = (),
    *,
    published: Callable[[Results], Results] | None = None,
) -> Path:
    """Writes the folder's page, which lists this command among those that ran here.

    Args:
      used: the checkpoints that were evaluated.
      published: adds others' published results.
    """
    prints = [checkpoints.fingerprint(checkpoint)[:16] for checkpoint in used]
    weights = f"  # weights {', '.join(prints)}" if prints else ""
    commands.note(out, running.command and running.command + weights, workers=running.workers)
    sections: list[Section] = []
    if prediction_runs.is_there(out):
        found = prediction_runs.read(out)
        sections = [Heading(title="Predictions"), *prediction_sections.page_sections(found)]
    if not (out / "plan.json").exists():
        titles = [sources.title(source) for source in found.predictions]
        page = Page(
            title=f"Predictions on {', '.join(titles)}",
            lead=prediction_sections.lead(found.predictions),
            sections=[*sections, Heading(title="How to reproduce"), *commands.sections([out])],
        )
        return write_page(page, out / REPORT)
    name = protocol_of(out)
    if name == IMITATION:
        from optformer.eval import imitation_command

        return write_page(imitation_command.page(out, sections), out / REPORT)
    known = of_protocol(name)
    if known is None:
        return write_report(out, out / REPORT, title=name, extra=sections, published=published)
    benchmark, protocol = known
    if benchmark.page is not None:
        return write_page(benchmark.page(out, read(out)), out / REPORT)
    return write_report(
        out,
        out / REPORT,
        title=protocol.title,
        score=protocol.score,
        extra=sections,
        own_sections=benchmark.sections,
        published=published,
        about_published=benchmark.about_published,
    )


def compare(first: Path, second: Path, out: Path, *, command: str = "") -> Evaluated:
    """Two results folders in one report: runs of the same tasks and seeds are paired.

    Raises:
      ConfigError: they are of different protocols, or share no task or seed; or one of them
        holds predictions only.
      SourceError: one of them is not a results folder.
    """
    for folder in (first, second):
        if prediction_runs.is_there(folder) and not (folder / "plan.json").exists():
            raise ConfigError(
                f"{folder} holds predictions only, which cannot be compared across folders: only "
                "runs of optimizers are paired. Evaluate both checkpoints with the same sources "
                "and trials: each report has its model's difference from the same Gaussian "
                "process, with intervals. Compare these."
            )
    results = merge([read(first), read(second)])
    known = of_protocol(results.protocol)
    benchmark, protocol = known or (None, None)
    title = protocol.title if protocol else results.protocol.capitalize()
    page = write_report(
        [first, second],
        out / REPORT,
        title=f"{title}: two folders compared",
        score=protocol.score if protocol else "",
        own_sections=benchmark.sections if benchmark else None,
        command=command,
    )
    return summary(results, page)


def summary(results: Results, page: Path) -> Evaluated:
    """The last scores in a table."""
    view = View(results)
    return Evaluated(
        counted=counted(results) + sharing(view),
        header=("optimizer", f"score after {view.last}", "over random search", "a suggestion"),
        rows=words(
            [
                (
                    named(view.names[row]),
                    interval(view.band, row, view.last),
                    over_baseline(view, row),
                    median_time(view, row),
                )
                for row in view.order
            ]
        ),
        page=page,
        failed=len(results.failures),
    )


def counted(results: Results) -> str:
    """What the results are of, in words."""
    return (
        f"{plural(len(results.tasks), 'task')}, {plural(len(results.seeds), 'seed')}, "
        f"{results.trials} trials; {plural(len(results.failures), 'run')} failed. "
        "95 % intervals over tasks, differences paired by task."
    )


def words(rows: Sequence[Sequence[Cell]]) -> tuple[tuple[str, ...], ...]:
    """Rows of a table as text."""
    return tuple(tuple(map(shown, row)) for row in rows)
