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
"""A tenth of the default: what was learned before should not be lost in the first steps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is minimized.

    Attributes:
      value_weight: weight of metric tokens; parameter tokens weigh 1.
      exact: where a generator knows a metric's distribution given the trials before it, learn that
        instead of the one value that was drawn from it. It has less noise, and unlike the drawn
        value it does not know the range that metrics are scaled by.
      z_loss: weight of the squared log-normalizer, as in T5X.
    """

    value_weight: float = 1.0
    exact: bool = True
    z_loss: float = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How weights change.

    Attributes:
      name: `adamw`, T5X's `adafactor`, or `muon`: orthogonalized momentum for the matrices of
        layers, with updates of Adam's size, and Adam at half the rate for the rest
        [Jordan et al., 2024].
      learning_rate: the highest; warmed up over `warmup` steps, held, and brought down linearly
        over the last `cooldown` of the run. A run that starts from a checkpoint and says nothing
        else has `FINE_TUNING_RATE` (`run_config`).
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
    """How long to learn, and what is noted on the way.

    Attributes:
      steps: changes of the weights in all.
      seconds: stop after about so long, with the learning rate on its way down by then; 0 means
        no limit. A run under a limit depends on the machine's speed.
      soft_bins: standard deviation, in bins, of a continuous target at the start; it shrinks in
        proportion to the rest of the run, down to `soft_bins_end`.
      evaluate_every, checkpoint_every: in steps.
      checkpoint_seconds: evaluate and save at least so often, too; 0 goes by steps alone.
      validation: share of the studies that are never trained on.
      accumulate: how many batches' gradients make one step.
      compute: the precision of the arithmetic; weights and their changes are in single precision
        always. `auto` is bfloat16 on an accelerator and float32 on a CPU.
      workers: how many processes make the batches; 0 makes them in a thread of the trainer.
      rematerialize: compute each layer again for its gradient rather than keep it in memory.
      devices: how many to use; 0 means all.
      tensor_parallel: how many devices share one copy of the model, by heads and feed-forward
        size. Each group of so many has its own rows of a batch.
      distributed: whether several processes train together, each started with this command. They
        find each other by the cluster's variables (Slurm, Open MPI, Kubernetes, TPU), or by
        JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. All see the run's folder.
      tensorboard: whether to write TensorBoard's events too.
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
    """Where training studies come from.

    Attributes:
      shards: folders of study shards.
      shards_weight: the share of batches from them, if there are any.
      generated_weight: the share of batches from studies that are made while training.
      generate: what those are.
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
    """All that a training run depends on besides its studies.

    Attributes:
      init: the folder of a checkpoint to start from (fine-tuning), whose shape and tokenizer are
        then kept, but that it may get what adds to it: experts where its format allows them, and
        learned rows of bins where a bin's vector is only computed (`model.number_embedding` and
        `model.number_output`); empty to start from nothing. With `data.generated_weight`, batches
        of generated studies are mixed in, so that a model of few logs does not forget what it knew
        of others.
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
                "the released format, tokens do not say how far values are apart. Set "
                "model.experts=false."
            )


def can_ask_experts(options: TokenizerOptions) -> bool:
    """Whether tokens of this format say where a trial is in the unit cube."""
    return options.centred and not options.separators


def load_config(path: Path | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """The run that a TOML file describes, changed by overrides like `train.steps=100`.

    `model = "tiny"` stands for a named shape (`optformer.model.config.MODELS`).

    Raises:
      ConfigError: a file that is no TOML, an unknown key, or a value of a wrong kind.
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
