"""Blocks of objective functions, and studies of searches on them.

Array dimensions: B studies (one function each), N points, R trials (rows), P parameters.
"""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from optformer.space import Spaces, column_from_units
from optformer.study import Parameter, Problem, State, Study


@runtime_checkable
class ObjectiveBlock(Protocol):
    """B functions of P parameters, evaluated together at points of the unit cube.

    Attributes:
      problems: one for each function, named by family and instance.
      spaces: the legal points, for teachers.
      optimum_B: the best attainable noiseless value, larger better; NaN where unknown.
    """

    @property
    def problems(self) -> tuple[Problem, ...]: ...

    @property
    def spaces(self) -> Spaces: ...

    @property
    def optimum_B(self) -> Float64[np.ndarray, " B"]: ...

    def evaluate(
        self, units_BNP: Float64[np.ndarray, "B N P"], rng: np.random.Generator
    ) -> Float64[np.ndarray, "B N"]:
        """Measured values with noise; larger is always better; NaN means infeasible."""
        ...

    def evaluate_exact(self, units_BNP: Float64[np.ndarray, "B N P"]) -> Float64[np.ndarray, "B N"]:
        """Values without noise, for evaluation; larger is always better."""
        ...


def studies_of(
    block: ObjectiveBlock,
    units_BRP: Float64[np.ndarray, "B R P"],
    values_BR: Float64[np.ndarray, "B R"],
    algorithm: str,
    predictive_BR2: Float64[np.ndarray, "B R 2"] | None = None,
) -> list[Study]:
    """The block's trials as one study for each function, in natural values and metric signs.

    Args:
      units_BRP: legal points in the order of their evaluation.
      values_BR: results of `evaluate`, larger better; NaN becomes an infeasible trial.
      predictive_BR2: mean and standard deviation of each value given the earlier ones, in the
        units of `values_BR`.
    """
    natural_BRP = _to_natural_block(block.problems, units_BRP)
    infeasible_BR = np.isnan(values_BR)
    states_BR = np.where(infeasible_BR, State.INFEASIBLE, State.COMPLETED).astype(np.int8)
    studies = []
    for row, problem in enumerate(block.problems):
        if problem.is_conditional:
            natural_BRP[row][~problem.active(natural_BRP[row])] = np.nan
        sign = problem.metrics[0].sign
        studies.append(
            Study(
                problem=problem,
                values_RP=natural_BRP[row],
                metrics_RM=sign * values_BR[row, :, None],
                states_R=states_BR[row],
                algorithm=algorithm,
                predictive_R2=None
                if predictive_BR2 is None
                else predictive_BR2[row] * np.array([sign, 1.0]),
            )
        )
    return studies


def _to_natural_block(
    problems: tuple[Problem, ...], units_BRP: Float64[np.ndarray, "B R P"]
) -> Float64[np.ndarray, "B R P"]:
    """`to_natural` for each study. Equal parameters of different studies are converted at once."""
    studies, trials, size = units_BRP.shape
    equal: dict[tuple[object, ...], tuple[Parameter, list[int]]] = {}
    for row, problem in enumerate(problems):
        for column, parameter in enumerate(problem.parameters):
            key = (parameter.type, parameter.scale, parameter.bounds, parameter.values)
            equal.setdefault(key, (parameter, []))[1].append(row * size + column)
    # C = B·P columns, contiguous in memory.
    units_CR = units_BRP.transpose(0, 2, 1).reshape(studies * size, trials)
    natural_CR = np.empty_like(units_CR)
    for parameter, columns in equal.values():
        natural_CR[columns] = column_from_units(parameter, units_CR[columns])
    return np.ascontiguousarray(natural_CR.reshape(studies, size, trials).transpose(0, 2, 1))
