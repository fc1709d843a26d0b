"""Fits the temperature at which a finished checkpoint's predictions are calibrated.

Training also does this at its validations (`training/validation.py`).

Array dimensions: N predictions, Q bins.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from optformer.errors import ConfigError
from optformer.model import checkpoint, predictive
from optformer.model.config import Temperature
from optformer.model.transformer import Ids
from optformer.study import Study
from optformer.training import sharding
from optformer.training.batches import BatchConfig
from optformer.training.config import RunConfig, TrainConfig
from optformer.training.train import sort_out
from optformer.training.validation import (
    BinPredictions,
    make_evaluate,
    temperature_of,
    validation_batches,
)

FEWEST = 100
"""Predictions that a temperature needs. Of fewer, it would be chance."""

TEXT_TOKENS = 1024
"""Studies with longer texts are left out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quality:
    """Scores of predictions at a temperature (`model/predictive.py`).

    Attributes:
      log_density: mean, per unit of the scaled value; uniform predictions score 0.
      ece: expected calibration error of the likeliest of 100 intervals.
    """

    temperature: Temperature
    log_density: float
    quantile_error: float
    ece: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A checkpoint's predictions before and after.

    Attributes:
      predictions: how many were looked at.
      skipped: reason -> studies that the model cannot read.
    """

    predictions: int
    before: Quality
    after: Quality
    skipped: Mapping[str, int]


def calibrate(folder: Path, studies: Sequence[Study]) -> Calibrated:
    """Looks at predictions of studies, and changes the checkpoint's temperature to the best.

    Args:
      studies: ones that the model was not trained on.

    Raises:
      ConfigError: there are too few values to predict in the studies.
      CheckpointError: the checkpoint cannot be loaded, or has no place for a temperature.
    """
    checkpoint.check_may_change(folder)
    saved = checkpoint.load(folder)
    config = RunConfig(
        model=saved.config,
        tokenizer=saved.tokenizer.options,
        batch=BatchConfig(tokens=saved.tokens, text_tokens=TEXT_TOKENS),
        train=TrainConfig(devices=1),
    )
    usable, skipped = sort_out(studies, saved.tokenizer, config)
    held = validation_batches(usable, saved.tokenizer, config)
    known = sum(batch.targets.known for batch in held)
    if known < FEWEST:
        why = "; ".join(f"{reason} ({count} studies)" for reason, count in skipped.items())
        raise ConfigError(
            f"there are {known} values to predict in these studies, but a temperature needs "
            f"{FEWEST}. Name more studies." + (f" Left out: {why}." if why else "")
        )
    evaluate = make_evaluate(
        saved.config,
        config.loss,
        Ids.of(saved.tokenizer.vocabulary),
        mesh=sharding.make_mesh(config.train, saved.config),
    )
    measures, predictions = evaluate(saved.weights, held)
    calibrated = Calibrated(
        predictions=len(predictions.bin_N),
        before=quality(predictions, saved.value_temperature),
        after=quality(predictions, temperature_of(measures, saved.value_temperature)),
        skipped=skipped,
    )
    checkpoint.set_value_temperature(folder, calibrated.after.temperature)
    return calibrated


def quality(predictions: BinPredictions, temperature: Temperature) -> Quality:
    """The scores of these predictions at a temperature."""
    probabilities_NQ = predictive.tempered(
        predictions.logits_NQ, temperature.after(predictions.trials_N)
    )
    truth_N = (predictions.bin_N + 0.5) / probabilities_NQ.shape[1]
    return Quality(
        temperature=temperature,
        log_density=float(predictive.log_density(probabilities_NQ, truth_N).mean()),
        quantile_error=predictive.quantile_error(predictive.pit(probabilities_NQ, truth_N)),
        ece=predictive.expected_calibration_error(probabilities_NQ, truth_N),
    )
