"""How a model does on studies that it never trains on, while it trains, and how sure it should be.

Array dimensions: see `optformer.model`; N targets, E experts, G = 1 + E predictions.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float32, Int64

from optformer.model import experts, mixture, predictive, transformer
from optformer.model.config import ModelConfig, Temperature
from optformer.model.experts import read_trials
from optformer.model.transformer import Ids, Weights
from optformer.study import Study
from optformer.tokenization.tokenizer import EncodedProblem, EncodedTrials, StudyTokenizer
from optformer.tokenization.trajectory import Role
from optformer.training import augment, loss, sharding
from optformer.training.batches import Batch, pack
from optformer.training.config import LossConfig, RunConfig

MOST_BATCHES = 16

TARGETS = 128
"""The number of metrics of a batch whose whole predicted distributions are evaluated."""


class Targets(NamedTuple):
    """Positions in a batch whose targets are bins of a first metric, from all of its studies.

    Attributes:
      row_N, place_N: the positions; N is `TARGETS`, of which the first `known` are used.
      column_N: the same positions as columns of `Batch.value_places_BR`.
      trials_N: the number of earlier measured trials of the study.
      mean_NE, scale_NE, freedom_N: the experts' predictions there (`experts.foretell`).
    """

    known: int
    row_N: Int64[np.ndarray, " N"]
    place_N: Int64[np.ndarray, " N"]
    column_N: Int64[np.ndarray, " N"]
    trials_N: Int64[np.ndarray, " N"]
    mean_NE: Float32[np.ndarray, "N E"]
    scale_NE: Float32[np.ndarray, "N E"]
    freedom_N: Float32[np.ndarray, " N"]


class HeldOutBatch(NamedTuple):
    """A batch of held-out studies."""

    batch: Batch
    targets: Targets


class BinPredictions(NamedTuple):
    """Predicted distributions of some first metrics.

    Attributes:
      logits_NQ: logits of the bins.
      bin_N: the true bins.
      trials_N: the numbers of earlier measured trials of their studies.
    """

    logits_NQ: Float32[np.ndarray, "N Q"]
    bin_N: Int64[np.ndarray, " N"]
    trials_N: Int64[np.ndarray, " N"]


Evaluate = Callable[[Weights, Sequence[HeldOutBatch]], tuple[dict[str, float], BinPredictions]]


def validation_batches(
    studies: Sequence[Study], tokenizer: StudyTokenizer, config: RunConfig
) -> list[HeldOutBatch]:
    """The held-out studies as batches, alternating between layouts.

    A metric's range is mapped to all of [0, 1]. With room beyond the range, where no value of the
    whole study lies, an overconfident model would score better.
    """
    groups: dict[int, list] = {}
    for study in studies:
        example = augment.plain(study, tokenizer, config.batch.tokens, 0.0, 1.0)
        if len(example[0].ids_S) <= config.batch.text_tokens:
            groups.setdefault(example[0].layout.length, []).append(example)
    # A row has at least one study, so no study of a batch is left out.
    rows = config.batch.rows
    rounds = itertools.zip_longest(
        *(
            [examples[first : first + rows] for first in range(0, len(examples), rows)]
            for examples in groups.values()
        )
    )
    parts = [part for one_round in rounds for part in one_round if part is not None]
    held = []
    for part in parts[:MOST_BATCHES]:
        batch = pack(part, tokenizer, config.batch, ask_experts=config.model.experts)
        held.append(HeldOutBatch(batch, _targets(batch, part, tokenizer, config.model)))
    return held


def _targets(
    batch: Batch,
    examples: Sequence[tuple[EncodedProblem, EncodedTrials]],
    tokenizer: StudyTokenizer,
    model: ModelConfig,
) -> Targets:
    """Positions evenly spread over a batch, which was packed from these examples."""
    counts_BT = loss.first_metric_bins(batch, Ids.of(tokenizer.vocabulary)) & (batch.weights_BT > 0)
    row_N, place_N = np.nonzero(counts_BT)
    count = min(len(row_N), TARGETS)
    some_N = np.linspace(0, len(row_N) - 1, count).round().astype(np.int64)
    row_N, place_N = row_N[some_N], place_N[some_N]
    size = experts.EXPERTS if model.experts else 0
    mean_NE, scale_NE = np.zeros((TARGETS, size)), np.ones((TARGETS, size))
    freedom_N = np.ones(TARGETS)
    trials_N = np.zeros(TARGETS, np.int64)
    # Studies were put into rows in order.
    members = [
        (row, segment)
        for row, segments_T in enumerate(batch.segments_BT)
        for segment in range(1, segments_T.max() + 1)
    ]
    for (row, segment), (problem, trials) in zip(members, examples, strict=True):
        at_n = np.flatnonzero((row_N == row) & (batch.segments_BT[row_N, place_N] == segment))
        if not len(at_n):
            continue
        first = np.argmax(batch.segments_BT[row] == segment)
        trial_n = problem.layout.trial_of(place_N[at_n] - first)
        read = _, values_R, _ = read_trials(problem, trials.ids_T, tokenizer)
        trials_N[at_n] = np.cumsum(np.isfinite(values_R))[trial_n] - 1
        if not size:
            continue
        predicted = experts.foretell(*read)
        mean_NE[at_n], scale_NE[at_n], freedom_N[at_n] = (array[trial_n] for array in predicted)
    column_N = np.zeros(count, np.int64)
    if size:
        column_N = np.argmax(batch.value_places_BR[row_N] == place_N[:, None], axis=1)
    more = TARGETS - count
    return Targets(
        known=count,
        row_N=np.pad(row_N, (0, more)),
        place_N=np.pad(place_N, (0, more)),
        column_N=np.pad(column_N, (0, more)),
        trials_N=trials_N,
        mean_NE=mean_NE.astype(np.float32),
        scale_NE=scale_NE.astype(np.float32),
        freedom_N=freedom_N.astype(np.float32),
    )


@functools.lru_cache(maxsize=8)
def make_evaluate(
    model: ModelConfig, loss_config: LossConfig, ids: Ids, *, mesh: Mesh, half: bool = False
) -> Evaluate:
    """A function from weights and held-out batches to measures and predictions.

    The measures `parameter` and `value` are the mean nats per token of these roles, and `loss` is
    their mean with the weights of training. For metrics that are bins, `log_density` is the mean
    log predictive density (uniform predictions score 0), and `quantile_error` is
    `predictive.quantile_error`, both at temperature 1. `temperature_start` and `temperature_power`
    are the temperature at which first metrics are most likely (`temperature_of`).
    """
    everywhere = NamedSharding(mesh, sharding.spec())

    @functools.partial(jax.jit, out_shardings=everywhere)
    def measure(
        weights: Weights, batch: Batch, row_N: Array, place_N: Array, column_N: Array
    ) -> tuple[dict[str, Array], Array, Array, Array, Array]:
        weights = transformer.half(weights) if half else weights
        outputs = loss.compute(weights, model, ids, batch)
        _, metrics = loss.of_outputs(outputs, ids, batch, loss_config)
        logits_NO = outputs.logits_BTO[row_N, place_N]
        if model.experts:
            weights_NG = outputs.weights_BRG[row_N, column_N]
        else:
            weights_NG = jnp.zeros((len(row_N), 1))
        return metrics, *loss.bin_measures(outputs, batch, ids), logits_NO, weights_NG

    # Each target has different experts.
    mix = jax.jit(jax.vmap(functools.partial(mixture.mix, ids=ids)))

    def evaluate(
        weights: Weights, held: Sequence[HeldOutBatch]
    ) -> tuple[dict[str, float], BinPredictions]:
        sums: dict[str, float] = {}
        densities, pits, logits, bins, trials = [], [], [], [], []
        for batch, targets in held:
            row_N, place_N = targets.row_N, targets.place_N
            placed = sharding.place_batch(batch, mesh)
            metrics, density_BT, pit_BT, logits_NO, weights_NG = jax.device_get(
                measure(weights, placed, row_N, place_N, targets.column_N)
            )
            for name, number in metrics.items():
                sums[name] = sums.get(name, 0.0) + float(number)
            bin_BT = batch.targets_BT - ids.text
            counts_BT = (batch.roles_BT == Role.VALUE) & (batch.weights_BT > 0)
            counts_BT &= (bin_BT >= 0) & (bin_BT < ids.bins)
            # Rows of padding may have been added for the devices.
            densities.append(density_BT[: len(counts_BT)][counts_BT])
            pits.append(pit_BT[: len(counts_BT)][counts_BT])
            if model.experts:
                logits_NO = _with_experts(mix, logits_NO, weights_NG, targets)
            logits.append(logits_NO[: targets.known, ids.first_bin :][:, : ids.bins])
            bins.append(bin_BT[row_N, place_N][: targets.known])
            trials.append(targets.trials_N[: targets.known])
        measures = {
            name: sums[f"{name}_nats"] / max(sums[f"{name}_tokens"], 1.0)
            for name in ("parameter", "value")
        }
        weight = loss_config.value_weight
        measures["loss"] = (measures["parameter"] + weight * measures["value"]) / (1 + weight)
        if any(map(len, pits)):
            measures["log_density"] = float(np.concatenate(densities).mean())
            measures["quantile_error"] = predictive.quantile_error(np.concatenate(pits))
        predictions = BinPredictions(
            np.concatenate(logits), np.concatenate(bins).astype(np.int64), np.concatenate(trials)
        )
        if len(predictions.bin_N):
            best = predictive.fit_temperature(*predictions)
            measures |= {"temperature_start": best.start, "temperature_power": best.power}
        return measures, predictions

    return evaluate


def temperature_of(measures: Mapping[str, float], otherwise: Temperature) -> Temperature:
    """The temperature in the measures, or `otherwise` if there were no values to fit it to."""
    if "temperature_start" not in measures:
        return otherwise
    return Temperature(start=measures["temperature_start"], power=measures["temperature_power"])


def _with_experts(
    mix: Callable[..., Array],
    logits_NO: Float32[np.ndarray, "N O"],
    log_weights_NG: Float32[np.ndarray, "N G"],
    targets: Targets,
) -> Float32[np.ndarray, "N O"]:
    """The targets' logits, mixed with each one's most weighted experts, as in suggestions.

    Args:
      mix: `mixture.mix` of each target by itself.
    """
    order_NE = np.argsort(-log_weights_NG[:, 1:], axis=1, kind="stable")
    chosen_NM = order_NE[:, : mixture.MANY]
    mixed_N1O = mix(
        logits_NO[:, None],
        mixture.keep(log_weights_NG, chosen_NM)[:, None],
        np.take_along_axis(targets.mean_NE, chosen_NM, axis=1)[:, None],
        np.take_along_axis(targets.scale_NE, chosen_NM, axis=1)[:, None],
        chosen_NM // len(experts.KERNELS),
        targets.freedom_N,
    )
    return np.asarray(mixed_N1O)[:, 0]
