"""Exact draws of functions from Gaussian-process priors, at points that a search chooses.

A function is drawn as it is evaluated: each new value is drawn from its distribution given all
earlier values, so an adaptive search sees one fixed random function. The distribution of each
measurement given the earlier ones is also known (`predictive`).

Array dimensions: B functions, N new points, T points so far, R trials, P parameters.
"""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Bool, Float64

from optformer.data.problems import random_spaces
from optformer.data.problems.kernels import KERNELS, Kernel
from optformer.data.problems.random_spaces import TYPES, RandomSpaces, SpaceConfig
from optformer.errors import ConfigError
from optformer.space import Spaces
from optformer.study import Goal, Metric, Problem

# Variance of white noise in every function. Functions have about unit variance, so it is far below
# the width of a bin of 1 in 1000, and it keeps covariance matrices of near points invertible.
NUGGET = 1e-8


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianProcessConfig:
    """The distribution of Gaussian-process functions.

    Attributes:
      kernels: each function has one of these, chosen uniformly.
      lengthscale: the median lengthscale for one parameter in [0, 1]. It grows with the square
        root of the number of parameters, so that functions of many parameters can be learned.
      lengthscale_spread, ard_spread: standard deviations of the logarithm of the lengthscale,
        between functions and between parameters.
      irrelevant: the probability that a parameter has almost no effect.
      warped: the probability that a function's axes are warped (Kumaraswamy distribution
        functions).
      noiseless: the probability of no noise.
      least_noise, most_noise: the range of the standard deviation of noise, log-uniform;
        functions have about unit variance.
      space: parameter types and levels; mostly DOUBLE by default. If a config file has this
        section, fields that the section does not set have the defaults of SpaceConfig.
      kernels_per_block: with more kernels, a block is more varied and slower to evaluate.
      search: if not 0, each function is first drawn at this many points, and the best of them
        counts as the optimum. 256 points take about 2 ms for each function, and they slow down
        the search that follows.
    """

    kernels: tuple[str, ...] = tuple(KERNELS)
    lengthscale: float = 0.3
    lengthscale_spread: float = 0.5
    ard_spread: float = 0.5
    irrelevant: float = 0.1
    warped: float = 0.3
    noiseless: float = 0.4
    least_noise: float = 0.003
    most_noise: float = 0.5
    space: SpaceConfig = dataclasses.field(
        default_factory=lambda: SpaceConfig(double=6.0, integer=1.0, discrete=1.0, categorical=2.0)
    )
    kernels_per_block: int = 3
    search: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.kernels if name not in KERNELS]
        if unknown or not self.kernels:
            raise ConfigError(
                f"kernel {unknown[0] if unknown else '(none)'!r} is unknown. "
                f"Choose from {', '.join(KERNELS)}."
            )
        if self.lengthscale <= 0 or not 0 < self.least_noise <= self.most_noise:
            raise ConfigError(
                f"lengthscale {self.lengthscale}, least_noise {self.least_noise} and most_noise "
                f"{self.most_noise} must be positive, and the noises ascend."
            )
        if self.kernels_per_block < 1 or self.search < 0:
            raise ConfigError(
                f"kernels_per_block {self.kernels_per_block} must be at least 1, and search "
                f"{self.search} not negative."
            )


