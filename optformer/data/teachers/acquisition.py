"""Maximization of an upper confidence bound for one study, in JAX.

Array dimensions: P parameters, N points so far, M candidates, E best candidates. Padded as in
`gaussian_process`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

OUTSIDE, REPEATED = -1e12, -1e15  # scores of points that are used only if there are no others

# Rounds of candidates: the first rounds cover the space, later ones are ever closer to the best so
# far; the best of the last round then climb the gradient. Measured on processes with 60 trials,
# against 40 rounds of 1,024 candidates with 100 climbing steps: the bound is on average 0.002, 0.09
# and 0.005 standard deviations of the trials' values lower, in 2, 6 and 12 dimensions.
ROUNDS, SPREAD_ROUNDS, CANDIDATES, BEST = 6, 2, 128, 16
WIDEST, NARROWEST = 0.2, 0.01
CLIMBERS, CLIMBS, FIRST_CLIMB = 8, 20, 0.02

Score = Callable[[Float[Array, "M P"]], Float[Array, " M"]]


class Cube(NamedTuple):
    """The legal points of one study. `real_P` is False for padding, whose coordinate is 0."""

    levels_P: Int[Array, " P"]
    ordered_P: Bool[Array, " P"]
    real_P: Bool[Array, " P"]

    def snap(self, units_MP: Float[Array, "M P"]) -> Float[Array, "M P"]:
        """The nearest legal points, as `Spaces.snap`."""
        steps_P = jnp.maximum(self.levels_P, 1)
        clipped_MP = jnp.clip(units_MP, 0.0, 1.0)
        level_MP = jnp.minimum(jnp.floor(clipped_MP * steps_P), steps_P - 1)
        return jnp.where(self.levels_P > 0, (level_MP + 0.5) / steps_P, clipped_MP) * self.real_P


class History(NamedTuple):
    """The points so far, and masks of the measured and the pending ones."""

    units_NP: Float[Array, "N P"]
    values_N: Float[Array, " N"]
    measured_N: Bool[Array, " N"]
    pending_N: Bool[Array, " N"]


def allowed(
    bound_M: Float[Array, " M"],
    units_MP: Float[Array, "M P"],
    history: History,
    cube: Cube,
    radius: Float[Array, ""],
) -> Float[Array, " M"]:
    """The bounds, with very low scores outside the trust region and at pending points."""
    ordered_MN = jnp.zeros((len(units_MP), len(history.units_NP)), units_MP.dtype)
    all_MN = ordered_MN
    for column in range(units_MP.shape[1]):
        apart_MN = jnp.abs(units_MP[:, None, column] - history.units_NP[None, :, column])
        all_MN = jnp.maximum(all_MN, apart_MN)
        ordered_MN = jnp.maximum(ordered_MN, jnp.where(cube.ordered_P[column], apart_MN, 0.0))
    outside_M = jnp.where(history.measured_N, ordered_MN, jnp.inf).min(axis=1)
    repeated_M = jnp.where(history.pending_N, all_MN, jnp.inf).min(axis=1) < 1e-6
    fine_M = (outside_M <= radius) & ~jnp.isnan(bound_M)
    bound_M = jnp.where(fine_M, bound_M, OUTSIDE * (1.0 + outside_M))
    return jnp.where(repeated_M, REPEATED, bound_M)


def maximize(
    score: Score,
    history: History,
    cube: Cube,
    radius: Float[Array, ""],
    scale_P: Float[Array, " P"],
    key: PRNGKeyArray,
) -> Float[Array, " P"]:
    """The point with the highest score among about 900 candidates; `scale_P` scales gradients."""
    _, seen_E = jax.lax.top_k(jnp.where(history.measured_N, history.values_N, -jnp.inf), BEST)
    seen_EP = history.units_NP[seen_E]

    def search_round(index: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
        scores_E, units_EP = best
        round_key = jax.random.fold_in(key, index)
        spread_MP = _spread(history, cube, radius, round_key)
        part = (index - SPREAD_ROUNDS) / (ROUNDS - SPREAD_ROUNDS - 1)
        width = WIDEST * (NARROWEST / WIDEST) ** part
        near_MP = _near(jnp.concatenate([units_EP, seen_EP]), width, cube, round_key)
        units_MP = cube.snap(jnp.where(index < SPREAD_ROUNDS, spread_MP, near_MP))
        scores_M = jnp.concatenate([scores_E, score(units_MP)])
        scores_E, index_E = jax.lax.top_k(scores_M, BEST)
        return scores_E, jnp.concatenate([units_EP, units_MP])[index_E]

    nothing = (jnp.full(BEST, -jnp.inf), seen_EP)
    best = jax.lax.fori_loop(0, ROUNDS, search_round, nothing)
    return _climb(score, best, cube, scale_P)


def _spread(
    history: History, cube: Cube, radius: Float[Array, ""], key: PRNGKeyArray
) -> Float[Array, "M P"]:
    """Uniform points, each in the trust box around a random trial."""
    box_key, point_key = jax.random.split(key)
    uniform_MP = jax.random.uniform(point_key, (CANDIDATES, history.units_NP.shape[1]))
    # Measured points come first.
    around_M = jax.random.randint(box_key, (CANDIDATES,), 0, jnp.sum(history.measured_N))
    boxed_MP = history.units_NP[around_M] + radius * (2.0 * uniform_MP - 1.0)
    return jnp.where((radius > 1.0) | ~cube.ordered_P, uniform_MP, boxed_MP)


def _near(
    parents_EP: Float[Array, "E P"], width: Float[Array, ""], cube: Cube, key: PRNGKeyArray
) -> Float[Array, "M P"]:
    """Random steps from the parents along one, some, or all of the parameters."""
    keys = jax.random.split(key, 4)
    shape = (CANDIDATES, parents_EP.shape[1])
    parents_MP = jnp.tile(parents_EP, (CANDIDATES // len(parents_EP), 1))
    share_M1 = jax.random.uniform(keys[0], (CANDIDATES, 1)) ** 2
    share_M1 = jnp.maximum(share_M1, 1.0 / jnp.sum(cube.real_P))
    moves_MP = jax.random.uniform(keys[1], shape) < share_M1
    levels_P = cube.levels_P
    step_P = jnp.maximum(width, jnp.where(levels_P > 0, 1.0 / jnp.maximum(levels_P, 1), 0.0))
    stepped_MP = parents_MP + step_P * jax.random.normal(keys[2], shape)
    redrawn_MP = jax.random.uniform(keys[3], shape)
    return jnp.where(moves_MP, jnp.where(cube.ordered_P, stepped_MP, redrawn_MP), parents_MP)


def _climb(
    score: Score,
    best: tuple[Float[Array, " E"], Float[Array, "E P"]],
    cube: Cube,
    scale_P: Float[Array, " P"],
) -> Float[Array, " P"]:
    """The best point after gradient steps along the continuous parameters.

    The direction is the gradient times the squared length scales. Steps grow after a success and
    shrink after a failure.
    """

    def total(units_EP: Float[Array, "E P"]) -> tuple[Array, Array]:
        scores_E = score(units_EP)
        return jnp.sum(scores_E), scores_E

    def slope(units_EP: Float[Array, "E P"]) -> tuple[Array, Array]:
        uphill_EP, scores_E = jax.grad(total, has_aux=True)(units_EP)
        uphill_EP = jnp.nan_to_num(uphill_EP) * scale_P * (cube.levels_P == 0)
        leaves_EP = jnp.where(uphill_EP > 0, units_EP >= 1.0, units_EP <= 0.0)
        uphill_EP = jnp.where(leaves_EP, 0.0, uphill_EP)
        largest_E1 = jnp.abs(uphill_EP).max(axis=1, keepdims=True)
        return scores_E, uphill_EP / jnp.maximum(largest_E1, 1e-20)

    def step(_: Array, state: tuple[Array, Array, Array, Array]) -> tuple:
        scores_E, units_EP, uphill_EP, size_E = state
        moved_EP = cube.snap(units_EP + size_E[:, None] * uphill_EP)
        moved_E, slope_EP = slope(moved_EP)
        better_E = moved_E > scores_E
        return (
            jnp.where(better_E, moved_E, scores_E),
            jnp.where(better_E[:, None], moved_EP, units_EP),
            jnp.where(better_E[:, None], slope_EP, uphill_EP),
            size_E * jnp.where(better_E, 1.6, 0.4),
        )

    scores_E, units_EP = best[0][:CLIMBERS], best[1][:CLIMBERS]
    state = (scores_E, units_EP, slope(units_EP)[1], jnp.full(CLIMBERS, FIRST_CLIMB))
    scores_E, units_EP, _, _ = jax.lax.fori_loop(0, CLIMBS, step, state)
    return units_EP[jnp.argmax(scores_E)]
