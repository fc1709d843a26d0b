"""Our batched GP-UCB compared with Vizier's Gaussian-process bandit: regret and speed.

    python benchmarks/gp_ucb.py --ours-only
    python benchmarks/gp_ucb.py --keep vizier.json

Both search the same shifted and rotated BBOB functions without noise, once for each seed. Each run
of Vizier's is a separate process with 64-bit JAX, which its designer needs; 20 trials take about
two minutes on one core. The file given by `--keep` stores the results of Vizier's runs, so that
another call resumes, or compares a changed teacher with the same runs. Times are processor times.
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
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from optformer.data.problems.bbob import BbobBlock, BbobConfig, random_block
from optformer.data.problems.random_spaces import CONTINUOUS
from optformer.data.teachers import TEACHERS, TeacherFactory
from optformer.space import Spaces

FUNCTIONS = ("Sphere", "Rastrigin", "RosenbrockRotated", "SharpRidge", "SchaffersF7")
OURS = ("random_search", "eagle_strategy", "gp_ucb")
VIZIER_SEED = 1000  # the first seed of Vizier's runs, which differ from ours


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SearchResult:
    """Regret of the best so far, (instances, seeds, trials), and the time of each suggestion."""

    regrets_IST: np.ndarray
    seconds_T: np.ndarray

    @property
    def final_IS(self) -> np.ndarray:
        return self.regrets_IST[:, :, -1]

    @property
    def rate(self) -> float:
        """Suggestions per second over all trials."""
        return self.regrets_IST.size / float(self.seconds_T.sum())


def functions(family: str, parameters: int) -> BbobBlock:
    """64 instances of a function."""
    config = BbobConfig(families=(family,), noises=("NO_NOISE",), space=CONTINUOUS)
    return random_block(config, np.random.default_rng(7), 64, parameters)


def search(
    factory: TeacherFactory, family: str, parameters: int, at: range, seeds: range, trials: int
) -> SearchResult:
    """A teacher on some instances of a function, with all seeds on each instance."""
    block = functions(family, parameters)
    shape = (len(at), len(seeds))
    levels_BP = np.zeros((len(at) * len(seeds), parameters), np.int64)
    spaces = Spaces(levels_BP=levels_BP, ordered_BP=levels_BP == 0)
    teacher = factory(spaces, np.tile(np.array(seeds), len(at)), trials)
    units_BNP = np.full((len(block.problems), len(seeds), parameters), 0.5)
    values_IST, seconds_T = np.empty((*shape, trials)), np.empty(trials)
    for trial in range(trials):
        started = time.process_time()
        units_BP = teacher.suggest()
        seconds_T[trial] = time.process_time() - started
        units_BNP[at] = units_BP.reshape(*shape, parameters)
        values_IST[:, :, trial] = block.evaluate_exact(units_BNP)[at]
        teacher.observe(units_BP, values_IST[:, :, trial].reshape(-1))
    best_IST = np.maximum.accumulate(values_IST, axis=2)
    return SearchResult(regrets_IST=block.optimum_B[at, None, None] - best_IST, seconds_T=seconds_T)


def vizier(family: str, parameters: int, instance: int, seed: int, trials: int) -> SearchResult:
    """Vizier's designer on one function, for a separate process: it sets JAX to 64 bits."""
    import jax
    from vizier._src.algorithms.designers.gp_bandit import VizierGPBandit

    from optformer.data.teachers.vizier import vizier_teacher

    jax.config.update("jax_enable_x64", True)
    factory = vizier_teacher(
        lambda problem, seed: VizierGPBandit(problem, rng=jax.random.PRNGKey(seed))
    )
    at, seeds = range(instance, instance + 1), range(seed, seed + 1)
    return search(factory, family, parameters, at, seeds, trials)


def viziers(
    options: argparse.Namespace, family: str, kept: dict[str, dict], note: Callable[[str], None]
) -> SearchResult:
    """All of Vizier's runs on a function; runs that are not in `kept` are made and added."""
    runs = []
    for instance in range(options.instances):
        for seed in range(VIZIER_SEED, VIZIER_SEED + options.vizier_seeds):
            words = [family, str(options.parameters), str(instance), str(seed), str(options.trials)]
            name = " ".join(words)
            if name not in kept:
                note(f"Vizier on {name}")
                command = [sys.executable, __file__, "--worker", *words]
                ended = subprocess.run(command, check=True, capture_output=True, text=True)
                kept[name] = json.loads(ended.stdout.splitlines()[-1])
                if options.keep:
                    options.keep.write_text(json.dumps(kept), "utf-8")
            runs.append(kept[name])
    regrets_CT = np.array([run["regrets"] for run in runs])
    return SearchResult(
        regrets_IST=regrets_CT.reshape(options.instances, options.vizier_seeds, -1),
        seconds_T=np.array([run["seconds"] for run in runs]).sum(axis=0),
    )


