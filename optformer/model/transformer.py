"""T5 1.1 encoder-decoder as functions of a tree of weights.

RMSNorm before each block, gated GELU, no biases, no scaling of attention logits, a relative
position bias shared by the layers of a stack, untied output [Raffel et al., arXiv 1910.10683;
T5 1.1]. `ModelConfig` describes the additions. `decode` is the only implementation of the decoder's
body: training, the prefill of a history and the sampling of candidates pass different functions for
attention.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, PRNGKeyArray

from optformer.errors import CheckpointError
from optformer.model import experts
from optformer.model.config import ModelConfig
from optformer.tokenization.vocabulary import Vocabulary

AnyArray = Array | np.ndarray

Weights = dict
"""Nested dicts and lists of float32 arrays."""

AttendSelf = Callable[[int, Array, Array, Array], Array]
"""Self-attention: (layer, query, key, value) to the output, arrays [..., T, H, K]."""

SumTrials = Callable[[Array], Array]
"""From vectors of tokens to the sum, at each position, over the tokens of its trial so far."""

AttendCross = Callable[[int, Array], Array]
"""Cross-attention: the same with key and value of the text."""

NEGATIVE = -1e9
"""Added to masked attention logits; finite, so that a row with all logits masked is not NaN."""


TABLES = ("text", "numbers", "encoder_slots", "input_slots", "target_slots", "slot_gates")
"""Weights whose rows are gathered by token or slot."""

QUERY_BLOCK = 128

OWN_EXPERT = -2.0
"""The initial logit of the transformer's own prediction relative to all experts together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ids:
    """The division of token ids, which `Vocabulary` defines, for the model's arrays.

    Attributes:
      text, bins: the numbers of ids of text, and of bins, which follow.
      statuses: the number of ids after the bins: statuses and padding.
      text_output: whether the decoder also outputs text.
    """

    text: int
    bins: int
    statuses: int
    text_output: bool = False

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> "Ids":
        """The division of the vocabulary's ids."""
        return cls(
            text=vocabulary.first_bin,
            bins=vocabulary.bins,
            statuses=vocabulary.size - vocabulary.first_bin - vocabulary.bins,
            text_output=vocabulary.text_output,
        )

    @property
    def first_output(self) -> int:
        """The first id that the decoder can output."""
        return 0 if self.text_output else self.text

    @property
    def first_bin(self) -> int:
        """The index of bin 0 among the outputs."""
        return self.text - self.first_output

    @property
    def outputs(self) -> int:
        """The number of ids that the decoder can output."""
        return self.first_bin + self.bins + self.statuses


def init(config: ModelConfig, ids: Ids, key: PRNGKeyArray) -> Weights:
    """Random weights with T5's scales: unit-variance embeddings, fan-in elsewhere."""
    keys = iter(jax.random.split(key, 16 * (config.encoder_layers + config.decoder_layers) + 32))
    width, inner = config.width, config.heads * config.head_size

    def normal(*shape: int, std: float) -> Float32[Array, "..."]:
        return std * jax.random.normal(next(keys), shape, jnp.float32)

    def norm() -> Float32[Array, " D"]:
        return jnp.ones(width, jnp.float32)

    def attention() -> Weights:
        heads = (width, config.heads, config.head_size)
        return {
            # T5 folds the usual 1/sqrt(K) into the query's scale.
            "query": normal(*heads, std=(width * config.head_size) ** -0.5),
            "key": normal(*heads, std=width**-0.5),
            "value": normal(*heads, std=width**-0.5),
            "out": normal(config.heads, config.head_size, width, std=inner**-0.5),
        }

    def feed_forward() -> Weights:
        return {
            "gate": normal(width, config.feed_forward, std=width**-0.5),
            "up": normal(width, config.feed_forward, std=width**-0.5),
            "down": normal(config.feed_forward, width, std=config.feed_forward**-0.5),
        }

    def encoder_layer() -> Weights:
        return {"self_norm": norm(), "self": attention(), "ff_norm": norm(), "ff": feed_forward()}

    def decoder_layer() -> Weights:
        return encoder_layer() | {"cross_norm": norm(), "cross": attention()}

    def numbers(kind: str, std: float, text: int = 0) -> Weights:
        rows = {"statuses": normal(ids.statuses, width, std=std)}
        if text:
            rows["text"] = normal(text, width, std=std)
        if kind == "both":
            rows["bins"] = jnp.zeros((ids.bins, width), jnp.float32)
        if kind == "row":
            return rows | {"bins": normal(ids.bins, width, std=std)}
        features = value_features(ids.bins).shape[1]
        return rows | {
            "hidden": normal(features, 2 * width, std=features**-0.5),
            "out": normal(2 * width, width, std=1.5 * std * (2 * width) ** -0.5),
        }

    def stack(layers: list[Weights]) -> Weights:
        position = normal(config.buckets, config.heads, std=width**-0.5)
        return {"position": position, "layers": layers, "norm": norm()}

    weights: Weights = {
        "text": normal(ids.text, width, std=1.0),
        "numbers": numbers(config.number_embedding, 1.0),
        "encoder": stack([encoder_layer() for _ in range(config.encoder_layers)]),
        "decoder": stack([decoder_layer() for _ in range(config.decoder_layers)]),
        "token_head": numbers(config.number_output, width**-0.5, ids.first_bin),
    }
    if config.value_head:
        # Near values are similarly likely, and values are not copied.
        kind = "value" if config.number_output == "both" else config.number_output
        weights["value_head"] = numbers(kind, width**-0.5, ids.first_bin)
    if config.slots:
        for name in ("encoder_slots", "input_slots", "target_slots"):
            weights[name] = normal(config.slots, width, std=1.0)
    if config.trial_sum:
        weights["slot_gates"] = normal(config.slots, width, std=1.0)
    if config.experts:
        # One logit for the transformer's own prediction, then one for each expert.
        own_G = jnp.zeros(1 + experts.EXPERTS, jnp.float32).at[0].set(OWN_EXPERT)
        weights["experts"] = {
            "hidden": jnp.zeros((width, 1 + experts.EXPERTS), jnp.float32),
            "offset": own_G,
            "evidence": jnp.ones(1, jnp.float32),
        }
    return weights


