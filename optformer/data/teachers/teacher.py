"""What every teacher can do, and the random numbers they share.

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
    """An algorithm that searches B studies at once, by ask and tell.

    Points live in the unit cube of `Spaces`. All studies of a block move together: each call
    of `suggest` adds a pending trial to every study, each call of `observe` a finished one.
    """

    def suggest(self) -> Float64[np.ndarray, "B P"]:
        """The next point of each study. Called again before `observe`: one more pending trial."""
        ...

    def observe(
        self, units_BP: Float64[np.ndarray, "B P"], values_B: Float64[np.ndarray, " B"]
    ) -> None:
        """Adds a finished trial, the teacher's own or not. Larger is better, NaN is infeasible."""
        ...


# Search spaces, one seed a study, and how many trials are planned. A teacher goes on after its
# budget; only those that plan ahead look at it.
TeacherFactory = Callable[[Spaces, Int64[np.ndarray, " B"], int], Teacher]


class Streams:
    """A stream of random numbers for each study, from its own seed.

    A study's numbers do not depend on the other studies of its block. Two teachers with the
    same seed start from the same random points, which makes their comparison a paired one.
    """

    def __init__(self, seeds_B: Int64[np.ndarray, " B"]) -> None:
        self._generators = [np.random.default_rng(seed) for seed in seeds_B]
        self._buffer_BN = np.empty((len(seeds_B), 0))
        self._used = 0

    def uniform(self, *shape: int) -> Float64[np.ndarray, "B ..."]:
        """The next numbers in [0, 1) of each study, (B, *shape)."""
        count = math.prod(shape)
        if self._used + count > self._buffer_BN.shape[1]:
            # Drawn in long runs: a call for each study costs more than a thousand numbers.
            size = max(1024, 4 * count)
            fresh_BN = np.stack([generator.random(size) for generator in self._generators])
            left_BN = self._buffer_BN[:, self._used :]
            self._buffer_BN, self._used = np.concatenate([left_BN, fresh_BN], axis=1), 0
        numbers_BN = self._buffer_BN[:, self._used : self._used + count]
        self._used += count
        return numbers_BN.reshape(len(self._generators), *shape)


def short_seed(seed: int) -> int:
    """A seed of 32 bits for libraries that take no more, from all the bits of a longer one."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


def snap(spaces: Spaces, units_BP: Float64[np.ndarray, "B P"]) -> Float64[np.ndarray, "B P"]:
    """The nearest legal point of each study."""
    return spaces.snap(units_BP[:, None, :])[:, 0]


def close(
    first_BP: Float64[np.ndarray, "B P"], second_BP: Float64[np.ndarray, "B P"]
) -> np.ndarray:
    """Whether the points of each study are the same, up to what a change of units loses: (B,)."""
    return np.all(np.abs(first_BP - second_BP) < 1e-9, axis=1)
