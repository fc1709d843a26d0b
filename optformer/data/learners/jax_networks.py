"""Small networks in JAX, trained by Adam or SGD: all configurations of a study at the same time.

Widths, depths, batch sizes and rules differ between configurations, and shapes must not: narrower
layers are masked, missing layers passed through, and rows beyond a batch's size weigh nothing.

Array dimensions: N training rows, T test rows, C columns, K classes, H configurations, D width,
L layers, B rows of a batch, E points of a learning curve.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from optformer.data.data_tables.table import Split
from optformer.data.learners.learner import Keywords, Prediction

MOST_WIDTH = 32
MOST_LAYERS = 3
MOST_BATCH = 64
STEPS = 256
POINTS = 8  # of the learning curve
_ROWS = 64  # rows are padded to a multiple, so that all parts of a table are one compilation

OPTIMIZERS = ("adam", "sgd", "nesterov")
SCHEDULES = ("constant", "cosine", "linear", "exponential")
ACTIVATIONS = ("relu", "tanh", "gelu")

# What a configuration says where its search space does not.
DEFAULTS: dict[str, float | str] = {
    "optimizer": "adam",
    "learning_rate": 1e-2,
    "momentum": 0.9,
    "beta2": 0.999,
    "weight_decay": 0.0,
    "dropout": 0.0,
    "batch_size": 32,
    "hidden_units": 32,
    "num_layers": 2,
    "activation": "relu",
    "schedule": "constant",
    "warmup": 0.0,
    "label_smoothing": 0.0,
    "clip_norm": 1e6,
}
_NAMES = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "activation": ACTIVATIONS}


def fit_many(keywords: Sequence[Keywords], split: Split, seed: int) -> list[Prediction]:
    """One prediction for each configuration, with its learning curve over the updates.

    A configuration that diverges predicts NaN.
    """
    settings = {
        name: np.array(
            [_number(name, each.get(name, default)) for each in keywords], dtype=np.float32
        )
        for name, default in DEFAULTS.items()
    }
    rows = len(split.train_NC)
    train_NC = _padded(split.train_NC)
    target_NK = np.zeros((len(train_NC), max(split.classes, 1)), dtype=np.float32)
    if split.classes:
        target_NK[np.arange(rows), split.target_N.astype(np.int64)] = 1.0
    else:
        target_NK[:rows, 0] = split.target_N
    outputs_HETK = np.asarray(
        _train_all(
            settings,
            train_NC,
            target_NK,
            _padded(split.test_TC),
            rows,
            seed,
            classes=split.classes,
        ),
        dtype=np.float64,
    )[:, :, : len(split.test_TC)]
    steps = np.linspace(0, STEPS, POINTS + 1)[1:]
    return [
        Prediction(
            outputs_TK=outputs_ETK[-1],
            curve=tuple(
                (float(step), each_TK)
                for step, each_TK in zip(steps, outputs_ETK, strict=True)
                if np.isfinite(each_TK).all()
            ),
        )
        for outputs_ETK in outputs_HETK
    ]


def _padded(inputs_NC: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "M C"]:
    """With rows of zeros at the end."""
    missing = -len(inputs_NC) % _ROWS
    return np.pad(inputs_NC, ((0, missing), (0, 0))).astype(np.float32)


def _number(name: str, value: object) -> float:
    return float(_NAMES[name].index(str(value))) if name in _NAMES else float(str(value))


@functools.partial(jax.jit, static_argnames="classes")
def _train_all(
    settings: dict[str, Float[Array, " H"]],
    train_NC: Float[Array, "N C"],
    target_NK: Float[Array, "N K"],
    test_TC: Float[Array, "T C"],
    rows: Int[Array, ""],
    seed: Int[Array, ""],
    *,
    classes: int,
) -> Float[Array, "H E T K"]:
    key = jax.random.key(seed)
    train = functools.partial(_train, key, train_NC, target_NK, test_TC, rows, classes)
    return jax.vmap(train)(settings)


def _train(
    key: Array,
    train_NC: Float[Array, "N C"],
    target_NK: Float[Array, "N K"],
    test_TC: Float[Array, "T C"],
    rows: Int[Array, ""],
    classes: int,
    setting: dict[str, Float[Array, ""]],
) -> Float[Array, "E T K"]:
    """Trains one configuration; its outputs for the test rows at each point of the curve."""
    weights = _initial(jax.random.fold_in(key, 1), train_NC.shape[1], target_NK.shape[1])
    zeros = jax.tree.map(jnp.zeros_like, weights)

    def loss(weights: dict[str, Array], step_key: Array) -> Array:
        index_B = jax.random.randint(jax.random.fold_in(step_key, 0), (MOST_BATCH,), 0, rows)
        outputs_BK = _network(weights, setting, train_NC[index_B], jax.random.fold_in(step_key, 1))
        wanted_BK = target_NK[index_B]
        if classes:
            smooth = setting["label_smoothing"]
            wanted_BK = (1 - smooth) * wanted_BK + smooth / classes
            loss_B = -(wanted_BK * jax.nn.log_softmax(outputs_BK)).sum(axis=1)
        else:
            loss_B = jnp.square(outputs_BK - wanted_BK).sum(axis=1)
        counts_B = jnp.arange(MOST_BATCH) < setting["batch_size"]
        return jnp.where(counts_B, loss_B, 0.0).sum() / counts_B.sum()

    def update(state: tuple, step: Array) -> tuple[tuple, None]:
        weights, first, second = state
        gradient = jax.grad(loss)(weights, jax.random.fold_in(key, step + 2))
        weights, first, second = _step(setting, weights, gradient, first, second, step)
        return (weights, first, second), None

    def point(state: tuple, start: Array) -> tuple[tuple, Array]:
        state, _ = jax.lax.scan(update, state, start + jnp.arange(STEPS // POINTS))
        outputs_TK = _network(state[0], setting, test_TC, None)
        return state, jax.nn.softmax(outputs_TK) if classes else outputs_TK

    starts = jnp.arange(POINTS) * (STEPS // POINTS)
    _, outputs_ETK = jax.lax.scan(point, (weights, zeros, zeros), starts)
    return outputs_ETK


def _initial(key: Array, columns: int, outputs: int) -> dict[str, Array]:
    keys = jax.random.split(key, 3)
    hidden = (MOST_LAYERS - 1, MOST_WIDTH, MOST_WIDTH)
    return {
        "in": jax.random.normal(keys[0], (columns, MOST_WIDTH)) / np.sqrt(columns),
        "in_bias": jnp.zeros(MOST_WIDTH),
        "hidden": jax.random.normal(keys[1], hidden) / np.sqrt(MOST_WIDTH),
        "hidden_bias": jnp.zeros(hidden[:2]),
        "out": jax.random.normal(keys[2], (MOST_WIDTH, outputs)) / np.sqrt(MOST_WIDTH),
        "out_bias": jnp.zeros(outputs),
    }


def _network(
    weights: dict[str, Array],
    setting: dict[str, Array],
    inputs_BC: Float[Array, "B C"],
    key: Array | None,
) -> Float[Array, "B K"]:
    """The network's outputs, with dropout where there is a key."""
    is_there_D = jnp.arange(MOST_WIDTH) < setting["hidden_units"]
    # Narrower layers keep the scale that their width calls for.
    gain = jnp.sqrt(MOST_WIDTH / setting["hidden_units"])

    def activated(values_BD: Array, layer: int) -> Array:
        kinds = [jax.nn.relu(values_BD), jnp.tanh(values_BD), jax.nn.gelu(values_BD)]
        index = setting["activation"].astype(int)
        values_BD = jnp.where(is_there_D, jnp.stack(kinds)[index], 0.0)
        if key is None:
            return values_BD
        keep = 1.0 - setting["dropout"]
        kept_BD = jax.random.uniform(jax.random.fold_in(key, layer), values_BD.shape) < keep
        return jnp.where(kept_BD, values_BD / keep, 0.0)

    hidden_BD = activated(inputs_BC @ weights["in"] + weights["in_bias"], 0)
    for layer in range(MOST_LAYERS - 1):
        next_BD = gain * hidden_BD @ weights["hidden"][layer] + weights["hidden_bias"][layer]
        is_there = layer + 1 < setting["num_layers"]
        hidden_BD = jnp.where(is_there, activated(next_BD, layer + 1), hidden_BD)
    return gain * hidden_BD @ weights["out"] + weights["out_bias"]


