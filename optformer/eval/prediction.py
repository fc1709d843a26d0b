"""Evaluation of predictions: the paper's protocol, and a Gaussian process for comparison.

Random trials of a test function; each trial's value is predicted from its parameters and the
earlier trials, with values scaled by the smallest and largest of the whole sequence [OptFormer,
table 4]. A prediction is a distribution over Q equal bins of that range.

Array dimensions: R trials of a study, N predictions, Q bins, P parameters, F features, C levels.
"""

import dataclasses
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from optformer.data.problems import ObjectiveBlock, studies_of
from optformer.errors import StudyError
from optformer.eval.task import rng_of
from optformer.files import atomic_write
from optformer.model import predictive
from optformer.progress import Progress, silent
from optformer.space import to_units
from optformer.study import ParameterType, Study

if TYPE_CHECKING:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Kernel


@runtime_checkable
class Predictor(Protocol):
    """Predicts the trials of a study in turn."""

    def predict(
        self, study: Study, y_range: tuple[float, float], rows_N: Int64[np.ndarray, " N"]
    ) -> Float[np.ndarray, "N Q"]:
        """The distribution of the first objective of each row, given its parameters and all
        earlier rows.

        Bins are equal, ascend with larger better, and share `y_range` (in units of
        `Study.objective`); each row's probabilities sum to 1.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Scores of one predictor's N predictions.

    Attributes:
      study_N: the index of each prediction's study, from 0.
      parameters_N: the number of parameters of that study.
      seen_N: the number of earlier trials.
      log_density_N: per unit of the scaled value; uniform predictions score 0.
      pit_N: random within the truth's bin (`predictive.pit`), with the same random numbers for all
        predictors.
      confidence_N, right_N: of the likeliest of 100 intervals.
      error_N: predicted mean minus truth, both scaled.
    """

    study_N: Int64[np.ndarray, " N"]
    parameters_N: Int64[np.ndarray, " N"]
    seen_N: Int64[np.ndarray, " N"]
    log_density_N: Float64[np.ndarray, " N"]
    pit_N: Float64[np.ndarray, " N"]
    confidence_N: Float64[np.ndarray, " N"]
    right_N: Bool[np.ndarray, " N"]
    error_N: Float64[np.ndarray, " N"]


def random_studies(block: ObjectiveBlock, trials: int, rng: np.random.Generator) -> list[Study]:
    """Studies of uniformly random trials, one for each function of the block."""
    studies, size = block.spaces.levels_BP.shape
    units_BRP = block.spaces.snap(rng.random((studies, trials, size)))
    return studies_of(block, units_BRP, block.evaluate(units_BRP, rng), "random_search")


def evaluate(
    predictors: Mapping[str, Predictor],
    studies: Sequence[Study],
    *,
    every: int = 1,
    progress: Progress = silent,
) -> dict[str, Predictions]:
    """All predictors on the same trials of the same studies.

    Args:
      every: predict only each `every`-th trial, from all earlier trials.

    Raises:
      StudyError: all feasible values of a study are equal, so it has no scale (`value_range`).
    """
    parts: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in predictors}
    for number, study in enumerate(studies):
        y_R = study.objective()
        low, high = value_range(study)
        rows_N = np.flatnonzero(np.isfinite(y_R))
        rows_N = rows_N[rows_N % every == every - 1]
        truth_N = (y_R[rows_N] - low) / (high - low)
        # The extremes of every study are 0 and 1, and discrete functions repeat their values.
        # Studies can share a name, so the random numbers depend on the content.
        shares_N = rng_of(fingerprint(study), 0).random(len(study))[rows_N]
        for name, predictor in predictors.items():
            probabilities_NQ = predictor.predict(study, (low, high), rows_N)
            confidence_N, right_N = predictive.likeliest(probabilities_NQ, truth_N)
            parts[name].append(
                {
                    "study_N": np.full(len(rows_N), number),
                    "parameters_N": np.full(len(rows_N), len(study.problem.parameters)),
                    "seen_N": rows_N,
                    "log_density_N": predictive.log_density(probabilities_NQ, truth_N),
                    "pit_N": predictive.pit(probabilities_NQ, truth_N, shares_N),
                    "confidence_N": confidence_N,
                    "right_N": right_N,
                    "error_N": predictive.predicted_mean(probabilities_NQ) - truth_N,
                }
            )
        progress(number + 1, len(studies), study.name)
    return {
        name: Predictions(
            **{field: np.concatenate([part[field] for part in some]) for field in some[0]}
        )
        for name, some in parts.items()
    }


def fingerprint(study: Study) -> str:
    """A hash of the study's content."""
    description = repr((study.problem, study.algorithm)).encode()
    columns = (study.values_RP, study.metrics_RM, study.states_R)
    content = b"".join(
        [description, *(np.ascontiguousarray(column).tobytes() for column in columns)]
    )
    return f"{zlib.crc32(content):08x}"


def value_range(study: Study) -> tuple[float, float]:
    """The smallest and the largest value of a study, for scaling.

    Raises:
      StudyError: they are equal, or there are no values.
    """
    y_N = study.objective()
    y_N = y_N[np.isfinite(y_N)]
    if not len(y_N) or y_N.min() == y_N.max():
        reason = f"all its values are {y_N[0]}" if len(y_N) else "no trial of it has a value"
        raise StudyError(
            f"study {study.name!r}: {reason}, so that there is nothing to predict. Leave it out."
        )
    return float(y_N.min()), float(y_N.max())


