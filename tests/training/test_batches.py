"""Batches: reproducible, complete, and aligned."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from optformer.errors import SourceError
from optformer.study import Study
from optformer.tokenization.tokenizer import EncodedProblem, EncodedTrials, StudyTokenizer
from optformer.tokenization.trajectory import Role
from optformer.training.augment import AugmentConfig, augment
from optformer.training.batches import BatchConfig, Batches, StudySource, pack
from tests.studies import MIXED, plane, random_study
from tests.tokenization.released import released_tokenizer

TOKENIZER = StudyTokenizer()
CONFIG = BatchConfig(rows=4, tokens=96, text_tokens=256)
STUDIES = [
    random_study(problem, trials, np.random.default_rng(trials))
    for problem in (MIXED, plane(1), plane(3))
    for trials in range(3, 15)
]


def batches(
    seed: int = 0, config: BatchConfig = CONFIG, tokenizer: StudyTokenizer = TOKENIZER
) -> Batches:
    return Batches([(StudySource(STUDIES), 1.0)], tokenizer, config, seed)


def test_a_batch_depends_only_on_seed_and_number() -> None:
    one, two = batches(), batches()
    for step in (5, 3, 4):
        for got, want in zip(one[step], two[step], strict=True):
            np.testing.assert_array_equal(got, want)
    assert not np.array_equal(batches(1)[3].targets_BT, one[3].targets_BT)


@pytest.mark.parametrize("tokenizer", [TOKENIZER, released_tokenizer()])
def test_inputs_are_targets_shifted_by_one_within_a_study(tokenizer: StudyTokenizer) -> None:
    for step in range(5):
        batch = batches(tokenizer=tokenizer)[step]
        inside_BT = batch.segments_BT[:, 1:] == batch.segments_BT[:, :-1]
        inside_BT &= batch.segments_BT[:, 1:] > 0
        np.testing.assert_array_equal(
            batch.inputs_BT[:, 1:][inside_BT], batch.targets_BT[:, :-1][inside_BT]
        )
        starts_BT = np.diff(batch.segments_BT, axis=1, prepend=0) != 0
        assert (batch.inputs_BT[starts_BT] == 0).all()


def test_places_count_trials() -> None:
    batch = batches(config=BatchConfig(rows=1, tokens=96, text_tokens=256))[0]
    length = int(np.argmax(batch.roles_BT[0] == Role.VALUE)) + 1
    assert batch.trials_T[0] == 0
    np.testing.assert_array_equal(batch.trials_T[1 : 1 + length], 1)
    assert batch.trials_T[1 + length] == 2


def test_rows_are_aligned_if_a_prefix_precedes_the_first_trial() -> None:
    """All studies of a row share the positions of trials, and the prefix has no loss."""
    batch = batches(tokenizer=released_tokenizer())[0]
    for segments_T, roles_T, weights_T, inputs_T in zip(
        batch.segments_BT, batch.roles_BT, batch.weights_BT, batch.inputs_BT, strict=True
    ):
        for segment in range(1, segments_T.max() + 1):
            start = int(np.argmax(segments_T == segment))
            value = start + int(np.argmax(roles_T[start:] == Role.VALUE))
            # All inputs before the prediction of its value belong to the first trial.
            np.testing.assert_array_equal(
                batch.trials_T[start + 2 : value + 1], batch.trials_T[start] + 1
            )
            assert weights_T[start] == 0
            assert (inputs_T[start], roles_T[start]) == (0, Role.NOTHING)


def test_only_continuous_quantities_are_smooth() -> None:
    problem = TOKENIZER.encode_problem(MIXED, "random_search")
    study = random_study(MIXED, 4, np.random.default_rng(0))
    batch = pack([(problem, TOKENIZER.encode_trials(study, problem))], TOKENIZER, CONFIG)
    # C is a number; depth, batch and kernel have a few values; then the metric.
    np.testing.assert_array_equal(batch.smooth_BT[0, :5], [True, False, False, False, True])


def test_a_row_is_filled_with_several_studies() -> None:
    batch = batches()[0]
    assert batch.segments_BT.max() > 1
    assert (batch.weights_BT > 0).mean() > 0.5


def test_pending_trials_have_no_weight() -> None:
    config = BatchConfig(
        rows=4, tokens=96, text_tokens=256, augment=AugmentConfig(pending=1.0, prefix=1.0)
    )
    weights, pending = [], TOKENIZER.vocabulary.pending
    for step in range(8):
        batch = batches(config=config)[step]
        weights.extend(batch.weights_BT[batch.targets_BT == pending])
    assert weights
    assert not any(weights)


def test_texts_that_never_fit_are_an_error() -> None:
    config = BatchConfig(rows=1, tokens=64, text_tokens=8)
    with pytest.raises(SourceError, match=r"no study's text fits batch\.text_tokens=8"):
        batches(config=config)[0]
    with pytest.raises(SourceError, match="no studies to train on"):
        StudySource([])


def test_only_the_optimum_has_a_parameter_loss_under_its_prompt() -> None:
    """The random trials before it are inputs only, except that their metrics are predicted."""
    study = random_study(plane(2), 6, np.random.default_rng(0), algorithm="optimum")
    for most_tokens, imitated in ((18, [15, 16]), (12, [])):
        _, trials = augment(
            study, TOKENIZER, AugmentConfig(pending=0.0), most_tokens, np.random.default_rng(0)
        )
        counts_T = (trials.weights_T > 0) & (trials.roles_T == Role.PARAMETER)
        assert np.flatnonzero(counts_T).tolist() == imitated
        assert (trials.weights_T[trials.roles_T == Role.VALUE] == 1).all()


def test_the_length_of_rows_follows_their_studies_at_a_constant_batch_size() -> None:
    """The longest study decides; the number of tokens in the batch does not change."""
    short, long = (random_study(plane(2), n, np.random.default_rng(0)) for n in (7, 30))
    config = BatchConfig(rows=2, tokens=96, text_tokens=256)

    def shape(*studies: Study) -> tuple[int, ...]:
        problems = [TOKENIZER.encode_problem(study.problem, "") for study in studies]
        examples = [
            (problem, TOKENIZER.encode_trials(study, problem))
            for problem, study in zip(problems, studies, strict=True)
        ]
        return pack(examples, TOKENIZER, config).inputs_BT.shape

    assert shape(*[short] * 8) == (8, 24)
    assert shape(*[short] * 8, long) == (2, 96)


def test_long_texts_are_shortened() -> None:
    study = random_study(MIXED, 4, np.random.default_rng(0))
    everything = AugmentConfig(names=1.0, values=1.0)
    lengths = {
        most: len(
            augment(study, TOKENIZER, everything, 96, np.random.default_rng(0), most)[0].ids_S
        )
        for most in (None, 50, 1)
    }
    assert lengths[None] > 50 >= lengths[50] >= lengths[1]


def test_every_trial_of_a_long_random_search_is_in_some_batch() -> None:
    """Of 200 trials, 32 fit: each time another random subset in random order."""
    study = random_study(plane(2), 200, np.random.default_rng(0), algorithm="random_search")
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(60):
        config = AugmentConfig(shuffle=0.0, pending=0.0)
        _, trials = augment(study, TOKENIZER, config, 96, rng)
        assert len(trials.ids_T) == 96
        seen |= {tuple(row) for row in trials.ids_T.reshape(-1, 3)[:, :2].tolist()}
    all_ids = TOKENIZER.parameter_ids(study.problem, study.values_RP)
    assert seen == {tuple(row) for row in all_ids.tolist()}


def test_trials_whose_order_matters_keep_it() -> None:
    whole = random_study(plane(2), 200, np.random.default_rng(0), algorithm="gp_ucb")
    known = dataclasses.replace(
        whole, algorithm="random_search", predictive_R2=np.ones((len(whole), 2))
    )
    for study in (whole, known):
        rng = np.random.default_rng(1)
        _, trials = augment(study, TOKENIZER, AugmentConfig(shuffle=0.0, pending=0.0), 96, rng)
        first = TOKENIZER.parameter_ids(study.problem, study.values_RP)[:32]
        np.testing.assert_array_equal(trials.ids_T.reshape(-1, 3)[:, :2], first)


def test_studies_beyond_the_last_row_are_never_encoded() -> None:
    study = random_study(plane(2), 40, np.random.default_rng(0))
    taken = []

    def examples() -> Iterator[tuple[EncodedProblem, EncodedTrials]]:
        for number in range(100):
            taken.append(number)
            yield augment(study, TOKENIZER, AugmentConfig(), 96, np.random.default_rng(number))

    assert pack(examples(), TOKENIZER, CONFIG, longest=96).inputs_BT.shape == (4, 96)
    assert len(taken) == CONFIG.rows + 1
