import numpy as np
import pytest

from optformer.data.problems.bbob import TEST_FAMILIES, BbobConfig, random_block
from optformer.data.problems.random_spaces import CONTINUOUS, SpaceConfig
from optformer.errors import ConfigError
from optformer.eval import bbob


def test_tasks_are_the_held_out_families_in_every_size():
    tasks = bbob.tasks(parameters=(2, 3), instances=2, trials=7)
    assert len(tasks) == len(TEST_FAMILIES) * 2 * 2
    assert {task.family for task in tasks} == set(TEST_FAMILIES)
    assert all(task.trials == 7 and task.low < task.high for task in tasks)
    assert len({task.name for task in tasks}) == len(tasks)


def test_a_task_does_not_depend_on_the_others():
    (alone,) = bbob.tasks(families=("Lunacek",), parameters=(3,))
    among = [t for t in bbob.tasks(parameters=(2, 3), instances=2) if t.name == alone.name]
    assert alone.record() == among[0].record()
    (other,) = bbob.tasks(families=("Lunacek",), parameters=(3,), seed=1)
    assert alone.record().fingerprint != other.record().fingerprint


def test_level_is_what_half_of_random_points_reach():
    (task,) = bbob.tasks(families=("GriewankRosenbrock",), parameters=(4,))
    units = task.block.spaces.snap(np.random.default_rng(9).random((1, 4000, 4)))
    share = (task.block.evaluate_exact(units)[0] > task.low).mean()
    assert share == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("family", ["Sphere", "RosenbrockRotated", "DifferentPowers"])
def test_reference_optimum_is_close_to_a_known_one(family):
    """On the score's scale: 0 is a random point, 1 the optimum."""
    rng = np.random.default_rng(0)
    config = BbobConfig(families=(family,), space=CONTINUOUS, shift=2.0)
    block = random_block(config, rng, 1, 4)
    known = block.optimum_B[0]
    assert np.isfinite(known)
    level = bbob.random_level(block, rng)
    found = bbob.reference_optimum(block, rng)
    assert 1 - 1e-3 <= (found - level) / (known - level) <= 1 + 1e-12


def test_reference_optimum_is_that_of_all_levels():
    rng = np.random.default_rng(0)
    discrete = BbobConfig(families=("Lunacek",), space=SpaceConfig(double=0.0))
    block = random_block(discrete, rng, 1, 3)
    levels = [(np.arange(count) + 0.5) / count for count in block.spaces.levels_BP[0]]
    every = np.stack(np.meshgrid(*levels), axis=-1).reshape(1, -1, 3)
    assert bbob.reference_optimum(block, rng) == block.evaluate_exact(every).max()


def test_nothing_to_evaluate_is_refused():
    with pytest.raises(ConfigError, match="at least one"):
        bbob.tasks(families=())
    with pytest.raises(ConfigError, match="unknown"):
        bbob.tasks(families=("Spehre",))
