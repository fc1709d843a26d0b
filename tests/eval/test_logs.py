"""`optformer evaluate logs`: logged studies as tasks, portfolios, and what is said of them."""

import dataclasses
import zlib

import numpy as np
import pytest

from optformer.data import store
from optformer.data.splits import RECORD, Standing, TrainingRecord
from optformer.errors import SourceError
from optformer.eval import optimizers
from optformer.eval.benchmark import Running, evaluate
from optformer.eval.contestants import Contestants
from optformer.eval.logs import portfolio, predictions, summary, tasks
from optformer.eval.logs.benchmark import LOGS, LogsOptions
from optformer.model import checkpoint
from optformer.study import (
    Condition,
    Metric,
    Parameter,
    ParameterType,
    Problem,
    Scale,
    State,
    Study,
)

pytest.importorskip("sklearn", reason="the extra `demo` is not installed")

KERNEL = Parameter(name="kernel", type=ParameterType.CATEGORICAL, values=("linear", "rbf"))
PARAMETERS = (
    KERNEL,
    Parameter(name="C", type=ParameterType.DOUBLE, scale=Scale.LOG, bounds=(1e-3, 1e3)),
    Parameter(
        name="gamma",
        type=ParameterType.DOUBLE,
        scale=Scale.LOG,
        bounds=(1e-4, 10.0),
        conditions=(Condition(parent="kernel", values=("rbf",)),),
    ),
)


def logged(data_set: str, *, learner: str = "svc", trials: int = 60, best: float = 0.3) -> Study:
    """Random trials of which those with a large C fail; the best C is at 10^(6 best - 3)."""
    rng = np.random.default_rng(zlib.crc32(f"{learner}/{data_set}".encode()))
    kernel_R = rng.integers(2, size=trials).astype(float)
    unit_R = rng.random(trials)
    gamma_R = np.where(kernel_R == 1, 10 ** rng.uniform(-4, 1, trials), np.nan)
    metric_R = 0.9 - (unit_R - best) ** 2 + 0.05 * kernel_R
    failed_R = unit_R > 0.9
    return Study(
        problem=Problem(
            name=f"{learner}/{data_set}",
            title="support vector machine",
            parameters=PARAMETERS,
            metrics=(Metric(name="accuracy"),),
        ),
        values_RP=np.stack([kernel_R, 10 ** (6 * unit_R - 3), gamma_R], axis=1),
        metrics_RM=np.where(failed_R, np.nan, metric_R)[:, None],
        states_R=np.where(failed_R, State.INFEASIBLE, State.COMPLETED).astype(np.int8),
        algorithm="random_search",
    )


@pytest.fixture(scope="module")
def studies():
    return [logged(f"data-{number}") for number in range(4)] + [
        logged(f"data-{number}", learner="mlp", best=0.7) for number in range(2)
    ]


