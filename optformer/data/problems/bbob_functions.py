"""The 24 noiseless BBOB functions, vectorized, to be minimized over [-5, 5]^P.

The formulas are those of Hansen et al., "Real-Parameter Black-Box Optimization Benchmarking 2009",
with the changes of google-vizier's numpy versions (in its
vizier/_src/benchmarks/experimenters/synthetic/bbob.py): most optima are at the origin, and the
caller shifts them. Rotations are arguments. Names are Vizier's, or BBOB's for the three functions
that Vizier does not have.

Array dimensions: B functions, N points, P parameters, K peaks.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

Points = Float64[np.ndarray, "B N P"]
Rotations = Float64[np.ndarray, "B P P"]
Values = Float64[np.ndarray, "B N"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Function:
    """One BBOB function.

    Attributes:
      evaluate: values at points x under two rotations R and Q.
      optimum: the unshifted minimizer under R, or None if the minimum lies on the box's boundary.
      fewest_parameters: with fewer, the formula is constant or undefined.
      separable: whether the coordinates can be minimized one by one.
    """

    evaluate: Callable[[Points, Rotations, Rotations], Values]
    optimum: Callable[[Rotations], Float64[np.ndarray, "B P"]] | None
    fewest_parameters: int = 1
    separable: bool = False


def _ramp(size: int) -> Float64[np.ndarray, " P"]:
    """i / (P-1), or 1 for a single parameter."""
    return np.arange(size) / (size - 1) if size > 1 else np.ones(1)


def _lambda(alpha: float, size: int) -> Float64[np.ndarray, " P"]:
    """The diagonal of BBOB's Λ^alpha."""
    return alpha ** (0.5 * _ramp(size))


def _rotate(rotation_BPP: Rotations, x_BNP: Points) -> Points:
    return np.matmul(x_BNP, rotation_BPP.transpose(0, 2, 1))


def _oscillate(x: np.ndarray) -> np.ndarray:
    """BBOB's T_osz, elementwise."""
    log = np.log(np.abs(x), out=np.zeros_like(x), where=x != 0)
    positive = x > 0
    waves = np.sin(np.where(positive, 10.0, 5.5) * log) + np.sin(np.where(positive, 7.9, 3.1) * log)
    return np.sign(x) * np.exp(log + 0.049 * waves)


def _asymmetric(x_BNP: Points, beta: float) -> Points:
    """BBOB's T_asy."""
    positive_BNP = np.maximum(x_BNP, 0.0)
    power_BNP = 1.0 + beta * _ramp(x_BNP.shape[-1]) * np.sqrt(positive_BNP)
    return np.where(x_BNP > 0, positive_BNP**power_BNP, x_BNP)


def _penalty(x_BNP: Points) -> Values:
    """BBOB's f_pen: squared distance outside [-5, 5]."""
    outside_BNP = np.maximum(np.abs(x_BNP) - 5.0, 0.0)
    return np.sum(outside_BNP * outside_BNP, axis=-1)


