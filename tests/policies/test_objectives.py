"""Several objectives as one: better in all of them is better."""

import dataclasses

import numpy as np

from optformer.policies.config import PolicyConfig
from optformer.policies.model import OptFormer
from optformer.policies.objectives import scalarize
from optformer.study import Goal, Metric, State, Study
from tests.studies import plane

PROBLEM = dataclasses.replace(
    plane(2),
    metrics=(
        Metric(name="latency", goal=Goal.MINIMIZE),
        Metric(name="safe", safety_threshold=0.0),
        Metric(name="accuracy"),
    ),
)


def study(trials: int) -> Study:
    rng = np.random.default_rng(trials)
    states_R = np.zeros(trials, np.int8)
    states_R[2::5] = State.ACTIVE
    return Study(
        problem=PROBLEM,
        values_RP=rng.random((trials, 2)),
        metrics_RM=np.where(
            (states_R == State.COMPLETED)[:, None], rng.random((trials, 3)), np.nan
        ),
        states_R=states_R,
    )


def test_what_another_trial_dominates_is_worth_no_more_in_any_direction() -> None:
    before = study(30)
    gains_RM = before.metrics_RM[:, [0, 2]] * [-1, 1]
    done_R = np.flatnonzero(before.states_R == State.COMPLETED)
    tops = set()
    for seed in range(20):
        after = scalarize(before, np.random.default_rng(seed))
        worth_R = after.metrics_RM[:, 0]
        np.testing.assert_array_equal(np.isfinite(worth_R), before.states_R == State.COMPLETED)
        for one in done_R:
            for other in done_R:
                if (gains_RM[one] > gains_RM[other]).all():
                    assert worth_R[one] > worth_R[other]
                elif (gains_RM[one] >= gains_RM[other]).all():
                    assert worth_R[one] >= worth_R[other]
        tops.add(int(np.nanargmax(worth_R)))
    assert len(tops) > 1  # directions differ


def test_extremes_of_a_front_and_objectives_that_do_not_vary_keep_their_meaning() -> None:
    def worth(metrics_RM: list[list[float]], seed: int = 0) -> np.ndarray:
        values_RM = np.insert(np.array(metrics_RM, dtype=np.float64), 1, 0.0, axis=1) * [-1, 1, 1]
        some = dataclasses.replace(
            study(len(values_RM)),
            metrics_RM=values_RM,
            states_R=np.zeros(len(values_RM), np.int8),
        )
        return scalarize(some, np.random.default_rng(seed)).metrics_RM[:, 0]

    assert (np.diff(worth([[1, 5], [2, 5], [3, 5]])) > 0).all()
    # Each end of a front counts for more than what is worst in everything, in some direction.
    front = [worth([[0, 3], [1, 1], [3, 0], [0, 0]], seed) for seed in range(10)]
    assert any(first > worst for first, _, _, worst in front)
    assert any(last > worst for _, _, last, worst in front)
    assert np.isfinite(worth([[1, 5], [1, 5]])).all()


def test_suggestions_for_several_objectives_are_legal_and_reproducible(model: OptFormer) -> None:
    policy = PolicyConfig(candidates=8, uniform=8)
    for trials in (0, 6):
        values_NP = model.propose(study(trials), 3, policy=policy, seed=1)
        assert values_NP.shape == (3, 2)
        assert ((values_NP >= 0) & (values_NP <= 1)).all()
        np.testing.assert_array_equal(
            values_NP, model.propose(study(trials), 3, policy=policy, seed=1)
        )
