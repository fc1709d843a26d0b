"""Conditions of parameters, inferred from trials, for logs that do not record them.

A parameter that some trials lack is conditional. Its parent is a parameter whose values separate
the trials that have it from those that lack it.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from optformer.study import Condition, Parameter, ParameterType, Problem, Value


def with_conditions(
    flat: Mapping[str, Parameter], trials: Sequence[Mapping[str, Value]]
) -> dict[str, Parameter]:
    """The parameters, parents first, with conditions inferred from the trials that lack them.

    Parameters for which no condition fits are left out.
    """
    placed = {
        name: parameter
        for name, parameter in flat.items()
        if all(name in trial for trial in trials)
    }
    waiting = {name: parameter for name, parameter in flat.items() if name not in placed}
    placed_one = True
    while placed_one:
        placed_one = False
        for name, parameter in waiting.items():
            condition = _condition(name, placed, trials)
            if condition is not None:
                placed[name] = dataclasses.replace(parameter, conditions=(condition,))
                del waiting[name]
                placed_one = True
                break
    return placed


def _condition(
    name: str, parents: Mapping[str, Parameter], trials: Sequence[Mapping[str, Value]]
) -> Condition | None:
    """The condition that separates the trials with `name` from the others, or None.

    Of several conditions, one on a parent that also has values without `name` is preferred, then
    one on the parent with the fewest values.
    """
    having = [trial for trial in trials if name in trial]
    lacking = [trial for trial in trials if name not in trial]
    candidates: list[tuple[bool, int, str, set[Value]]] = []
    for parent, parameter in parents.items():
        if parameter.type == ParameterType.DOUBLE or any(parent not in trial for trial in having):
            continue
        active = {trial[parent] for trial in having}
        inactive = {trial[parent] for trial in lacking if parent in trial}
        values = len(active) + len(inactive)
        # A number that differs in every trial separates any two groups of trials.
        is_evidence = parameter.type == ParameterType.CATEGORICAL or values < len(trials)
        if active.isdisjoint(inactive) and is_evidence:
            candidates.append((not inactive, values, parent, active))
    if not candidates:
        return None
    _, _, parent, active = min(candidates, key=lambda item: item[:2])
    return Condition(parent=parent, values=tuple(sorted(active, key=parents[parent].to_number)))


def explained(
    flat: Mapping[str, Parameter], trials: Sequence[Mapping[str, Value]]
) -> dict[str, Parameter]:
    """`with_conditions` that keeps parameters of most trials even if no condition fits them.

    The majority of trials decides whether the study has such a parameter. The other trials then do
    not fit the space (`is_complete`).
    """
    parameters, decisive = dict(flat), list(trials)
    while True:
        placed = with_conditions(parameters, decisive)
        unexplained = [name for name in parameters if name not in placed]
        if not unexplained:
            return placed
        having = [trial for trial in decisive if unexplained[0] in trial]
        if 2 * len(having) >= len(decisive):
            decisive = having
        else:
            decisive = [trial for trial in decisive if unexplained[0] not in trial]
            del parameters[unexplained[0]]


def is_complete(problem: Problem, values: Mapping[str, Value]) -> bool:
    """Whether these are exactly the parameters that are active under their own values."""
    active: dict[str, bool] = {}
    for parameter in problem.parameters:
        active[parameter.name] = not parameter.conditions or any(
            active[each.parent] and values.get(each.parent) in each.values
            for each in parameter.conditions
        )
    return values.keys() <= active.keys() and all(
        wanted == (name in values) for name, wanted in active.items()
    )
