"""The temperature is fitted to predictions, and used by suggestions."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

import optformer
from optformer.errors import ConfigError
from optformer.model import checkpoint, mixture, predictive
from optformer.model.config import Temperature
from optformer.model.experts import EXPERTS
from optformer.model.transformer import Ids
from optformer.policies.config import PolicyConfig
from optformer.policies.model import OptFormer
from optformer.policies.ranking import bin_probabilities
from optformer.policies.view import measured
from optformer.study import State
from optformer.tokenization.trajectory import Role
from optformer.training import sharding
from optformer.training.calibration import calibrate, quality
from optformer.training.config import load_config
from optformer.training.train import TrainResult
from optformer.training.validation import make_evaluate, temperature_of, validation_batches
from tests.studies import plane, random_study
from tests.training.tiny import PLANES, SMALL, run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return run(tmp_path_factory.mktemp("run"), "train.steps=20", "optimizer.learning_rate=0.01")


@pytest.mark.parametrize("experts", [True, False])
def test_whole_predictions_are_those_that_validation_measures(
    trained: TrainResult, experts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every metric here, and where the mixture leaves out none of the experts."""
    monkeypatch.setattr(mixture, "MANY", EXPERTS)
    saved = checkpoint.load(trained.checkpoint)
    model = dataclasses.replace(saved.config, experts=experts)
    config = dataclasses.replace(load_config(None, SMALL), model=model)
    held = validation_batches(PLANES[:4], saved.tokenizer, config)
    evaluate = make_evaluate.__wrapped__(  # compiled anew
        model,
        config.loss,
        Ids.of(saved.tokenizer.vocabulary),
        mesh=sharding.make_mesh(config.train, model),
    )
    found, predictions = evaluate(saved.weights, held)
    completed = sum(int(np.isfinite(study.objective()).sum()) for study in PLANES[:4])
    assert len(predictions.bin_N) == completed
    plain = quality(predictions, Temperature())
    assert plain.log_density == pytest.approx(found["log_density"], abs=2e-3)
    assert plain.quantile_error == pytest.approx(found["quantile_error"], abs=2e-3)


def test_a_held_study_s_extremes_are_the_ends_of_the_scale(trained: TrainResult) -> None:
    tokenizer = checkpoint.load(trained.checkpoint).tokenizer
    [held] = validation_batches(PLANES[:1], tokenizer, load_config(None, SMALL))
    batch = held.batch
    value_BT = (batch.roles_BT == Role.VALUE) & (batch.weights_BT > 0)
    bin_N = batch.targets_BT[value_BT] - tokenizer.vocabulary.first_bin
    bin_N = bin_N[(bin_N >= 0) & (bin_N < tokenizer.vocabulary.bins)]
    assert (bin_N.min(), bin_N.max()) == (0, tokenizer.vocabulary.bins - 1)


def test_each_prediction_is_after_the_measured_trials_before_it(trained: TrainResult) -> None:
    """As suggestions count them (`policies.view.measured`), also where a row has many studies."""
    tokenizer = checkpoint.load(trained.checkpoint).tokenizer
    studies = [random_study(plane(2), 10, np.random.default_rng(seed)) for seed in range(3)]
    states_R = studies[1].states_R.copy()
    states_R[[0, 4]] = State.INFEASIBLE
    studies[1] = dataclasses.replace(studies[1], states_R=states_R)
    [held] = validation_batches(studies, tokenizer, load_config(None, SMALL))
    counted = held.targets.trials_N[: held.targets.known]
    wanted = [
        len(measured(study.rows(slice(row)), tokenizer.fit_scalings(study)[0]))
        for study in studies
        for row in np.flatnonzero(np.isfinite(study.objective()))
    ]
    assert sorted(counted) == sorted(wanted)


def test_training_stores_the_temperature_of_its_last_validation(trained: TrainResult) -> None:
    validation = trained.reports[-1].validation
    assert validation is not None
    low, high = predictive.TEMPERATURES
    assert low < validation["temperature_start"] < high
    found = temperature_of(validation, Temperature())
    saved = checkpoint.load(trained.checkpoint)
    assert saved.value_temperature == found


def test_a_resumed_run_has_the_temperature_before_its_next_validation(
    tmp_path: Path,
) -> None:
    settings = "train.evaluate_every=4", "train.checkpoint_every=1"
    first = run(tmp_path, "train.steps=4", *settings)
    found = checkpoint.value_temperature(first.checkpoint)
    seen = []

    def stop(report: object) -> None:
        seen.append(checkpoint.value_temperature(first.checkpoint))
        if len(seen) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(tmp_path, "train.steps=9", *settings, report=stop, report_seconds=0.0)
    assert seen == [found] * 3 != [Temperature()] * 3


def test_a_finished_checkpoint_is_calibrated(trained: TrainResult, tmp_path: Path) -> None:
    folder = shutil.copytree(trained.checkpoint, tmp_path / "model")
    checkpoint.set_value_temperature(folder, Temperature(start=3.5))
    weights = checkpoint.fingerprint(folder)
    rng = np.random.default_rng(99)
    studies = [random_study(plane(2), 12, rng) for _ in range(12)]
    strange = random_study(plane(36), 3, rng)
    made = calibrate(folder, [*studies, strange])
    assert made.before.temperature == Temperature(start=3.5)
    assert made.after.log_density > made.before.log_density
    assert list(made.skipped.values()) == [1]
    model = optformer.load(folder)
    assert model.value_temperature == made.after.temperature
    assert checkpoint.fingerprint(folder) == weights
    assert calibrate(folder, studies).before == calibrate(folder, studies).after == made.after
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "text.model",
        "weights.safetensors",
    ]
    with pytest.raises(ConfigError, match=r"are 0 values to predict.*more than 35 parameters"):
        calibrate(folder, [strange])


def test_the_checkpoints_temperature_is_the_default(trained: TrainResult) -> None:
    saved = checkpoint.load(trained.checkpoint)
    warm, cold = (
        OptFormer(dataclasses.replace(saved, value_temperature=temperature))
        for temperature in (Temperature(start=1.0, power=1 / 3), Temperature(start=0.5))
    )
    study, points_NP = PLANES[0], np.random.default_rng(0).random((5, 2))
    study = study.rows(np.flatnonzero(np.isfinite(study.objective()))[:7])
    np.testing.assert_array_equal(
        warm.predict(study, points_NP)[0],
        cold.predict(study, points_NP, value_temperature=2.0)[0],
    )
    assert not np.array_equal(warm.predict(study, points_NP)[0], cold.predict(study, points_NP)[0])
    # A search never uses a temperature below 1.
    for model, other, used in ((warm, cold, 2.0), (cold, warm, 1.0)):
        own_NP, named_NP = (
            each.propose(study, 2, policy=policy, seed=0)
            for each, policy in (
                (model, PolicyConfig(acquisition="ucb")),
                (other, PolicyConfig(acquisition="ucb", value_temperature=used)),
            )
        )
        np.testing.assert_array_equal(own_NP, named_NP)


def test_a_temperature_does_not_change_the_probability_of_failure(trained: TrainResult) -> None:
    tokenizer = checkpoint.load(trained.checkpoint).tokenizer
    logits_NO = 3 * np.random.default_rng(0).normal(size=(3, tokenizer.vocabulary.outputs))
    plain_N, warm_N = (
        bin_probabilities(logits_NO, tokenizer.vocabulary, temperature).sum(axis=1)
        for temperature in (1, 3)
    )
    np.testing.assert_allclose(warm_N, plain_N)
    assert (plain_N < 1).all()
