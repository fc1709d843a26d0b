"""What people wrote about a problem, as arrays for the prior network (`model/prior.py`).

Every name becomes a bag of its words and their groups of three letters, each by the number of its
hash, so that no vocabulary is needed and `learning_rate`, `learningRate` and `clf__learning_rate`
have most of their bag in common:

    "maxDepth"  ->  =max =depth ~maxdepth <ma max ax> <de dep ept pth th>

A word that was never met in training has an embedding that says nothing. Digits in a title are
left out: they are the numbers of data sets.

Array dimensions: P parameters, C categories, W words (0 on padding), X numbers.
"""

import dataclasses
import functools
import re
import types
import zlib
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from optformer.study import Metric, Parameter, ParameterType, Problem, Scale

BUCKETS = 4096
"""Words share this many rows of the embedding."""

NAME_WORDS, TITLE_WORDS, METRIC_WORDS, CATEGORY_WORDS = 20, 64, 16, 8
MOST_CATEGORIES = 8
"""The text of further categories is not read."""

UNIT_KNOTS = np.linspace(0.0, 1.0, 7)
LOG_KNOTS = np.arange(-8.0, 5.0)
SHARE_KNOTS = np.linspace(0.0, 1.0, 5)
REST_KNOTS = np.arange(-4.0, 1.0)
NUMBERS = len(UNIT_KNOTS) + len(LOG_KNOTS) + len(SHARE_KNOTS) + len(REST_KNOTS) + 3
"""How many numbers `value_features` makes of a value."""

_TYPES, _SCALES = tuple(ParameterType), (None, *Scale)
STRUCTURE = len(_TYPES) + len(_SCALES) + 2 * NUMBERS + 4
"""How many numbers say what a parameter is, its name and categories apart."""

AnyArray = np.ndarray | Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """The text of a problem; in training with a batch dimension before the others.

    Attributes:
      names_PW, categories_PCW, title_W, metric_W: words.
      structure_PX: type, scale, bounds, number of values, conditions.
      goal_1: 1 if larger is better, otherwise -1.
      ordered_P: False where values are categories.
      real_P: False on padding.
    """

    names_PW: Int[AnyArray, "*B P W"]
    categories_PCW: Int[AnyArray, "*B P C W2"]
    structure_PX: Float[AnyArray, "*B P X"]
    ordered_P: Bool[AnyArray, "*B P"]
    real_P: Bool[AnyArray, "*B P"]
    title_W: Int[AnyArray, "*B W3"]
    metric_W: Int[AnyArray, "*B W4"]
    goal_1: Float[AnyArray, "*B 1"]


def describe(problem: Problem, size: int | None = None, *, hidden: bool = False) -> Description:
    """The description of a problem, padded to `size` parameters.

    Args:
      hidden: without any word: only types, scales and bounds.
    """
    parameters = problem.parameters
    count, size = len(parameters), size or len(parameters)
    names_PW = np.zeros((size, NAME_WORDS), np.int32)
    categories_PCW = np.zeros((size, MOST_CATEGORIES, CATEGORY_WORDS), np.int32)
    structure_PX = np.zeros((size, STRUCTURE), np.float32)
    ordered_P = np.ones(size, bool)
    for index, parameter in enumerate(parameters):
        ordered_P[index] = parameter.type != ParameterType.CATEGORICAL
        structure_PX[index] = _structure(parameter, parameters)
        if hidden:
            continue
        names_PW[index] = words(parameter.name, NAME_WORDS)
        if parameter.type == ParameterType.CATEGORICAL:
            for row, value in enumerate(parameter.values[:MOST_CATEGORIES]):
                categories_PCW[index, row] = words(str(value), CATEGORY_WORDS)
    metric: Metric = problem.objectives[0] if problem.objectives else problem.metrics[0]
    return Description(
        names_PW=names_PW,
        categories_PCW=categories_PCW,
        structure_PX=structure_PX,
        ordered_P=ordered_P,
        real_P=np.arange(size) < count,
        title_W=words("" if hidden else re.sub(r"\d", "", problem.title), TITLE_WORDS),
        metric_W=words("" if hidden else metric.name, METRIC_WORDS),
        goal_1=np.array([metric.sign], np.float32),
    )


