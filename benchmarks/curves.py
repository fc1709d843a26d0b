"""One figure of all teachers' searches: BBOB functions, NAS-Bench-201, and a burger.

    python benchmarks/curves.py docs/teachers.png

Without the extra `tables` the panels of NAS-Bench-201 are left out. All random numbers are seeded.
It takes four minutes on one core, mostly for GP-UCB and TPE.
"""

import os

os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    }
)

import argparse
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from optformer.data.problems import ObjectiveBlock, layered, tables
from optformer.data.problems.bbob import BbobConfig
from optformer.data.problems.bbob import random_block as random_bbob
from optformer.data.problems.random_spaces import CONTINUOUS
from optformer.data.teachers import TEACHERS, TeacherFactory, layernas_teacher
from optformer.errors import SourceError, TeacherError
from optformer.eval.report import plots

FUNCTIONS = {
    "Sphere": "one bowl",
    "SharpRidge": "a ridge",
    "Rastrigin": "many regular optima",
    "Gallagher101Me": "101 random peaks",
}
PARAMETERS = 4
RANDOM_POINTS = 1000  # whose median regret is the unit
BLIND = ("grid_search", "shuffled_grid_search", "random_search", "quasi_random")
GREYS = dict(zip(BLIND, ("#c3c6cb", "#a9adb3", "#5f6368", "#8a8f97"), strict=True))
NAS_RIVALS = {name: TEACHERS[name] for name in ("regularized_evolution", "random_search")}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """Curves of many teachers on one problem."""

    title: str
    y_label: str
    curves: Sequence[plots.Curve]
    lowest: float = 0.0  # of a logarithmic y axis
    note: str = ""


def search(factory: TeacherFactory, block: ObjectiveBlock, trials: int) -> np.ndarray:
    """Exact values of the best measured trial so far, (studies, trials)."""
    studies = len(block.problems)
    teacher = factory(block.spaces, np.arange(studies), trials)
    rng = np.random.default_rng(0)
    exact_BR, measured_BR = np.empty((2, studies, trials))
    for trial in range(trials):
        units_B1P = teacher.suggest()[:, None]
        measured_BR[:, trial] = block.evaluate(units_B1P, rng)[:, 0]
        exact_BR[:, trial] = block.evaluate_exact(units_B1P)[:, 0]
        teacher.observe(units_B1P[:, 0], measured_BR[:, trial])
    best_BR = np.maximum.accumulate(np.nan_to_num(measured_BR, nan=-np.inf), axis=1)
    first_BR = np.where(measured_BR == best_BR, np.arange(trials), 0)
    return np.take_along_axis(exact_BR, np.maximum.accumulate(first_BR, axis=1), axis=1)


def curves_of(
    factories: dict[str, TeacherFactory], block: ObjectiveBlock, trials: int, scale_B: np.ndarray
) -> tuple[list[plots.Curve], list[str]]:
    """Median and quartiles of regret over `scale_B`, and the teachers that reject the space."""
    curves, refused = [], []
    for name, factory in factories.items():
        try:
            best_BR = search(factory, block, trials)
        except TeacherError:
            refused.append(name)
            continue
        regret_BR = (block.optimum_B[:, None] - best_BR) / scale_B[:, None]
        low_R, middle_R, high_R = np.quantile(regret_BR, [0.25, 0.5, 0.75], axis=0)
        curves.append(
            plots.Curve(
                name=name,
                x_T=np.arange(1.0, trials + 1),
                mean_T=middle_R,
                low_T=low_R,
                high_T=high_R,
            )
        )
    return curves, refused


def bbob_panel(family: str, seeds: int, trials: int) -> Panel:
    """All teachers on instances of a function, without noise."""
    config = BbobConfig(families=(family,), noises=("NO_NOISE",), space=CONTINUOUS)
    rng = np.random.default_rng(7)
    block = random_bbob(config, rng, seeds, PARAMETERS)
    values_BN = block.evaluate_exact(rng.random((seeds, RANDOM_POINTS, PARAMETERS)))
    scale_B = block.optimum_B - np.median(values_BN, axis=1)
    curves, _ = curves_of(dict(TEACHERS), block, trials, scale_B)
    return Panel(
        title=f"{family}: {FUNCTIONS[family]}",
        y_label="regret / a random point's",
        curves=curves,
        lowest=min(curve.mean_T.min() for curve in curves) / 1.5,
    )


