"""Grid search, in order and shuffled, with 100 points for each dimension (OptFormer, appendix).

Array dimensions: B studies, P parameters, N points.
"""

import math

import numpy as np
from jaxtyping import Float64, Int64

from optformer.space import Spaces

POINTS = 100  # of a continuous parameter; a discrete one has its own values


class GridSearch:
    """The grid in lexicographic order, the last parameter fastest, and again from the start.

    The grid is never stored, so it can have any number of dimensions. In a short study, only the
    last few parameters change.
    """

    def __init__(self, spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], budget: int) -> None:
        self._spaces = spaces
        self._sizes_BP = sizes(spaces)
        self._index_BP = np.zeros_like(self._sizes_BP)

    def suggest(self) -> Float64[np.ndarray, "B P"]:
        units_BP = grid_units(self._spaces, self._index_BP)
        carry_B = np.ones(len(self._index_BP), dtype=np.int64)
        for column in reversed(range(self._index_BP.shape[1])):
            moved_B = self._index_BP[:, column] + carry_B
            carry_B = moved_B // self._sizes_BP[:, column]
            self._index_BP[:, column] = moved_B % self._sizes_BP[:, column]
        return units_BP

    def observe(
        self, units_BP: Float64[np.ndarray, "B P"], values_B: Float64[np.ndarray, " B"]
    ) -> None:
        """Does nothing: the grid does not depend on results."""


class ShuffledGridSearch:
    """Points of the same grid in random order, without repeats within the grid or budget."""

    def __init__(self, spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], budget: int) -> None:
        self._spaces = spaces
        self._sizes_BP = sizes(spaces)
        self._generators = [np.random.default_rng(seed) for seed in seeds_B]
        self._round = max(budget, 1)
        self._queues: list[list[np.ndarray]] = [[] for _ in seeds_B]

    def suggest(self) -> Float64[np.ndarray, "B P"]:
        index_BP = np.empty_like(self._sizes_BP)
        for study, queue in enumerate(self._queues):
            if not queue:
                queue.extend(self._draw(study)[::-1])
            index_BP[study] = queue.pop()
        return grid_units(self._spaces, index_BP)

    def observe(
        self, units_BP: Float64[np.ndarray, "B P"], values_B: Float64[np.ndarray, " B"]
    ) -> None:
        """Does nothing: the order does not depend on results."""

    def _draw(self, study: int) -> Int64[np.ndarray, "N P"]:
        """The next round of grid indices of one study."""
        sizes_P, generator = self._sizes_BP[study], self._generators[study]
        cells = math.prod(sizes_P.tolist())
        if cells >= 2**62:  # too many for an index, and two draws are never equal
            return generator.integers(sizes_P, size=(self._round, len(sizes_P)))
        flat_N = generator.choice(cells, size=min(self._round, cells), replace=False)
        return np.stack(np.unravel_index(flat_N, tuple(sizes_P.tolist())), axis=1)


def sizes(spaces: Spaces) -> Int64[np.ndarray, "B P"]:
    """The number of grid points of each parameter."""
    return np.where(spaces.levels_BP > 0, spaces.levels_BP, POINTS)


def grid_units(spaces: Spaces, index_BP: Int64[np.ndarray, "B P"]) -> Float64[np.ndarray, "B P"]:
    """The units of grid points: levels at (k + 0.5) / L, continuous ones from 0 to 1 inclusive."""
    levels_BP = np.maximum(spaces.levels_BP, 1)
    return np.where(spaces.levels_BP > 0, (index_BP + 0.5) / levels_BP, index_BP / (POINTS - 1))
