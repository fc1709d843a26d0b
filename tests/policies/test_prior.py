"""A model that knows a problem before its first trial suggests what it expects most of."""

import dataclasses

import jax
import numpy as np
import pytest

from optformer.model import prior, transformer
from optformer.model.config import MICRO
from optformer.model.prior import Prior, PriorConfig
from optformer.model.saved import Checkpoint, SavedPrior
from optformer.model.transformer import Ids
from optformer.policies.acquisition import ACQUISITIONS
from optformer.policies.config import PolicyConfig
from optformer.policies.model import OptFormer
from optformer.space import to_natural
from optformer.study import Problem
from optformer.tokenization.tokenizer import StudyTokenizer
from optformer.training.sharding import to_numpy
from tests.studies import CONDITIONAL, MIXED, plane, random_study

CONFIG = PriorConfig(width=16, heads=2, inner=8, hidden=12, features=3, category=4)
SPACES = {"mixed": MIXED, "conditional": CONDITIONAL, "plane": plane(2)}


def a_model(scale: float) -> OptFormer:
    """A model whose prior network has a mean of this size; the network is not trained."""
    tokenizer = StudyTokenizer()
    shape = dataclasses.replace(MICRO, experts=True)
    weights = transformer.init(shape, Ids.of(tokenizer.vocabulary), jax.random.key(0))
    network = prior.init(CONFIG, np.random.default_rng(0))
    network["mean"] *= scale
    return OptFormer(
        Checkpoint(
            config=shape,
            tokenizer=tokenizer,
            weights=to_numpy(weights),
            prior=SavedPrior(config=CONFIG, weights=network),
        )
    )


@pytest.fixture(scope="module")
def informed() -> OptFormer:
    return a_model(20.0)


def random_points(problem: Problem, count: int) -> np.ndarray:
    units_NP = np.random.default_rng(5).random((count, len(problem.parameters)))
    values_NP = to_natural(problem.parameters, units_NP)
    return np.where(problem.active(values_NP), values_NP, np.nan)


def mean_of(model: OptFormer, problem: Problem, values_NP: np.ndarray) -> np.ndarray:
    network = model.prior_of(problem)
    assert isinstance(network, Prior)
    return network.mean_and_features(values_NP)[0]


@pytest.mark.parametrize("acquisition", ACQUISITIONS)
@pytest.mark.parametrize("space", SPACES)
def test_suggestions_are_legal_and_reproducible(
    informed: OptFormer, space: str, acquisition: str
) -> None:
    problem = SPACES[space]
    policy = PolicyConfig(acquisition=acquisition, candidates=16, uniform=16, local=8)
    for trials in (0, 6):
        study = random_study(problem, trials, np.random.default_rng(0))
        values_NP, again_NP = (informed.propose(study, 2, policy=policy, seed=1) for _ in "12")
        np.testing.assert_array_equal(values_NP, again_NP)
        np.testing.assert_array_equal(problem.active(values_NP), ~np.isnan(values_NP))


@pytest.mark.parametrize("space", SPACES)
def test_the_first_suggestion_is_among_the_best_by_the_prior(
    informed: OptFormer, space: str
) -> None:
    problem = SPACES[space]
    values_1P = informed.propose(random_study(problem, 0, np.random.default_rng(0)), seed=3)
    [first] = mean_of(informed, problem, values_1P)
    others_N = mean_of(informed, problem, random_points(problem, 500))
    assert first > np.quantile(others_N, 0.95)


def test_a_first_batch_has_no_two_alike(informed: OptFormer) -> None:
    problem = SPACES["plane"]
    values_NP = informed.propose(random_study(problem, 0, np.random.default_rng(0)), 3, seed=3)
    assert len(np.unique(values_NP.round(3), axis=0)) == 3


def test_before_any_trial_predictions_rank_as_the_prior(informed: OptFormer) -> None:
    problem = SPACES["mixed"]
    values_NP = random_points(problem, 40)
    study = random_study(problem, 0, np.random.default_rng(0))
    chances_NQ, scaling = informed.predict(study, values_NP)
    expected_N = chances_NQ @ np.arange(chances_NQ.shape[1]) * scaling.sign
    mean_N = mean_of(informed, problem, values_NP)
    assert (
        np.corrcoef(np.argsort(np.argsort(expected_N)), np.argsort(np.argsort(mean_N)))[0, 1] > 0.8
    )


def test_a_prior_that_knows_nothing_changes_nothing() -> None:
    problem, silent = SPACES["plane"], a_model(0.0)
    assert silent.prior_of(problem) is None
    none = random_study(problem, 0, np.random.default_rng(0))
    [begin_P] = silent.propose(none, seed=1)
    middle_P = to_natural(problem.parameters, np.full((1, 2), 0.5))[0]
    np.testing.assert_allclose(begin_P, middle_P)
