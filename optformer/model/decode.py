"""The inference engine: a history is read once, candidates share it, and sizes come in classes.

The text goes through the encoder once. A history's keys and values are computed once, in
parallel, and later trials extend them. N candidates attend to that one history and each to its
own few tokens, so N costs little. Every size is rounded up to a power of two and to one that is not
much dearer than all below it, so nothing compiles again once its class is warm, and there are few
(`policies/warmup.py`).

Array dimensions: see `optformer.model`; C is the tokens that one call adds to a history.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32, Int64, Key

from optformer.model import transformer
from optformer.model.config import ModelConfig
from optformer.model.transformer import NEGATIVE, Ids, Weights
from optformer.tokenization.tokenizer import EncodedProblem, EncodedTrials
from optformer.tokenization.trajectory import LegalTokens
from optformer.tokenization.vocabulary import PAD

TEXT, ROOM, WIDTH, PARAMETERS = 128, 256, 16, 8
"""The smallest sizes: of a text, a history's room, what extends it, a trial. Smaller ones would
save little time and compile once more, for some seconds."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    """What the decoder remembers of B studies.

    Attributes:
      text: key and value of the text, for each layer.
      text_segments_BS: 1 where there is text, 0 on padding.
      keys, values: of the trajectory, for each layer; the first `length_B` places count.
      places_BT: what the position bias sees of each place.
      length_B: places so far: the start token and all tokens of the trials.
      trials_B: trials so far.
      hidden_BD: the hidden state at the last place, which predicts the next token.
    """

    text: list[tuple[Float[Array, "B S H K"], Float[Array, "B S H K"]]]
    text_segments_BS: Int[Array, "B S"]
    keys: list[Float[Array, "B T H K"]]
    values: list[Float[Array, "B T H K"]]
    places_BT: Int[Array, "B T"]
    length_B: Int[Array, " B"]
    trials_B: Int[Array, " B"]
    hidden_BD: Float[Array, "B D"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """`LegalTokens` of B studies, padded to common sizes, and the slots that a trial fills.

    Attributes:
      inactive: the output token of an inactive parameter; -1 if there is none.
      steps_B: how many tokens come before a trial's value.
      slots_BP: one more than there are steps: the value's slot comes last.
    """

    tokens_BPO: Array
    parent_BPC: Array
    parent_tokens_BPCO: Array
    inactive: Array
    steps_B: Array
    slots_BP: Array


class Engine:
    """Runs one model. Studies of different shapes go through it together.

    Args:
      weights: a tree of arrays; float32.

    Raises:
      CheckpointError: the weights are not those of such a model.
    """

    def __init__(self, weights: Weights, config: ModelConfig, ids: Ids) -> None:
        transformer.check_weights(weights, config, ids)
        self.config = config
        self.ids = ids
        with jax.enable_x64(False):
            self.weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), weights)
        self._read = jax.jit(
            functools.partial(_read, config=config, ids=ids), static_argnames="capacity"
        )
        self._extend = jax.jit(functools.partial(_extend, config=config, ids=ids))
        self._reread = jax.jit(functools.partial(_reread, config=config, ids=ids))
        self._rollout = jax.jit(functools.partial(_rollout, config=config, ids=ids))

    def read(self, problems: Sequence[EncodedProblem], trials: Sequence[EncodedTrials]) -> History:
        """The history of each study: its text and its trials so far, which may be none."""
        size = size_class(len(problems), 1)
        text = size_class(max(len(problem.ids_S) for problem in problems), TEXT)
        text_BS, slots_BS, segments_BS = (np.zeros((size, text), np.int32) for _ in "123")
        for row, problem in enumerate(problems):
            text_BS[row, : len(problem.ids_S)] = problem.ids_S
            slots_BS[row, : len(problem.ids_S)] = problem.slots_S
            segments_BS[row, : len(problem.ids_S)] = 1
        # No more room than there must be: what is empty costs as much attention as what is full.
        capacity = size_class(_places(problems, trials), ROOM)
        new = _chunk(problems, trials, size, capacity, first=True)
        with jax.enable_x64(False):
            return self._read(self.weights, text_BS, slots_BS, segments_BS, *new, capacity=capacity)

    def extend(
        self,
        history: History,
        problems: Sequence[EncodedProblem],
        trials: Sequence[EncodedTrials],
    ) -> History:
        """The history with more trials, each study as many as it likes."""
        width = size_class(max(len(new.ids_T) for new in trials), WIDTH)
        new = _chunk(problems, trials, len(history.length_B), width, first=False)
        with jax.enable_x64(False):
            room = history.places_BT.shape[1]
            needed = int(np.max(np.asarray(history.length_B) + new[-2]))
            if needed > room:
                history = _grow(history, size_class(needed, ROOM) - room)
            return self._extend(self.weights, history, *new)

    def is_short(self, problems: Sequence[EncodedProblem], trials: Sequence[EncodedTrials]) -> bool:
        """Whether `extend` takes these trials in the width of one: other widths compile anew."""
        longest = max(problem.layout.length for problem in problems)
        return max(len(new.ids_T) for new in trials) <= size_class(longest, WIDTH)

    def reread(
        self,
        history: History,
        problems: Sequence[EncodedProblem],
        trials: Sequence[EncodedTrials],
        rows: Sequence[int],
    ) -> History:
        """The history with these rows read anew: the problem and all trials of each."""
        size = 4  # few sizes: each compiles for each length
        while size < len(rows):
            size *= 4
        room, needed = history.places_BT.shape[1], _places(problems, trials)
        if needed > room:
            with jax.enable_x64(False):
                history = _grow(history, size_class(needed, ROOM) - room)
        new = _chunk(problems, trials, size, history.places_BT.shape[1], first=True)
        # What fills up the rest is read from the first row and written nowhere.
        from_B, to_B = np.zeros(size, np.int32), np.full(size, len(history.length_B), np.int32)
        from_B[: len(rows)] = to_B[: len(rows)] = rows
        with jax.enable_x64(False):
            return self._reread(self.weights, history, from_B, to_B, *new)

    def rollout(
        self,
        history: History,
        rules: Rules,
        given_BNP: Int64[np.ndarray, "B N P"],
        temperature: float,
        seeds_B: Int64[np.ndarray, " B"],
    ) -> tuple[
        Int64[np.ndarray, "B N P"], Float32[np.ndarray, "B N O"], Float32[np.ndarray, "B N D"]
    ]:
        """N candidates for the next trial of each study, and the log-odds of its metric.

        Args:
          given_BNP: output tokens to take as they are; -1 where one is to be sampled from the
            model, among the legal ones, at this temperature.
          seeds_B: of each study's samples, which depend on no other study.

        Returns:
          The candidates' output tokens, the transformer's log-odds over output tokens at the
          metric's place, and the hidden state there, by which experts are weighed.
        """
        studies, candidates, parameters = given_BNP.shape
        shape = (
            len(history.length_B),
            size_class(candidates, 1),
            rules.tokens_BPO.shape[1],
        )
        padded_BNP = np.full(shape, -1, np.int32)
        padded_BNP[:studies, :candidates, :parameters] = given_BNP
        padded_B = np.zeros(shape[0], np.int32)
        padded_B[:studies] = seeds_B
        with jax.enable_x64(False):
            tokens_BNP, logits_BNO, hidden_BND = self._rollout(
                self.weights, history, rules, padded_BNP, jnp.float32(temperature), padded_B
            )
        return (
            np.asarray(tokens_BNP)[:studies, :candidates, :parameters].astype(np.int64),
            np.asarray(logits_BNO)[:studies, :candidates],
            np.asarray(hidden_BND)[:studies, :candidates],
        )

    def rules(self, legal: Sequence[LegalTokens], problems: Sequence[EncodedProblem]) -> Rules:
        """The rules of these studies as arrays for `rollout`."""
        size = size_class(len(legal), 1)
        parameters = size_class(max(len(rule.tokens_PO) for rule in legal), PARAMETERS)
        conditions = size_class(max(rule.parent_PC.shape[1] for rule in legal), 1)
        outputs = self.ids.outputs
        tokens_BPO = np.ones((size, parameters, outputs), bool)
        parent_BPC = np.full((size, parameters, conditions), -1, np.int32)
        parent_tokens_BPCO = np.zeros((size, parameters, conditions, outputs), bool)
        steps_B = np.ones(size, np.int32)
        slots_BP = np.zeros((size, parameters + 1), np.int32)
        for row, (rule, problem) in enumerate(zip(legal, problems, strict=True)):
            count, most = rule.parent_PC.shape
            tokens_BPO[row, :count] = rule.tokens_PO
            parent_BPC[row, :count, :most] = rule.parent_PC
            parent_tokens_BPCO[row, :count, :most] = rule.parent_tokens_PCO
            steps_B[row] = count
            slots_BP[row, : count + 1] = problem.layout.slots()[: count + 1]
        with jax.enable_x64(False):
            return Rules(
                tokens_BPO=jnp.asarray(tokens_BPO),
                parent_BPC=jnp.asarray(parent_BPC),
                parent_tokens_BPCO=jnp.asarray(parent_tokens_BPCO),
                inactive=jnp.int32(legal[0].inactive),
                steps_B=jnp.asarray(steps_B),
                slots_BP=jnp.asarray(slots_BP),
            )


def size_class(size: int, least: int) -> int:
    """The smallest power of two that is at least `size` and `least`."""
    return max(least, 1 << max(size - 1, 0).bit_length())


def _places(problems: Sequence[EncodedProblem], trials: Sequence[EncodedTrials]) -> int:
    """How many places the longest of these histories takes, the start token among them."""
    return 1 + problems[0].layout.tokens_of(0) + max(len(new.ids_T) for new in trials)


def _chunk(
    problems: Sequence[EncodedProblem],
    trials: Sequence[EncodedTrials],
    size: int,
    width: int,
    *,
    first: bool,
) -> tuple[np.ndarray, ...]:
    """New trials as padded arrays: inputs, slots of input and target, trial, count, trial count.

    A history's first chunk begins with the start token and what stands before the first trial.
    """
    before = [PAD, *problems[0].layout.prefix] if first else []
    start = len(before)
    inputs_BC, input_slots_BC, target_slots_BC, trial_BC = (
        np.full((size, width), PAD, np.int32) for _ in "1234"
    )
    count_B, trials_B = np.zeros(size, np.int32), np.zeros(size, np.int32)
    for row, (problem, new) in enumerate(zip(problems, trials, strict=True)):
        count = len(new.ids_T)
        here = slice(start, start + count)
        inputs_BC[row, :start] = before
        inputs_BC[row, here] = new.ids_T
        input_slots_BC[row, here] = new.slots_T
        trial_BC[row, here] = problem.layout.trials_along(count) + 1
        # What follows a token is the token after it, and a trial's first after its last.
        slots = problem.layout.slots()
        whole = np.tile(slots, count // len(slots) + 1)
        target_slots_BC[row, max(start - 1, 0) : start + count] = whole[not first : count + 1]
        count_B[row] = start + count
        trials_B[row] = len(problem.layout.rows_of(new.ids_T))
    return inputs_BC, input_slots_BC, target_slots_BC, trial_BC, count_B, trials_B


def _read(
    weights: Weights,
    text_BS: Array,
    slots_BS: Array,
    segments_BS: Array,
    inputs_BC: Array,
    input_slots_BC: Array,
    target_slots_BC: Array,
    trial_BC: Array,
    count_B: Array,
    trials_B: Array,
    *,
    config: ModelConfig,
    ids: Ids,
    capacity: int,
) -> History:
    encoded_BSD = transformer.encode(weights, config, ids, text_BS, slots_BS, segments_BS)
    size = text_BS.shape[0]
    buffer = (size, capacity, config.heads, config.head_size)
    layers = range(config.decoder_layers)
    empty = History(
        text=transformer.text_keys(weights, encoded_BSD),
        text_segments_BS=segments_BS,
        keys=[jnp.zeros(buffer, jnp.float32) for _ in layers],
        values=[jnp.zeros(buffer, jnp.float32) for _ in layers],
        places_BT=jnp.zeros((size, capacity), jnp.int32),
        length_B=jnp.zeros(size, jnp.int32),
        trials_B=jnp.zeros(size, jnp.int32),
        hidden_BD=jnp.zeros((size, config.width), jnp.float32),
    )
    return _extend(
        weights,
        empty,
        inputs_BC,
        input_slots_BC,
        target_slots_BC,
        trial_BC,
        count_B,
        trials_B,
        config=config,
        ids=ids,
    )


def _extend(
    weights: Weights,
    history: History,
    inputs_BC: Array,
    input_slots_BC: Array,
    target_slots_BC: Array,
    trial_BC: Array,
    count_B: Array,
    trials_B: Array,
    *,
    config: ModelConfig,
    ids: Ids,
) -> History:
    """Appends the first `count_B` of the new tokens."""
    size, width = inputs_BC.shape
    capacity = history.places_BT.shape[1]
    rows_B1 = jnp.arange(size, dtype=jnp.int32)[:, None]
    new_C = jnp.arange(width, dtype=jnp.int32)
    time_BC = history.length_B[:, None] + new_C
    # Padding is written past the end, where it is dropped.
    write_BC = jnp.where(new_C < count_B[:, None], time_BC, capacity)
    new_places_BC = time_BC
    if config.position == "trial":
        new_places_BC = jnp.where(trial_BC > 0, history.trials_B[:, None] + trial_BC, 0)
    places_BT = history.places_BT.at[rows_B1, write_BC].set(new_places_BC, mode="drop")
    bias_HBCT = transformer.position_bias(
        weights["decoder"]["position"],
        config,
        new_places_BC[:, :, None],
        places_BT[:, None, :],
        both_ways=False,
    )
    seen_BCT = jnp.arange(capacity) <= time_BC[:, :, None]
    bias_BHCT = jnp.moveaxis(bias_HBCT, 0, 1) + jnp.where(seen_BCT, 0.0, NEGATIVE)[:, None]
    text_bias = _text_bias(history)
    keys, values = list(history.keys), list(history.values)

    def attend_self(layer: int, query: Array, key: Array, value: Array) -> Array:
        keys[layer] = keys[layer].at[rows_B1, write_BC].set(key, mode="drop")
        values[layer] = values[layer].at[rows_B1, write_BC].set(value, mode="drop")
        return transformer.attend(query, keys[layer], values[layer], bias_BHCT)

    hidden_BCD = transformer.decode(
        weights,
        transformer.decoder_inputs(
            weights,
            config,
            ids,
            inputs_BC,
            input_slots_BC,
            target_slots_BC,
            lambda gated_BCD: transformer.sum_within_trials(gated_BCD, trial_BC),
        ),
        attend_self,
        lambda layer, query: transformer.attend(query, *history.text[layer], text_bias),
    )
    last_BD = hidden_BCD[rows_B1[:, 0], jnp.maximum(count_B - 1, 0)]
    return dataclasses.replace(
        history,
        keys=keys,
        values=values,
        places_BT=places_BT,
        length_B=history.length_B + count_B,
        trials_B=history.trials_B + trials_B,
        hidden_BD=jnp.where(count_B[:, None] > 0, last_BD, history.hidden_BD),
    )


def _reread(
    weights: Weights,
    history: History,
    from_B: Array,
    to_B: Array,
    *new: Array,
    config: ModelConfig,
    ids: Ids,
) -> History:
    """Reads trials into emptied rows `from_B`, and puts those at `to_B`."""
    part = jax.tree.map(lambda leaf: leaf[from_B], history)
    none_B = jnp.zeros_like(part.length_B)
    part = dataclasses.replace(part, length_B=none_B, trials_B=none_B)
    part = _extend(weights, part, *new, config=config, ids=ids)
    return jax.tree.map(lambda old, row: old.at[to_B].set(row, mode="drop"), history, part)


def _rollout(
    weights: Weights,
    history: History,
    rules: Rules,
    given_BNP: Array,
    temperature: Array,
    seeds_B: Array,
    *,
    config: ModelConfig,
    ids: Ids,
) -> tuple[Int32[Array, "B N P"], Float[Array, "B N O"], Float[Array, "B N D"]]:
    size, candidates, parameters = given_BNP.shape
    own_shape = (size, candidates, parameters, config.heads, config.head_size)
    layers = range(config.decoder_layers)
    capacity = history.places_BT.shape[1]
    before_BT = jnp.arange(capacity) < history.length_B[:, None]
    own_P = jnp.arange(parameters)
    text_bias = _text_bias(history)
    position = weights["decoder"]["position"]
    key_B = jax.vmap(jax.random.key)(seeds_B)

    def place_B(step: Array | int) -> Array:
        """The place of the trial's token number `step`."""
        if config.position == "trial":
            return history.trials_B + 1
        return history.length_B + step

    def body(step: Array, carry: tuple) -> tuple:
        tokens_BNP, keys, values, hidden_BND, sum_BND = carry
        token_BN = _choose(
            transformer.token_logits(weights, ids, hidden_BND),
            given_BNP[:, :, step],
            tokens_BNP,
            rules,
            step,
            temperature,
            jax.vmap(jax.random.fold_in, (0, None))(key_B, step),
        )
        tokens_BNP = tokens_BNP.at[:, :, step].set(token_BN)
        bias_HBT = transformer.position_bias(
            position, config, place_B(step)[:, None], history.places_BT, both_ways=False
        )
        bias_BHT = jnp.moveaxis(bias_HBT, 0, 1) + jnp.where(before_BT, 0.0, NEGATIVE)[:, None]
        own_places_BP = place_B(0)[:, None] + (0 if config.position == "trial" else own_P)
        own_bias_HBP = transformer.position_bias(
            position, config, place_B(step)[:, None], own_places_BP, both_ways=False
        )
        own_bias_BHP = jnp.moveaxis(own_bias_HBP, 0, 1) + jnp.where(own_P <= step, 0.0, NEGATIVE)
        new_keys, new_values = list(keys), list(values)
        new_sum_BND = sum_BND

        def add_to_sum(gated_BND: Array) -> Array:
            nonlocal new_sum_BND
            new_sum_BND = sum_BND + gated_BND
            return new_sum_BND

        def attend_self(layer: int, query: Array, key: Array, value: Array) -> Array:
            new_keys[layer] = keys[layer].at[:, :, step].set(key)
            new_values[layer] = values[layer].at[:, :, step].set(value)
            return _attend_shared(
                query,
                history.keys[layer],
                history.values[layer],
                bias_BHT,
                new_keys[layer],
                new_values[layer],
                own_bias_BHP,
            )

        x_BND = transformer.decoder_inputs(
            weights,
            config,
            ids,
            token_BN + ids.first_output,
            jnp.broadcast_to(rules.slots_BP[:, step, None], token_BN.shape),
            jnp.broadcast_to(rules.slots_BP[:, step + 1, None], token_BN.shape),
            add_to_sum,
        )
        new_BND = transformer.decode(
            weights,
            x_BND,
            attend_self,
            lambda layer, query: transformer.attend(query, *history.text[layer], text_bias),
        )
        # A study with fewer parameters than others keeps the state of its last one.
        going_B11 = (step < rules.steps_B)[:, None, None]
        hidden_BND = jnp.where(going_B11, new_BND, hidden_BND)
        return tokens_BNP, new_keys, new_values, hidden_BND, new_sum_BND

    hidden_BND = jnp.broadcast_to(
        history.hidden_BD[:, None], (size, candidates, history.hidden_BD.shape[-1])
    )
    carry = (
        jnp.zeros(given_BNP.shape, jnp.int32),
        [jnp.zeros(own_shape, jnp.float32) for _ in layers],
        [jnp.zeros(own_shape, jnp.float32) for _ in layers],
        hidden_BND,
        jnp.zeros_like(hidden_BND),
    )
    steps = jnp.max(rules.steps_B)
    tokens_BNP, _, _, hidden_BND, _ = jax.lax.fori_loop(0, steps, body, carry)
    return tokens_BNP, transformer.value_logits(weights, ids, hidden_BND), hidden_BND


