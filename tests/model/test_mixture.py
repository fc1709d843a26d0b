"""The mixture's probabilities are those of its components."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from optformer.model import experts, mixture, transformer
from optformer.model.config import MICRO
from optformer.model.transformer import Ids

IDS = Ids(text=50, bins=200, statuses=3)


@pytest.fixture(scope="module")
def gates() -> dict:
    return transformer.init(MICRO, IDS, jax.random.key(0))["experts"]


def test_initial_weights_follow_bayes_rule(gates: dict) -> None:
    rng = np.random.default_rng(0)
    evidence_TE = rng.normal(0, 3, (4, experts.EXPERTS)).astype(np.float32)
    hidden_TD = jnp.asarray(rng.normal(size=(4, MICRO.width)), jnp.float32)
    weights_TG = np.exp(np.asarray(mixture.log_weights(gates, hidden_TD, evidence_TE)))
    np.testing.assert_allclose(weights_TG.sum(-1), 1.0, rtol=1e-5)
    want_TE = np.exp(evidence_TE) / np.exp(evidence_TE).sum(-1, keepdims=True)
    np.testing.assert_allclose(
        weights_TG[:, 1:] / weights_TG[:, 1:].sum(-1, keepdims=True), want_TE, rtol=1e-3
    )
    odds_T = weights_TG[:, 0] / weights_TG[:, 1:].sum(-1)
    np.testing.assert_allclose(np.log(odds_T), transformer.OWN_EXPERT, rtol=1e-4)


@pytest.mark.parametrize("freedom", [3.0, 40.0])
@pytest.mark.parametrize("centre", [0.0, 0.7, -0.7])  # of means; the range is 1 wide, around 0
def test_mixed_bins_are_the_parts_probabilities(freedom: float, centre: float) -> None:
    rng = np.random.default_rng(1)
    logits_NO = rng.normal(size=(5, IDS.outputs)).astype(np.float32)
    mean_NM = rng.uniform(centre - 0.4, centre + 0.4, (5, 4)).astype(np.float32)
    scale_NM = rng.uniform(0.05, 0.5, (5, 4)).astype(np.float32)
    warp_M = np.array([0, 1, 3, 4], np.int32)
    weights_NG = rng.dirichlet(np.ones(5), size=5)
    mixed_NO = mixture.mix(
        jnp.asarray(logits_NO),
        jnp.log(jnp.asarray(weights_NG, jnp.float32)),
        jnp.asarray(mean_NM),
        jnp.asarray(scale_NM),
        jnp.asarray(warp_M),
        jnp.float32(freedom),
        ids=IDS,
    )
    mixed_NO = np.asarray(mixed_NO)
    # The probability of a status does not change.
    before_NO, after_NO = (scipy.special.log_softmax(x, axis=1) for x in (logits_NO, mixed_NO))
    np.testing.assert_allclose(after_NO[:, IDS.bins :], before_NO[:, IDS.bins :], atol=1e-4)
    edges_MF = experts.warp(np.linspace(0, 1, IDS.bins + 1))[warp_M]
    score_NMF = experts.normal_score((edges_MF - mean_NM[..., None]) / scale_NM[..., None], freedom)
    below = score_NMF[..., :1] > 0  # symmetric, and exact in this tail
    cdf_NMF = np.where(below, -scipy.stats.norm.sf(score_NMF), scipy.stats.norm.cdf(score_NMF))
    share_NMQ = np.diff(cdf_NMF)
    share_NMQ /= share_NMQ.sum(-1, keepdims=True)
    share_NMQ = (1 - experts.FLOOR) * share_NMQ + experts.FLOOR / IDS.bins
    own_NQ = scipy.special.softmax(logits_NO[:, : IDS.bins], axis=1)
    parts_NGQ = np.concatenate([own_NQ[:, None], share_NMQ], axis=1)
    want_NQ = (weights_NG[..., None] * parts_NGQ).sum(1)
    got_NQ = scipy.special.softmax(mixed_NO[:, : IDS.bins], axis=1)
    np.testing.assert_allclose(got_NQ, want_NQ, rtol=2e-3, atol=2e-7)


def test_experts_without_weight_are_left_out() -> None:
    weights_NG = np.full((3, 1 + experts.EXPERTS), 1e-7)
    weights_NG[:, 0], weights_NG[:, [5, 9]] = 0.5, 0.25
    chosen_M, left_NG = mixture.choose_experts(np.log(weights_NG).astype(np.float32))
    assert set(chosen_M[:2]) == {4, 8}
    assert len(chosen_M) == mixture.FEW
    np.testing.assert_allclose(np.exp(left_NG).sum(1), 1.0, rtol=1e-4)


def test_the_transformers_own_weight_does_not_depend_on_the_number_of_experts() -> None:
    weights_NG = np.full((3, 1 + experts.EXPERTS), 0.6 / experts.EXPERTS)
    weights_NG[:, 0] = 0.4
    chosen_M, left_NG = mixture.choose_experts(np.log(weights_NG).astype(np.float32))
    assert len(chosen_M) == mixture.MANY
    np.testing.assert_allclose(np.exp(left_NG[:, 0]), 0.4, rtol=1e-5)
    np.testing.assert_allclose(np.exp(left_NG).sum(1), 1.0, rtol=1e-5)


def test_an_expert_outside_the_range_does_not_change_a_statuss_probability() -> None:
    """The probability of all bins together stays the same."""
    mixed_NO = mixture.mix(
        jnp.zeros((1, IDS.outputs)),
        jnp.log(jnp.array([[0.01, 0.99]])),
        jnp.array([[-30.0]]),
        jnp.array([[0.01]]),
        jnp.array([0]),
        jnp.float32(100.0),
        ids=IDS,
    )
    share_O = scipy.special.softmax(np.asarray(mixed_NO)[0])
    np.testing.assert_allclose(share_O[IDS.bins :].sum(), 3 / IDS.outputs, rtol=1e-4)
