"""Random search spaces for generated functions: parameter types, levels, names, bounds, scales.

Array dimensions: B studies, N points, P parameters, L levels.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float64, Int64

from optformer.errors import ConfigError
from optformer.space import Spaces
from optformer.study import Parameter, ParameterType, Scale

TYPES = tuple(ParameterType)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpaceConfig:
    """Relative frequencies of parameter types, and the range of their numbers of levels.

    The defaults are those of the OptFormer paper: DOUBLE, DISCRETE or CATEGORICAL, 2 to 8 levels.
    """

    double: float = 1.0
    integer: float = 0.0
    discrete: float = 1.0
    categorical: float = 1.0
    fewest_levels: int = 2
    most_levels: int = 8

    def __post_init__(self) -> None:
        weights = (self.double, self.integer, self.discrete, self.categorical)
        if min(weights) < 0 or sum(weights) <= 0:
            raise ConfigError(
                f"weights of parameter types {weights} must not be negative, and not all 0."
            )
        if not 2 <= self.fewest_levels <= self.most_levels <= len(CATEGORIES):
            raise ConfigError(
                f"levels from {self.fewest_levels} to {self.most_levels}: they must ascend and "
                f"lie within 2 and {len(CATEGORIES)}."
            )


CATEGORIES = tuple("abcdefghijklmnopqrstuvwxyz")
CONTINUOUS = SpaceConfig(integer=0.0, discrete=0.0, categorical=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RandomSpaces:
    """B random spaces, and the position of each level on a function's axis.

    Attributes:
      spaces: the legal unit-cube points.
      types_BP: index into `TYPES`.
      positions_BPL: the position in [0, 1] of each level on the function's axis: evenly spaced
        from end to end, and for categories in random order, because their indices mean nothing.
    """

    spaces: Spaces
    types_BP: Int64[np.ndarray, "B P"]
    positions_BPL: Float64[np.ndarray, "B P L"]

    def place(self, units_BNP: Float64[np.ndarray, "B N P"]) -> Float64[np.ndarray, "B N P"]:
        """The positions of legal points on the function's axes, in [0, 1]."""
        levels_BP = self.spaces.levels_BP
        if not levels_BP.any():
            return units_BNP
        index_BNP = np.clip(units_BNP * levels_BP[:, None], 0, levels_BP[:, None] - 1)
        rows_B, columns_P = np.arange(len(levels_BP)), np.arange(levels_BP.shape[1])
        at_level_BNP = self.positions_BPL[
            rows_B[:, None, None], columns_P, index_BNP.astype(np.int64)
        ]
        return np.where(levels_BP[:, None] > 0, at_level_BNP, units_BNP)


def draw(
    config: SpaceConfig, rng: np.random.Generator, studies: int, parameters: int
) -> RandomSpaces:
    """Independent random spaces."""
    weights = np.array([config.double, config.integer, config.discrete, config.categorical])
    shape = (studies, parameters)
    types_BP = rng.choice(len(TYPES), shape, p=weights / weights.sum())
    levels_BP = rng.integers(config.fewest_levels, config.most_levels + 1, shape)
    levels_BP = np.where(types_BP == TYPES.index(ParameterType.DOUBLE), 0, levels_BP)
    index_L = np.arange(config.most_levels)
    there_BPL = index_L < levels_BP[:, :, None]
    categorical_BP = types_BP == TYPES.index(ParameterType.CATEGORICAL)
    # Sorting random keys shuffles; levels that do not exist sort last.
    keys_BPL = np.where(there_BPL, rng.random((*shape, config.most_levels)), 2.0)
    order_BPL = np.where(categorical_BP[:, :, None], np.argsort(keys_BPL, axis=2), index_L)
    positions_BPL = order_BPL / np.maximum(levels_BP - 1, 1)[:, :, None]
    return RandomSpaces(
        spaces=Spaces(levels_BP=levels_BP, ordered_BP=~categorical_BP),
        types_BP=types_BP,
        positions_BPL=np.where(there_BPL, positions_BPL, np.inf),
    )


@functools.cache
def plain_parameter(
    name: str, kind: ParameterType, levels: int, low: float, high: float
) -> Parameter:
    """A parameter over [low, high] without a scale; DISCRETE levels are evenly spaced."""
    if kind == ParameterType.DOUBLE:
        return Parameter(name=name, type=kind, bounds=(low, high))
    if kind == ParameterType.INTEGER:
        return Parameter(name=name, type=kind, bounds=(0.0, levels - 1.0))
    if kind == ParameterType.CATEGORICAL:
        return Parameter(name=name, type=kind, values=CATEGORIES[:levels])
    return Parameter(name=name, type=kind, values=tuple(np.linspace(low, high, levels).tolist()))


def varied_parameter(
    name: str, kind: ParameterType, levels: int, rng: np.random.Generator
) -> Parameter:
    """A parameter with random bounds and scale, similar to those of tuning studies."""
    if kind == ParameterType.CATEGORICAL:
        return Parameter(name=name, type=kind, values=CATEGORIES[:levels])
    if kind == ParameterType.INTEGER:
        low = float(rng.integers(-3, 65))
        return Parameter(name=name, type=kind, scale=Scale.LINEAR, bounds=(low, low + levels - 1))
    if kind == ParameterType.DISCRETE:
        step = _figures(10 ** rng.uniform(-2, 2))
        index_L = np.arange(levels)
        values_L = step * (2.0**index_L if rng.random() < 0.5 else index_L)
        return Parameter(name=name, type=kind, values=tuple(values_L.tolist()))
    if rng.random() < 0.5:
        low = _figures(rng.uniform(-2, 1) * 10 ** rng.uniform(-1, 1))
        high = _figures(low + 10 ** rng.uniform(-2, 2), 5)
        return Parameter(name=name, type=kind, scale=Scale.LINEAR, bounds=(low, high))
    low = _figures(10 ** rng.uniform(-6, 0))
    high = _figures(low * 10 ** rng.uniform(1, 5))
    scale = Scale.LOG if rng.random() < 0.8 else Scale.REVERSE_LOG
    return Parameter(name=name, type=kind, scale=scale, bounds=(low, high))


def _figures(number: float, figures: int = 3) -> float:
    """The number rounded to significant figures, as bounds usually are: 0.00125."""
    return float(f"{number:.{figures}g}")
