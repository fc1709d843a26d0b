"""GP-UCB over many studies at once, in JAX.

Vizier's Gaussian-process bandit (google-vizier 0.1.24, designers/gp_bandit.py) with its settings:
the model of `gaussian_process`, the values of `warping`, an upper confidence bound with coefficient
1.8, a trust region, and the centre of the space as the first point. A suggestion takes much less
computation: hyperparameters are updated from the previous trial by a few steps, and the bound is
maximized over hundreds of points and by gradient steps, instead of over 75,000 points.

Array dimensions: B studies, P parameters, N points so far.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Int, Int64, PRNGKeyArray, UInt32

from optformer.data.teachers import gaussian_process as gp
from optformer.data.teachers.acquisition import Cube, History, allowed, maximize
from optformer.data.teachers.random_search import QuasiRandom
from optformer.data.teachers.teacher import same_points, short_seed, snap
from optformer.data.teachers.warping import warp
from optformer.space import Spaces, trust_radius

COEFFICIENT = 1.8
CHUNK = 8  # studies in a call: fits into a core's cache, and programs do not depend on block size
CHAINS = 4  # starts of the hyperparameters
# Programs are compiled for these numbers of points and parameters, on first use.
POINTS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
WIDTHS = (2, 4, 6, 8, 12, 16, 20, 32, 48, 64, 128)


class GpUcb:
    """The point with the highest upper confidence bound under a fitted Gaussian process.

    Unfinished trials reduce the variance at their points. The time for a suggestion grows with the
    cube of the number of trials.
    """

    def __init__(self, spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], budget: int) -> None:
        studies, parameters = spaces.levels_BP.shape
        self._spaces = spaces
        self._initial = QuasiRandom(spaces, seeds_B, 8)
        self._suggested = 0
        self._units_NBP = np.empty((0, studies, parameters))
        self._values_NB = np.empty((0, studies))
        # Unfinished trials, with masks of the studies in which they are unfinished.
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []

        # Padded studies and parameters; a padded parameter is continuous and always 0.
        self._rows = -(-studies // CHUNK) * CHUNK
        self._width = size_class(parameters, WIDTHS)
        padding = ((0, self._rows - studies), (0, self._width - parameters))
        self._levels_BP = np.pad(spaces.levels_BP, padding).astype(np.int32)
        self._ordered_BP = np.pad(spaces.ordered_BP, padding, constant_values=True)
        self._real_P = np.arange(self._width) < parameters
        short_B = np.array([short_seed(int(seed)) for seed in seeds_B], dtype=np.uint32)
        self._seeds_B = np.pad(short_B, padding[0])
        fit_seeds_B = np.pad(seeds_B, padding[0])
        self._fitted = gp.first_fit(fit_seeds_B, self._width, CHAINS)

    def suggest(self) -> Float64[np.ndarray, "B P"]:
        if len(self._units_NBP):
            units_BP = snap(self._spaces, self._maximized())
        elif not self._suggested:
            # Vizier starts with the first category.
            first_BP = np.where(self._spaces.ordered_BP, 0.5, 0.0)
            first_BP = np.where(self._spaces.levels_BP > 0, first_BP, 0.5)
            units_BP = snap(self._spaces, first_BP)
        else:
            units_BP = self._initial.suggest()
        self._suggested += 1
        self._pending.append((units_BP, np.ones(len(units_BP), dtype=bool)))
        return units_BP

    def observe(
        self, units_BP: Float64[np.ndarray, "B P"], values_B: Float64[np.ndarray, " B"]
    ) -> None:
        self._units_NBP = np.concatenate([self._units_NBP, units_BP[None]])
        self._values_NB = np.concatenate([self._values_NB, values_B[None]])
        found_B = np.zeros(len(units_BP), dtype=bool)
        for pending_BP, open_B in self._pending:
            hit_B = open_B & ~found_B & same_points(pending_BP, units_BP)
            open_B &= ~hit_B
            found_B |= hit_B
        self._pending = [one for one in self._pending if one[1].any()]

    def _maximized(self) -> Float64[np.ndarray, "B P"]:
        """The best points under hyperparameters that are updated for the newest trials."""
        observed, studies, parameters = self._units_NBP.shape
        size = size_class(observed + len(self._pending), POINTS)
        units_BNP = np.zeros((self._rows, size, self._width), dtype=np.float32)
        units_BNP[:studies, :observed, :parameters] = self._units_NBP.transpose(1, 0, 2)
        values_BN = np.zeros((self._rows, size), dtype=np.float32)
        values_BN[:studies, :observed] = warp(self._values_NB.T)
        pending_BN = np.zeros((self._rows, size), dtype=bool)
        for index, (pending_BP, open_B) in enumerate(self._pending, start=observed):
            units_BNP[:studies, index, :parameters] = pending_BP
            pending_BN[:studies, index] = open_B

        parts = []
        # Vizier's service switches JAX to 64 bits for the whole process; 32 are enough here.
        with jax.enable_x64(False):
            for start in range(0, self._rows, CHUNK):
                rows = slice(start, start + CHUNK)
                parts.append(
                    _suggest(
                        jax.tree.map(functools.partial(_take, rows), self._fitted),
                        jnp.asarray(_steps(observed)),
                        units_BNP[rows],
                        values_BN[rows],
                        np.arange(size) < observed,
                        pending_BN[rows],
                        self._levels_BP[rows],
                        self._ordered_BP[rows],
                        self._real_P,
                        self._seeds_B[rows],
                        jnp.asarray(self._suggested),
                    )
                )
            fitted = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
        self._fitted, best_BP = fitted
        return best_BP[:studies, :parameters].astype(np.float64)


def size_class(count: int, sizes: tuple[int, ...]) -> int:
    """The smallest of `sizes` for this count; above the last, the next multiple of it."""
    return next((size for size in sizes if size >= count), -(-count // sizes[-1]) * sizes[-1])


def _steps(observed: int) -> int:
    """The number of fitting steps for a trial: more at the start, while they are cheap."""
    return 60 if observed <= 8 else 20 if observed <= 32 else 10 if observed <= 48 else 4


def _chains(size: int) -> int:
    """The number of chains, the best ones, that are still optimized: fewer as they cost more."""
    return CHAINS if size <= 16 else 2 if size <= 48 else 1


def _take(rows: slice, array: np.ndarray) -> np.ndarray:
    return array[rows]


@jax.jit
def _suggest(
    fitted_B: gp.Fit,
    steps: Int[Array, ""],
    units_BNP: Float[Array, "B N P"],
    values_BN: Float[Array, "B N"],
    measured_N: Bool[Array, " N"],
    pending_BN: Bool[Array, "B N"],
    levels_BP: Int[Array, "B P"],
    ordered_BP: Bool[Array, "B P"],
    real_P: Bool[Array, " P"],
    seeds_B: UInt32[Array, " B"],
    suggested: Int[Array, ""],
) -> tuple[gp.Fit, Float[Array, "B P"]]:
    """The new fit, and the best point, of each study."""

    def one(
        fitted: gp.Fit,
        units_NP: Array,
        values_N: Array,
        pending_N: Array,
        levels_P: Array,
        ordered_P: Array,
        seed: Array,
    ) -> tuple[gp.Fit, Array]:
        cube = Cube(levels_P, ordered_P, real_P)
        history = History(units_NP, values_N, measured_N, pending_N)
        data = (units_NP, values_N, measured_N, ordered_P)
        fitted = _fit_chains(fitted, steps, *data)
        best = jax.tree.map(lambda part: part[0], fitted.logs)
        key = jax.random.fold_in(jax.random.key(seed), suggested)
        return fitted, _best_point(best, history, cube, key)

    return jax.vmap(one)(fitted_B, units_BNP, values_BN, pending_BN, levels_BP, ordered_BP, seeds_B)


def _fit_chains(
    fitted: gp.Fit,
    steps: Int[Array, ""],
    units_NP: Float[Array, "N P"],
    values_N: Float[Array, " N"],
    measured_N: Bool[Array, " N"],
    ordered_P: Bool[Array, " P"],
) -> gp.Fit:
    """The chains after some steps of the active ones, the best one first."""
    count = _chains(len(units_NP))
    data = (units_NP, values_N, measured_N, ordered_P)
    moved = jax.tree.map(lambda part: part[:count], fitted)
    moved = jax.vmap(lambda one: gp.fit(one, steps, *data))(moved)
    if count > 1:
        losses = jax.vmap(lambda logs: gp.loss(logs, *data))(moved.logs)
        order = jnp.argsort(jnp.where(jnp.isnan(losses), jnp.inf, losses))
        moved = jax.tree.map(lambda part: part[order], moved)
    return jax.tree.map(lambda new, old: jnp.concatenate([new, old[count:]]), moved, fitted)


def _best_point(
    logs: gp.Hyperparameters, history: History, cube: Cube, key: PRNGKeyArray
) -> Float[Array, " P"]:
    """The point with the highest upper confidence bound of one study."""
    posterior = gp.condition(
        logs,
        history.units_NP,
        history.values_N,
        history.measured_N,
        history.pending_N,
        cube.ordered_P,
    )
    radius = trust_radius(jnp.sum(history.measured_N), jnp.sum(cube.real_P))

    def score(units_MP: Float[Array, "M P"]) -> Float[Array, " M"]:
        mean_M, deviation_M = gp.predict(logs, posterior, units_MP, cube.ordered_P)
        bound_M = mean_M + COEFFICIENT * deviation_M
        return allowed(bound_M, units_MP, history, cube, radius)

    return maximize(score, history, cube, radius, jnp.exp(logs.scale_P), key)
