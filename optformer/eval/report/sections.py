"""The sections of an evaluation's report, each from a `View` of the results."""

import dataclasses
import re
import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from optformer.errors import plural
from optformer.eval import statistics
from optformer.eval.report import curve_tables
from optformer.eval.report.page import (
    Figure,
    Interval,
    Section,
    Shown,
    Table,
    Text,
    duration,
    named,
    rounded,
    seconds_shown,
)
from optformer.eval.report.plots import (
    Curve,
    Ranking,
    plot_critical_difference,
    plot_curves,
    plot_intervals,
    plot_panels,
)
from optformer.eval.report.view import View
from optformer.eval.results import Failure, Results

TEST = "Wilcoxon's signed-rank test (ties count, as by Pratt)"


def failures(results: Results) -> list[Section]:
    """The failed runs, one row for each kind of error; empty if none failed."""
    if not results.failures:
        return []
    groups: dict[tuple[str, str], list[Failure]] = {}
    for failure in results.failures:
        kind = re.sub(r"\d+", "", failure.error)  # messages that differ in their numbers only
        groups.setdefault((failure.optimizer, kind), []).append(failure)
    rows = [
        (
            named(same[0].optimizer),
            len(same),
            textwrap.shorten(same[0].error, 240, placeholder=" …"),
            Shown(
                text=f"{same[0].task}, seed {same[0].seed}, trial {same[0].trial}",
                values={"": same[0].task, ", seed": same[0].seed, ", trial": same[0].trial},
            ),
        )
        for same in groups.values()
    ]
    return [
        Table(
            caption=f"{plural(len(results.failures), 'run')} of {results.runs:,} ended with an "
            "error. They count, with what they had found by then. Whole messages are in the rows. "
            "A run whose file in parts/ is deleted is tried again.",
            header=("optimizer", "runs", "error", "first at"),
            rows=rows,
            name="failures",
        )
    ]


def curves(view: View) -> list[Section]:
    """Scores by trial: of all tasks, as regret, and as regret by family."""
    if not view.common_KS.any():  # a logarithmic axis needs values
        return [Text(paragraphs=("Curves follow when all optimizers have ended a run in common.",))]
    best_first = [view.curve(row, view.band) for row in view.order]
    scores = curve_tables.of_curves(best_first, x="trial", y="score")
    sections: list[Section] = [
        Figure(
            caption=f"Mean score by trial with 95 % intervals. {view.counts.capitalize()}.",
            picture=plot_curves(
                best_first,
                x_label="trials",
                y_label="score",
                names=view.names,
                unfinished=view.unfinished,
            ),
            name="curves",
            data=scores,
        )
    ]
    gap_caption = (
        "Normalized regret, 1 − score: what is left to find, on a logarithmic axis, where "
        f"differences near the optimum show. What is below {_FLOOR:g} is drawn there."
    )
    sections.append(
        Figure(
            caption=gap_caption,
            picture=plot_curves(
                [_gap(curve) for curve in best_first],
                x_label="trials",
                y_label="normalized regret",
                log_y=True,
                names=view.names,
                unfinished=view.unfinished,
            ),
            name="gap",
        )
    )
    families = sorted({task.family for task in view.results.tasks})
    if 1 < len(families) <= 16:
        panels = {family: _of_family(view, family) for family in families}
        sections.append(
            Figure(
                caption="Normalized regret by family. The bands are 95 % intervals over runs, "
                "since a family has few tasks.",
                picture=plot_panels(
                    {
                        _family_title(view, family): [_gap(curve) for curve in drawn]
                        for family, drawn in panels.items()
                    },
                    x_label="trials",
                    y_label="normalized regret",
                    log_y=True,
                    names=view.names,
                    columns=2 if len(families) <= 8 else 4,
                    unfinished=view.unfinished,
                ),
                name="families",
                data=curve_tables.of_panels(panels, panel="family", x="trial", y="score"),
            )
        )
    return sections


def _of_family(view: View, family: str) -> list[Curve]:
    rows = [index for index, task in enumerate(view.results.tasks) if task.family == family]
    scores_OKST = view.scores_OKST[:, rows]
    # Runs are the unit here: a family has too few tasks to resample.
    runs_OKST = scores_OKST.reshape(len(scores_OKST), -1, 1, scores_OKST.shape[-1])
    band = statistics.mean_band(runs_OKST, np.random.default_rng(0), resamples=500)
    return [view.curve(row, band) for row in view.order]


def _family_title(view: View, family: str) -> str:
    tasks = sum(task.family == family for task in view.results.tasks)
    return f"{family}  ({plural(tasks, 'task')})"


