"""Which inputs the forward pass depends on, and its losses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from optformer.model import transformer
from optformer.model.config import MICRO
from optformer.model.transformer import Ids
from optformer.study import Study
from optformer.tokenization.tokenizer import StudyTokenizer
from optformer.training import loss
from optformer.training.batches import Batch, BatchConfig, pack
from optformer.training.config import LossConfig
from tests.studies import plane, random_study

TOKENIZER = StudyTokenizer()
IDS = Ids.of(TOKENIZER.vocabulary)
CONFIG = dataclasses.replace(MICRO, decoder_layers=2)
WEIGHTS = transformer.init(CONFIG, IDS, jax.random.key(0))


def batch_of(*studies: Study, tokens: int = 160) -> Batch:
    examples = []
    for study in studies:
        problem = TOKENIZER.encode_problem(study.problem, study.algorithm)
        examples.append((problem, TOKENIZER.encode_trials(study, problem)))
    config = BatchConfig(rows=1, tokens=tokens, text_tokens=256, sizes=1)
    return pack(examples, TOKENIZER, config, ask_experts=True)


@jax.jit
def hidden(batch: Batch) -> jax.Array:
    return loss.hidden_states(WEIGHTS, CONFIG, IDS, batch)[0]


def test_a_future_token_cannot_change_a_past_prediction() -> None:
    study = random_study(plane(2), 45, np.random.default_rng(0))
    before = batch_of(study)
    inputs_BT = before.inputs_BT.copy()
    inputs_BT[0, 100] += 1
    after = before._replace(inputs_BT=inputs_BT)
    same, other = hidden(before), hidden(after)
    np.testing.assert_array_equal(same[:100], other[:100])
    assert np.abs(same[100:135] - other[100:135]).max() > 1e-3


def test_packed_studies_are_independent() -> None:
    """A study's predictions are the same alone and after different other studies."""
    rng = np.random.default_rng(0)
    first, other, second = (random_study(plane(2), trials, rng) for trials in (20, 20, 10))
    alone = hidden(batch_of(second))[:30]
    for neighbour in (first, other):
        packed = batch_of(neighbour, second)
        assert packed.segments_BT[0, 60:90].tolist() == [2] * 30
        np.testing.assert_allclose(hidden(packed)[60:90], alone, atol=2e-5)


def test_another_text_gives_another_prediction() -> None:
    study = random_study(plane(2), 5, np.random.default_rng(0))
    other = dataclasses.replace(study, algorithm="grid_search")
    assert np.abs(hidden(batch_of(study))[0] - hidden(batch_of(other))[0]).max() > 1e-3


IDS_OF_DECODERS = [
    Ids(text=6, bins=50, statuses=4),
    # The decoder also outputs text, so bins come after it.
    Ids(text=6, bins=50, statuses=4, text_output=True),
]


@pytest.mark.parametrize("ids", IDS_OF_DECODERS)
def test_soft_targets_agree_with_the_explicit_distribution(ids: Ids) -> None:
    """Cross entropy against a Gaussian over bins, with its tails on the last bins."""
    logits_BTO = jax.random.normal(jax.random.key(0), (1, 3, ids.outputs))
    bins_BT = jnp.array([[0, 20, 49]])
    got = loss.soft_logits(logits_BTO, bins_BT + ids.first_bin, ids, 2.0)
    offsets = np.arange(-loss.SPREAD, loss.SPREAD + 1)
    share = np.exp(-0.5 * (offsets / 2.0) ** 2)
    for at, target in enumerate(bins_BT[0].tolist()):
        distribution = np.zeros(ids.outputs)
        np.add.at(
            distribution, ids.first_bin + np.clip(target + offsets, 0, 49), share / share.sum()
        )
        np.testing.assert_allclose(got[0, at], distribution @ logits_BTO[0, at], rtol=1e-5)


@pytest.mark.parametrize("ids", IDS_OF_DECODERS)
def test_exact_targets_agree_with_the_explicit_distribution(ids: Ids) -> None:
    """Cross entropy against a Gaussian's mass in each bin, with its tails on the last bins."""
    logits_BTO = jax.random.normal(jax.random.key(0), (1, 3, ids.outputs))
    predictive_BT2 = np.array([[[0.5, 0.1], [0.02, 0.2], [1.3, 0.5]]], dtype=np.float32)
    got = loss.exact_logits(logits_BTO, predictive_BT2, ids)
    for at, (mean, deviation) in enumerate(predictive_BT2[0]):
        below = scipy.stats.norm.cdf(np.arange(1, 50) / 50, mean, deviation)
        shares = np.diff(below, prepend=0.0, append=1.0)
        logits_Q = logits_BTO[0, at, ids.first_bin : ids.first_bin + 50]
        np.testing.assert_allclose(got[0, at], shares @ logits_Q, rtol=1e-4)


def test_padding_does_not_count() -> None:
    """The loss of a row does not depend on the padding."""
    study = random_study(plane(2), 10, np.random.default_rng(0))
    losses = [
        loss.loss_and_metrics(
            WEIGHTS, CONFIG, IDS, batch_of(study, tokens=tokens), LossConfig(), 1.0
        )[0]
        for tokens in (30, 64, 160)
    ]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


@pytest.mark.parametrize(("distance", "bucket"), [(0, 0), (1, 1), (15, 15), (16, 16), (500, 31)])
def test_distances_fall_into_t5s_buckets(distance: int, bucket: int) -> None:
    """Exact up to half of the buckets, then logarithmic up to the maximum distance."""
    table = jnp.arange(32.0)[:, None] * jnp.ones(4)
    bias = transformer.position_bias(
        table, CONFIG, jnp.array([distance]), jnp.array([0]), both_ways=False
    )
    assert bias[0, 0] == bucket
