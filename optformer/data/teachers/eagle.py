"""Eagle Strategy: a pool of fireflies that move towards brighter ones.

Yang, Firefly Algorithms for Multimodal Optimization, 2009, in the variant of Vizier's
`EagleStrategyDesigner` (google-vizier 0.1.24, algorithms/designers/eagle_strategy), with the same
pool size, forces, perturbations and rules of survival, vectorized over studies. One thing differs:
the distance between categories counts those that differ; Vizier's counts those that agree.

Array dimensions: B studies, P parameters, C flies in the pool, T kinds of parameter (continuous,
ordered levels, categories).
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float64, Int64

from optformer.data.teachers.random_search import QuasiRandom
from optformer.data.teachers.teacher import Streams, same_points, snap
from optformer.space import Spaces

GRAVITY, NEGATIVE_GRAVITY = 1.0, 0.02
VISIBILITY_T = np.array([3.0, 1.0, 0.2])
PERTURBATION, LOWEST_PERTURBATION, HIGHEST_PERTURBATION = 0.1, 1e-3, 0.5
CATEGORICAL_FACTOR, DISCRETE_FACTOR, PURE_CATEGORICAL = 25.0, 10.0, 0.1
PENALTY = 0.9
MOST_PENDING = 1000  # the number of latest suggestions that are recognized when they finish


def pool_size(parameters: int) -> int:
    """The number of fireflies for a space with this many parameters."""
    return min(10 + round((parameters**1.2 + parameters) * 0.5), 1000)


@dataclasses.dataclass(kw_only=True, eq=False)
class _Suggestion:
    """An unfinished trial of each study, and the fly that suggested it."""

    units_BP: Float64[np.ndarray, "B P"]
    fly_B: Int64[np.ndarray, " B"]
    finished_B: Bool[np.ndarray, " B"]


class EagleStrategy:
    """Each firefly in turn is pulled to brighter flies, pushed from darker ones, and perturbed.

    A fly moves to the new point if it is better. Otherwise its perturbation shrinks, and when that
    is too small, the fly is removed unless it is the best. Quasi-random points fill the pool.
    """

    def __init__(self, spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], budget: int) -> None:
        studies, parameters = spaces.levels_BP.shape
        capacity = pool_size(parameters)
        self._spaces = spaces
        self._streams = Streams(seeds_B)
        self._initial = QuasiRandom(spaces, seeds_B, min(budget, 2 * capacity))
        # The pool. An empty slot has fly -1 and value -inf.
        self._fly_BC = np.full((studies, capacity), -1)
        self._units_BCP = np.full((studies, capacity, parameters), 0.5)
        self._values_BC = np.full((studies, capacity), -np.inf)
        self._perturbation_BC = np.full((studies, capacity), PERTURBATION)
        self._flies_B = np.zeros(studies, dtype=np.int64)  # total so far: the next fly's number
        self._last_B = np.full(studies, -1)  # the fly that moved last
        self._pending: list[_Suggestion] = []
        self._rows_B = np.arange(studies)

        # The kinds and scales of the parameters.
        levels_BP = spaces.levels_BP
        kind_BP = np.where(levels_BP == 0, 0, np.where(spaces.ordered_BP, 1, 2))
        self._categorical_BP = kind_BP == 2
        self._kind_BPT = (kind_BP[:, :, None] == np.arange(3)).astype(np.float64)
        free_BT = np.einsum("BPT,BP->BT", self._kind_BPT, (levels_BP != 1).astype(np.float64))
        # Squared distances are averaged over the free parameters of a kind and multiplied by ten.
        self._sight_BT = -10.0 * VISIBILITY_T / np.maximum(free_BT, 1.0)
        # Levels 0 to L - 1 span the range in Vizier's distance; here they span (L - 1) / L.
        steps_BP = np.maximum(levels_BP, 1)
        self._span_BP = np.where(levels_BP > 1, (steps_BP - 1) / steps_BP, 1.0)
        self._scale_BP = np.select(
            [kind_BP == 1, kind_BP == 2],
            [DISCRETE_FACTOR / (steps_BP * PERTURBATION) * self._span_BP, CATEGORICAL_FACTOR],
            1.0,
        )
        self._only_categories_B = self._categorical_BP.all(axis=1)
        # The index of each parameter's kind in a flattened (B, T) array, for `_pulled`.
        self._place_of_kind_BP = 3 * self._rows_B[:, None] + kind_BP
        self._levels = _Levels(levels_BP) if (levels_BP > 0).any() else None

    def suggest(self) -> Float64[np.ndarray, "B P"]:
        full_B = np.all(self._fly_BC >= 0, axis=1)
        place_B = self._next_fly()
        capacity, parameters = self._units_BCP.shape[1:]
        # Always drawn, so that a study's numbers do not depend on the other studies.
        order_BC = np.argsort(self._streams.uniform(capacity), axis=1)
        choice_BCP = self._streams.uniform(capacity, parameters)
        step_B3P = self._streams.uniform(3, parameters)
        if full_B.any():
            pulled_BP = self._pulled(place_B, order_BC, choice_BCP)
            units_BP = self._perturbed(pulled_BP, place_B, step_B3P)
        if full_B.all():
            self._initial.skip()
        else:
            initial_BP = self._initial.suggest()
            units_BP = (
                np.where(full_B[:, None], units_BP, initial_BP) if full_B.any() else initial_BP
            )
        fly_B = np.where(full_B, self._fly_BC[self._rows_B, place_B], self._flies_B)
        self._last_B = np.where(full_B, fly_B, self._last_B)
        self._flies_B = self._flies_B + ~full_B
        self._pending.append(
            _Suggestion(units_BP=units_BP, fly_B=fly_B, finished_B=np.zeros(len(fly_B), dtype=bool))
        )
        del self._pending[:-MOST_PENDING]
        return units_BP

    def observe(
        self, units_BP: Float64[np.ndarray, "B P"], values_B: Float64[np.ndarray, " B"]
    ) -> None:
        feasible_B = ~np.isnan(values_B)
        fly_B = self._parent(units_BP)
        own_BC = (self._fly_BC == fly_B[:, None]) & (fly_B >= 0)[:, None]
        has_parent_B = own_BC.any(axis=1)
        empty_BC = self._fly_BC < 0
        room_B = empty_BC.any(axis=1)

        # A feasible trial without a fly becomes a new fly while there is room ...
        born_B = ~has_parent_B & feasible_B & room_B
        foreign_B = fly_B < 0
        number_B = np.where(foreign_B, self._flies_B, fly_B)
        self._flies_B = self._flies_B + foreign_B
        self._place(born_B, np.argmax(empty_BC, axis=1), units_BP, values_B)
        rows_B, places_B = self._rows_B[born_B], np.argmax(empty_BC, axis=1)[born_B]
        self._fly_BC[rows_B, places_B] = number_B[born_B]
        self._perturbation_BC[rows_B, places_B] = PERTURBATION

        # ... and otherwise moves the nearest fly, if it is better than that fly.
        parent_B = np.argmax(own_BC, axis=1)
        if not (has_parent_B | room_B).all():
            parent_B = np.where(has_parent_B, parent_B, self._nearest(units_BP))
        improves_B = values_B > self._values_BC[self._rows_B, parent_B]  # False for NaN
        adopted_B = ~has_parent_B & ~room_B & improves_B
        same_B = same_points(units_BP, self._units_BCP[self._rows_B, parent_B])
        self._place(improves_B & (has_parent_B | adopted_B), parent_B, units_BP, values_B)
        self._penalize(has_parent_B & ~improves_B, parent_B, same_B)

    def _place(
        self,
        where_B: Bool[np.ndarray, " B"],
        place_B: Int64[np.ndarray, " B"],
        units_BP: Float64[np.ndarray, "B P"],
        values_B: Float64[np.ndarray, " B"],
    ) -> None:
        """Moves a fly of some studies to a point."""
        rows_B, places_B = self._rows_B[where_B], place_B[where_B]
        self._units_BCP[rows_B, places_B] = units_BP[where_B]
        self._values_BC[rows_B, places_B] = values_B[where_B]

    def _penalize(
        self,
        where_B: Bool[np.ndarray, " B"],
        place_B: Int64[np.ndarray, " B"],
        same_B: Bool[np.ndarray, " B"],
    ) -> None:
        """Reduces the perturbation of a fly that did not improve, or raises it if the fly is stuck.

        A fly whose perturbation is too small is removed.
        """
        before_B = self._perturbation_BC[self._rows_B, place_B]
        stuck_B = np.minimum(before_B * 10, HIGHEST_PERTURBATION)
        after_B = np.where(same_B, stuck_B, before_B * PENALTY)
        after_B = np.where(where_B, after_B, before_B)
        self._perturbation_BC[self._rows_B, place_B] = after_B
        full_B = (self._fly_BC >= 0).all(axis=1)
        best_B = self._values_BC[self._rows_B, place_B] >= self._values_BC.max(axis=1)
        dies_B = where_B & full_B & ~best_B & (after_B < LOWEST_PERTURBATION)
        self._fly_BC[self._rows_B[dies_B], place_B[dies_B]] = -1
        self._values_BC[self._rows_B[dies_B], place_B[dies_B]] = -np.inf

    def _parent(self, units_BP: Float64[np.ndarray, "B P"]) -> Int64[np.ndarray, " B"]:
        """The number of the fly that suggested this point; -1 for a foreign point."""
        fly_B = np.full(len(units_BP), -1)
        for suggestion in self._pending:
            found_B = (
                (fly_B < 0) & ~suggestion.finished_B & same_points(suggestion.units_BP, units_BP)
            )
            fly_B = np.where(found_B, suggestion.fly_B, fly_B)
            suggestion.finished_B = suggestion.finished_B | found_B
        self._pending = [one for one in self._pending if not one.finished_B.all()]
        return fly_B

    def _nearest(self, units_BP: Float64[np.ndarray, "B P"]) -> Int64[np.ndarray, " B"]:
        """The index in the pool of the nearest fly of each study."""
        apart_BCP = self._apart(self._units_BCP - units_BP[:, None], self._rows_B)
        distance_BC = np.where(self._fly_BC >= 0, apart_BCP.sum(axis=2), np.inf)
        return np.argmin(distance_BC, axis=1)

    def _apart(self, difference_BCP: np.ndarray, rows_B: np.ndarray) -> np.ndarray:
        """Squared distance along each parameter: 0 or 1 for categories; (B, C, P)."""
        square_BCP = np.square(difference_BCP / self._span_BP[rows_B, None])
        return np.where(self._categorical_BP[rows_B, None], difference_BCP != 0.0, square_BCP)

    def _next_fly(self) -> Int64[np.ndarray, " B"]:
        """The index in the pool of the next fly by number, starting again after the last."""
        turn_BC = np.where(self._fly_BC > self._last_B[:, None], self._fly_BC, 2**40 + self._fly_BC)
        return np.argmin(np.where(self._fly_BC >= 0, turn_BC, 2**50), axis=1)

    def _pulled(
        self,
        place_B: Int64[np.ndarray, " B"],
        order_BC: Int64[np.ndarray, "B C"],
        choice_BCP: Float64[np.ndarray, "B C P"],
    ) -> Float64[np.ndarray, "B P"]:
        """The point of a fly after all other flies, in random order, have pulled or pushed it.

        The arrays are so small that the number of numpy calls determines the time, so the code
        uses few calls and writes into existing arrays.
        """
        others_CBP = self._units_BCP[self._rows_B, order_BC.T]
        choice_CBP = np.ascontiguousarray(choice_BCP.transpose(1, 0, 2))
        values_BC = np.take_along_axis(self._values_BC, order_BC, axis=1)
        brighter_BC = values_BC > self._values_BC[self._rows_B, place_B][:, None]
        direction_CB1 = np.where(brighter_BC, GRAVITY, -NEGATIVE_GRAVITY).T[:, :, None]
        units_BP = self._units_BCP[self._rows_B, place_B]
        categorical_BP, span_BP = self._categorical_BP, self._span_BP
        some_categories = bool(categorical_BP.any())
        difference_BP, apart_BP, pull_BP = np.empty((3, *units_BP.shape))
        distance_BT = np.empty_like(self._sight_BT)
        taken_BP = np.empty(units_BP.shape, dtype=bool)
        for other_BP, choose_BP, direction_B1 in zip(
            others_CBP, choice_CBP, direction_CB1, strict=True
        ):
            np.subtract(other_BP, units_BP, out=difference_BP)
            np.divide(difference_BP, span_BP, out=apart_BP)
            np.square(apart_BP, out=apart_BP)
            if some_categories:
                np.not_equal(difference_BP, 0.0, out=taken_BP)
                np.copyto(apart_BP, taken_BP, where=categorical_BP)
            np.einsum("BP,BPT->BT", apart_BP, self._kind_BPT, out=distance_BT)
            np.multiply(self._sight_BT, distance_BT, out=distance_BT)
            np.exp(distance_BT, out=distance_BT)
            np.multiply(distance_BT, direction_B1, out=distance_BT)
            distance_BT.take(self._place_of_kind_BP, out=pull_BP, mode="clip")
            if some_categories:
                # A category is copied with the probability of the pull.
                np.less(choose_BP, pull_BP, out=taken_BP)
                np.copyto(pull_BP, taken_BP, where=categorical_BP)
            np.multiply(pull_BP, difference_BP, out=difference_BP)
            np.add(units_BP, difference_BP, out=units_BP)
            np.maximum(units_BP, 0.0, out=units_BP)
            np.minimum(units_BP, 1.0, out=units_BP)
            if self._levels is not None:
                self._levels.snap(units_BP, apart_BP)
        return units_BP

    def _perturbed(
        self,
        units_BP: Float64[np.ndarray, "B P"],
        place_B: Int64[np.ndarray, " B"],
        uniform_B3P: Float64[np.ndarray, "B 3 P"],
    ) -> Float64[np.ndarray, "B P"]:
        """The points after a random step whose size is the fly's perturbation."""
        centred_BP = uniform_B3P[:, 0] - 0.5
        size_BP = np.minimum(np.abs(centred_BP), 0.5 - 1e-12)
        laplace_BP = -np.sign(centred_BP) * np.log1p(-2.0 * size_BP)
        direction_BP = laplace_BP / np.maximum(np.abs(laplace_BP).max(axis=1), 1e-300)[:, None]
        amount_B1 = self._perturbation_BC[self._rows_B, place_B][:, None]
        step_BP = direction_BP * amount_B1 * self._scale_BP
        chance_BP = np.where(self._only_categories_B[:, None], PURE_CATEGORICAL, np.abs(step_BP))
        stepped_BP = np.where(self._categorical_BP, units_BP, units_BP + step_BP)
        redrawn_BP = self._categorical_BP & (uniform_B3P[:, 1] < chance_BP)
        return snap(self._spaces, np.where(redrawn_BP, uniform_B3P[:, 2], stepped_BP))


class _Levels:
    """`Spaces.snap` in place."""

    def __init__(self, levels_BP: Int64[np.ndarray, "B P"]) -> None:
        self._there_BP = levels_BP > 0
        self._steps_BP = np.maximum(levels_BP, 1).astype(np.float64)
        self._last_BP = self._steps_BP - 1

    def snap(
        self, units_BP: Float64[np.ndarray, "B P"], buffer_BP: Float64[np.ndarray, "B P"]
    ) -> None:
        """Moves points of the unit cube to levels."""
        np.multiply(units_BP, self._steps_BP, out=buffer_BP)
        np.floor(buffer_BP, out=buffer_BP)
        np.minimum(buffer_BP, self._last_BP, out=buffer_BP)
        np.add(buffer_BP, 0.5, out=buffer_BP)
        np.divide(buffer_BP, self._steps_BP, out=buffer_BP)
        np.copyto(units_BP, buffer_BP, where=self._there_BP)
