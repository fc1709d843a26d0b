import json
import shutil

import numpy as np
import pytest

from optformer.errors import ConfigError, SourceError
from optformer.eval import hpob, hpob_curves
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
    curves = hpob_curves.read_published(shared_data / "hpob_published" / f"{name}.json")
    assert (len(curves), sum(map(len, curves.values()))) == (16, 86)
    macro_T = hpob_curves.macro_mean(curves)
    np.testing.assert_allclose(macro_T[[5, 10, 20, 50, 100]], PUBLISHED[name], atol=5.1e-5)


def test_macro_means_weigh_spaces_and_flat_means_weigh_runs():
    one, two = np.array([[1.0], [0.0]]), np.array([[0.0], [0.0]])
    curves = {"a": {"x": one}, "b": {"y": two, "z": two}}
    assert hpob_curves.macro_mean(curves) == pytest.approx([0.25])
    assert hpob_curves.flat_mean(curves) == pytest.approx([1 / 6])


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
    results = run(
        {"s": Sweep}, [task], hpob.SEEDS, tmp_path / "out", protocol=hpob.HPOB.protocols[0].name
    )
    runs_ST = hpob_curves.curves(results, "s")["1"]["2"]
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
    published = hpob_curves.read_published(
        shared_data / "hpob_published/optformer__random_search.json"
    )
    tasks = hpob.tasks(shared_data / "hpob")
    assert len(tasks) == 41
    for task in tasks:
        _, space, dataset = task.name.split("/")
        first_S = [task.starts[seed].exact_N.max() for seed in hpob.SEEDS]
        np.testing.assert_allclose(first_S, published[space][dataset][:, 0], atol=1e-6)


def test_published_curves_become_optimizers_of_the_same_runs(release, tmp_path):
    (task,) = hpob.tasks(release[0], trials=3)
    results = run(
        {"s": Sweep}, [task], [1, 3], tmp_path / "out", protocol=hpob.HPOB.protocols[0].name
    )
    runs_ST = np.linspace(0, 1, 5 * 9).reshape(5, 9)
    both = hpob_curves.with_published(results, {"theirs": {"1": {"2": runs_ST}}})
    assert both.optimizers == ("s", "theirs") and both.missing == 0
    np.testing.assert_array_equal(hpob_curves.curves(both, "theirs")["1"]["2"], runs_ST[[1, 3], :4])
    np.testing.assert_array_equal(
        hpob_curves.curves(both, "s")["1"]["2"], both.exact_best_OKST[0, 0]
    )
    for bad in ({"1": {}}, {"1": {"2": runs_ST[:3]}}, {"1": {"2": runs_ST[:, :3]}}):
        with pytest.raises(ConfigError, match=r"'theirs' have . initialisations and . trials"):
            hpob_curves.with_published(results, {"theirs": bad})


def test_macro_bands_resample_tasks_within_their_spaces():
    rng = np.random.default_rng(0)
    low_ST, high_ST = np.full((2, 3), 0.2), np.full((2, 3), 0.6)
    sure = {"a": {"x": low_ST, "y": low_ST}, "b": {"x": high_ST, "y": high_ST, "z": high_ST}}
    for part_T in hpob_curves.macro_band(sure, rng):
        np.testing.assert_allclose(part_T, 0.4)
    mean_T, *bounds = hpob_curves.macro_band({**sure, "c": {"x": low_ST}}, rng)
    np.testing.assert_allclose(mean_T, 1 / 3)
    np.testing.assert_array_equal(bounds, np.full((2, 3), np.nan))  # a single dataset: unknown
    spread = {"a": {f"{k}": np.full((2, 1), k / 10) for k in range(11)}}
    mean_T, low_T, high_T = hpob_curves.macro_band(spread, rng)
    assert mean_T == pytest.approx([0.5])
    # The standard error of the mean of 11 equally spaced values.
    assert high_T[0] - low_T[0] == pytest.approx(2 * 1.96 * np.sqrt(0.11 / 11), rel=0.1)