class GaussianProcessBlock:
    """B functions of P parameters, each a draw from its own prior; an `ObjectiveBlock`.

    Evaluation changes the block, because it stores every value that it draws. The functions'
    values are drawn with `rng`, measurement noise with the generator passed to `evaluate`.

    Attributes:
      optimum_B, optimum_BP: the best value that `find_optimum` drew and its point; NaN before.
    """

    def __init__(
        self,
        *,
        problems: tuple[Problem, ...],
        drawn: RandomSpaces,
        priors: tuple[Kernel, ...],
        noise_B: Float64[np.ndarray, " B"],
        rng: np.random.Generator,
    ) -> None:
        studies, size = drawn.spaces.levels_BP.shape
        self.problems = problems
        self.drawn = drawn
        self.priors = priors  # one for each group of adjacent functions with the same kernel
        self.noise_B = noise_B
        self.optimum_B = np.full(studies, np.nan)
        self.optimum_BP = np.full((studies, size), np.nan)
        ends = np.cumsum([len(prior) for prior in priors]).tolist()
        self._rows = [slice(end - len(prior), end) for end, prior in zip(ends, priors, strict=True)]
        self._rng = rng
        self._hash_P = rng.standard_normal(size)
        self._count, self._capacity = 0, 0  # T, and the number of points that fit into the arrays
        self._features = self.features(np.empty((studies, 0, size)))
        self._hash_BT = np.empty((studies, 0))
        self._live_BT: Bool[np.ndarray, "B T"] = np.empty((studies, 0), dtype=bool)
        self._white_BT = np.empty((studies, 0))
        self._values_BT = np.empty((studies, 0))
        # The inverse of the points' Cholesky factor, computed at the second evaluation: many
        # searches evaluate only once.
        self._inverse_BTT = np.empty((studies, 0, 0))
        self._not_inverted_BNN: Float64[np.ndarray, "B N N"] | None = None

    @property
    def spaces(self) -> Spaces:
        """The legal points."""
        return self.drawn.spaces

    def evaluate(
        self, units_BNP: Float64[np.ndarray, "B N P"], rng: np.random.Generator
    ) -> Float64[np.ndarray, "B N"]:
        """The functions' values with measurement noise."""
        exact_BN = self.evaluate_exact(units_BNP)
        return exact_BN + self.noise_B[:, None] * rng.standard_normal(exact_BN.shape)

    def evaluate_exact(self, units_BNP: Float64[np.ndarray, "B N P"]) -> Float64[np.ndarray, "B N"]:
        """The functions' values; an equal point always has the same value."""
        count, new = self._count, units_BNP.shape[1]
        self._reserve(count + new)
        old, fresh, both = slice(count), slice(count, count + new), slice(count + new)
        self._hash_BT[:, fresh] = hash_BN = self._hash(units_BNP)
        first_BN = np.argmax(hash_BN[:, :, None] == self._hash_BT[:, None, both], axis=2)
        live_BN = first_BN == np.arange(count, count + new)
        self._live_BT[:, fresh] = live_BN

        features = self.features(units_BNP)
        for features_BTF, features_BNF in zip(self._features, features, strict=True):
            features_BTF[:, fresh] = features_BNF
        covariance_BNN = self.covariance(features, features)
        covariance_BNN += NUGGET * np.eye(new)
        mean_BN: np.ndarray | float = 0.0
        if count:
            inverse_BTT = self._inverse()[:, old, old]
            known = [features_BTF[:, old] for features_BTF in self._features]
            cross_BTN = self.covariance(known, features)
            cross_BTN *= self._live_BT[:, old, None]
            solved_BTN = inverse_BTT @ cross_BTN
            covariance_BNN -= solved_BTN.transpose(0, 2, 1) @ solved_BTN
            mean_BN = np.matmul(self._white_BT[:, None, old], solved_BTN)[:, 0]
        if not live_BN.all():
            # A repeated point adds no information: in the factor it is independent of the others.
            covariance_BNN *= live_BN[:, :, None] & live_BN[:, None, :]
            covariance_BNN += np.eye(new) * ~live_BN[:, None, :]
            if count:
                solved_BTN *= live_BN[:, None, :]
        factor_BNN = _cholesky(covariance_BNN)
        white_BN = self._rng.standard_normal((len(live_BN), new)) * live_BN
        values_BN = mean_BN + np.matmul(factor_BNN, white_BN[:, :, None])[:, :, 0]
        self._white_BT[:, fresh] = white_BN
        self._values_BT[:, fresh] = values_BN
        values_BN = np.take_along_axis(self._values_BT[:, both], first_BN, axis=1)
        self._values_BT[:, fresh] = values_BN
        if count:
            corner_BNN = _invert(factor_BNN)
            self._inverse_BTT[:, fresh, fresh] = corner_BNN
            self._inverse_BTT[:, fresh, old] = -corner_BNN @ (
                solved_BTN.transpose(0, 2, 1) @ inverse_BTT
            )
        else:
            self._not_inverted_BNN = factor_BNN
        self._count = count + new
        return values_BN

    def features(self, units_BNP: Float64[np.ndarray, "B N P"]) -> list[np.ndarray]:
        """The features of the points for each prior, [B, N, F] for its own functions."""
        place_BNP = self.drawn.place(units_BNP)
        return [
            prior.features(place_BNP[rows])
            for prior, rows in zip(self.priors, self._rows, strict=True)
        ]

    def covariance(
        self, first: list[np.ndarray], second: list[np.ndarray]
    ) -> Float64[np.ndarray, "B N M"]:
        """Prior covariance between points given by their features, without the nugget."""
        return np.concatenate(
            [
                prior.covariance(first_BNF, second_BMF)
                for prior, first_BNF, second_BMF in zip(self.priors, first, second, strict=True)
            ]
        )

    def predictive(
        self,
        units_BRP: Float64[np.ndarray, "B R P"],
        values_BR: Float64[np.ndarray, "B R"],
    ) -> Float64[np.ndarray, "B R 2"]:
        """Mean and standard deviation of each measurement given the prior and all earlier ones.

        With L the Cholesky factor of the measurements' covariance, the deviation of y_t is L_tt
        and its mean y_t - L_tt (L^-1 y)_t. Deviations are at least 1e-4, also those of repeated
        noiseless measurements.
        """
        studies, trials, _ = units_BRP.shape
        features = self.features(units_BRP)
        hash_BR = self._hash(units_BRP)
        # With y as an additional last row of the covariance, that row of the factor is L^-1 y.
        joint_BSS = np.empty((studies, trials + 1, trials + 1))
        joint_BSS[:, :trials, :trials] = self.covariance(features, features)
        joint_BSS[:, :trials, :trials] += NUGGET * (hash_BR[:, :, None] == hash_BR[:, None, :])
        index_R = np.arange(trials)
        joint_BSS[:, index_R, index_R] += np.maximum(self.noise_B**2, NUGGET)[:, None]
        joint_BSS[:, trials, :trials] = joint_BSS[:, :trials, trials] = values_BR
        joint_BSS[:, trials, trials] = 1.0 + np.sum(values_BR**2, axis=1) / NUGGET
        factor_BSS = _cholesky(joint_BSS)
        std_BR = factor_BSS[:, index_R, index_R]
        mean_BR = values_BR - std_BR * factor_BSS[:, trials, :trials]
        return np.stack([mean_BR, std_BR], axis=2)

    def find_optimum(self, points: int) -> None:
        """Draws each function at `points` points, the best of which counts as the optimum.

        Half of the points are uniform; the others refine the best point in four rounds.
        """
        studies, size = self.optimum_BP.shape
        spread = points - 4 * (points // 8)
        units_BTP = np.empty((studies, 0, size))
        values_BT = np.empty((studies, 0))
        for step in range(5):
            new = self._rng.random((studies, spread if step == 0 else points // 8, size))
            if step:
                near_BNP = self.optimum_BP[:, None] + 0.3**step * (new - 0.5)
                # Only a few coordinates change: small steps in many of them would add up.
                moved_BNP = self._rng.random(new.shape) < max(2.0 / size, 0.5)
                new = np.where(moved_BNP, near_BNP, self.optimum_BP[:, None])
            new = self.spaces.snap(new)
            units_BTP = np.concatenate([units_BTP, new], axis=1)
            values_BT = np.concatenate([values_BT, self.evaluate_exact(new)], axis=1)
            best_B = np.argmax(values_BT, axis=1)
            self.optimum_BP = units_BTP[np.arange(studies), best_B]
            self.optimum_B = values_BT[np.arange(studies), best_B]

    def _hash(self, units_BNP: Float64[np.ndarray, "B N P"]) -> Float64[np.ndarray, "B N"]:
        """Numbers that are equal for equal points. (A matrix product's result depends on N.)"""
        return np.sum(np.ascontiguousarray(units_BNP) * self._hash_P, axis=2)

    def _inverse(self) -> Float64[np.ndarray, "B T T"]:
        """The inverse of the Cholesky factor, computed on first use."""
        if self._not_inverted_BNN is not None:
            size = self._not_inverted_BNN.shape[1]
            self._inverse_BTT = np.zeros((len(self.noise_B), self._capacity, self._capacity))
            self._inverse_BTT[:, :size, :size] = _invert(self._not_inverted_BNN)
            self._not_inverted_BNN = None
        return self._inverse_BTT

    def _reserve(self, points: int) -> None:
        """Grows the arrays to hold this many points, at least to twice their size."""
        if points <= self._capacity:
            return
        more = max(points, 2 * self._capacity) - self._capacity
        self._capacity += more
        rows, columns = ((0, 0), (0, more)), (0, more)
        self._features = [np.pad(known_BTF, (*rows, (0, 0))) for known_BTF in self._features]
        self._hash_BT = np.pad(self._hash_BT, rows)
        self._live_BT = np.pad(self._live_BT, rows)
        self._white_BT = np.pad(self._white_BT, rows)
        self._values_BT = np.pad(self._values_BT, rows)
        if self._count and self._not_inverted_BNN is None:
            self._inverse_BTT = np.pad(self._inverse_BTT, (*rows, columns))


def random_block(
    config: GaussianProcessConfig, rng: np.random.Generator, studies: int, parameters: int
) -> GaussianProcessBlock:
    """Independent functions, each from its own random prior."""
    here = rng.choice(config.kernels, min(config.kernels_per_block, len(config.kernels)), False)
    names = sorted(rng.choice(here, studies).tolist())
    drawn = random_spaces.draw(config.space, rng, studies, parameters)
    instances = rng.integers(2**32, size=studies)
    goals = rng.choice(list(Goal), studies).tolist()
    noisy_B = rng.random(studies) >= config.noiseless
    noise_B = np.exp(rng.uniform(np.log(config.least_noise), np.log(config.most_noise), studies))
    block = GaussianProcessBlock(
        problems=tuple(
            Problem(
                name=f"gp/{name}/{instance:08x}",
                parameters=tuple(
                    random_spaces.varied_parameter(
                        f"x{index}", TYPES[drawn.types_BP[row, index]], int(levels), rng
                    )
                    for index, levels in enumerate(drawn.spaces.levels_BP[row])
                ),
                metrics=(Metric(name="objective", goal=Goal(goal)),),
            )
            for row, (name, instance, goal) in enumerate(zip(names, instances, goals, strict=True))
        ),
        drawn=drawn,
        priors=tuple(
            _random_prior(config, rng, name, len(list(group)), parameters)
            for name, group in itertools.groupby(names)
        ),
        noise_B=np.where(noisy_B, noise_B, 0.0),
        rng=rng.spawn(1)[0],
    )
    if config.search:
        block.find_optimum(config.search)
    return block


def _random_prior(
    config: GaussianProcessConfig,
    rng: np.random.Generator,
    name: str,
    studies: int,
    parameters: int,
) -> Kernel:
    shape = (studies, parameters)
    log_scale_BP = (
        np.log(config.lengthscale * np.sqrt(parameters))
        + config.lengthscale_spread * rng.standard_normal((studies, 1))
        + config.ard_spread * rng.standard_normal(shape)
        + np.log(10.0) * (rng.random(shape) < config.irrelevant)
    )
    warped_B1 = rng.random((studies, 1)) < config.warped
    return Kernel(
        name=name,
        lengthscale_BP=np.exp(log_scale_BP),
        warp_BP2=np.exp(0.5 * warped_B1[:, :, None] * rng.standard_normal((*shape, 2))),
        period_BP=rng.uniform(0.3, 1.5, shape),
        centre_BP=rng.random(shape),
    )


def _cholesky(matrix_BNN: Float64[np.ndarray, "B N N"]) -> Float64[np.ndarray, "B N N"]:
    """Lower factors. Rounding may push the variance of a single point below the nugget."""
    if matrix_BNN.shape[1] == 1:
        return np.sqrt(np.maximum(matrix_BNN, NUGGET))
    return np.linalg.cholesky(matrix_BNN)


def _invert(factor_BNN: Float64[np.ndarray, "B N N"]) -> Float64[np.ndarray, "B N N"]:
    if factor_BNN.shape[1] == 1:
        return 1.0 / factor_BNN
    return np.tril(np.linalg.inv(factor_BNN))
