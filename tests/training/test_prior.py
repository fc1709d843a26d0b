"""The prior network learns what names mean, and its training resumes where it stopped."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from typer.testing import CliRunner

from optformer.cli import app
from optformer.data import store
from optformer.errors import ConfigError
from optformer.model import checkpoint
from optformer.model.prior import Prior, PriorConfig
from optformer.study import Study
from optformer.training import prior as training
from optformer.training.config import OptimizerConfig
from optformer.training.invented import invented
from optformer.training.prior import PriorRun
from tests.training.test_views import a_study

SMALL = PriorRun(
    model=PriorConfig(width=16, heads=2, inner=8, hidden=16, features=2, category=4),
    optimizer=OptimizerConfig(learning_rate=5e-3, warmup=5, ema=0.9),
    seconds=5.0,
    views=4,
    trials=16,
    save_every=1e9,
)


@pytest.fixture(scope="module")
def studies() -> list[Study]:
    return [a_study() for _ in range(3)]


def test_names_are_learned_and_carry_over_to_another_range(
    tmp_path: Path, studies: list[Study]
) -> None:
    saved = training.train(SMALL, tmp_path, studies, studies[:1], say=lambda _: None)
    [[rho]] = training.correlations(saved.weights, saved.config, studies[:1]).values()
    assert rho > 0.6
    assert saved.about["rank_correlation"]["svm"] == pytest.approx(rho)
    # The same names with other bounds, at the same values.
    problem = studies[0].problem
    wider = dataclasses.replace(
        problem,
        parameters=tuple(
            p if p.bounds is None else dataclasses.replace(p, bounds=(p.bounds[0], 2 * p.bounds[1]))
            for p in problem.parameters
        ),
    )
    mean_R, other_R = (
        Prior.of(each, saved.weights, saved.config).mean_and_features(studies[0].values_RP)[0]
        for each in (problem, wider)
    )
    assert scipy.stats.spearmanr(mean_R, other_R).statistic > 0.5


def test_a_stopped_run_resumes(tmp_path: Path, studies: list[Study]) -> None:
    short = dataclasses.replace(SMALL, seconds=1.0)
    first = training.train(short, tmp_path, studies, say=lambda _: None)
    # It has spent its time: nothing is left to do.
    again = training.train(short, tmp_path, studies, say=lambda _: None)
    assert again.about["steps"] == first.about["steps"] > 0
    np.testing.assert_array_equal(again.weights["mean"], first.weights["mean"])
    other = dataclasses.replace(short, model=dataclasses.replace(SMALL.model, hidden=20))
    with pytest.raises(ConfigError, match="another network"):
        training.train(other, tmp_path, studies, say=lambda _: None)


def test_studies_without_trials_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="completed"):
        training.train(SMALL, tmp_path, [a_study().rows(slice(0, 3))])


def test_invented_studies_are_of_many_kinds_and_the_same_for_a_seed() -> None:
    one, other = invented(20, 50, 1), invented(20, 50, 1)
    for study, again in zip(one, other, strict=True):
        np.testing.assert_array_equal(study.metrics_RM, again.metrics_RM)
    types = {str(parameter.type) for study in one for parameter in study.problem.parameters}
    assert len(types) == 3
    assert len({study.problem.metrics[0].goal for study in one}) == 2


def test_the_command_adds_a_prior_to_a_checkpoint(tmp_path: Path, studies: list[Study]) -> None:
    store.write(studies, tmp_path / "studies", source="test")
    small = [f"model.{name}={value}" for name, value in dataclasses.asdict(SMALL.model).items()]
    changes = [*small, "seconds=0.5", "views=2", "trials=8"]
    out = tmp_path / "run"
    result = CliRunner().invoke(
        app,
        [
            *("train-prior", str(out), "--studies", str(tmp_path / "studies")),
            *(part for change in changes for part in ("--set", change)),
        ],
    )
    assert result.exit_code == 0, result.output
    with_prior, base = checkpoint.load(out / "checkpoint"), checkpoint.load(Path("optformer-tiny"))
    assert with_prior.prior is not None
    assert with_prior.prior.config == SMALL.model
    np.testing.assert_array_equal(
        with_prior.weights["experts"]["offset"], base.weights["experts"]["offset"]
    )
    assert checkpoint.fingerprint(out / "checkpoint") != checkpoint.fingerprint(
        Path("optformer-tiny")
    )
