"""Points to rank beside the model's own: what experts expect of them, and where they are."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
from scipy.integrate import trapezoid

from optformer.model import experts
from optformer.model.points import Coordinates, Points
from optformer.policies import candidates
from optformer.policies.feasibility import Feasibility
from optformer.policies.trust import everywhere
from optformer.policies.view import View
from optformer.space import to_natural, to_units
from optformer.study import Parameter, ParameterType, Problem, Scale
from optformer.tokenization.tokenizer import StudyTokenizer
from tests.studies import plane, random_study

FREEDOM = 30.0


TOKENIZER = StudyTokenizer()


def coordinates(problem: Problem) -> Coordinates:
    return Coordinates(problem=TOKENIZER.encode_problem(problem, ""), tokenizer=TOKENIZER)


@pytest.fixture
def view() -> View:
    """Of a parabola with its maximum at 0.6 of both parameters."""
    points = coordinates(plane(2)).of_units(np.random.default_rng(0).random((15, 2)))
    values_R = 0.8 - ((points.units_NP - 0.6) ** 2).sum(1)
    posterior = experts.condition(
        points.inputs_NK, values_R, np.zeros(15, dtype=bool), np.ones(2, dtype=bool), 1000
    )
    return View(
        study=dataclasses.replace(
            random_study(plane(2), 15, np.random.default_rng(0)),
            values_RP=points.values_NP,
            metrics_RM=values_R[:, None],
        ),
        coordinates=coordinates(plane(2)),
        trials=points,
        values_R=values_R,
        kept_R=np.ones(15, dtype=bool),
        region=everywhere(plane(2)),
        feasibility=Feasibility(),
        posterior=posterior,
        log_weights_E=posterior.evidence_E - posterior.evidence_E.max(),
        pending=None,
    )


@pytest.mark.parametrize("scale", [0.01, 0.05, 0.3])
def test_expected_improvement_is_that_of_truncated_predictions(
    view: View, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of means inside the range and outside of it; it grows with the mean up to the end."""
    mean_N = np.linspace(-0.5, 0.8, 14)  # under the first warp the range is -0.5 to 0.5
    posterior = view.posterior
    assert posterior is not None

    def predict(self: object, points: Points, experts_M: np.ndarray) -> experts.Predictions:
        shape = len(mean_N), len(experts_M)
        return experts.Predictions(
            mean_NM=np.broadcast_to(mean_N[:, None], shape),
            scale_NM=np.full(shape, scale),
            warp_M=experts_M // len(experts.KERNELS),
            freedom=posterior.freedom,
        )

    monkeypatch.setattr(experts.Posterior, "predict", predict)
    log_weights_E = np.full(experts.EXPERTS, -np.inf)
    log_weights_E[0] = 0.0
    points = view.coordinates.of_units(np.zeros((len(mean_N), 2)))
    got_N = candidates.expected_improvement(posterior, log_weights_E, points, 0.7, values=401)
    assert (np.diff(got_N[mean_N < 0.5 + scale]) > 0).all()
    # Student's distribution as Wallace has it: of a normal score.
    grid_V = np.linspace(-0.5, 0.5, 20_001)
    for mean, got in zip(mean_N, got_N, strict=True):
        score_V = experts.normal_score((grid_V - mean) / scale, posterior.freedom)
        sign = -1.0 if mean > 0.5 else 1.0
        below_V = sign * scipy.stats.norm.sf(-sign * score_V)
        below_V = (below_V - below_V[0]) / (below_V[-1] - below_V[0])
        better_V = grid_V >= 0.2
        want = trapezoid(1.0 - below_V[better_V], grid_V[better_V])
        np.testing.assert_allclose(got, want, rtol=0.02, atol=1e-9)


def test_what_is_sifted_is_expected_to_be_better_and_found_near_the_maximum(view: View) -> None:
    rng = np.random.default_rng(1)
    points = view.coordinates.of_units(rng.random((200, 2)))
    assert view.posterior is not None and view.log_weights_E is not None
    sifted = candidates.sift(points, 10, view, rng)
    assert len(sifted) == 10

    def gain(points: Points) -> np.ndarray:
        return candidates.expected_improvement(
            view.posterior, view.log_weights_E, points, view.best
        )

    assert gain(sifted).min() >= np.sort(gain(points))[-10]
    assert np.abs(sifted.units_NP - 0.6).max() < 0.25


