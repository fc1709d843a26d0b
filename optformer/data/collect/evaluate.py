"""Configurations of a learner on a table: cross-validated scores, seconds and curves.

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
from optformer.data.data_tables.table import Inputs, Split, Table, Task
from optformer.data.learners import LEARNERS
from optformer.data.learners.learner import Keywords, Prediction, Variant
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
    """What configurations score.

    Attributes:
      keywords: of each configuration.
      scores: names of `SCORES`.
      seconds: a fit that takes longer fails.
    """

    data: Data
    learner: str
    keywords: tuple[Keywords, ...]
    scores: tuple[str, ...]
    seconds: float
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What a configuration scored, or why it failed.

    Attributes:
      scores_FS: in each part of the test rows.
      seconds: of one fit and its predictions, in the mean: those that a core worked for it, so
        that a busy machine changes little.
      curve: mean scores after fewer rounds or epochs.
      fits: how many models were trained for it.
      failure: why there are no scores, in a few words.
    """

    scores_FS: Float64[np.ndarray, "F S"] | None = None
    seconds: float = float("nan")
    curve: tuple[tuple[float, Float64[np.ndarray, " S"]], ...] = ()
    fits: int = 0
    failure: str = ""


def prepare() -> None:
    """Loads scikit-learn before any fit is timed, and turns its checks of arguments off: they
    take a fifth of a small fit."""
    import sklearn.ensemble
    import sklearn.linear_model
    import sklearn.neural_network
    import sklearn.svm

    sklearn.set_config(assume_finite=True, skip_parameter_validation=True)


def answer(question: Question) -> tuple[Answer, ...]:
    """Trains and scores; what the learner refuses, or where it diverges, is a failure."""
    learner = LEARNERS[question.learner]
    data = dataclasses.replace(question.data, rows=min(question.data.rows, learner.most_rows))
    table = load(data)
    collected = [_Collected() for _ in question.keywords]
    for split, tests in splits(data, learner.inputs):
        fits = _fits(learner.variants[table.task], question, split, collected)
        for each, (predicted, seconds) in zip(collected, fits, strict=True):
            if isinstance(predicted, str):
                each.failure = each.failure or predicted
                continue
            each.seconds.append(seconds)
            if seconds > question.seconds:
                each.failure = f"a fit took longer than {question.seconds:g} s"
            elif _diverged(predicted, split):
                each.failure = "the fit diverged"
            else:
                for rows_T, target_T in tests:
                    each.add(predicted, question.scores, table, split, rows_T, target_T)
    return tuple(each.answer() for each in collected)


@dataclasses.dataclass(kw_only=True, eq=False)
class _Collected:
    """What is known of a configuration after some of the fits."""

    scores_FS: list[np.ndarray] = dataclasses.field(default_factory=list)
    curves: list[list[tuple[float, np.ndarray]]] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    failure: str = ""

    def add(
        self,
        predicted: Prediction,
        names: Sequence[str],
        table: Table,
        split: Split,
        rows_T: np.ndarray,
        target_T: np.ndarray,
    ) -> None:
        def scores(outputs_TK: np.ndarray) -> Float64[np.ndarray, " S"]:
            shown_TK = outputs_TK[rows_T]
            if not table.classes:
                shown_TK = shown_TK * split.unit + split.centre
            return np.array([SCORES[table.task][name].of(shown_TK, target_T) for name in names])

        self.scores_FS.append(scores(predicted.outputs_TK))
        self.curves.append([(step, scores(each_TK)) for step, each_TK in predicted.curve])

    def answer(self) -> Answer:
        if self.failure:
            return Answer(fits=len(self.seconds), failure=self.failure)
        return Answer(
            scores_FS=np.array(self.scores_FS),
            seconds=float(np.mean(self.seconds)),
            curve=_mean_curve(self.curves),
            fits=len(self.seconds),
        )


def _fits(
    variant: Variant, question: Question, split: Split, collected: Sequence[_Collected]
) -> list[tuple[Prediction | str, float]]:
    """For each configuration its prediction, or why there is none, and the seconds it took."""
    began = time.process_time()
    if variant.fit_many is not None:
        many = variant.fit_many(question.keywords, split, question.seed)
        seconds = (time.process_time() - began) / len(many)
        return [(predicted, seconds) for predicted in many]
    assert variant.fit is not None
    found: list[tuple[Prediction | str, float]] = []
    for keywords, so_far in zip(question.keywords, collected, strict=True):
        predicted: Prediction | str = so_far.failure
        began = time.process_time()
        if not predicted:
            try:
                predicted = variant.fit(keywords, split, question.seed)
            except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
                predicted = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
        found.append((predicted, time.process_time() - began))
    return found


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
def splits(data: Data, inputs: Inputs) -> list[tuple[Split, list[tuple[np.ndarray, np.ndarray]]]]:
    """What to train on, each with the rows of its test part that are scored and their target."""
    table = load(data)
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
