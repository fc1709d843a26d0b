"""A model as a directory that loads on any machine.

    weights.safetensors   float32 arrays by path, e.g. decoder.layers.0.self.query; float16 where
                          they were saved in half precision, and float32 again once loaded
    text.model            the SentencePiece pieces
    config.json           format version, shape, tokenizer options, fingerprints, description

Loading executes no code from the files. A vocabulary or weight file that does not match the
fingerprint in the configuration is rejected.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from optformer.errors import CheckpointError, ConfigError, did_you_mean
from optformer.files import atomic_write
from optformer.model import experts, prior
from optformer.model.config import ModelConfig, Temperature
from optformer.model.prior import PriorConfig
from optformer.model.saved import T5X, Checkpoint, SavedPrior, Tree, flatten, unflatten
from optformer.settings import from_tree, to_tree
from optformer.tokenization.tokenizer import StudyTokenizer, TokenizerOptions, vocabulary_of

FORMAT = 2
MOST_TOKENS = 1 << 20
MOST_CONFIG = 16 << 20  # bytes
WEIGHTS, TEXT, CONFIG = "weights.safetensors", "text.model", "config.json"
PRIOR_WEIGHTS = "prior.safetensors"
VALUE_TEMPERATURE, EXPERTS, PRIOR = "value_temperature", "experts", "prior"

SHIPPED = Path(__file__).parents[1] / "pretrained"
"""The folder of the models shipped with this package, each with a model card."""


def save(checkpoint: Checkpoint, folder: Path, *, half: bool = False) -> None:
    """Writes the checkpoint to a temporary folder, then renames it.

    Replacing an existing folder takes two renames, between which the folder does not exist.

    Args:
      half: write the weights in half precision, in half of the space.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        kind = np.float16 if half else np.float32
        arrays = {
            name: np.ascontiguousarray(array, dtype=kind)
            for name, array in flatten(checkpoint.weights).items()
        }
        safetensors.numpy.save_file(arrays, temporary / WEIGHTS)
        vocabulary = checkpoint.tokenizer.vocabulary
        (temporary / TEXT).write_bytes(vocabulary.text_model)
        config = {
            "format": FORMAT,
            "model": to_tree(checkpoint.config),
            "tokenizer": to_tree(checkpoint.tokenizer.options),
            "vocabulary": vocabulary.fingerprint,
            EXPERTS: experts.fingerprint() if checkpoint.config.experts else "",
            "weights": _hash(temporary / WEIGHTS),
            "algorithms": list(checkpoint.algorithms),
            "tokens": checkpoint.tokens,
            VALUE_TEMPERATURE: to_tree(checkpoint.value_temperature),
            "about": dict(checkpoint.about),
        }
        if checkpoint.prior is not None:
            config[PRIOR] = _save_prior(checkpoint.prior, temporary)
        _write_config(config, temporary / CONFIG)
        temporary.chmod(0o755)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
            os.replace(folder, old / "checkpoint")
            os.replace(temporary, folder)
            shutil.rmtree(old)
        else:
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def shipped() -> tuple[str, ...]:
    """The names of the models shipped with this package."""
    return tuple(sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}")))


def find(name_or_path: str | Path) -> Path:
    """The folder of a checkpoint: by its path, that of a training run, or a shipped model's name.

    Of a run, it is the last checkpoint. A folder of a shipped model's name in the working directory
    takes precedence.
    """
    path = Path(name_or_path)
    if not path.exists() and str(path) in shipped():
        return SHIPPED / path
    inside = path / "checkpoint"
    return inside if not (path / CONFIG).is_file() and (inside / CONFIG).is_file() else path


