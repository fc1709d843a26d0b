"""Scores of predictions: what people optimize, under the names that they give it.

Array dimensions: T test rows, K classes.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float64, Int64
from scipy.stats import rankdata

from optformer.data.data_tables.table import Task
from optformer.study import Goal, Metric

Outputs = Float64[np.ndarray, "T K"]
Target = Float64[np.ndarray, " T"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """A score, and how people call it as a metric: name -> whether the sign is changed."""

    goal: Goal
    of: Callable[[Outputs, Target], float]
    names: Mapping[str, bool]
    needs_probabilities: bool = False


def accuracy(outputs_TK: Outputs, target_T: Target) -> float:
    """The share of rows whose class has the largest output."""
    return float(np.mean(outputs_TK.argmax(axis=1) == target_T))


def balanced_accuracy(outputs_TK: Outputs, target_T: Target) -> float:
    """The mean over classes of the share of their rows that are found."""
    right_T = (outputs_TK.argmax(axis=1) == target_T).astype(np.float64)
    class_T = target_T.astype(np.int64)
    count_K = np.bincount(class_T)
    there_K = count_K > 0
    return float(np.mean(np.bincount(class_T, right_T)[there_K] / count_K[there_K]))


def area_under_curve(outputs_TK: Outputs, target_T: Target) -> float:
    """The area under the ROC curve; of several classes the mean, each against the rest."""
    classes = range(1, 2) if outputs_TK.shape[1] == 2 else range(outputs_TK.shape[1])
    areas = []
    for index in classes:
        is_T = target_T == index
        positive, negative = int(is_T.sum()), int((~is_T).sum())
        if positive and negative:
            ranks = float(rankdata(outputs_TK[:, index])[is_T].sum())
            areas.append((ranks - positive * (positive + 1) / 2) / (positive * negative))
    return float(np.mean(areas))


def log_loss(outputs_TK: Outputs, target_T: Target) -> float:
    """The mean of -log of the class's probability, which is taken to be at least 1e-15."""
    rows_T: Int64[np.ndarray, " T"] = np.arange(len(target_T))
    share_T = outputs_TK[rows_T, target_T.astype(np.int64)] / outputs_TK.sum(axis=1)
    return float(-np.mean(np.log(np.clip(share_T, 1e-15, 1.0))))


def f1_macro(outputs_TK: Outputs, target_T: Target) -> float:
    """The mean over classes of F1, the harmonic mean of precision and recall."""
    predicted_T = outputs_TK.argmax(axis=1)
    class_T = target_T.astype(np.int64)
    size = outputs_TK.shape[1]
    both_K = np.bincount(class_T[predicted_T == class_T], minlength=size)
    sum_K = np.bincount(class_T, minlength=size) + np.bincount(predicted_T, minlength=size)
    there_K = sum_K > 0
    return float(np.mean(2 * both_K[there_K] / sum_K[there_K]))


def r2(outputs_TK: Outputs, target_T: Target) -> float:
    """The share of the target's variance that is predicted."""
    error = float(np.sum((outputs_TK[:, 0] - target_T) ** 2))
    return 1.0 - error / float(np.sum((target_T - target_T.mean()) ** 2))


def rmse(outputs_TK: Outputs, target_T: Target) -> float:
    """The root of the mean squared error."""
    return float(np.sqrt(np.mean((outputs_TK[:, 0] - target_T) ** 2)))


def absolute_error(outputs_TK: Outputs, target_T: Target) -> float:
    """The mean absolute error."""
    return float(np.mean(np.abs(outputs_TK[:, 0] - target_T)))


SCORES: dict[Task, dict[str, Score]] = {
    Task.CLASSIFICATION: {
        "accuracy": Score(
            goal=Goal.MAXIMIZE,
            of=accuracy,
            names={
                "accuracy": False,
                "val_accuracy": False,
                "mean_test_score": False,
                "cv_accuracy": False,
                "acc": False,
                "validation accuracy": False,
            },
        ),
        "balanced_accuracy": Score(
            goal=Goal.MAXIMIZE,
            of=balanced_accuracy,
            names={
                "balanced_accuracy": False,
                "bal_acc": False,
                "balanced accuracy (cv)": False,
                "val_balanced_accuracy": False,
            },
        ),
        "auc": Score(
            goal=Goal.MAXIMIZE,
            of=area_under_curve,
            names={"roc_auc": False, "auc": False, "AUC": False, "val_auc": False, "cv_auc": False},
        ),
        "log_loss": Score(
            goal=Goal.MINIMIZE,
            of=log_loss,
            names={
                "log_loss": False,
                "logloss": False,
                "neg_log_loss": True,
                "val_loss": False,
                "cross_entropy": False,
                "valid logloss": False,
            },
            needs_probabilities=True,
        ),
        "f1": Score(
            goal=Goal.MAXIMIZE,
            of=f1_macro,
            names={"f1_macro": False, "f1": False, "macro F1": False},
        ),
    },
    Task.REGRESSION: {
        "r2": Score(
            goal=Goal.MAXIMIZE,
            of=r2,
            names={"r2": False, "R2": False, "cv_r2": False, "val_r2": False, "r2_score": False},
        ),
        "rmse": Score(
            goal=Goal.MINIMIZE,
            of=rmse,
            names={
                "rmse": False,
                "RMSE": False,
                "neg_root_mean_squared_error": True,
                "val_rmse": False,
                "cv_rmse": False,
            },
        ),
        "mae": Score(
            goal=Goal.MINIMIZE,
            of=absolute_error,
            names={"mae": False, "mean_absolute_error": False, "neg_mean_absolute_error": True},
        ),
    },
}

SECONDS_NAMES = ("fit_seconds", "fit_time", "mean_fit_time", "training_seconds", "train time (s)")


def metric_of(score: Score, name: str) -> Metric:
    """The score as a study's metric under this name of it."""
    other = Goal.MINIMIZE if score.goal == Goal.MAXIMIZE else Goal.MAXIMIZE
    return Metric(name=name, goal=other if score.names[name] else score.goal)
