"""A Gaussian process for one study, fitted to the posterior mode; use `vmap` for many studies.

Kernel, priors and ranges are those of Vizier's tuned model (google-vizier 0.1.24,
jax/models/tuned_gp_models.py): Matérn-5/2 with one length scale for each parameter; the squared
distance between two categories is 0 or 1.

Array dimensions: P parameters, N points that the process is conditioned on, M other points. Arrays
are padded, so that a program is compiled once for each size class. Padding has no effect: rows of N
that are False in `used_N`, and columns of P that are 0 in all points.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int64


class Hyperparameters(NamedTuple):
    """Natural logarithms of the kernel's variance, squared length scales and noise variance."""

    signal: Float[Array | np.ndarray, "..."]
    scale_P: Float[Array | np.ndarray, "... P"]
    noise: Float[Array | np.ndarray, "..."]


class Fit(NamedTuple):
    """Hyperparameters during optimization, with Adam's two moments."""

    logs: Hyperparameters
    first: Hyperparameters
    second: Hyperparameters


class Posterior(NamedTuple):
    """The process given its points, prepared for predictions."""

    units_NP: Float[Array, "N P"]
    used_N: Bool[Array, " N"]
    inverse_NN: Float[Array, "N N"]  # of the lower Cholesky factor of the covariance
    weights_N: Float[Array, " N"]  # that inverse times the values; 0 for unmeasured points


# Each hyperparameter has the penalty 0.01 (log(x) - log(centre))^2 and is clipped to its range.
# Vizier's noise can be as low as 1e-10; in 32 bits the covariance needs a larger diagonal.
CENTRE = (0.039, 0.5, 0.0039)
LOWEST, HIGHEST = (1e-3, 1e-2, 1e-7), (10.0, 1e2, 1.0)
PENALTY = 0.01
JITTER = 3e-6  # times the signal variance
LEARNING_RATE = 0.1


def first_fit(seeds_B: Int64[np.ndarray, " B"], parameters: int, chains: int) -> Fit:
    """The starts of `fit`, (B, chains): the centre of the priors, then log-uniform points of the
    ranges, as in Vizier's restarts."""
    low, high, centre = (np.log(np.array(table)) for table in (LOWEST, HIGHEST, CENTRE))
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for seed in seeds_B:
        generator = np.random.default_rng(seed)
        for part, (shape, lowest, highest, middle) in enumerate(
            zip(((), (parameters,), ()), low, high, centre, strict=True)
        ):
            random = generator.uniform(lowest, highest, (chains, *shape))
            random[0] = middle
            parts[part].append(random)
    logs = Hyperparameters(*(np.stack(part).astype(np.float32) for part in parts))
    zeros = Hyperparameters(*(np.zeros_like(part) for part in logs))
    return Fit(logs, zeros, zeros)


def covariance(
    logs: Hyperparameters,
    units_MP: Float[Array, "M P"],
    units_NP: Float[Array, "N P"],
    ordered_P: Bool[Array, " P"],
) -> Float[Array, "M N"]:
    """The kernel between points, without noise."""
    weight_P = jnp.exp(-logs.scale_P)
    square_MN = jnp.zeros((len(units_MP), len(units_NP)), units_MP.dtype)
    # One parameter at a time: exact for near points, and XLA fuses the loop into one pass.
    for column in range(units_MP.shape[1]):
        apart_MN = units_MP[:, None, column] - units_NP[None, :, column]
        apart_MN = jnp.where(ordered_P[column], apart_MN**2, jnp.abs(apart_MN) > 1e-6)
        square_MN += weight_P[column] * apart_MN
    root_MN = jnp.sqrt(5.0 * square_MN + 1e-12)
    return jnp.exp(logs.signal - root_MN) * (1.0 + root_MN + root_MN**2 / 3.0)


def noisy(
    logs: Hyperparameters,
    units_NP: Float[Array, "N P"],
    used_N: Bool[Array, " N"],
    ordered_P: Bool[Array, " P"],
) -> Float[Array, "N N"]:
    """The covariance of measurements; the identity in unused rows."""
    eye_NN = jnp.eye(len(used_N), dtype=units_NP.dtype)
    ridge = jnp.exp(logs.noise) + JITTER * jnp.exp(logs.signal)
    kernel_NN = covariance(logs, units_NP, units_NP, ordered_P) + ridge * eye_NN
    return jnp.where(used_N[:, None] & used_N[None, :], kernel_NN, eye_NN)


def inverse_factor(covariance_NN: Float[Array, "N N"]) -> Float[Array, "N N"]:
    """The inverse of the lower Cholesky factor."""
    lower_NN = jnp.linalg.cholesky(covariance_NN)
    eye_NN = jnp.eye(len(covariance_NN), dtype=covariance_NN.dtype)
    return jax.scipy.linalg.solve_triangular(lower_NN, eye_NN, lower=True)