def check_weights(weights: Weights, config: ModelConfig, ids: Ids) -> None:
    """Checks the names and shapes of the weights.

    Raises:
      CheckpointError: names the first array that is missing, unexpected, or of another shape.
    """
    want = _shapes(jax.eval_shape(lambda: init(config, ids, jax.random.key(0))))
    got = _shapes(weights)
    for name in sorted(want.keys() | got.keys()):
        if want.get(name) != got.get(name):
            raise CheckpointError(
                f"the weights do not fit the model's configuration: {name} has shape "
                f"{got.get(name, 'nothing')}, but {want.get(name, 'nothing')} is expected. "
                "Restore the checkpoint from where it came from."
            )


def _shapes(weights: Weights) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(weights)
    return {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in leaves}


def value_features(bins: int) -> Float32[np.ndarray, "Q F"]:
    """Each bin's value as waves, whose periods range from 2 down to a few bins.

    A wave's amplitude falls with its frequency, so that vectors of near values are initially near.
    With equal amplitudes, values that are a few bins apart would look unrelated.
    """
    values_Q = (np.arange(bins) + 0.5) / bins
    waves_F = np.pi * np.geomspace(1.0, bins / 4, num=16)
    angles_QF = values_Q[:, None] * waves_F
    scales_F = np.pi / waves_F
    scales_F *= np.sqrt(len(scales_F) / np.sum(scales_F**2))
    columns = [
        2 * values_Q[:, None] - 1,
        scales_F * np.cos(angles_QF),
        scales_F * np.sin(angles_QF),
    ]
    return np.concatenate(columns, axis=1).astype(np.float32)


def number_rows(weights: Weights, ids: Ids) -> Float[Array, "O D"]:
    """The row of each bin and status, in an embedding or an output layer.

    An output layer with text has rows for text before them.
    """
    rows_QD = weights.get("bins", 0.0)
    if "hidden" in weights:
        # In half precision, neighbouring values would be equal.
        hidden, out = (weights[name].astype(jnp.float32) for name in ("hidden", "out"))
        computed_QD = jax.nn.gelu(value_features(ids.bins) @ hidden) @ out
        rows_QD += computed_QD.astype(weights["out"].dtype)
    text = [weights["text"]] if "text" in weights else []
    return jnp.concatenate([*text, rows_QD, weights["statuses"]])


def embed(weights: Weights, ids: Ids, tokens: Int[AnyArray, "*T"]) -> Float[Array, "*T D"]:
    """The vector of each token id."""
    rows_VD = jnp.concatenate([weights["text"], number_rows(weights["numbers"], ids)])
    return rows_VD[tokens].astype(precision(weights))


