"""The sections of an evaluation's report, each from a `View` of the results."""

import dataclasses
import re
import textwrap
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Bool, Float64

from optformer.errors import SourceError, plural
from optformer.eval import curve_tables, hpob, statistics
from optformer.eval.page import (
    Cell,
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
from optformer.eval.plots import (
    Curve,
    Ranking,
    plot_critical_difference,
    plot_curves,
    plot_intervals,
    plot_panels,
)
from optformer.eval.results import Failure, Results

BASELINE = "random_search"
TEST = "Wilcoxon's signed-rank test (ties count, as by Pratt)"


class View:
    """What all sections of a report are made of, computed once.

    Optimizers of which no run has ended are left out, since nothing would be common to all; their
    names are in `not_begun`.

    Args:
      published: which of the optimizers are others' published results; they are drawn dashed.
      shown_at: the trials that tables show, besides the last one.

    Raises:
      SourceError: no run has ended.
    """

    def __init__(
        self,
        results: Results,
        published: Collection[str] = (),
        shown_at: Sequence[int] = (10, 30, 100, 300, 1000),
    ) -> None:
        begun = [
            name
            for name, ended_KS in zip(results.optimizers, results.ended_OKS, strict=True)
            if ended_KS.any()
        ]
        self.not_begun = tuple(name for name in results.optimizers if name not in begun)
        if not begun:
            raise SourceError(
                f"{results.folder}: none of {plural(results.runs, 'planned run')} has ended. Run "
                "the same `optformer evaluate` again: it goes on where it was stopped."
            )
        if self.not_begun:
            results = results.of(begun)
        self.results = results
        self.published = published
        self._shown_at = shown_at
        # Only what all optimizers have ended is compared: means over different tasks mislead.
        self.common_KS: Bool[np.ndarray, "K S"] = np.all(results.ended_OKS, axis=0)
        self.scores_OKST = np.where(self.common_KS[None, :, :, None], results.scores(), np.nan)
        groups = [task.group or task.name for task in results.tasks]
        # In the order of the tasks, so that tasks without groups are numbered as they come.
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        self.groups_K = np.array([numbers[group] for group in groups])
        self.band = self._band(self.scores_OKST)
        self.ranks_OKST = statistics.ranks(self.scores_OKST)
        self.rank_band = self._band(self.ranks_OKST)
        self.last = results.trials
        order = np.argsort(-np.nan_to_num(self.band.mean_OT[:, self.last]), kind="stable")
        self.order = [int(row) for row in order]
        self.first = 0 if np.isfinite(self.band.mean_OT[:, 0]).any() else 1
        self.trials_T = np.arange(self.first, self.last + 1, dtype=np.float64)

    def _band(self, scores_OKST: Float64[np.ndarray, "O K S T"]) -> statistics.Band:
        """Means with intervals that resample groups of tasks."""
        return statistics.mean_band(scores_OKST, np.random.default_rng(0), groups_K=self.groups_K)

    @property
    def has_groups(self) -> bool:
        """Whether several tasks are of one group."""
        return int(self.groups_K.max()) + 1 < len(self.groups_K)

    @property
    def names(self) -> tuple[str, ...]:
        """All optimizers, in the order of the results."""
        return self.results.optimizers

    def shown(self, row: int) -> str:
        """An optimizer's name for people."""
        return self.names[row].replace("_", " ")

    @property
    def checkpoints(self) -> list[int]:
        """The trials that tables show, the last one among them."""
        return [trial for trial in self._shown_at if trial < self.last] + [self.last]

    @property
    def baseline(self) -> int | None:
        """Random search, which others must beat to be of use, if it is among them."""
        return self.names.index(BASELINE) if BASELINE in self.names else None

    @property
    def counts(self) -> str:
        """What all means are over, in words."""
        tasks = int(self.common_KS.any(1).sum())
        runs = int(self.common_KS.sum())
        return f"{plural(tasks, 'task')}, {plural(runs, 'run')} an optimizer"

    def curve(self, row: int, band: statistics.Band) -> Curve:
        """One optimizer's curve with its band."""
        return Curve(
            name=self.names[row],
            x_T=self.trials_T,
            mean_T=band.mean_OT[row, self.first :],
            low_T=band.low_OT[row, self.first :],
            high_T=band.high_OT[row, self.first :],
            published=self.names[row] in self.published,
        )

    @property
    def unfinished(self) -> bool:
        """Whether runs are missing, which every plot must say."""
        return self.results.missing > 0 or bool(self.not_begun)


def failures(results: Results) -> list[Section]:
    """Which optimizers failed where, one row a kind of error; nothing if none did."""
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
    """Scores by trial: all tasks, what is left to find, and that by family."""
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
    """Optimizers that two folders both have, compared with themselves."""
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
    """How long suggestions took."""
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


def hpob_means(view: View) -> list[Section]:
    """HPO-B's own means of normalized performance, and how much more than random search's, or than
    the best one's, they are."""
    if view.unfinished:
        return [Text(paragraphs=("Means follow when all runs have ended.",))]
    curves = {name: hpob.curves(view.results, name) for name in view.names}
    at = [trial for trial in (5, 10, 20, 50, 100) if trial < view.last] + [view.last]
    order = sorted(view.order, key=lambda row: -hpob.macro_mean(curves[view.names[row]])[view.last])
    reference = order[0] if view.baseline is None else view.baseline
    rows: list[list[Cell]] = []
    drawn: list[Curve] = []
    for row in order:
        given = curves[view.names[row]]
        mean_T, low_T, high_T = hpob.macro_band(given, np.random.default_rng(0))
        rows.append(
            [
                named(view.names[row]),
                *(Interval(mean=mean_T[trial], digits=4) for trial in at[:-1]),
                Interval(mean=mean_T[at[-1]], low=low_T[at[-1]], high=high_T[at[-1]], digits=4),
                *([_macro_difference(view, row, reference)] if len(order) > 1 else []),
                Interval(mean=hpob.flat_mean(given)[at[-1]], digits=4),
                len(given),
                sum(len(datasets) for datasets in given.values()),
                sum(len(runs) for datasets in given.values() for runs in datasets.values()),
            ]
        )
        drawn.append(
            Curve(
                name=view.names[row],
                x_T=view.trials_T,
                mean_T=mean_T[view.first :],
                low_T=low_T[view.first :],
                high_T=high_T[view.first :],
                published=view.names[row] in view.published,
            )
        )
    sections: list[Section] = [
        Table(
            caption="Macro mean of normalized performance after a number of trials, "
            + (
                f"how much more than that of {view.shown(reference)}, paired by run, "
                if len(order) > 1
                else ""
            )
            + f"and flat mean after {view.last}. Macro: over initialisations, then datasets, then "
            f"search spaces. Flat: over all runs. {_INTERVALS_IN_SPACES}",
            header=(
                "optimizer",
                *(f"@{trial}" for trial in at),
                *([f"@{view.last} over {view.shown(reference)}"] if len(order) > 1 else []),
                f"flat @{at[-1]}",
                "spaces",
                "tasks",
                "runs",
            ),
            columns=(
                "optimizer",
                *(f"@{trial}" for trial in at),
                *([f"@{view.last} over {view.names[reference]}"] if len(order) > 1 else []),
                f"flat @{at[-1]}",
                "spaces",
                "tasks",
                "runs",
            ),
            rows=rows,
            name="hpob",
        ),
        Figure(
            caption=f"Macro mean by trial. {_INTERVALS_IN_SPACES}",
            picture=plot_curves(
                drawn,
                x_label="trials after the 5 initial points",
                y_label="normalized performance, macro mean",
                names=view.names,
            ),
            name="hpob_curves",
            data=curve_tables.of_curves(drawn, x="trial", y="macro mean"),
        ),
    ]
    return sections


_INTERVALS_IN_SPACES = (
    "95 % intervals are for these search spaces: over datasets, which are resampled within each "
    "space, with deviations scaled by √(n / (n − 1)) where a space has n. There are none where a "
    "space has a single one."
)


def _macro_difference(view: View, row: int, reference: int) -> Interval | None:
    """An optimizer's last macro mean less that of another, but none for that itself."""
    if row == reference:
        return None
    ours, theirs = (hpob.curves(view.results, view.names[one]) for one in (row, reference))
    parts = hpob.macro_band(hpob.difference(ours, theirs), np.random.default_rng(0))
    mean, low, high = (float(part_T[view.last]) for part_T in parts)
    return Interval(mean=mean, low=low, high=high, digits=4, signed=True)


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
