"""The contract of every policy: legal, reproducible, aware of what is pending."""

import concurrent.futures
import copy
import dataclasses
import pickle
from pathlib import Path

import jax
import numpy as np
import pytest

import optformer
from optformer.convert import vizier as convert
from optformer.errors import ConfigError, StudyError
from optformer.model import checkpoint, predictive, transformer
from optformer.model.config import MICRO
from optformer.model.saved import Checkpoint
from optformer.model.transformer import Ids
from optformer.policies.acquisition import ACQUISITIONS, quantile
from optformer.policies.config import DOUBT, PolicyConfig
from optformer.policies.model import OptFormer, load
from optformer.policies.ranking import bin_probabilities
from optformer.policies.session import Session
from optformer.policies.view import View, measured, shorten, with_pending
from optformer.space import to_natural
from optformer.study import Goal, Metric, ParameterType, Problem, State, Study, to_trials
from optformer.tokenization.tokenizer import StudyTokenizer
from optformer.training.sharding import to_numpy
from tests.studies import CONDITIONAL, MIXED, plane, random_study
from tests.tokenization.released import released_tokenizer

SPACES = {"mixed": MIXED, "conditional": CONDITIONAL, "line": plane(1), "plane": plane(2)}


def policy(acquisition: str, **fields: object) -> PolicyConfig:
    return PolicyConfig(acquisition=acquisition, candidates=16, uniform=8, local=8, **fields)


