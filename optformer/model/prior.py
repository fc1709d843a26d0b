"""The prior network: from a problem's text, what is known of its configurations before any trial.

A transformer without positions reads the text once: one vector for each parameter and one for the
study. From a parameter's vector it writes that parameter's own first layer, a matrix that takes
what is known of a value (`description.value_features`) to a vector. A configuration is the sum of
these over its parameters, so their order means nothing; a few layers, gated by the study's
vector, make of it a mean m(x) and features f(x). They are the prior of a Gaussian process

    s(x) ~ GP(m(x), f(x) . f(x') + scale Matern(x, x') + noise)

of the study's score: 0 is the median random configuration, 1 the best. The relevance of each
parameter for the Matern part, its scale and the noise are read from the text, too. How it is
used with trials: `model/prior_experts.py`; how it is trained: `training/prior.py`.

Every function takes `xp`, which is `jax.numpy` in training and `numpy` for suggestions, where
nothing is compiled.

Array dimensions: P parameters, N configurations, D text width, H hidden width, I inner width,
F features of a value, K features of a configuration, C categories; `*B` studies, in training.
"""

import dataclasses
import types

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Float64

from optformer.errors import CheckpointError
from optformer.model import description
from optformer.model.description import BUCKETS, MOST_CATEGORIES, NUMBERS, STRUCTURE, Description
from optformer.space import to_natural, to_units
from optformer.study import Problem

AnyArray = np.ndarray | Array

Weights = dict
"""Nested dicts and lists of float32 arrays."""

LEVEL = 0.3
"""Prior variance of a study's level in training, where scores are normalized."""

LEAST_PROMISE = 1 / 3
"""A network knows nothing of a problem unless it expects the best of some random configurations to
be so much better than the median, in units of score. Names that mean nothing stay below."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """The shape of a prior network.

    Attributes:
      width, layers, heads: of the transformer that reads the text.
      inner: width of the sum over parameters.
      hidden, blocks: of the layers after it.
      category: width of the vector of a category.
      features: how many features make the covariance.
    """

    width: int = 96
    layers: int = 2
    heads: int = 4
    inner: int = 64
    hidden: int = 128
    blocks: int = 3
    category: int = 16
    features: int = 12

    @property
    def inputs(self) -> int:
        """How many numbers describe a value."""
        return NUMBERS + self.category


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """What the network has read from a text.

    Attributes:
      first_PFI: each parameter's first layer.
      categories_PCV: vectors of categories.
      start_H: where the hidden layers start.
      gates_LH: of the hidden layers.
      gain_K: of the features.
      log_length_P: the Matern part's length scales, times the root of the number of parameters.
      log_scale, log_noise: of the Matern part and of the noise.
    """

    first_PFI: AnyArray
    categories_PCV: AnyArray
    start_H: AnyArray
    gates_LH: AnyArray
    gain_K: AnyArray
    log_length_P: AnyArray
    log_scale: AnyArray
    log_noise: AnyArray
    ordered_P: AnyArray
    real_P: AnyArray


def init(config: PriorConfig, rng: np.random.Generator) -> Weights:
    """Untrained weights."""

    def matrix(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        drawn = rng.standard_normal((rows, columns)) * scale / np.sqrt(rows)
        return drawn.astype(np.float32)

    width, hidden = config.width, config.hidden
    return {
        "embedding": 0.1 * rng.standard_normal((BUCKETS, width)).astype(np.float32),
        "name": matrix(width, width),
        "categories": matrix(width, width, 0.5),
        "structure": matrix(STRUCTURE, width),
        "title": matrix(width, width),
        "metric": matrix(width, width),
        "goal": matrix(1, width),
        "study": np.zeros(width, np.float32),
        "layers": [
            {
                "query": matrix(width, width),
                "key": matrix(width, width),
                "value": matrix(width, width),
                "output": matrix(width, width, 0.5),
                "norm": np.ones(width, np.float32),
                "up": matrix(width, 2 * width),
                "down": matrix(2 * width, width, 0.5),
                "feed_norm": np.ones(width, np.float32),
            }
            for _ in range(config.layers)
        ],
        "first": matrix(width, config.inputs * config.inner, 0.6),
        "first_offset": 0.2 * rng.standard_normal((config.inputs, config.inner)).astype(np.float32),
        "category": matrix(width, config.category),
        "start": matrix(width, hidden, 0.5),
        "lift": matrix(config.inner, hidden),
        "blocks": [
            {
                "gate": matrix(width, hidden, 0.3),
                "norm": np.ones(hidden, np.float32),
                "up": matrix(hidden, hidden),
                "down": matrix(hidden, hidden, 0.5),
            }
            for _ in range(config.blocks)
        ],
        "mean": matrix(hidden, 1, 0.3),
        "mean_offset": np.zeros(1, np.float32),
        "features": matrix(hidden, config.features, 0.3),
        "gain": np.zeros((width, config.features), np.float32),
        "length": np.zeros((width, 1), np.float32),
        "process": np.zeros((width, 2), np.float32),
        "process_offset": np.array([-2.0, -3.0], np.float32),
    }


def check_weights(weights: Weights, config: PriorConfig) -> None:
    """Refuses weights that are not those of such a network.

    Raises:
      CheckpointError: names what is missing or has another shape.
    """
    wanted, _ = jax.tree.flatten_with_path(init(config, np.random.default_rng(0)))
    found = dict(jax.tree.flatten_with_path(weights)[0])
    for path, array in wanted:
        shape = np.shape(found.pop(path, None)) if path in found else None
        if shape != array.shape:
            name = jax.tree_util.keystr(path)
            raise CheckpointError(
                f"the prior network's weights {name} have shape {shape}, not {array.shape}. They "
                "are damaged or of another version: copy the checkpoint again."
            )
    if found:
        name = jax.tree_util.keystr(next(iter(found)))
        raise CheckpointError(f"the prior network has no place for weights {name}.")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prior:
    """What the network says of one problem's configurations, in NumPy."""

    problem: Problem
    weights: Weights
    reading: Reading

    @classmethod
    def of(
        cls, problem: Problem, weights: Weights, config: PriorConfig, *, hidden: bool = False
    ) -> "Prior":
        """Of this problem; without a word of its text if it is `hidden`."""
        text = description.describe(problem, hidden=hidden)
        return cls(problem=problem, weights=weights, reading=read(np, weights, config, text))

    @property
    def knows(self) -> bool:
        """Whether the text says anything of which configurations are better."""
        parameters = self.problem.parameters
        units_NP = np.random.default_rng(0).random((256, len(parameters)))
        values_NP = to_natural(parameters, units_NP)
        values_NP = np.where(self.problem.active(values_NP), values_NP, np.nan)
        mean_N, _ = self.mean_and_features(values_NP)
        return bool(mean_N.max() - np.median(mean_N) >= LEAST_PROMISE)

    def places(
        self, values_NP: Float64[np.ndarray, "N P"]
    ) -> tuple[Float64[np.ndarray, "N P"], Float64[np.ndarray, "N P"], Bool[np.ndarray, "N P"]]:
        """Rows of `Study.values_RP` as unit coordinates, finite values, and what is inactive."""
        inactive_NP = ~np.isfinite(values_NP)
        units_NP = np.where(inactive_NP, 0.5, to_units(self.problem.parameters, values_NP))
        return units_NP, np.where(inactive_NP, 0.0, values_NP), inactive_NP

    def mean_and_features(
        self, values_NP: Float64[np.ndarray, "N P"]
    ) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N K"]]:
        """The mean and the features of rows of `Study.values_RP`."""
        units_NP, finite_NP, inactive_NP = self.places(values_NP)
        mean_N, features_NK = mean_and_features(
            np,
            self.weights,
            self.reading,
            units_NP.astype(np.float32),
            finite_NP.astype(np.float32),
            inactive_NP,
        )
        return np.asarray(mean_N), np.asarray(features_NK)


