"""The report of an evaluation: one HTML page with pictures and CSV files beside it.

    write_report(Path("runs/bbob"), Path("runs/bbob/report.html"), title="BBOB, held-out families")

The pieces of a page are in `page.py`, the drawings in `plots.py`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from optformer.errors import plural
from optformer.eval import commands, statistics
from optformer.eval.report import sections as parts
from optformer.eval.report.page import (
    Cell,
    Code,
    Heading,
    Page,
    Section,
    Shown,
    Table,
    Text,
    named,
    number,
    write_page,
)
from optformer.eval.report.sections import interval, median_time, over_baseline, sharing
from optformer.eval.report.view import View
from optformer.eval.results import Results, labels, merge, read


def write_report(
    folders: Path | Sequence[Path],
    out: Path,
    *,
    title: str,
    score: str = "",
    notes: Sequence[str] = (),
    own_sections: Callable[[View], list[Section]] | None = None,
    extra: Sequence[Section] = (),
    command: str = "",
    published: Callable[[Results], Results] | None = None,
    about_published: str = "",
) -> Path:
    """Writes the report of one results folder, or of several that are compared, to `out`.

    Args:
      score: what a score means.
      notes: paragraphs for the summary.
      own_sections: those of this benchmark only, after the curves.
      extra: sections before the last one, such as calibration.
      command: what was typed to get the page, if that is no command that a folder has noted.
      published: adds results from elsewhere; `about_published` says what to know of them.

    Raises:
      ConfigError: folders that cannot be compared. SourceError: no results folder.
    """
    paths = [folders] if isinstance(folders, Path) else list(folders)
    results = merge([read(path) for path in paths])
    ours = set(results.optimizers)
    if published is not None:
        results = published(results)
    view = View(results, published=tuple(set(results.optimizers) - ours))
    compared = parts.comparisons(view)
    sections: list[Section] = [Heading(title="Summary")]
    if results.missing:
        sections.append(
            Text(
                paragraphs=(
                    f"Unfinished: {results.missing:,} of {results.runs:,} runs have not ended. "
                    f"All numbers are of the {int(view.common_KS.sum()):,} pairs of task and seed "
                    "that every optimizer shown has finished, and will change.",
                )
            )
        )
    if notes:
        sections.append(Text(paragraphs=tuple(notes)))
    sections += [_summary(view), Text(paragraphs=(_reading(score),))]
    if published is not None:  # it bears on every rank, test and difference below
        sections.append(Text(paragraphs=(about_published,)))
    if len(paths) > 1:
        sections += parts.twins(view)
    sections += parts.failures(results)
    sections += [Heading(title="Curves"), *parts.curves(view)]
    if own_sections is not None:
        sections += own_sections(view)
    if len(view.names) > 1:
        sections += [Heading(title="Ranks"), *parts.ranks(view)]
        sections += [Heading(title="Differences"), *parts.differences(view, compared)]
    sections += [Heading(title="Cost"), *parts.cost(view), *extra]
    sections += [Heading(title="How to reproduce"), *reproduce(view, paths, command)]
    page = Page(title=title, lead=_lead(view, compared), sections=sections)
    return write_page(page, out)


def _lead(view: View, compared: Sequence[parts.Comparison]) -> str:
    best = view.order[0]
    told = (
        f"After {view.last} trials, {view.shown(best)} scores "
        f"{interval(view.band, best, view.last)}"
    )
    if len(view.order) > 1:
        second = view.order[1]
        told += f" and {view.shown(second)} {interval(view.band, second, view.last)}"
        told += f": {_told_apart(compared)}"
    told += f". {view.counts[0].upper()}{view.counts[1:]}; 95 % intervals over tasks."
    if view.not_begun:
        names = ", ".join(name.replace("_", " ") for name in view.not_begun)
        told += f" Not begun and left out: {names}."
    return told


def _told_apart(made: Sequence[parts.Comparison]) -> str:
    """Whether the first comparison, that of the best two, shows a difference."""
    gap, corrected = made[0].gap, made[0].corrected
    tasks = gap.wins + gap.ties + gap.losses
    if statistics.least_p_value(tasks, len(made)) >= 0.05:
        return f"so few tasks, {tasks}, cannot tell" + (
            f" with {len(made)} comparisons" if len(made) > 1 else ""
        )
    test = f"p = {number(corrected, 2)} by {parts.TEST}"
    if len(made) > 1:
        test += f" after Holm's correction for {len(made)} comparisons"
    if corrected >= 0.05:
        return f"too close to tell apart on these tasks, {test}"
    return f"the difference is larger than chance between tasks explains, {test}"


def _summary(view: View) -> Table:
    results = view.results
    failures = [failure.optimizer for failure in results.failures]
    rows: list[list[Cell]] = []
    for row in view.order:
        failed = failures.count(view.names[row])
        ended = int(results.ended_OKS[row].sum())
        rows.append(
            [
                named(view.names[row]),
                *(interval(view.band, row, trial) for trial in view.checkpoints),
                *([over_baseline(view, row)] if view.baseline is not None else []),
                interval(view.rank_band, row, view.last, digits=2),
                median_time(view, row),
                Shown(
                    text=f"{ended}, {failed} failed" if failed else f"{ended}",
                    values={"": ended, ", failed": failed},
                ),
            ]
        )
    return Table(
        caption="Mean score after a number of trials, "
        + (
            f"how much more than random search, paired by task, after {view.last}, "
            if view.baseline is not None
            else ""
        )
        + f"and mean rank after {view.last} (1 is "
        f"best), each with its 95 % bootstrap interval over tasks; median time for one "
        f"suggestion.{sharing(view)} {view.counts[0].upper()}{view.counts[1:]}.",
        header=(
            "optimizer",
            *(f"after {trial}" for trial in view.checkpoints),
            *(["over random search"] if view.baseline is not None else []),
            "mean rank",
            "time",
            "runs",
        ),
        rows=rows,
        name="summary",
    )


def _reading(score: str) -> str:
    return (
        f"{score or 'The score lies between 0 and 1.'} Seeds of a task "
        "are averaged first, then tasks. With the same seed, all optimizers meet the same starting "
        "points and the same noise. A run that an error ended keeps its last score."
    )


def reproduce(view: View, paths: Sequence[Path], command: str = "") -> list[Section]:
    """The commands of each folder with their environments, and where the files are."""
    results = view.results
    seeds = ", ".join(map(str, results.seeds))
    sections = commands.sections(paths)
    if command:
        sections.append(Code(text=command))
    sections.append(
        Text(
            paragraphs=(
                f"Protocol {results.protocol}, {plural(len(results.tasks), 'task')}, seeds "
                f"{seeds}, {results.trials} trials. Rows: rows.parquet in "
                f"{', '.join(labels(paths))}, one a trial; their columns are "
                "described in optformer/eval/results.py. The same commands give the same rows, "
                "except for the times, up to floating-point rounding: a model's numbers differ in "
                "their last digits with the group of studies that share a pass.",
                f"This page was written by {commands.Environment.here()}.",
                "Intervals: percentile bootstrap, 1,000 resamples of the tasks (4,000 for "
                "differences), the same resamples for all optimizers.",
            )
        )
    )
    return sections
