"""A checkpoint loads back equal, or an error names the damage."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

import optformer
from optformer.errors import CheckpointError
from optformer.model import checkpoint, experts, prior, transformer
from optformer.model.config import MICRO, Temperature
from optformer.model.prior import PriorConfig
from optformer.model.saved import Checkpoint, SavedPrior
from optformer.model.transformer import Ids
from optformer.tokenization.tokenizer import StudyTokenizer
from optformer.tokenization.vocabulary import train_text_model
from optformer.training.sharding import to_numpy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = StudyTokenizer()
    weights = transformer.init(MICRO, Ids.of(tokenizer.vocabulary), jax.random.key(0))
    saved = Checkpoint(
        config=MICRO, tokenizer=tokenizer, weights=to_numpy(weights), about={"step": 3}
    )
    checkpoint.save(saved, tmp_path / "model")
    # Saving replaces an existing folder.
    checkpoint.save(saved, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    return tmp_path / "model"


def test_a_saved_checkpoint_loads_back_equal(folder: Path) -> None:
    loaded = checkpoint.load(folder)
    tokenizer = StudyTokenizer()
    weights = transformer.init(MICRO, Ids.of(tokenizer.vocabulary), jax.random.key(0))
    assert loaded.config == MICRO
    assert loaded.tokenizer.options == tokenizer.options
    assert loaded.tokenizer.vocabulary.fingerprint == tokenizer.vocabulary.fingerprint
    assert loaded.about == {"step": 3}
    jax.tree.map(np.testing.assert_array_equal, loaded.weights, to_numpy(weights))


def test_the_temperature_of_values_can_be_changed_in_place(folder: Path) -> None:
    assert checkpoint.load(folder).value_temperature == Temperature()
    before = checkpoint.load(folder)
    warm = Temperature(start=1.25, power=-0.1)
    checkpoint.set_value_temperature(folder, warm)
    after = checkpoint.load(folder)
    assert checkpoint.value_temperature(folder) == after.value_temperature == warm
    assert (after.about, after.tokens, after.config) == (before.about, before.tokens, before.config)
    jax.tree.map(np.testing.assert_array_equal, after.weights, before.weights)
    assert len(list(folder.iterdir())) == 3
    # The one that it had is kept.
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["value_temperature_before"] == {"start": 1.0, "power": 0.0}


def test_the_folder_of_a_training_run_is_its_last_checkpoint(folder: Path) -> None:
    run = folder.with_name("run")
    run.mkdir()
    folder.rename(run / "checkpoint")
    (run / "config.toml").touch()
    assert checkpoint.find(run) == run / "checkpoint"
    assert checkpoint.load(run).about == {"step": 3}


@pytest.mark.parametrize(
    ("stored", "expected"),
    [({}, Temperature()), ({"value_temperature": 1.5}, Temperature(start=1.5))],
)
def test_older_checkpoints_have_no_temperature_or_a_constant_one(
    folder: Path, stored: dict, expected: Temperature
) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["value_temperature"], config["digest"]
    config |= stored
    config["digest"] = checkpoint._digest(config)
    path.write_text(json.dumps(config))
    assert checkpoint.load(folder).value_temperature == expected
    assert checkpoint.value_temperature(folder) == expected
    checkpoint.set_value_temperature(folder, Temperature(start=0.8))
    assert checkpoint.load(folder).value_temperature == Temperature(start=0.8)


@pytest.mark.parametrize("stored", [{"start": 0.0}, {"start": 1.0, "slope": 2.0}, None, "warm"])
def test_an_invalid_temperature_is_named(folder: Path, stored: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"value_temperature": stored}
    del config["digest"]
    path.write_text(json.dumps(config | {"digest": checkpoint._digest(config)}))
    for read in (checkpoint.load, checkpoint.value_temperature):
        with pytest.raises(CheckpointError, match=r"config\.json.*value_temperature"):
            read(folder)


def test_a_model_with_other_experts_is_rejected(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gates would apply to the wrong processes."""
    monkeypatch.setattr(experts, "KERNELS", experts.KERNELS[::-1])
    with pytest.raises(CheckpointError, match="trained with other Gaussian-process experts"):
        checkpoint.load(folder)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _other_vocabulary(folder: Path) -> None:
    lines = ["another corpus", "with other words"] * 50
    (folder / "text.model").write_bytes(train_text_model(lines, 300))


