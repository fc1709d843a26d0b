"""Encoding and decoding any study returns the same study, up to the width of a bin."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optformer import space
from optformer.errors import StudyError
from optformer.space import number_of_levels
from optformer.study import (
    Goal,
    Metric,
    Parameter,
    ParameterType,
    Problem,
    State,
    Study,
)
from optformer.tokenization import quantize, trajectory
from optformer.tokenization.metadata import MetadataOptions
from optformer.tokenization.tokenizer import StudyTokenizer
from optformer.tokenization.trajectory import Role
from tests.studies import MIXED, plane, random_study
from tests.tokenization.spaces import studies

TOKENIZER = StudyTokenizer()
VOCABULARY = TOKENIZER.vocabulary


@settings(max_examples=150, deadline=None)
@given(study=studies(), seed=st.integers(0, 2**32))
def test_decoding_returns_the_trials_up_to_a_bin(study: Study, seed: int) -> None:
    """For any space, in any legal order: discrete values exactly, numbers within a bin."""
    order_P = trajectory.random_order(study.problem, np.random.default_rng(seed))
    problem = TOKENIZER.encode_problem(study.problem, "random_search", order_P=order_P)
    trials = TOKENIZER.encode_trials(study, problem)
    count, length = len(study.problem.parameters), problem.layout.length
    ids_RL = trials.ids_T.reshape(len(study), length).astype(np.int64)
    values_RP = TOKENIZER.decode_parameters(problem, ids_RL[:, :count])
    np.testing.assert_array_equal(np.isnan(values_RP), np.isnan(study.values_RP))
    for column, parameter in enumerate(study.problem.parameters):
        given_R = ~np.isnan(study.values_RP[:, column])
        want_R, got_R = study.values_RP[given_R, column], values_RP[given_R, column]
        bins = int(quantize.value_bins(parameter, VOCABULARY.bins).sum())
        if bins == number_of_levels(parameter):
            np.testing.assert_array_equal(got_R, want_R)
        else:
            # Under a logarithmic scale several whole numbers may share a bin.
            np.testing.assert_array_less(
                np.abs(
                    space.column_to_units(parameter, got_R)
                    - space.column_to_units(parameter, want_R)
                ),
                1.01 / VOCABULARY.bins,
            )
    metrics_RM = TOKENIZER.decode_metrics(ids_RL[:, count:], trials.scalings)
    np.testing.assert_array_equal(np.isnan(metrics_RM), np.isnan(study.metrics_RM))
    for column, scaling in enumerate(trials.scalings):
        measured_R = ~np.isnan(study.metrics_RM[:, column])
        difference_R = scaling.to_units(metrics_RM[measured_R, column]) - scaling.to_units(
            study.metrics_RM[measured_R, column]
        )
        np.testing.assert_array_less(np.abs(difference_R), 1.01 / VOCABULARY.bins)


@settings(max_examples=50, deadline=None)
@given(study=studies(), seed=st.integers(0, 2**32))
def test_the_order_of_parameters_changes_nothing_else(study: Study, seed: int) -> None:
    """Each parameter keeps its tokens and the text of its slot at any position; parents first."""
    order_P = trajectory.random_order(study.problem, np.random.default_rng(seed))
    plain, mixed = (
        TOKENIZER.encode_problem(study.problem, "gp_ucb", order_P=order)
        for order in (np.arange(len(order_P)), order_P)
    )
    np.testing.assert_array_equal(np.sort(order_P), np.arange(len(order_P)))
    place = {study.problem.parameters[index].name: at for at, index in enumerate(order_P)}
    for parameter in study.problem.parameters:
        for condition in parameter.conditions:
            assert place[condition.parent] < place[parameter.name]
    ids_RP = TOKENIZER.parameter_ids(study.problem, study.values_RP)
    tokens_RL = TOKENIZER.encode_trials(study, mixed).ids_T.reshape(len(study), mixed.layout.length)
    np.testing.assert_array_equal(tokens_RL[:, : len(order_P)], ids_RP[:, order_P])
    for at, index in enumerate(order_P):
        here, there = (trajectory.METRIC_SLOTS + 1 + i for i in (at, int(index)))
        np.testing.assert_array_equal(
            mixed.ids_S[mixed.slots_S == here], plain.ids_S[plain.slots_S == there]
        )


def test_a_trial_has_a_token_for_each_parameter_and_metric() -> None:
    study = random_study(MIXED, 5, np.random.default_rng(0))
    problem = TOKENIZER.encode_problem(MIXED, "random_search")
    trials = TOKENIZER.encode_trials(study, problem)
    assert len(trials.ids_T) == 5 * (4 + 1)
    np.testing.assert_array_equal(trials.roles_T[:5], [Role.PARAMETER] * 4 + [Role.VALUE])
    np.testing.assert_array_equal(trials.trials_T, np.repeat(np.arange(5), 5))


def test_statuses_are_tokens_and_pending_ones_have_no_loss() -> None:
    study = random_study(plane(1), 3, np.random.default_rng(0))
    study = Study(
        problem=study.problem,
        values_RP=study.values_RP,
        metrics_RM=np.array([[1.0], [np.nan], [np.nan]]),
        states_R=np.array([State.COMPLETED, State.INFEASIBLE, State.ACTIVE], dtype=np.int8),
    )
    trials = TOKENIZER.encode_trials(study, TOKENIZER.encode_problem(study.problem, "x"))
    assert trials.ids_T[3] == VOCABULARY.infeasible
    assert trials.ids_T[5] == VOCABULARY.pending
    np.testing.assert_array_equal(trials.weights_T, [1, 1, 1, 1, 1, 0])


def test_a_better_metric_has_a_higher_bin_whatever_the_goal() -> None:
    for goal, best in ((Goal.MAXIMIZE, 9.0), (Goal.MINIMIZE, -9.0)):
        problem = Problem(parameters=plane(1).parameters, metrics=(Metric(name="y", goal=goal),))
        study = Study(
            problem=problem,
            values_RP=np.full((3, 1), 0.5),
            metrics_RM=np.array([[0.0], [best], [best / 2]]),
            states_R=np.zeros(3, dtype=np.int8),
        )
        ids_R = TOKENIZER.metric_ids(study, TOKENIZER.fit_scalings(study))[:, 0]
        # The history's range is mapped to [0.2, 0.8].
        np.testing.assert_allclose(ids_R - VOCABULARY.first_bin, [200, 800, 500], atol=1)


def test_exact_distributions_have_the_scaling_of_their_metric() -> None:
    """With the metric itself as mean, the scaled mean is the scaled metric, for both goals."""
    for goal in Goal:
        problem = Problem(parameters=plane(1).parameters, metrics=(Metric(name="y", goal=goal),))
        metric_R = np.array([3.0, -1.0, 2.0])
        study = Study(
            problem=problem,
            values_RP=np.full((3, 1), 0.5),
            metrics_RM=metric_R[:, None],
            states_R=np.zeros(3, dtype=np.int8),
            predictive_R2=np.stack([metric_R, np.full(3, 0.4)], axis=1),
        )
        trials = TOKENIZER.encode_trials(study, TOKENIZER.encode_problem(problem, "x"))
        units_R = trials.scalings[0].to_units(metric_R)
        np.testing.assert_allclose(trials.predictive_T2[1::2, 0], units_R, atol=1e-6)
        # The metric's range of 4 maps to an interval of length 0.6.
        np.testing.assert_allclose(trials.predictive_T2[1::2, 1], 0.4 * 0.6 / 4, atol=1e-6)
        assert not trials.predictive_T2[::2].any()


def test_options_choose_the_parts_of_the_text() -> None:
    everything = VOCABULARY.text(TOKENIZER.encode_problem(MIXED, "gp_ucb").ids_S.tolist())
    assert everything == (
        'title="svc on wine",algorithm=gp_ucb,metric="accuracy",MAXIMIZE'
        '&name="C",DOUBLE,LOG,0.01,100'
        '&name="depth",INTEGER,LINEAR,7,1,7'
        '&name="batch",DISCRETE,3,16,32,64'
        '&name="kernel",CATEGORICAL,3,"rbf","poly","linear"'
    )
    described = dataclasses.replace(
        MIXED,
        parameters=(dataclasses.replace(MIXED.parameters[0], default=1.0),),
        metadata=(("описание", "a wide search"),),
    )
    assert VOCABULARY.text(TOKENIZER.encode_problem(described, "gp_ucb").ids_S.tolist()) == (
        'title="svc on wine",algorithm=gp_ucb,metric="accuracy",MAXIMIZE,"описание"="a wide search"'
        '&name="C",DOUBLE,LOG,0.01,100,default=1'
    )
    bare = TOKENIZER.encode_problem(
        MIXED, "gp_ucb", text=MetadataOptions(names=False, values=False)
    )
    assert VOCABULARY.text(bare.ids_S.tolist()) == (
        "algorithm=gp_ucb,MAXIMIZE&DOUBLE,LOG&INTEGER,LINEAR,7&DISCRETE,3&CATEGORICAL,3"
    )


def test_a_problem_that_does_not_fit_the_vocabulary_is_rejected_with_the_reason() -> None:
    many = tuple(str(index) for index in range(1001))
    problem = Problem(
        name="huge",
        parameters=(Parameter(name="word", type=ParameterType.CATEGORICAL, values=many),),
        metrics=(Metric(name="y"),),
    )
    with pytest.raises(StudyError, match=r"'huge'.*'word' has 1001 values.*1000 bins"):
        TOKENIZER.encode_problem(problem, "random_search")