def _choose(
    logits_BNO: Float[Array, "B N O"],
    given_BN: Int[Array, "B N"],
    tokens_BNP: Int[Array, "B N P"],
    rules: Rules,
    step: Int[Array, ""],
    temperature: Float[Array, ""],
    key_B: Key[Array, " B"],
) -> Int[Array, "B N"]:
    """Each candidate's token at this step: the given one, or a legal one from the model."""
    outputs = logits_BNO.shape[-1]
    parent_BC = rules.parent_BPC[:, step]
    free_B = (parent_BC < 0).all(axis=1)
    # The token that each condition's parent got: [B, N, C].
    parent_BNC = jnp.take_along_axis(
        tokens_BNP,
        jnp.broadcast_to(
            jnp.maximum(parent_BC, 0)[:, None], (*tokens_BNP.shape[:2], parent_BC.shape[1])
        ),
        axis=2,
    )
    size, conditions = parent_BC.shape
    met_BNC = rules.parent_tokens_BPCO[:, step][
        jnp.arange(size)[:, None, None], jnp.arange(conditions), parent_BNC
    ]
    active_BN = free_B[:, None] | (met_BNC & (parent_BC >= 0)[:, None]).any(axis=2)
    inactive_O = jnp.arange(outputs) == rules.inactive
    legal_BNO = jnp.where(active_BN[..., None], rules.tokens_BPO[:, step, None], inactive_O)
    # By the cumulative distribution: one random number a token is much cheaper than one an output.
    scaled_BNO = jnp.where(legal_BNO, logits_BNO / temperature, -jnp.inf)
    below_BNO = jnp.cumsum(jnp.exp(scaled_BNO - scaled_BNO.max(axis=-1, keepdims=True)), axis=-1)
    draw = functools.partial(jax.random.uniform, shape=(logits_BNO.shape[1], 1), dtype=jnp.float32)
    # Just below the total, so that rounding cannot lead past the last legal output.
    level_BN1 = jax.vmap(draw)(key_B) * below_BNO[..., -1:] * (1 - 1e-6)
    sampled_BN = jnp.argmax(below_BNO > level_BN1, axis=-1).astype(jnp.int32)
    return jnp.where(given_BN >= 0, given_BN, sampled_BN)


def _attend_shared(
    query_BNHK: Float[Array, "B N H K"],
    key_BTHK: Float[Array, "B T H K"],
    value_BTHK: Float[Array, "B T H K"],
    bias_BHT: Float[Array, "B H T"],
    own_key_BNPHK: Float[Array, "B N P H K"],
    own_value_BNPHK: Float[Array, "B N P H K"],
    own_bias_BHP: Float[Array, "B H P"],
) -> Float[Array, "B N H K"]:
    """Attention of each candidate to the shared history and to its own tokens."""
    shared_BHNT = jnp.einsum("BNHK,BTHK->BHNT", query_BNHK, key_BTHK) + bias_BHT[:, :, None]
    own_BHNP = jnp.einsum("BNHK,BNPHK->BHNP", query_BNHK, own_key_BNPHK) + own_bias_BHP[:, :, None]
    # One softmax over both, without joining them: a copy costs as much as all the rest.
    top_BHN1 = jnp.maximum(
        shared_BHNT.max(axis=-1, keepdims=True), own_BHNP.max(axis=-1, keepdims=True)
    )
    shared_BHNT, own_BHNP = jnp.exp(shared_BHNT - top_BHN1), jnp.exp(own_BHNP - top_BHN1)
    total_BHN = shared_BHNT.sum(axis=-1) + own_BHNP.sum(axis=-1)
    summed_BNHK = jnp.einsum("BHNT,BTHK->BNHK", shared_BHNT, value_BTHK) + jnp.einsum(
        "BHNP,BNPHK->BNHK", own_BHNP, own_value_BNPHK
    )
    return summed_BNHK / jnp.moveaxis(total_BHN, 1, 2)[..., None]


def _text_bias(history: History) -> Float[Array, "B 1 1 S"]:
    return jnp.where(history.text_segments_BS > 0, 0.0, NEGATIVE)[:, None, None].astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=1)
def _grow(history: History, more: int) -> History:
    """The history with room for `more` places."""

    def pad(leaf: Array) -> Array:
        return jnp.pad(leaf, [(0, 0), (0, more)] + [(0, 0)] * (leaf.ndim - 2))

    return dataclasses.replace(
        history,
        keys=[pad(leaf) for leaf in history.keys],
        values=[pad(leaf) for leaf in history.values],
        places_BT=pad(history.places_BT),
    )
