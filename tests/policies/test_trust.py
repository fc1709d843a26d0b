"""Where a young study's suggestions may lie."""

import dataclasses

import numpy as np
import pytest

from optformer.policies.model import OptFormer, PolicyConfig, Session
from optformer.policies.trust import TrustRegion, everywhere
from optformer.policies.view import with_pending
from optformer.space import in_cube, to_natural
from optformer.study import Parameter, ParameterType, Problem, Scale, State, Study
from optformer.tokenization.tokenizer import StudyTokenizer, TokenizerOptions
from tests.studies import CONDITIONAL, MIXED, plane, random_study

SPACES = [MIXED, CONDITIONAL, plane(6)]


def completed(problem: Problem, trials: int) -> Study:
    study = random_study(problem, trials, np.random.default_rng(0))
    return dataclasses.replace(
        study,
        metrics_RM=np.linspace(0.0, 1.0, trials)[:, None],
        states_R=np.zeros(trials, dtype=np.int8),
    )


@pytest.mark.parametrize("problem", SPACES, ids=lambda problem: problem.name)
def test_what_is_drawn_lies_inside_and_so_does_what_was_measured(problem: Problem) -> None:
    study = completed(problem, 3)
    region = TrustRegion.of(study)
    units_NP = region.draw(200, np.random.default_rng(1))
    assert ((units_NP >= 0) & (units_NP <= 1)).all()
    assert (region.beyond(units_NP) == 0).all()
    assert (region.beyond(in_cube(problem.parameters, study.values_RP)) == 0).all()


def test_it_grows_with_the_measured_trials_until_it_is_everywhere() -> None:
    study = completed(plane(3), 21)
    corners_NP = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    centre = dataclasses.replace(study, values_RP=np.full((21, 3), 0.5))
    beyond_KN = np.array(
        [TrustRegion.of(centre.rows(slice(count))).beyond(corners_NP) for count in range(1, 22)]
    )
    np.testing.assert_allclose(beyond_KN[0], 0.5 - 0.2 - 0.3 / 20, atol=1e-6)
    assert (np.diff(beyond_KN[:20], axis=0) < 0).all()
    assert (beyond_KN[19:] == 0).all()


def test_trials_without_a_metric_only_widen_it_and_without_any_all_is_trusted() -> None:
    study = completed(plane(2), 4)
    states_R = np.array([State.COMPLETED, State.ACTIVE, State.INFEASIBLE, State.COMPLETED])
    metrics_RM = np.array([[0.0], [np.nan], [np.nan], [1.0]])
    mixed = dataclasses.replace(study, states_R=states_R.astype(np.int8), metrics_RM=metrics_RM)
    region, alone = TrustRegion.of(mixed), TrustRegion.of(study.rows([0, 3]))
    np.testing.assert_array_equal(region.measured_RP, alone.measured_RP)
    # They were looks at the space, too.
    assert (region.reach_P > alone.reach_P).all()
    units_NP = np.random.default_rng(0).random((50, 2))
    for nothing in (TrustRegion.of(mixed.rows([1, 2])), everywhere(plane(2))):
        assert (nothing.beyond(units_NP) == 0).all()
        assert np.ptp(nothing.draw(500, np.random.default_rng(0)), axis=0).min() > 0.95


@pytest.mark.parametrize(
    "parameter",
    [
        Parameter(name="x", type=ParameterType.DISCRETE, values=(1.0, 2.0, 4.0)),
        Parameter(name="x", type=ParameterType.INTEGER, bounds=(1, 3)),
        Parameter(name="x", type=ParameterType.INTEGER, scale=Scale.LOG, bounds=(1, 6)),
        Parameter(name="x", type=ParameterType.INTEGER, scale=Scale.REVERSE_LOG, bounds=(1, 6)),
    ],
    ids=lambda parameter: f"{parameter.type.name} {parameter.scale}",
)
def test_the_neighbours_of_a_measured_value_are_inside(parameter: Parameter) -> None:
    problem = dataclasses.replace(plane(1), parameters=(parameter,))
    values_NP = np.unique(to_natural(problem.parameters, np.linspace(0, 1, 200)[:, None]), axis=0)
    units_NP = in_cube(problem.parameters, values_NP)
    for index in range(len(values_NP)):
        study = dataclasses.replace(completed(problem, 1), values_RP=values_NP[index : index + 1])
        beside = units_NP[max(index - 1, 0) : index + 2]
        assert (TrustRegion.of(study).beyond(beside) == 0).all()


