"""Search by mutation: regularized evolution, hill climbing, and beam search.

Array dimensions: B studies, P parameters, K members of the population, T of a tournament.
"""

import numpy as np
from jaxtyping import Float64, Int64

from optformer.data.teachers.teacher import Streams, snap
from optformer.space import Spaces

POPULATION = 25  # OptFormer paper's settings
TOURNAMENT = 5
BEAM = 10  # our choice; Model Search has no default


class RegularizedEvolution:
    """Mutates the best of a random tournament and removes the oldest member.

    Real et al., Regularized Evolution for Image Classifier Architecture Search, 2019. Random
    points until the population is full. Infeasible trials join the population as the worst.
    """

    def __init__(self, spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], budget: int) -> None:
        studies, parameters = spaces.levels_BP.shape
        self._spaces = spaces
        self._streams = Streams(seeds_B)
        self._units_BKP = np.empty((studies, POPULATION, parameters))
        self._values_BK = np.empty((studies, POPULATION))
        self._observed = 0

    def suggest(self) -> Float64[np.ndarray, "B P"]:
        if self._observed < POPULATION:
            return snap(self._spaces, self._streams.uniform(self._spaces.levels_BP.shape[1]))
        tournament_BT = (self._streams.uniform(TOURNAMENT) * POPULATION).astype(np.int64)
        values_BT = np.take_along_axis(self._values_BK, tournament_BT, axis=1)
        studies_B = np.arange(len(values_BT))
        parent_B = tournament_BT[studies_B, np.argmax(values_BT, axis=1)]
        return mutate(self._spaces, self._units_BKP[studies_B, parent_B], self._streams)

    def observe(
        self, units_BP: Float64[np.ndarray, "B P"], values_B: Float64[np.ndarray, " B"]
    ) -> None:
        member = self._observed % POPULATION  # the oldest
        self._units_BKP[:, member] = units_BP
        self._values_BK[:, member] = np.where(np.isnan(values_B), -np.inf, values_B)
        self._observed += 1


class HillClimbing:
    """Mutates the best point so far. Random points until one is feasible."""

    def __init__(self, spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], budget: int) -> None:
        self._spaces = spaces
        self._streams = Streams(seeds_B)
        self._best_BP = np.full(spaces.levels_BP.shape, 0.5)
        self._best_B = np.full(len(spaces.levels_BP), -np.inf)

    def suggest(self) -> Float64[np.ndarray, "B P"]:
        random_BP = snap(self._spaces, self._streams.uniform(self._spaces.levels_BP.shape[1]))
        mutated_BP = mutate(self._spaces, self._best_BP, self._streams)
        return np.where(np.isneginf(self._best_B)[:, None], random_BP, mutated_BP)

    def observe(
        self, units_BP: Float64[np.ndarray, "B P"], values_B: Float64[np.ndarray, " B"]
    ) -> None:
        better_B = values_B > self._best_B  # False for NaN
        self._best_BP = np.where(better_B[:, None], units_BP, self._best_BP)
        self._best_B = np.where(better_B, values_B, self._best_B)


class ModelSearch:
    """Mutates one of the ten best trials. Random points until ten are feasible.

    The beam of Mazzawi et al., Improving Keyword Spotting and Language Identification via Neural
    Architecture Search at Scale, 2019, which became Model Search.
    """

    def __init__(self, spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], budget: int) -> None:
        studies, parameters = spaces.levels_BP.shape
        self._spaces = spaces
        self._streams = Streams(seeds_B)
        self._units_BKP = np.full((studies, BEAM, parameters), 0.5)
        self._values_BK = np.full((studies, BEAM), -np.inf)

    def suggest(self) -> Float64[np.ndarray, "B P"]:
        random_BP = snap(self._spaces, self._streams.uniform(self._spaces.levels_BP.shape[1]))
        parent_B = (self._streams.uniform() * BEAM).astype(np.int64)
        parent_BP = self._units_BKP[np.arange(len(parent_B)), parent_B]
        mutated_BP = mutate(self._spaces, parent_BP, self._streams)
        full_B = np.all(self._values_BK > -np.inf, axis=1)
        return np.where(full_B[:, None], mutated_BP, random_BP)

    def observe(
        self, units_BP: Float64[np.ndarray, "B P"], values_B: Float64[np.ndarray, " B"]
    ) -> None:
        worst_B = np.argmin(self._values_BK, axis=1)
        studies_B = np.arange(len(worst_B))
        better_B = values_B > self._values_BK[studies_B, worst_B]  # False for NaN
        rows_B, members_B = studies_B[better_B], worst_B[better_B]
        self._units_BKP[rows_B, members_B] = units_BP[better_B]
        self._values_BK[rows_B, members_B] = values_B[better_B]


def mutate(
    spaces: Spaces, units_BP: Float64[np.ndarray, "B P"], streams: Streams
) -> Float64[np.ndarray, "B P"]:
    """Redraws one parameter of each point uniformly; a discrete one always changes."""
    uniform_B2 = streams.uniform(2)
    studies_B = np.arange(len(units_BP))
    column_B = (uniform_B2[:, 0] * units_BP.shape[1]).astype(np.int64)
    levels_B = spaces.levels_BP[studies_B, column_B]
    steps_B = np.maximum(levels_B, 1)
    level_B = np.floor(units_BP[studies_B, column_B] * steps_B)
    shift_B = 1 + np.floor(uniform_B2[:, 1] * (steps_B - 1))
    moved_B = ((level_B + shift_B) % steps_B + 0.5) / steps_B
    mutated_BP = units_BP.copy()
    mutated_BP[studies_B, column_B] = np.where(levels_B > 0, moved_B, uniform_B2[:, 1])
    return mutated_BP
