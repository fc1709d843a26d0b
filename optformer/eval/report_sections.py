"""The sections of an evaluation's report, each from a `View` of the results."""

import os
import re
import textwrap
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float64

from optformer.eval import hpob, statistics
from optformer.eval.page import Cell, Figure, Section, Table, Text, number
from optformer.eval.plots import (
    Curve,
    plot_critical_difference,
    plot_curves,
    plot_intervals,
    plot_panels,
)
from optformer.eval.results import Failure, Results

BASELINE = "random_search"


class View:
    """What all sections of a report are made of, computed once."""

    def __init__(self, results: Results) -> None:
        self.results = results
        # Only what all optimizers have ended is compared: means over different tasks mislead.
        self.common_KS: Bool[np.ndarray, "K S"] = np.all(results.ended_OKS, axis=0)
        self.scores_OKST = np.where(self.common_KS[None, :, :, None], results.scores(), np.nan)
        self.band = statistics.mean_band(self.scores_OKST, np.random.default_rng(0))
        self.ranks_OKST = statistics.ranks(self.scores_OKST)
        self.rank_band = statistics.mean_band(self.ranks_OKST, np.random.default_rng(0))
        self.last = results.trials
        order = np.argsort(-np.nan_to_num(self.band.mean_OT[:, self.last]), kind="stable")
        self.order = [int(row) for row in order]
        self.first = 0 if np.isfinite(self.band.mean_OT[:, 0]).any() else 1
        self.trials_T = np.arange(self.first, self.last + 1, dtype=np.float64)

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
        return [trial for trial in (10, 30, 100, 300, 1000) if trial < self.last] + [self.last]

    @property
    def baseline(self) -> int | None:
        """Random search, which others must beat to be of use, if it is among them."""
        return self.names.index(BASELINE) if BASELINE in self.names else None

    @property
    def counts(self) -> str:
        """What all means are over, in words."""
        tasks = int(self.common_KS.any(1).sum())
        runs = int(self.common_KS.sum())
        return f"{many(tasks, 'task')}, {many(runs, 'run')} an optimizer"

    def curve(self, row: int, band: statistics.Band) -> Curve:
        """One optimizer's curve with its band."""
        return Curve(
            name=self.names[row],
            x_T=self.trials_T,
            mean_T=band.mean_OT[row, self.first :],
            low_T=band.low_OT[row, self.first :],
            high_T=band.high_OT[row, self.first :],
        )


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
            same[0].optimizer.replace("_", " "),
            len(same),
            textwrap.shorten(same[0].error, 240, placeholder=" …"),
            f"{same[0].task}, seed {same[0].seed}, trial {same[0].trial}",
        )
        for same in groups.values()
    ]
    return [
        Table(
            caption=f"{many(len(results.failures), 'run')} of {results.runs:,} ended with an "
            "error. They count, with what they had found by then. Whole messages are in the rows.",
            header=("optimizer", "runs", "error", "first at"),
            rows=rows,
            name="failures",
        )
    ]