def loss(
    logs: Hyperparameters,
    units_NP: Float[Array, "N P"],
    values_N: Float[Array, " N"],
    used_N: Bool[Array, " N"],
    ordered_P: Bool[Array, " P"],
) -> Float[Array, ""]:
    """-log p(values) - log prior, up to a constant: the loss that `fit` minimizes."""
    inverse_NN = inverse_factor(noisy(logs, units_NP, used_N, ordered_P))
    white_N = inverse_NN @ jnp.where(used_N, values_N, 0.0)
    prior = sum(
        jnp.sum((log - jnp.log(centre)) ** 2) for log, centre in zip(logs, CENTRE, strict=True)
    )
    return 0.5 * jnp.sum(white_N**2) - jnp.sum(jnp.log(jnp.diag(inverse_NN))) + PENALTY * prior


def slope(
    logs: Hyperparameters,
    units_NP: Float[Array, "N P"],
    values_N: Float[Array, " N"],
    used_N: Bool[Array, " N"],
    ordered_P: Bool[Array, " P"],
) -> Hyperparameters:
    """The gradient of `loss`, without differentiating a Cholesky factor.

    With respect to the covariance it is (K^-1 - a a^T) / 2 with a = K^-1 y; JAX differentiates the
    kernel.
    """
    covariance_NN, pull_back = jax.vjp(lambda logs: noisy(logs, units_NP, used_N, ordered_P), logs)
    inverse_NN = inverse_factor(covariance_NN)
    precision_NN = inverse_NN.T @ inverse_NN
    solved_N = precision_NN @ jnp.where(used_N, values_N, 0.0)
    (by_kernel,) = pull_back(0.5 * (precision_NN - solved_N[:, None] * solved_N[None, :]))
    return Hyperparameters(
        *(
            part + 2 * PENALTY * (log - jnp.log(centre))
            for part, log, centre in zip(by_kernel, logs, CENTRE, strict=True)
        )
    )


def fit(
    fitted: Fit,
    steps: int | Int[Array, ""],
    units_NP: Float[Array, "N P"],
    values_N: Float[Array, " N"],
    used_N: Bool[Array, " N"],
    ordered_P: Bool[Array, " P"],
) -> Fit:
    """Some steps of Adam towards the posterior mode."""

    def step(_: Array, fitted: Fit) -> Fit:
        by_logs = slope(fitted.logs, units_NP, values_N, used_N, ordered_P)
        # If 32 bits cannot factor the covariance, raise the noise.
        broken = jnp.isnan(by_logs.signal)
        by_logs = jax.tree.map(jnp.nan_to_num, by_logs)
        first = jax.tree.map(lambda m, g: 0.8 * m + 0.2 * g, fitted.first, by_logs)
        second = jax.tree.map(lambda v, g: 0.95 * v + 0.05 * g**2, fitted.second, by_logs)
        moved = jax.tree.map(
            lambda x, m, v: x - LEARNING_RATE * m / (jnp.sqrt(v) + 1e-3),
            fitted.logs,
            first,
            second,
        )
        moved = moved._replace(noise=moved.noise + jnp.where(broken, 1.0, 0.0))
        kept = (
            jnp.clip(part, jnp.log(low), jnp.log(high))
            for part, low, high in zip(moved, LOWEST, HIGHEST, strict=True)
        )
        return Fit(Hyperparameters(*kept), first, second)

    return jax.lax.fori_loop(0, steps, step, fitted)


def condition(
    logs: Hyperparameters,
    units_NP: Float[Array, "N P"],
    values_N: Float[Array, " N"],
    measured_N: Bool[Array, " N"],
    pending_N: Bool[Array, " N"],
    ordered_P: Bool[Array, " P"],
) -> Posterior:
    """The process given measured points, which come first, and pending ones.

    Pending points reduce the variance and do not change the mean (Desautels et al., 2014).
    """
    used_N = measured_N | pending_N
    inverse_NN = inverse_factor(noisy(logs, units_NP, used_N, ordered_P))
    # The factor is lower triangular: rows of measured points do not depend on the pending ones.
    weights_N = inverse_NN @ jnp.where(measured_N, values_N, 0.0)
    return Posterior(units_NP, used_N, inverse_NN, jnp.where(measured_N, weights_N, 0.0))


def predict(
    logs: Hyperparameters,
    posterior: Posterior,
    units_MP: Float[Array, "M P"],
    ordered_P: Bool[Array, " P"],
) -> tuple[Float[Array, " M"], Float[Array, " M"]]:
    """Mean and standard deviation of the noiseless function."""
    kernel_MN = covariance(logs, units_MP, posterior.units_NP, ordered_P)
    kernel_MN = jnp.where(posterior.used_N, kernel_MN, 0.0)
    whitened_MN = kernel_MN @ posterior.inverse_NN.T
    variance_M = jnp.exp(logs.signal) - jnp.sum(whitened_MN**2, axis=1)
    return whitened_MN @ posterior.weights_N, jnp.sqrt(jnp.maximum(variance_M, 1e-12))
