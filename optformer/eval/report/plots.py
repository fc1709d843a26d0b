"""The drawings of a report. Each function returns a matplotlib figure, drawn for a white page.

An optimizer has one colour in all figures that are drawn with the same set of names; those in
`_FIXED` keep theirs everywhere. Curves carry their name at their right end instead of a legend.

Array dimensions: T points along a curve, C confidence levels, N predictions.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

# Ten hues that stay apart for colour-blind readers at line width, after Okabe and Ito (2008) and
# Tol (2021); the order is the order of preference.
_HUES = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#8c6d1f",
    "#56a0d3",
    "#882255",
    "#e69f00",
    "#44aa99",
    "#6a51a3",
)
# For more than ten names: their labels must tell them apart, too.
_MORE_HUES = ("#b3262a", "#1f4e79", "#7fb800", "#5e3c1c", "#e377c2", "#17becf")
_FIXED = {
    "optformer": "#d55e00",
    "regularized_evolution": "#009e73",
    "eagle_strategy": "#0072b2",
    "vizier_eagle": "#0072b2",
    "gp_ucb": "#6a51a3",
    "vizier_gp_bandit": "#6a51a3",
    "optuna_tpe": "#cc79a7",
    "tpe": "#cc79a7",
    "cma_es": "#e69f00",
    "optuna_cma_es": "#e69f00",
}
_GREY = "#777b80"  # random search: what everything is measured against
_INK = "#2b2e33"
_SOFT = "#8a8f97"
_RC = {
    "font.family": next(
        (
            name
            for name in ("Helvetica Neue", "Arial", "Liberation Sans")
            if name in font_manager.get_font_names()
        ),
        "DejaVu Sans",  # comes with matplotlib
    ),
    "font.size": 9.0,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": _INK,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "grid.color": "#e6e7ea",
    "grid.linewidth": 0.6,
    "text.color": _INK,
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """A line with an optional band. `published` draws it dashed: made by others, elsewhere."""

    name: str
    x_T: Float[np.ndarray, " T"]
    mean_T: Float[np.ndarray, " T"]
    low_T: Float[np.ndarray, " T"] | None = None
    high_T: Float[np.ndarray, " T"] | None = None
    published: bool = False
    label: str = ""  # what is written at its end; the name if empty


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name; depends on the set of names only, not on their order."""
    chosen: dict[str, str] = {}
    for name in sorted(set(names)):
        if "random" in name and "quasi" not in name:
            chosen[name] = _GREY
        elif name in _FIXED and _FIXED[name] not in chosen.values():
            chosen[name] = _FIXED[name]
    for name in sorted(set(names) - set(chosen)):
        start = zlib.crc32(name.encode()) % len(_HUES)
        order = [*_HUES[start:], *_HUES[:start], *_MORE_HUES]
        free = [hue for hue in order if hue not in chosen.values()]
        chosen[name] = (free or order)[0]
    return chosen


def plot_curves(
    curves: Sequence[Curve],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
    invert_y: bool = False,
    names: Sequence[str] = (),
    unfinished: bool = False,
) -> Figure:
    """One panel of curves with bands.

    Args:
      names: all names of the report, so that colours agree between its figures.
      unfinished: writes across the panel that runs are missing.
    """
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(7.2, 3.9), layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, curves, colours(names or [curve.name for curve in curves]), 8.5)
        _scale(axes, log_x=log_x, log_y=log_y, invert_y=invert_y)
        axes.set(xlabel=x_label, ylabel=y_label, title=title)
        if unfinished:
            _stamp(axes)
        _label_ends(figure, [(axes, curves)], colours(names or [curve.name for curve in curves]))
    return figure