def ranks(view: View) -> list[Section]:
    """Mean ranks by trial, and critical-difference diagrams where there are tasks enough."""
    order = sorted(view.order, key=lambda row: view.rank_band.mean_OT[row, view.last])
    drawn = [view.curve(row, view.rank_band) for row in order]
    sections: list[Section] = [
        Figure(
            caption="Mean rank by trial among the optimizers of this report, 1 is best; ties "
            "share a rank. Ranks are taken within each task and seed, so every task weighs the "
            f"same however its values are spread. {view.counts.capitalize()}.",
            picture=plot_curves(
                drawn,
                x_label="trials",
                y_label="mean rank",
                invert_y=True,
                names=view.names,
                unfinished=view.unfinished,
            ),
            name="ranks",
            data=curve_tables.of_curves(drawn, x="trial", y="mean rank"),
        )
    ]
    tasks = int(view.common_KS.any(1).sum())
    if len(view.names) > 2 and tasks >= 5:
        sections.append(_critical_difference(view, tasks))
    return sections


def _critical_difference(view: View, tasks: int) -> Figure:
    """The diagrams at HPO-B's trials, of those tasks that all optimizers have."""
    at = [trial for trial in (25, 50, 100) if trial < view.last] + [view.last]
    scores_OKT = statistics.over_seeds(view.scores_OKST)
    ranks_OKT = statistics.ranks(scores_OKT[:, :, None, :])[:, :, 0]
    panels, tests = {}, []
    for trial in at:
        known_K = ~np.isnan(scores_OKT[:, :, trial]).any(0)
        scores_OK, mean_O = scores_OKT[:, known_K, trial], ranks_OKT[:, known_K, trial].mean(1)
        p_value = statistics.friedman(scores_OK)
        tests.append(f"{trial}: p {'=' if p_value >= 1e-4 else '<'} {max(p_value, 1e-4):.2g}")
        # Where Friedman's test sees no difference at all, no pair is tested.
        p_OO = (
            statistics.pairwise_p_values(scores_OK)
            if p_value < 0.05
            else np.ones((len(mean_O), len(mean_O)))
        )
        panels[f"after {trial} trials"] = Ranking(
            ranks=dict(zip(view.names, mean_O.tolist(), strict=True)),
            groups=[[view.names[row] for row in group] for group in statistics.alike(mean_O, p_OO)],
        )
    return Figure(
        caption="Critical-difference diagrams, as HPO-B draws them: mean ranks of each task's mean "
        f"score; optimizers joined by a bar do not differ at 5 % by {TEST} "
        f"with Holm's correction for all pairs. Friedman's test after {'; '.join(tests)}. "
        f"{plural(tasks, 'task')}.",
        picture=plot_critical_difference(panels, names=view.names, unfinished=view.unfinished),
        name="critical_difference",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two optimizers' last scores; `corrected` is the p-value after Holm's correction."""

    first: int
    second: int
    gap: statistics.Difference
    corrected: float


def comparisons(view: View) -> list[Comparison]:
    """The best optimizer with the second, then with all others; and either all other pairs or, of
    many optimizers, random search with each other."""
    pairs = [
        (first, second)
        for place, first in enumerate(view.order)
        for second in view.order[place + 1 :]
        if len(view.order) <= 5 or place == 0 or view.baseline in (first, second)
    ]
    gaps = [compare(view, first, second) for first, second in pairs]
    adjusted = statistics.holm([gap.p_value for gap in gaps])
    return [
        Comparison(first=first, second=second, gap=gap, corrected=p_value)
        for (first, second), gap, p_value in zip(pairs, gaps, adjusted, strict=True)
    ]


def differences(view: View, compared: Sequence[Comparison]) -> list[Section]:
    """The paired differences of the last scores."""
    rows = [
        (
            Shown(
                text=f"{view.shown(made.first)} − {view.shown(made.second)}",
                values={", first": view.names[made.first], ", second": view.names[made.second]},
            ),
            difference(made.gap),
            _counted(made.gap),
            rounded(made.gap.p_value, 2),
            rounded(made.corrected, 2),
        )
        for made in compared
    ]
    return [
        Table(
            caption=f"Differences of score after {view.last} trials, paired by task: mean with its "
            f"95 % interval; tasks won, tied and lost by the first; p of {TEST}, as it is and "
            f"after Holm's correction for {plural(len(rows), 'comparison')}.",
            header=("first − second", "difference", "won / tied / lost", "p", "p (Holm)"),
            columns=("optimizer", "difference", "tasks", "p", "p (Holm)"),
            rows=rows,
            name="differences",
        )
    ]


def twins(view: View) -> list[Section]:
    """Optimizers that are in both folders, each compared with itself."""
    same: dict[str, list[int]] = {}
    for row, name in enumerate(view.names):
        folder, _, optimizer = name.rpartition("/")
        if folder:
            same.setdefault(optimizer, []).append(row)
    pairs = [(name, rows[0], rows[1]) for name, rows in same.items() if len(rows) == 2]
    if not pairs:
        return []
    gaps = [compare(view, first, second) for _, first, second in pairs]
    adjusted = statistics.holm([gap.p_value for gap in gaps])
    shown = [
        (
            named(name),
            interval(view.band, first, view.last),
            interval(view.band, second, view.last),
            difference(gap),
            _counted(gap),
            rounded(p_value, 2),
        )
        for (name, first, second), gap, p_value in zip(pairs, gaps, adjusted, strict=True)
    ]
    folders = [view.names[row].rpartition("/")[0] for row in pairs[0][1:]]
    return [
        Table(
            caption=f"Optimizers in both folders: score after {view.last} trials, and the "
            "difference, first − second, paired by task; each with its 95 % interval. Tasks won, "
            f"tied and lost by the first. p of {TEST} after Holm's correction "
            f"for {plural(len(shown), 'comparison')}. {view.counts[0].upper()}{view.counts[1:]}.",
            header=("optimizer", *folders, "difference", "won / tied / lost", "p (Holm)"),
            columns=("optimizer", *folders, "difference", "tasks", "p (Holm)"),
            rows=shown,
            name="twins",
        )
    ]


def cost(view: View) -> list[Section]:
    """The times of suggestions."""
    rows: dict[str, tuple[float, float, float]] = {}
    asked = 0
    for row in view.order:
        seconds_N = suggestion_seconds(view, row)
        if len(seconds_N):
            low, middle, high = np.quantile(seconds_N, [0.05, 0.5, 0.95])
            rows[view.names[row]] = (float(middle), float(low), float(high))
            asked += len(seconds_N)
    if not rows:
        return [Text(paragraphs=("No suggestion was timed.",))]
    ordered = dict(sorted(rows.items(), key=lambda item: item[1][0]))
    return [
        Figure(
            caption="Time for one suggestion and the update that follows it: median, and the "
            f"range from the 5 % to the 95 % quantile, of {asked:,} suggestions; on how many cores "
            f"is in the last section.{sharing(view)}",
            picture=plot_intervals(
                ordered,
                x_label="time for one suggestion",
                log_x=True,
                names=view.names,
                tick=seconds_shown,
                unfinished=view.unfinished,
            ),
            name="cost",
            data=Table(
                caption="",
                header=("optimizer", "median, seconds", "5 %, seconds", "95 %, seconds"),
                rows=[(named(name), *quantiles) for name, quantiles in ordered.items()],
            ),
        )
    ]


def compare(view: View, first: int, second: int) -> statistics.Difference:
    """The difference of two optimizers' last scores, paired by task."""
    final_OK = statistics.over_seeds(view.scores_OKST)[:, :, view.last]
    return statistics.paired_difference(
        final_OK[first],
        final_OK[second],
        np.random.default_rng(0),
        groups_N=view.groups_K if view.has_groups else None,
    )


def difference(gap: statistics.Difference) -> Interval:
    """How much larger the first is."""
    return Interval(mean=gap.mean, low=gap.low, high=gap.high, signed=True)


def _counted(gap: statistics.Difference) -> Shown:
    return Shown(
        text=f"{gap.wins} / {gap.ties} / {gap.losses}",
        values={" won": gap.wins, " tied": gap.ties, " lost": gap.losses},
    )


def over_baseline(view: View, row: int) -> Interval | None:
    """An optimizer's last score less that of random search, but none for that itself."""
    if view.baseline is None or row == view.baseline:
        return None
    return difference(compare(view, row, view.baseline))


def sharing(view: View) -> str:
    """Which optimizers' times are shares of a pass over several studies; a sentence, or nothing."""
    shared = [
        f"{view.shown(row)} over up to {view.results.together_O[row]}"
        for row in view.order
        if view.results.together_O[row] > 1
    ]
    if not shared:
        return ""
    return (
        " Some suggest for several studies in one pass, of which each study's time is its share "
        f"({', '.join(shared)}): alone, a suggestion takes longer (`--together 1` tells)."
    )


def suggestion_seconds(view: View, row: int) -> Float64[np.ndarray, " N"]:
    """The times of all of an optimizer's suggestions."""
    seconds_N = view.results.seconds_OKST[row].ravel()
    return seconds_N[np.isfinite(seconds_N)]


def median_time(view: View, row: int) -> Shown | None:
    """The median time of an optimizer's suggestions, if any was timed."""
    seconds_N = suggestion_seconds(view, row)
    return duration(float(np.median(seconds_N))) if len(seconds_N) else None


def interval(band: statistics.Band, row: int, trial: int, digits: int = 3) -> Interval:
    """A mean with its interval."""
    mean, low, high = (
        float(part[row, trial]) for part in (band.mean_OT, band.low_OT, band.high_OT)
    )
    return Interval(mean=mean, low=low, high=high, digits=digits)


_FLOOR = 1e-4


def _gap(curve: Curve) -> Curve:
    """What is left to find, for a logarithmic axis that ends at `_FLOOR`."""
    assert curve.low_T is not None and curve.high_T is not None
    return dataclasses.replace(
        curve,
        mean_T=np.maximum(1.0 - curve.mean_T, _FLOOR),
        low_T=np.maximum(1.0 - curve.high_T, _FLOOR),
        high_T=np.maximum(1.0 - curve.low_T, _FLOOR),
    )