def encode(
    weights: Weights,
    config: ModelConfig,
    ids: Ids,
    tokens_BS: Int[AnyArray, "B S"],
    slots_BS: Int[AnyArray, "B S"],
    segments_BS: Int[AnyArray, "B S"],
    dropout: PRNGKeyArray | None = None,
    *,
    rematerialize: bool = False,
) -> Float[Array, "B S D"]:
    """The encoder's output for the text. Segment 0 is padding; segments are independent."""
    x_BSD = embed(weights, ids, tokens_BS)
    if config.slots:
        x_BSD += weights["encoder_slots"][slots_BS].astype(x_BSD.dtype)
    places_S = jnp.arange(tokens_BS.shape[1])
    bias_HSS = position_bias(
        weights["encoder"]["position"], config, places_S[:, None], places_S, both_ways=True
    )
    mask_B1SS = segment_mask(segments_BS, segments_BS)
    drop = Dropout(config.dropout, dropout)
    x_BSD = drop(x_BSD)

    def block(layer: Weights, x_BSD: Array, dropout: PRNGKeyArray | None) -> Array:
        drop = Dropout(config.dropout, dropout)
        query, key, value = project(layer["self"], rms_norm(x_BSD, layer["self_norm"]))
        read = attend(query, key, value, bias_HSS + mask_B1SS)
        x_BSD += drop(merge(layer["self"], read))
        return x_BSD + drop(feed_forward(layer["ff"], rms_norm(x_BSD, layer["ff_norm"]), drop))

    if rematerialize:
        block = jax.checkpoint(block)
    for layer in weights["encoder"]["layers"]:
        x_BSD = block(layer, x_BSD, drop.split())
    return drop(rms_norm(x_BSD, weights["encoder"]["norm"]))


def decoder_inputs(
    weights: Weights,
    config: ModelConfig,
    ids: Ids,
    tokens: Int[AnyArray, "*T"],
    input_slots: Int[AnyArray, "*T"],
    target_slots: Int[AnyArray, "*T"],
    sum_trials: SumTrials,
) -> Float[Array, "*T D"]:
    """The decoder's input at each position: the previous token, and the slots of both tokens.

    With `config.trial_sum`, also the result of `sum_trials`: the sum over the tokens of the same
    trial so far.
    """
    embedded = embed(weights, ids, tokens)
    x = embedded
    if config.slots:
        slots = weights["input_slots"][input_slots] + weights["target_slots"][target_slots]
        x += slots.astype(x.dtype)
    if config.trial_sum:
        x += sum_trials(embedded * weights["slot_gates"][input_slots].astype(x.dtype))
    return x


def sum_within_trials(
    x: Float[Array, "B T D"],
    trials: Int[AnyArray, "*rows T"],
    segments_BT: Int[AnyArray, "B T"] | None = None,
) -> Float[Array, "B T D"]:
    """The sum, at each position, over the positions of the same trial and segment up to it."""
    places_T = jnp.arange(x.shape[1])
    same_BTT = (places_T[:, None] >= places_T) & _equal(trials)
    if segments_BT is not None:
        same_BTT &= _equal(segments_BT)
    return same_BTT.astype(x.dtype) @ x


def _equal(numbers: Int[AnyArray, "*rows T"]) -> Bool[AnyArray, "*rows T T"]:
    return numbers[..., :, None] == numbers[..., None, :]


def decode(
    weights: Weights,
    x: Float[Array, "*B T D"],
    attend_self: AttendSelf,
    attend_cross: AttendCross,
    drop: "Dropout | None" = None,
    *,
    rematerialize: bool = False,
) -> Float[Array, "*B T D"]:
    """The decoder's body: the hidden state at each position, for an output layer.

    With `rematerialize`, the gradient recomputes each layer instead of storing its activations.
    """
    drop = drop or Dropout(0.0, None)
    rate = drop.rate
    x = drop(x)

    def block(index: int, layer: Weights, x: Array, dropout: PRNGKeyArray | None) -> Array:
        drop = Dropout(rate, dropout)
        query, key, value = project(layer["self"], rms_norm(x, layer["self_norm"]))
        x += drop(merge(layer["self"], attend_self(index, query, key, value)))
        hidden = rms_norm(x, layer["cross_norm"])
        query = jnp.einsum("...D,DHK->...HK", hidden, layer["cross"]["query"])
        x += drop(merge(layer["cross"], attend_cross(index, query)))
        return x + drop(feed_forward(layer["ff"], rms_norm(x, layer["ff_norm"]), drop))

    if rematerialize:
        block = jax.checkpoint(block, static_argnums=0)
    for index, layer in enumerate(weights["decoder"]["layers"]):
        x = block(index, layer, x, drop.split())
    return drop(rms_norm(x, weights["decoder"]["norm"]))


