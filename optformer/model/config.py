"""The shape of a model, named shapes, and the temperature of its predictions."""

import dataclasses
import math
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float64, Int64

from optformer.errors import ConfigError
from optformer.settings import check_ranges
from optformer.tokenization.trajectory import METRIC_SLOTS

Numbers = Literal["row", "value", "both"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a T5 1.1 encoder-decoder, with options that T5 does not have.

    Attributes:
      number_embedding: the embedding of a bin. `row` is one learned row for each bin, as in T5;
        `value` is computed from the bin's value, so that near values are similar from the start;
        `both` is the sum of the two, which can also distinguish a bin from its neighbours.
      number_output: the same for the output layer. The separate output layer of metrics
        (`value_head`) treats `both` as `value`.
      position: the unit of distance of the decoder's relative position bias: `token`, as in T5, or
        `trial`.
      slots: the number of slots (of metrics and parameters) with embeddings; 0 disables slots, as
        in T5. Studies with more parameters than fit are rejected.
      trial_sum: whether the input at each position includes the sum of the trial's tokens so far,
        each multiplied by a learned vector of its slot. The first layer can then compare whole
        trials: the softmax of attention turns a sum over parameters into a product of one kernel
        for each parameter. Needs slots.
      value_head: whether metrics have a separate output layer.
      experts: whether the prediction of the first metric is mixed with predictions of Gaussian
        processes with fixed length scales (`model/mixture.py`).
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
        check_ranges(
            self,
            "model.",
            width=(1, 1 << 14),
            heads=(1, 256),
            head_size=(1, 1 << 10),
            feed_forward=(1, 1 << 16),
            encoder_layers=(1, 128),
            decoder_layers=(1, 128),
            buckets=(4, 1 << 10),
            max_distance=(1, 1 << 20),
            slots=(0, 1 << 12),
        )
        if self.buckets % 4:
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
    """The temperature of predicted metrics: start · (1 + trials)^power, for measured trials.

    Temperatures above 1 make predictions wider, temperatures below 1 narrower.

    Raises:
      ConfigError: `start` is not above 0, or `power` is not finite.
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
        """The temperature after each of these numbers of trials."""
        return np.asarray(self.start * (1.0 + np.asarray(trials)) ** self.power)

    def __str__(self) -> str:
        power = f"{self.power:.3f}"
        flat = float(power) == 0
        return f"{self.start:.3f}" + ("" if flat else f" (1 + trials)^{power}")


def most_parameters(config: ModelConfig) -> int:
    """The largest number of parameters of a search space; without slots there is no limit."""
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
