"""The shape of a model, the shapes that have names, what training minimizes, and how sure it is."""

import dataclasses
import math
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float64, Int64

from optformer.errors import ConfigError
from optformer.tokenization.trajectory import METRIC_SLOTS

Numbers = Literal["row", "value", "both"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of an encoder-decoder. T5 1.1's, with options that T5 does not have.

    Attributes:
      number_embedding: how a bin becomes a vector: `row` has one learned row a bin, as in T5;
        `value` computes it from the bin's value, so that near values look alike from the start;
        `both` adds the two, so that a bin can be told from its neighbours, too, and copied.
      number_output: the same for the output layer; one of metrics only (`value_head`) takes
        `both` as `value`.
      position: the distance that the decoder's relative position bias sees: in `token`s, as in
        T5, or in `trial`s.
      slots: how many slots (metrics and parameters) have embeddings; 0 switches them off, as in
        T5. A study with more parameters than fit is refused.
      trial_sum: whether each place also reads the sum of its trial's tokens so far, each times a
        learned vector of its slot. So the first layer compares whole trials: attention's softmax
        turns a sum over parameters into a product of one kernel a parameter. Needs slots.
      value_head: whether metrics have an output layer of their own.
      experts: whether the first metric's prediction is mixed with those of Gaussian processes of
        fixed scales (`model/mixture.py`).
    """

    NAMED: ClassVar[dict[str, "ModelConfig"]] = {}

    width: int = 128
    heads: int = 4
    head_size: int = 32
    feed_forward: int = 352
    encoder_layers: int = 2
    decoder_layers: int = 4
    buckets: int = 32
    max_distance: int = 128
    number_embedding: Numbers = "both"
    number_output: Numbers = "both"
    position: Literal["token", "trial"] = "trial"
    slots: int = 40
    trial_sum: bool = True
    value_head: bool = True
    experts: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for field in ("width", "heads", "head_size", "feed_forward", "encoder_layers"):
            if getattr(self, field) < 1:
                raise ConfigError(f"model.{field}={getattr(self, field)} must be at least 1.")
        if self.buckets < 4 or self.buckets % 4:
            raise ConfigError(f"model.buckets={self.buckets} must be a multiple of 4.")
        if self.max_distance <= self.buckets:
            raise ConfigError(
                f"model.max_distance={self.max_distance} must exceed model.buckets={self.buckets}."
            )
        if self.trial_sum and not self.slots:
            raise ConfigError(
                "model.trial_sum needs slots. Set model.slots, or model.trial_sum=false."
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"model.dropout={self.dropout} must lie in [0, 1).")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Temperature:
    """Of predicted metrics: start · (1 + trials)^power, where trials with a metric count.

    Above 1 predictions are less sure than the model gives them, below 1 surer.

    Raises:
      ConfigError: a start that is not above 0, or a power that is not finite.
    """

    start: float = 1.0
    power: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.start < math.inf and math.isfinite(self.power)):
            raise ConfigError(
                f"value temperature: start={self.start} must be above 0, and power={self.power} "
                "finite."
            )

    def after(self, trials: int | Int64[np.ndarray, " N"]) -> Float64[np.ndarray, "*N"]:
        """After each of these numbers of trials."""
        return np.asarray(self.start * (1.0 + np.asarray(trials)) ** self.power)

    def __str__(self) -> str:
        power = f"{self.power:.3f}"
        flat = float(power) == 0
        return f"{self.start:.3f}" + ("" if flat else f" (1 + trials)^{power}")


def most_parameters(config: ModelConfig) -> int:
    """How many parameters a search space may have; with slots off there is no limit."""
    return config.slots - METRIC_SLOTS - 1 if config.slots else 1 << 30


MICRO = ModelConfig(
    width=64, heads=2, head_size=32, feed_forward=176, encoder_layers=1, decoder_layers=3
)
TINY = ModelConfig(
    width=96, heads=2, head_size=48, feed_forward=256, encoder_layers=1, decoder_layers=5
)
SMALL = ModelConfig(
    width=256, heads=8, head_size=32, feed_forward=704, encoder_layers=2, decoder_layers=6
)
T5_BASE = ModelConfig(
    width=768,
    heads=12,
    head_size=64,
    feed_forward=2048,
    encoder_layers=12,
    decoder_layers=12,
    number_embedding="row",
    number_output="row",
    position="token",
    slots=0,
    trial_sum=False,
    value_head=False,
    experts=False,
)

MODELS = {"micro": MICRO, "tiny": TINY, "small": SMALL, "t5-base": T5_BASE}
"""Named shapes; `t5-base` is the released OptFormer's [OptFormer, appendix]."""

ModelConfig.NAMED.update(MODELS)
