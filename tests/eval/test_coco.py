import numpy as np
import pytest

from optformer.errors import ConfigError, SourceError
from optformer.eval import coco
from optformer.eval.benchmark import Running, evaluate
from optformer.eval.coco import COCO, CocoOptions
from optformer.eval.contestants import Contestants

cocoex = pytest.importorskip("cocoex", reason="COCO's suite: pip install coco-experiment")


def test_functions_are_those_of_the_suite():
    """Our block at a point is the suite's own problem there, and its optimum is COCO's."""
    tasks = coco.tasks(functions=(1, 8, 21), dimensions=(2, 5), instances=2, trials=3)
    assert len(tasks) == 3 * 2 * 2
    problems = cocoex.Suite("bbob", "instances: 1,2", "dimensions: 2,5 function_indices: 1,8,21")
    rng = np.random.default_rng(0)
    for task in tasks:
        block = task.block
        units_1NP = rng.random((1, 4, block.dimension))
        problem = problems.get_problem_by_function_dimension_instance(
            block.function, block.dimension, block.instance
        )
        want_N = [-problem(10 * point - 5) for point in units_1NP[0]]
        np.testing.assert_allclose(block.evaluate_exact(units_1NP)[0], want_N, rtol=1e-12)
        assert task.low < task.high and max(want_N) <= task.high


def test_the_observer_is_told_every_trial_in_order(tmp_path):
    who = Contestants(optimizers=("random_search", "hill_climbing"))
    running = Running(trials=7, workers=1)
    options = CocoOptions(functions=(1, 5), dimensions=(2,), instances=2, postprocess=False)
    found = evaluate(COCO, tmp_path, who, running, options)
    assert "4 tasks, 1 seed, 7 trials" in found.counted
    for name in who.optimizers:
        folder = tmp_path / "exdata" / name
        assert len(list(folder.glob("*.info"))) == 2  # one a function
        text = "".join(path.read_text() for path in folder.glob("*.info"))
        assert text.count(":7|") == 4  # evaluations of each instance
    evaluate(COCO, tmp_path, who, running, options)  # again: the folders are replaced, not numbered
    assert sorted(path.name for path in (tmp_path / "exdata").iterdir()) == [
        "hill_climbing",
        "random_search",
    ]


def test_a_report_that_fails_says_why(tmp_path):
    with pytest.raises(SourceError, match="cocopp"):
        coco.report(tmp_path, [tmp_path / "nothing"])


def test_what_the_suite_does_not_have_is_refused():
    with pytest.raises(ConfigError, match="functions 1 to 24"):
        coco.tasks(functions=(25,))
    with pytest.raises(ConfigError, match="7 dimensions"):
        coco.tasks(dimensions=(7,))
