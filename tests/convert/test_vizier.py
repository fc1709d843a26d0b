"""Vizier's types convert to ours and back without loss, or an error gives the reason."""

from collections.abc import Callable

import numpy as np
import pytest
from vizier import pyvizier as vz
from vizier.service import pyvizier as service_vz

from optformer.convert import vizier as convert
from optformer.errors import StudyError
from optformer.study import (
    Condition,
    Goal,
    Measurement,
    Metric,
    Parameter,
    ParameterType,
    Problem,
    Scale,
    State,
    Trial,
    from_trials,
    to_trials,
)


def everything() -> vz.ProblemStatement:
    """A space with all types, scales, external types, defaults, and a child of two parents."""
    statement = vz.ProblemStatement()
    root = statement.search_space.root
    root.add_float_param("lr", 1e-4, 1.0, scale_type=vz.ScaleType.LOG, default_value=0.1)
    root.add_float_param("keep", 0.1, 0.999, scale_type=vz.ScaleType.REVERSE_LOG)
    root.add_discrete_param("batch", [16, 32, 64], default_value=32)
    root.add_discrete_param("ratio", [0.5, 0.25], scale_type=vz.ScaleType.UNIFORM_DISCRETE)
    model = root.add_categorical_param("model", ["tree", "mlp", "svm"], default_value="mlp")
    model.select_values(["mlp", "tree"]).add_int_param("depth", 1, 5)
    early = model.select_values(["svm"]).add_bool_param("shrinking", default_value=True)
    early.select_values(["True"]).add_float_param("tolerance", 0.0, 1.0)
    layers = root.add_int_param("layers", 0, 3, default_value=1)
    layers.select_values([2, 3]).add_float_param("tolerance", 0.0, 1.0)
    statement.metric_information.extend(
        [
            vz.MetricInformation("accuracy", goal=vz.ObjectiveMetricGoal.MAXIMIZE),
            vz.MetricInformation(
                "latency", goal=vz.ObjectiveMetricGoal.MINIMIZE, safety_threshold=20.0
            ),
        ]
    )
    statement.metadata["title"] = "Größe, 大きさ"
    statement.metadata["team"] = "vision"
    return statement


def test_every_part_of_a_problem_is_kept() -> None:
    problem = convert.problem_from_vizier(everything(), name="study-1")
    parameters = {parameter.name: parameter for parameter in problem.parameters}
    assert list(parameters) == [
        "lr", "keep", "batch", "ratio", "model", "depth", "shrinking", "layers", "tolerance",
    ]  # fmt: skip
    assert parameters["lr"] == Parameter(
        name="lr",
        type=ParameterType.DOUBLE,
        scale=Scale.LOG,
        bounds=(1e-4, 1.0),
        default=0.1,
    )
    assert parameters["batch"].values == (16.0, 32.0, 64.0)
    assert parameters["batch"].external_type == "INTEGER"
    assert parameters["ratio"].scale == Scale.UNIFORM_DISCRETE
    assert parameters["ratio"].external_type == "FLOAT"
    assert parameters["depth"].conditions == (Condition(parent="model", values=("mlp", "tree")),)
    assert parameters["shrinking"].values == ("False", "True")
    assert parameters["shrinking"].external_type == "BOOLEAN"
    assert parameters["tolerance"].conditions == (
        Condition(parent="shrinking", values=("True",)),
        Condition(parent="layers", values=(2, 3)),
    )
    assert problem.metrics == (
        Metric(name="accuracy"),
        Metric(name="latency", goal=Goal.MINIMIZE, safety_threshold=20.0),
    )
    assert (problem.name, problem.title) == ("study-1", "Größe, 大きさ")
    assert problem.metadata == (("team", "vision"),)


def test_a_problem_converts_to_vizier_and_back() -> None:
    problem = convert.problem_from_vizier(everything(), name="study-1")
    again = convert.problem_from_vizier(convert.problem_to_vizier(problem), name="study-1")
    assert again == problem


def test_a_statement_converts_to_ours_and_back() -> None:
    statement = everything()
    again = convert.problem_to_vizier(convert.problem_from_vizier(statement))
    assert again.search_space == statement.search_space
    assert again.metric_information == statement.metric_information
    assert again.metadata == statement.metadata


