"""What suggestions run is compiled for each size class; this compiles ahead what a study will meet.

It runs what a study runs, at each size at which something changes. Array dimensions: R trials, P
parameters.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from optformer.model.config import most_parameters
from optformer.model.decode import ROOM, size_class
from optformer.model.programs import cached_programs
from optformer.policies.config import PolicyConfig
from optformer.policies.model import OptFormer
from optformer.policies.objectives import scalarize
from optformer.policies.session import Session
from optformer.space import to_natural
from optformer.study import Metric, Parameter, ParameterType, Problem, State, Study
from optformer.tokenization.trajectory import TrialLayout


def warm_up(
    model: OptFormer,
    problems: Sequence[Problem | int],
    trials: int | None,
    policy: PolicyConfig,
    keep: Path | None,
) -> None:
    """As `OptFormer.warmup`."""
    # Nowhere but here: what is compiled later, Vizier's too, must not go through such a cache.
    with contextlib.nullcontext() if keep is None else cached_programs(keep):
        for problem in problems:
            _warm_up(model, problem, trials, policy)


def _warm_up(
    model: OptFormer, problem: Problem | int, trials: int | None, policy: PolicyConfig
) -> None:
    if isinstance(problem, int):
        problem = _numbers(min(problem, most_parameters(model.config)))
    if len(problem.objectives) > 1:
        problem = scalarize(_flat_study(problem, 0), np.random.default_rng(0)).problem
    key = (problem, model.teacher(policy.algorithm))
    layout = model.tokenizer.layout(problem)
    # A longer study is shortened to this, with room for the suggestion.
    most = max(1, layout.trials_in(model.most_tokens) - 1)
    study = _flat_study(problem, most if trials is None else min(trials, most))
    rng = np.random.default_rng(0)
    for first in _first_of_each_room(layout, len(study)):
        # Read whole, and extended by a trial, for which a later room grows out of the one before.
        for counts in ((first,), (max(first - 1, 0), max(first, 1))):
            session = Session(model, [key])
            for count in counts:
                session.propose([study.rows(slice(0, count))], 1, policy, [rng])
    if model.experts is not None and policy.acquisition != "prior":
        model.experts.compile_for(policy.candidates + policy.drawn(sifted=True))


def _numbers(parameters: int) -> Problem:
    """A problem of so many numbers in [0, 1], and a metric."""
    return Problem(
        name="warm-up",
        parameters=tuple(
            Parameter(name=f"x{index}", type=ParameterType.DOUBLE, bounds=(0.0, 1.0))
            for index in range(parameters)
        ),
        metrics=(Metric(name="y"),),
    )


def _flat_study(problem: Problem, trials: int) -> Study:
    """Random trials of one value: whatever is read stays, as the scale stays the same."""
    rng = np.random.default_rng(0)
    units_RP = rng.random((trials, len(problem.parameters)))
    values_RP = to_natural(problem.parameters, units_RP)
    return Study(
        problem=problem,
        values_RP=np.where(problem.active(values_RP), values_RP, np.nan),
        metrics_RM=np.zeros((trials, len(problem.metrics))),
        states_R=np.full(trials, State.COMPLETED, dtype=np.int8),
        algorithm="",
    )


def _first_of_each_room(layout: TrialLayout, trials: int) -> list[int]:
    """The smallest number of trials whose history takes each room."""
    rooms = [size_class(1 + layout.tokens_of(count), ROOM) for count in range(trials + 1)]
    return [0, *(count for count in range(1, trials + 1) if rooms[count] != rooms[count - 1])]
