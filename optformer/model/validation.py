"""How a model does on studies that it never trains on, while it trains."""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array

from optformer.config import RunConfig
from optformer.data import augment
from optformer.data.batches import Batch, pack
from optformer.model import loss, predictive, sharding, transformer
from optformer.model.config import LossConfig, ModelConfig
from optformer.model.transformer import Ids, Weights
from optformer.study import Study
from optformer.tokenization.tokenizer import StudyTokenizer
from optformer.tokenization.trajectory import Role

MOST_BATCHES = 16

Evaluate = Callable[[Weights, Sequence[Batch]], dict[str, float]]


def validation_batches(
    studies: Sequence[Study], tokenizer: StudyTokenizer, config: RunConfig
) -> list[Batch]:
    """The held studies as batches, unchanged; each layout has its turn before any has two."""
    groups: dict[int, list] = {}
    for study in studies:
        example = augment.plain(study, tokenizer, config.batch.tokens)
        if len(example[0].ids_S) <= config.batch.text_tokens:
            groups.setdefault(example[0].layout.length, []).append(example)
    # A row takes at least one study, so that none of a batch's is left out.
    rows = config.batch.rows
    rounds = itertools.zip_longest(
        *(
            [examples[first : first + rows] for first in range(0, len(examples), rows)]
            for examples in groups.values()
        )
    )
    parts = [part for one_round in rounds for part in one_round if part is not None]
    return [
        pack(part, tokenizer, config.batch, ask_experts=config.model.experts)
        for part in parts[:MOST_BATCHES]
    ]


@functools.lru_cache(maxsize=8)
def make_evaluate(
    model: ModelConfig, loss_config: LossConfig, ids: Ids, *, mesh: Mesh, half: bool = False
) -> Evaluate:
    """(weights, batches) -> what was found.

    `parameter` and `value` are mean nats a token of these roles, `loss` is their mean as training
    weighs them. For metrics that are bins, `log_density` is the mean log predictive density, for
    which uniform predictions score 0, and `quantile_error` how far predicted quantiles are from
    where they should be (`predictive.quantile_error`).
    """

    @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, sharding.spec()))
    def measure(weights: Weights, batch: Batch) -> tuple[dict[str, Array], Array, Array]:
        weights = transformer.half(weights) if half else weights
        outputs = loss.compute(weights, model, ids, batch)
        _, metrics = loss.of_outputs(outputs, ids, batch, loss_config)
        return metrics, *loss.bin_measures(outputs, batch, ids)

    def evaluate(weights: Weights, batches: Sequence[Batch]) -> dict[str, float]:
        sums: dict[str, float] = {}
        densities, pits = [], []
        for batch in batches:
            placed = sharding.place_batch(batch, mesh)
            metrics, density_BT, pit_BT = jax.device_get(measure(weights, placed))
            for name, number in metrics.items():
                sums[name] = sums.get(name, 0.0) + float(number)
            bin_BT = batch.targets_BT - ids.text
            counts_BT = (batch.roles_BT == Role.VALUE) & (batch.weights_BT > 0)
            counts_BT &= (bin_BT >= 0) & (bin_BT < ids.bins)
            # Empty rows may have been added for the devices.
            densities.append(density_BT[: len(counts_BT)][counts_BT])
            pits.append(pit_BT[: len(counts_BT)][counts_BT])
        found = {
            name: sums[f"{name}_nats"] / max(sums[f"{name}_tokens"], 1.0)
            for name in ("parameter", "value")
        }
        weight = loss_config.value_weight
        found["loss"] = (found["parameter"] + weight * found["value"]) / (1 + weight)
        if any(map(len, pits)):
            found["log_density"] = float(np.concatenate(densities).mean())
            found["quantile_error"] = predictive.quantile_error(np.concatenate(pits))
        return found

    return evaluate
