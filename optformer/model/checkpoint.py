"""A model as a directory that loads on any machine.

    weights.safetensors   float32 arrays by path, e.g. decoder.layers.0.self.query; float16 where
                          they were saved in half precision, and float32 again once loaded
    text.model            the SentencePiece pieces
    config.json           format version, shape, tokenizer options, fingerprints, how it was made

Loading one executes nothing. A vocabulary or a weight file that is not the one that was saved is
refused.
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
from optformer.files import whole
from optformer.model import experts
from optformer.model.config import ModelConfig, Temperature
from optformer.model.saved import T5X, Checkpoint, Tree, flatten, unflatten
from optformer.settings import from_tree, to_tree
from optformer.tokenization.tokenizer import StudyTokenizer, TokenizerOptions, vocabulary_of

FORMAT = 2
WEIGHTS, TEXT, CONFIG = "weights.safetensors", "text.model", "config.json"
VALUE_TEMPERATURE, EXPERTS = "value_temperature", "experts"

SHIPPED = Path(__file__).parents[1] / "pretrained"
"""The folders of the models that come with this package, each with a model card."""


def save(checkpoint: Checkpoint, folder: Path, *, half: bool = False) -> None:
    """Writes the directory whole, never half of it.

    Replacing one takes two renames: for a moment between them there is none.

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
    """The names of the models that come with this package."""
    return tuple(sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}")))


def find(name_or_path: str | Path) -> Path:
    """The folder of a checkpoint: a model's name stands for the one in this package.

    A folder of that name in the working directory goes first.
    """
    path = Path(name_or_path)
    return SHIPPED / path if not path.exists() and str(path) in shipped() else path


def load(folder: Path) -> Checkpoint:
    """Reads a checkpoint directory of ours, or of T5X; or a model of this package by its name.

    Raises:
      CheckpointError: it is missing, incomplete, damaged, of another version, or its vocabulary
        is not the one that it was trained with.
    """
    folder = find(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no checkpoint folder {folder}, and no model in this package has that name "
            f"({', '.join(shipped()) or 'there is none'}). Make one: optformer train."
        )
    if is_t5x(folder):
        from optformer.model import t5x

        return t5x.load(folder)
    missing = [name for name in (CONFIG, WEIGHTS, TEXT) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} is no checkpoint: {', '.join(missing)} is missing. A checkpoint folder "
            f"holds {CONFIG}, {WEIGHTS} and {TEXT}, or is a checkpoint_<step> of T5X."
        )
    config = _read_config(folder)
    if _hash(folder / WEIGHTS) != config.get("weights"):
        raise CheckpointError(
            f"{folder / WEIGHTS} is damaged or from another checkpoint: its hash is not the one in "
            f"{CONFIG}. Copy the folder again."
        )
    try:
        model = from_tree(ModelConfig, config["model"], "model.")
        options = from_tree(TokenizerOptions, config["tokenizer"], "tokenizer.")
        vocabulary = vocabulary_of(options, (folder / TEXT).read_bytes())
        algorithms, tokens = tuple(config["algorithms"]), int(config["tokens"])
        value_temperature = _value_temperature(config, folder)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder} does not fit this optformer: {error!r}") from error
    if vocabulary.fingerprint != config.get("vocabulary"):
        raise CheckpointError(
            f"{folder / TEXT} is not the vocabulary that the weights were trained with: its "
            f"fingerprint is {vocabulary.fingerprint}, not {config.get('vocabulary')}. Restore "
            "the file from where the checkpoint came from."
        )
    if model.experts and config.get(EXPERTS) != experts.fingerprint():
        raise CheckpointError(
            f"{folder} weighs other Gaussian processes than this optformer has: their fingerprint "
            f"is {config.get(EXPERTS)!r}, not {experts.fingerprint()!r}. Install the version of "
            "optformer that wrote it."
        )
    try:
        arrays = safetensors.numpy.load_file(folder / WEIGHTS)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} is damaged: {error}. Copy it again.") from error
    return Checkpoint(
        config=model,
        tokenizer=StudyTokenizer(options, vocabulary),
        weights=unflatten({name: array.astype(np.float32) for name, array in arrays.items()}),
        algorithms=algorithms,
        tokens=tokens,
        value_temperature=value_temperature,
        about=config.get("about", {}),
    )


