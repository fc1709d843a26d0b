"""HPO-B's own means of normalized performance, as sections of a report."""

import numpy as np

from optformer.eval import hpob_curves
from optformer.eval.report import curve_tables
from optformer.eval.report.page import Cell, Figure, Interval, Section, Table, Text, named
from optformer.eval.report.plots import Curve, plot_curves
from optformer.eval.report.view import View


def hpob_means(view: View) -> list[Section]:
    """HPO-B's own means of normalized performance, and how much more than random search's, or than
    the best one's, they are."""
    if view.unfinished:
        return [Text(paragraphs=("Means follow when all runs have ended.",))]
    curves = {name: hpob_curves.curves(view.results, name) for name in view.names}
    at = [trial for trial in (5, 10, 20, 50, 100) if trial < view.last] + [view.last]
    order = sorted(
        view.order, key=lambda row: -hpob_curves.macro_mean(curves[view.names[row]])[view.last]
    )
    reference = order[0] if view.baseline is None else view.baseline
    rows: list[list[Cell]] = []
    drawn: list[Curve] = []
    for row in order:
        given = curves[view.names[row]]
        mean_T, low_T, high_T = hpob_curves.macro_band(given, np.random.default_rng(0))
        rows.append(
            [
                named(view.names[row]),
                *(Interval(mean=mean_T[trial], digits=4) for trial in at[:-1]),
                Interval(mean=mean_T[at[-1]], low=low_T[at[-1]], high=high_T[at[-1]], digits=4),
                *([_macro_difference(view, row, reference)] if len(order) > 1 else []),
                Interval(mean=hpob_curves.flat_mean(given)[at[-1]], digits=4),
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
    ours, theirs = (hpob_curves.curves(view.results, view.names[one]) for one in (row, reference))
    parts = hpob_curves.macro_band(hpob_curves.difference(ours, theirs), np.random.default_rng(0))
    mean, low, high = (float(part_T[view.last]) for part_T in parts)
    return Interval(mean=mean, low=low, high=high, digits=4, signed=True)
