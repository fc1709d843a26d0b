"""Experts with a prior: Bayes' rule over units and levels, evidence, and what a prior is worth."""

import dataclasses

import numpy as np
import pytest

from optformer.model import experts, prior, prior_experts
from optformer.model.prior import Prior, PriorConfig
from optformer.study import Metric, Parameter, ParameterType, Problem

BINS = 1000
CONFIG = PriorConfig(width=16, heads=2, inner=8, hidden=12, features=3, category=4)
PROBLEM = Problem(
    parameters=tuple(
        Parameter(name=name, type=ParameterType.DOUBLE, bounds=(0.0, 1.0)) for name in "ab"
    ),
    metrics=(Metric(name="score"),),
)


class Known(Prior):
    """A prior that knows the mean: the first coordinate, or the other way round."""

    direction = 3.0

    def mean_and_features(self, values_NP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.direction * values_NP[:, 0], np.zeros((len(values_NP), 1))


class Misled(Known):
    direction = -3.0


@pytest.fixture(scope="module")
def networks() -> tuple[Known, Misled]:
    weights = prior.init(CONFIG, np.random.default_rng(0))
    made = Prior.of(PROBLEM, weights, CONFIG)
    fields = {field.name: getattr(made, field.name) for field in dataclasses.fields(Prior)}
    return Known(**fields), Misled(**fields)


def trials(count: int) -> tuple[np.ndarray, np.ndarray]:
    values_RP = np.random.default_rng(3).random((count, 2))
    values_RP = values_RP[np.argsort(values_RP[:, 0])]  # the best comes last
    metric_R = 0.2 + 0.6 * values_RP[:, 0]
    return values_RP, metric_R


def test_before_any_trial_the_better_mean_is_predicted_to_be_better(
    networks: tuple[Known, Misled],
) -> None:
    nothing = np.empty((0, 2)), np.empty(0), np.empty(0, bool)
    posterior = prior_experts.condition(networks[0], *nothing, BINS)
    values_NP = np.array([[0.1, 0.5], [0.5, 0.5], [0.9, 0.5]])
    said = posterior.predict(values_NP, np.arange(prior_experts.EXPERTS))
    assert (np.diff(said.mean_NM, axis=0) > 0).all()
    assert np.isfinite(said.scale_NM).all()
    assert posterior.freedom == experts.FREEDOM
    np.testing.assert_array_equal(posterior.evidence_E, 0.0)


def test_a_prior_that_is_right_has_more_evidence_than_one_that_misleads(
    networks: tuple[Known, Misled],
) -> None:
    values_RP, metric_R = trials(6)
    pending_R = np.zeros(6, bool)
    units_RP, ordered_P = values_RP, np.ones(2, bool)
    plain = experts.condition(units_RP, metric_R, pending_R, ordered_P, BINS)
    right, wrong = (
        prior_experts.condition(network, values_RP, metric_R, pending_R, BINS).log_share(
            plain.evidence_E
        )
        for network in networks
    )
    assert np.exp(right) > 0.9
    # Some of the experts give the mean another weight, so that it is not lost where it is wrong.
    assert wrong < right - 0.05


def test_evidence_is_what_each_trial_was_predicted_to_be(
    networks: tuple[Known, Misled],
) -> None:
    """The evidence of R trials is that of R - 1 and the probability of the last one's bin."""
    values_RP, metric_R = trials(5)
    before, after = (
        prior_experts.condition(networks[0], values_RP[:n], metric_R[:n], np.zeros(n, bool), BINS)
        for n in (4, 5)
    )
    said = before.predict(values_RP[4:], np.arange(prior_experts.EXPERTS))
    warps = np.arange(prior_experts.EXPERTS) // len(prior_experts.KERNELS)
    for expert in range(prior_experts.EXPERTS):
        log_chance, _ = experts.log_chance_of_bins(
            said.mean_NM[None, :, [expert]].transpose(0, 2, 1),
            said.scale_NM[None, :, [expert]].transpose(0, 2, 1),
            np.array([said.freedom]),
            metric_R[4:],
            BINS,
            [prior_experts.USED_WARPS[warps[expert]]],
        )
        added = after.evidence_E[expert] - before.evidence_E[expert]
        assert added == pytest.approx(log_chance.item(), abs=1e-3)


def test_pending_trials_narrow_predictions_and_leave_their_mean_alone(
    networks: tuple[Known, Misled],
) -> None:
    values_RP, metric_R = trials(4)
    with_pending = np.concatenate([values_RP, [[0.3, 0.3]]])
    pending_R = np.array([False] * 4 + [True])
    every = np.arange(prior_experts.EXPERTS)
    alone = prior_experts.condition(networks[0], values_RP, metric_R, np.zeros(4, bool), BINS)
    beside = prior_experts.condition(
        networks[0], with_pending, np.append(metric_R, np.nan), pending_R, BINS
    )
    values_NP = np.array([[0.32, 0.3]])
    one, other = alone.predict(values_NP, every), beside.predict(values_NP, every)
    np.testing.assert_allclose(other.mean_NM, one.mean_NM, atol=1e-9)
    assert (other.scale_NM <= one.scale_NM + 1e-9).all()
    np.testing.assert_allclose(beside.evidence_E, alone.evidence_E)


def test_a_batch_at_the_beginning_spreads(networks: tuple[Known, Misled]) -> None:
    values_NP = np.array([[0.9, 0.1], [0.9, 0.9], [0.89, 0.1]])
    alone_N = prior_experts.first_scores(networks[0], values_NP, np.empty((0, 2)))
    beside_N = prior_experts.first_scores(networks[0], values_NP, values_NP[:1])
    assert np.argmax(alone_N) == 0
    assert np.argmax(beside_N) == 1


def test_weights_with_a_prior_sum_to_one(networks: tuple[Known, Misled]) -> None:
    values_RP, metric_R = trials(4)
    none_R = np.zeros(4, bool)
    plain = experts.condition(values_RP, metric_R, none_R, np.ones(2, bool), BINS)
    learned = prior_experts.condition(networks[0], values_RP, metric_R, none_R, BINS)
    both = prior_experts.InformedPosterior.of(plain, learned)
    parts = 1 + experts.EXPERTS
    given_NG = np.log(np.full((3, parts), 1 / parts, np.float32))
    weights_NG = np.exp(both.weights_with(given_NG))
    assert weights_NG.shape == (3, parts + prior_experts.EXPERTS)
    np.testing.assert_allclose(weights_NG.sum(1), 1.0, rtol=1e-4)
    share = np.exp(both.log_share)
    np.testing.assert_allclose(weights_NG[:, parts:].sum(1), share, rtol=1e-4)
