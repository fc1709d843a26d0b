"""Optuna's distributions, states and define-by-run spaces become ours as documented."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest

from optformer.data.importers import Remark, read
from optformer.study import (
    Condition,
    Goal,
    Parameter,
    ParameterType,
    Scale,
    State,
    Study,
    to_trials,
)

Objective = Callable[[optuna.Trial], float]


def journal(folder: Path) -> tuple[str, optuna.storages.BaseStorage]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = str(folder / "journal.log")
    backend = optuna.storages.journal.JournalFileBackend(path)
    return path, optuna.storages.JournalStorage(backend)


def run(folder: Path, objective: Objective, trials: int = 12) -> list[Study | Remark]:
    path, storage = journal(folder)
    sampler = optuna.samplers.RandomSampler(seed=1)
    study = optuna.create_study(storage=storage, sampler=sampler, study_name="s")
    study.optimize(objective, n_trials=trials, catch=RuntimeError)
    return list(read(path))


def test_every_distribution(tmp_path: Path) -> None:
    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("double", 0, 1)
        trial.suggest_float("log", 1e-3, 1, log=True)
        trial.suggest_float("step", 0.0, 0.3, step=0.1)
        trial.suggest_float("fine", 0.0, 1.0, step=0.0001)
        trial.suggest_int("int", 1, 5)
        trial.suggest_int("intlog", 1, 500, log=True)
        trial.suggest_int("even", 2, 8, step=2)
        trial.suggest_categorical("bool", [True, False])
        trial.suggest_categorical("mixed", ["a", None, 0.5, 3])
        return 1.0

    (study,) = run(tmp_path, objective)
    assert isinstance(study, Study)
    double = ParameterType.DOUBLE
    assert study.problem.parameters == (
        Parameter(name="double", type=double, scale=Scale.LINEAR, bounds=(0.0, 1.0)),
        Parameter(name="log", type=double, scale=Scale.LOG, bounds=(1e-3, 1.0)),
        Parameter(
            name="step",
            type=ParameterType.DISCRETE,
            scale=Scale.LINEAR,
            values=(0.0, 0.1, 0.2, 0.3),
            external_type="FLOAT",
        ),
        # 10,001 values are as good as continuous.
        Parameter(name="fine", type=double, scale=Scale.LINEAR, bounds=(0.0, 1.0)),
        Parameter(name="int", type=ParameterType.INTEGER, scale=Scale.LINEAR, bounds=(1.0, 5.0)),
        Parameter(name="intlog", type=ParameterType.INTEGER, scale=Scale.LOG, bounds=(1.0, 500.0)),
        Parameter(
            name="even",
            type=ParameterType.DISCRETE,
            scale=Scale.LINEAR,
            values=(2.0, 4.0, 6.0, 8.0),
            external_type="INTEGER",
        ),
        Parameter(
            name="bool",
            type=ParameterType.CATEGORICAL,
            values=("True", "False"),
            external_type="BOOLEAN",
        ),
        Parameter(name="mixed", type=ParameterType.CATEGORICAL, values=("a", "None", "0.5", "3")),
    )
    assert study.problem.metrics[0].goal == Goal.MINIMIZE


def test_branches_become_conditions(tmp_path: Path) -> None:
    def objective(trial: optuna.Trial) -> float:
        trial.suggest_int("seed", 0, 10**9)  # tells every two trials apart, and explains nothing
        if trial.suggest_categorical("model", ["tree", "mlp", "linear"]) == "mlp":
            layers = trial.suggest_int("layers", 1, 2)
            for layer in range(layers):
                trial.suggest_int(f"units_{layer}", 8, 64)
        trial.suggest_float("lr", 0, 1)
        return 1.0

    (study,) = run(tmp_path, objective, trials=40)
    assert isinstance(study, Study)
    conditions = {p.name: p.conditions for p in study.problem.parameters if p.conditions}
    assert conditions == {
        "layers": (Condition(parent="model", values=("mlp",)),),
        "units_0": (Condition(parent="model", values=("mlp",)),),
        "units_1": (Condition(parent="layers", values=(2,)),),
    }
    assert len(study) == 40


def test_states_and_intermediate_values(tmp_path: Path) -> None:
    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0, 1)
        trial.report(0.75, step=1)
        if trial.number == 1:
            raise RuntimeError("out of memory")
        if trial.number == 2:
            raise optuna.TrialPruned
        return float(trial.number)

    (study,) = run(tmp_path, objective, trials=4)
    assert isinstance(study, Study)
    assert [State(state).name for state in study.states_R] == [
        "COMPLETED",
        "INFEASIBLE",
        "INFEASIBLE",
        "COMPLETED",
    ]
    # A pruned trial's last value is kept, but is no objective.
    assert study.metrics_RM[2, 0] == 0.75
    np.testing.assert_array_equal(study.objective(), [-0.0, np.nan, np.nan, -3.0])


def test_unfinished_trials_without_all_parameters_are_left_out_and_counted(tmp_path: Path) -> None:
    path, storage = journal(tmp_path)
    study = optuna.create_study(storage=storage, study_name="s")
    study.enqueue_trial({"x": 0.5, "y": 0.5})
    study.optimize(lambda t: t.suggest_float("x", 0, 1) + t.suggest_float("y", 0, 1), n_trials=2)
    study.ask().suggest_float("x", 0, 1)  # still running, has no y yet
    running = study.ask()
    running.suggest_float("x", 0, 1)
    running.suggest_float("y", 0, 1)
    study.enqueue_trial({"x": 0.5, "y": 0.5})  # waiting
    left_out, ours = read(path)
    assert isinstance(left_out, Remark)
    assert (left_out.trials, left_out.trial, left_out.study) == (2, 3, "s")
    assert "has the parameters ['x'], because it is RUNNING" in left_out.reason
    assert isinstance(ours, Study)
    assert ours.states_R.tolist() == [State.COMPLETED, State.COMPLETED, State.ACTIVE]


def test_several_objectives_and_constraints(tmp_path: Path) -> None:
    path, storage = journal(tmp_path)
    study = optuna.create_study(
        storage=storage, study_name="s", directions=["maximize", "minimize"]
    )
    for value in (0.25, 0.5):
        study.add_trial(
            optuna.trial.create_trial(
                params={"x": value},
                distributions={"x": optuna.distributions.FloatDistribution(0, 1)},
                values=[value, 2 * value],
                system_attrs={"constraints": [value - 0.4]},
            )
        )
    (ours,) = read(path)
    assert isinstance(ours, Study)
    assert [(m.name, m.goal.value, m.safety_threshold) for m in ours.problem.metrics] == [
        ("value_0", "MAXIMIZE", None),
        ("value_1", "MINIMIZE", None),
        ("constraint_0", "MINIMIZE", 0.0),
    ]
    np.testing.assert_allclose(ours.metrics_RM, [[0.25, 0.5, -0.15], [0.5, 1.0, 0.1]])


def test_range_that_grew_holds_all_trials(tmp_path: Path) -> None:
    def objective(trial: optuna.Trial) -> float:
        return trial.suggest_float("x", -trial.number, trial.number + 1)

    (study,) = run(tmp_path, objective, trials=5)
    assert isinstance(study, Study)
    assert study.problem.parameters[0].bounds == (-4.0, 5.0)
    assert len(to_trials(study)) == 5


def test_choices_that_look_the_same_are_refused(tmp_path: Path) -> None:
    (skipped,) = run(tmp_path, lambda t: float(t.suggest_categorical("x", [1, "1"])))
    assert isinstance(skipped, Remark)
    assert "'s': parameter 'x' has the choices '1' and 1, which look the same" in skipped.reason


@pytest.mark.parametrize("name", ["s", "größe / 大きさ"])
def test_user_attributes_are_metadata(tmp_path: Path, name: str) -> None:
    path, storage = journal(tmp_path)
    study = optuna.create_study(storage=storage, study_name=name)
    for key, value in (("team", "vision"), ("rows", 3), ("nested", {"a": 1}), ("algorithm", "tpe")):
        study.set_user_attr(key, value)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    (ours,) = read(path, algorithm="unknown")
    assert isinstance(ours, Study)
    assert ours.name == name
    assert ours.problem.metadata == (("team", "vision"), ("rows", "3"))
    assert ours.algorithm == "tpe"
