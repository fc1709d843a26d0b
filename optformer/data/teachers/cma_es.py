"""CMA-ES by the `cma` library, with one evolution strategy for each study.

Array dimensions: B studies, P parameters.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, Int64

from optformer.errors import TeacherError
from optformer.space import Spaces

if TYPE_CHECKING:
    import cma

FIRST_STEP = 0.3  # the library recommends 0.2 to 0.5 for a range of 1


class CmaEs:
    """Populations from a Gaussian that adapts to the better half of each population.

    Ordered levels are passed to the library as integers. The Gaussian is updated when a whole
    population is measured. The best foreign trial is injected into the next population. An
    infeasible trial counts as worse than the worst.

    Raises:
      TeacherError: a space has categories, which have no distance, or a single parameter, for
        which the library (cma 4.5) fails.
    """

    def __init__(self, spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], budget: int) -> None:
        if spaces.levels_BP.shape[1] < 2:
            raise TeacherError(
                "CMA-ES cannot search 1 parameter; it needs 2 or more. Use another teacher for it."
            )
        refused_BP = ~spaces.ordered_BP & (spaces.levels_BP > 0)
        if refused_BP.any():
            study, column = np.argwhere(refused_BP)[0]
            raise TeacherError(
                f"CMA-ES cannot search study {study}: parameter {column} is a category with "
                f"{spaces.levels_BP[study, column]} values, and categories have no distance. "
                "Use a teacher that supports them (regularized_evolution, tpe, gp_ucb), or leave "
                "categories out of the search space."
            )
        self._studies = [
            _OneStudy(levels_P=levels_P, generator=np.random.default_rng(seed))
            for levels_P, seed in zip(spaces.levels_BP, seeds_B, strict=True)
        ]

    def suggest(self) -> Float64[np.ndarray, "B P"]:
        return np.stack([study.suggest() for study in self._studies])

    def observe(
        self, units_BP: Float64[np.ndarray, "B P"], values_B: Float64[np.ndarray, " B"]
    ) -> None:
        for study, units_P, value in zip(self._studies, units_BP, values_B, strict=True):
            study.observe(units_P, float(value))


@dataclasses.dataclass(kw_only=True, eq=False)
class _OneStudy:
    """A strategy, with the points of its population that are not yet suggested or measured.

    Points are in the library's coordinates, where level k is the number k.
    """

    levels_P: Int64[np.ndarray, " P"]
    generator: np.random.Generator
    strategy: "cma.CMAEvolutionStrategy | None" = None
    waiting: list[np.ndarray] = dataclasses.field(default_factory=list)
    pending: list[tuple[np.ndarray, np.ndarray]] = dataclasses.field(default_factory=list)
    measured: list[tuple[np.ndarray, float]] = dataclasses.field(default_factory=list)
    foreign: tuple[np.ndarray, float] | None = None  # the best since the last population
    worst: float = -np.inf

    def suggest(self) -> Float64[np.ndarray, " P"]:
        if self.strategy is None:
            # Start from the best trial of an earlier search, if there is one.
            start_P = np.full(len(self.levels_P), 0.5)
            start_P = start_P if self.foreign is None else self.foreign[0]
            self.strategy = self._strategy(start_P, None)
        if not self.waiting:
            # If the population is still being measured, the same Gaussian gives more points.
            with _seeded_global_generator(self.generator):
                self.waiting = list(self.strategy.ask())[::-1]
        point_P = self.waiting.pop()
        units_P = self._units(point_P)
        self.pending.append((units_P, point_P))
        return units_P

    def observe(self, units_P: Float64[np.ndarray, " P"], value: float) -> None:
        feasible = bool(np.isfinite(value))
        if feasible:
            self.worst = max(self.worst, -value)
        floor = self.worst if np.isfinite(self.worst) else 0.0
        loss = -value if feasible else floor + abs(floor) + 1.0
        index = next(
            (i for i, (own_P, _) in enumerate(self.pending) if np.allclose(own_P, units_P)), None
        )
        if index is not None:
            self.measured.append((self.pending.pop(index)[1], loss))
        elif feasible and (self.foreign is None or loss < self.foreign[1]):
            self.foreign = (units_P, loss)
        if self.strategy is not None and len(self.measured) == self.strategy.popsize:
            self._next_population(self.strategy)

    def _next_population(self, strategy: "cma.CMAEvolutionStrategy") -> None:
        points, losses = zip(*self.measured, strict=True)
        with _seeded_global_generator(self.generator):
            strategy.tell(list(points), list(losses))
        self.measured, self.waiting, self.pending = [], [], []
        if strategy.stop():
            # Restart at another point with twice the population (Auger and Hansen, 2005).
            start_P = self.generator.random(len(self.levels_P))
            self.strategy = self._strategy(start_P, 2 * strategy.popsize)
        elif self.foreign is not None:
            strategy.inject([self._point(self.foreign[0])])
        self.foreign = None

    def _strategy(
        self, start_P: Float64[np.ndarray, " P"], population: int | None
    ) -> "cma.CMAEvolutionStrategy":
        import cma

        scale_P = np.maximum(self.levels_P, 1)
        discrete_P = self.levels_P > 0
        options = {
            "bounds": [
                np.where(discrete_P, -0.499, 0.0).tolist(),
                np.where(discrete_P, self.levels_P - 0.501, 1.0).tolist(),
            ],
            "CMA_stds": scale_P.astype(float).tolist(),
            "integer_variables": np.flatnonzero(discrete_P).tolist(),
            "randn": lambda *shape: self.generator.standard_normal(shape),
            "seed": np.nan,  # the library then does not seed numpy's global generator
            "verbose": -9,
        }
        if population is not None:
            options["popsize"] = population
        return cma.CMAEvolutionStrategy(self._point(start_P), FIRST_STEP, options)

    def _units(self, point_P: Float64[np.ndarray, " P"]) -> Float64[np.ndarray, " P"]:
        level_P = np.clip(np.round(point_P), 0, np.maximum(self.levels_P - 1, 0))
        steps_P = np.maximum(self.levels_P, 1)
        return np.where(self.levels_P > 0, (level_P + 0.5) / steps_P, np.clip(point_P, 0.0, 1.0))

    def _point(self, units_P: Float64[np.ndarray, " P"]) -> Float64[np.ndarray, " P"]:
        return np.where(self.levels_P > 0, np.floor(units_P * self.levels_P), units_P)


@contextlib.contextmanager
def _seeded_global_generator(generator: np.random.Generator) -> Iterator[None]:
    """Seeds numpy's global generator, from which the library draws, and restores it afterwards."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(generator.integers(2**32))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
