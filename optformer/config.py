"""A run as nested frozen dataclasses: a TOML file in, overrides, a TOML file out.

Defaults live in the dataclasses and nowhere else. An unknown key is an error that names the
nearest known one.
"""

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

import tomli_w

from optformer.data.batches import BatchConfig
from optformer.errors import ConfigError
from optformer.model.config import MODELS, LossConfig, ModelConfig
from optformer.tokenization.tokenizer import TokenizerOptions

Tree = dict[str, object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How weights change.

    Attributes:
      name: `adamw`, or T5X's `adafactor`.
      learning_rate: the highest; warmed up over `warmup` steps, held, and brought down linearly
        over the last `cooldown` of the run.
      clip: the largest norm of a gradient.
      ema: decay of the moving average of weights that is saved; 0 saves the weights themselves.
    """

    name: Literal["adamw", "adafactor"] = "adamw"
    learning_rate: float = 2e-3
    warmup: int = 200
    cooldown: float = 0.3
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(self, "optimizer.", learning_rate=(0, None), cooldown=(0, 1), ema=(0, 0.99999))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long to learn, and what is noted on the way.

    Attributes:
      steps: batches in all.
      seconds: stop after about so long, with the learning rate on its way down by then; 0 means
        no limit. A run under a limit depends on the machine's speed.
      soft_bins: standard deviation, in bins, of a continuous target at the start; it shrinks in
        proportion to the rest of the run, down to `soft_bins_end`.
      evaluate_every, checkpoint_every: in steps.
      validation: share of the studies that are never trained on.
    """

    steps: int = 20_000
    seconds: float = 0.0
    seed: int = 0
    soft_bins: float = 6.0
    soft_bins_end: float = 1.5
    evaluate_every: int = 500
    checkpoint_every: int = 500
    validation: float = 0.05

    def __post_init__(self) -> None:
        check_ranges(
            self,
            "train.",
            steps=(1, None),
            seconds=(0, None),
            evaluate_every=(1, None),
            checkpoint_every=(1, None),
            validation=(0, 0.9),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where training studies come from.

    Attributes:
      shards: folders of study shards.
      shards_weight, generated_weight: the share of batches from shards, and from studies
        generated while training.
    """

    shards: tuple[str, ...] = ()
    shards_weight: float = 1.0
    generated_weight: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All that a training run depends on besides its studies."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    tokenizer: TokenizerOptions = dataclasses.field(default_factory=TokenizerOptions)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    batch: BatchConfig = dataclasses.field(default_factory=BatchConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)


Config = TypeVar("Config")


def load_config(path: Path | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """The run that a TOML file describes, changed by overrides like `train.steps=100`.

    `model = "tiny"` stands for a named shape (`optformer.model.config.MODELS`).

    Raises:
      ConfigError: as `read_config`.
    """
    return read_config(RunConfig, path, overrides)


def read_config(
    kind: type[Config], path: Path | None = None, overrides: Iterable[str] = ()
) -> Config:
    """Settings of this kind from a TOML file, changed by overrides.

    Raises:
      ConfigError: a file that is no TOML, an unknown key, or a value of a wrong kind.
    """
    tree: Tree = {}
    if path is not None:
        try:
            tree = tomllib.loads(path.read_text("utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"there is no config file {path}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not a TOML file: {error}.") from error
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"override {override!r} is not of the form section.field=value.")
        _put(tree, key.split("."), _parse(text), override)
    return from_tree(kind, tree)


def from_tree(kind: type[Config], tree: Mapping[str, object] | str, where: str = "") -> Config:
    """A dataclass from nested dicts, each value checked against its field's type.

    A name stands for the model's shape of that name.

    Raises:
      ConfigError: names the field, its value and what it should be.
    """
    if isinstance(tree, str):
        tree = _named_model(tree)
    hints = typing.get_type_hints(kind)
    for key in tree:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f" Did you mean {where}{near[0]}?" if near else f" Known: {', '.join(hints)}."
            raise ConfigError(f"there is no setting {where}{key}.{hint}")
    values = {key: _convert(hints[key], value, where + key) for key, value in tree.items()}
    return kind(**values)


def to_tree(config: object) -> Tree:
    """A dataclass as nested dicts of plain values; `from_tree` gives it back."""
    assert dataclasses.is_dataclass(config)
    tree: Tree = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            value = to_tree(value)
        elif isinstance(value, tuple):
            value = list(value)
        tree[field.name] = value
    return tree


def save_config(config: RunConfig, path: Path) -> None:
    """Writes the resolved run as TOML; `load_config` gives an equal one back."""
    path.write_text(tomli_w.dumps(to_tree(config)), "utf-8")


def check_ranges(config: object, where: str, **ranges: tuple[float, float | None]) -> None:
    """Checks that fields lie between a lowest and a highest value, both allowed.

    Raises:
      ConfigError: names the field, its value and the range.
    """
    for field, (low, high) in ranges.items():
        value = getattr(config, field)
        if value < low or (high is not None and value > high):
            limit = f"at least {low}" if high is None else f"between {low} and {high}"
            raise ConfigError(f"{where}{field}={value} must be {limit}.")


def _named_model(name: str) -> Tree:
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        raise ConfigError(
            f"there is no model {name!r}. Known: {', '.join(MODELS)}."
            + (f" Did you mean {near[0]}?" if near else "")
        )
    return to_tree(MODELS[name])


def _put(tree: Tree, keys: list[str], value: object, override: str) -> None:
    for key in keys[:-1]:
        inner = tree.setdefault(key, {})
        if key == "model" and isinstance(inner, str):
            inner = tree[key] = _named_model(inner)
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {key} is a value, not a section.")
        tree = inner
    tree[keys[-1]] = value


def _parse(text: str) -> object:
    """A TOML value; a word that is none stands for itself, so that no one needs to quote it."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _convert(hint: object, value: object, where: str) -> object:
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        if not isinstance(value, Mapping) and not (hint is ModelConfig and isinstance(value, str)):
            raise ConfigError(f"{where}={value!r} must be a section of settings.")
        return from_tree(hint, value, where + ".")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where}={value!r} must be one of {', '.join(map(str, arguments))}.")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}={value!r} must be a list.")
        return tuple(_convert(arguments[0], item, where) for item in value)
    if origin is types.UnionType:
        if value is None:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):  # type: ignore[arg-type]
        raise ConfigError(f"{where}={value!r} must be of type {getattr(hint, '__name__', hint)}.")
    return value
