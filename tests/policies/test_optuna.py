"""The model as an Optuna sampler: Optuna's own contract, and what ours adds to it."""

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.testing import pytest_samplers
from optuna.trial import TrialState

from optformer.errors import ConfigError, StudyError
from optformer.policies.config import PolicyConfig
from optformer.policies.model import OptFormer
from optformer.policies.optuna import OptFormerSampler
from optformer.study import State, Study

optuna.logging.set_verbosity(optuna.logging.ERROR)

FEW = PolicyConfig(candidates=8)
LINE = {"x": FloatDistribution(0.0, 1.0)}
PLANE = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(1e-3, 1.0, log=True)}


class _Contract:
    @pytest.fixture
    def sampler(self, model: OptFormer) -> Callable[[], optuna.samplers.BaseSampler]:
        return lambda: OptFormerSampler(model, policy=FEW, seed=0)


class TestBasicSampler(_Contract, pytest_samplers.BasicSamplerTestCase):
    """Optuna's, for every sampler."""


class TestRelativeSampler(_Contract, pytest_samplers.RelativeSamplerTestCase):
    """Optuna's, for samplers that choose several parameters at once."""


class TestMultiObjectiveSampler(_Contract, pytest_samplers.MultiObjectiveSamplerTestCase):
    """Optuna's, for samplers that know several objectives."""


