"""One small model, trained for a moment, for all policy tests."""

from pathlib import Path

import numpy as np
import pytest

import optformer
from optformer.policies.model import OptFormer
from optformer.training import train as training
from optformer.training.config import load_config
from tests.studies import CONDITIONAL, MIXED, plane, random_study
from tests.training.tiny import SMALL


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    config = load_config(
        None,
        [*SMALL, "optimizer.learning_rate=0.01", "train.steps=60"],
    )
    rng = np.random.default_rng(0)
    studies = [
        random_study(problem, 12, rng)
        for _ in range(8)
        for problem in (MIXED, CONDITIONAL, plane(2))
    ]
    return training.train(config, folder, studies).checkpoint


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> OptFormer:
    return optformer.load(checkpoint)