def test_macro_bands_of_small_spaces_hold_the_true_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        values_CK = rng.normal(size=(8, 3))  # unscaled, such intervals hold it in 87 %
        curves = {
            f"{space}": {f"{k}": np.full((1, 1), value) for k, value in enumerate(values_K)}
            for space, values_K in enumerate(values_CK)
        }
        _, low_T, high_T = hpob_curves.macro_band(curves, rng, resamples=300)
        inside += low_T[0] <= 0.0 <= high_T[0]
    assert 0.91 <= inside / 300 <= 0.98


def test_differences_of_curves_are_paired_by_run():
    rng = np.random.default_rng(0)
    hard = {space: {k: rng.random((2, 1)) for k in "xyz"} for space in "ab"}
    better = {
        space: {k: runs_ST + 0.1 for k, runs_ST in datasets.items()}
        for space, datasets in hard.items()
    }
    for part_T in hpob_curves.macro_band(hpob_curves.difference(better, hard), rng):
        np.testing.assert_allclose(part_T, 0.1)


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


class Greedy:
    """Chooses the row with the largest first coordinate; keeps what it is told."""

    def __init__(self, problem, seed):
        self.told = []

    def choose(self, values_NP):
        return int(values_NP[:, 0].argmax())

    def suggest(self, count):
        raise AssertionError("it was to choose")

    def update(self, values_NP, metrics_NM, states_N):
        self.told += metrics_NM[:, 0].tolist()


def official_discrete(x, y, initial, trials):
    """The handler's loop for `Greedy`, in a few lines."""
    y = (y - y.min()) / (y.max() - y.min())
    pending, current = [row for row in range(len(x)) if row not in initial], list(initial)
    best = [y[current].max()]
    for _ in range(trials):
        current.append(pending.pop(int(x[pending, 0].argmax())))
        best.append(y[current].max())
        if y.max() in best:
            break
    return best + [y.max()] * (trials - len(best) + 1)


def test_discrete_runs_follow_the_official_handler(release, tmp_path):
    folder = shutil.copytree(release[0], tmp_path / "release")
    rng = np.random.default_rng(1)
    x = np.round(rng.random((60, 2)), 1)  # many rows are repeated, with other values
    y = x[:, 0] - 2 * (x[:, 1] - 0.4) ** 2 + 0.1 * rng.random(60)
    data = {"1": {"2": {"X": x.tolist(), "y": y[:, None].tolist()}}}
    (folder / "hpob-data" / "meta-test-dataset.json").write_text(json.dumps(data))
    (task,) = hpob.discrete_tasks(folder, trials=12)
    results = run(
        {"g": Greedy}, [task], hpob.SEEDS, tmp_path / "out", protocol=hpob.HPOB.protocols[1].name
    )
    assert not results.failures
    runs_ST = hpob_curves.curves(results, "g")["1"]["2"]
    for seed in hpob.SEEDS:
        want_T = official_discrete(x, y, list(range(5 * seed, 5 * seed + 5)), 12)
        np.testing.assert_allclose(runs_ST[seed], want_T, atol=1e-12)
    # One run finds the best early and stays there; one with another order does not.
    assert (runs_ST[:, -1] == 1.0).any() and (runs_ST[:, 1] < 1.0).any()


def test_optimizers_that_cannot_choose_take_the_nearest_untried_row(release, tmp_path):
    folder = shutil.copytree(release[0], tmp_path / "release")
    x = np.stack([np.arange(40) / 40, np.arange(40) / 40], axis=1)
    data = {"1": {"2": {"X": x.tolist(), "y": (-x[:, :1]).tolist()}}}
    (folder / "hpob-data" / "meta-test-dataset.json").write_text(json.dumps(data))
    (task,) = hpob.discrete_tasks(folder, trials=3)
    run({"s": Sweep}, [task], [1], tmp_path / "out", protocol=hpob.HPOB.protocols[1].name)
    tried = [values_NP[0, 0] for values_NP, _ in Sweep.last.told[1:]]
    # Rows 5 to 9 are starting points: 0.1 is row 4, the nearest left is 0.075 or 0.25 = row 10.
    assert tried == pytest.approx([4 / 40, 10 / 40, 12 / 40])


def test_a_release_with_initial_points_only_cannot_be_chosen_among(release):
    with pytest.raises(SourceError, match="only the 25 initial points of 1/2"):
        hpob.discrete_tasks(release[0])