@pytest.mark.parametrize("acquisition", ACQUISITIONS)
@pytest.mark.parametrize("space", SPACES)
def test_suggestions_are_legal_and_reproducible(
    model: OptFormer, space: str, acquisition: str
) -> None:
    problem = SPACES[space]
    for trials in (0, 7):
        study = random_study(problem, trials, np.random.default_rng(0))
        values_NP, again_NP, other_NP = (
            model.propose(study, 3, policy=policy(acquisition), seed=seed) for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(values_NP, again_NP)
        assert not np.array_equal(values_NP, other_NP)
        np.testing.assert_array_equal(problem.active(values_NP), ~np.isnan(values_NP))
        for column, parameter in enumerate(problem.parameters):
            for number in values_NP[:, column][~np.isnan(values_NP[:, column])]:
                assert parameter.to_number(parameter.from_number(number)) == number


def test_the_released_format_goes_through_the_same_engine(tmp_path: Path) -> None:
    """Saved, loaded, and legal: separators are steps, and the decoder writes every id."""
    tokenizer = released_tokenizer()
    config = dataclasses.replace(
        MICRO,
        decoder_layers=1,
        position="token",
        slots=0,
        trial_sum=False,
        value_head=False,
        experts=False,
    )
    weights = transformer.init(config, Ids.of(tokenizer.vocabulary), jax.random.key(0))
    saved = Checkpoint(config=config, tokenizer=tokenizer, weights=to_numpy(weights))
    checkpoint.save(saved, tmp_path / "released")
    model = load(tmp_path / "released")
    assert model.tokenizer.vocabulary.fingerprint == tokenizer.vocabulary.fingerprint
    study = random_study(MIXED, 7, np.random.default_rng(0))
    states_R = np.array([0, 0, 0, State.INFEASIBLE, 0, State.ACTIVE, 0], dtype=np.int8)
    study = dataclasses.replace(study, states_R=states_R)
    values_NP = model.propose(study, 2, policy=policy("ei"), seed=1)
    for column, parameter in enumerate(MIXED.parameters):
        for number in values_NP[:, column]:
            assert parameter.to_number(parameter.from_number(number)) == number
    probabilities_NQ, scaling = model.predict(study, values_NP)
    # There is no token for an infeasible trial.
    np.testing.assert_allclose(probabilities_NQ.sum(axis=1), 1.0)
    assert (scaling.unit_low, scaling.unit_high) == (0.2, 0.8)
    with pytest.raises(ConfigError, match=r"'ts_joint' draws from the .* Use ts"):
        model.propose(study, policy=policy("ts_joint"))


def test_a_batch_on_a_continuous_space_has_no_repeats(model: OptFormer) -> None:
    study = random_study(plane(1), 5, np.random.default_rng(0))
    for acquisition in ("ei", "ts", "prior"):
        values_NP = model.propose(study, 8, policy=policy(acquisition), seed=0)
        assert len(np.unique(values_NP)) == 8


def test_discrete_points_are_not_repeated_while_there_are_others(model: OptFormer) -> None:
    problem = Problem(parameters=MIXED.parameters[2:], metrics=MIXED.metrics)
    study = random_study(problem, 0, np.random.default_rng(0))
    values_NP = model.propose(study, 9, policy=PolicyConfig(candidates=0, uniform=200), seed=0)
    assert len(np.unique(values_NP, axis=0)) == 9


def test_a_batch_equals_suggestions_one_by_one_with_the_others_pending(model: OptFormer) -> None:
    """Each suggestion of a batch sees those before it."""
    study = random_study(plane(2), 6, np.random.default_rng(0))
    keys = [(study.problem, "random_search")]
    batch_NP = Session(model, keys).propose([study], 3, policy("ts"), [np.random.default_rng(0)])[0]
    rng, session = np.random.default_rng(0), Session(model, keys)
    for values_P in batch_NP:
        np.testing.assert_array_equal(
            session.propose([study], 1, policy("ts"), [rng])[0][0], values_P
        )
        study = with_pending(study, values_P)
    assert study.states_R[-3:].tolist() == [State.ACTIVE] * 3


@pytest.mark.parametrize("count", [0, -1])
def test_a_batch_has_at_least_one_suggestion(model: OptFormer, count: int) -> None:
    problem = convert.problem_to_vizier(plane(2))
    with pytest.raises(ConfigError, match=f"count={count} suggestions: ask for at least one"):
        model.suggest(problem, count=count)


def test_only_completed_trials_are_measured() -> None:
    """Not what an infeasible one happened to measure."""
    study = random_study(plane(1), 3, np.random.default_rng(0))
    study = dataclasses.replace(
        study,
        metrics_RM=np.array([[1.0], [2.0], [99.0]]),
        states_R=np.array([0, 0, State.INFEASIBLE], dtype=np.int8),
    )
    scaling = StudyTokenizer().fit_scalings(study)[0]
    np.testing.assert_allclose(measured(study, scaling), [0.2, 0.8])
    assert measured(study.rows([]), scaling).shape == (0,)


def test_a_search_has_stalled_when_the_latest_trials_did_not_improve() -> None:
    values_R = np.array([0.2, 0.5, 0.3, 0.5, 0.502, 0.1])
    stalls = [policy("ei", patience=3).stalled(values_R[:count]) for count in range(7)]
    assert stalls == [False] * 5 + [True] * 2
    assert not policy("ei", patience=0).stalled(values_R)
    # Each is the best so far, however little of the whole range that is.
    assert not policy("ei", patience=3).stalled(np.array([-1e3, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    with pytest.raises(ConfigError, match="patience=-1"):
        PolicyConfig(patience=-1)


@pytest.mark.parametrize("surprise", [-1.0, 0.0])
def test_a_stalled_search_doubts_predictions_that_were_too_high(
    checkpoint: Path, surprise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And believes those that were right."""
    monkeypatch.setattr(View, "surprise", lambda self, trials: surprise)
    model = OptFormer(optformer.model.checkpoint.load(checkpoint))
    study = random_study(plane(2), 12, np.random.default_rng(0))
    study = study.rows(np.argsort(-study.objective()))  # nothing after the first is better
    points_NP = np.random.default_rng(1).random((6, 2))
    stalled_N, warm_N, plain_N = (
        Session(model, [(study.problem, "random_search")]).score(
            study, points_NP, policy("ucb", **fields), np.random.default_rng(2)
        )
        for fields in (
            {"patience": 3, "value_temperature": 1.5},
            {"patience": 0, "value_temperature": 1.5 * DOUBT},
            {"patience": 0, "value_temperature": 1.5},
        )
    )
    np.testing.assert_array_equal(stalled_N, warm_N if surprise < 0 else plain_N)
    assert (warm_N != plain_N).all()


@pytest.mark.parametrize("space", SPACES)
def test_an_empty_study_begins_in_the_middle(model: OptFormer, space: str) -> None:
    problem = SPACES[space]
    empty = random_study(problem, 0, np.random.default_rng(0))
    values_NP = model.propose(empty, 3, policy=policy("ei"), seed=0)
    assert len(np.unique(np.nan_to_num(values_NP, nan=-1.0), axis=0)) == 3
    np.testing.assert_array_equal(problem.active(values_NP), ~np.isnan(values_NP))
    middle_1P = to_natural(problem.parameters, np.full((1, len(problem.parameters)), 0.5))
    for column, parameter in enumerate(problem.parameters):
        if parameter.type != ParameterType.CATEGORICAL and not np.isnan(values_NP[0, column]):
            assert values_NP[0, column] == middle_1P[0, column]


def test_a_study_begins_at_its_defaults(model: OptFormer) -> None:
    parameters = tuple(
        dataclasses.replace(parameter, default=default)
        for parameter, default in zip(MIXED.parameters, (0.5, 2, None, "poly"), strict=True)
    )
    empty = random_study(
        dataclasses.replace(MIXED, parameters=parameters), 0, np.random.default_rng(0)
    )
    [values_P] = model.propose(empty, policy=policy("ei"), seed=0)
    assert values_P.tolist() == [0.5, 2.0, 32.0, 1.0]


def test_a_constraint_may_stand_before_the_objective(model: OptFormer) -> None:
    limit = Metric(name="a", goal=Goal.MINIMIZE, safety_threshold=0.0)
    study = random_study(
        dataclasses.replace(plane(2), metrics=(limit, Metric(name="y"))),
        8,
        np.random.default_rng(0),
    )
    values_NP = model.propose(study, 2, policy=policy("ei"), seed=0)
    other = dataclasses.replace(
        study,
        problem=dataclasses.replace(study.problem, metrics=study.problem.metrics[::-1]),
        metrics_RM=study.metrics_RM[:, ::-1],
    )
    np.testing.assert_array_equal(values_NP, model.propose(other, 2, policy=policy("ei"), seed=0))


def test_a_model_goes_to_another_process_and_copies_share_it(model: OptFormer) -> None:
    study = random_study(plane(2), 5, np.random.default_rng(0))
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(
        again.propose(study, policy=policy("ei"), seed=3),
        model.propose(study, policy=policy("ei"), seed=3),
    )
    assert copy.deepcopy(model) is model


def test_a_long_study_is_shortened_to_its_best_newest_and_a_spread(model: OptFormer) -> None:
    study = random_study(plane(1), 200, np.random.default_rng(0))
    short = shorten(study, 40)
    assert len(short) == 40
    assert shorten(study, 200) is study
    np.testing.assert_array_equal(short.values_RP[-20:], study.values_RP[-20:])
    assert study.metrics_RM.max() in short.metrics_RM
    rows = np.flatnonzero(np.isin(study.values_RP[:, 0], short.values_RP[:, 0]))
    np.testing.assert_array_equal(short.values_RP, study.values_RP[rows])
    assert rows[0] < 20  # the spread reaches the start
    # The model was trained on 64 tokens, 32 trials here.
    assert model.propose(study, 2, policy=policy("ei"), seed=0).shape == (2, 1)


def test_several_threads_get_what_one_would(model: OptFormer) -> None:
    studies = [random_study(plane(2), trials, np.random.default_rng(trials)) for trials in range(8)]
    problems = [
        dataclasses.replace(
            study, problem=dataclasses.replace(study.problem, name=f"study {index}")
        )
        for index, study in enumerate(studies)
    ]

    def propose(study: Study) -> np.ndarray:
        return model.propose(study, 2, policy=policy("ei"), seed=len(study))

    alone = [propose(study) for study in problems]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for got, want in zip(pool.map(propose, problems), alone, strict=True):
            np.testing.assert_allclose(got, want, atol=1e-6)


def test_only_algorithms_that_were_learned_can_be_imitated(model: OptFormer) -> None:
    study = random_study(plane(1), 2, np.random.default_rng(0))
    assert model.teacher(None) == "random_search"
    with pytest.raises(ConfigError, match=r"'random_serch'.* Did you mean random_search\?"):
        model.propose(study, policy=PolicyConfig(algorithm="random_serch"))


def test_what_is_kept_of_a_study_does_not_change_what_is_suggested(model: OptFormer) -> None:
    """Trial by trial with a kept history, or all at once by a fresh session: the same."""
    study = random_study(plane(2), 12, np.random.default_rng(3))
    keys = [(study.problem, "random_search")]
    kept = Session(model, keys)
    for trials in range(12):
        part = study.rows(slice(0, trials))
        settings = policy("mean")
        rngs = [[np.random.default_rng(trials)] for _ in "12"]
        got = kept.propose([part], 1, settings, rngs[0])[0]
        want = Session(model, keys).propose([part], 1, settings, rngs[1])[0]
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_studies_that_change_are_read_again_without_the_others(model: OptFormer) -> None:
    """A new best value rescales one study of five; each goes on as it would alone."""
    rng = np.random.default_rng(7)
    studies = [random_study(plane(2), 9, rng) for _ in range(5)]
    studies[3].metrics_RM[5] = 100.0
    keys = [(study.problem, "random_search") for study in studies]
    together, alone = Session(model, keys), [Session(model, [key]) for key in keys]
    for trials in range(2, 9):
        parts = [study.rows(slice(0, trials + row % 2)) for row, study in enumerate(studies)]
        rngs = [[np.random.default_rng(row) for row in range(5)] for _ in "12"]
        got = together.propose(parts, 1, policy("mean"), rngs[0])
        for row, part in enumerate(parts):
            want = alone[row].propose([part], 1, policy("mean"), [rngs[1][row]])[0]
            np.testing.assert_allclose(got[row], want, atol=1e-6)


def test_studies_of_different_shapes_go_together_as_they_do_alone(model: OptFormer) -> None:
    rng = np.random.default_rng(0)
    studies = [random_study(MIXED, 5, rng), random_study(plane(1), 9, rng)]
    keys = [(study.problem, "random_search") for study in studies]
    rngs = [np.random.default_rng(seed) for seed in (5, 6)]
    together = Session(model, keys).propose(studies, 2, policy("ts"), rngs)
    for study, key, seed, rows_NP in zip(studies, keys, (5, 6), together, strict=True):
        rng = np.random.default_rng(seed)
        (alone_NP,) = Session(model, [key]).propose([study], 2, policy("ts"), [rng])
        np.testing.assert_allclose(rows_NP, alone_NP, rtol=1e-12)


def test_predictions_are_distributions_on_the_metrics_axis(model: OptFormer) -> None:
    study = random_study(plane(2), 9, np.random.default_rng(0))
    points_NP = np.random.default_rng(1).random((5, 2))
    probabilities_NQ, scaling = model.predict(study, points_NP)
    assert probabilities_NQ.shape == (5, 1000)
    assert (probabilities_NQ >= 0).all()
    # The rest is the chance that the trial is infeasible.
    assert (probabilities_NQ.sum(axis=1) <= 1 + 1e-9).all()
    np.testing.assert_allclose(scaling.from_units(np.array([0.2])), study.metrics_RM.min())
    np.testing.assert_allclose(scaling.from_units(np.array([0.8])), study.metrics_RM.max())


@pytest.mark.parametrize(("own", "temperature"), [(-2.0, 1.0), (-2.0, 1.5), (6.0, 1.0)])
def test_joint_draws_agree_where_points_are_near_and_with_predictions_everywhere(
    checkpoint: Path, own: float, temperature: float
) -> None:
    """Also where the transformer's own prediction has most weight, which `own` adds to."""
    saved = optformer.model.checkpoint.load(checkpoint)
    saved.weights["experts"]["offset"][0] += own
    model = OptFormer(saved)
    study = random_study(plane(2), 12, np.random.default_rng(0))
    low, high = study.problem.parameters[0].bounds
    points_NP = low + (high - low) * np.array([[0.3, 0.6], [0.301, 0.6], [0.85, 0.1]])
    session = Session(model, [(study.problem, "random_search")])
    everywhere = policy("ts", trust_region=False)
    candidates, _ = session._candidates(study, points_NP, everywhere, np.random.default_rng(0))
    probabilities_NQ = candidates.probabilities(temperature)
    rng, draws = np.random.default_rng(1), 300
    drawn_DN, alone_DN = (
        np.array(
            [
                candidates.score(policy(name, value_temperature=temperature, patience=0), rng)
                for _ in range(draws)
            ]
        )
        for name in ("ts_joint", "ts")
    )
    # Four standard errors of so many draws.
    mean_N = predictive.predicted_mean(probabilities_NQ)
    error_N = 4 * drawn_DN.std(axis=0) / draws**0.5
    assert (np.abs(drawn_DN.mean(axis=0) - mean_N) < error_N).all()
    for level in (0.2, 0.5, 0.9):
        wanted_N = quantile(probabilities_NQ, np.full(3, level))
        share_N = (drawn_DN <= wanted_N).mean(axis=0)
        np.testing.assert_allclose(share_N, level, atol=4 * (level * (1 - level) / draws) ** 0.5)
    apart, alone = (np.abs(each[:, 0] - each[:, 1]) for each in (drawn_DN, alone_DN))
    assert np.median(apart) < 0.02
    assert np.mean(apart) < 0.2 * np.mean(alone)


def test_a_higher_temperature_is_less_sure(model: OptFormer) -> None:
    logits_NO = np.random.default_rng(0).normal(size=(3, 1004)) * 3
    sharp, plain, flat = (
        bin_probabilities(logits_NO, model.tokenizer.vocabulary, temperature).max()
        for temperature in (0.5, 1.0, 4.0)
    )
    assert sharp > plain > flat


def test_viziers_types_go_in_and_out(model: OptFormer) -> None:
    study = random_study(CONDITIONAL, 6, np.random.default_rng(0))
    statement = convert.problem_to_vizier(CONDITIONAL)
    trials = [
        convert.trial_to_vizier(CONDITIONAL, trial, uid=index + 1)
        for index, trial in enumerate(to_trials(study))
    ]
    suggestions = model.suggest(statement, trials, 3, policy=policy("ei"), seed=0)
    assert len(suggestions) == 3
    for suggestion in suggestions:
        assert suggestion.parameters["kernel"].value in ("rbf", "poly", "linear")
        assert ("degree" in suggestion.parameters) == (
            suggestion.parameters["kernel"].value == "poly"
        )


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        (plane(36), "36 parameters; this model takes 35"),
        (
            dataclasses.replace(
                plane(1, "none"), metrics=(Metric(name="a", safety_threshold=0.0),)
            ),
            r"'none' has the objectives \[\], but a session takes one",
        ),
    ],
)
def test_what_the_model_cannot_do_is_refused(model: OptFormer, problem: Problem, says: str) -> None:
    empty = Study(
        problem=problem,
        values_RP=np.zeros((0, len(problem.parameters))),
        metrics_RM=np.zeros((0, len(problem.metrics))),
        states_R=np.zeros(0, dtype=np.int8),
    )
    with pytest.raises(StudyError, match=says):
        model.propose(empty)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"candidates": 0, "uniform": 0, "local": 0}, "nothing to rank"),
        ({"candidates": 5, "local": -1}, "nothing to rank"),
        ({"sifted": 0}, "nothing to rank"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        PolicyConfig(**fields)


def test_the_shipped_model_finds_the_top_of_a_hill() -> None:
    """Nearer in 15 trials than all but few of as many random ones come."""
    shipped = optformer.load("optformer-tiny")
    study = random_study(plane(2), 0, np.random.default_rng(0))
    for seed in range(15):
        values_1P = shipped.propose(study, seed=seed)
        study = dataclasses.replace(
            study,
            values_RP=np.concatenate([study.values_RP, values_1P]),
            metrics_RM=np.append(study.metrics_RM, [[-((values_1P - 0.3) ** 2).sum()]], axis=0),
            states_R=np.append(study.states_R, np.int8(State.COMPLETED)).astype(np.int8),
        )
    assert study.objective().max() > -0.002
