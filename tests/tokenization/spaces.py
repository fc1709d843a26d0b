"""Hypothesis strategies: any parameter, any problem, and trials of it."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from optformer import space
from optformer.study import (
    Condition,
    Goal,
    Metric,
    Parameter,
    ParameterType,
    Problem,
    Scale,
    State,
    Study,
)

BINS = 1000
names = st.text(min_size=0, max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def parameters(draw: st.DrawFn, name: str) -> Parameter:
    kind = draw(st.sampled_from(ParameterType))
    scale = draw(st.sampled_from([None, Scale.LINEAR, Scale.LOG, Scale.REVERSE_LOG]))
    if kind == ParameterType.CATEGORICAL:
        values = draw(st.lists(names, min_size=1, max_size=9, unique=True))
        return Parameter(name=name, type=kind, values=tuple(values))
    if kind == ParameterType.DISCRETE:
        numbers = draw(
            st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=9, unique=True)
        )
        return Parameter(name=name, type=kind, values=tuple(sorted(numbers)))
    if kind == ParameterType.INTEGER:
        low = draw(st.integers(1 if scale in (Scale.LOG, Scale.REVERSE_LOG) else -(2**40), 2**40))
        return Parameter(
            name=name, type=kind, scale=scale, bounds=(low, low + draw(st.integers(0, 2**40)))
        )
    numbers = st.floats(1e-300, 1e300) if scale in (Scale.LOG, Scale.REVERSE_LOG) else finite
    low, high = sorted([draw(numbers), draw(numbers)])
    return Parameter(name=name, type=kind, scale=scale, bounds=(low, high))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Up to six parameters, some of them children of an earlier category, up to two metrics."""
    chosen: list[Parameter] = []
    for name in draw(st.lists(names, min_size=1, max_size=6, unique=True)):
        parameter = draw(parameters(name))
        parents = [p for p in chosen if p.type == ParameterType.CATEGORICAL]
        if parents and draw(st.booleans()):
            conditions = []
            for parent in draw(st.lists(st.sampled_from(parents), min_size=1, max_size=2)):
                values = draw(st.lists(st.sampled_from(parent.values), min_size=1, unique=True))
                conditions.append(Condition(parent=parent.name, values=tuple(values)))
            parameter = Parameter(
                **{
                    field: getattr(parameter, field)
                    for field in ("name", "type", "scale", "bounds", "values")
                },
                conditions=tuple(conditions),
            )
        chosen.append(parameter)
    goals = draw(st.lists(st.sampled_from(Goal), min_size=1, max_size=2))
    return Problem(
        title=draw(names),
        parameters=tuple(chosen),
        metrics=tuple(Metric(name=f"m{i}", goal=goal) for i, goal in enumerate(goals)),
    )


@st.composite
def flat_problems(draw: st.DrawFn) -> Problem:
    """The same without conditions, with one metric, and one parameter at least to search."""
    problem = draw(problems())
    flat = [dataclasses.replace(parameter, conditions=()) for parameter in problem.parameters]
    taken = {parameter.name for parameter in flat}
    free = next(name for name in ("x", "y", "z", "a", "b", "c", "d") if name not in taken)
    flat.append(Parameter(name=free, type=ParameterType.DOUBLE, bounds=(0.0, 1.0)))
    return dataclasses.replace(problem, parameters=tuple(flat), metrics=problem.metrics[:1])


def flat_studies() -> st.SearchStrategy[Study]:
    """Trials of those problems, with metrics that single precision can hold."""
    return studies(flat_problems(), [0.0, 1.0, 1e30])


@st.composite
def studies(
    draw: st.DrawFn,
    problems: st.SearchStrategy[Problem] = problems(),  # noqa: B008 (a strategy never changes)
    scales: Sequence[float] = (0.0, 1e-310, 1.0, 1e300),
) -> Study:
    """A problem with up to 12 trials in every state."""
    problem = draw(problems)
    trials = draw(st.integers(0, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values_RP = np.empty((trials, len(problem.parameters)))
    for column, parameter in enumerate(problem.parameters):
        values_RP[:, column] = space.column_from_units(parameter, rng.random(trials))
    values_RP[~problem.active(values_RP)] = np.nan
    scale = draw(st.sampled_from(scales))
    metrics_RM = scale * rng.normal(size=(trials, len(problem.metrics)))
    states_R = rng.choice(
        [State.COMPLETED, State.INFEASIBLE, State.ACTIVE], size=trials, p=[0.8, 0.1, 0.1]
    ).astype(np.int8)
    metrics_RM[states_R != State.COMPLETED] = np.nan
    return Study(problem=problem, values_RP=values_RP, metrics_RM=metrics_RM, states_R=states_R)
