"""The numbers of a figure as a table, for the file beside its picture."""

from collections.abc import Mapping, Sequence

from optformer.eval.report.page import Cell, Interval, Table, named
from optformer.eval.report.plots import Curve


def of_curves(curves: Sequence[Curve], *, x: str, y: str, name: str = "optimizer") -> Table:
    """One row a curve and point."""
    return of_panels({"": curves}, panel="", x=x, y=y, name=name)


def of_panels(
    panels: Mapping[str, Sequence[Curve]], *, panel: str, x: str, y: str, name: str = "optimizer"
) -> Table:
    """One row a panel, curve and point.

    Args:
      panel, name, x, y: the columns' names; no column of panels if `panel` is empty.
    """
    rows: list[list[Cell]] = []
    for title, curves in panels.items():
        for curve in curves:
            for place in range(len(curve.x_T)):
                at = float(curve.x_T[place])
                mean = Interval(mean=float(curve.mean_T[place]))
                if curve.low_T is not None and curve.high_T is not None:
                    bounds = float(curve.low_T[place]), float(curve.high_T[place])
                    mean = Interval.of((mean.mean, *bounds))
                rows.append(
                    [
                        *([title] if panel else []),
                        named(curve.name),
                        int(at) if at.is_integer() else at,
                        mean,
                    ]
                )
    return Table(caption="", header=(*([panel] if panel else []), name, x, y), rows=rows)