def test_a_problem_converts_to_protos_and_back() -> None:
    """Vizier's service stores protos; 0.1.24 loses UNIFORM_DISCRETE and grandchildren in them."""
    statement = everything()
    statement.search_space.pop("ratio")
    statement.search_space.get("model").subspace("svm").get("shrinking").subspace("True").pop(
        "tolerance"
    )
    problem = convert.problem_from_vizier(statement, name="study-1")
    statement = convert.problem_to_vizier(problem)
    config = service_vz.StudyConfig.from_problem(statement)
    again = convert.problem_from_vizier(
        service_vz.StudyConfig.from_proto(config.to_proto()), name="study-1"
    )
    assert again == problem


def test_metadata_of_algorithms_is_left_out() -> None:
    statement = everything()
    statement.metadata.ns("designer")["state"] = "0xdeadbeef"
    assert convert.problem_from_vizier(statement).metadata == (("team", "vision"),)


def _custom(statement: vz.ProblemStatement) -> None:
    statement.search_space.root.add_custom_param("image")


def _two_definitions(statement: vz.ProblemStatement) -> None:
    statement.search_space.get("layers").subspace(0).root.add_float_param("tolerance", 0.0, 2.0)


def _root_and_child(statement: vz.ProblemStatement) -> None:
    statement.search_space.root.add_int_param("depth", 1, 5)


def _no_metrics(statement: vz.ProblemStatement) -> None:
    statement.metric_information = vz.MetricsConfig()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_custom, "problem 's7': parameter 'image' has type CUSTOM"),
        (_two_definitions, "problem 's7': parameter 'tolerance' is defined in two different ways"),
        (_root_and_child, "problem 's7': parameter 'depth' is both at the top"),
        (_no_metrics, "problem 's7' has no metrics"),
    ],
)
def test_problem_that_cannot_be_ours_says_why(
    spoil: Callable[[vz.ProblemStatement], None], message: str
) -> None:
    statement = everything()
    spoil(statement)
    with pytest.raises(StudyError, match=message):
        convert.problem_from_vizier(statement, name="s7")


def test_children_of_a_double_cannot_become_vizier() -> None:
    problem = Problem(
        parameters=(
            Parameter(name="x", type=ParameterType.DOUBLE, bounds=(0.0, 1.0)),
            Parameter(
                name="y",
                type=ParameterType.DOUBLE,
                bounds=(0.0, 1.0),
                conditions=(Condition(parent="x", values=(0.5,)),),
            ),
        ),
        metrics=(Metric(name="z"),),
    )
    with pytest.raises(StudyError, match="'y' is one"):
        convert.problem_to_vizier(problem)


TRIALS = (
    Trial(
        parameters={
            "lr": 0.01, "keep": 0.5, "batch": 16.0, "ratio": 0.5,
            "model": "mlp", "depth": 3, "layers": 0,
        },
        metrics={"accuracy": 0.5, "latency": 30.0},
        curve=(
            Measurement(step=1, metrics={"accuracy": 0.25}),
            Measurement(step=2, metrics={"accuracy": 0.375, "latency": 31.0}),
        ),
    ),
    Trial(
        parameters={
            "lr": 0.1, "keep": 0.2, "batch": 64.0, "ratio": 0.25,
            "model": "svm", "shrinking": "True", "layers": 2, "tolerance": 0.25,
        },
        state=State.INFEASIBLE,
        notes={"reason": "diverged"},
    ),
    Trial(
        parameters={
            "lr": 1.0, "keep": 0.9, "batch": 32.0, "ratio": 0.5,
            "model": "svm", "shrinking": "False", "layers": 1,
        },
        state=State.ACTIVE,
    ),
)  # fmt: skip


def test_study_survives_the_way_to_vizier_and_back() -> None:
    problem = convert.problem_from_vizier(everything())
    theirs = [
        convert.trial_to_vizier(problem, trial, uid=uid + 1) for uid, trial in enumerate(TRIALS)
    ]
    assert [trial.id for trial in theirs] == [1, 2, 3]
    study = convert.study_from_vizier(problem, theirs, algorithm="random_search")
    assert study.algorithm == "random_search"
    assert to_trials(study) == list(TRIALS)