def curves(view: View) -> list[Section]:
    """Scores by trial: all tasks, what is left to find, and that by family."""
    unfinished = view.results.missing > 0
    best_first = [view.curve(row, view.band) for row in view.order]
    sections: list[Section] = [
        Figure(
            caption=f"Mean score by trial with 95 % intervals. {view.counts.capitalize()}.",
            picture=plot_curves(
                best_first,
                x_label="trials",
                y_label="score",
                names=view.names,
                unfinished=unfinished,
            ),
            name="curves",
        )
    ]
    gap_caption = (
        "What is left to find, 1 − score, on a logarithmic axis: differences near the optimum show "
        f"here. What is below {_FLOOR:g} is drawn there."
    )
    sections.append(
        Figure(
            caption=gap_caption,
            picture=plot_curves(
                [_gap(curve) for curve in best_first],
                x_label="trials",
                y_label="1 − score",
                log_y=True,
                names=view.names,
                unfinished=unfinished,
            ),
            name="gap",
        )
    )
    families = sorted({task.family for task in view.results.tasks})
    if 1 < len(families) <= 16:
        panels = {
            _family_title(view, family): [_gap(curve) for curve in _of_family(view, family)]
            for family in families
        }
        sections.append(
            Figure(
                caption="What is left to find, by family. The bands are 95 % intervals over runs, "
                "since a family has few tasks.",
                picture=plot_panels(
                    panels,
                    x_label="trials",
                    y_label="1 − score",
                    log_y=True,
                    names=view.names,
                    columns=2 if len(families) <= 8 else 4,
                    unfinished=unfinished,
                ),
                name="families",
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
    return f"{family}  ({many(tasks, 'task')})"


def ranks(view: View) -> list[Section]:
    """Mean ranks by trial, and critical-difference diagrams where there are tasks enough."""
    order = sorted(view.order, key=lambda row: view.rank_band.mean_OT[row, view.last])
    sections: list[Section] = [
        Figure(
            caption="Mean rank by trial among the optimizers of this report, 1 is best; ties "
            "share a rank. Ranks are taken within each task and seed, so every task weighs the "
            f"same however its values are spread. {view.counts.capitalize()}.",
            picture=plot_curves(
                [view.curve(row, view.rank_band) for row in order],
                x_label="trials",
                y_label="mean rank",
                invert_y=True,
                names=view.names,
                unfinished=view.results.missing > 0,
            ),
            name="ranks",
        )
    ]
    tasks = int(view.common_KS.any(1).sum())
    if len(view.names) > 2 and tasks >= 5:
        at = [trial for trial in (25, 50, 100) if trial < view.last] + [view.last]
        critical = statistics.critical_difference(len(view.names), tasks)
        task_ranks_OKT = statistics.ranks(statistics.over_seeds(view.scores_OKST)[:, :, None, :])[
            :, :, 0
        ]
        sections.append(
            Figure(
                caption="Critical-difference diagrams (Demšar 2006): mean ranks of each task's "
                "mean score; optimizers joined by a bar do not differ by Nemenyi's test at 5 %, "
                f"which asks for {number(critical, 3)} with {many(tasks, 'task')}.",
                picture=plot_critical_difference(
                    {
                        f"after {trial}": {
                            name: float(np.nanmean(task_ranks_OKT[row, :, trial]))
                            for row, name in enumerate(view.names)
                        }
                        for trial in at
                    },
                    critical,
                    names=view.names,
                ),
                name="critical_difference",
            )
        )
    return sections


def differences(view: View) -> list[Section]:
    """Paired differences of the last scores: of all pairs, or, of many optimizers, of the best and
    of random search with each other."""
    pairs = [
        (first, second)
        for place, first in enumerate(view.order)
        for second in view.order[place + 1 :]
        if len(view.order) <= 5 or place == 0 or view.baseline in (first, second)
    ]
    gaps = [compare(view, first, second) for first, second in pairs]
    adjusted = statistics.holm([gap.p_value for gap in gaps])
    rows = [
        (
            f"{view.shown(first)} − {view.shown(second)}",
            _signed(gap.mean, gap.low, gap.high),
            f"{gap.wins} / {gap.ties} / {gap.losses}",
            number(gap.p_value, 2),
            number(p_value, 2),
        )
        for (first, second), gap, p_value in zip(pairs, gaps, adjusted, strict=True)
    ]
    return [
        Table(
            caption=f"Differences of score after {view.last} trials, paired by task: mean with its "
            "95 % interval; tasks won, tied and lost by the first; p of Wilcoxon's signed-rank "
            f"test, as it is and after Holm's correction for {many(len(rows), 'comparison')}.",
            header=("first − second", "difference", "won / tied / lost", "p", "p (Holm)"),
            rows=rows,
            name="differences",
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
            f"range from the 5 % to the 95 % quantile, of {asked:,} suggestions on "
            f"{os.cpu_count()} cores.",
            picture=plot_intervals(
                ordered,
                x_label="time for one suggestion",
                log_x=True,
                names=view.names,
                tick=seconds_shown,
            ),
            name="cost",
        )
    ]


def hpob_means(view: View, published: Mapping[str, hpob.Curves]) -> list[Section]:
    """HPO-B's own means, ours beside published ones on the same tasks."""
    ours = {name: hpob.curves(view.results, name) for name in view.names}
    like = ours[view.names[0]]
    elsewhere = {name: hpob.restrict(given, like) for name, given in published.items()}
    if view.results.missing:
        return [Text(paragraphs=("Means follow when all runs have ended.",))]
    everyone = [(name, given, False) for name, given in ours.items()]
    everyone += [(name, given, True) for name, given in elsewhere.items() if given]
    at = [trial for trial in (5, 10, 20, 50, 100) if trial <= view.last]
    rows: list[list[Cell]] = []
    for name, given, was_published in everyone:
        macro_T, flat_T = hpob.macro_mean(given), hpob.flat_mean(given)
        tasks = sum(len(datasets) for datasets in given.values())
        rows.append(
            [
                name.replace("_", " ") + (" (published)" if was_published else ""),
                *(f"{macro_T[trial]:.4f}" for trial in at),
                f"{flat_T[at[-1]]:.4f}",
                len(given),
                tasks,
                sum(len(runs) for datasets in given.values() for runs in datasets.values()),
            ]
        )
    rows.sort(key=lambda row: str(row[len(at)]), reverse=True)
    drawn = [
        Curve(
            name=name,
            x_T=np.arange(len(hpob.macro_mean(given)), dtype=np.float64),
            mean_T=hpob.macro_mean(given),
            published=was_published,
        )
        for name, given, was_published in everyone
    ]
    told = (
        "Macro means: over initialisations, then datasets, then search spaces. Flat: over all runs."
    )
    if elsewhere:
        told += (
            " Published curves were made on the official surrogates and are shown on the same "
            "tasks; on other surrogates they compare only roughly. Curves that start elsewhere "
            "than ours were made from other initial points: all five repeats of OptFormer's own "
            "start from the first initialisation."
        )
    return [
        Table(
            caption=f"Macro mean of normalized performance after a number of trials, and flat mean "
            f"after {at[-1]}.",
            header=(
                "optimizer",
                *(f"@{trial}" for trial in at),
                f"flat @{at[-1]}",
                "spaces",
                "tasks",
                "runs",
            ),
            rows=rows,
            name="hpob",
        ),
        Figure(
            caption=told,
            picture=plot_curves(
                drawn,
                x_label="trials after the 5 initial points",
                y_label="normalized performance, macro mean",
                names=[name for name, _, _ in everyone],
            ),
            name="hpob_curves",
        ),
    ]


def compare(view: View, first: int, second: int) -> statistics.Difference:
    """The difference of two optimizers' last scores, paired by task."""
    final_OK = statistics.over_seeds(view.scores_OKST)[:, :, view.last]
    return statistics.paired_difference(final_OK[first], final_OK[second], np.random.default_rng(0))


def over_baseline(view: View, row: int) -> str:
    """An optimizer's last score less that of random search, with its interval."""
    if view.baseline is None or row == view.baseline:
        return "–"
    gap = compare(view, row, view.baseline)
    return _signed(gap.mean, gap.low, gap.high)


def suggestion_seconds(view: View, row: int) -> Float64[np.ndarray, " N"]:
    """The times of all of an optimizer's suggestions."""
    seconds_N = view.results.seconds_OKST[row].ravel()
    return seconds_N[np.isfinite(seconds_N)]


def seconds_shown(seconds: float) -> str:
    """A time with its unit: 0.0123 -> "12.3 ms"."""
    # Half a step below the next unit's 1, so that 999.9 µs is 1 ms.
    if seconds < 0.995e-3:
        return f"{seconds * 1e6:.3g} µs"
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.995 else f"{seconds:.3g} s"


def interval(band: statistics.Band, row: int, trial: int, digits: int = 3) -> str:
    """A mean with its interval: "0.912 [0.881, 0.940]"."""
    mean, low, high = (part[row, trial] for part in (band.mean_OT, band.low_OT, band.high_OT))
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _signed(mean: float, low: float, high: float) -> str:
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")


_FLOOR = 1e-4


def _gap(curve: Curve) -> Curve:
    """What is left to find, for a logarithmic axis that ends at `_FLOOR`."""
    assert curve.low_T is not None and curve.high_T is not None
    return Curve(
        name=curve.name,
        x_T=curve.x_T,
        mean_T=np.maximum(1.0 - curve.mean_T, _FLOOR),
        low_T=np.maximum(1.0 - curve.high_T, _FLOOR),
        high_T=np.maximum(1.0 - curve.low_T, _FLOOR),
    )


def many(count: int, thing: str) -> str:
    """A count of things: "1 task", "2,000 tasks"."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