def _sphere(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    return np.sum(x_BNP * x_BNP, axis=-1)


def _ellipsoidal(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    return _oscillate(x_BNP) ** 2 @ 10 ** (6.0 * _ramp(x_BNP.shape[-1]))


def _ellipsoidal_rotated(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    return _ellipsoidal(_rotate(r_BPP, x_BNP), r_BPP, q_BPP)


def _rastrigin_of(z_BNP: Points) -> Values:
    size = z_BNP.shape[-1]
    waves_BN = np.sum(np.cos(2 * math.pi * z_BNP), axis=-1)
    return 10 * (size - waves_BN) + np.sum(z_BNP * z_BNP, axis=-1)


def _rastrigin(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    z_BNP = _rotate(q_BPP, _asymmetric(_oscillate(_rotate(r_BPP, x_BNP)), 0.2))
    return _rastrigin_of(_rotate(r_BPP, z_BNP * _lambda(10.0, x_BNP.shape[-1])))


def _rastrigin_separable(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    z_BNP = _asymmetric(_oscillate(x_BNP), 0.2)
    return _rastrigin_of(z_BNP * _lambda(10.0, x_BNP.shape[-1]))


def _bueche_rastrigin(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    size = x_BNP.shape[-1]
    odd_P = np.arange(size) % 2 == 0  # 1st, 3rd, ...
    stretch_BNP = _lambda(10.0, size) * np.where(odd_P & (x_BNP > 0), 10.0, 1.0)
    return _rastrigin_of(stretch_BNP * _oscillate(x_BNP)) + 100 * _penalty(x_BNP)


def _linear_slope(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    slope_P = 10.0 ** _ramp(x_BNP.shape[-1])
    highest_B = (5 * np.sum(np.abs(r_BPP), axis=-1)) @ slope_P
    return highest_B[:, None] - _rotate(r_BPP, x_BNP) @ slope_P


def _alternating(size: int) -> Float64[np.ndarray, " P"]:
    """+1, -1, +1, ..."""
    return np.where(np.arange(size) % 2 == 0, 1.0, -1.0)


def _attractive_sector(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    size = x_BNP.shape[-1]
    optimum_P = _alternating(size)
    z_BNP = _rotate(r_BPP, x_BNP - optimum_P) * _lambda(10.0, size)
    z_BNP = _rotate(q_BPP, z_BNP)
    stretch_BNP = np.where(z_BNP * optimum_P > 0, 100.0, 1.0)
    return _oscillate(np.sum((stretch_BNP * z_BNP) ** 2, axis=-1)) ** 0.9


def _step_ellipsoidal(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    size = x_BNP.shape[-1]
    z_BNP = _rotate(r_BPP, x_BNP) * _lambda(10.0, size)
    steps_BNP = np.where(z_BNP > 0.5, np.floor(0.5 + z_BNP), np.floor(0.5 + 10 * z_BNP) / 10)
    steps_BN = _rotate(q_BPP, steps_BNP) ** 2 @ 10 ** (2.0 * _ramp(size))
    return 0.1 * np.maximum(np.abs(z_BNP[..., 0]) / 1000, steps_BN) + _penalty(x_BNP)


def _rosenbrock_terms(z_BNP: Points) -> Float64[np.ndarray, "B N _"]:
    first, second = z_BNP[..., :-1], z_BNP[..., 1:]
    return 100.0 * (first**2 - second) ** 2 + (first - 1) ** 2


def _rosenbrock(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    z_BNP = max(1.0, x_BNP.shape[-1] ** 0.5 / 8.0) * x_BNP + 0.5
    return np.sum(_rosenbrock_terms(z_BNP), axis=-1)


def _rosenbrock_rotated(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    return _rosenbrock(_rotate(r_BPP, x_BNP), r_BPP, q_BPP)


def _discus(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    square_BNP = _oscillate(_rotate(r_BPP, x_BNP)) ** 2
    return 1e6 * square_BNP[..., 0] + np.sum(square_BNP[..., 1:], axis=-1)


def _bent_cigar(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    square_BNP = _rotate(r_BPP, _asymmetric(_rotate(r_BPP, x_BNP), 0.5)) ** 2
    return square_BNP[..., 0] + 1e6 * np.sum(square_BNP[..., 1:], axis=-1)


def _sharp_ridge(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    z_BNP = _rotate(q_BPP, _rotate(r_BPP, x_BNP) * _lambda(10.0, x_BNP.shape[-1]))
    square_BNP = z_BNP * z_BNP
    return square_BNP[..., 0] + 100 * np.sqrt(np.sum(square_BNP[..., 1:], axis=-1))


def _different_powers(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    z_BNP = np.abs(_rotate(r_BPP, x_BNP))
    return np.sqrt(np.sum(z_BNP ** (2 + 4 * _ramp(x_BNP.shape[-1])), axis=-1))


def _weierstrass(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    size = x_BNP.shape[-1]
    z_BNP = _rotate(q_BPP, _oscillate(_rotate(r_BPP, x_BNP))) * _lambda(0.01, size)
    sum_BN = np.zeros(z_BNP.shape[:-1])
    lowest = 0.0
    for k in range(12):
        lowest += 0.5**k * math.cos(math.pi * 3**k)
        sum_BN += 0.5**k * np.sum(np.cos(2 * math.pi * 3**k * (z_BNP + 0.5)), axis=-1)
    return 10 * (sum_BN / size - lowest) ** 3 + 10 * _penalty(x_BNP) / size


def _schaffers(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations, alpha: float) -> Values:
    size = x_BNP.shape[-1]
    if size == 1:
        return np.zeros(x_BNP.shape[:-1])
    z_BNP = _asymmetric(_rotate(r_BPP, x_BNP), 0.5)
    z_BNP = _rotate(q_BPP, z_BNP) * _lambda(alpha, size)
    length_BNP = np.sqrt(z_BNP[..., :-1] ** 2 + z_BNP[..., 1:] ** 2)
    wave_BNP = 1 + np.sin(50 * length_BNP**0.2) ** 2
    return np.mean(np.sqrt(length_BNP) * wave_BNP, axis=-1) ** 2 + 10 * _penalty(x_BNP)


def _schaffers_f7(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    return _schaffers(x_BNP, r_BPP, q_BPP, 10.0)


def _schaffers_f7_ill(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    return _schaffers(x_BNP, r_BPP, q_BPP, 1000.0)


def _griewank_rosenbrock(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    size = x_BNP.shape[-1]
    if size == 1:
        return np.zeros(x_BNP.shape[:-1])  # Vizier's divides by zero
    # Vizier uses 1 instead of BBOB's 0.5, which moves the optimum to the origin.
    z_BNP = max(1.0, size**0.5 / 8.0) * _rotate(r_BPP, x_BNP) + 1.0
    terms_BNP = _rosenbrock_terms(z_BNP)
    return 10.0 * np.mean(terms_BNP / 4000.0 - np.cos(terms_BNP), axis=-1) + 10.0


SCHWEFEL_OPTIMUM = 4.2096874633 / 2.0


def _schwefel(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    size = x_BNP.shape[-1]
    doubled = 2 * SCHWEFEL_OPTIMUM
    x_BNP = -2.0 * _alternating(size) * x_BNP
    z_BNP = x_BNP.copy()
    z_BNP[..., 1:] += 0.25 * (x_BNP[..., :-1] - doubled)
    z_BNP = 100 * (_lambda(10.0, size) * (z_BNP - doubled) + doubled)
    sum_BN = np.sum(z_BNP * np.sin(np.sqrt(np.abs(z_BNP))), axis=-1)
    return -sum_BN / (100.0 * size) + 4.189828872724339 + 100 * _penalty(z_BNP / 100)


def _katsuura(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    size = x_BNP.shape[-1]
    z_BNP = _rotate(q_BPP, _rotate(r_BPP, x_BNP) * _lambda(100.0, size))
    sum_BNP = np.zeros_like(z_BNP)
    for j in range(1, 33):
        scaled_BNP = 2.0**j * z_BNP
        sum_BNP += np.abs(scaled_BNP - np.rint(scaled_BNP)) * 2.0**-j
    product_BN = np.prod((1 + np.arange(1, size + 1) * sum_BNP) ** (10.0 / size**1.2), axis=-1)
    return 10.0 / size**2 * (product_BN - 1) + _penalty(x_BNP)


LUNACEK_OPTIMUM = 1.25


def _lunacek(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    size = x_BNP.shape[-1]
    if size == 1:
        return np.zeros(x_BNP.shape[:-1])  # the location of the second funnel is imaginary
    first = 2 * LUNACEK_OPTIMUM
    depth = 1.0 - 1.0 / (2.0 * (size + 20.0) ** 0.5 - 8.2)
    second = -(((first**2 - 1) / depth) ** 0.5)
    hat_BNP = 2 * x_BNP
    z_BNP = _rotate(q_BPP, _rotate(r_BPP, hat_BNP - first) * _lambda(100.0, size))
    funnel_BN = np.minimum(
        np.sum((hat_BNP - first) ** 2, axis=-1),
        size + depth * np.sum((hat_BNP - second) ** 2, axis=-1),
    )
    waves_BN = size - np.sum(np.cos(2 * math.pi * z_BNP), axis=-1)
    return funnel_BN + 10.0 * waves_BN + 1e4 * _penalty(x_BNP)


def _gallagher(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations, peaks: int) -> Values:
    size = x_BNP.shape[-1]
    # Besides the best one at the origin, peak k lies at start + k·step on every axis, so that
    # the distances under each peak's own metric come from three matrix products.
    k_K = np.arange(peaks - 1)
    start_P = -5.0 + 10.0 * np.arange(1, size + 1) / (size * peaks + 2.0)
    step_P = np.full(size, 10.0 * size / (size * peaks + 2.0))
    alpha_K = 1000.0 ** (2.0 * k_K / (peaks - 2))
    metric_KP = alpha_K[:, None] ** (0.5 * _ramp(size)) / alpha_K[:, None] ** 0.25
    height_K = 1.1 + 8.0 * k_K / (peaks - 2)
    rotated_BNP = _rotate(r_BPP, x_BNP)
    from_start_BNP = rotated_BNP - (r_BPP @ start_P)[:, None]
    step_B1P = (r_BPP @ step_P)[:, None]
    distance_BNK = (
        (from_start_BNP**2) @ metric_KP.T
        - 2 * k_K * ((from_start_BNP * step_B1P) @ metric_KP.T)
        + k_K**2 * ((step_B1P**2) @ metric_KP.T)
    )
    others_BN = np.max(height_K * np.exp(distance_BNK / (-2.0 * size)), axis=-1)
    best_BN = 10 * np.exp((rotated_BNP**2) @ _lambda(1000.0, size) / (-2.0 * size))
    return _oscillate(10.0 - np.maximum(best_BN, others_BN)) ** 2 + _penalty(x_BNP)


def _gallagher_101(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    return _gallagher(x_BNP, r_BPP, q_BPP, 101)


def _gallagher_21(x_BNP: Points, r_BPP: Rotations, q_BPP: Rotations) -> Values:
    return _gallagher(x_BNP, r_BPP, q_BPP, 21)


def _at_origin(r_BPP: Rotations) -> Float64[np.ndarray, "B P"]:
    return np.zeros(r_BPP.shape[:2])


def _at_rosenbrock(r_BPP: Rotations) -> Float64[np.ndarray, "B P"]:
    size = r_BPP.shape[-1]
    return np.full(r_BPP.shape[:2], 0.5 / max(1.0, size**0.5 / 8.0))


def _at_rosenbrock_rotated(r_BPP: Rotations) -> Float64[np.ndarray, "B P"]:
    return np.einsum("BPD,BP->BD", r_BPP, _at_rosenbrock(r_BPP))


def _at_sector(r_BPP: Rotations) -> Float64[np.ndarray, "B P"]:
    return np.tile(_alternating(r_BPP.shape[-1]), (len(r_BPP), 1))


def _at_schwefel(r_BPP: Rotations) -> Float64[np.ndarray, "B P"]:
    return -SCHWEFEL_OPTIMUM * _at_sector(r_BPP)


def _at_lunacek(r_BPP: Rotations) -> Float64[np.ndarray, "B P"]:
    return np.full(r_BPP.shape[:2], LUNACEK_OPTIMUM)


FUNCTIONS: dict[str, Function] = {
    "Sphere": Function(evaluate=_sphere, optimum=_at_origin, separable=True),
    "Ellipsoidal": Function(evaluate=_ellipsoidal, optimum=_at_origin, separable=True),
    "RastriginSeparable": Function(
        evaluate=_rastrigin_separable, optimum=_at_origin, separable=True
    ),
    "BuecheRastrigin": Function(evaluate=_bueche_rastrigin, optimum=_at_origin, separable=True),
    "LinearSlope": Function(evaluate=_linear_slope, optimum=None, separable=True),
    "AttractiveSector": Function(evaluate=_attractive_sector, optimum=_at_sector),
    "StepEllipsoidal": Function(evaluate=_step_ellipsoidal, optimum=_at_origin),
    "Rosenbrock": Function(evaluate=_rosenbrock, optimum=_at_rosenbrock, fewest_parameters=2),
    "RosenbrockRotated": Function(
        evaluate=_rosenbrock_rotated, optimum=_at_rosenbrock_rotated, fewest_parameters=2
    ),
    "EllipsoidalRotated": Function(evaluate=_ellipsoidal_rotated, optimum=_at_origin),
    "Discus": Function(evaluate=_discus, optimum=_at_origin),
    "BentCigar": Function(evaluate=_bent_cigar, optimum=_at_origin),
    "SharpRidge": Function(evaluate=_sharp_ridge, optimum=_at_origin),
    "DifferentPowers": Function(evaluate=_different_powers, optimum=_at_origin),
    "Rastrigin": Function(evaluate=_rastrigin, optimum=_at_origin),
    "Weierstrass": Function(evaluate=_weierstrass, optimum=_at_origin),
    "SchaffersF7": Function(evaluate=_schaffers_f7, optimum=_at_origin, fewest_parameters=2),
    "SchaffersF7IllConditioned": Function(
        evaluate=_schaffers_f7_ill, optimum=_at_origin, fewest_parameters=2
    ),
    "GriewankRosenbrock": Function(
        evaluate=_griewank_rosenbrock, optimum=_at_origin, fewest_parameters=2
    ),
    "Schwefel": Function(evaluate=_schwefel, optimum=_at_schwefel),
    "Gallagher101Me": Function(evaluate=_gallagher_101, optimum=_at_origin),
    "Gallagher21Me": Function(evaluate=_gallagher_21, optimum=_at_origin),
    "Katsuura": Function(evaluate=_katsuura, optimum=_at_origin),
    "Lunacek": Function(evaluate=_lunacek, optimum=_at_lunacek, fewest_parameters=2),
}
