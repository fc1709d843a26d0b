"""Training learns, resumes exactly, and stops when it must."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

import optformer
from optformer.errors import ConfigError
from optformer.model import checkpoint
from optformer.model.saved import flatten
from optformer.study import Metric, Parameter, ParameterType, Problem
from optformer.training import train as training
from optformer.training.batches import StudySource
from optformer.training.config import RunConfig, load_config
from optformer.training.reports import Report, read_log
from optformer.training.train import TrainingError
from tests.studies import plane, random_study
from tests.training.tiny import SMALL, STUDIES, run


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return flatten(checkpoint.load(folder / "checkpoint").weights)


def test_the_loss_falls_and_the_model_loads(tmp_path: Path) -> None:
    result = run(tmp_path, "train.steps=60", "optimizer.learning_rate=0.01", report_seconds=0.0)
    first, last = result.reports[0], result.reports[-1]
    assert last.loss < first.loss - 0.5
    assert last.done == 1.0
    evaluated = [report.validation for report in result.reports if report.validation]
    assert evaluated[-1]["loss"] < evaluated[0]["loss"]
    assert [r.step for r in read_log(tmp_path)] == [r.step for r in result.reports]
    model = optformer.load(result.checkpoint)
    assert model.about["step"] == 60
    assert (tmp_path / "best").is_dir()
    assert load_config(tmp_path / "config.toml").train.steps == 60


def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    """Bit by bit, though it was cut off between two saved states."""
    unbroken = run(tmp_path / "unbroken", "train.steps=14")

    class Cut(Exception):
        pass

    def cut(report: Report) -> None:
        if report.step == 8:
            raise Cut

    with pytest.raises(Cut):
        run(tmp_path / "broken", "train.steps=14", report=cut, report_seconds=0.0)
    resumed = run(tmp_path / "broken", "train.steps=14", report_seconds=0.0)
    # The last state was saved at step 5.
    assert resumed.reports[0].step == 6
    steps = [report.step for report in read_log(tmp_path / "broken")]
    assert steps == sorted(set(steps))
    want, got = weights_of(tmp_path / "unbroken"), weights_of(tmp_path / "broken")
    assert want.keys() == got.keys()
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)
    assert unbroken.parameters == resumed.parameters


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    run(tmp_path, "train.steps=5")
    before = weights_of(tmp_path)
    again = run(tmp_path, "train.steps=5")
    assert again.reports == ()
    for name, array in weights_of(tmp_path).items():
        np.testing.assert_array_equal(array, before[name])


def test_a_run_whose_time_is_over_takes_no_further_step(tmp_path: Path) -> None:
    first = run(tmp_path, "train.steps=1000000", "train.seconds=0.5")
    again = run(tmp_path, "train.steps=1000000", "train.seconds=0.5")
    assert first.reports[-1].done == 1.0
    assert again.reports == ()


def test_studies_that_do_not_fit_are_left_out_and_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    many = Parameter(
        name="word",
        type=ParameterType.CATEGORICAL,
        values=tuple(str(index) for index in range(1001)),
    )
    strange = [
        random_study(plane(36), 3, rng),
        random_study(Problem(parameters=(many,), metrics=(Metric(name="y"),)), 3, rng),
        random_study(plane(1), 0, rng),
    ]
    config = load_config(None, [*SMALL, "train.steps=1"])
    result = training.train(config, tmp_path, [*STUDIES, *strange])
    assert sorted(result.skipped.values()) == [1, 1, 1]
    assert any("1001 values" in reason for reason in result.skipped)
    assert any("35 parameters" in reason for reason in result.skipped)
    with pytest.raises(ConfigError, match=r"nothing to train on.*no trials"):
        training.train(config, tmp_path / "none", strange)
    assert not (tmp_path / "none").exists()


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    run(tmp_path, "train.steps=2")
    with pytest.raises(ConfigError, match=r"another configuration: optimizer\.clip=1\.0, not 2\.0"):
        run(tmp_path, "train.steps=2", "optimizer.clip=2.0")


def test_a_finished_run_can_be_made_longer(tmp_path: Path) -> None:
    run(tmp_path, "train.steps=2")
    longer = run(tmp_path, "train.steps=4", report_seconds=0.0)
    assert [report.step for report in longer.reports] == [3, 4]
    assert load_config(tmp_path / "config.toml").train.steps == 4


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_batch(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at step \d+"):
        run(tmp_path, "train.steps=40", "optimizer.learning_rate=1e20", "optimizer.warmup=0")
    assert "targets_BT" in np.load(tmp_path / "bad_batch.npz")


def test_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to train on"):
        training.train(RunConfig(), tmp_path, [])


def test_fine_tuning_starts_from_the_given_weights(tmp_path: Path) -> None:
    run(tmp_path / "first", "train.steps=5")
    base = tmp_path / "first" / "checkpoint"
    run(tmp_path / "second", "train.steps=1", "optimizer.learning_rate=0.0", f"init={base}")
    for name, array in weights_of(tmp_path / "second").items():
        np.testing.assert_array_equal(array, weights_of(tmp_path / "first")[name])
    assert "random_search" in checkpoint.load(tmp_path / "second" / "checkpoint").algorithms


def test_fine_tuning_on_shorter_trajectories_leaves_the_longest(tmp_path: Path) -> None:
    run(tmp_path / "first", "train.steps=1")
    shorter = "train.steps=1", "batch.tokens=32", f"init={tmp_path / 'first' / 'checkpoint'}"
    run(tmp_path / "second", *shorter)
    assert checkpoint.load(tmp_path / "second" / "checkpoint").tokens == 64


def test_fine_tuning_adds_rows_of_bins_that_change_nothing_at_first(tmp_path: Path) -> None:
    computed = "model.number_embedding=value", "model.number_output=value"
    run(tmp_path / "first", "train.steps=2", *computed)
    base = tmp_path / "first" / "checkpoint"
    run(tmp_path / "second", "train.steps=1", "optimizer.learning_rate=0.0", f"init={base}")
    first, second = (weights_of(tmp_path / name) for name in ("first", "second"))
    added = second.keys() - first.keys()
    assert added == {"numbers.bins", "token_head.bins"}
    for name, array in second.items():
        np.testing.assert_array_equal(array, 0.0 if name in added else first[name])


def test_fine_tuning_can_replay_generated_studies(tmp_path: Path) -> None:
    run(tmp_path / "first", "train.steps=2")
    old = [dataclasses.replace(study, algorithm="hill_climbing") for study in STUDIES]
    result = run(
        tmp_path / "second",
        "train.steps=2",
        f"init={tmp_path / 'first' / 'checkpoint'}",
        "data.generated_weight=1.0",
        generated=StudySource(old),
    )
    loaded = checkpoint.load(result.checkpoint)
    assert loaded.about["generated_weight"] == 1.0
    assert {"random_search", "hill_climbing"} <= set(loaded.algorithms)


def test_validation_studies_are_the_same_in_every_run() -> None:
    kept, held = training.split(STUDIES, 0.2)
    again = training.split(list(reversed(STUDIES)), 0.2)[1]
    assert {s.name for s in held} == {s.name for s in again}
    assert not {s.name for s in held} & {s.name for s in kept}
    assert len(kept) + len(held) == len(STUDIES)
    assert 0 < len(held) < len(STUDIES) / 2


def test_the_learning_rate_warms_up_holds_and_comes_down() -> None:
    settings = load_config(None, ["optimizer.warmup=10", "optimizer.cooldown=0.2"]).optimizer
    rates = [training.learning_rate(settings, step, step / 100) for step in range(100)]
    assert rates[0] < rates[5] < rates[10] == rates[79] == settings.learning_rate
    assert rates[79] > rates[90] > rates[99] > 0


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon"])
def test_each_optimizer_goes_downhill(optimizer: str, tmp_path: Path) -> None:
    result = run(
        tmp_path,
        "train.steps=25",
        f"optimizer.name={optimizer}",
        "optimizer.learning_rate=0.01",
        "optimizer.ema=0.9",
        report_seconds=0.0,
    )
    assert result.reports[-1].loss < result.reports[0].loss
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights_of(tmp_path)))
