"""Our batched GP-UCB against Vizier's Gaussian-process bandit: best value so far, and speed.

    python benchmarks/gp_ucb.py --trials 30 --seeds 2 --functions Rastrigin SharpRidge
    python benchmarks/gp_ucb.py --ours-only --seeds 16

Both search the same shifted and rotated BBOB functions, without noise. Each of Vizier's studies
runs in a process of its own, in 64-bit JAX, as it wants to: about 10 s a suggestion on one core.
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
import json
import subprocess
import sys
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from optformer.data.problems.bbob import BbobBlock, BbobConfig, random_block
from optformer.data.problems.random_spaces import CONTINUOUS
from optformer.data.teachers import TEACHERS, Teacher

FUNCTIONS = ("Sphere", "Rastrigin", "RosenbrockRotated", "SharpRidge", "SchaffersF7")
SHOWN = (5, 10, 15, 20, 30, 50, 75, 100)


def functions(family: str, parameters: int, seeds: int) -> BbobBlock:
    """As many instances of a function as there are seeds; the first ones do not depend on it."""
    config = BbobConfig(families=(family,), noises=("NO_NOISE",), space=CONTINUOUS)
    # Drawn 64 at once, so that Vizier's few studies are the first of ours.
    block = random_block(config, np.random.default_rng(7), 64, parameters)
    assert seeds <= 64
    return block


def search(
    teacher: Teacher, block: BbobBlock, rows: np.ndarray, trials: int
) -> tuple[np.ndarray, float]:
    """Best noiseless regret so far of some functions, (trials, rows), and process seconds."""
    units_BNP = np.full((len(block.problems), 1, block.spaces.levels_BP.shape[1]), 0.5)
    values_TB, seconds = np.empty((trials, len(rows))), 0.0
    for trial in range(trials):
        started = time.process_time()
        units_BP = teacher.suggest()
        seconds += time.process_time() - started
        units_BNP[rows, 0] = units_BP
        values_TB[trial] = block.evaluate_exact(units_BNP)[rows, 0]
        teacher.observe(units_BP, values_TB[trial])
    return block.optimum_B[rows] - np.maximum.accumulate(values_TB), seconds


def ours(name: str, block: BbobBlock, seeds: int, trials: int) -> tuple[np.ndarray, float]:
    """One of our teachers on the first functions of a block."""
    from optformer.data.spaces import Spaces

    spaces = Spaces(
        levels_BP=block.spaces.levels_BP[:seeds], ordered_BP=block.spaces.ordered_BP[:seeds]
    )
    teacher = TEACHERS[name](spaces, np.arange(seeds), trials)
    return search(teacher, block, np.arange(seeds), trials)


def vizier(family: str, parameters: int, seed: int, trials: int) -> None:
    """Vizier's designer on one function; prints its regrets as JSON."""
    import jax
    from vizier._src.algorithms.designers.gp_bandit import VizierGPBandit

    from optformer.data.spaces import Spaces
    from optformer.data.teachers.vizier import vizier_teacher

    jax.config.update("jax_enable_x64", True)
    block = functions(family, parameters, seed + 1)
    spaces = Spaces(levels_BP=block.spaces.levels_BP[:1], ordered_BP=block.spaces.ordered_BP[:1])
    factory = vizier_teacher(
        lambda problem, seed: VizierGPBandit(problem, rng=jax.random.PRNGKey(seed))
    )
    teacher = factory(spaces, np.array([seed]), trials)
    regrets_T1, seconds = search(teacher, block, np.array([seed]), trials)
    print(json.dumps({"regrets": regrets_T1[:, 0].tolist(), "seconds": seconds}))


def main() -> None:
    """Runs both and prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--functions", nargs="+", default=FUNCTIONS)
    parser.add_argument("--parameters", type=int, default=4)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=16, help="of ours, at most 64")
    parser.add_argument("--vizier-seeds", type=int, default=2)
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--worker", nargs=2, metavar=("FUNCTION", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        family, seed = options.worker
        vizier(family, options.parameters, int(seed), options.trials)
        return

    shown = [t for t in SHOWN if t <= options.trials]
    table = Table(title=f"Regret of the best so far, {options.parameters} parameters: median")
    table.add_column("function")
    table.add_column("by")
    table.add_column("studies", justify="right")
    for trial in shown:
        table.add_column(f"@{trial}", justify="right")
    table.add_column("suggestions/s", justify="right")
    for family in options.functions:
        block = functions(family, options.parameters, options.seeds)
        results: dict[str, tuple[np.ndarray, float]] = {}
        for name in ("random_search", "eagle_strategy", "gp_ucb"):
            ours(name, block, options.seeds, options.trials)  # compiles
            results[name] = ours(name, block, options.seeds, options.trials)
        if not options.ours_only:
            runs = [
                json.loads(
                    subprocess.run(
                        [
                            sys.executable,
                            __file__,
                            *("--worker", family, str(seed)),
                            *("--parameters", str(options.parameters)),
                            *("--trials", str(options.trials)),
                        ],
                        check=True,
                        capture_output=True,
                        text=True,
                    ).stdout.splitlines()[-1]
                )
                for seed in range(options.vizier_seeds)
            ]
            few = options.vizier_seeds
            results["gp_ucb, the same"] = (results["gp_ucb"][0][:, :few], np.nan)
            results["Vizier"] = (
                np.stack([run["regrets"] for run in runs], axis=1),
                sum(run["seconds"] for run in runs),
            )
        for name, (regret_TB, seconds) in results.items():
            rate = regret_TB.size / seconds
            table.add_row(
                family,
                name,
                str(regret_TB.shape[1]),
                *(f"{np.median(regret_TB[trial - 1]):.3g}" for trial in shown),
                "" if np.isnan(rate) else f"{rate:.3g}",
            )
        table.add_section()
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
