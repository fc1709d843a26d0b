"""One configuration of a learner on a table: cross-validated scores, seconds and curves.

Array dimensions: F parts of the test rows, S scores, C steps of a curve.
"""

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from optformer.data import data_tables
from optformer.data.data_tables.synthetic import synthetic_table
from optformer.data.data_tables.table import Table
from optformer.data.learners import LEARNERS
from optformer.data.learners.learner import Inputs, Keywords, Prediction, Split, Task
from optformer.data.learners.scores import SCORES

_MOST_ERROR = 1e6
"""Predictions that are further from the mean than so many standard deviations have diverged."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Which rows of which table, and how they are split.

    Attributes:
      name: of a table; `synthetic/TASK-NUMBER` is one drawn with that number.
      folders, target: see `data_tables.load`.
      rows: at most so many, drawn at random.
      folds: parts of the test rows.
      holdout_rows: with more rows than these, one hold-out set instead of cross-validation.
    """

    name: str
    folders: tuple[Path, ...] = ()
    target: str = "target"
    rows: int = 10_000
    folds: int = 3
    holdout_rows: int = 2000
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What a configuration scores.

    Attributes:
      scores: names of `SCORES`.
      seconds: a fit that takes longer fails.
    """

    data: Data
    learner: str
    keywords: Keywords
    scores: tuple[str, ...]
    seconds: float
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What a configuration scored, or why it failed.

    Attributes:
      scores_FS: in each part of the test rows.
      seconds: of one fit and its predictions, in the mean.
      curve: mean scores after fewer rounds or epochs.
      failure: why there are no scores, in a few words.
    """

    scores_FS: Float64[np.ndarray, "F S"] | None = None
    seconds: float = float("nan")
    curve: tuple[tuple[float, Float64[np.ndarray, " S"]], ...] = ()
    failure: str = ""


def answer(question: Question) -> Answer:
    """Trains and scores; what the learner refuses, or where it diverges, is a failure."""
    _unchecked()
    learner = LEARNERS[question.learner]
    table = load(
        dataclasses.replace(question.data, rows=min(question.data.rows, learner.most_rows))
    )
    variant = learner.variants[table.task]
    scores_FS, curves, seconds = [], [], []
    for split, tests in splits(question.data, learner.most_rows, learner.inputs):
        began = time.monotonic()
        try:
            predicted = variant.fit(question.keywords, split, question.seed)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            return Answer(failure=f"{type(error).__name__}: {str(error).splitlines()[0][:120]}")
        seconds.append(time.monotonic() - began)
        if seconds[-1] > question.seconds:
            return Answer(failure=f"a fit took longer than {question.seconds:g} s")
        if _diverged(predicted, split):
            return Answer(failure="the fit diverged")
        for part, (rows_T, target_T) in enumerate(tests):
            score = functools.partial(
                _scores, question.scores, table, split=split, rows_T=rows_T, target_T=target_T
            )
            scores_FS.append(score(predicted.outputs_TK))
            curves.append([(step, score(each)) for step, each in predicted.curve])
    return Answer(
        scores_FS=np.array(scores_FS),
        seconds=float(np.mean(seconds)),
        curve=_mean_curve(curves),
    )


@functools.cache
def _unchecked() -> None:
    """Spares scikit-learn the checks of inputs and keywords, a fifth of a small fit's time."""
    import sklearn

    sklearn.set_config(assume_finite=True, skip_parameter_validation=True)


@functools.lru_cache(maxsize=4)
def load(data: Data) -> Table:
    """The rows of the table that are used."""
    rng = np.random.default_rng((data.seed, 0))
    origin, _, rest = data.name.partition("/")
    if origin == "synthetic":
        task, _, number = rest.partition("-")
        return synthetic_table(
            np.random.default_rng((data.seed, int(number), 2)),
            name=data.name,
            task=Task(task),
            most_rows=data.rows,
        )
    return data_tables.subset(
        data_tables.load(data.name, data.folders, data.target), data.rows, rng
    )


@functools.lru_cache(maxsize=4)
def splits(
    data: Data, most_rows: int, inputs: Inputs
) -> list[tuple[Split, list[tuple[np.ndarray, np.ndarray]]]]:
    """What to train on, each with the rows of its test part that are scored and their target."""
    table = load(dataclasses.replace(data, rows=min(data.rows, most_rows)))
    parts = data_tables.parts(
        table, folds=data.folds, holdout_rows=data.holdout_rows, seed=data.seed
    )
    every_N = np.arange(len(table))
    found = []
    held_out = sum(map(len, parts)) < len(table)
    for tests in [parts] if held_out else [[part] for part in parts]:
        test_N = np.concatenate(tests)
        split = data_tables.prepare(table, inputs, np.setdiff1d(every_N, test_N), test_N)
        ends = np.cumsum([len(rows) for rows in tests])
        shown = [
            (np.arange(end - len(rows), end), table.target_N[rows])
            for end, rows in zip(ends, tests, strict=True)
        ]
        found.append((split, shown))
    return found


def _scores(
    names: Sequence[str],
    table: Table,
    outputs_TK: np.ndarray,
    *,
    split: Split,
    rows_T: np.ndarray,
    target_T: np.ndarray,
) -> Float64[np.ndarray, " S"]:
    outputs_TK = outputs_TK[rows_T]
    if not table.classes:
        outputs_TK = outputs_TK * split.unit + split.centre
    return np.array([SCORES[table.task][name].of(outputs_TK, target_T) for name in names])


def _diverged(predicted: Prediction, split: Split) -> bool:
    outputs_TK = predicted.outputs_TK
    if not np.isfinite(outputs_TK).all():
        return True
    return not split.classes and bool(np.abs(outputs_TK).max() > _MOST_ERROR)


def _mean_curve(
    curves: Sequence[Sequence[tuple[float, np.ndarray]]],
) -> tuple[tuple[float, np.ndarray], ...]:
    """The mean over the parts, at steps that all of them have."""
    by_step: dict[float, list[np.ndarray]] = {}
    for curve in curves:
        for step, scores_S in curve:
            by_step.setdefault(step, []).append(scores_S)
    return tuple(
        (step, np.mean(found, axis=0))
        for step, found in sorted(by_step.items())
        if len(found) == len(curves)
    )
