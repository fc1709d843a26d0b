"""Measures of predictions, with intervals over studies and differences from a reference.

Array dimensions: N predictions, B resamples.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool

from optformer.eval.prediction import Predictions
from optformer.eval.report.page import Interval
from optformer.model import predictive

REFERENCE = "gaussian_process"
"""The predictor that others are compared with, where it is among them."""

RESAMPLES = 400

Measure = Callable[[Predictions, np.ndarray], float]


def density(made: Predictions, rows: np.ndarray) -> float:
    return float(made.log_density_N[rows].mean())


def ece(made: Predictions, rows: np.ndarray) -> float:
    return 100 * predictive.calibration_error(made.confidence_N[rows], made.right_N[rows])


def rmse(made: Predictions, rows: np.ndarray) -> float:
    return float(np.sqrt((made.error_N[rows] ** 2).mean()))


MEASURES: Mapping[str, tuple[Measure, int]] = {  # with the digits after the point
    "log density": (density, 2),
    "ECE, %": (ece, 1),
    "RMSE": (rmse, 3),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A measure of the same predictions by each predictor.

    Attributes:
      values: by predictor.
      differences: each predictor's less the reference's.
    """

    studies: int
    predictions: int
    values: Mapping[str, Interval]
    differences: Mapping[str, Interval]


def estimate(
    made: Mapping[str, Predictions],
    measure: Measure,
    chosen_N: Bool[np.ndarray, " N"],
    digits: int = 2,
) -> Estimate:
    """The measure of the chosen predictions, of which there must be some.

    Args:
      digits: after the point, on the page.
    """
    rows = np.flatnonzero(chosen_N)
    study_N = next(iter(made.values())).study_N[rows]
    by_study = [rows[study_N == study] for study in np.unique(study_N)]
    whole = {name: measure(part, rows) for name, part in made.items()}
    draws = np.random.default_rng(0).integers(len(by_study), size=(RESAMPLES, len(by_study)))
    drawn = [np.concatenate([by_study[study] for study in picked]) for picked in draws]
    resampled = {
        name: np.array([measure(part, rows) for rows in drawn]) for name, part in made.items()
    }

    def interval(value: float, resampled_B: np.ndarray, signed: bool) -> Interval:
        if len(by_study) == 1:  # one study cannot tell
            return Interval(mean=value, digits=digits, signed=signed)
        low, high = map(float, np.quantile(resampled_B, [0.025, 0.975]))
        return Interval(mean=value, low=low, high=high, digits=digits, signed=signed)

    others = [name for name in made if name != REFERENCE] if REFERENCE in made else []
    return Estimate(
        studies=len(by_study),
        predictions=len(rows),
        values={name: interval(whole[name], resampled[name], False) for name in made},
        differences={
            name: interval(
                whole[name] - whole[REFERENCE], resampled[name] - resampled[REFERENCE], True
            )
            for name in others
        },
    )