def read(xp: types.ModuleType, weights: Weights, config: PriorConfig, text: Description) -> Reading:
    """The text, read once for all configurations of its problem."""
    category = _bag(xp, weights, text.categories_PCW)
    given = xp.where((text.categories_PCW > 0).any(-1), 1.0, 0.0)[..., None]
    mean_category = (category * given).sum(-2) / xp.maximum(given.sum(-2), 1.0)
    parameters = (
        _bag(xp, weights, text.names_PW) @ weights["name"]
        + mean_category @ weights["categories"]
        + text.structure_PX @ weights["structure"]
    )
    study = (
        _bag(xp, weights, text.title_W) @ weights["title"]
        + _bag(xp, weights, text.metric_W) @ weights["metric"]
        + text.goal_1 @ weights["goal"]
        + weights["study"]
    )
    states = xp.concatenate([study[..., None, :], parameters], axis=-2)
    real = xp.concatenate([xp.ones_like(text.real_P[..., :1]), text.real_P], axis=-1)
    bias = xp.where(real, 0.0, -1e9)[..., None, None, :]
    for layer in weights["layers"]:
        normed = _normed(xp, states) * layer["norm"]
        query, key, value = (
            _heads(xp, normed @ layer[name], config.heads) for name in ("query", "key", "value")
        )
        logits = query @ xp.swapaxes(key, -1, -2) * query.shape[-1] ** -0.5 + bias
        chances = xp.exp(logits - logits.max(-1, keepdims=True))
        chances = chances / chances.sum(-1, keepdims=True)
        attended = xp.swapaxes(chances @ value, -2, -3).reshape(states.shape)
        states = states + attended @ layer["output"]
        normed = _normed(xp, states) * layer["feed_norm"]
        states = states + _gelu(xp, normed @ layer["up"]) @ layer["down"]
    states = _normed(xp, states)
    study, parameters = states[..., 0, :], states[..., 1:, :]
    shape = (*parameters.shape[:-1], config.inputs, config.inner)
    first = (parameters @ weights["first"]).reshape(shape) + weights["first_offset"]
    count = xp.maximum(text.real_P.sum(-1) * 1.0, 1.0)[..., None, None, None]
    process = study @ weights["process"] + weights["process_offset"]
    return Reading(
        first_PFI=first * text.real_P[..., None, None] / xp.sqrt(count),
        categories_PCV=category @ weights["category"],
        start_H=study @ weights["start"],
        gates_LH=xp.stack([1.0 + study @ block["gate"] for block in weights["blocks"]], axis=-2),
        gain_K=xp.exp(study @ weights["gain"]),
        log_length_P=(parameters @ weights["length"])[..., 0],
        log_scale=process[..., 0],
        log_noise=process[..., 1],
        ordered_P=text.ordered_P,
        real_P=text.real_P,
    )