def plot_panels(
    panels: Mapping[str, Sequence[Curve]],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    names: Sequence[str] = (),
    columns: int = 2,
    share_y: bool = True,
    unfinished: bool = False,
) -> Figure:
    """Small panels with the same axes, one a title; each curve is named once, in a legend."""
    every = list(names) or sorted({curve.name for curves in panels.values() for curve in curves})
    hues = colours(every)
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(7.2, 0.5 + 2.1 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=share_y, squeeze=False)
        for axes, (title, curves) in zip(grid.flat, panels.items(), strict=False):
            _draw(axes, curves, hues, 8.0)
            _scale(axes, log_x=log_x, log_y=log_y, invert_y=False)
            axes.set_title(title)
            if unfinished:
                _stamp(axes)
        for place in range(len(panels), rows * columns):
            grid.flat[place].set_axis_off()
            # It has none below now.
            grid.flat[place - columns].tick_params(which="both", labelbottom=True)
        figure.supxlabel(x_label, fontsize=9, color=_INK)
        figure.supylabel(y_label, fontsize=9, color=_INK)
        _legend(figure, grid)
    return figure


def plot_calibration(
    panels: Mapping[str, Sequence[Curve]], *, names: Sequence[str] = (), unfinished: bool = False
) -> Figure:
    """Calibration curves, one panel a title: the confidence level asked for against how often the
    truth lay within.

    The diagonal is perfect; below it, predictions are too sure of themselves.
    """
    every = list(names) or sorted({curve.name for curves in panels.values() for curve in curves})
    hues = colours(every)
    columns = min(2 if len(panels) <= 4 else 3, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(_RC):
        figure = Figure(
            figsize=(7.2, 0.7 + (3.2 if columns < 3 else 2.3) * rows), layout="constrained"
        )
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, (title, curves) in zip(grid.flat, panels.items(), strict=False):
            axes.plot([0, 1], [0, 1], color=_SOFT, linewidth=0.8, dashes=(4, 3), label="_perfect")
            _draw(axes, curves, hues, 8.5)
            axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=title)
            axes.grid(True)
            axes.text(0.03, 0.95, "too cautious ↑", fontsize=8, color=_SOFT, va="top")
            axes.text(0.97, 0.05, "too sure ↓", fontsize=8, color=_SOFT, ha="right")
            if unfinished:
                _stamp(axes)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        figure.supxlabel("predicted probability", fontsize=9, color=_INK)
        figure.supylabel("observed frequency", fontsize=9, color=_INK)
        _legend(figure, grid)
    return figure


def plot_histogram(
    panels: Mapping[str, Mapping[str, Float[np.ndarray, " N"]]],
    *,
    x_label: str,
    bins: int = 20,
    names: Sequence[str] = (),
    unfinished: bool = False,
) -> Figure:
    """Histograms over [0, 1] as densities: a row a title, in it one a name; a dashed line marks
    the uniform one."""
    every = list(names) or sorted({name for values in panels.values() for name in values})
    hues = colours(every)
    columns = max(map(len, panels.values()))
    edges = np.linspace(0.0, 1.0, bins + 1)
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(7.2, 0.8 + 1.6 * len(panels)), layout="constrained")
        grid = figure.subplots(len(panels), columns, sharey="row", squeeze=False)
        for line, (title, values) in zip(grid, panels.items(), strict=True):
            for axes, (name, values_N) in zip(line, values.items(), strict=False):
                axes.hist(values_N, edges, density=True, color=hues[name], alpha=0.75, rwidth=0.92)
                axes.axhline(1.0, color=_INK, linewidth=0.8, dashes=(4, 3))
                shown = ", ".join(filter(None, (title, name.replace("_", " "))))
                axes.set(xlim=(0, 1), title=f"{shown}  (n = {len(values_N):,})")
                if unfinished:
                    _stamp(axes)
            for axes in line[len(values) :]:
                axes.set_axis_off()
        figure.supxlabel(x_label, fontsize=9, color=_INK)
        figure.supylabel("density", fontsize=9, color=_INK)
    return figure


