"""One step of training: gradients of batches, and what they do to the weights."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jax.sharding import Mesh
from jaxtyping import Array, Float

from optformer.model import transformer
from optformer.model.config import ModelConfig
from optformer.model.saved import Checkpoint, flatten, unflatten
from optformer.model.transformer import Ids, Weights
from optformer.training import loss, sharding
from optformer.training.batches import Batch
from optformer.training.config import LossConfig, OptimizerConfig, RunConfig

State = dict
"""weights, average (of the weights), optimizer, step, best (validation loss), seconds."""

Measured = dict[str, Array]

Step = Callable[[State, Sequence[Batch], float, float], tuple[State, Measured]]
"""(state, batches, learning rate, soft bins) -> (state, measured). The old state is used up."""


def start(config: RunConfig, ids: Ids, init: Checkpoint | None = None) -> State:
    """The state before the first step."""
    weights = transformer.init(config.model, ids, jax.random.key(config.train.seed))
    if init is not None:
        transformer.check_weights(init.weights, init.config, ids)
        # A model may get experts and rows that it did not have.
        arrays = flatten(weights) | flatten(init.weights)
        weights = jax.tree.map(jnp.asarray, unflatten(arrays))
    return {
        "weights": weights,
        # A copy: the step reuses the memory of both.
        "average": jax.tree.map(jnp.copy, weights) if config.optimizer.ema else {},
        "optimizer": make_optimizer(config.optimizer).init(weights),
        "step": jnp.int32(0),
        "best": jnp.float32(np.inf),
        "seconds": jnp.float32(0.0),
    }


def make_optimizer(settings: OptimizerConfig) -> optax.GradientTransformation:
    """The update direction; the step scales it by the learning rate."""
    if settings.name == "adafactor":
        direction = optax.adafactor(learning_rate=1.0, multiply_by_parameter_scale=True)
        return optax.chain(optax.clip_by_global_norm(settings.clip), direction, optax.scale(-1.0))
    if settings.name == "muon":
        direction = optax.contrib.muon(
            learning_rate=1.0,
            weight_decay=settings.weight_decay,
            adam_b2=0.98,
            adam_learning_rate=0.5,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=_muon_dimensions,
        )
        return optax.chain(optax.clip_by_global_norm(settings.clip), direction, optax.scale(-1.0))
    return optax.chain(
        optax.clip_by_global_norm(settings.clip),
        optax.scale_by_adam(b1=0.9, b2=0.98),
        optax.add_decayed_weights(settings.weight_decay, mask=_is_matrix),
    )


def learning_rate(settings: OptimizerConfig, step: int, done: float) -> float:
    """Warm-up, then level, then down to a hundredth."""
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    left = (1.0 - done) / settings.cooldown if settings.cooldown else 1.0
    return settings.learning_rate * warm * max(0.01, min(1.0, left))


def in_half(compute: str) -> bool:
    """Whether `train.compute` means bfloat16 on this machine."""
    return compute == "bfloat16" or (compute == "auto" and jax.default_backend() != "cpu")


def step_of(config: RunConfig, ids: Ids, mesh: Mesh) -> Step:
    """The compiled step of a run (`make_step`)."""
    return make_step(
        config.model,
        config.loss,
        config.optimizer,
        ids,
        seed=config.train.seed,
        mesh=mesh,
        accumulate=config.train.accumulate,
        half=in_half(config.train.compute),
        rematerialize=config.train.rematerialize,
    )


@functools.lru_cache(maxsize=8)
def make_step(
    model: ModelConfig,
    loss_config: LossConfig,
    settings: OptimizerConfig,
    ids: Ids,
    *,
    seed: int,
    mesh: Mesh,
    accumulate: int = 1,
    half: bool = False,
    rematerialize: bool = False,
) -> Step:
    """The compiled step. Runs of one shape in one process share it, and what is compiled.

    Args:
      seed: of dropout.
      accumulate: how many batches a step takes. Their tokens count as if they were one batch.
      half: compute in bfloat16.
    """
    optimizer = make_optimizer(settings)

    def gradient(
        weights: Weights, step: Array, index: int | Array, batch: Batch, soft_bins: Array
    ) -> tuple[Weights, Measured]:
        dropout = jax.random.fold_in(jax.random.key(seed + 1), step)
        dropout = jax.random.fold_in(dropout, index)

        def objective(weights: Weights) -> tuple[Float[Array, ""], Measured]:
            return loss.loss_and_metrics(
                transformer.half(weights) if half else weights,
                model,
                ids,
                batch,
                loss_config,
                soft_bins,
                dropout,
                rematerialize=rematerialize,
            )

        (mean, metrics), gradient = jax.value_and_grad(objective, has_aux=True)(weights)
        return gradient, metrics | {"loss": mean}

    def change(state: State, gradient: Weights, rate: Array) -> State:
        updates, moments = optimizer.update(gradient, state["optimizer"], state["weights"])
        weights = jax.tree.map(lambda w, u: w - rate * u, state["weights"], updates)
        average = state["average"]
        if settings.ema:
            # Short at first, so that the start is soon forgotten.
            decay = jnp.minimum(settings.ema, (1 + state["step"]) / (10 + state["step"]))
            average = jax.tree.map(lambda a, w: decay * a + (1 - decay) * w, average, weights)
        new = state | {
            "weights": weights,
            "average": average,
            "optimizer": moments,
            "step": state["step"] + 1,
        }
        places = sharding.layout(new, mesh)
        return jax.lax.with_sharding_constraint(new, places)  # type: ignore[no-untyped-call]

    @functools.partial(jax.jit, donate_argnums=0)
    def whole(state: State, batch: Batch, rate: Array, soft_bins: Array) -> tuple[State, Measured]:
        found, measured = gradient(state["weights"], state["step"], 0, batch, soft_bins)
        return change(state, found, rate), measured

    # Sums over a step's batches, each compiled for its own shape.
    @jax.jit
    def first(state: State, batch: Batch, soft_bins: Array) -> tuple[Weights, Measured]:
        found, measured = gradient(state["weights"], state["step"], 0, batch, soft_bins)
        return _weighed(found, measured)

    @functools.partial(jax.jit, donate_argnums=0)
    def another(
        sums: tuple[Weights, Measured], state: State, index: Array, batch: Batch, soft_bins: Array
    ) -> tuple[Weights, Measured]:
        found, measured = gradient(state["weights"], state["step"], index, batch, soft_bins)
        return jax.tree.map(jnp.add, sums, _weighed(found, measured))

    @functools.partial(jax.jit, donate_argnums=0)
    def last(state: State, sums: tuple[Weights, Measured], rate: Array) -> tuple[State, Measured]:
        found, measured = sums
        found = jax.tree.map(lambda total: total / measured["weight"], found)
        mean = measured["loss"] / measured["weight"]
        return change(state, found, rate), measured | {"loss": mean}

    def step(
        state: State, batches: Sequence[Batch], rate: float, soft_bins: float
    ) -> tuple[State, Measured]:
        placed = [sharding.place_batch(batch, mesh) for batch in batches]
        if accumulate == 1:
            return whole(state, placed[0], rate, soft_bins)
        sums = first(state, placed[0], soft_bins)
        for index, batch in enumerate(placed[1:], start=1):
            sums = another(sums, state, index, batch, soft_bins)
        return last(state, sums, rate)

    return step


def _weighed(gradient: Weights, measured: Measured) -> tuple[Weights, Measured]:
    """Means as sums over the tokens that count."""
    weight = measured["weight"]
    found = jax.tree.map(lambda mean: mean * weight, gradient)
    return found, measured | {"loss": measured["loss"] * weight}


def _muon_dimensions(weights: Weights) -> Weights:
    """Which axes of a layer's array are its input and its output; None for Adam's share."""

    def dimensions(path: tuple, leaf: Array) -> optax.contrib.MuonDimensionNumbers | None:
        name = jax.tree_util.keystr(path)
        if "layers" not in name or leaf.ndim < 2:
            return None
        if leaf.ndim == 3 and "out" in name:  # [H, K, D]
            return optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1), output_axis=2)
        outputs = tuple(range(1, leaf.ndim))  # [D, H, K], [D, F] or [F, D]
        return optax.contrib.MuonDimensionNumbers(reduction_axis=0, output_axis=outputs)

    return jax.tree_util.tree_map_with_path(dimensions, weights)


def _is_matrix(weights: Weights) -> Weights:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, weights)