def _other_shape(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"max_distance": 128', '"max_distance": 120'))


def _other_format(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format": 99}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: _flip(f / "weights.safetensors"), "weights.safetensors is damaged"),
        (lambda f: (f / "weights.safetensors").unlink(), "weights.safetensors is missing"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is damaged"),
        (_other_shape, "config.json was changed or is damaged"),
        (_other_vocabulary, "not the vocabulary that the weights were trained with"),
        (_other_format, "format 99, but this version of optformer reads format 2"),
    ],
)
def test_damage_is_named(folder: Path, damage: object, message: str) -> None:
    damage(folder)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(folder)


def _forge(**entries: object) -> Callable[[Path], None]:
    """Changes entries of a configuration, and its digest with them."""

    def forge(folder: Path) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        del config["digest"]
        for name, value in entries.items():
            config[name] = config[name] | value if isinstance(value, dict) else value
        path.write_text(json.dumps(config | {"digest": checkpoint._digest(config)}))

    return forge


def _forge_weights(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    """Changes arrays, and their hash with them."""

    def forge(folder: Path) -> None:
        path = folder / "weights.safetensors"
        arrays = safetensors.numpy.load_file(path)
        change(arrays)
        safetensors.numpy.save_file(arrays, path)
        _forge(weights=checkpoint._hash(path))(folder)

    return forge


NORM = "decoder.norm"


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (_forge(model={"encoder_layers": 10**9}), "encoder_layers=1000000000 must be between"),
        (_forge(model={"decoder_layers": -1}), "decoder_layers=-1 must be between"),
        (_forge(model={"slots": 10**9}), "slots=1000000000 must be between"),
        (_forge(model={"width": 16384}), "the weights do not fit"),
        (_forge(tokenizer={"bins": 10**9}), "not the vocabulary"),
        (_forge(tokens=-5), "tokens=-5 must be between 1 and"),
        (_forge(tokens=float("inf")), "cannot read"),
        (_forge(algorithms="gp_ucb"), "algorithms='gp_ucb' is not a list"),
        (_forge(algorithms=[1]), "is not a list of names"),
        (_forge_weights(lambda a: a.update({NORM: a[NORM] * np.nan})), "norm has values that are"),
        (_forge_weights(lambda a: a.update({NORM: np.ones(64, np.int32)})), "norm has values"),
        (_forge_weights(lambda a: a.update({"a." * 5000: a[NORM]})), "is damaged"),
        (_forge_weights(lambda a: a.update({NORM + ".x": a[NORM]})), "is damaged"),
        (lambda f: (f / "config.json").write_text("[" * 5000), "config.json is damaged"),
        (lambda f: (f / "config.json").write_text(" " * (17 << 20)), "16,777,216 bytes"),
    ],
)
def test_absurd_contents_with_the_right_digests_are_rejected(
    folder: Path, forge: Callable[[Path], None], message: str
) -> None:
    forge(folder)
    with pytest.raises(CheckpointError, match=message):
        optformer.load(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint folder .*absent"):
        checkpoint.load(tmp_path / "absent")


def test_a_shipped_model_loads_by_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A folder of that name in the working directory takes precedence."""
    monkeypatch.setattr(checkpoint, "SHIPPED", folder.parent)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert checkpoint.shipped() == ("model",)
    assert checkpoint.load(Path("model")).about == {"step": 3}
    assert checkpoint.fingerprint(Path("model")) == checkpoint.fingerprint(folder)
    with pytest.raises(CheckpointError, match="is a part of this package"):
        checkpoint.set_value_temperature(Path("model"), Temperature())
    Path("model").mkdir()
    with pytest.raises(CheckpointError, match="model is not a checkpoint"):
        checkpoint.load(Path("model"))
    with pytest.raises(CheckpointError, match=r"no model in this package has that name \(model\)"):
        checkpoint.load(Path("another"))


def test_a_prior_is_saved_beside_the_model_in_half_precision(folder: Path) -> None:
    saved, shape = checkpoint.load(folder), PriorConfig(width=8, heads=2, inner=4, hidden=6)
    weights = prior.init(shape, np.random.default_rng(0))
    alone = checkpoint.fingerprint(folder)
    with_prior = dataclasses.replace(
        saved, prior=SavedPrior(config=shape, weights=weights, about={"steps": 7})
    )
    checkpoint.save(with_prior, folder)
    loaded = checkpoint.load(folder).prior
    assert loaded is not None
    assert (loaded.config, loaded.about) == (shape, {"steps": 7})
    jax.tree.map(
        lambda one, other: np.testing.assert_array_equal(one, other.astype(np.float16)),
        loaded.weights,
        weights,
    )
    assert checkpoint.fingerprint(folder) != alone
    (folder / checkpoint.PRIOR_WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=checkpoint.PRIOR_WEIGHTS):
        checkpoint.load(folder)