def text_keys(
    weights: Weights, encoded_BSD: Float[Array, "B S D"]
) -> list[tuple[Float[Array, "B S H K"], Float[Array, "B S H K"]]]:
    """Key and value of the text for the cross-attention of each decoder layer."""
    return [
        (
            jnp.einsum("BSD,DHK->BSHK", encoded_BSD, layer["cross"]["key"]),
            jnp.einsum("BSD,DHK->BSHK", encoded_BSD, layer["cross"]["value"]),
        )
        for layer in weights["decoder"]["layers"]
    ]


def token_logits(weights: Weights, ids: Ids, hidden: Float[Array, "*T D"]) -> Float[Array, "*T O"]:
    """Logits of the next token at parameters."""
    return _logits(hidden, number_rows(weights["token_head"], ids))


def value_logits(weights: Weights, ids: Ids, hidden: Float[Array, "*T D"]) -> Float[Array, "*T O"]:
    """Logits of the next token at metrics."""
    return _logits(hidden, number_rows(weights.get("value_head", weights["token_head"]), ids))


def _logits(hidden: Float[Array, "*T D"], rows_OD: Float[Array, "O D"]) -> Float32[Array, "*T O"]:
    return jnp.matmul(hidden, rows_OD.T, preferred_element_type=jnp.float32)


def forward(
    weights: Weights,
    config: ModelConfig,
    ids: Ids,
    *,
    text_BS: Int[AnyArray, "B S"],
    text_slots_BS: Int[AnyArray, "B S"],
    text_segments_BS: Int[AnyArray, "B S"],
    inputs_BT: Int[AnyArray, "B T"],
    input_slots_BT: Int[AnyArray, "B T"],
    target_slots_BT: Int[AnyArray, "B T"],
    segments_BT: Int[AnyArray, "B T"],
    trials_T: Int[AnyArray, " T"],
    dropout: PRNGKeyArray | None = None,
    rematerialize: bool = False,
) -> Float[Array, "B T D"]:
    """The hidden states that predict each target, for whole trajectories.

    All rows of a batch share `trials_T`, the index of each position's trial in the row. Only
    distances within a segment matter, so packed trajectories can share them if their trials have
    the same length.
    """
    encoder_key, decoder_key = (None, None) if dropout is None else jax.random.split(dropout)
    encoded_BSD = encode(
        weights,
        config,
        ids,
        text_BS,
        text_slots_BS,
        text_segments_BS,
        encoder_key,
        rematerialize=rematerialize,
    )
    keys = text_keys(weights, encoded_BSD)
    places_T = trials_T if config.position == "trial" else jnp.arange(inputs_BT.shape[1])
    bias_HTT = position_bias(
        weights["decoder"]["position"], config, places_T[:, None], places_T, both_ways=False
    )
    cross_bias_B1TS = segment_mask(segments_BT, text_segments_BS)
    x_BTD = decoder_inputs(
        weights,
        config,
        ids,
        inputs_BT,
        input_slots_BT,
        target_slots_BT,
        lambda gated_BTD: sum_within_trials(gated_BTD, trials_T, segments_BT),
    )
    return decode(
        weights,
        x_BTD,
        lambda _, query, key, value: attend_causally(query, key, value, bias_HTT, segments_BT),
        lambda index, query: attend(query, *keys[index], cross_bias_B1TS),
        Dropout(config.dropout, decoder_key),
        rematerialize=rematerialize,
    )


def half(weights: Weights) -> Weights:
    """The weights in bfloat16; a model computes in the precision of its weights.

    Means of norms, the softmax of attention, and logits remain in single precision. So do tables
    whose rows are gathered: in the gradient, many positions add to one row, which accelerators do
    at once in single precision and one after the other in half.
    """

    def narrow(path: tuple, leaf: Array) -> Array:
        is_table = path[0].key in TABLES or path[-1] == jax.tree_util.DictKey("position")
        return leaf if is_table else leaf.astype(jnp.bfloat16)

    return jax.tree_util.tree_map_with_path(narrow, weights)


def precision(weights: Weights) -> jnp.dtype:
    """The data type in which a model of these weights computes (`half`)."""
    return weights["decoder"]["norm"].dtype


def rms_norm(x: Float[Array, "*T D"], scale_D: Float[Array, " D"]) -> Float[Array, "*T D"]:
    """T5's layer norm: no mean, no offset, epsilon 1e-6."""
    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + 1e-6)
    return normed.astype(x.dtype) * scale_D


def feed_forward(
    weights: Weights, x: Float[Array, "*T D"], drop: "Dropout"
) -> Float[Array, "*T D"]:
    """T5 1.1's gated GELU (the tanh form)."""
    hidden = jax.nn.gelu(x @ weights["gate"], approximate=True) * (x @ weights["up"])
    return drop(hidden) @ weights["down"]