@pytest.fixture(scope="module")
def shards(studies, tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    short = dataclasses.replace(logged("short"), algorithm="x").rows(slice(10))
    store.write([*studies, short], folder, source="test")
    return folder


def choose(shards, standings=lambda study: {}, **fields):
    return tasks.choose([shards], tasks.Choice(**fields), standings)


def test_learners_take_turns_and_fewer_studies_are_some_of_the_same(shards):
    few, many = (
        [logged.study.name for logged in choose(shards, most=most).tasks] for most in (3, 6)
    )
    assert many[:3] == few
    assert {name.split("/")[0] for name in few[:2]} == {"svc", "mlp"}
    chosen = choose(shards)
    assert len(chosen.tasks) == 6
    assert chosen.left_out == {"fewer than 40 completed trials": 1}
    with pytest.raises(SourceError, match=r"no study can be a task.*another learner"):
        choose(shards, learners=("ranger",))


def test_a_random_configuration_scores_half_the_time_below_zero(shards):
    for logged_task in choose(shards).tasks:
        units_1NP = tasks.random_points(logged_task.block, "elsewhere", 500)
        value_N = logged_task.block.evaluate_exact(units_1NP)[0]
        feasible_N = value_N[np.isfinite(value_N)]
        assert 0.4 < (feasible_N < logged_task.low).mean() < 0.6
        assert (feasible_N <= logged_task.high).mean() > 0.98
        assert 0.02 < np.isnan(value_N).mean() < 0.2  # large C


def test_studies_that_a_model_was_trained_on_are_left_out(shards, studies):
    record = TrainingRecord.of(studies[:1])

    def standings(study):
        return {"ours": record.standing(study)}

    left = choose(shards, standings)
    assert studies[0].name not in {logged.study.name for logged in left.tasks}
    assert left.left_out["a model was trained on it"] == 1
    every = choose(shards, standings, trained_on=True)
    by_name = {logged.study.name: logged.known().standing for logged in every.tasks}
    assert by_name[studies[0].name] == Standing.TRAINED_ON
    assert by_name[studies[1].name] == Standing.IN_FAMILY
    assert by_name["mlp/data-0"] == Standing.DATA_SET_SEEN
    assert by_name["mlp/data-1"] == Standing.CROSS_FAMILY


def test_a_portfolio_knows_nothing_of_its_own_data_set(studies):
    usable = {"svc": studies[:4]}
    wanted = studies[0]
    made = portfolio.factory([wanted], usable, length=5)
    # Other values on the study's own data set change nothing.
    worse = dataclasses.replace(wanted, metrics_RM=1.0 - wanted.metrics_RM)
    again = portfolio.factory([worse], {"svc": [worse, *studies[1:4]]}, length=5)
    (first_KP,), (second_KP,) = made.lists.values(), again.lists.values()
    np.testing.assert_array_equal(first_KP, second_KP)
    assert len(first_KP) == 5
    assert abs(first_KP[0, 1] - 0.3) < 0.1  # the learner's best C
    alone = portfolio.factory([wanted], {"svc": [wanted]}, length=5)
    assert [len(listed) for listed in alone.lists.values()] == [0]
    optimizer = alone(wanted.problem, 0)
    assert optimizer.suggest(2).shape == (2, 3)  # random, for want of others


def test_trials_saved_are_those_not_needed_for_the_target():
    scores_KT = np.array([[0.0, 0.5, 0.5, 0.9], [0.0, 0.1, 0.2, 0.3]])
    at_K = summary.reached_at(scores_KT, np.array([0.5, 0.5]), first=1)
    np.testing.assert_array_equal(at_K, [1.0, 3.0])


@pytest.fixture(scope="module")
def page_folder(shards, studies, save_model, tmp_path_factory):
    """An evaluation of two models, of which one says what it was trained on."""
    home = tmp_path_factory.mktemp("evaluation")
    known = save_model(home / "known", 0)
    saved = checkpoint.load(known)
    record = TrainingRecord.of(studies[:3])
    checkpoint.save(dataclasses.replace(saved, about={RECORD: record.to_json()}), known)
    who = Contestants(
        checkpoints=(known, save_model(home / "silent", 1)),
        acquisitions=("prior",),
        optimizers=("random_search", "optuna_gp", "portfolio"),
    )
    options = LogsOptions(studies=(shards,), given=(0, 2), seeds=1, cache=home / "cache")
    running = Running(trials=4, workers=1, command="optformer evaluate logs")
    missing = optimizers.missing
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            optimizers,
            "missing",
            lambda name: (
                "needs the Python module 'torch'" if name == "optuna_gp" else missing(name)
            ),
        )
        done = evaluate(LOGS, home / "out", who, running, options)
    return home, done


@pytest.mark.slow
def test_the_page_says_what_was_saved_and_what_is_held_out(page_folder):
    home, done = page_folder
    assert done.failed == 0
    rows = {row[0]: row for row in done.rows}
    assert {"known prior", "silent prior", "random search", "portfolio"} < set(rows)
    assert "not run" in rows["optuna gp"]
    assert "optuna gp was not run: it needs the Python module 'torch'" in done.counted
    page = done.page.read_text("utf-8")
    for words in (
        "Logged studies",
        "From nothing",
        "After 2 given trials",
        "Held out or not",
        "Before the first trial",
        "a model was trained on it",
        "unknown",
        "Holm",
        "R²",
    ):
        assert words in page
    for name in ("summary", "summary_given_2", "by_learner", "standings", "first_predictions"):
        assert (home / "out" / f"{name}.csv").read_text("utf-8").isascii()


@pytest.mark.slow
def test_every_model_is_judged_before_the_first_trial(page_folder):
    home, _ = page_folder
    by_model = predictions.read(home / "out")
    assert set(by_model) == {"known", "silent"}
    for made in by_model.values():
        assert len(made) == 3
        for one in made.values():
            assert -1 <= one.rank_correlation <= 1 and np.isfinite(one.log_density)


@pytest.mark.slow
def test_other_folders_take_a_peers_runs_from_the_cache(page_folder, shards, monkeypatch):
    home, _ = page_folder
    kept = list((home / "cache" / "runs").rglob("*.parquet"))
    assert len(kept) == 6  # random search: three studies, from nothing and from two trials
    monkeypatch.setattr(optimizers.TeacherFactory, "__call__", lambda self, problem, seed: 1 / 0)
    again = evaluate(
        LOGS,
        home / "again",
        Contestants(optimizers=("random_search",)),
        Running(trials=4, workers=1),
        LogsOptions(
            studies=(shards,),
            given=(0, 2),
            seeds=1,
            cache=home / "cache",
        ),
    )
    # Those of studies that were not in the other folder fail: nothing was kept of them.
    assert again.failed == 12 - 6
