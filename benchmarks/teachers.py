"""Suggestions per second on one core, by teacher and number of parameters.

    python benchmarks/teachers.py
    python benchmarks/teachers.py --teachers gp_ucb --parameters 4 8 --studies 64

Times are processor times of `suggest` and `observe`, over studies of 100 trials of a cheap
function, after a first run for compilation and imports. The goal is 50,000 for random search,
evolution and hill climbing, and more than 6 for gp_ucb, 50 times Vizier's rate.
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
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from optformer.data.teachers import TEACHERS
from optformer.space import Spaces

FEW = {"gp_ucb": 16, "cma_es": 8, "tpe": 2}  # studies in a run of the slow teachers
COMPILED = ("gp_ucb", "cma_es", "tpe")


def rate(name: str, spaces: Spaces, trials: int, seed: int) -> float:
    """Suggestions per second of processor time."""
    studies, parameters = spaces.levels_BP.shape
    optimum_BP = np.random.default_rng(seed).random((studies, parameters))
    started = time.process_time()
    teacher = TEACHERS[name](spaces, np.arange(studies) + seed, trials)
    for _ in range(trials):
        units_BP = teacher.suggest()
        teacher.observe(units_BP, -np.square(units_BP - optimum_BP).sum(axis=1))
    return studies * trials / (time.process_time() - started)


def spaces_of(studies: int, parameters: int, mixed: bool, ordered: bool) -> Spaces:
    """Continuous parameters, or a third each of continuous, levels and categories."""
    rng = np.random.default_rng(parameters)
    shape = (studies, parameters)
    kind_BP = rng.integers(0, 3, shape) if mixed else np.zeros(shape, np.int64)
    levels_BP = np.where(kind_BP > 0, rng.integers(2, 9, shape), 0)
    return Spaces(levels_BP=levels_BP, ordered_BP=(kind_BP < 2) | ordered)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teachers", nargs="+", default=list(TEACHERS), choices=list(TEACHERS))
    parser.add_argument("--parameters", nargs="+", type=int, default=[2, 6, 12, 20])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--studies", type=int, help="by default 256, fewer for slow teachers")
    options = parser.parse_args()
    table = Table(title=f"Suggestions per second and core, {options.trials} trials")
    table.add_column("teacher")
    table.add_column("studies", justify="right")
    for parameters in options.parameters:
        for kind in ("continuous", "mixed"):
            table.add_column(f"{kind}\nP={parameters}", justify="right")
    for name in options.teachers:
        studies = options.studies or FEW.get(name, 256)
        cells = []
        for parameters in options.parameters:
            for mixed in (False, True):
                spaces = spaces_of(studies, parameters, mixed, ordered=name == "cma_es")
                if name in COMPILED:
                    rate(name, spaces, options.trials, 1)
                cells.append(f"{rate(name, spaces, options.trials, 2):,.0f}")
        table.add_row(name, str(studies), *cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
