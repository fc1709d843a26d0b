import dataclasses
import shutil

import numpy as np
import pytest

import optformer
from optformer.errors import CheckpointError, ConfigError
from optformer.eval import ours, prediction
from optformer.eval.ours import ModelFactory, ModelPredictor
from optformer.eval.runner import run
from optformer.eval.task import LockstepFactory, random_start
from optformer.model.checkpoint import fingerprint, set_value_temperature
from optformer.model.config import Temperature
from optformer.policies.config import PolicyConfig
from tests.eval.quadratic import PARAMETERS, Quadratic, task

POLICY = PolicyConfig(candidates=4, uniform=4, acquisition="ts")


def tasks():
    """Different search spaces, one with starting points."""
    wide = task("wide", trials=3)
    narrow = task("narrow", trials=3, block=Quadratic(parameters=PARAMETERS[:2]))
    started = task("started", trials=3, starts={0: random_start(wide, 3, 0)})
    return [wide, narrow, started]


def test_results_of_other_weights_are_not_reused(tmp_path, save_model):
    folder = save_model(tmp_path / "model", 0)
    out = tmp_path / "out"
    run(
        {"m": ModelFactory(checkpoint=folder, policy=POLICY)},
        [task(trials=1)],
        [0],
        out,
        protocol="test",
    )
    # The same weights are the same optimizer, wherever they lie.
    moved = ModelFactory(checkpoint=shutil.copytree(folder, tmp_path / "copy"), policy=POLICY)
    assert run({"m": moved}, [task(trials=1)], [0], out, protocol="test").missing == 0
    save_model(folder, 1)
    changed = ModelFactory(checkpoint=folder, policy=POLICY)
    with pytest.raises(ConfigError, match=f"'m' with other settings.*{changed.weights}"):
        run({"m": changed}, [task(trials=1)], [0], out, protocol="test")


def test_results_of_another_value_temperature_are_not_reused(tmp_path, save_model):
    folder, out = save_model(tmp_path / "model", 0), tmp_path / "out"
    before = ModelFactory(checkpoint=folder, policy=POLICY)
    run({"m": before}, [task(trials=1)], [0], out, protocol="test")
    set_value_temperature(folder, Temperature(start=1.5))
    after = ModelFactory(checkpoint=folder, policy=POLICY)
    assert before.value_temperature != after.value_temperature == Temperature(start=1.5)
    with pytest.raises(ConfigError, match="'m' with other settings"):
        run({"m": after}, [task(trials=1)], [0], out, protocol="test")
    assert (
        run({"m": after}, [task(trials=1)], [0], tmp_path / "other", protocol="test").missing == 0
    )
    # A policy's own leaves nothing of the checkpoint's.
    named = dataclasses.replace(POLICY, value_temperature=1.0)
    factory = ModelFactory(checkpoint=folder, policy=named)
    set_value_temperature(folder, Temperature())
    assert ModelFactory(checkpoint=folder, policy=named) == factory


def test_a_joint_draw_is_of_the_highest_where_there_are_many_points(model_folder, monkeypatch):
    monkeypatch.setattr(ours, "_AT_ONCE", 8)
    policy = dataclasses.replace(POLICY, acquisition="ts_joint")
    factory = ModelFactory(checkpoint=model_folder, policy=policy)
    points_NP = random_start(task(), 20, 0).values_NP
    rows = {factory(task().problem, seed).choose(points_NP) for seed in range(6)}
    assert len(rows) > 1
    cautious = dataclasses.replace(policy, acquisition="ucb")
    one = factory.many([task().problem], [0])
    scores_N = one._session.score(one._studies[0], points_NP, cautious, np.random.default_rng(0))
    assert rows <= set(np.argsort(-scores_N)[:8])


def test_a_checkpoint_that_changes_meanwhile_is_an_error_of_its_runs(tmp_path, save_model):
    folder = save_model(tmp_path / "model", 2)
    factory = ModelFactory(checkpoint=folder, policy=POLICY)
    save_model(folder, 3)
    results = run({"m": factory}, [task()], [0], tmp_path / "out", protocol="test")
    assert "has changed since this evaluation began" in results.failures[0].error


def test_a_folder_that_is_no_checkpoint_has_no_fingerprint(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint folder"):
        fingerprint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="damaged"):
        fingerprint(tmp_path)


def test_runs_together_are_the_runs_alone(tmp_path, model_folder):
    together, alone = (
        ModelFactory(checkpoint=model_folder, policy=POLICY, together=most) for most in (8, 1)
    )
    assert isinstance(together, LockstepFactory)
    results = [
        run({"m": factory}, tasks(), [0], tmp_path / name, protocol="test")
        for name, factory in (("together", together), ("alone", alone))
    ]
    assert not results[0].failures and not results[1].failures
    np.testing.assert_allclose(results[0].best_OKST, results[1].best_OKST, rtol=1e-9)


def test_predictions_in_turn_are_those_of_each_prefix_alone(model_folder):
    """What a session keeps does not change what is predicted, and nobody sees later trials."""
    model = optformer.load(model_folder)
    (study,) = prediction.random_studies(Quadratic(noise=0.02), 9, np.random.default_rng(0))
    y_R = study.objective()
    y_range = (float(np.nanmin(y_R)), float(np.nanmax(y_R)))
    predictor = ModelPredictor(model=model)
    rows_N = np.arange(9)
    whole_NQ = predictor.predict(study, y_range, rows_N)
    np.testing.assert_allclose(whole_NQ.sum(axis=1), 1.0)
    for row in rows_N:
        alone_1Q = predictor.predict(study.rows(slice(row + 1)), y_range, rows_N[[row]])
        np.testing.assert_allclose(whole_NQ[[row]], alone_1Q, rtol=1e-3, atol=1e-9)
