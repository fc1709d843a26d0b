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
    """A line with an optional band. `published` draws it dashed and says so in its label."""

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
        order = [_HUES[(start + step) % len(_HUES)] for step in range(len(_HUES))]
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
            grid.flat[place - columns].tick_params(labelbottom=True)  # it has none below now
        figure.supxlabel(x_label, fontsize=9, color=_INK)
        figure.supylabel(y_label, fontsize=9, color=_INK)
        lines = {line.get_label(): line for axes in grid.flat for line in axes.get_lines()}
        lines = {label: line for label, line in lines.items() if not label.startswith("_")}
        figure.legend(
            handles=list(lines.values()),
            labels=list(lines),
            loc="outside upper left",
            ncols=min(len(lines), 4),
            frameon=False,
            fontsize=8.5,
            handlelength=1.4,
        )
    return figure


def plot_calibration(
    curves: Mapping[str, tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]]],
    *,
    title: str = "",
    names: Sequence[str] = (),
) -> Figure:
    """Calibration curves: the confidence level asked for against how often the truth lay within.

    The diagonal is perfect; below it, predictions are too sure of themselves.
    """
    every = list(names) or list(curves)
    hues = colours(every)
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(7.2, 3.9), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=_SOFT, linewidth=0.8, dashes=(4, 3), label="_perfect")
        drawn = [
            Curve(name=name, x_T=levels_C, mean_T=observed_C)
            for name, (levels_C, observed_C) in curves.items()
        ]
        _draw(axes, drawn, hues, 8.5)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=title)
        axes.set(xlabel="predicted probability", ylabel="observed frequency")
        axes.grid(True)
        axes.text(0.03, 0.95, "too cautious ↑", fontsize=8, color=_SOFT, va="top")
        axes.text(0.97, 0.05, "too sure ↓", fontsize=8, color=_SOFT, ha="right")
        axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    return figure


def plot_histogram(
    values: Mapping[str, Float[np.ndarray, " N"]],
    *,
    x_label: str,
    title: str = "",
    bins: int = 20,
    names: Sequence[str] = (),
) -> Figure:
    """Histograms over [0, 1] side by side, as densities; a dashed line marks the uniform one."""
    hues = colours(list(names) or list(values))
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(7.2, 2.6), layout="constrained")
        grid = figure.subplots(1, len(values), sharey=True, squeeze=False)
        for axes, (name, values_N) in zip(grid.flat, values.items(), strict=True):
            edges = np.linspace(0.0, 1.0, bins + 1)
            axes.hist(values_N, edges, density=True, color=hues[name], alpha=0.75, rwidth=0.92)
            axes.axhline(1.0, color=_INK, linewidth=0.8, dashes=(4, 3))
            axes.set(
                xlim=(0, 1),
                xlabel=x_label,
                title=f"{name.replace('_', ' ')}  (n = {len(values_N):,})",
            )
        grid.flat[0].set_ylabel("density")
        if title:
            figure.suptitle(title, fontsize=9.5, x=0.01, ha="left")
    return figure


def plot_intervals(
    rows: Mapping[str, tuple[float, float, float]],
    *,
    x_label: str,
    title: str = "",
    log_x: bool = False,
    reference: float | None = None,
    names: Sequence[str] = (),
    tick: Callable[[float], str] = "{:g}".format,
) -> Figure:
    """One dot a name with its interval (middle, low, high), best first as given.

    `tick` writes the numbers at the axis, in units of people's choice.
    """
    hues = colours(list(names) or list(rows))
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
    return figure


def plot_critical_difference(
    panels: Mapping[str, Mapping[str, float]], critical: float, *, names: Sequence[str] = ()
) -> Figure:
    """Mean ranks on one axis a panel, 1 at the left; bars join ranks closer than `critical`."""
    every = list(names) or sorted({name for ranks in panels.values() for name in ranks})
    hues = colours(every)
    side = -(-len(every) // 2)
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(7.2, len(panels) * (0.85 + 0.19 * side)), layout="constrained")
        grid = figure.subplots(len(panels), 1, squeeze=False)
        for axes, (title, ranks) in zip(grid.flat, panels.items(), strict=True):
            ordered = sorted(ranks, key=lambda name: ranks[name])
            last = float(len(every))
            axes.set(xlim=(0.2, last + 0.8), ylim=(-1.2 - 0.95 * side, 1.4), title=title)
            axes.set_axis_off()
            axes.plot([1, last], [0, 0], color=_SOFT, linewidth=0.8)
            for rank in range(1, len(every) + 1):
                axes.plot([rank, rank], [0, 0.18], color=_SOFT, linewidth=0.8)
                axes.text(rank, 0.3, str(rank), ha="center", fontsize=8, color=_INK)
            axes.plot([1, 1 + critical], [1.15, 1.15], color=_INK, linewidth=1.2)
            axes.text(1 + critical + 0.06, 1.15, "critical difference", va="center", fontsize=8)
            for place, name in enumerate(ordered):
                left = place < side
                y = -1.1 - 0.95 * (place if left else len(ordered) - 1 - place)
                x = 0.85 if left else last + 0.15
                colour = hues[name]
                axes.plot([ranks[name], ranks[name], x], [0, y, y], color=colour, linewidth=1.1)
                axes.plot([ranks[name]], [0], "o", color=colour, markersize=4)
                axes.text(
                    x + (-0.05 if left else 0.05),
                    y,
                    f"{name.replace('_', ' ')}  {ranks[name]:.2f}",
                    ha="right" if left else "left",
                    va="center",
                    color=colour,
                    fontsize=8.5,
                )
            for row, (low, high) in enumerate(_cliques([ranks[n] for n in ordered], critical)):
                y = -0.3 - 0.24 * row
                axes.plot([low - 0.03, high + 0.03], [y, y], color=_INK, linewidth=2.4)
    return figure


def _cliques(ranks: Sequence[float], critical: float) -> list[tuple[float, float]]:
    """The largest groups of ascending ranks that all lie closer than `critical`."""
    groups: list[tuple[float, float]] = []
    for low in ranks:
        high = max(rank for rank in ranks if rank <= low + critical)
        if high > low and (not groups or high > groups[-1][1]):
            groups.append((low, high))
    return groups


def _draw(axes: Axes, curves: Sequence[Curve], hues: Mapping[str, str], size: float) -> None:
    for curve in curves:
        colour = hues[curve.name]
        if curve.low_T is not None and curve.high_T is not None:
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


def _label(curve: Curve) -> str:
    text = (curve.label or curve.name).replace("_", " ")
    return f"{text} (published)" if curve.published else text


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
