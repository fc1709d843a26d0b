"""The inference engine agrees with the training-time forward pass, for every model option."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import pytest

from optformer.model import transformer
from optformer.model.config import MICRO, ModelConfig
from optformer.model.decode import Engine, size_class
from optformer.model.transformer import Ids
from optformer.study import State, Study
from optformer.tokenization.tokenizer import StudyTokenizer
from optformer.training import loss
from optformer.training.batches import BatchConfig, pack
from tests.studies import CONDITIONAL, MIXED, plane, random_study
from tests.tokenization.released import released_tokenizer

TOKENIZER = StudyTokenizer()
IDS = Ids.of(TOKENIZER.vocabulary)
TINY = dataclasses.replace(MICRO, decoder_layers=2)
T5 = dataclasses.replace(
    TINY, position="token", slots=0, trial_sum=False, value_head=False, number_embedding="row"
)
VALUES = dataclasses.replace(TINY, number_embedding="value", number_output="value")
CONFIGS = {
    "default": (TINY, TOKENIZER),
    "values": (VALUES, TOKENIZER),
    "t5": (T5, TOKENIZER),
    # Separators are steps, a token precedes the first trial, and the decoder outputs every id.
    "released": (T5, released_tokenizer()),
    "released tokens, our model": (TINY, released_tokenizer()),
}


def model(config: ModelConfig, tokenizer: StudyTokenizer = TOKENIZER) -> tuple[dict, Engine]:
    ids = Ids.of(tokenizer.vocabulary)
    weights = transformer.init(config, ids, jax.random.key(0))
    return weights, Engine(weights, config, ids)


def uncached(
    weights: dict, config: ModelConfig, tokenizer: StudyTokenizer, study: Study
) -> np.ndarray:
    """The value head's logits at every trial, computed as in training."""
    ids = Ids.of(tokenizer.vocabulary)
    problem = tokenizer.encode_problem(study.problem, study.algorithm)
    trials = tokenizer.encode_trials(study, problem)
    batch_config = BatchConfig(rows=1, tokens=96, text_tokens=256)
    batch = pack([(problem, trials)], tokenizer, batch_config)
    hidden_BTD = loss.hidden_states(weights, config, ids, batch)
    logits_BTO = transformer.value_logits(weights, ids, hidden_BTD)
    first = len(problem.layout.prefix) + problem.layout.first_value
    places_R = first + problem.layout.length * np.arange(len(study))
    return np.asarray(logits_BTO[0, places_R])


@pytest.mark.parametrize("name", CONFIGS)
def test_cached_equals_uncached(name: str) -> None:
    """Candidates have the same scores with a cached history and in the whole sequence."""
    (config, tokenizer), rng = CONFIGS[name], np.random.default_rng(0)
    weights, engine = model(config, tokenizer)
    # Two studies of different shapes and lengths, one history extended in two steps.
    studies = [random_study(MIXED, 9, rng), random_study(plane(2), 14, rng)]
    problems = [tokenizer.encode_problem(s.problem, s.algorithm) for s in studies]
    # All trials with the scaling of the whole study, as in the uncached pass.
    scalings = [tokenizer.fit_scalings(s) for s in studies]

    def rows(of: Callable[[Study], range]) -> list:
        return [
            tokenizer.encode_trials(study.rows(list(of(study))), problem, scaling)
            for study, problem, scaling in zip(studies, problems, scalings, strict=True)
        ]

    history = engine.read(problems, rows(lambda study: range(0)))
    history = engine.extend(history, problems, rows(lambda study: range(len(study) - 4)))
    history = engine.extend(
        history, problems, rows(lambda study: range(len(study) - 4, len(study) - 1))
    )
    rules = engine.rules([tokenizer.legal_tokens(p) for p in problems], problems)
    given_BNP = np.full((2, 3, 4), -1)
    for row, (study, problem) in enumerate(zip(studies, problems, strict=True)):
        ids_1P = tokenizer.parameter_ids(study.problem, study.values_RP[-1:])[:, problem.order_P]
        given_BNP[row, :, : ids_1P.shape[1]] = ids_1P - engine.ids.first_output
    tokens_BNP, logits_BNO, _ = engine.rollout(history, rules, given_BNP, 1.0, np.array([1, 2]))
    for row, study in enumerate(studies):
        count = len(study.problem.parameters)
        np.testing.assert_array_equal(tokens_BNP[row, :, :count], given_BNP[row, :, :count])
        want_O = uncached(weights, config, tokenizer, study)[-1]
        for got_O in logits_BNO[row]:
            np.testing.assert_allclose(got_O, want_O, atol=2e-4)


