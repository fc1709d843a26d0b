"""A model in memory with everything needed to use it, independent of the file format."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from optformer.model.config import ModelConfig, Temperature
from optformer.model.prior import PriorConfig
from optformer.tokenization.tokenizer import StudyTokenizer

T5X = "checkpoint"
"""The file that identifies a T5X checkpoint folder (`model/t5x.py`)."""

Tree = dict


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SavedPrior:
    """A prior network (`model/prior.py`).

    Attributes:
      weights: nested dicts and lists of numpy arrays; float16 on disk.
      about: how it was made, for people to read.
    """

    config: PriorConfig
    weights: Tree
    about: Mapping[str, object] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A model with everything needed to use it.

    Attributes:
      weights: nested dicts and lists of numpy arrays.
      algorithms: the algorithms in its training data, which a prompt may name.
      tokens: the length in tokens of the longest trajectory in training.
      value_temperature: the temperature at which predicted metrics are calibrated, fitted in
        training (`training/validation.py`); 1 if it was not fitted.
      about: a description for people: steps, studies, measured losses.
    """

    config: ModelConfig
    tokenizer: StudyTokenizer
    weights: Tree
    algorithms: tuple[str, ...] = ()
    tokens: int = 512
    value_temperature: Temperature = dataclasses.field(default_factory=Temperature)
    about: Mapping[str, object] = dataclasses.field(default_factory=dict)
    prior: SavedPrior | None = None


def flatten(tree: Tree | list, prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dicts and lists of arrays as one dict by dotted path."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    flat: dict[str, np.ndarray] = {}
    for key, value in items:
        if isinstance(value, dict | list):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = np.asarray(value)
    return flat


def unflatten(arrays: Mapping[str, np.ndarray]) -> Tree:
    """The inverse of `flatten`: a dict whose keys are all numbers is a list."""
    tree: Tree = {}
    for path, array in arrays.items():
        *parents, last = path.split(".")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = array
    return {key: _lists(node) for key, node in tree.items()}


def _lists(node: Tree | np.ndarray) -> Tree | list | np.ndarray:
    if not isinstance(node, dict):
        return node
    if node and all(key.isdigit() for key in node):
        return [_lists(node[str(index)]) for index in range(len(node))]
    return {key: _lists(value) for key, value in node.items()}
