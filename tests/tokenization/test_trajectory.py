"""The layout of a trial's tokens, and the legal tokens at each step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optformer.study import Problem, Study, from_trials, to_trials
from optformer.tokenization import trajectory
from optformer.tokenization.tokenizer import StudyTokenizer
from optformer.tokenization.trajectory import METRIC_SLOTS, Role, TrialLayout
from tests.studies import CONDITIONAL, MIXED
from tests.tokenization.released import released_tokenizer
from tests.tokenization.spaces import problems

TOKENIZER = StudyTokenizer()
VOCABULARY = TOKENIZER.vocabulary
LAYOUTS = [
    TrialLayout(parameters=3, metrics=2),
    TrialLayout(parameters=2, metrics=1, separators=True),
    TrialLayout(parameters=2, metrics=1, separators=True, prefix=(5,)),
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_roles_slots_and_positions_agree(layout: TrialLayout) -> None:
    roles_L, slots_L = layout.roles(), layout.slots()
    assert len(roles_L) == len(slots_L) == layout.length
    assert np.flatnonzero(roles_L == Role.VALUE)[0] == layout.first_value
    np.testing.assert_array_equal(slots_L == 0, roles_L == Role.SEPARATOR)
    np.testing.assert_array_equal(slots_L > METRIC_SLOTS, roles_L == Role.PARAMETER)
    used = slots_L[slots_L > 0]
    assert len(set(used.tolist())) == len(used) == layout.parameters + layout.metrics


@pytest.mark.parametrize("tokenizer", [TOKENIZER, released_tokenizer()])
def test_arranged_tokens_stand_at_the_positions_of_their_roles(tokenizer: StudyTokenizer) -> None:
    layout = tokenizer.layout(MIXED)
    parameter_ids_RP = np.arange(8).reshape(2, 4)
    ids_RL = layout.arrange(parameter_ids_RP, np.array([[100], [101]]), tokenizer.vocabulary)
    np.testing.assert_array_equal(ids_RL[:, layout.roles() == Role.PARAMETER], parameter_ids_RP)
    np.testing.assert_array_equal(ids_RL[:, layout.first_value], [100, 101])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tokens", [0, 3, 6, 50, 51, 52])
def test_trials_in_is_the_largest_number_that_fits(layout: TrialLayout, tokens: int) -> None:
    trials = layout.trials_in(tokens)
    # Arrays hold a whole number of trials, and the prefix takes the room of one.
    room = tokens // layout.length * layout.length
    assert trials == 0 or len(layout.prefix) + trials * layout.length <= room
    assert len(layout.prefix) + (trials + 1) * layout.length > room


def test_a_child_is_legal_only_with_a_value_of_its_parent() -> None:
    encoded = TOKENIZER.encode_problem(CONDITIONAL, "random_search")
    legal = TOKENIZER.legal_tokens(encoded)
    kernels = [parameter.name for parameter in CONDITIONAL.parameters].index("kernel")
    rbf, poly, linear = np.flatnonzero(legal.tokens_PO[kernels])
    active_PO = legal.parent_tokens_PCO[:, 0]
    assert legal.parent_PC[:, 0].tolist() == [-1, kernels, kernels]
    assert active_PO[1, [rbf, poly, linear]].tolist() == [True, True, False]
    assert active_PO[2, [rbf, poly, linear]].tolist() == [False, True, False]


@settings(max_examples=100, deadline=None)
@given(problem=problems(), seed=st.integers(0, 2**32))
def test_every_legal_sequence_decodes_to_a_valid_trial(problem: Problem, seed: int) -> None:
    """Tokens drawn at random from the legal ones, parents first, obey the search space."""
    rng = np.random.default_rng(seed)
    order_P = trajectory.random_order(problem, rng)
    encoded = TOKENIZER.encode_problem(problem, "random_search", order_P=order_P)
    legal = TOKENIZER.legal_tokens(encoded)
    tokens_1P = np.zeros((1, len(order_P)), dtype=np.int64)
    for step in range(len(order_P)):
        parents = legal.parent_PC[step]
        met = [
            legal.parent_tokens_PCO[step, column, tokens_1P[0, parent]]
            for column, parent in enumerate(parents)
            if parent >= 0
        ]
        active = any(met) or not len(met)
        choices = np.flatnonzero(legal.tokens_PO[step]) if active else [legal.inactive]
        tokens_1P[0, step] = rng.choice(choices)
    values_1P = TOKENIZER.decode_parameters(encoded, tokens_1P + VOCABULARY.first_output, rng)
    study = Study(
        problem=problem,
        values_RP=values_1P,
        metrics_RM=np.zeros((1, len(problem.metrics))),
        states_R=np.zeros(1, dtype=np.int8),
    )
    again = from_trials(problem, to_trials(study))
    np.testing.assert_array_equal(again.values_RP, values_1P)
