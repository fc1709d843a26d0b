"""Points to rank beside the model's own: what experts expect of them, and where they are."""

import numpy as np
import pytest
import scipy.stats
from scipy.integrate import trapezoid

from optformer.model import experts
from optformer.policies import candidates
from optformer.policies.trust import everywhere
from optformer.space import to_natural, to_units
from optformer.study import Parameter, ParameterType, Scale
from optformer.tokenization.tokenizer import StudyTokenizer
from tests.studies import CONDITIONAL, MIXED, plane

FREEDOM = 30.0


@pytest.fixture
def posterior() -> experts.Posterior:
    """Of a parabola with its maximum at 0.6 of both parameters."""
    units_RP = np.random.default_rng(0).random((15, 2))
    values_R = 0.8 - ((units_RP - 0.6) ** 2).sum(1)
    return experts.condition(
        units_RP, values_R, np.zeros(15, dtype=bool), np.ones(2, dtype=bool), 1000
    )


@pytest.mark.parametrize("scale", [0.01, 0.05, 0.3])
def test_expected_improvement_is_that_of_truncated_predictions(
    posterior: experts.Posterior, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of means inside the range and outside of it; it grows with the mean up to the end."""
    mean_N = np.linspace(-0.5, 0.8, 14)  # under the first warp the range is -0.5 to 0.5

    def predict(posterior: object, units_NP: object, experts_M: np.ndarray) -> tuple:
        shape = len(mean_N), len(experts_M)
        return np.broadcast_to(mean_N[:, None], shape), np.full(shape, scale)

    monkeypatch.setattr(candidates.experts, "predict", predict)
    log_weights_E = np.full(experts.EXPERTS, -np.inf)
    log_weights_E[0] = 0.0
    got_N = candidates.expected_improvement(
        posterior, log_weights_E, np.zeros((len(mean_N), 2)), 0.7, values=401
    )
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


def test_what_is_sifted_is_expected_to_be_better_and_found_near_the_maximum(
    posterior: experts.Posterior,
) -> None:
    tokenizer = StudyTokenizer()
    problem = tokenizer.encode_problem(plane(2), "")
    rng = np.random.default_rng(1)
    ids_NP = candidates.ids_of_units(problem, tokenizer, rng.random((200, 2)))
    weights_G = np.log(np.full(1 + experts.EXPERTS, 1.0 / (1 + experts.EXPERTS)))
    weights_G[1:] = posterior.evidence_E - posterior.evidence_E.max()
    sifted_MP = candidates.sift(
        ids_NP, 10, posterior, weights_G, 0.78, problem, tokenizer, everywhere(plane(2)), rng
    )
    assert sifted_MP.shape == (10, 2)

    def gain(ids: np.ndarray) -> np.ndarray:
        units = candidates.units_of_ids(ids, tokenizer)
        return candidates.expected_improvement(posterior, weights_G[1:], units, 0.78)

    assert gain(sifted_MP).min() >= np.sort(gain(ids_NP))[-10]
    units_MP = candidates.units_of_ids(sifted_MP, tokenizer)
    assert np.abs(units_MP - 0.6).max() < 0.25


@pytest.mark.parametrize("problem", [MIXED, CONDITIONAL, plane(3)], ids=lambda each: each.name)
def test_points_of_the_unit_cube_become_legal_tokens_and_come_back(problem) -> None:
    tokenizer = StudyTokenizer()
    encoded = tokenizer.encode_problem(problem, "")
    units_NQ = np.random.default_rng(2).random((50, len(problem.parameters)))
    ids_NP = candidates.ids_of_units(encoded, tokenizer, units_NQ)
    legal = tokenizer.legal_tokens(encoded)
    inactive = tokenizer.vocabulary.inactive - tokenizer.vocabulary.first_output
    for column, allowed_O in enumerate(legal.tokens_PO):
        given = ids_NP[:, column] != inactive
        assert allowed_O[ids_NP[given, column]].all()
    back_NP = candidates.units_of_ids(ids_NP, tokenizer)
    again_NP = candidates.ids_of_units(
        encoded, tokenizer, np.nan_to_num(candidates.in_study_order(back_NP, encoded), nan=0.5)
    )
    np.testing.assert_array_equal(again_NP, ids_NP)


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