def project(weights: Weights, x: Float[Array, "*T D"]) -> tuple[Array, Array, Array]:
    """Query, key and value at each position, [..., T, H, K]."""
    query, key, value = (
        jnp.einsum("...D,DHK->...HK", x, weights[name]) for name in ("query", "key", "value")
    )
    return query, key, value


def merge(weights: Weights, read: Float[Array, "*T H K"]) -> Float[Array, "*T D"]:
    """The output of the heads, as an addition to the residual stream."""
    return jnp.einsum("...HK,HKD->...D", read, weights["out"])


def attend(
    query_BTHK: Float[Array, "B T H K"],
    key_BSHK: Float[Array, "B S H K"],
    value_BSHK: Float[Array, "B S H K"],
    bias: Float[Array, "..."],
) -> Float[Array, "B T H K"]:
    """Softmax attention with a bias that broadcasts to [B, H, T, S]; no scaling, as in T5."""
    logits_BHTS = bias + jnp.einsum(
        "BTHK,BSHK->BHTS", query_BTHK, key_BSHK, preferred_element_type=jnp.float32
    )
    shares_BHTS = jax.nn.softmax(logits_BHTS, axis=-1).astype(value_BSHK.dtype)
    return jnp.einsum("BHTS,BSHK->BTHK", shares_BHTS, value_BSHK)


def attend_causally(
    query_BTHK: Float[Array, "B T H K"],
    key_BTHK: Float[Array, "B T H K"],
    value_BTHK: Float[Array, "B T H K"],
    bias_HTT: Float[Array, "H T T"],
    segments_BT: Int[AnyArray, "B T"],
) -> Float[Array, "B T H K"]:
    """Causal self-attention within segments.

    Queries are processed in blocks, each with only the keys up to its end, so most of the logits
    that causality masks are not computed.
    """
    tokens = query_BTHK.shape[1]
    out = []
    for start in range(0, tokens, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, tokens)
        here, before = slice(start, stop), slice(0, stop)
        causal_TT = jnp.arange(start, stop)[:, None] >= jnp.arange(stop)
        bias = (
            bias_HTT[:, here, before]
            + jnp.where(causal_TT, 0.0, NEGATIVE)
            + segment_mask(segments_BT[:, here], segments_BT[:, before])
        )
        out.append(attend(query_BTHK[:, here], key_BTHK[:, before], value_BTHK[:, before], bias))
    return jnp.concatenate(out, axis=1)


def position_bias(
    weights: Float[Array, "buckets H"],
    config: ModelConfig,
    query_places: Int[AnyArray, "*T"],
    key_places: Int[AnyArray, "*S"],
    *,
    both_ways: bool,
) -> Float[Array, "H *TS"]:  # noqa: F821
    """T5's relative position bias; the two arrays of positions broadcast against each other."""
    distance = query_places - key_places
    buckets = config.buckets
    if both_ways:
        buckets //= 2
        offset = jnp.where(distance < 0, buckets, 0)
        distance = jnp.abs(distance)
    else:
        offset = jnp.zeros_like(distance)
        distance = jnp.maximum(distance, 0)
    exact = buckets // 2
    far = exact + (
        jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact)
        / np.log(config.max_distance / exact)
        * (buckets - exact)
    ).astype(jnp.int32)
    bucket = offset + jnp.where(distance < exact, distance, jnp.minimum(far, buckets - 1))
    return jnp.moveaxis(weights[bucket], -1, 0)


def segment_mask(
    segments_BT: Int[AnyArray, "B T"], segments_BS: Int[AnyArray, "B S"]
) -> Float32[Array, "B 1 T S"]:
    """0 if both positions belong to the same study, otherwise very negative."""
    same_BTS = segments_BT[:, :, None] == segments_BS[:, None, :]
    return jnp.where(same_BTS, 0.0, NEGATIVE).astype(jnp.float32)[:, None]


class Dropout:
    """Dropout with a new mask at each call; without a key it does nothing."""

    def __init__(self, rate: float, key: PRNGKeyArray | None) -> None:
        self.rate = rate
        self._key = key

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        key = self.split()
        if key is None:
            return x
        keep = jax.random.bernoulli(key, 1.0 - self.rate, x.shape)
        return jnp.where(keep, x / (1.0 - self.rate), 0.0)

    def split(self) -> PRNGKeyArray | None:
        """A new key; None without dropout."""
        if self._key is None or self.rate == 0.0:
            return None
        self._key, key = jax.random.split(self._key)
        return key