def mean_and_features(
    xp: types.ModuleType,
    weights: Weights,
    reading: Reading,
    units: Float[AnyArray, "*B N P"],
    values: Float[AnyArray, "*B N P"],
    inactive: Bool[AnyArray, "*B N P"],
) -> tuple[Float[AnyArray, "*B N"], Float[AnyArray, "*B N K"]]:
    """The mean and the features of configurations.

    Args:
      units: in [0, 1] under each parameter's scale; anything finite where inactive.
      values: the values themselves, of a category its index; anything finite where inactive.
    """
    ordered = reading.ordered_P[..., None, :]
    numbers = description.value_features(xp, units, values, ordered, inactive)
    chosen = xp.where(ordered | inactive, -1.0, values)[..., None] == np.arange(MOST_CATEGORIES)
    categories = xp.einsum("...npc,...pcv->...npv", chosen * 1.0, reading.categories_PCV)
    inputs = xp.concatenate([numbers, categories], axis=-1)
    first = reading.first_PFI
    *batch, parameters, width, inner = first.shape
    flat = inputs.reshape(*inputs.shape[:-2], parameters * width)
    summed = flat @ first.reshape(*batch, parameters * width, inner)
    hidden = summed @ weights["lift"] + reading.start_H[..., None, :]
    for index, block in enumerate(weights["blocks"]):
        gated = _normed(xp, hidden) * block["norm"] * reading.gates_LH[..., index, None, :]
        hidden = hidden + _gelu(xp, gated @ block["up"]) @ block["down"]
    hidden = _normed(xp, hidden)
    mean = (hidden @ weights["mean"])[..., 0] + weights["mean_offset"][0]
    return mean, (hidden @ weights["features"]) * reading.gain_K[..., None, :]


def matern(
    xp: types.ModuleType,
    square: Float[AnyArray, "*B N R P"],
    log_length: Float[AnyArray, "*B P"],
    real: Bool[AnyArray, "*B P"],
) -> Float[AnyArray, "*B N R"]:
    """The Matern-5/2 kernel of squared distances in each parameter (`experts.squares`)."""
    weight = xp.exp(-2.0 * log_length) * real / xp.maximum(real.sum(-1, keepdims=True) * 1.0, 1.0)
    root = xp.sqrt(5.0 * xp.einsum("...nrp,...p->...nr", square, weight) + 1e-9)
    return (1.0 + root + root * root / 3.0) * xp.exp(-root)


def squares(
    xp: types.ModuleType,
    units: Float[AnyArray, "*B N P"],
    others: Float[AnyArray, "*B R P"],
    inactive: Bool[AnyArray, "*B N P"],
    others_inactive: Bool[AnyArray, "*B R P"],
    ordered: Bool[AnyArray, "*B P"],
) -> Float[AnyArray, "*B N R P"]:
    """Squared distances in each parameter, as those of the experts without a prior.

    Categories are 1 apart. What a trial does not have lies beside the middle of the parameter's
    range, 1 away from it.
    """
    units = xp.where(inactive & ordered[..., None, :], 0.5, xp.where(inactive, -1.0, units))
    others = xp.where(
        others_inactive & ordered[..., None, :], 0.5, xp.where(others_inactive, -1.0, others)
    )
    apart = units[..., :, None, :] - others[..., None, :, :]
    alone = inactive[..., :, None, :] != others_inactive[..., None, :, :]
    differ = xp.where(xp.abs(apart) > 1e-6, 1.0, 0.0)
    return xp.where(ordered[..., None, None, :], apart * apart + alone * 1.0, differ)


def _bag(xp: types.ModuleType, weights: Weights, words: AnyArray) -> AnyArray:
    """The sum of the words' embeddings over the root of their number."""
    real = (words > 0) * np.float32(1.0)
    summed = (weights["embedding"][words] * real[..., None]).sum(-2)
    return summed / xp.sqrt(xp.maximum(real.sum(-1, keepdims=True), 1.0))


def _heads(xp: types.ModuleType, states: AnyArray, heads: int) -> AnyArray:
    *batch, width = states.shape
    return xp.swapaxes(states.reshape(*batch, heads, width // heads), -2, -3)


def _normed(xp: types.ModuleType, x: AnyArray) -> AnyArray:
    return x / xp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def _gelu(xp: types.ModuleType, x: AnyArray) -> AnyArray:
    return 0.5 * x * (1.0 + xp.tanh(0.7978845608 * (x + 0.044715 * x * x * x)))