def plot_intervals(
    rows: Mapping[str, tuple[float, float, float]],
    *,
    x_label: str,
    title: str = "",
    log_x: bool = False,
    reference: float | None = None,
    names: Sequence[str] = (),
    groups: Mapping[str, str] | None = None,
    tick: Callable[[float], str] = "{:g}".format,
    unfinished: bool = False,
) -> Figure:
    """One dot a name with its interval (middle, low, high), best first as given.

    Args:
      groups: the group of each name; those of a group share a colour.
      tick: writes the numbers at the axis, in units of people's choice.
    """
    if groups is None:
        hues = colours(list(names) or list(rows))
    else:
        by_group = colours(list(groups.values()))
        hues = {name: by_group[groups[name]] for name in rows}
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(7.2, 0.8 + 0.32 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        for row, (name, (middle, low, high)) in enumerate(rows.items()):
            axes.plot([low, high], [row, row], color=hues[name], linewidth=2, alpha=0.45)
            axes.plot([middle], [row], "o", color=hues[name], markersize=5.5)
        axes.set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        if reference is not None:
            axes.axvline(reference, color=_INK, linewidth=0.8, dashes=(4, 3))
        _scale(axes, log_x=log_x, log_y=False, invert_y=False)
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set(xlabel=x_label, title=title)
        axes.margins(x=0.06)
        if not log_x:
            axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        if log_x:
            axes.xaxis.set_minor_formatter(NullFormatter())
        if unfinished:
            _stamp(axes)
    return figure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking:
    """Mean ranks by name, and the groups of names that do not differ."""

    ranks: Mapping[str, float]
    groups: Sequence[Sequence[str]]


def plot_critical_difference(
    panels: Mapping[str, Ranking], *, names: Sequence[str] = (), unfinished: bool = False
) -> Figure:
    """Mean ranks on one axis a panel, 1 at the left; bars join those that do not differ."""
    every = list(names) or sorted({name for panel in panels.values() for name in panel.ranks})
    hues = colours(every)
    side = -(-len(every) // 2)
    bars = max(len(panel.groups) for panel in panels.values())
    top = 0.35 + 0.3 * bars  # below the axis: the bars, then the names
    with matplotlib.rc_context(_RC):
        height = 0.62 + 0.06 * bars + 0.19 * side
        figure = Figure(figsize=(7.2, len(panels) * height), layout="constrained")
        grid = figure.subplots(len(panels), 1, squeeze=False)
        for axes, (title, panel) in zip(grid.flat, panels.items(), strict=True):
            ranks = panel.ranks
            ordered = sorted(ranks, key=lambda name: ranks[name])
            last = float(len(every))
            # Names stand outside the axis and need about as much room however long it is.
            room = 0.42 * last
            axes.set(xlim=(1 - room, last + room), ylim=(-top - 0.95 * side - 0.3, 1.0))
            axes.set_title(title)
            axes.set_axis_off()
            axes.plot([1, last], [0, 0], color=_SOFT, linewidth=0.8)
            for rank in range(1, len(every) + 1):
                axes.plot([rank, rank], [0, 0.18], color=_SOFT, linewidth=0.8)
                axes.text(rank, 0.3, str(rank), ha="center", fontsize=8, color=_INK)
            for place, name in enumerate(ordered):
                left = place < side
                y = -top - 0.5 - 0.95 * (place if left else len(ordered) - 1 - place)
                x = 1 - 0.02 * last if left else last + 0.02 * last
                colour = hues[name]
                axes.plot([ranks[name], ranks[name], x], [0, y, y], color=colour, linewidth=1.1)
                axes.plot([ranks[name]], [0], "o", color=colour, markersize=4)
                axes.text(
                    x + (-0.01 if left else 0.01) * last,
                    y,
                    f"{name.replace('_', ' ')}  {ranks[name]:.2f}",
                    ha="right" if left else "left",
                    va="center",
                    color=colour,
                    fontsize=8.5,
                )
            for row, group in enumerate(panel.groups):
                y = -0.3 - 0.3 * row
                edges = [ranks[name] for name in group]
                reach = 0.006 * last
                axes.plot(
                    [min(edges) - reach, max(edges) + reach], [y, y], color=_INK, linewidth=2.4
                )
            if unfinished:
                _stamp(axes)
    return figure


def plot_matrices(
    panels: Mapping[str, Float[np.ndarray, "N N"]],
    names: Sequence[str],
    *,
    y_label: str,
    x_label: str,
    least: float = 0.1,
    unfinished: bool = False,
) -> Figure:
    """Square matrices side by side as coloured tables, the larger the darker in each row.

    Rows and columns are `names` in their order. A row whose numbers span less than `least` is
    paler than others: small differences do not look like large ones.
    """
    size = len(names)
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(7.2, 1.5 + 0.27 * size), layout="constrained")
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)
        for axes, (title, values_NN) in zip(grid.flat, panels.items(), strict=True):
            low_N1 = np.nanmin(values_NN, axis=1, keepdims=True)
            span_N1 = np.nanmax(values_NN, axis=1, keepdims=True) - low_N1
            shade_NN = (values_NN - low_N1) / np.maximum(span_N1, least)
            axes.imshow(shade_NN, cmap="Blues", vmin=0.0, vmax=1.35, aspect="auto")
            for row in range(size):
                for column in range(size):
                    axes.text(
                        column,
                        row,
                        f"{values_NN[row, column]:.2f}".replace("-", "−"),
                        ha="center",
                        va="center",
                        fontsize=8 if size <= 6 else 6.5,
                        fontweight="bold" if row == column else "normal",
                        color="white" if shade_NN[row, column] > 0.75 else _INK,
                    )
            shown = [name.replace("_", " ") for name in names]
            axes.set_xticks(range(size), shown, rotation=40, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(size), shown)
            axes.tick_params(length=0, labelfontfamily=_RC["font.family"])
            axes.spines[:].set_visible(False)
            axes.set(title=title, xlabel=x_label)
            if unfinished:
                _stamp(axes)
        grid.flat[0].set_ylabel(y_label)
    return figure


