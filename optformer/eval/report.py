"""The report of an evaluation: one HTML page with pictures and CSV files beside it.

    write_report(Path("runs/bbob"), Path("runs/bbob/report.html"), title="BBOB, held-out families")

The pieces of a page are in `page.py` and the drawings in `plots.py`; both are also names here, for
pages of other kinds:

    from optformer.eval.report import Code, Figure, Heading, Page, Table, Text, write_page
    from optformer.eval.report import Curve, plot_calibration, plot_curves

    figure = plot_curves(
        [Curve(name="random_search", x_T=trials_T, mean_T=mean_T, low_T=low_T, high_T=high_T)],
        x_label="trials",
        y_label="best value so far",
    )
    page = Page(
        title="...",
        lead="...",
        sections=(Heading(title="Curves"), Figure(caption="...", picture=figure, name="curves")),
    )
    write_page(page, Path("report.html"))
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from optformer.errors import plural
from optformer.eval import commands, hpob, report_sections, statistics
from optformer.eval.page import (
    Cell,
    Code,
    Figure,
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
from optformer.eval.plots import (
    Curve,
    plot_calibration,
    plot_critical_difference,
    plot_curves,
    plot_histogram,
    plot_intervals,
    plot_panels,
)
from optformer.eval.report_sections import (
    View,
    interval,
    median_time,
    over_baseline,
    sharing,
)
from optformer.eval.results import labels, merge, read

__all__ = [
    "Cell",
    "Code",
    "Curve",
    "Figure",
    "Heading",
    "Page",
    "Section",
    "Table",
    "Text",
    "plot_calibration",
    "plot_critical_difference",
    "plot_curves",
    "plot_histogram",
    "plot_intervals",
    "plot_panels",
    "write_page",
    "write_report",
]

_SCALES = {
    "bbob": "The score is the best noiseless value so far on a scale where 0 is what one random "
    "trial finds in the median and 1 is the optimum, or the best value known where the optimum "
    "is not (optformer/eval/bbob.py).",
    "tables": "The score is the best mean over training seeds so far, on a scale where 0 is what "
    "one random configuration has in the median and 1 is the table's best (optformer/eval/"
    "tables.py); a trial measures one seed. 1 − score is the regret to the table's optimum.",
    "coco": "The score is the best value so far on a scale where 0 is what one random trial finds "
    "in the median and 1 is the optimum (optformer/eval/coco.py). COCO's own report, by its own "
    "measures, is ppdata/index.html; its observer's files are in exdata.",
    hpob.DISCRETE: "The score is the best value so far among the recorded rows, normalized by the "
    "smallest and largest recorded value, as HPO-B's official handler does. Trials exclude the 5 "
    "initial points. Optimizers that cannot rank given points take the untried row that is "
    "nearest to their suggestion.",
    hpob.PROTOCOL: "The score is the best value so far, normalized by the surrogate's smallest "
    "and largest value and clipped to [0, 1], as HPO-B's official handler does. Trials exclude "
    "the 5 initial points; unlike in the handler, the last trial counts.",
}


def write_report(
    folders: Path | Sequence[Path],
    out: Path,
    *,
    title: str,
    notes: Sequence[str] = (),
    extra: Sequence[Section] = (),
    command: str = "",
    published: Mapping[str, hpob.Curves] | None = None,
) -> Path:
    """Writes the report of one results folder, or of several that are compared, to `out`.

    Args:
      notes: paragraphs for the summary.
      extra: sections before the last one, such as calibration.
      command: what was typed to get the page, if that is no command that a folder has noted.
      published: curves of HPO-B's continuous protocol from elsewhere, by name.

    Raises:
      ConfigError: folders that cannot be compared. SourceError: no results folder.
    """
    paths = [folders] if isinstance(folders, Path) else list(folders)
    results = merge([read(path) for path in paths])
    marked = {f"{name} (published)": curves for name, curves in (published or {}).items()}
    if marked:
        results = hpob.with_published(results, marked)
    view = View(results, published=tuple(marked))
    compared = report_sections.comparisons(view)
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
    sections += [_summary(view), Text(paragraphs=(_reading(view),))]
    if marked:  # it bears on every rank, test and difference below
        sections.append(Text(paragraphs=(hpob.ABOUT_PUBLISHED,)))
    if len(paths) > 1:
        sections += report_sections.twins(view)
    sections += report_sections.failures(results)
    sections += [Heading(title="Curves"), *report_sections.curves(view)]
    if results.protocol in (hpob.PROTOCOL, hpob.DISCRETE):
        sections += [Heading(title="HPO-B means"), *report_sections.hpob_means(view)]
    if len(view.names) > 1:
        sections += [Heading(title="Ranks"), *report_sections.ranks(view)]
        sections += [Heading(title="Differences"), *report_sections.differences(view, compared)]
    sections += [Heading(title="Cost"), *report_sections.cost(view), *extra]
    sections += [Heading(title="How to reproduce"), *reproduce(view, paths, command)]
    page = Page(title=title, lead=_lead(view, compared), sections=sections)
    return write_page(page, out)


def _lead(view: View, compared: Sequence[report_sections.Comparison]) -> str:
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


def _told_apart(made: Sequence[report_sections.Comparison]) -> str:
    """Whether the first comparison, that of the best two, shows a difference."""
    gap, corrected = made[0].gap, made[0].corrected
    tasks = gap.wins + gap.ties + gap.losses
    if statistics.least_p_value(tasks, len(made)) >= 0.05:
        return f"so few tasks, {tasks}, cannot tell" + (
            f" with {len(made)} comparisons" if len(made) > 1 else ""
        )
    test = f"p = {number(corrected, 2)} by {report_sections.TEST}"
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


def _reading(view: View) -> str:
    return (
        f"{_SCALES.get(view.results.protocol, 'The score lies between 0 and 1.')} Seeds of a task "
        "are averaged first, then tasks. With the same seed, all optimizers meet the same starting "
        "points and the same noise. A run that an error ended keeps its last score."
    )


def reproduce(view: View, paths: Sequence[Path], command: str = "") -> list[Section]:
    """What was typed for each folder, and what it ran under; what is where."""
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
