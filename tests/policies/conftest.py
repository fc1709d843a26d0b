"""One small model, trained for a moment, for all policy tests."""

from pathlib import Path

import numpy as np
import pytest

import optformer
from optformer.config import load_config
from optformer.model import train as training
from optformer.policies.model import OptFormer
from tests.model.tiny import SMALL
from tests.studies import CONDITIONAL, MIXED, plane, random_study


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