def test_trials_have_the_state_of_their_status() -> None:
    problem = convert.problem_from_vizier(everything())
    parameters = dict(TRIALS[0].parameters)
    good = vz.Measurement(metrics={"accuracy": 0.5, "extra": 1.0})
    cases = [
        (vz.Trial(parameters=parameters, final_measurement=good), State.COMPLETED),
        (vz.Trial(parameters=parameters, infeasibility_reason=""), State.INFEASIBLE),
        (
            vz.Trial(parameters=parameters, infeasibility_reason="x", final_measurement=good),
            State.INFEASIBLE,
        ),
        (vz.Trial(parameters=parameters), State.ACTIVE),
        (vz.Trial(parameters=parameters, is_requested=True), State.ACTIVE),
        # Intermediate measurements alone do not complete a trial.
        (vz.Trial(parameters=parameters, stopping_reason="x", measurements=[good]), State.ACTIVE),
    ]
    study = convert.study_from_vizier(problem, [trial for trial, _ in cases])
    assert study.states_R.tolist() == [state for _, state in cases]
    np.testing.assert_array_equal(
        study.metrics_RM[:, 0], [0.5, np.nan, 0.5, np.nan, np.nan, np.nan]
    )
    assert np.isnan(study.metrics_RM[:, 1]).all()  # the safety metric was not measured


@pytest.mark.parametrize("value", [True, 1.0, 1, "True"])
def test_a_bool_is_read_from_each_of_its_encodings(value: object) -> None:
    statement = vz.ProblemStatement(
        metric_information=[vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE)]
    )
    statement.search_space.root.add_bool_param("flag")
    problem = convert.problem_from_vizier(statement)
    trial = vz.Trial(parameters={"flag": value}, final_measurement=vz.Measurement({"y": 1.0}))
    assert convert.study_from_vizier(problem, [trial]).values_RP.tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("changes", "measured", "message"),
    [
        ({"lr": 3.0}, {"accuracy": 0.0}, "study 's7', trial 2: lr=3.0 lies outside"),
        ({"model": "cnn"}, {"accuracy": 0.0}, "study 's7', trial 2: model='cnn' is not one of"),
        ({"momentum": 0.9}, {"accuracy": 0.0}, "trial 2: parameter 'momentum' is not in the"),
        ({"depth": None}, {"accuracy": 0.0}, "trial 2: parameter 'depth' is missing"),
        ({"tolerance": 0.5}, {"accuracy": 0.0}, "trial 2: parameter 'tolerance' is given, but"),
        ({}, {"loss": 0.0}, r"trial 2: metric 'accuracy' was not measured \(measured: \['loss'\]"),
        ({}, {"accuracy": float("nan")}, "trial 2: metric 'accuracy' is nan"),
    ],
)
def test_bad_trial_is_named(
    changes: dict[str, object], measured: dict[str, float], message: str
) -> None:
    problem = convert.problem_from_vizier(everything(), name="s7")
    parameters = {**TRIALS[0].parameters, **changes}
    bad = vz.Trial(
        parameters={name: value for name, value in parameters.items() if value is not None},
        final_measurement=vz.Measurement(metrics=measured),
    )
    with pytest.raises(StudyError, match=message):
        convert.study_from_vizier(problem, [convert.trial_to_vizier(problem, TRIALS[0]), bad])


def test_suggestions_have_viziers_types() -> None:
    problem = convert.problem_from_vizier(everything())
    study = from_trials(problem, TRIALS)
    suggestion = convert.suggestion_to_vizier(problem, study.values_RP[1])
    values = suggestion.parameters.as_dict()
    assert values == {
        "lr": 0.1, "keep": 0.2, "batch": 64, "ratio": 0.25,
        "model": "svm", "shrinking": "True", "layers": 2, "tolerance": 0.25,
    }  # fmt: skip
    assert [type(values[name]) for name in ("lr", "batch", "ratio", "model", "layers")] == [
        float, int, float, str, int,
    ]  # fmt: skip