def test_a_history_can_exceed_its_first_capacity() -> None:
    """Extending it trial by trial gives the same predictions."""
    _, engine = model(TINY)
    study = random_study(plane(9), 31, np.random.default_rng(1))
    problem = TOKENIZER.encode_problem(study.problem, study.algorithm)
    scalings = TOKENIZER.fit_scalings(study)
    history = engine.read([problem], [TOKENIZER.encode_trials(study.rows([]), problem, scalings)])
    room = history.places_BT.shape[1]
    for row in range(30):
        history = engine.extend(
            history, [problem], [TOKENIZER.encode_trials(study.rows([row]), problem, scalings)]
        )
    whole = engine.read(
        [problem], [TOKENIZER.encode_trials(study.rows(slice(0, 30)), problem, scalings)]
    )
    assert int(history.length_B[0]) == int(whole.length_B[0]) == 301
    assert room == 256
    np.testing.assert_allclose(history.hidden_BD, whole.hidden_BD, atol=2e-4)


@pytest.mark.parametrize("name", ["default", "released"])
def test_samples_are_legal_and_conditions_hold(name: str) -> None:
    """Every sampled trial decodes to a valid trial, for any weights."""
    config, tokenizer = CONFIGS[name]
    _, engine = model(config, tokenizer)
    for problem in (MIXED, CONDITIONAL) if tokenizer.options.statuses else (MIXED,):
        order_P = np.arange(len(problem.parameters))
        encoded = tokenizer.encode_problem(problem, "random_search", order_P=order_P)
        empty = random_study(problem, 0, np.random.default_rng(0))
        history = engine.read([encoded], [tokenizer.encode_trials(empty, encoded)])
        rules = engine.rules([tokenizer.legal_tokens(encoded)], [encoded])
        given_BNP = np.full((1, 200, len(problem.parameters)), -1)
        tokens_BNP, *_ = engine.rollout(history, rules, given_BNP, 1.0, np.array([0]))
        values_NP = tokenizer.decode_parameters(encoded, tokens_BNP[0] + engine.ids.first_output)
        active_NP = problem.active(values_NP)
        np.testing.assert_array_equal(active_NP, ~np.isnan(values_NP))
        for column, parameter in enumerate(problem.parameters):
            for number in values_NP[active_NP[:, column], column]:
                assert parameter.to_number(parameter.from_number(number)) == number
        if problem is CONDITIONAL:
            assert 0 < active_NP[:, 1].sum() < 200


def test_sampling_frequencies_equal_the_models_probabilities() -> None:
    """A chi-square test of the first parameter's tokens that fails once in 10,000 correct runs."""
    import scipy.stats

    weights, engine = model(TINY)
    problem = TOKENIZER.encode_problem(MIXED, "random_search", order_P=np.array([3, 1, 2, 0]))
    empty = random_study(MIXED, 0, np.random.default_rng(0))
    history = engine.read([problem], [TOKENIZER.encode_trials(empty, problem)])
    legal = TOKENIZER.legal_tokens(problem)
    rules = engine.rules([legal], [problem])
    draws = 4096
    tokens_BNP, *_ = engine.rollout(history, rules, np.full((1, draws, 4), -1), 1.0, np.array([3]))
    logits_O = np.asarray(transformer.token_logits(weights, IDS, history.hidden_BD))[0]
    choices = np.flatnonzero(legal.tokens_PO[0])
    share = np.exp((logits_O[choices] - logits_O[choices].max()).astype(np.float64))
    observed = [(tokens_BNP[0, :, 0] == choice).sum() for choice in choices]
    assert sum(observed) == draws
    assert scipy.stats.chisquare(observed, draws * share / share.sum()).pvalue > 1e-4


def test_a_pending_trial_is_part_of_the_history() -> None:
    """The next suggestion depends on pending trials."""
    _, engine = model(TINY)
    study = random_study(plane(2), 5, np.random.default_rng(2))
    problem = TOKENIZER.encode_problem(study.problem, study.algorithm)
    pending = dataclasses.replace(
        study, states_R=np.array([0, 0, 0, 0, State.ACTIVE], dtype=np.int8)
    )
    ids_T = TOKENIZER.encode_trials(pending, problem).ids_T
    assert ids_T[-1] == TOKENIZER.vocabulary.pending
    with_it, without = (
        engine.read([problem], [TOKENIZER.encode_trials(s, problem)])
        for s in (pending, study.rows(slice(0, 4)))
    )
    assert np.abs(with_it.hidden_BD - without.hidden_BD).max() > 1e-3


@pytest.mark.parametrize(
    ("size", "least", "want"), [(0, 1, 1), (1, 1, 1), (5, 1, 8), (8, 1, 8), (9, 1, 16), (3, 64, 64)]
)
def test_sizes_round_up_to_powers_of_two(size: int, least: int, want: int) -> None:
    assert size_class(size, least) == want
