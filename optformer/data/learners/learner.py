"""Learners: settings to tune, and a fit that predicts a table's test rows.

Array dimensions: N training rows, T test rows, C columns, K classes (1 for regression).
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from optformer.data.data_tables.table import Inputs, Split, Task
from optformer.data.learners.settings import Object, Setting


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """A fitted learner's predictions of the test rows.

    Attributes:
      outputs_TK: the probability of each class, or a score that orders rows and classes; for
        regression, one column with the predicted number.
      curve: the same after fewer rounds or epochs, if the learner provides it without further fits.
    """

    outputs_TK: Float64[np.ndarray, "T K"]
    curve: Sequence[tuple[float, Float64[np.ndarray, "T K"]]] = ()


Keywords = Mapping[str, Object]


@runtime_checkable
class Estimator(Protocol):
    """The interface of scikit-learn's estimators."""

    def fit(self, inputs: np.ndarray, target: np.ndarray) -> object: ...

    def predict(self, inputs: np.ndarray) -> np.ndarray: ...


Fit = Callable[[Keywords, Split, int], Prediction]
FitMany = Callable[[Sequence[Keywords], Split, int], Sequence[Prediction]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """A learner for one kind of target.

    Attributes:
      settings: the settings for search spaces, parents before their children.
      words: usual names of the learner in titles of studies.
      fit: trains with these keywords and this seed. Raises ValueError or ArithmeticError if the
        configuration cannot be trained; the trial is then infeasible.
      fit_many: replaces `fit`, and trains many configurations at once.
      probabilities: whether its outputs for classes are probabilities.
    """

    settings: tuple[Setting, ...]
    words: tuple[str, ...]
    fit: Fit | None = None
    fit_many: FitMany | None = None
    probabilities: bool = True

    @property
    def at_once(self) -> int:
        """The number of configurations to train in one call."""
        return 1 if self.fit_many is None else 25


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner:
    """A kind of model to tune.

    Attributes:
      families: groups of similar learners; studies of one contain information on the others.
      package: the required package, as named in `import`.
      inputs: the form of its input columns.
      prefixes: prefixes of its names in pipelines.
      most_rows: the largest number of training rows; more would take too long.
    """

    name: str
    families: tuple[str, ...]
    variants: Mapping[Task, Variant]
    package: str = "sklearn"
    inputs: Inputs = Inputs.SCALED
    prefixes: tuple[str, ...] = ("clf__", "model__", "estimator__")
    most_rows: int = 1_000_000


def fit_estimator(build: Callable[[Keywords, Split, int], Estimator]) -> Fit:
    """The fit of a scikit-learn estimator, created by `build`."""

    def fit(keywords: Keywords, split: Split, seed: int) -> Prediction:
        estimator = build(keywords, split, seed)
        with quiet():
            estimator.fit(split.train_NC, split.target_N)
            return Prediction(outputs_TK=outputs(estimator, split))

    return fit


def fit_staged(
    build: Callable[[Keywords, Split, int], Estimator],
    stages: Callable[[Estimator, Split, Sequence[int]], Iterable[np.ndarray]],
    rounds: Callable[[Estimator], int],
) -> Fit:
    """The fit of a boosted estimator, with its predictions after fewer rounds as a curve.

    Args:
      stages: the predictions after each of these numbers of rounds.
      rounds: how many rounds were made.
    """

    def fit(keywords: Keywords, split: Split, seed: int) -> Prediction:
        estimator = build(keywords, split, seed)
        with quiet():
            estimator.fit(split.train_NC, split.target_N)
            steps = curve_steps(rounds(estimator))
            staged = [columns(each, split) for each in stages(estimator, split, steps)]
            return Prediction(
                outputs_TK=outputs(estimator, split),
                curve=tuple(zip(map(float, steps), staged, strict=True)),
            )

    return fit


def curve_steps(last: int) -> list[int]:
    """Steps at which a curve is kept: powers of two before the last, and the last."""
    return [2**power for power in range(last.bit_length()) if 2**power < last] + [last]


def outputs(estimator: Estimator, split: Split) -> Float64[np.ndarray, "T K"]:
    """Probabilities or scores for each class, or the predicted number as one column."""
    if not split.classes:
        return columns(estimator.predict(split.test_TC), split)
    for name in ("predict_proba", "decision_function"):
        method = getattr(estimator, name, None)
        if method is not None:
            return columns(method(split.test_TC), split)
    raise AssertionError(f"{estimator} has neither probabilities nor scores")


def columns(values: np.ndarray, split: Split) -> Float64[np.ndarray, "T K"]:
    """One column a class; the score of a second class alone has its opposite put before it."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim == 2 and values.shape[1] > 1:
        return values
    values = values.reshape(-1, 1)
    return np.hstack([-values, values]) if split.classes else values


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppresses warnings of fits that stop early or diverge, which their scores reflect."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield
