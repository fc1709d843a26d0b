"""A training run as nested frozen dataclasses: a TOML file in, overrides, a TOML file out."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from optformer.data.mixture import GenerateConfig
from optformer.errors import ConfigError
from optformer.model import checkpoint
from optformer.model.config import ModelConfig
from optformer.settings import check_ranges, from_tree, read_config, read_tree, to_toml
from optformer.tokenization.tokenizer import TokenizerOptions
from optformer.training.batches import BatchConfig

CONFIG = "config.toml"  # in a run's folder

Compute = Literal["auto", "float32", "bfloat16"]

FINE_TUNING_RATE = 2e-4
"""A tenth of the default, so that the first steps do not destroy the pretrained weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The training loss.

    Attributes:
      value_weight: the weight of metric tokens; parameter tokens have weight 1.
      exact: whether the target of a metric is its exact distribution given the earlier trials, if
        the generator provides it, instead of the value drawn from it. It has less noise, and unlike
        the drawn value it is independent of the range by which metrics are scaled.
      z_loss: weight of the squared log-normalizer, as in T5X.
    """

    value_weight: float = 1.0
    exact: bool = True
    z_loss: float = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer and its schedule.

    Attributes:
      name: `adamw`, T5X's `adafactor`, or `muon`: orthogonalized momentum for the matrices of
        layers, with updates of Adam's size, and Adam at half the rate for the rest
        [Jordan et al., 2024].
      learning_rate: the highest rate, reached after `warmup` steps, and lowered linearly over the
        last share `cooldown` of the run. Runs that start from a checkpoint have the default
        `FINE_TUNING_RATE` (`run_config`).
      clip: the largest norm of a gradient.
      ema: decay of the moving average of weights that is saved; 0 saves the weights themselves.
    """

    name: Literal["adamw", "adafactor", "muon"] = "adamw"
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
    """The length of a run, its checks, and its hardware.

    Attributes:
      steps: the total number of optimizer steps.
      seconds: a time limit, on which the learning rate's schedule then also depends; 0 means no
        limit. The result of a run with a limit depends on the machine's speed.
      soft_bins: standard deviation, in bins, of a continuous target at the start; it shrinks in
        proportion to the remaining run, down to `soft_bins_end`.
      evaluate_every, checkpoint_every: in steps.
      checkpoint_seconds: evaluate and save at least this often, too; 0 means by steps only.
      validation: the share of studies that are held out for validation.
      accumulate: the number of batches whose gradients are accumulated for a step.
      compute: the precision of arithmetic; weights and updates are always in single precision.
        `auto` is bfloat16 on an accelerator and float32 on a CPU.
      workers: the number of processes that build batches; with 0, a thread of the trainer does.
      rematerialize: whether the gradient recomputes each layer instead of storing activations.
      devices: the number of devices; 0 means all.
      tensor_parallel: the number of devices that share a copy of the model, divided by heads and
        feed-forward size. Each group of devices has different rows of a batch.
      distributed: whether several processes train together, each started with this command. They
        find each other by the cluster's variables (Slurm, Open MPI, Kubernetes, TPU), or by
        JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. All need access to the run's
        folder.
      tensorboard: whether to also write TensorBoard events.
    """

    steps: int = 20_000
    seconds: float = 0.0
    seed: int = 0
    soft_bins: float = 6.0
    soft_bins_end: float = 1.5
    evaluate_every: int = 500
    checkpoint_every: int = 500
    checkpoint_seconds: float = 0.0
    validation: float = 0.05
    accumulate: int = 1
    compute: Compute = "auto"
    workers: int = 1
    rematerialize: bool = False
    devices: int = 0
    tensor_parallel: int = 1
    distributed: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        check_ranges(
            self,
            "train.",
            steps=(1, None),
            seconds=(0, None),
            evaluate_every=(1, None),
            checkpoint_every=(1, None),
            checkpoint_seconds=(0, None),
            validation=(0, 0.9),
            accumulate=(1, None),
            workers=(0, None),
            devices=(0, None),
            tensor_parallel=(1, None),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The sources of training studies.

    Attributes:
      shards: folders of study shards.
      shards_weight: the share of batches from shards, if there are any.
      generated_weight: the share of batches from synthetic studies, generated during training.
      generate: the mixture of synthetic studies.
    """

    shards: tuple[str, ...] = ()
    shards_weight: float = 1.0
    generated_weight: float = 0.0
    generate: GenerateConfig = dataclasses.field(
        # A batch needs few studies, all of one block.
        default_factory=lambda: GenerateConfig(block=24)
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The complete configuration of a training run.

    Attributes:
      init: the checkpoint folder to start from (fine-tuning); empty for random weights. Shape and
        tokenizer are those of the checkpoint. Only extensions are possible: experts, if the token
        format allows them, and learned rows of bins in addition to computed ones
        (`model.number_embedding`, `model.number_output`). With `data.generated_weight`, batches of
        synthetic studies are mixed in, so that a model fine-tuned on few logs does not forget other
        problems.
    """

    init: str = ""
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    tokenizer: TokenizerOptions = dataclasses.field(default_factory=TokenizerOptions)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    batch: BatchConfig = dataclasses.field(default_factory=BatchConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.model.experts and not self.init and not can_ask_experts(self.tokenizer):
            raise ConfigError(
                "model.experts needs tokenizer.centred=true and tokenizer.separators=false: in "
                "the released format, tokens do not determine distances between values. Set "
                "model.experts=false."
            )


def can_ask_experts(options: TokenizerOptions) -> bool:
    """Whether tokens of this format determine the location of a trial in the unit cube."""
    return options.centred and not options.separators


def load_config(path: Path | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """The configuration in a TOML file, with overrides like `train.steps=100`.

    `model = "tiny"` selects a named shape (`optformer.model.config.MODELS`).

    Raises:
      ConfigError: the file is not TOML, a key is unknown, or a value has the wrong type.
    """
    return read_config(RunConfig, path, overrides)


def run_config(
    folder: Path,
    path: Path | None = None,
    overrides: Iterable[str] = (),
    *,
    shards: Iterable[Path] = (),
    init: Path | None = None,
) -> RunConfig:
    """The run to do in `folder`: the one that is there, unless another is described.

    Paths in it are absolute, so that it can go on from anywhere.

    Args:
      path, overrides: as for `load_config`.
      shards: folders of study shards, beside those that the settings name.
      init: a checkpoint or run to start from, in place of the one that the settings name.

    Raises:
      ConfigError: a file that is no TOML, an unknown key, or a value of a wrong kind.
    """
    folders = [str(each) for each in shards]
    saved = folder / CONFIG
    if path is None and not folders and init is None and saved.is_file():
        path = saved
    tree = read_tree(RunConfig, path, overrides)
    run = from_tree(RunConfig, tree)
    start = run.init if init is None else str(init)
    optimizer, said = run.optimizer, tree.get("optimizer", {})
    if start and not (isinstance(said, dict) and "learning_rate" in said):
        optimizer = dataclasses.replace(optimizer, learning_rate=FINE_TUNING_RATE)
    return dataclasses.replace(
        run,
        optimizer=optimizer,
        init=start and str(_model_of(checkpoint.find(start)).resolve()),
        data=dataclasses.replace(
            run.data,
            shards=tuple(str(Path(each).resolve()) for each in (*run.data.shards, *folders)),
        ),
    )


def _model_of(folder: Path) -> Path:
    """The checkpoint in a run's folder; any other folder itself."""
    inside = folder / "checkpoint"
    return inside if (folder / CONFIG).is_file() and inside.is_dir() else folder


def save_config(config: RunConfig, path: Path) -> None:
    """Writes the resolved run as TOML; `load_config` gives an equal one back."""
    path.write_text(to_toml(config), "utf-8")
