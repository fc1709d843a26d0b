"""Data tables, from wherever learners can get them, by one name each.

sklearn/wine    of those that scikit-learn brings
pmlb/wine_recognition, openml/31    by name, with a network and the packages pmlb, openml
folder/wine     a file of a folder
synthetic/17    drawn with this seed
"""

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from optformer.data.data_tables.files import read_index, read_table, table_paths
from optformer.data.data_tables.table import Table, Task, make_table, parts, prepare, subset
from optformer.errors import ConfigError, SourceError, did_you_mean

__all__ = ["SKLEARN", "Table", "load", "names_of", "parts", "prepare", "subset"]

SKLEARN = ("breast_cancer", "diabetes", "digits", "iris", "wine")
_REGRESSION = ("diabetes",)


@functools.lru_cache(maxsize=64)
def load(name: str, folders: tuple[Path, ...] = (), target: str = "target") -> Table:
    """The table of this name.

    Args:
      folders: where `FOLDER/NAME` is a file of one of them, by the folder's own name.
      target: the column to predict, in files that have no index.

    Raises:
      SourceError: there is none, or it cannot be used.
      ConfigError: a package is missing.
    """
    origin, _, rest = name.partition("/")
    for folder in folders:
        if folder.name == origin:
            paths = table_paths(folder)
            if rest in paths:
                said = read_index(folder).get(rest)
                return read_table(paths[rest], target=target, name=name, said=said)
            raise SourceError(f"{folder} has no table {rest!r}.{did_you_mean(rest, paths)}")
    if origin == "sklearn":
        return _of_sklearn(rest)
    if origin == "pmlb":
        return _of_pmlb(rest)
    if origin == "openml":
        return _of_openml(rest)
    raise SourceError(
        f"no table is named {name!r}. Name it as sklearn/NAME, pmlb/NAME, openml/NUMBER, or as "
        "FOLDER/NAME for a file of a folder that is given."
    )


def _of_sklearn(name: str) -> Table:
    from sklearn import datasets

    if name not in SKLEARN:
        raise SourceError(
            f"scikit-learn brings no table {name!r}.{did_you_mean(name, SKLEARN)} It has "
            f"{', '.join(SKLEARN)}."
        )
    inputs, target = getattr(datasets, f"load_{name}")(return_X_y=True)
    task = Task.REGRESSION if name in _REGRESSION else Task.CLASSIFICATION
    return make_table(
        f"sklearn/{name}", inputs.astype(np.float64), target.astype(np.float64), task=task
    )


def _of_pmlb(name: str) -> Table:
    _need("pmlb")
    import pmlb

    if name not in pmlb.dataset_names:
        raise SourceError(f"PMLB has no table {name!r}.{did_you_mean(name, pmlb.dataset_names)}")
    frame = pmlb.fetch_data(name)
    task = Task.REGRESSION if name in pmlb.regression_dataset_names else Task.CLASSIFICATION
    inputs = frame.drop(columns="target")
    return make_table(
        f"pmlb/{name}",
        inputs.to_numpy(np.float64),
        frame["target"].to_numpy(np.float64),
        task=task,
        column_names=list(map(str, inputs.columns)),
    )


def _of_openml(number: str) -> Table:
    _need("openml")
    import openml

    data = openml.datasets.get_dataset(int(number))
    target = str(data.default_target_attribute)
    frame, labels, categorical, names = data.get_data(target=target)
    is_classes = str(labels.dtype) in ("category", "object", "bool", "str")
    codes = labels.astype("category").cat.codes if is_classes else labels
    columns, kept = [], []
    for name, is_category in zip(names, categorical, strict=True):
        values = frame[name]
        values = values.astype("category").cat.codes.replace(-1, np.nan) if is_category else values
        columns.append(np.asarray(values, dtype=np.float64))
        kept.append(str(name))
    return make_table(
        f"openml/{number}",
        np.stack(columns, axis=1),
        np.where(np.asarray(codes) == -1, np.nan, codes)
        if is_classes
        else np.asarray(codes, float),
        task=Task.CLASSIFICATION if is_classes else Task.REGRESSION,
        categorical_C=np.array(categorical),
        column_names=kept,
        twins=str(data.name),
    )


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"tables of {package} need its package, which is not installed. Run: pip install "
            f"'optformer[{package}]'"
        )


def names_of(folders: Sequence[Path]) -> list[str]:
    """The names of all files of these folders.

    Raises:
      SourceError: a folder without tables, or two of one name.
    """
    names = [f"{folder.name}/{name}" for folder in folders for name in table_paths(folder)]
    if len(set(names)) < len(names):
        raise SourceError("two of the folders have the same name. Rename one.")
    return names
