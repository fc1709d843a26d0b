"""The paper's BBOB test: randomized functions of the held-out families, scored on one scale.

A task's score is its normalized best so far,

    (best - level) / (optimum - level),  clipped to [0, 1],

of noiseless values, larger better: 0 is the median of one uniformly random trial, and 1 is the
optimum. Where the optimum is not known (rotated functions on discrete levels), it is the
best value that a long search of the noiseless function finds: `reference_optimum`. An optimizer
that finds more scores 1. The functions, their randomization and the split between training and
test are OptFormer's [arXiv 2205.13320]; the two reference values are ours.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import numpy as np

from optformer.data.problems import ObjectiveBlock
from optformer.data.problems.bbob import TEST_FAMILIES, BbobConfig, random_block
from optformer.errors import ConfigError
from optformer.eval.benchmark import Benchmark, Option, Protocol
from optformer.eval.task import Task, rng_of
from optformer.study import Study


@dataclasses.dataclass(frozen=True, kw_only=True)
class BbobOptions:
    """Which functions are optimized."""

    functions: Annotated[
        tuple[str, ...],
        Option("A BBOB function; by default all held-out ones.", flag="--function"),
    ] = ()
    parameters: Annotated[tuple[int, ...], Option("How many parameters.")] = (2, 4)
    instances: Annotated[int, Option("Functions of each kind and number of parameters.", min=1)] = 1
    seeds: Annotated[int, Option("How many paired runs on each task.", min=1)] = 5


def tasks(
    *,
    families: Sequence[str] = TEST_FAMILIES,
    parameters: Sequence[int] = (2, 4, 8),
    instances: int = 1,
    trials: int = 100,
    seed: int = 0,
    config: BbobConfig | None = None,
) -> list[Task]:
    """One task for each family, number of parameters and instance.

    A task depends on its own name and `seed` only: more of them leave those there are unchanged.

    Args:
      config: how functions are randomized; the paper's way if None. Its families are not used.

    Raises:
      ConfigError: an unknown family, or one that needs more parameters.
    """
    if instances < 1 or not parameters or not families:
        raise ConfigError(
            f"{len(families)} families x {len(parameters)} sizes x {instances} instances: give at "
            "least one of each."
        )
    drawn = []
    for family in families:
        for size in parameters:
            for instance in range(instances):
                name = f"bbob/{family}/{size}d/{instance}"
                block, rng = _block(name, family, size, seed, config)
                optimum = float(block.optimum_B[0])
                drawn.append(
                    Task(
                        name=name,
                        family=family,
                        block=block,
                        trials=trials,
                        low=random_level(block, rng),
                        high=reference_optimum(block, rng) if np.isnan(optimum) else optimum,
                    )
                )
    return drawn


def random_studies(
    *,
    families: Sequence[str] = TEST_FAMILIES,
    parameters: Sequence[int] = (2, 4, 8),
    instances: int = 1,
    trials: int = 100,
    seed: int = 0,
) -> list[Study]:
    """Random trials of the functions that `tasks` has, to be predicted."""
    from optformer.eval import prediction

    studies = []
    for family in families:
        for size in parameters:
            for instance in range(instances):
                name = f"bbob/{family}/{size}d/{instance}"
                block, rng = _block(name, family, size, seed, None)
                (study,) = prediction.random_studies(block, trials, rng)
                studies.append(study)
    return studies


def _block(
    name: str, family: str, size: int, seed: int, config: BbobConfig | None
) -> tuple[ObjectiveBlock, np.random.Generator]:
    """The function of this name, and the random numbers that come after it."""
    rng = rng_of(name, seed)
    here = dataclasses.replace(config or BbobConfig(), families=(family,))
    return random_block(here, rng, 1, size), rng


def random_level(block: ObjectiveBlock, rng: np.random.Generator, points: int = 4096) -> float:
    """The median noiseless value of uniformly random points."""
    units_1NP = block.spaces.snap(rng.random((1, points, block.spaces.levels_BP.shape[1])))
    return float(np.median(block.evaluate_exact(units_1NP)))


def reference_optimum(
    block: ObjectiveBlock,
    rng: np.random.Generator,
    *,
    survivors: int = 32,
    children: int = 16,
    generations: int = 120,
) -> float:
    """The best noiseless value of a long evolutionary search: a lower bound of the optimum.

    Each of `survivors` points has children that change a random half of its coordinates, by steps
    that shrink from the whole range to a millionth of it; the best of all live on.
    """
    size = block.spaces.levels_BP.shape[1]
    best_NP = block.spaces.snap(rng.random((1, 4096, size)))[0]
    value_N = block.evaluate_exact(best_NP[None])[0]
    for step in np.geomspace(0.5, 1e-6, generations):
        order_N = np.argsort(-value_N, kind="stable")[:survivors]
        best_NP, value_N = best_NP[order_N], value_N[order_N]
        parent_NP = np.repeat(best_NP, children, axis=0)
        moved_NP = parent_NP + step * rng.standard_normal(parent_NP.shape)
        # A level is further away than small steps reach: now and then take any other.
        redrawn_NP = np.where(
            (block.spaces.levels_BP > 0) & (rng.random(parent_NP.shape) < 0.2),
            rng.random(parent_NP.shape),
            moved_NP,
        )
        child_NP = np.where(rng.random(parent_NP.shape) < 0.5, redrawn_NP, parent_NP)
        child_NP = block.spaces.snap(child_NP[None])[0]
        best_NP = np.concatenate([best_NP, child_NP])
        value_N = np.concatenate([value_N, block.evaluate_exact(child_NP[None])[0]])
    return float(value_N.max())


BBOB = Benchmark(
    name="bbob",
    help="How soon optimizers find good values of randomized BBOB functions that no model was "
    "trained on.",
    protocols=(
        Protocol(
            name="bbob",
            title="BBOB",
            score="The score is the best noiseless value so far on a scale where 0 is what one "
            "random trial finds in the median and 1 is the optimum, or the best value known where "
            "the optimum is not (optformer/eval/bbob.py).",
        ),
    ),
    options=BbobOptions,
    tasks=lambda options, trials: tasks(
        families=options.functions or TEST_FAMILIES,
        parameters=options.parameters,
        instances=options.instances,
        trials=trials,
    ),
    seeds=lambda options: range(options.seeds),
)
