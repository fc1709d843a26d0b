"""Covariance functions of Gaussian-process priors, for batches of functions.

Array dimensions: B functions, N and M points, P parameters, F features, F1 one more.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

# Correlation as a function of the squared scaled distance.
STATIONARY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rbf": lambda square: np.exp(-0.5 * square),
    "matern12": lambda square: np.exp(-np.sqrt(square)),
    "matern32": lambda square: _matern32(np.sqrt(3 * square)),
    "matern52": lambda square: _matern52(np.sqrt(5 * square)),
}
# Kernel.covariance describes them.
KERNELS = (*STATIONARY, "periodic", "linear", "additive")

IN_CACHE = 2**16  # numbers that fit into a core's cache
TREND = 0.7  # the linear part's share of the variance of a linear kernel


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Kernel:
    """The covariance of B functions with the same form of kernel and about unit variance.

    Attributes:
      name: one of `KERNELS`.
      lengthscale_BP: on the warped axes.
      warp_BP2: Kumaraswamy's a and b, x -> 1-(1-x^a)^b; (1, 1) is the identity.
      period_BP: of "periodic" kernels, on the warped axes.
      centre_BP: of "linear" kernels, the point at which the trend has no variance.
    """

    name: str
    lengthscale_BP: Float64[np.ndarray, "B P"]
    warp_BP2: Float64[np.ndarray, "B P 2"]
    period_BP: Float64[np.ndarray, "B P"]
    centre_BP: Float64[np.ndarray, "B P"]

    def __len__(self) -> int:
        return len(self.lengthscale_BP)

    def features(self, x_BNP: Float64[np.ndarray, "B N P"]) -> Float64[np.ndarray, "B N F"]:
        """Features of points of [0, 1]^P for `covariance`; F depends on the kernel."""
        x_BNP = self._warp(x_BNP)
        scale_B1P = self.lengthscale_BP[:, None]
        if self.name == "periodic":
            angle_BNP = 2 * np.pi * x_BNP / self.period_BP[:, None]
            # The axis becomes a circle of diameter 1.
            return _with_norm(
                np.concatenate(
                    [np.cos(angle_BNP) / (2 * scale_B1P), np.sin(angle_BNP) / (2 * scale_B1P)],
                    axis=2,
                )
            )
        if self.name == "additive":
            return np.sqrt(5.0) * x_BNP / scale_B1P
        if self.name == "matern12":
            return x_BNP / scale_B1P
        if self.name == "linear":
            # These slopes give the trend about unit variance, on average over the cube.
            slope_B1P = np.sqrt(6.0 * scale_B1P**-2.0 / np.sum(scale_B1P**-2.0, 2, keepdims=True))
            trend_BNP = slope_B1P * (x_BNP - self.centre_BP[:, None])
            return np.concatenate([trend_BNP, _with_norm(x_BNP / scale_B1P)], axis=2)
        return _with_norm(x_BNP / scale_B1P)

    def covariance(
        self, first_BNF: Float64[np.ndarray, "B N F"], second_BMF: Float64[np.ndarray, "B M F"]
    ) -> Float64[np.ndarray, "B N M"]:
        """Covariances between points given by their features.

        "periodic" is MacKay's kernel, periodic along every axis; "linear" is a linear trend plus
        a Matern-5/2; "additive" is a sum of one-dimensional Matern-5/2 kernels.
        """
        studies, size = len(first_BNF), first_BNF.shape[1] * second_BMF.shape[1]
        covariance_BNM = np.empty((studies, first_BNF.shape[1], second_BMF.shape[1]))
        # Only as many functions at once as fit into a core's cache: 4 times faster at 200 points.
        together = max(1, IN_CACHE // max(size, 1))
        for start in range(0, studies, together):
            rows = slice(start, start + together)
            covariance_BNM[rows] = self._covariance(first_BNF[rows], second_BMF[rows])
        return covariance_BNM

    def _covariance(
        self, first_BNF: Float64[np.ndarray, "B N F"], second_BMF: Float64[np.ndarray, "B M F"]
    ) -> Float64[np.ndarray, "B N M"]:
        if self.name == "periodic":
            return STATIONARY["rbf"](_square_distance(first_BNF, second_BMF))
        size = self.lengthscale_BP.shape[1]
        if self.name == "additive":
            sum_BNM = np.zeros((len(first_BNF), first_BNF.shape[1], second_BMF.shape[1]))
            for p in range(size):
                sum_BNM += _matern52(np.abs(first_BNF[:, :, None, p] - second_BMF[:, None, :, p]))
            return sum_BNM / size
        if self.name == "matern12":
            # This kernel has a corner at 0, which would amplify the rounding errors of
            # `_square_distance` until matrices are not positive definite.
            square_BNM = np.zeros((len(first_BNF), first_BNF.shape[1], second_BMF.shape[1]))
            for p in range(size):
                square_BNM += (first_BNF[:, :, None, p] - second_BMF[:, None, :, p]) ** 2
            return STATIONARY["matern12"](square_BNM)
        if self.name == "linear":
            trend_BNM = first_BNF[..., :size] @ second_BMF[..., :size].transpose(0, 2, 1)
            square_BNM = _square_distance(first_BNF[..., size:], second_BMF[..., size:])
            return TREND * trend_BNM + (1 - TREND) * STATIONARY["matern52"](square_BNM)
        return STATIONARY[self.name](_square_distance(first_BNF, second_BMF))

    def _warp(self, x_BNP: Float64[np.ndarray, "B N P"]) -> Float64[np.ndarray, "B N P"]:
        if (self.warp_BP2 == 1.0).all():
            return x_BNP
        a_B1P, b_B1P = self.warp_BP2[:, None, :, 0], self.warp_BP2[:, None, :, 1]
        return 1.0 - (1.0 - x_BNP**a_B1P) ** b_B1P


def _matern32(distance: np.ndarray) -> np.ndarray:
    return (1 + distance) * np.exp(-distance)


def _matern52(distance: np.ndarray) -> np.ndarray:
    return (1 + distance + distance**2 / 3) * np.exp(-distance)


def _with_norm(x_BNF: Float64[np.ndarray, "B N F"]) -> Float64[np.ndarray, "B N F1"]:
    """The points, with their squared norm as one more feature."""
    return np.concatenate([x_BNF, np.sum(x_BNF**2, axis=2, keepdims=True)], axis=2)


def _square_distance(
    first_BNF: Float64[np.ndarray, "B N F1"], second_BMF: Float64[np.ndarray, "B M F1"]
) -> Float64[np.ndarray, "B N M"]:
    """Squared distances between points with norms (`_with_norm`); never negative."""
    square_BNM = first_BNF[..., :-1] @ second_BMF[..., :-1].transpose(0, 2, 1)
    square_BNM *= -2.0
    square_BNM += first_BNF[..., -1:]
    square_BNM += second_BMF[..., -1][:, None, :]
    return np.maximum(square_BNM, 0.0)