def regret_table(
    results: dict[str, dict[str, SearchResult]], trials: int, parameters: int
) -> Table:
    """Final regrets, with a row for each instance of a function."""
    table = Table(title=f"Regret after {trials} trials, {parameters} parameters")
    table.add_column("function")
    table.add_column("", justify="right")
    several = [name for name in OURS if name != "gp_ucb"]
    for name in several:
        table.add_column(f"{name}\nmedian", justify="right")
    table.add_column("ours: best - median - worst", justify="right")
    if any("vizier" in by for by in results.values()):
        table.add_column("Vizier's", justify="right")
        table.add_column("ours lower", justify="right")
    for family, by in results.items():
        for instance, ours_S in enumerate(by["gp_ucb"].final_IS):
            middles = [f"{np.median(by[name].final_IS[instance]):.3g}" for name in several]
            low, middle, high = np.quantile(ours_S, [0, 0.5, 1])
            cells = [*middles, f"{low:.3g} - {middle:.3g} - {high:.3g}"]
            if "vizier" in by:
                theirs_S = by["vizier"].final_IS[instance]
                lower = np.mean(ours_S[:, None] < theirs_S)
                cells += [", ".join(f"{value:.3g}" for value in theirs_S), f"{lower:.0%}"]
            table.add_row(family, str(instance), *cells)
        table.add_section()
    return table


def compare(results: dict[str, dict[str, SearchResult]], rng: np.random.Generator) -> str:
    """A text on whether our regrets and Vizier's could come from the same algorithm."""
    ours_CS = np.concatenate([by["gp_ucb"].final_IS for by in results.values()])
    theirs_CS = np.concatenate([by["vizier"].final_IS for by in results.values()])
    # C functions. The share of our seeds that are better than a run of Vizier's is a half if both
    # are equal; its spread is that of one of our own seeds among the others.
    share_CS = (ours_CS[:, :, None] < theirs_CS[:, None, :]).mean(axis=1)
    seeds = ours_CS.shape[1]
    own_CS = (ours_CS[:, :, None] < ours_CS[:, None, :]).sum(axis=1) / (seeds - 1)
    picks = rng.integers(seeds, size=(20_000, *theirs_CS.shape))
    own_M = own_CS[np.arange(len(own_CS))[:, None], picks].mean(axis=(1, 2))
    inside = np.mean(
        (theirs_CS >= ours_CS.min(1)[:, None]) & (theirs_CS <= ours_CS.max(1)[:, None])
    )
    ratio_C = np.log10(np.median(ours_CS, axis=1) / np.median(theirs_CS, axis=1))
    lower = int((ratio_C < 0).sum())
    chance = stats.binomtest(lower, len(ratio_C)).pvalue
    return (
        f"{theirs_CS.size} runs of Vizier's on {len(ours_CS)} functions, {seeds} seeds of ours on "
        f"each.\nOur median is lower on {lower} of {len(ratio_C)} (sign test p = {chance:.2f}), by "
        f"a factor of {10 ** np.median(ratio_C):.2f} in the middle (from {10 ** ratio_C.min():.2g} "
        f"to {10 ** ratio_C.max():.2g}).\nOf our seeds {share_CS.mean():.0%} are lower than "
        "Vizier's run; for a seed of ours in its place it would be "
        f"{np.quantile(own_M, 0.025):.0%} to {np.quantile(own_M, 0.975):.0%} (95 %).\n"
        f"{inside:.0%} of Vizier's runs lie between our best and our worst seed."
    )


def speed_table(results: dict[str, dict[str, SearchResult]]) -> Table:
    """Suggestions per second over all functions."""
    table = Table(title="Suggestions per second")
    table.add_column("")
    table.add_column("all", justify="right")
    table.add_column("median trial", justify="right")
    for name in (*OURS, "vizier"):
        runs = [by[name] for by in results.values() if name in by]
        if not runs:
            continue
        total = sum(run.regrets_IST.size for run in runs) / sum(run.seconds_T.sum() for run in runs)
        studies = runs[0].regrets_IST.shape[0] * runs[0].regrets_IST.shape[1]
        # The first trial of a run takes no time; the median leaves out compilation.
        middle = np.median([studies / run.seconds_T[1:] for run in runs])
        table.add_row(name, f"{total:,.3g}", f"{middle:,.3g}")
    return table


def main() -> None:
    """Runs both and prints their regrets and speeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--functions", nargs="+", default=FUNCTIONS)
    parser.add_argument("--parameters", type=int, default=4)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--instances", type=int, default=2, help="of each function, at most 64")
    parser.add_argument("--seeds", type=int, default=16, help="of ours on each instance")
    parser.add_argument("--vizier-seeds", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a JSON file of Vizier's runs")
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        family, *numbers = options.worker
        run = vizier(family, *map(int, numbers))
        regrets_T = run.regrets_IST[0, 0]
        print(json.dumps({"regrets": regrets_T.tolist(), "seconds": run.seconds_T.tolist()}))
        return

    console = Console(width=120)
    kept = (
        json.loads(options.keep.read_text("utf-8"))
        if options.keep and options.keep.exists()
        else {}
    )
    results: dict[str, dict[str, SearchResult]] = {}
    for family in options.functions:
        results[family] = by = {}
        inputs = (family, options.parameters, range(options.instances), range(options.seeds))
        for name in OURS:
            search(TEACHERS[name], *inputs, options.trials)  # compiles
            by[name] = search(TEACHERS[name], *inputs, options.trials)
        if not options.ours_only:
            by["vizier"] = viziers(
                options, family, kept, lambda text: console.print(text, style="dim")
            )
    console.print(regret_table(results, options.trials, options.parameters))
    if not options.ours_only:
        console.print(compare(results, np.random.default_rng(0)), highlight=False)
    console.print(speed_table(results))


if __name__ == "__main__":
    main()