def _draw(axes: Axes, curves: Sequence[Curve], hues: Mapping[str, str], size: float) -> None:
    for curve in curves:
        colour = hues[curve.name]
        # Many bands hide each other: of many curves, only our own have theirs.
        banded = len(curves) <= 8 or not curve.published
        if banded and curve.low_T is not None and curve.high_T is not None:
            axes.fill_between(
                curve.x_T,
                curve.low_T,
                curve.high_T,
                color=colour,
                alpha=0.10 if len(curves) <= 4 else 0.04,
                linewidth=0,
            )
            for edge_T in (curve.low_T, curve.high_T):
                # Many bands are told apart by their edges only.
                width = 0.5 if len(curves) <= 4 else 0.35
                axes.plot(curve.x_T, edge_T, color=colour, alpha=0.4, linewidth=width)
        axes.plot(
            curve.x_T,
            curve.mean_T,
            color=colour,
            linewidth=1.6 if size > 8 else 1.3,
            dashes=(3, 1.5) if curve.published else (None, None),
            label=_label(curve),
        )


def _legend(figure: Figure, grid: np.ndarray) -> None:
    """Names each curve of the panels once, above them."""
    lines = {line.get_label(): line for axes in grid.flat for line in axes.get_lines()}
    lines = {label: line for label, line in lines.items() if not label.startswith("_")}
    figure.legend(
        handles=list(lines.values()),
        labels=list(lines),
        loc="outside upper left",
        ncols=min(len(lines), 4 if max(map(len, lines)) < 22 else 3),
        frameon=False,
        fontsize=8.5,
        handlelength=1.4,
    )


def _label(curve: Curve) -> str:
    return (curve.label or curve.name).replace("_", " ")