@functools.lru_cache(maxsize=65536)
def words(text: str, most: int) -> Int[np.ndarray, " W"]:
    """The numbers of the words and groups of letters in a text; the first `most`."""
    # "numBoostRound" and "XGBClassifier" are words run together; "lr2" is a word and a number.
    found = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", text)]
    parts = [f"={word}" for word in found]
    if len(found) > 1:
        parts.append("~" + "".join(found))
    for word in found:
        marked = f"<{word}>"
        if len(marked) > 4:
            parts += [marked[start : start + 3] for start in range(len(marked) - 2)]
    numbers = [1 + zlib.crc32(part.encode()) % (BUCKETS - 1) for part in dict.fromkeys(parts)]
    padded = np.zeros(most, np.int32)
    padded[: len(numbers)] = numbers[:most]
    padded.flags.writeable = False
    return padded


def value_features(
    xp: types.ModuleType,
    units: Float[AnyArray, "*N"],
    values: Float[AnyArray, "*N"],
    ordered: Bool[AnyArray, "*M"],
    inactive: Bool[AnyArray, "*N"],
) -> Float[AnyArray, "*N F"]:
    """What a value is: where in its range, and as a number that means the same in other ranges.

    Piecewise linear bumps of the unit coordinate, of the logarithm, of a value between 0 and 1
    and of the logarithm of its distance from 1, and three flags. The network's first layer is
    linear in them and so any piecewise linear function of each.

    Args:
      xp: `numpy` or `jax.numpy`.
      units: the value in [0, 1] under the parameter's scale.
      values: the value itself; of a category anything.
    """
    number = xp.where(ordered, values, 0.0)
    count = (ordered * xp.ones_like(units))[..., None]
    share = (number >= 0.0) & (number <= 1.0)
    ones = xp.ones_like(units)[..., None]
    features = xp.concatenate(
        [
            _bumps(xp, units, UNIT_KNOTS),
            _bumps(xp, xp.log10(xp.maximum(abs(number), 1e-9)), LOG_KNOTS) * count,
            _bumps(xp, number, SHARE_KNOTS) * count,
            _bumps(xp, xp.log10(xp.clip(1.0 - number, 1e-5, 1.0)), REST_KNOTS)
            * count
            * share[..., None],
            (number < 0.0)[..., None] * ones,
            ones,
            0.0 * ones,
        ],
        axis=-1,
    )
    alone = np.zeros(NUMBERS, np.float32)
    alone[-1] = 1.0
    return xp.where(inactive[..., None], alone, features)


def _bumps(
    xp: types.ModuleType, x: Float[AnyArray, "*N"], knots: Float[np.ndarray, " K"]
) -> Float[AnyArray, "*N K"]:
    """1 at a knot, 0 at its neighbours, linear between; constant beyond the ends."""
    x = xp.clip(x, knots[0], knots[-1])[..., None]
    return xp.maximum(0.0, 1.0 - abs(x - knots.astype(np.float32)) / (knots[1] - knots[0]))


def _structure(parameter: Parameter, parameters: Sequence[Parameter]) -> Float[np.ndarray, " X"]:
    """What a parameter is, besides its name and categories."""
    kind = np.zeros(len(_TYPES) + len(_SCALES))
    kind[_TYPES.index(parameter.type)] = 1.0
    kind[len(_TYPES) + _SCALES.index(parameter.scale)] = 1.0
    ends = np.zeros(2 * NUMBERS)
    values = len(parameter.values)
    if parameter.type != ParameterType.CATEGORICAL:
        bounds = parameter.bounds or (parameter.values[0], parameter.values[-1])
        both, neither = np.ones(2, bool), np.zeros(2, bool)
        numbers = np.array(bounds, np.float64)
        ends = np.ravel(value_features(np, np.array([0.0, 1.0]), numbers, both, neither))
        if parameter.type == ParameterType.INTEGER:
            values = int(numbers[1] - numbers[0]) + 1
    children = any(
        condition.parent == parameter.name for other in parameters for condition in other.conditions
    )
    rest = [np.log1p(values) / 5.0, bool(parameter.conditions), children, len(parameters) / 10.0]
    return np.concatenate([kind, ends, rest]).astype(np.float32)
