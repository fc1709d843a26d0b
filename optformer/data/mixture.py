"""Synthetic studies: blocks of studies from a mixture of problems and teachers.

A block is B studies with the same teacher, kind of problem, number of parameters and number of
trials, generated together. Block i is a function of (config, seed, i) only: any worker can generate
any block, and training can generate blocks without shards.

Array dimensions: B studies, R trials, P parameters.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float64

from optformer.data.problems import (
    bbob,
    gaussian_process,
    layered,
    studies_of,
    surrogate,
    tables,
)
from optformer.data.problems.bbob import BbobBlock, BbobConfig
from optformer.data.problems.gaussian_process import GaussianProcessBlock, GaussianProcessConfig
from optformer.data.problems.layered import LayeredBlock, LayeredConfig
from optformer.data.problems.surrogate import SurrogateBlock, SurrogateConfig
from optformer.data.problems.tables import TableBlock, TablesConfig
from optformer.data.teachers import (
    TEACHERS,
    Teacher,
    TeacherFactory,
    layernas_teacher,
    optimum_teacher,
    training_aware_teacher,
)
from optformer.errors import ConfigError, TeacherError
from optformer.study import Study
from optformer.tokenization.metadata import OPTIMUM

# The blocks with a location of the optimum, which not every `ObjectiveBlock` has.
Block = BbobBlock | GaussianProcessBlock | LayeredBlock | TableBlock | SurrogateBlock
Source = Literal["bbob", "gaussian_process", "layered", "tables", "surrogate"]

# Teachers that need the costs of one block's problems, besides its search spaces.
LAYERNAS, TRAINING_AWARE = "layernas", "training_aware_evolution"
NEED_COSTS = (LAYERNAS, TRAINING_AWARE)

# Teachers that ignore results, so that all their trials can be evaluated at once.
NOT_ADAPTIVE = frozenset(
    {"grid_search", "shuffled_grid_search", "random_search", "quasi_random", OPTIMUM}
)
CHEAP_TEACHERS = (
    "grid_search",
    "shuffled_grid_search",
    "random_search",
    "quasi_random",
    "regularized_evolution",
    "hill_climbing",
    "eagle_strategy",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a mixture: problems of one kind under some teachers.

    Attributes:
      weight: the share of blocks from this part, relative to the other parts.
      teachers: each block has one of these, chosen uniformly. "optimum" makes random trials and
        then the known optimum; functions whose optimum is unknown are left out and counted.
        "layernas" and "training_aware_evolution" need problems with costs.
      fewest_parameters, most_parameters: the range of a block's number of parameters, chosen
        uniformly, for bbob and gaussian_process; the other problems define their own.
      trials: each block's number of trials is one of these, chosen uniformly.
    """

    weight: float = 1.0
    problems: Source = "bbob"
    teachers: tuple[str, ...] = CHEAP_TEACHERS
    fewest_parameters: int = 1
    most_parameters: int = 20
    trials: tuple[int, ...] = (20, 50, 100)
    bbob: BbobConfig = dataclasses.field(default_factory=BbobConfig)
    gaussian_process: GaussianProcessConfig = dataclasses.field(
        default_factory=GaussianProcessConfig
    )
    layered: LayeredConfig = dataclasses.field(default_factory=LayeredConfig)
    tables: TablesConfig = dataclasses.field(default_factory=TablesConfig)
    surrogate: SurrogateConfig = dataclasses.field(default_factory=SurrogateConfig)

    def __post_init__(self) -> None:
        known = [*TEACHERS, OPTIMUM, *NEED_COSTS]
        unknown = [name for name in self.teachers if name not in known]
        if unknown or not self.teachers:
            raise ConfigError(
                f"teacher {unknown[0] if unknown else '(none)'!r} is unknown. "
                f"Choose from {', '.join(known)}."
            )
        if not 1 <= self.fewest_parameters <= self.most_parameters:
            raise ConfigError(
                f"parameters from {self.fewest_parameters} to {self.most_parameters}: they must "
                "ascend and be at least 1."
            )
        if not self.trials or min(self.trials) < 1:
            raise ConfigError(f"trials {self.trials}: give at least one number, each at least 1.")
        if self.weight < 0:
            raise ConfigError(f"weight {self.weight} of a part must not be negative.")
        need_costs = [name for name in self.teachers if name in NEED_COSTS]
        if need_costs and self.problems != "layered":
            raise ConfigError(
                f'teacher "{need_costs[0]}" needs a cost, which problems="{self.problems}" do not '
                'have. Use it with problems="layered".'
            )
        unknown_optima = self.problems == "gaussian_process" and not self.gaussian_process.search
        if OPTIMUM in self.teachers and unknown_optima:
            raise ConfigError(
                'teacher "optimum" needs optima, and those of Gaussian-process functions are '
                "unknown. Set gaussian_process.search, for example to 256."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """The mixture of synthetic studies and their division into blocks and shards.

    Attributes:
      purpose: "train" rejects the BBOB functions that are held out for testing.
      block: the number of studies that are generated together. Larger blocks take less time for
        each study and more memory.
      blocks_per_shard: the size of a file; a killed run loses its unfinished file.
    """

    mixture: tuple[Part, ...] = (
        Part(problems="bbob"),
        Part(problems="gaussian_process"),
    )
    purpose: Literal["train", "test"] = "train"
    block: int = 64
    blocks_per_shard: int = 32

    def __post_init__(self) -> None:
        if not self.mixture or sum(part.weight for part in self.mixture) <= 0:
            raise ConfigError("the mixture needs at least one part with a positive weight.")
        if self.block < 1 or self.blocks_per_shard < 1:
            raise ConfigError(
                f"block {self.block} and blocks_per_shard {self.blocks_per_shard} must be at "
                "least 1."
            )
        if self.purpose == "train":
            for part in self.mixture:
                if part.problems == "bbob":
                    bbob.refuse_held_out(part.bbob.families)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratedBlock:
    """The studies of a block, and the reasons for missing ones.

    Attributes:
      refused: the number of missing studies by "teacher: reason".
    """

    studies: list[Study]
    refused: Mapping[str, int]


class GeneratedSource:
    """Studies that are generated during training: a `batches.Source`.

    Only one block is in memory at a time.

    Args:
      rows, tokens: the size of a batch. A block then has enough studies to fill it, estimated from
        the drawn number of parameters. The estimate can be off for problems that define their own
        number. By default, a block has `config.block` studies.
    """

    def __init__(self, config: GenerateConfig, rows: int = 0, tokens: int = 0) -> None:
        self._config = config
        self._rows, self._tokens = rows, tokens

    def draw(self, seed: int, step: int) -> Sequence[Study]:
        """The studies of block `step`, all with the same number of parameters."""
        return generate_with_refusals(self._config, seed, step, self._rows, self._tokens).studies


def generate_block(config: GenerateConfig, seed: int, index: int) -> list[Study]:
    """Block number `index` of the stream of studies of `config` and `seed`."""
    return generate_with_refusals(config, seed, index).studies


def generate_with_refusals(
    config: GenerateConfig, seed: int, index: int, rows: int = 0, tokens: int = 0
) -> GeneratedBlock:
    """`generate_block` with counts of refused studies.

    With `rows` and `tokens`, the block fills a batch of that size (see `GeneratedSource`).

    If a teacher refuses the drawn search spaces, another teacher of its part is tried, and after
    the last one another draw of the block.

    Raises:
      ConfigError: a hundred draws in a row gave no study.
    """
    rng = np.random.default_rng((seed, index))
    weights = np.array([part.weight for part in config.mixture])
    refused: Counter[str] = Counter()
    for _ in range(100):
        part = config.mixture[rng.choice(len(weights), p=weights / weights.sum())]
        parameters = int(rng.integers(part.fewest_parameters, part.most_parameters + 1))
        trials = int(rng.choice(part.trials))
        size = config.block
        if rows:
            size = -(-rows * tokens // min(tokens, trials * (parameters + 1)))
        block = _random_block(part, rng, size, parameters)
        if config.purpose == "train":  # a surrogate may be of a study of a test function
            bbob.refuse_held_out(filter(None, map(bbob.family_of, block.problems)))
        for name in rng.permutation(part.teachers).tolist():
            try:
                studies = run_teacher(name, block, trials, rng)
            except TeacherError as error:
                refused[f"{name}: {error}"] += size
                continue
            if len(studies) < size:
                refused[f"{name}: the optimum is not known"] += size - len(studies)
            if studies:
                return GeneratedBlock(studies=studies, refused=refused)
    raise ConfigError(
        f"block {index}: 100 draws gave no study. Refused: "
        + "; ".join(f"{reason} ({count})" for reason, count in refused.most_common(3))
    )


def run_teacher(
    name: str,
    block: Block,
    trials: int,
    rng: np.random.Generator,
) -> list[Study]:
    """The studies of a teacher's search with this number of trials, on a new block.

    Raises:
      TeacherError: the teacher cannot search these spaces.
    """
    seeds_B = rng.integers(2**63, size=len(block.problems))
    known_B = ~np.isnan(block.optimum_B)
    if name == OPTIMUM:
        factory = optimum_teacher(np.where(known_B[:, None], block.optimum_BP, 0.5))
    elif name in NEED_COSTS:
        assert isinstance(block, LayeredBlock)
        factory = _cost_aware_teacher(name, block)
    else:
        factory = TEACHERS[name]
    teacher = factory(block.spaces, seeds_B, trials)
    units_BRP, values_BR = _search(teacher, block, trials, rng, name not in NOT_ADAPTIVE)
    if name == OPTIMUM:
        studies = studies_of(block, units_BRP, values_BR, name)
        # Trials after the first one at the optimum have nothing to teach.
        lengths_B = 1 + _first_at(units_BRP, block.spaces.snap(block.optimum_BP[:, None]))
        return [
            study.rows(slice(length))
            for study, length, known in zip(studies, lengths_B, known_B, strict=True)
            if known
        ]
    predictive_BR2 = None
    if isinstance(block, GaussianProcessBlock):
        predictive_BR2 = block.predictive(units_BRP, values_BR)
    return studies_of(block, units_BRP, values_BR, name, predictive_BR2)


def _cost_aware_teacher(name: str, block: LayeredBlock) -> TeacherFactory:
    if name == LAYERNAS:
        return layernas_teacher(block.costs)
    return training_aware_teacher(
        lambda units_BNP: block.resources(units_BNP).step_time_BN,
        lambda units_BNP: block.resources(units_BNP).size_BN,
        weighed_B=np.array([reward != "budget" for reward in block.rewards]),
    )


def _random_block(part: Part, rng: np.random.Generator, studies: int, parameters: int) -> Block:
    if part.problems == "bbob":
        return bbob.random_block(part.bbob, rng, studies, parameters)
    if part.problems == "gaussian_process":
        return gaussian_process.random_block(part.gaussian_process, rng, studies, parameters)
    if part.problems == "layered":
        return layered.random_block(part.layered, rng, studies)
    if part.problems == "tables":
        return tables.random_block(part.tables, rng, studies)
    return surrogate.random_block(part.surrogate, rng, studies)


def _search(
    teacher: Teacher,
    block: Block,
    trials: int,
    rng: np.random.Generator,
    adaptive: bool,
) -> tuple[Float64[np.ndarray, "B R P"], Float64[np.ndarray, "B R"]]:
    """The teacher's points and their measured values."""
    if not adaptive:
        units_BRP = np.stack([teacher.suggest() for _ in range(trials)], axis=1)
        return units_BRP, block.evaluate(units_BRP, rng)
    studies, parameters = block.spaces.levels_BP.shape
    units_BRP = np.empty((studies, trials, parameters))
    values_BR = np.empty((studies, trials))
    for trial in range(trials):
        units_BRP[:, trial] = units_BP = teacher.suggest()
        values_BR[:, trial] = values_B = block.evaluate(units_BP[:, None], rng)[:, 0]
        teacher.observe(units_BP, values_B)
    return units_BRP, values_BR


def _first_at(
    units_BRP: Float64[np.ndarray, "B R P"], point_B1P: Float64[np.ndarray, "B 1 P"]
) -> np.ndarray:
    """The row of the first trial at the point; 0 if there is none."""
    return np.argmax((units_BRP == point_B1P).all(axis=2), axis=1)