def load(folder: Path) -> Checkpoint:
    """Reads a checkpoint in our format or T5X's, or a shipped model by its name.

    Raises:
      CheckpointError: the checkpoint is missing, incomplete, damaged, of another version, or its
        vocabulary is not the one of its training.
    """
    folder = find(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no checkpoint folder {folder}, and no model in this package has that name "
            f"({', '.join(shipped()) or 'there is none'}). Train one: optformer train."
        )
    if is_t5x(folder):
        from optformer.model import t5x

        return t5x.load(folder)
    missing = [name for name in (CONFIG, WEIGHTS, TEXT) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} is not a checkpoint: {', '.join(missing)} is missing. A checkpoint folder "
            f"contains {CONFIG}, {WEIGHTS} and {TEXT}, or is a checkpoint_<step> of T5X."
        )
    config = _read_config(folder)
    if _hash(folder / WEIGHTS) != config.get("weights"):
        raise CheckpointError(
            f"{folder / WEIGHTS} is damaged or from another checkpoint: its hash differs from the "
            f"one in {CONFIG}. Copy the folder again."
        )
    try:
        model = from_tree(ModelConfig, config["model"], "model.")
        options = from_tree(TokenizerOptions, config["tokenizer"], "tokenizer.")
        vocabulary = vocabulary_of(options, (folder / TEXT).read_bytes())
        algorithms, tokens = _names(config["algorithms"]), int(config["tokens"])
        if not 1 <= tokens <= MOST_TOKENS:
            raise ValueError(f"tokens={tokens} must be between 1 and {MOST_TOKENS:,}")
        value_temperature = _value_temperature(config, folder)
    except (ConfigError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"this version of optformer cannot read {folder}: {error!r}"
        ) from error
    if vocabulary.fingerprint != config.get("vocabulary"):
        raise CheckpointError(
            f"{folder / TEXT} is not the vocabulary that the weights were trained with: its "
            f"fingerprint is {vocabulary.fingerprint}, not {config.get('vocabulary')}. Restore "
            "the file from where the checkpoint came from."
        )
    if model.experts and config.get(EXPERTS) != experts.fingerprint():
        raise CheckpointError(
            f"{folder} was trained with other Gaussian-process experts than this version of "
            f"optformer has: their fingerprint is {config.get(EXPERTS)!r}, not "
            f"{experts.fingerprint()!r}. Install the version that wrote it."
        )
    weights = _read_weights(folder / WEIGHTS)
    return Checkpoint(
        config=model,
        tokenizer=StudyTokenizer(options, vocabulary),
        weights=weights,
        algorithms=algorithms,
        tokens=tokens,
        value_temperature=value_temperature,
        about=config.get("about", {}),
        prior=_load_prior(config[PRIOR], folder) if PRIOR in config else None,
    )


def _names(names: object) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"algorithms={names!r} is not a list of names")
    return tuple(names)


def _read_weights(path: Path) -> Tree:
    """Nested arrays, float32.

    Raises:
      CheckpointError: the file is damaged, or has other values than finite floating-point numbers.
    """
    try:
        arrays = safetensors.numpy.load_file(path)
        for name, array in arrays.items():
            if not (np.issubdtype(array.dtype, np.floating) and np.isfinite(array).all()):
                raise CheckpointError(
                    f"{path}: {name} has values that are not finite floating-point numbers. "
                    "Restore the checkpoint from where it came from."
                )
            arrays[name] = array.astype(np.float32, copy=False)
        return unflatten(arrays)
    except (
        safetensors.SafetensorError,
        OSError,
        RecursionError,
        AttributeError,
        LookupError,
    ) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Copy it again.") from error


def _save_prior(saved: SavedPrior, folder: Path) -> Tree:
    """Writes the prior network's weights; what the configuration says of them."""
    # Half the size, and no prediction moves by what could be seen.
    arrays = {
        name: np.ascontiguousarray(array, np.float16)
        for name, array in flatten(saved.weights).items()
    }
    safetensors.numpy.save_file(arrays, folder / PRIOR_WEIGHTS)
    return {
        "model": to_tree(saved.config),
        "weights": _hash(folder / PRIOR_WEIGHTS),
        "about": dict(saved.about),
    }


def _load_prior(said: Tree, folder: Path) -> SavedPrior:
    """The prior network that a checkpoint's configuration speaks of.

    Raises:
      CheckpointError: it is missing, damaged, or of another version.
    """
    path = folder / PRIOR_WEIGHTS
    if not path.is_file() or _hash(path) != said.get("weights"):
        raise CheckpointError(
            f"{path} is missing, damaged or from another checkpoint: its hash is not the one in "
            f"{CONFIG}. Copy the folder again."
        )
    try:
        shape = from_tree(PriorConfig, said["model"], "prior.")
    except (ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} does not fit this optformer: {error!r}") from error
    weights = _read_weights(path)
    prior.check_weights(weights, shape)
    return SavedPrior(config=shape, weights=weights, about=said.get("about", {}))