def cell_block(dataset: str, seeds: int) -> tables.TableBlock:
    return tables.TableBlock([tables.load("nasbench201", dataset)] * seeds)


def nas_panel(dataset: str, seeds: int, trials: int) -> Panel:
    """All teachers on NAS-Bench-201; a measurement is that of one training."""
    block = cell_block(dataset, seeds)
    factories = {**TEACHERS, "layernas": layernas_teacher(tables.cell_multiply_adds)}
    curves, refused = curves_of(factories, block, trials, np.ones(seeds))
    return Panel(
        title=f"NAS-Bench-201 on {dataset}",
        y_label="accuracy below the best, points",
        curves=curves,
        lowest=0.1,
        note=f"{', '.join(refused).replace('_', ' ')} supports no categories" if refused else "",
    )


def layernas_panel(seeds: int, trials: int) -> Panel:
    """Relative regret of LayerNAS, evolution and random search on all of NAS-Bench-201's data."""
    names = np.repeat(tables.datasets("nasbench201"), seeds)
    block = tables.TableBlock([tables.load("nasbench201", name) for name in names])
    scale_B = np.repeat(
        [
            table.means_K.max() - np.median(table.means_K)
            for table in (tables.load("nasbench201", name) for name in names[::seeds])
        ],
        seeds,
    )
    factories = {"layernas": layernas_teacher(tables.cell_multiply_adds), **NAS_RIVALS}
    curves, _ = curves_of(factories, block, trials, scale_B)
    return Panel(
        title=f"NAS-Bench-201 on all its data sets, {seeds} searches each",
        y_label="regret / a random cell's",
        curves=curves,
        lowest=0.005,
    )


def burger_panel(seeds: int, trials: int) -> Panel:
    """The share of searches that have found the tastiest burger."""
    block = layered.burger(seeds)
    factories = {"layernas": layernas_teacher(block.costs), **NAS_RIVALS}
    curves = []
    for name, factory in factories.items():
        missing_BR = block.optimum_B[:, None] - search(factory, block, trials)
        share_R = np.mean(missing_BR < 1e-9, axis=0)
        curves.append(plots.Curve(name=name, x_T=np.arange(1.0, trials + 1), mean_T=share_R))
    return Panel(
        title=f"The burger: share of {seeds} searches that have found the tastiest of 216",
        y_label="share of searches",
        curves=curves,
    )


def draw(axes: Axes, panel: Panel, hues: dict[str, str]) -> None:
    """Curves with their bands; adaptive teachers are on top."""
    for curve in sorted(panel.curves, key=lambda curve: curve.name not in BLIND):
        blind = curve.name in BLIND
        if curve.low_T is not None and curve.high_T is not None:
            fill = {"color": hues[curve.name], "alpha": 0.08, "linewidth": 0}
            axes.fill_between(curve.x_T, curve.low_T, curve.high_T, **fill)
        width = 1.1 if blind else 1.6
        axes.plot(curve.x_T, curve.mean_T, color=hues[curve.name], linewidth=width)
    plots._scale(axes, log_x=False, log_y=panel.lowest > 0, invert_y=False)
    if panel.lowest > 0:
        axes.set_ylim(bottom=panel.lowest)
    axes.set(title=panel.title, ylabel=panel.y_label, xlabel="trials")
    if panel.note:
        axes.text(
            0.98, 0.95, panel.note, transform=axes.transAxes, fontsize=8, ha="right", va="top"
        )


