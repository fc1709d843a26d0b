import json
import shutil

import numpy as np
import pytest

from optformer.errors import SourceError
from optformer.eval import hpob
from optformer.eval.runner import run

# Macro means of the published curves after 5, 10, 20, 50 and 100 trials: 16 spaces, 86 tasks, 5
# initialisations. "public" is the released HPO-B model with EI.
PUBLISHED = {
    "optformer__random_search": (0.9035, 0.9136, 0.9232, 0.9378, 0.9471),
    "optformer__vizier": (0.8990, 0.9206, 0.9393, 0.9649, 0.9748),
    "optformer__hyperbo": (0.9302, 0.9395, 0.9503, 0.9631, 0.9713),
    "hpob__FSBO2-C": (0.9090, 0.9318, 0.9541, 0.9699, 0.9777),
    "optformer__oss_optformer_H_ei": (0.9207, 0.9325, 0.9459, 0.9633, 0.9712),
    "optformer__optformer": (0.8862, 0.9066, 0.9240, 0.9430, 0.9567),
    "optformer__optformer_ts": (0.9430, 0.9573, 0.9656, 0.9750, 0.9773),
    "optformer__optformer_ei": (0.9516, 0.9628, 0.9707, 0.9767, 0.9802),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_aggregation_gives_the_published_means(shared_data, name):
    curves = hpob.read_published(shared_data / "hpob_published" / f"{name}.json")
    assert (len(curves), sum(map(len, curves.values()))) == (16, 86)
    macro_T = hpob.macro_mean(curves)
    np.testing.assert_allclose(macro_T[[5, 10, 20, 50, 100]], PUBLISHED[name], atol=5.1e-5)


def test_macro_means_weigh_spaces_and_flat_means_weigh_runs():
    one, two = np.array([[1.0], [0.0]]), np.array([[0.0], [0.0]])
    curves = {"a": {"x": one}, "b": {"y": two, "z": two}}
    assert hpob.macro_mean(curves) == pytest.approx([0.25])
    assert hpob.flat_mean(curves) == pytest.approx([1 / 6])


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A release of one task with a surrogate that was fitted here: y = x0 - 0.3 x1."""
    xgboost = pytest.importorskip("xgboost")
    folder = tmp_path_factory.mktemp("release")
    rng = np.random.default_rng(0)
    x = rng.random((400, 2))
    y = x[:, 0] - 0.3 * x[:, 1]
    booster = xgboost.train(
        {"max_depth": 4, "nthread": 1}, xgboost.DMatrix(x, y), num_boost_round=20
    )
    for part in ("hpob-data", "saved-surrogates"):
        (folder / part).mkdir()
    booster.save_model(folder / "saved-surrogates" / "surrogate-1-2.json")
    files = {
        "hpob-data/meta-test-dataset.json": {
            "1": {"2": {"X": x[:25].tolist(), "y": y[:25, None].tolist()}}
        },
        "hpob-data/bo-initializations.json": {
            "1": {"2": {f"test{k}": list(range(5 * k, 5 * k + 5)) for k in range(5)}}
        },
        "saved-surrogates/summary-stats.json": {"surrogate-1-2": {"y_min": -0.2, "y_max": 0.6}},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder, booster, x, y


class Sweep:
    """Walks along the diagonal; keeps what it is told."""

    def __init__(self, problem, seed):
        self.step, self.told = 0, []
        Sweep.last = self

    def suggest(self, count):
        self.step += 1
        return np.full((1, 2), self.step / 10)

    def update(self, values_NP, metrics_NM, states_N):
        self.told.append((values_NP, metrics_NM[:, 0]))


def official(booster, x, y, y_min, y_max, trials):
    """The handler's loop for `Sweep`, in a few lines, with the last trial counted."""
    import xgboost

    seen, best = list(y), []
    for step in range(trials + 1):
        best.append(np.clip((np.array(seen) - y_min) / (y_max - y_min), 0, 1).max())
        point = np.full((1, 2), (step + 1) / 10)
        seen.append(booster.predict(xgboost.DMatrix(point))[0])
    return best


def test_runs_follow_the_official_handler(release, tmp_path):
    folder, booster, x, y = release
    (task,) = hpob.tasks(folder, trials=8)
    assert task.name == "hpob/1/2"
    results = run({"s": Sweep}, [task], hpob.SEEDS, tmp_path / "out", protocol=hpob.PROTOCOL)
    runs_ST = hpob.curves(results, "s")["1"]["2"]
    for seed in hpob.SEEDS:
        rows = slice(5 * seed, 5 * seed + 5)
        want_T = official(booster, x[rows], y[rows], -0.2, 0.6, 8)
        np.testing.assert_allclose(runs_ST[seed], want_T, atol=1e-6)
    # Initial points are told with their recorded values, normalized and clipped.
    values_NP, metrics_N = Sweep.last.told[0]
    np.testing.assert_array_equal(values_NP, x[20:25])
    np.testing.assert_allclose(metrics_N, np.clip((y[20:25] + 0.2) / 0.8, 0, 1))


def test_published_first_values_are_those_of_the_initial_points(shared_data):
    pytest.importorskip("xgboost")
    published = hpob.read_published(shared_data / "hpob_published/optformer__random_search.json")
    tasks = hpob.tasks(shared_data / "hpob")
    assert len(tasks) == 41
    for task in tasks:
        _, space, dataset = task.name.split("/")
        first_S = [task.starts[seed].exact_N.max() for seed in hpob.SEEDS]
        np.testing.assert_allclose(first_S, published[space][dataset][:, 0], atol=1e-6)


def test_restricting_keeps_common_tasks_only():
    curves = {"a": {"x": np.zeros((1, 1)), "y": np.zeros((1, 1))}, "b": {"z": np.zeros((1, 1))}}
    kept = hpob.restrict(curves, {"a": {"y": np.zeros((1, 1))}})
    assert {space: list(datasets) for space, datasets in kept.items()} == {"a": ["y"]}


def test_missing_files_say_where_the_release_is(release, tmp_path):
    folder, *_ = release
    with pytest.raises(SourceError, match=r"github\.com/machinelearningnuremberg/HPO-B"):
        hpob.tasks(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"no search space '9'\. It has 1"):
        hpob.tasks(folder, spaces=["9"])
    partial = shutil.copytree(folder, tmp_path / "partial")
    (partial / "saved-surrogates" / "surrogate-1-2.json").unlink()
    with pytest.raises(SourceError, match="surrogate-1-2"):
        hpob.tasks(partial)