def test_local_points_lie_around_the_best_trials(view: View) -> None:
    rng = np.random.default_rng(0)
    units_NP = candidates.near_best(view, 200, rng)
    assert ((units_NP >= 0) & (units_NP <= 1)).all()
    best_KP = view.trials.units_NP[np.argsort(-view.values_R)[:3]]
    distance_NK = np.abs(units_NP[:, None] - best_KP).max(axis=2)
    assert np.median(distance_NK.min(axis=1)) < 0.1
    assert (distance_NK.min(axis=1) > 0).all()
    nothing = dataclasses.replace(
        view, study=view.study.rows([]), kept_R=view.kept_R[:0], values_R=view.values_R[:0]
    )
    assert np.ptp(candidates.near_best(nothing, 200, rng), axis=0).min() > 0.9


def test_near_points_stay_in_the_cube_and_keep_some_coordinates() -> None:
    centre_KP = np.array([[0.02, 0.5, 0.97]])
    parameters = [
        Parameter(name=name, type=ParameterType.DOUBLE, bounds=(0.0, 1.0)) for name in "abc"
    ]
    points_NP = candidates.near(parameters, centre_KP, 500, np.random.default_rng(3))
    assert ((points_NP >= 0) & (points_NP <= 1)).all()
    kept_NP = points_NP == centre_KP
    assert 0.3 < kept_NP.mean() < 0.7
    assert not kept_NP.all(axis=1).any()


FEW = [
    Parameter(name="kind", type=ParameterType.CATEGORICAL, values=("a", "b", "c", "d", "e")),
    Parameter(name="flag", type=ParameterType.CATEGORICAL, values=("no", "yes")),
    Parameter(name="depth", type=ParameterType.INTEGER, bounds=(1, 4)),
    Parameter(name="bit", type=ParameterType.INTEGER, bounds=(0, 1)),
    Parameter(name="width", type=ParameterType.INTEGER, bounds=(1, 1024), scale=Scale.LOG),
    Parameter(name="size", type=ParameterType.DISCRETE, values=(0.5, 3.0, 100.0)),
    Parameter(name="fixed", type=ParameterType.DISCRETE, values=(7.0,)),
]


@pytest.mark.parametrize(
    "centre", [(0, 0, 1, 0, 1, 0.5, 7), (4, 1, 4, 1, 512, 100.0, 7), (2, 0, 2, 0, 3, 3.0, 7)]
)
def test_near_points_always_have_another_value_where_they_move(centre: tuple) -> None:
    centre_KP = to_units(FEW, np.array([centre], dtype=float))
    units_NP = candidates.near(FEW, centre_KP, 400, np.random.default_rng(4))
    moved_NP = units_NP != centre_KP
    values_NP = to_natural(FEW, units_NP)
    np.testing.assert_array_equal(values_NP != np.array(centre), moved_NP)
    assert moved_NP.any(axis=1).all()
    counts = np.bincount(values_NP[moved_NP[:, 0], 0].astype(int), minlength=5)
    assert (counts > 20).sum() == 4
    # Where values are dense, so are small steps.
    near_N = np.abs(values_NP[moved_NP[:, 4], 4] / centre[4] - 1.0)
    assert centre[4] < 512 or (near_N < 0.1).mean() > 0.2


def test_near_points_move_in_parameters_that_are_active() -> None:
    centre_KP = np.array([[0.3, np.nan, np.nan, np.nan]])
    parameters = [
        Parameter(name=name, type=ParameterType.DOUBLE, bounds=(0.0, 1.0)) for name in "abcd"
    ]
    points_NP = candidates.near(parameters, centre_KP, 100, np.random.default_rng(5))
    assert (points_NP[:, 0] != 0.3).all()
    assert len(np.unique(points_NP[:, 1])) == 100