class Watched:
    """A model that notes which studies it is shown."""

    def __init__(self, model: OptFormer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.studies: list[Study] = []
        propose = model.propose

        def noting(study: Study, count: int = 1, **options: object) -> np.ndarray:
            self.studies.append(study)
            return propose(study, count, **options)

        monkeypatch.setattr(model, "propose", noting)

    def names(self) -> list[list[str]]:
        return [[parameter.name for parameter in s.problem.parameters] for s in self.studies]


@pytest.fixture
def watched(model: OptFormer, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(model, monkeypatch)


def new_study(model: OptFormer, seed: int | None = 0, **options: object) -> optuna.Study:
    sampler = OptFormerSampler(model, policy=FEW, seed=seed)
    return optuna.create_study(sampler=sampler, study_name="ours", **options)


def branches(trial: optuna.Trial) -> float:
    if trial.suggest_categorical("model", ["svc", "forest"]) == "svc":
        return trial.suggest_float("C", 1e-3, 1e3, log=True)
    return float(trial.suggest_int("depth", 1, 9))


def test_branches_of_a_space_defined_by_running_become_conditions(
    model: OptFormer, watched: Watched
) -> None:
    study = new_study(model)
    study.optimize(branches, n_trials=15)
    assert watched.names()[0] == ["model", watched.names()[0][1]]  # one branch seen
    conditions = {p.name: p.conditions for p in watched.studies[-1].problem.parameters}
    assert conditions["model"] == ()
    assert [each.values for each in conditions["C"]] == [("svc",)]
    assert [each.values for each in conditions["depth"]] == [("forest",)]
    assert len(watched.studies[-1]) == 14


def test_the_first_trial_is_left_to_chance(model: OptFormer, watched: Watched) -> None:
    study = new_study(model)
    study.ask(PLANE)
    assert watched.studies == []
    study.tell(study.ask(PLANE), 1.0)
    study.ask(PLANE)
    assert watched.names() == [["x", "y"]]


def test_a_parameter_whose_range_changes_is_chosen_by_itself(
    model: OptFormer, watched: Watched
) -> None:
    study = new_study(model)
    for high in (1.0, 2.0, 3.0):
        study.tell(study.ask(PLANE | {"x": FloatDistribution(0.0, high)}), 1.0)
    # The second trial still finds both in the space, but draws x again where it lies outside.
    assert watched.names()[-2:] == [["y"], ["x"]]
    assert watched.studies[-1].problem.parameters[0].bounds == (0.0, 3.0)
    assert len(watched.studies[-1]) == 2


def test_states_of_trials(model: OptFormer, watched: Watched) -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        trial.report(0.5, step=1)
        if trial.number == 1:
            raise optuna.TrialPruned
        if trial.number == 2:
            raise RuntimeError("out of memory")
        return math.inf if trial.number == 3 else x

    study = new_study(model, direction="maximize")
    study.optimize(objective, n_trials=4, catch=RuntimeError)
    study.ask(LINE)  # runs on
    study.enqueue_trial({"x": 0.5})  # waits, and is taken first
    study.ask(LINE)
    study.ask(LINE)
    states = [State(state).name for state in watched.studies[-1].states_R]
    assert states == ["COMPLETED", "INFEASIBLE", "INFEASIBLE", "INFEASIBLE", "ACTIVE", "ACTIVE"]
    assert np.nanmax(watched.studies[-1].objective()) == study.trials[0].value


@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_workers_on_one_storage_do_not_try_the_same(
    model: OptFormer, tmp_path: Path, watched: Watched, storage: str | None
) -> None:
    """Each has a sampler of its own with the same seed, and no trial is finished in between."""
    url = storage and f"sqlite:///{tmp_path / 'optuna.db'}"
    study = new_study(model, storage=url)
    study.tell(study.ask(PLANE), 1.0)
    asked = []
    for _ in range(6):
        worker = study
        if url:
            sampler = OptFormerSampler(model, policy=FEW, seed=0)
            worker = optuna.load_study(study_name="ours", storage=url, sampler=sampler)
        asked.append(worker.ask(PLANE))
    assert len({tuple(trial.params.values()) for trial in asked}) == 6
    assert (watched.studies[-1].states_R == State.ACTIVE).sum() == 5


def test_what_is_chosen_is_pending_before_the_objective_asks_for_it(
    model: OptFormer, watched: Watched
) -> None:
    study = new_study(model)
    study.tell(study.ask(PLANE), 1.0)
    one, two = study.ask(), study.ask()
    x = one.suggest_float("x", 0.0, 1.0)  # not y yet
    two.suggest_float("x", 0.0, 1.0)
    assert watched.studies[-1].states_R.tolist() == [State.COMPLETED, State.ACTIVE]
    assert watched.studies[-1].values_RP[1, 0] == x


def test_threads_share_a_sampler(model: OptFormer) -> None:
    def objective(trial: optuna.Trial) -> float:
        return trial.suggest_float("x", 0, 1) + trial.suggest_float("y", 0, 1)

    study = new_study(model)
    study.optimize(objective, n_trials=12, n_jobs=4)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 12


def test_a_seed_reproduces_and_another_differs(model: OptFormer) -> None:
    def run(seed: int | None) -> list[dict]:
        study = new_study(model, seed)
        study.optimize(branches, n_trials=5)
        return [trial.params for trial in study.trials]

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert run(None) != run(None)


def test_several_objectives_become_one(model: OptFormer, watched: Watched) -> None:
    study = new_study(model, directions=["minimize", "maximize"])
    study.optimize(lambda t: (t.suggest_float("x", 0, 1), t.suggest_float("y", 0, 1)), n_trials=8)
    last = watched.studies[-1]
    assert [metric.name for metric in last.problem.metrics] == ["value_0 and value_1"]
    assert len(study.trials) == 8


VALUES = [
    (FloatDistribution(-1.0, 1.0, step=0.1), float),
    (FloatDistribution(0.0, 5.0, step=0.001), float),  # 5,001 values count as continuous
    (IntDistribution(0, 99995, step=7), int),
    (IntDistribution(1, 10**6, log=True), int),
    (CategoricalDistribution([None, True, 0.5, "a"]), object),
]


@pytest.mark.parametrize(("distribution", "kind"), VALUES)
def test_values_are_those_of_the_distribution(
    model: OptFormer, distribution: optuna.distributions.BaseDistribution, kind: type
) -> None:
    study = new_study(model)
    space = {"other": FloatDistribution(0.0, 1.0), "it": distribution}
    for _ in range(6):
        trial = study.ask(space)
        value = trial.params["it"]
        assert isinstance(value, kind)
        assert distribution._contains(distribution.to_internal_repr(value))
        study.tell(trial, 1.0)


def test_choices_that_look_the_same_are_left_to_chance(model: OptFormer, watched: Watched) -> None:
    study = new_study(model)
    space = LINE | {"same": CategoricalDistribution([1, "1"])}
    for _ in range(3):
        study.tell(study.ask(space), 1.0)
    assert watched.names() == [["x"], ["x"]]


def test_more_parameters_than_the_model_takes_are_left_to_chance_with_a_warning(
    model: OptFormer, watched: Watched
) -> None:
    study = new_study(model)
    space = {f"x{index}": FloatDistribution(0.0, 1.0) for index in range(36)}
    study.tell(study.ask(space), 1.0)
    with pytest.warns(UserWarning, match="36 parameters, but this model takes 35: x35 are left"):
        trial = study.ask(dict(sorted(space.items())))
    assert len(trial.params) == 36
    assert [len(names) for names in watched.names()] == [35]


def test_a_space_that_is_given_is_searched_from_the_first_trial_on(
    model: OptFormer, watched: Watched
) -> None:
    sampler = OptFormerSampler(model, policy=FEW, seed=0, space=PLANE)
    study = optuna.create_study(sampler=sampler)
    trial = study.ask()
    assert trial.suggest_float("x", 0.0, 1.0) == 0.5
    assert trial.suggest_float("y", 1e-3, 1.0, log=True) == pytest.approx(10**-1.5)
    assert watched.names() == [["x", "y"]]
    study.tell(trial, 1.0)
    study.ask(PLANE)
    assert [len(each) for each in watched.studies] == [0, 1]


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({f"x{k}": FloatDistribution(0.0, 1.0) for k in range(36)}, "36 parameters; this model"),
        ({"x": CategoricalDistribution(list(range(1001)))}, "'x' has 1001 values"),
    ],
)
def test_a_space_that_is_too_large_is_refused_before_the_first_trial(
    model: OptFormer, space: dict, says: str
) -> None:
    with pytest.raises(StudyError, match=says):
        OptFormerSampler(model, space=space)