def join(parts: Sequence[Predictions]) -> Predictions:
    """The predictions of one predictor in several parts with different studies, joined."""
    counts = [int(part.study_N.max(initial=-1)) + 1 for part in parts]
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    moved = [
        dataclasses.replace(part, study_N=part.study_N + first)
        for part, first in zip(parts, firsts, strict=True)
    ]
    return Predictions(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in moved])
            for field in dataclasses.fields(Predictions)
        }
    )


def in_range(inside_NQ: Float64[np.ndarray, "N Q"]) -> Float64[np.ndarray, "N Q"]:
    """Distributions truncated to the range that all predictors receive.

    A millionth of each is uniform, so that no single truth has an infinite loss. A distribution
    without probability in the range becomes uniform.
    """
    bins = inside_NQ.shape[1]
    total_N1 = inside_NQ.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        shares_NQ = np.where(total_N1 > 0, inside_NQ / total_N1, 1.0 / bins)
    return (1 - 1e-6) * shares_NQ + 1e-6 / bins


def save(predictions: Mapping[str, Predictions], path: Path) -> None:
    """Writes predictions to a NumPy file, atomically."""
    arrays = {
        f"{name}/{field.name}": getattr(part, field.name)
        for name, part in predictions.items()
        for field in dataclasses.fields(part)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_arrays(path, arrays)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a NumPy file (.npz) atomically."""
    # To an open file, because numpy adds a suffix to a path.
    with atomic_write(path, shared=True) as new, new.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # not allow_pickle


def load(path: Path) -> dict[str, Predictions]:
    """Reads the predictions that `save` wrote."""
    with np.load(path) as arrays:
        names = dict.fromkeys(key.split("/")[0] for key in arrays)
        return {
            name: Predictions(
                **{
                    field.name: arrays[f"{name}/{field.name}"]
                    for field in dataclasses.fields(Predictions)
                }
            )
            for name in names
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianProcess:
    """A Gaussian process with a Matérn-5/2 kernel, a length scale for each feature, and noise.

    Hyperparameters are fitted by maximum likelihood (scikit-learn). Each prediction uses all
    earlier trials. With few trials, hyperparameters change most and are fastest to fit, so they
    are fitted more often. Distributions are truncated to the common range (`in_range`).

    Attributes:
      always_below: with fewer trials than this, hyperparameters are fitted before each prediction,
      refit_every: and otherwise after this number of trials since the last fit.
      restarts: the number of random starts of the fit besides the default one.
    """

    bins: int = 1000
    refit_every: int = 5
    always_below: int = 30
    restarts: int = 0

    def predict(
        self, study: Study, y_range: tuple[float, float], rows_N: Int64[np.ndarray, " N"]
    ) -> Float64[np.ndarray, "N Q"]:
        """See `Predictor.predict`."""
        x_RF = _features(study)
        y_R = (study.objective() - y_range[0]) / (y_range[1] - y_range[0])
        feasible_R = np.isfinite(y_R)
        # Uniform until there are two different values.
        inside_NQ = np.ones((len(rows_N), self.bins))
        fitted, fitted_at = None, -self.refit_every
        for place, row in enumerate(rows_N):
            seen = np.flatnonzero(feasible_R[:row])
            if len(seen) < 2 or np.ptp(y_R[seen]) == 0:
                continue
            if len(seen) < self.always_below or row - fitted_at >= self.refit_every:
                fitted, fitted_at = None, row
            process = self._fit(x_RF[seen], y_R[seen], fitted)
            fitted = process.kernel_
            mean, deviation = process.predict(x_RF[row : row + 1], return_std=True)
            inside_NQ[place] = self._binned(float(mean[0]), float(deviation[0]))
        return in_range(inside_NQ)

    def _fit(
        self,
        x_NF: Float64[np.ndarray, "N F"],
        y_N: Float64[np.ndarray, " N"],
        kernel: "Kernel | None",
    ) -> "GaussianProcessRegressor":
        """The process given these values; fits its hyperparameters if there is no kernel."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        fixed = kernel is not None
        if kernel is None:
            scales = np.full(x_NF.shape[1], 0.5)
            kernel = ConstantKernel(1.0, (1e-2, 1e3)) * Matern(
                scales, (1e-2, 1e2), nu=2.5
            ) + WhiteKernel(1e-2, (1e-6, 1e1))
        process = GaussianProcessRegressor(
            kernel,
            normalize_y=True,
            optimizer=None if fixed else "fmin_l_bfgs_b",
            n_restarts_optimizer=0 if fixed else self.restarts,
            random_state=0,
        )
        with warnings.catch_warnings():
            # Hyperparameters at their bounds are common with few trials, and not an error.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return process.fit(x_NF, y_N)

    def _binned(self, mean: float, deviation: float) -> Float64[np.ndarray, " Q"]:
        from scipy.special import ndtr

        edges = (np.linspace(0.0, 1.0, self.bins + 1) - mean) / max(deviation, 1e-9)
        # Both tails: differences of numbers near 1 would lose the upper one.
        return np.where(
            edges[:-1] > 0, ndtr(-edges[:-1]) - ndtr(-edges[1:]), ndtr(edges[1:]) - ndtr(edges[:-1])
        )


def _features(study: Study) -> Float64[np.ndarray, "R F"]:
    """Numbers in [0, 1] under their scale, categories one-hot; inactive parameters are 0.5."""
    units_RP = to_units(study.problem.parameters, study.values_RP)
    columns = []
    for column, parameter in enumerate(study.problem.parameters):
        if parameter.type == ParameterType.CATEGORICAL:
            levels = np.arange(len(parameter.values))
            columns.append((study.values_RP[:, column, None] == levels).astype(np.float64))
        else:
            columns.append(np.nan_to_num(units_RP[:, column, None], nan=0.5))
    return np.concatenate(columns, axis=1)
