"""The ten noise settings of OptFormer's BBOB studies, as in google-vizier's noisy experimenter.

Their formulas are those of Hansen et al., "Real-Parameter Black-Box Optimization Benchmarking
2009: Noisy Functions". Array dimensions: B functions, N points.
"""

import dataclasses
import operator
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

TARGET = 1e-8  # the three BBOB models do not change lower values, so that the optimum stays


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """One setting, with at most one of the four noise models.

    Attributes:
      gaussian: standard deviation of the logarithm of a factor.
      uniform: exponent of a uniform factor; smaller values have more noise.
      cauchy, cauchy_frequency: strength of a heavy-tailed offset, and the share of points with it.
      additive: standard deviation of an offset.
    """

    gaussian: float = 0.0
    uniform: float = 0.0
    cauchy: float = 0.0
    cauchy_frequency: float = 0.0
    additive: float = 0.0


_SETTINGS = operator.attrgetter("gaussian", "uniform", "cauchy", "cauchy_frequency", "additive")

NOISES: dict[str, Noise] = {
    "NO_NOISE": Noise(),
    "MODERATE_GAUSSIAN": Noise(gaussian=0.01),
    "SEVERE_GAUSSIAN": Noise(gaussian=0.1),
    "MODERATE_UNIFORM": Noise(uniform=0.01),
    "SEVERE_UNIFORM": Noise(uniform=0.1),
    "MODERATE_SELDOM_CAUCHY": Noise(cauchy=0.01, cauchy_frequency=0.05),
    "SEVERE_SELDOM_CAUCHY": Noise(cauchy=0.1, cauchy_frequency=0.25),
    "LIGHT_ADDITIVE_GAUSSIAN": Noise(additive=0.01),
    "MODERATE_ADDITIVE_GAUSSIAN": Noise(additive=0.1),
    "SEVERE_ADDITIVE_GAUSSIAN": Noise(additive=1.0),
}


def apply(
    noises: Sequence[Noise],
    values_BN: Float64[np.ndarray, "B N"],
    parameters: int,
    rng: np.random.Generator,
) -> Float64[np.ndarray, "B N"]:
    """Values, to be minimized, with the noise of each row's setting."""
    settings = np.array(list(map(_SETTINGS, noises)))[:, :, None]
    gaussian_B1, shrink_B1, strength_B1, frequency_B1, additive_B1 = settings.swapaxes(0, 1)
    shape = values_BN.shape
    # All models are applied; those with strength 0 multiply by 1 or add 0.
    noisy_BN = values_BN * np.exp(gaussian_B1 * rng.standard_normal(shape))
    if shrink_B1.any():
        amplify_B1 = shrink_B1 * (0.49 + 1.0 / parameters)
        larger_BN = (1e9 / np.maximum(values_BN, TARGET)) ** (amplify_B1 * rng.random(shape))
        noisy_BN *= rng.random(shape) ** shrink_B1 * np.maximum(1.0, larger_BN)
    if strength_B1.any():
        seldom_BN = rng.random(shape) < frequency_B1
        offset_BN = 1000.0 + seldom_BN * rng.standard_cauchy(shape)
        noisy_BN += strength_B1 * np.maximum(0.0, offset_BN)
    stable_BN = np.where(values_BN >= TARGET, noisy_BN, values_BN)
    return stable_BN + additive_B1 * rng.standard_normal(shape)