def draw_burger(axes: Axes, seed: int, hue: str) -> None:
    """Each trial of LayerNAS's first round on the burger, by layer."""
    block = layered.burger()
    teacher = layernas_teacher(block.costs)(block.spaces, np.array([seed]), 216)
    names = [parameter.name for parameter in block.problems[0].parameters]
    layer_N, taste_N = [], []
    while True:
        units_BP = teacher.suggest()
        (study,) = teacher._studies
        if layer_N and study.layer < max(layer_N):  # the second round
            break
        taste_B = block.evaluate_exact(units_BP[:, None])[:, 0]
        teacher.observe(units_BP, taste_B)
        layer_N.append(study.layer)
        taste_N.append(taste_B[0])
    layer_N, taste_N, trial_N = np.array(layer_N), np.array(taste_N), np.arange(len(taste_N)) + 1.0
    low, high = np.nanmin(taste_N), block.optimum_B[0]
    floor, ceiling = low - 0.15 * (high - low), high + 0.05 * (high - low)
    for layer, name in enumerate(names):
        at_N = trial_N[layer_N == layer]
        if layer % 2:
            axes.axvspan(at_N[0] - 0.5, at_N[-1] + 0.5, color="#f2f3f5", linewidth=0)
        axes.text((at_N[0] + at_N[-1]) / 2, ceiling, name, ha="center", fontsize=8)
    bad_N = np.isnan(taste_N)
    axes.plot(trial_N[~bad_N], taste_N[~bad_N], "o", color=hue, markersize=3.2, alpha=0.75)
    axes.plot(trial_N[bad_N], np.full(bad_N.sum(), floor), "x", color="#777b80", markersize=4)
    axes.step(trial_N, np.fmax.accumulate(taste_N), where="post", color=hue, linewidth=1.6)
    axes.axhline(high, color="#2b2e33", linewidth=0.8, dashes=(4, 3))
    axes.grid(True, axis="y")
    axes.set_axisbelow(True)
    axes.set(xlim=(0.5, len(trial_N) + 0.5), ylim=(floor - 0.06, high + 0.15 * (high - low)))
    ticks = [tick for tick in np.arange(0.3, 0.8, 0.1) if tick > low - 0.05]
    axes.set_yticks([floor, *ticks], ["over\n1000 kcal", *(f"{tick:.1f}" for tick in ticks)])
    axes.set(xlabel="trials", ylabel="taste")
    axes.set_title(
        "LayerNAS builds a burger: its first round, layer by layer; dashed, the tastiest"
    )


def save(figure: Figure, path: Path) -> None:
    """Saves a PNG of 128 colours, a third of the size."""
    from PIL import Image  # comes with matplotlib

    full = io.BytesIO()
    figure.savefig(full, format="png")
    picture = Image.open(full).convert("RGB")
    picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Draws and saves the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the PNG to write")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--dataset", default="cifar100", help="of NAS-Bench-201")
    options = parser.parse_args()
    console = Console(stderr=True)
    panels = []
    with console.status("searching") as status:
        for family in FUNCTIONS:
            status.update(family)
            panels.append(bbob_panel(family, options.seeds, options.trials))
        status.update("NAS-Bench-201")
        try:
            panels.append(nas_panel(options.dataset, options.seeds, 2 * options.trials))
            panels.append(layernas_panel(5 * options.seeds, 4 * options.trials))
        except SourceError as error:
            console.print(f"Without NAS-Bench-201: {error}")
        panels.append(burger_panel(20 * options.seeds, 108))
    hues = plots.colours(sorted({curve.name for panel in panels for curve in panel.curves}))
    hues |= {**GREYS, "layernas": "#d55e00"}  # unlike evolution's green in the same panels
    with matplotlib.rc_context(plots._RC):
        rows = len(panels) // 2 + 1
        figure = Figure(figsize=(11, 2.9 * rows), layout="constrained", dpi=110)
        grid = figure.add_gridspec(rows, 2)
        places = [grid[place // 2, place % 2] for place in range(len(panels))]
        axes = [figure.add_subplot(place) for place in places]
        for one, panel in zip(axes, panels, strict=True):
            draw(one, panel, hues)
        draw_burger(figure.add_subplot(grid[rows - 1, 1]), 0, hues["layernas"])
        curves = [panel.curves for panel in panels]
        plots._label_ends(figure, list(zip(axes, curves, strict=True)), hues)
        save(figure, options.out)
    for panel in panels:
        console.print(panel.title)
        for curve in sorted(panel.curves, key=lambda curve: curve.mean_T[-1]):
            console.print(f"  {curve.name:24}{curve.mean_T[-1]:.3g}")


if __name__ == "__main__":
    main()
