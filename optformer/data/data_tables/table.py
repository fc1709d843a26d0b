"""A data table: rows of numbers and categories, and a target to predict from them.

Array dimensions: N rows (of a split, those to train on), T test rows, C columns.
"""

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64

from optformer.errors import SourceError

FEWEST_ROWS = 30
FEWEST_OF_A_CLASS = 6  # two in the test part of each of three folds
MOST_CATEGORIES = 20
"""Categories of one column beyond these make it text: names and numbers of things."""


class Task(enum.StrEnum):
    """What a table's target is."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"


class Inputs(enum.StrEnum):
    """How a learner wants its columns."""

    SCALED = "scaled"  # missing values filled, categories one-hot, all standardized
    FILLED = "filled"  # missing values filled, categories as their codes
    RAW = "raw"  # NaN where missing, categories as their codes


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """One training and one test part of a table, prepared on the training part alone.

    Attributes:
      target_N: class indices, or standardized numbers.
      classes: how many classes there are; 0 where the target is a number.
      categorical_C: which columns are codes of categories.
      centre, unit: a number's standardized target is (target - centre) / unit.
    """

    train_NC: Float64[np.ndarray, "N C"]
    target_N: Float64[np.ndarray, " N"]
    test_TC: Float64[np.ndarray, "T C"]
    classes: int
    categorical_C: Bool[np.ndarray, " C"]
    centre: float = 0.0
    unit: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """A data table.

    Attributes:
      inputs_NC: numbers, or a category's code; NaN where missing.
      categorical_C: which columns hold categories.
      target_N: a class's index, or a number.
      classes: how many classes there are; 0 where the target is a number.
      twins: what tables that hold the same data, in other forms, have in common.
      notes: what was left out, and why.
    """

    name: str
    inputs_NC: Float64[np.ndarray, "N C"]
    categorical_C: Bool[np.ndarray, " C"]
    target_N: Float64[np.ndarray, " N"]
    classes: int
    twins: str = ""
    notes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.target_N)

    @property
    def task(self) -> Task:
        """What there is to predict."""
        return Task.CLASSIFICATION if self.classes else Task.REGRESSION


def make_table(
    name: str,
    inputs_NC: Float64[np.ndarray, "N C"],
    target_N: Float64[np.ndarray, " N"],
    *,
    task: Task,
    categorical_C: Bool[np.ndarray, " C"] | None = None,
    column_names: Sequence[str] = (),
    twins: str = "",
    notes: Sequence[str] = (),
) -> Table:
    """A table that learners can be trained on.

    Left out, with a note: rows without a target, classes with fewer than six rows, and columns
    that are constant or have no values at all.

    Raises:
      SourceError: too few rows or columns are left, or only one class, or a constant target.
    """
    said = list(notes)
    if categorical_C is None:
        categorical_C = np.zeros(inputs_NC.shape[1], dtype=bool)
    keep_N = np.isfinite(target_N)
    if task == Task.CLASSIFICATION:
        _, code_N, count = np.unique(target_N[keep_N], return_inverse=True, return_counts=True)
        rare = count < FEWEST_OF_A_CLASS
        if rare.any():
            said.append(f"{int(rare.sum())} classes with fewer than {FEWEST_OF_A_CLASS} rows")
            keep_N[keep_N] = ~rare[code_N]
    inputs_NC, target_N = inputs_NC[keep_N], target_N[keep_N]
    if len(target_N) < FEWEST_ROWS:
        raise SourceError(
            f"table {name!r} has {len(target_N)} usable rows, and {FEWEST_ROWS} are needed. "
            "Leave it out."
        )
    classes = 0
    if task == Task.CLASSIFICATION:
        labels, target_N = np.unique(target_N, return_inverse=True)
        target_N = target_N.astype(np.float64)
        classes = len(labels)
        if classes < 2:
            raise SourceError(f"table {name!r} has only one class. Leave it out.")
    elif np.ptp(target_N) == 0:
        raise SourceError(f"table {name!r} has the same target in every row. Leave it out.")
    with np.errstate(invalid="ignore"):
        inputs_NC = np.where(np.isfinite(inputs_NC), inputs_NC, np.nan)
    varies_C = np.array([len(np.unique(column[~np.isnan(column)])) > 1 for column in inputs_NC.T])
    if not varies_C.all():
        named = [
            column_names[column] if column_names else str(column + 1)
            for column in np.flatnonzero(~varies_C).tolist()
        ]
        said.append(f"columns with one value or none: {', '.join(named[:5])}")
    if not varies_C.any():
        raise SourceError(f"table {name!r} has no column that varies. Leave it out.")
    return Table(
        name=name,
        inputs_NC=inputs_NC[:, varies_C],
        categorical_C=categorical_C[varies_C],
        target_N=target_N,
        classes=classes,
        twins=twins or name,
        notes=tuple(said),
    )


def subset(table: Table, rows: int, rng: np.random.Generator) -> Table:
    """At most so many rows of the table, drawn at random; each class keeps its share."""
    if len(table) <= rows:
        return table
    order_N = rng.permutation(len(table))
    if table.classes:
        rank_N = np.empty(len(table))
        for index in range(table.classes):
            mine = order_N[table.target_N[order_N] == index]
            rank_N[mine] = (np.arange(len(mine)) + rng.random()) / len(mine)
            rank_N[mine[:FEWEST_OF_A_CLASS]] = -1.0
        order_N = np.argsort(rank_N, kind="stable")
    keep_N = np.sort(order_N[:rows])
    return dataclasses.replace(
        table, inputs_NC=table.inputs_NC[keep_N], target_N=table.target_N[keep_N]
    )


def parts(table: Table, *, folds: int, holdout_rows: int, seed: int) -> list[np.ndarray]:
    """The row numbers of each test part: all rows in `folds` parts, each with all classes.

    Above `holdout_rows` rows the parts are those of one hold-out set, a fraction of the rows: who
    trains does so once, on the rows in none of them.
    """
    rng = np.random.default_rng((seed, 1))
    order_N = rng.permutation(len(table))
    # Rows with equal or neighbouring targets go to different parts.
    order_N = order_N[np.argsort(table.target_N[order_N], kind="stable")]
    if len(table) > holdout_rows:
        order_N = order_N[:: folds + 1] if not table.classes else _share(order_N, table, folds)
    return [np.sort(order_N[part::folds]) for part in range(folds)]


def _share(order_N: np.ndarray, table: Table, folds: int) -> np.ndarray:
    """About one row of `folds` + 1, at least two of each class for each part."""
    chosen = []
    for index in range(table.classes):
        mine = order_N[table.target_N[order_N] == index]
        chosen.append(mine[: max(2 * folds, len(mine) // (folds + 1))])
    return np.concatenate(chosen)


def prepare(
    table: Table,
    inputs: Inputs,
    train_N: np.ndarray,
    test_N: np.ndarray,
    *,
    most_columns: int = 500,
) -> Split:
    """The split as a learner wants its columns, from what the training rows say of them."""
    train_NC, test_NC = table.inputs_NC[train_N], table.inputs_NC[test_N]
    categorical_C = table.categorical_C
    target_N = table.target_N[train_N]
    centre, unit = 0.0, 1.0
    if not table.classes:
        centre, unit = float(target_N.mean()), float(target_N.std()) or 1.0
        target_N = (target_N - centre) / unit
    if inputs != Inputs.RAW:
        train_NC, test_NC = _filled(train_NC, test_NC, categorical_C)
    if inputs == Inputs.SCALED:
        train_NC, test_NC = _scaled(train_NC, test_NC, categorical_C)
        train_NC, test_NC = train_NC[:, :most_columns], test_NC[:, :most_columns]
        categorical_C = np.zeros(train_NC.shape[1], dtype=bool)
    return Split(
        train_NC=np.ascontiguousarray(train_NC),
        target_N=target_N,
        test_TC=np.ascontiguousarray(test_NC),
        classes=table.classes,
        categorical_C=categorical_C,
        centre=centre,
        unit=unit,
    )


def _filled(
    train_NC: np.ndarray, test_NC: np.ndarray, categorical_C: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Missing numbers as the training rows' median, missing categories as one of their own."""
    fill_C = np.zeros(train_NC.shape[1])
    for column, values in enumerate(train_NC.T):
        there = values[~np.isnan(values)]
        if categorical_C[column]:
            fill_C[column] = -1.0
        elif len(there):
            fill_C[column] = np.median(there)
    return (
        np.where(np.isnan(train_NC), fill_C, train_NC),
        np.where(np.isnan(test_NC), fill_C, test_NC),
    )


def _scaled(
    train_NC: np.ndarray, test_NC: np.ndarray, categorical_C: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Categories one-hot (of those in the training rows), all columns standardized."""
    columns: list[tuple[np.ndarray, np.ndarray]] = []
    for column, is_categorical in enumerate(categorical_C):
        train_N, test_N = train_NC[:, column], test_NC[:, column]
        if is_categorical:
            columns += [
                ((train_N == code).astype(float), (test_N == code).astype(float))
                for code in np.unique(train_N)
            ]
        else:
            columns.append((train_N, test_N))
    wide_NC = np.stack([train for train, _ in columns], axis=1)
    other_NC = np.stack([test for _, test in columns], axis=1)
    mean_C, spread_C = wide_NC.mean(axis=0), wide_NC.std(axis=0)
    spread_C = np.where(spread_C > 0, spread_C, 1.0)
    return (wide_NC - mean_C) / spread_C, (other_NC - mean_C) / spread_C
