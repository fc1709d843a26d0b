"""The model is T5 1.1: Hugging Face's has the same logits for the same weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import parity
from optformer.model import transformer
from optformer.model.config import T5_BASE
from optformer.model.transformer import Ids, Weights
from optformer.training import loss
from optformer.training.batches import BatchConfig, pack
from tests.studies import MIXED, random_study
from tests.tokenization.released import released_tokenizer

pytest.importorskip("torch", reason="needs the extra `parity`")
pytest.importorskip("transformers", reason="needs the extra `parity`")

# As released but for its size; heads times their size are not the width.
CONFIG = dataclasses.replace(
    T5_BASE, width=32, heads=4, head_size=12, feed_forward=48, encoder_layers=2, decoder_layers=3
)


def test_logits_are_those_of_hugging_face() -> None:
    """On studies in the released tokens: start token, padding, and distances beyond the buckets."""
    tokenizer = released_tokenizer()
    ids = Ids.of(tokenizer.vocabulary)
    weights = parity.perturbed(transformer.init(CONFIG, ids, jax.random.key(0)))
    rng = np.random.default_rng(0)
    examples = []
    for trials in (40, 23):
        study = random_study(MIXED, trials, rng)
        problem = tokenizer.encode_problem(study.problem, study.algorithm)
        examples.append((problem, tokenizer.encode_trials(study, problem)))
    rows = BatchConfig(rows=2, tokens=288, text_tokens=160)
    batch = pack(examples, tokenizer, rows)
    real_BT = batch.segments_BT > 0
    assert batch.inputs_BT[0, 0] == 0
    assert set(batch.segments_BT.ravel()) == {0, 1}
    assert real_BT.sum() > 63 * 7

    @jax.jit
    def logits(weights: Weights) -> jax.Array:
        hidden_BTD = loss.hidden_states(weights, CONFIG, ids, batch)
        return transformer.token_logits(weights, ids, hidden_BTD)

    ours_BTV = np.asarray(logits(weights))
    model = parity.torch_model(weights, CONFIG, ids)
    theirs_BTV = parity.torch_logits(
        model,
        {
            "text": batch.text_BS,
            "text_segments": batch.text_segments_BS,
            "inputs": batch.inputs_BT,
        },
    )
    assert theirs_BTV.shape[-1] == tokenizer.vocabulary.size
    assert theirs_BTV[real_BT].std() > 0.5
    np.testing.assert_allclose(ours_BTV[real_BT], theirs_BTV[real_BT], atol=1e-4, rtol=0)


def test_every_distance_has_the_bucket_of_hugging_face() -> None:
    """Where a bucket begins is a matter of rounding."""
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    distances_T = np.arange(-3000, 3001)
    numbers = jnp.arange(CONFIG.buckets, dtype=jnp.float32)[:, None]
    for both_ways in (True, False):
        ours_HT = transformer.position_bias(
            numbers, CONFIG, distances_T, np.zeros(1, np.int64), both_ways=both_ways
        )
        theirs_T = T5Attention._relative_position_bucket(
            torch.tensor(-distances_T),
            bidirectional=both_ways,
            num_buckets=CONFIG.buckets,
            max_distance=CONFIG.max_distance,
        )
        np.testing.assert_array_equal(ours_HT[0], theirs_T.numpy())
