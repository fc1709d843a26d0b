"""Running trials take from points near them what they may gain themselves."""

import numpy as np

from optformer.model import experts
from optformer.model.points import Coordinates
from optformer.policies.pending import Pending
from optformer.tokenization.tokenizer import StudyTokenizer
from tests.studies import plane

TOKENIZER = StudyTokenizer()
COORDINATES = Coordinates(problem=TOKENIZER.encode_problem(plane(2), ""), tokenizer=TOKENIZER)


def pending(measured: int, running_JP: np.ndarray) -> Pending:
    rng = np.random.default_rng(0)
    trials = COORDINATES.of_units(np.concatenate([rng.random((measured, 2)), running_JP]))
    values_R = 0.8 - ((trials.units_NP - 0.5) ** 2).sum(1)
    waits_R = np.arange(len(trials)) >= measured
    values_R[waits_R] = np.nan
    posterior = experts.condition(trials.inputs_NK, values_R, waits_R, np.ones(2, bool), 1000)
    weights_E = posterior.evidence_E - posterior.evidence_E.max()
    best = float(np.nanmax(values_R, initial=0.0))
    return Pending.of(posterior, weights_E, best, rng)


def test_nothing_is_taken_where_nothing_runs() -> None:
    points = COORDINATES.of_units(np.random.default_rng(1).random((20, 2)))
    np.testing.assert_array_equal(pending(5, np.empty((0, 2))).left(points), 1.0)


def test_less_is_left_near_a_running_trial() -> None:
    for measured in (0, 6):
        points = COORDINATES.of_units(np.array([[0.3, 0.3], [0.31, 0.3], [0.4, 0.4], [0.9, 0.8]]))
        left_N = pending(measured, np.array([[0.3, 0.3]])).left(points)
        assert ((left_N >= 0) & (left_N <= 1)).all()
        assert left_N[0] < 0.3 * left_N[3]
        assert left_N[0] <= left_N[1] < left_N[2] < left_N[3]
