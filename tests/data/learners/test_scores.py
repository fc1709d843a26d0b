"""Scores are those of scikit-learn."""

import numpy as np
import pytest

from optformer.data.data_tables.table import Task
from optformer.data.learners.scores import SCORES, metric_of
from optformer.study import Goal

metrics = pytest.importorskip("sklearn.metrics")


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_of_classes_are_those_of_scikit_learn(classes: int) -> None:
    rng = np.random.default_rng(classes)
    target_T = rng.integers(classes, size=200).astype(float)
    outputs_TK = rng.dirichlet(np.ones(classes), size=200).round(2) + 0.01
    outputs_TK /= outputs_TK.sum(axis=1, keepdims=True)
    label_T = outputs_TK.argmax(axis=1)
    shown = outputs_TK[:, 1] if classes == 2 else outputs_TK
    theirs = {
        "accuracy": metrics.accuracy_score(target_T, label_T),
        "balanced_accuracy": metrics.balanced_accuracy_score(target_T, label_T),
        "auc": metrics.roc_auc_score(target_T, shown, multi_class="ovr"),
        "log_loss": metrics.log_loss(target_T, outputs_TK),
        "f1": metrics.f1_score(target_T, label_T, average="macro"),
    }
    scores = SCORES[Task.CLASSIFICATION]
    assert scores.keys() == theirs.keys()
    for name, score in scores.items():
        assert score.of(outputs_TK, target_T) == pytest.approx(theirs[name])


def test_scores_of_numbers_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    target_T = rng.normal(size=50)
    outputs_TK = target_T[:, None] + rng.normal(size=(50, 1))
    theirs = {
        "r2": metrics.r2_score(target_T, outputs_TK[:, 0]),
        "rmse": metrics.root_mean_squared_error(target_T, outputs_TK[:, 0]),
        "mae": metrics.mean_absolute_error(target_T, outputs_TK[:, 0]),
    }
    scores = SCORES[Task.REGRESSION]
    assert scores.keys() == theirs.keys()
    for name, score in scores.items():
        assert score.of(outputs_TK, target_T) == pytest.approx(theirs[name])


def test_a_negative_score_is_maximized() -> None:
    log_loss = SCORES[Task.CLASSIFICATION]["log_loss"]
    assert metric_of(log_loss, "neg_log_loss").goal == Goal.MAXIMIZE
    assert metric_of(log_loss, "logloss").goal == Goal.MINIMIZE
