"""Several objectives as one, by a random direction for every suggestion.

Array dimensions: R trials, M objectives.
"""

import dataclasses

import numpy as np

from optformer.study import Metric, State, Study

MARGIN = 0.1
"""How far the reference point lies below the worst trial, as a share of an objective's range."""


def scalarize(study: Study, rng: np.random.Generator) -> Study:
    """The study with one objective: a random hypervolume scalarization of its objectives.

    Objectives are scaled so that the best completed trial is at 1 and the worst a little above 0:
    at 0, all trials that are worst in one of them would be worth the same in every direction. An
    objective that does not vary decides nothing. With a
    direction λ, uniform on the positive part of the sphere, a trial is worth min_m(y_m / λ_m); over
    many directions, the expected maximum is the hypervolume that the trials dominate, up to the
    power M, which changes no order (Zhang and Golovin, 2020). Safety metrics stay as they are.
    """
    problem = study.problem
    columns = [problem.metrics.index(metric) for metric in problem.objectives]
    signs_M = np.array([metric.sign for metric in problem.objectives])
    gains_RM = study.metrics_RM[:, columns] * signs_M
    completed_R = study.states_R == State.COMPLETED
    worth_R = np.full(len(study), np.nan)
    if completed_R.any():
        low_M = gains_RM[completed_R].min(axis=0)
        range_M = gains_RM[completed_R].max(axis=0) - low_M
        varies_M = range_M > 0
        units_RM = (gains_RM - low_M) / np.where(varies_M, range_M, 1.0)
        units_RM = (units_RM + MARGIN) / (1.0 + MARGIN)
        if varies_M.any():
            units_RM[:, ~varies_M] = np.inf
        direction_M = np.maximum(np.abs(rng.normal(size=len(columns))), 1e-6)
        direction_M /= np.linalg.norm(direction_M)
        worth_R = np.where(completed_R, (units_RM / direction_M).min(axis=1), np.nan)
    name = " and ".join(metric.name for metric in problem.objectives)
    limits = [
        column
        for column, metric in enumerate(problem.metrics)
        if metric.safety_threshold is not None
    ]
    metrics = (Metric(name=name), *(problem.metrics[column] for column in limits))
    return dataclasses.replace(
        study,
        problem=dataclasses.replace(problem, metrics=metrics),
        metrics_RM=np.column_stack([worth_R, study.metrics_RM[:, limits]]),
        predictive_R2=None,
    )
