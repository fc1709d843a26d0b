"""Searches that ignore results: random, quasi-random, and random before a known optimum.

Array dimensions: B studies, P parameters.
"""

import numpy as np
from jaxtyping import Float64, Int64

from optformer.data.teachers.teacher import Streams, TeacherFactory, snap
from optformer.space import Spaces


class RandomSearch:
    """Uniform points."""

    def __init__(self, spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], budget: int) -> None:
        self._spaces = spaces
        self._streams = Streams(seeds_B)

    def suggest(self) -> Float64[np.ndarray, "B P"]:
        return snap(self._spaces, self._streams.uniform(self._spaces.levels_BP.shape[1]))

    def observe(
        self, units_BP: Float64[np.ndarray, "B P"], values_B: Float64[np.ndarray, " B"]
    ) -> None:
        """Does nothing."""


class QuasiRandom:
    """A scrambled Halton sequence for each study, as in Vizier's quasi-random designer."""

    def __init__(self, spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], budget: int) -> None:
        from scipy.stats import qmc  # slow to import

        self._spaces = spaces
        parameters = spaces.levels_BP.shape[1]
        self._sequences = [
            qmc.Halton(parameters, scramble=True, rng=np.random.default_rng(seed))
            for seed in seeds_B
        ]
        self._round = max(1, min(budget, 128))
        self._ahead_NBP = np.empty((0, *spaces.levels_BP.shape))
        self._drawn = 0  # the number of points drawn, of which `_ahead_NBP` holds the last
        self._next = 0

    def suggest(self) -> Float64[np.ndarray, "B P"]:
        if self._next >= self._drawn:
            for sequence in self._sequences:
                sequence.fast_forward(self._next - self._drawn)
            self._ahead_NBP = np.stack([s.random(self._round) for s in self._sequences], axis=1)
            self._drawn = self._next + self._round
        self._next += 1
        return snap(self._spaces, self._ahead_NBP[self._next - 1 - self._drawn])

    def skip(self) -> None:
        """Skips a point."""
        self._next += 1

    def observe(
        self, units_BP: Float64[np.ndarray, "B P"], values_B: Float64[np.ndarray, " B"]
    ) -> None:
        """Does nothing."""


class Optimum:
    """Random trials, then the known optimum.

    A model that imitates this teacher predicts the location of the optimum given the trials so
    far, so sampling from the model is Thompson sampling. Only the last trial of a study is useful
    for training.

    Attributes:
      explored_B: the number of random trials of each study before its optimum.
    """

    def __init__(
        self,
        spaces: Spaces,
        seeds_B: Int64[np.ndarray, " B"],
        optimum_BP: Float64[np.ndarray, "B P"],
        most: int,
    ) -> None:
        self._spaces = spaces
        self._streams = Streams(seeds_B)
        self._optimum_BP = snap(spaces, optimum_BP)
        self.explored_B = np.floor(self._streams.uniform() * (most + 1)).astype(np.int64)
        self._suggested = 0

    def suggest(self) -> Float64[np.ndarray, "B P"]:
        random_BP = snap(self._spaces, self._streams.uniform(self._spaces.levels_BP.shape[1]))
        exploring_B = self._suggested < self.explored_B
        self._suggested += 1
        return np.where(exploring_B[:, None], random_BP, self._optimum_BP)

    def observe(
        self, units_BP: Float64[np.ndarray, "B P"], values_B: Float64[np.ndarray, " B"]
    ) -> None:
        """Does nothing."""


def optimum_teacher(
    optimum_BP: Float64[np.ndarray, "B P"], most: int | None = None
) -> TeacherFactory:
    """A teacher for a block whose optima are known: 0 to `most` random trials, then the optimum.

    Unlike other teachers it belongs to one block of problems, so it is not in `TEACHERS`. By
    default, `most` is one less than the budget, so that each study ends with its optimum.
    """

    def factory(spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], budget: int) -> Optimum:
        return Optimum(spaces, seeds_B, optimum_BP, max(budget - 1, 0) if most is None else most)

    return factory