def check_prompt(name: str, algorithms: Sequence[str]) -> None:
    """Checks that the prompt names one of the algorithms in a model's training data.

    Raises:
      ConfigError: it does not.
    """
    if name not in algorithms:
        raise ConfigError(
            f"the model was not trained on the algorithm {name!r}, but on "
            f"{', '.join(algorithms)}.{did_you_mean(name, algorithms)}"
        )


def is_t5x(folder: Path) -> bool:
    """Whether a folder is a T5X checkpoint."""
    return (folder / T5X).is_file() and not (folder / CONFIG).is_file()


def fingerprint(folder: Path) -> str:
    """The hash of a checkpoint's weights, as its configuration records it.

    Raises:
      CheckpointError: there is no checkpoint, or its configuration is damaged.
    """
    folder = find(folder)
    if is_t5x(folder):
        files = sorted(path for path in folder.glob("target.*/*") if path.is_file())
        hashes = [f"{path.relative_to(folder)} {_hash(path)}" for path in [folder / T5X, *files]]
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    config = _read_config(folder)
    weights = str(config["weights"])
    if PRIOR not in config:
        return weights
    return hashlib.sha256(f"{weights} {config[PRIOR]['weights']}".encode()).hexdigest()


def value_temperature(folder: Path) -> Temperature:
    """A checkpoint's temperature of predicted metrics, read without its weights.

    Raises:
      CheckpointError: there is no checkpoint, or its configuration is damaged.
    """
    folder = find(folder)
    if is_t5x(folder):
        return Temperature()
    return _value_temperature(_read_config(folder), folder)


def check_may_change(folder: Path) -> None:
    """Checks that a checkpoint is not a shipped model, which must not be changed.

    Raises:
      CheckpointError: it is.
    """
    if find(folder).resolve().is_relative_to(SHIPPED.resolve()):
        raise CheckpointError(
            f"{find(folder)} is a part of this package. Copy the folder and change the copy."
        )


def set_value_temperature(folder: Path, temperature: Temperature) -> None:
    """Changes the temperature of predicted metrics in a checkpoint on disk, atomically.

    The one that it had is kept in its configuration, as `value_temperature_before`.

    Raises:
      CheckpointError: there is no checkpoint, its configuration is damaged, it is a T5X checkpoint,
        which cannot store a temperature, or a shipped model.
    """
    folder = find(folder)
    if is_t5x(folder):
        raise CheckpointError(
            f"{folder} is a T5X checkpoint, which cannot store a temperature. Set "
            "value_temperature in the policy's settings instead."
        )
    check_may_change(folder)
    config = _read_config(folder)
    before = {f"{VALUE_TEMPERATURE}_before": config.get(VALUE_TEMPERATURE)}
    config |= before | {VALUE_TEMPERATURE: to_tree(temperature)}
    with atomic_write(folder / CONFIG, shared=True) as path:
        _write_config(config, path)


def _value_temperature(config: Tree, folder: Path) -> Temperature:
    # Older checkpoints have no temperature, or a single number.
    stored = config.get(VALUE_TEMPERATURE, {})
    try:
        return from_tree(Temperature, stored if isinstance(stored, dict) else {"start": stored})
    except ConfigError as error:
        raise CheckpointError(
            f"{folder / CONFIG}: this version cannot read {VALUE_TEMPERATURE}={stored!r}: {error}"
        ) from error


def _read_config(folder: Path) -> Tree:
    """A checkpoint's configuration. Its digest is checked and removed."""
    try:
        if (folder / CONFIG).stat().st_size > MOST_CONFIG:
            raise ValueError(f"it has more than {MOST_CONFIG:,} bytes")
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        version = config["format"]
    except FileNotFoundError as error:
        raise CheckpointError(
            f"there is no checkpoint folder {folder}. Train one: optformer train."
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{folder / CONFIG} is damaged: {error!r}. Copy it again.") from error
    if version != FORMAT:
        raise CheckpointError(
            f"{folder} has checkpoint format {version}, but this version of optformer reads format "
            f"{FORMAT}. Install the version that wrote it."
        )
    if config.pop("digest", None) != _digest(config):
        raise CheckpointError(
            f"{folder / CONFIG} was changed or is damaged: its digest does not match its contents. "
            "Copy the folder again."
        )
    return config


def _write_config(config: Tree, path: Path) -> None:
    """Writes the configuration with its digest."""
    signed = config | {"digest": _digest(config)}
    path.write_text(json.dumps(signed, indent=2) + "\n", "utf-8")


def _digest(config: Tree) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