def check_prompt(name: str, algorithms: Sequence[str]) -> None:
    """Checks that a model of these algorithms can be told to imitate this one.

    Raises:
      ConfigError: it has not learned from it.
    """
    if name not in algorithms:
        raise ConfigError(
            f"the model has not learned from the algorithm {name!r}, but from "
            f"{', '.join(algorithms)}.{did_you_mean(name, algorithms)}"
        )


def is_t5x(folder: Path) -> bool:
    """Whether a folder is a checkpoint that T5X reads and writes."""
    return (folder / T5X).is_file() and not (folder / CONFIG).is_file()


def fingerprint(folder: Path) -> str:
    """What tells a checkpoint's weights from others: their hash, as its configuration has it.

    Raises:
      CheckpointError: there is no checkpoint, or its configuration is damaged.
    """
    folder = find(folder)
    if is_t5x(folder):
        files = sorted(path for path in folder.glob("target.*/*") if path.is_file())
        hashes = [f"{path.relative_to(folder)} {_hash(path)}" for path in [folder / T5X, *files]]
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    return str(_read_config(folder)["weights"])


def value_temperature(folder: Path) -> Temperature:
    """What `load` would find as the temperature of predicted metrics, without the weights.

    Raises:
      CheckpointError: there is no checkpoint, or its configuration is damaged.
    """
    folder = find(folder)
    if is_t5x(folder):
        return Temperature()
    return _value_temperature(_read_config(folder), folder)


def check_may_change(folder: Path) -> None:
    """Refuses to change a model that comes with the package.

    Raises:
      CheckpointError: it is one.
    """
    if find(folder).resolve().is_relative_to(SHIPPED.resolve()):
        raise CheckpointError(
            f"{find(folder)} is a part of this package. Copy the folder, and change the copy's."
        )


def set_value_temperature(folder: Path, temperature: Temperature) -> None:
    """Changes the temperature of predicted metrics of a checkpoint on disk, in one step.

    Raises:
      CheckpointError: there is no checkpoint, its configuration is damaged, or it is T5X's, which
        has no place for one, or this package's.
    """
    folder = find(folder)
    if is_t5x(folder):
        raise CheckpointError(
            f"{folder} is a checkpoint of T5X, which has no place for a temperature. Name one "
            "where it is used: value_temperature in the policy's settings."
        )
    check_may_change(folder)
    config = _read_config(folder) | {VALUE_TEMPERATURE: to_tree(temperature)}
    with whole(folder / CONFIG, shared=True) as path:
        _write_config(config, path)


def _value_temperature(config: Tree, folder: Path) -> Temperature:
    # Older checkpoints have none, or one number.
    said = config.get(VALUE_TEMPERATURE, {})
    try:
        return from_tree(Temperature, said if isinstance(said, dict) else {"start": said})
    except ConfigError as error:
        raise CheckpointError(
            f"{folder / CONFIG}: this version cannot read {VALUE_TEMPERATURE}={said!r}: {error}"
        ) from error


def _read_config(folder: Path) -> Tree:
    """What a checkpoint's configuration says, without its digest, which is checked."""
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        version = config["format"]
    except FileNotFoundError as error:
        raise CheckpointError(
            f"there is no checkpoint folder {folder}. Make one: optformer train."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG} is damaged: {error!r}. Copy it again.") from error
    if version != FORMAT:
        raise CheckpointError(
            f"{folder} has checkpoint format {version}, but this optformer reads format {FORMAT}. "
            "Install the version of optformer that wrote it."
        )
    if config.pop("digest", None) != _digest(config):
        raise CheckpointError(
            f"{folder / CONFIG} was changed or is damaged: its digest does not fit what it says. "
            "Copy the folder again."
        )
    return config


def _write_config(config: Tree, path: Path) -> None:
    """With its digest."""
    signed = config | {"digest": _digest(config)}
    path.write_text(json.dumps(signed, indent=2) + "\n", "utf-8")


def _digest(config: Tree) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
