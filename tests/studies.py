"""Small studies for tests: spaces of every kind, and functions with something to learn."""

import numpy as np

from optformer import space
from optformer.study import (
    Condition,
    Curves,
    Metric,
    Parameter,
    ParameterType,
    Problem,
    Scale,
    State,
    Study,
)

MIXED = Problem(
    name="mixed",
    title="svc on wine",
    parameters=(
        Parameter(name="C", type=ParameterType.DOUBLE, scale=Scale.LOG, bounds=(0.01, 100.0)),
        Parameter(name="depth", type=ParameterType.INTEGER, scale=Scale.LINEAR, bounds=(1, 7)),
        Parameter(name="batch", type=ParameterType.DISCRETE, values=(16.0, 32.0, 64.0)),
        Parameter(name="kernel", type=ParameterType.CATEGORICAL, values=("rbf", "poly", "linear")),
    ),
    metrics=(Metric(name="accuracy"),),
)

CONDITIONAL = Problem(
    name="conditional",
    parameters=(
        Parameter(name="kernel", type=ParameterType.CATEGORICAL, values=("rbf", "poly", "linear")),
        Parameter(
            name="gamma",
            type=ParameterType.DOUBLE,
            scale=Scale.LOG,
            bounds=(1e-4, 10.0),
            conditions=(Condition(parent="kernel", values=("rbf", "poly")),),
        ),
        Parameter(
            name="degree",
            type=ParameterType.INTEGER,
            bounds=(2, 5),
            conditions=(Condition(parent="kernel", values=("poly",)),),
        ),
    ),
    metrics=(Metric(name="accuracy"),),
)


def plane(parameters: int, name: str = "plane") -> Problem:
    """`parameters` numbers in [0, 1] and one metric."""
    return Problem(
        name=name,
        parameters=tuple(
            Parameter(
                name=f"x{index}", type=ParameterType.DOUBLE, scale=Scale.LINEAR, bounds=(0.0, 1.0)
            )
            for index in range(parameters)
        ),
        metrics=(Metric(name="y"),),
    )


def random_study(
    problem: Problem, trials: int, rng: np.random.Generator, algorithm: str = "random_search"
) -> Study:
    """Random trials whose metrics are a smooth random function of the parameters."""
    units_RP = rng.random((trials, len(problem.parameters)))
    values_RP = np.stack(
        [
            space.column_from_units(parameter, units_RP[:, column])
            for column, parameter in enumerate(problem.parameters)
        ],
        axis=1,
    )
    active_RP = problem.active(values_RP)
    waves_PW = rng.normal(size=(len(problem.parameters), 32)) * 3
    phases_W = rng.uniform(0, 2 * np.pi, size=32)
    height_W = rng.normal(size=(32, len(problem.metrics))) / 4
    metrics_RM = np.cos((units_RP * active_RP) @ waves_PW + phases_W) @ height_W
    return Study(
        problem=problem,
        values_RP=np.where(active_RP, values_RP, np.nan),
        metrics_RM=metrics_RM,
        states_R=np.full(trials, State.COMPLETED, dtype=np.int8),
        algorithm=algorithm,
    )


def random_curves(trials: int, metrics: int, rng: np.random.Generator) -> Curves:
    """Measurements of some of the trials in no order, some without some of the metrics."""
    count = int(rng.integers(0, 12)) if trials else 0
    values_CM = rng.normal(size=(count, metrics))
    # Which metric is there is drawn; at least one of them always is.
    there_CM = rng.random((count, metrics)) < 0.7
    there_CM[np.arange(count), rng.integers(0, metrics, count)] = True
    return Curves(
        trial_C=rng.integers(0, max(trials, 1), count).astype(np.int32),
        step_C=rng.integers(0, 100, count).astype(np.float64),
        values_CM=np.where(there_CM, values_CM, np.nan),
    )


def assert_same_curves(ours: Curves | None, theirs: Curves | None) -> None:
    """Whether they are the same; no curves equal curves without measurements."""
    if not ours or not theirs:
        assert not ours
        assert not theirs
        return
    np.testing.assert_array_equal(ours.trial_C, theirs.trial_C)
    np.testing.assert_array_equal(ours.step_C, theirs.step_C)
    np.testing.assert_array_equal(ours.values_CM, theirs.values_CM)