def _step(
    setting: dict[str, Array],
    weights: dict[str, Array],
    gradient: dict[str, Array],
    first: dict[str, Array],
    second: dict[str, Array],
    step: Array,
) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
    """One update by the configuration's rule, with decoupled weight decay."""
    norm = jnp.sqrt(sum(jnp.square(each).sum() for each in jax.tree.leaves(gradient)))
    shrink = jnp.minimum(1.0, setting["clip_norm"] / jnp.maximum(norm, 1e-12))
    gradient = jax.tree.map(lambda g: g * shrink, gradient)
    share = (step + 1) / STEPS
    factors = [
        jnp.ones(()),
        0.5 * (1 + jnp.cos(jnp.pi * share)),
        1 - share,
        jnp.exp(-4.0 * share),
    ]
    rate = setting["learning_rate"] * jnp.stack(factors)[setting["schedule"].astype(int)]
    rate *= jnp.minimum(1.0, share / jnp.maximum(setting["warmup"], 1.0 / STEPS))
    momentum, beta2 = setting["momentum"], setting["beta2"]
    kind = setting["optimizer"]
    is_adam = kind == OPTIMIZERS.index("adam")
    fresh = jnp.where(is_adam, 1 - momentum, 1.0)
    first = jax.tree.map(lambda m, g: momentum * m + fresh * g, first, gradient)
    second = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, second, gradient)
    count = step + 1

    def move(weight: Array, g: Array, m: Array, v: Array) -> Array:
        adam = (m / (1 - momentum**count)) / (jnp.sqrt(v / (1 - beta2**count)) + 1e-8)
        nesterov = jnp.where(kind == OPTIMIZERS.index("nesterov"), g + momentum * m, m)
        direction = jnp.where(is_adam, adam, nesterov)
        return weight - rate * (direction + setting["weight_decay"] * weight)

    return jax.tree.map(move, weights, gradient, first, second), first, second
