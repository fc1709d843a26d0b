"""A tiny untrained model, for tests that do not depend on its quality."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

from optformer.model import checkpoint, transformer
from optformer.model.config import MICRO
from optformer.model.saved import Checkpoint
from optformer.model.transformer import Ids
from optformer.tokenization.tokenizer import StudyTokenizer
from optformer.training.sharding import to_numpy

SaveModel = Callable[[Path, int], Path]


@pytest.fixture(scope="session")
def save_model() -> SaveModel:
    """Writes a checkpoint with the weights of this seed."""
    tokenizer = StudyTokenizer()
    config = dataclasses.replace(
        MICRO, width=16, heads=2, head_size=8, feed_forward=16, encoder_layers=1, decoder_layers=1
    )

    def save(folder: Path, seed: int) -> Path:
        weights = transformer.init(config, Ids.of(tokenizer.vocabulary), jax.random.key(seed))
        saved = Checkpoint(
            config=config,
            tokenizer=tokenizer,
            weights=to_numpy(weights),
            algorithms=("random_search", "hill_climbing", "optimum"),
        )
        checkpoint.save(saved, folder)
        return folder

    return save


@pytest.fixture(scope="session")
def model_folder(save_model: SaveModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "checkpoint", 0)