def test_points_outside_come_last_the_nearest_first() -> None:
    region = TrustRegion.of(
        dataclasses.replace(completed(plane(1), 1), values_RP=np.array([[0.5]]))
    )
    scores_N = region.inside_first(
        np.array([0.0, 9.0, 1.0, 8.0]), np.array([[0.4], [1.0], [0.6], [0.9]])
    )
    assert np.argsort(-scores_N).tolist() == [2, 0, 3, 1]


def beyond(study: Study, values_NP: np.ndarray) -> list[float]:
    """How far outside its region each suggestion of a batch is, which widens the region itself."""
    far = []
    for values_P in values_NP:
        units_1P = in_cube(study.problem.parameters, values_P[None])
        far.append(float(TrustRegion.of(study).beyond(units_1P)[0]))
        study = with_pending(study, values_P)
    return far


def test_suggestions_stay_inside_unless_told_otherwise(model: OptFormer) -> None:
    problem = plane(6)
    study = dataclasses.replace(completed(problem, 1), values_RP=np.full((1, 6), 0.5))
    values_NP = model.propose(study, 5, policy=PolicyConfig(candidates=16), seed=0)
    assert beyond(study, values_NP) == [0.0] * 5
    free = PolicyConfig(candidates=16, trust_region=False)
    values_NP = model.propose(study, 5, policy=free, seed=0)
    assert max(beyond(study, values_NP)) > 0.1


@pytest.mark.parametrize("options", [TokenizerOptions(), TokenizerOptions(centred=False)])
def test_tokens_of_what_was_measured_lie_inside(options: TokenizerOptions) -> None:
    """In the released format, tokens of few values do not say where these are in the cube."""
    tokenizer = StudyTokenizer(options=options)
    encoded = tokenizer.encode_problem(MIXED, "")
    study = completed(MIXED, 4)
    ids_RK = tokenizer.parameter_ids(MIXED, study.values_RP)[:, encoded.order_P]
    values_RP = tokenizer.decode_parameters(encoded, ids_RK)
    units_RP = in_cube(MIXED.parameters, values_RP)
    assert (TrustRegion.of(study).beyond(units_RP) == 0).all()


@pytest.mark.parametrize("problem", SPACES, ids=lambda problem: problem.name)
def test_each_study_of_several_has_its_own_region(model: OptFormer, problem: Problem) -> None:
    """A young one's does not hold back an old one, and points to choose among are ranked alike."""
    studies = [completed(problem, 1), completed(problem, 40)]
    policy = PolicyConfig(candidates=16)
    session = Session(model, [(problem, model.teacher(None))] * 2)
    rngs = [np.random.default_rng(seed) for seed in range(2)]
    young_NP, _ = session.propose(studies, 3, policy, rngs)
    region = TrustRegion.of(studies[0])
    assert beyond(studies[0], young_NP) == [0.0] * 3
    points_NP = to_natural(
        problem.parameters, np.random.default_rng(2).random((60, len(problem.parameters)))
    )
    points_NP = np.where(problem.active(points_NP), points_NP, np.nan)
    beyond_N = region.beyond(in_cube(problem.parameters, points_NP))
    alone = Session(model, [(problem, model.teacher(None))])
    scores_N = alone.score(studies[0], points_NP, policy, np.random.default_rng(0))
    np.testing.assert_array_equal(scores_N < 0, beyond_N > 0)
    assert (beyond_N > 0).any()