def test_too_many_choices_are_left_to_chance(model: OptFormer, watched: Watched) -> None:
    study = new_study(model)
    space = LINE | {"many": CategoricalDistribution(list(range(1001)))}
    for _ in range(2):
        study.tell(study.ask(space), 1.0)
    assert watched.names() == [["x"]]


@pytest.mark.parametrize("given", ["set_constraint", "constraints_func"])
def test_constraints_are_metrics_with_a_threshold(
    model: OptFormer, watched: Watched, given: str
) -> None:
    by_function = given == "constraints_func"
    sampler = OptFormerSampler(
        model,
        policy=FEW,
        seed=0,
        constraints_func=(lambda trial: [trial.params["x"] - 0.5]) if by_function else None,
    )
    study = optuna.create_study(sampler=sampler)
    for _ in range(4):
        trial = study.ask(LINE)
        if not by_function:
            trial.set_constraint("0", trial.params["x"] - 0.5)
        study.tell(trial, trial.params["x"])
    last = watched.studies[-1]
    assert [metric.safety_threshold for metric in last.problem.metrics] == [None, 0.0]
    np.testing.assert_allclose(last.metrics_RM[:, 1], last.values_RP[:, 0] - 0.5)


def test_a_search_in_which_everything_fails_still_knows_its_space(
    model: OptFormer, watched: Watched
) -> None:
    study = new_study(model)
    for _ in range(3):
        study.tell(study.ask(PLANE), state=TrialState.FAIL)
    assert watched.names() == [["x", "y"]] * 2
    assert (watched.studies[-1].states_R == State.INFEASIBLE).all()


def test_a_sampler_goes_to_another_process(model: OptFormer) -> None:
    sampler = OptFormerSampler(model, policy=FEW, seed=0, space=PLANE)
    for again in (pickle.loads(pickle.dumps(sampler)), copy.deepcopy(sampler)):
        drawn = [
            optuna.create_study(sampler=each, study_name="one").ask(PLANE).params
            for each in (sampler, again)
        ]
        assert drawn[0] == drawn[1]


def test_a_checkpoint_is_loaded_by_its_folder(checkpoint: Path) -> None:
    study = optuna.create_study(
        sampler=OptFormerSampler(checkpoint, policy=PolicyConfig(algorithm="nobody"))
    )
    study.tell(study.ask(LINE), 1.0)
    with pytest.raises(ConfigError, match="not trained on the algorithm 'nobody'"):
        study.ask(LINE)