def _scale(axes: Axes, *, log_x: bool, log_y: bool, invert_y: bool) -> None:
    axes.grid(True)
    axes.set_axisbelow(True)
    axes.margins(x=0.0)
    # Labels of ticks are made when the figure is saved, outside this module's settings.
    axes.tick_params(which="both", labelfontfamily=_RC["font.family"])
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    for axis, log in ((axes.xaxis, log_x), (axes.yaxis, log_y)):
        if not log:
            continue
        low, high = axis.get_view_interval()
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        # Within two decades the powers of ten alone are too few to read off a value.
        subs = (2.0, 5.0) if high / max(low, 1e-300) < 300 else ()
        axis.set_minor_formatter(
            FuncFormatter(lambda value, _, subs=subs: f"{value:g}" if _digit(value) in subs else "")
        )
        axis.set_tick_params(which="minor", labelsize=8)
    if invert_y:
        axes.invert_yaxis()


def _digit(value: float) -> float:
    return round(value / 10 ** np.floor(np.log10(value)), 6) if value > 0 else 0.0


def _stamp(axes: Axes) -> None:
    axes.text(
        0.5,
        0.5,
        "UNFINISHED RUN",
        transform=axes.transAxes,
        ha="center",
        va="center",
        fontsize=15,
        color="#b3261e",
        alpha=0.35,
        rotation=18,
    )


def _label_ends(
    figure: Figure, panels: Sequence[tuple[Axes, Sequence[Curve]]], hues: Mapping[str, str]
) -> None:
    """Writes each curve's name right of its end, moved apart where ends are close."""
    for axes, curves in panels:
        shown = [curve for curve in curves if np.isfinite(curve.mean_T).any()]
        if not shown:
            continue
        figure.draw_without_rendering()
        _, bottom, _, height = axes.get_window_extent().bounds
        gap = 12.5 * figure.dpi / 72 / height
        ends = [_end(axes, curve, bottom, height) for curve in shown]
        order = sorted(range(len(shown)), key=lambda row: ends[row])
        places = _apart([ends[row] for row in order], gap)
        for row, place in zip(order, places, strict=True):
            axes.annotate(
                _label(shown[row]),
                xy=(1.0, ends[row]),
                xytext=(1.035, place),
                xycoords="axes fraction",
                textcoords="axes fraction",
                color=hues[shown[row].name],
                fontsize=9,
                va="center",
                annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-",
                    "color": hues[shown[row].name],
                    "linewidth": 0.6,
                    "alpha": 0.6,
                    "shrinkA": 1,
                    "shrinkB": 0,
                    "relpos": (0.0, 0.5),
                },
            )


def _end(axes: Axes, curve: Curve, bottom: float, height: float) -> float:
    """Where a curve ends, as a fraction of the axes' height."""
    last = int(np.flatnonzero(np.isfinite(curve.mean_T))[-1])
    point = axes.transData.transform((curve.x_T[last], curve.mean_T[last]))
    return float(np.clip((point[1] - bottom) / height, 0.0, 1.0))


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places moved as little as is simple so that neighbours are `gap` apart.

    Runs of places that are too close are spread around their mean; runs that meet are merged.
    """
    runs: list[list[float]] = []  # [sum of places, count]
    for place in places:
        runs.append([place, 1.0])
        while len(runs) > 1:
            (sum_a, n_a), (sum_b, n_b) = runs[-2:]
            if sum_b / n_b - sum_a / n_a >= gap * (n_a + n_b) / 2:
                break
            runs[-2:] = [[sum_a + sum_b, n_a + n_b]]
    spread: list[float] = []
    for total, count in runs:
        low = total / count - gap * (count - 1) / 2
        spread += [low + gap * step for step in range(int(count))]
    # No higher than the top, the last of them lowest of all if there are too many.
    return [min(place, 1.0 - gap * rest) for rest, place in enumerate(reversed(spread))][::-1]
