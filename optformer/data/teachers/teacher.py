"""The interface of teachers, and their random numbers.

Array dimensions: B studies, P parameters, N numbers.
"""

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64

from optformer.space import Spaces


@runtime_checkable
class Teacher(Protocol):
    """A search algorithm for B studies at once, with an ask-and-tell interface.

    Points lie in the unit cube of `Spaces`. The studies of a block advance together: each call of
    `suggest` adds a pending trial to every study, and each call of `observe` a finished one.
    """

    def suggest(self) -> Float64[np.ndarray, "B P"]:
        """The next point of each study, which is pending until it is observed."""
        ...

    def observe(
        self, units_BP: Float64[np.ndarray, "B P"], values_B: Float64[np.ndarray, " B"]
    ) -> None:
        """Adds a finished trial, suggested or not. Larger is better; NaN means infeasible."""
        ...


# Arguments: search spaces, one seed for each study, and the planned number of trials. A teacher can
# exceed this budget; only teachers that plan ahead use it.
TeacherFactory = Callable[[Spaces, Int64[np.ndarray, " B"], int], Teacher]


class Streams:
    """A stream of random numbers for each study, from the study's own seed.

    A study's numbers do not depend on the other studies of its block. Teachers with the same seed
    start from the same random points, so they can be compared in pairs.
    """

    def __init__(self, seeds_B: Int64[np.ndarray, " B"]) -> None:
        self._generators = [np.random.default_rng(seed) for seed in seeds_B]
        self._buffer_BN = np.empty((len(seeds_B), 0))
        self._used = 0

    def uniform(self, *shape: int) -> Float64[np.ndarray, "B ..."]:
        """The next numbers in [0, 1) of each study, (B, *shape)."""
        count = math.prod(shape)
        if self._used + count > self._buffer_BN.shape[1]:
            # Drawn in large batches: the call for each study costs more than a thousand numbers.
            size = max(1024, 4 * count)
            fresh_BN = np.stack([generator.random(size) for generator in self._generators])
            left_BN = self._buffer_BN[:, self._used :]
            self._buffer_BN, self._used = np.concatenate([left_BN, fresh_BN], axis=1), 0
        numbers_BN = self._buffer_BN[:, self._used : self._used + count]
        self._used += count
        return numbers_BN.reshape(len(self._generators), *shape)


def short_seed(seed: int) -> int:
    """A 32-bit seed, for libraries that need one, derived from all bits of a longer seed."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


def snap(spaces: Spaces, units_BP: Float64[np.ndarray, "B P"]) -> Float64[np.ndarray, "B P"]:
    """The nearest legal point of each study."""
    return spaces.snap(units_BP[:, None, :])[:, 0]


def same_points(
    first_BP: Float64[np.ndarray, "B P"], second_BP: Float64[np.ndarray, "B P"]
) -> np.ndarray:
    """Whether the points of each study are equal up to rounding errors of units: (B,)."""
    return np.all(np.abs(first_BP - second_BP) < 1e-9, axis=1)
