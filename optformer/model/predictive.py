"""Scores and calibration of predictions.

A predictive distribution is a row of probabilities over Q equal bins of [0, 1]. A truth is the
measured value, in [0, 1].

Array dimensions: N predictions, Q bins, C levels, E edges.
"""

import numpy as np
import scipy.optimize
from jaxtyping import Bool, Float, Float64, Int64

from optformer.model.config import Temperature

TEMPERATURES = 0.25, 4.0
"""The range of temperatures that `fit_temperature` searches, at both ends of the history."""

FLAT = 1e-3
"""Penalty on the squared power in `fit_temperature`, in nats. If the predictions do not determine
the power, it stays near 0."""


def log_density(
    probabilities_NQ: Float[np.ndarray, "N Q"], truth_N: Float[np.ndarray, " N"]
) -> Float64[np.ndarray, " N"]:
    """Log predictive density at the truth, per unit of [0, 1]: uniform predictions score 0.

    −inf if the bin of the truth has probability 0.
    """
    bins = probabilities_NQ.shape[1]
    with np.errstate(divide="ignore"):
        return np.log(_at(probabilities_NQ, truth_N).astype(np.float64) * bins)


def pit(
    probabilities_NQ: Float[np.ndarray, "N Q"],
    truth_N: Float[np.ndarray, " N"],
    shares_N: Float[np.ndarray, " N"] | None = None,
) -> Float64[np.ndarray, " N"]:
    """Probability integral transforms: the predicted probability of a value below the truth.

    Correct sequential predictions give independent uniform numbers (Rosenblatt 1952).

    Args:
      shares_N: uniform random numbers, taken as the share of each truth's bin that lies below the
        truth. The result is then uniform even if many trials share a value (Smith 1985; Czado,
        Gneiting and Held 2009). If None, the density is assumed constant within a bin.
    """
    return _cdf_at(probabilities_NQ, truth_N, shares_N)


def tempered(
    logits_NQ: Float[np.ndarray, "N Q"], temperature: float | Float64[np.ndarray, " N"]
) -> Float64[np.ndarray, "N Q"]:
    """The softmax of logits at a temperature; above 1, the distribution is wider.

    Args:
      temperature: one for all predictions, or one for each.
    """
    scaled_NQ = logits_NQ.astype(np.float64) / np.asarray(temperature)[..., None]
    shares_NQ = np.exp(scaled_NQ - scaled_NQ.max(axis=1, keepdims=True))
    return shares_NQ / shares_NQ.sum(axis=1, keepdims=True)


def fit_temperature(
    logits_NQ: Float[np.ndarray, "N Q"],
    bin_N: Int64[np.ndarray, " N"],
    trials_N: Int64[np.ndarray, " N"],
) -> Temperature:
    """The temperature in `tempered` with the highest likelihood of the truths' bins.

    This is the calibration of Guo et al. 2017, with a temperature that depends on the number of
    trials.

    Args:
      trials_N: the number of measured trials before each prediction. Beyond the largest one, the
        temperature is extrapolated.
    """
    # Single precision suffices and is much faster; no exponent is above 0.
    below_NQ = (logits_NQ - logits_NQ.max(axis=1, keepdims=True)).astype(np.float32)
    right_N = below_NQ[np.arange(len(bin_N)), bin_N]
    longest = np.log1p(trials_N.max(initial=1))

    def between(ends: Float64[np.ndarray, " 2"]) -> Temperature:
        """The temperature with these logarithms after 0 and after the largest number of trials."""
        first, last = ends
        return Temperature(start=float(np.exp(first)), power=float((last - first) / longest))

    def nats(ends: Float64[np.ndarray, " 2"]) -> float:
        temperature = between(ends)
        cold_N = (1.0 / temperature.after(trials_N)).astype(np.float32)
        whole_N = np.exp(cold_N[:, None] * below_NQ).sum(axis=1, dtype=np.float64)
        return float((np.log(whole_N) - cold_N * right_N).mean()) + FLAT * temperature.power**2

    bounds = [tuple(np.log(TEMPERATURES))] * 2
    simplex = [[0.0, 0.0], [0.2, 0.0], [0.0, -0.2]]
    options = {"xatol": 1e-3, "fatol": 1e-7, "initial_simplex": simplex}
    result = scipy.optimize.minimize(
        nats, simplex[0], method="Nelder-Mead", bounds=bounds, options=options
    )
    return between(result.x)


def calibration_curve(
    pit_N: Float[np.ndarray, " N"], levels: int = 20
) -> tuple[Float64[np.ndarray, " C"], Float64[np.ndarray, " C"]]:
    """Levels, and how often the truth lay in the central interval of each level.

    Equal for calibrated predictions; frequencies below the levels mean overconfidence.
    """
    levels_C = np.linspace(0.0, 1.0, levels + 1)
    depth_N = np.abs(2 * pit_N - 1)
    return levels_C, (depth_N[:, None] <= levels_C).mean(0)


def quantile_error(pit_N: Float[np.ndarray, " N"], levels: int = 20) -> float:
    """The mean gap between a predicted quantile's level and how often the truth lay below it.

    0 for calibrated predictions, at most 1/2.
    """
    levels_C = np.arange(1, levels) / levels
    return float(np.abs((pit_N[:, None] <= levels_C).mean(0) - levels_C).mean())


def expected_calibration_error(
    probabilities_NQ: Float[np.ndarray, "N Q"],
    truth_N: Float[np.ndarray, " N"],
    *,
    intervals: int = 100,
    confidence_bins: int = 10,
) -> float:
    """ECE of Guo et al. 2017 with OptFormer's settings.

    The classes are 100 equal intervals of [0, 1], and predictions are grouped into 10 bins of
    confidence; see `calibration_error`.
    """
    confidence_N, right_N = likeliest(probabilities_NQ, truth_N, intervals=intervals)
    return calibration_error(confidence_N, right_N, bins=confidence_bins)


def likeliest(
    probabilities_NQ: Float[np.ndarray, "N Q"],
    truth_N: Float[np.ndarray, " N"],
    *,
    intervals: int = 100,
) -> tuple[Float64[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """The probability of the likeliest of equal intervals, and whether it contains the truth."""
    classes_NQ = np.diff(_cdf(probabilities_NQ, np.linspace(0.0, 1.0, intervals + 1)), axis=1)
    likeliest_N = classes_NQ.argmax(1)
    confidence_N = classes_NQ[np.arange(len(classes_NQ)), likeliest_N]
    return confidence_N, likeliest_N == _bin(truth_N, intervals)


def calibration_error(
    confidence_N: Float64[np.ndarray, " N"], right_N: Bool[np.ndarray, " N"], *, bins: int = 10
) -> float:
    """The mean gap between confidence and accuracy.

    Predictions are grouped into equal bins of confidence, weighted by their sizes.
    """
    group_N = _bin(confidence_N, bins)
    error = 0.0
    for group in range(bins):
        inside = group_N == group
        if inside.any():
            gap = abs(right_N[inside].mean() - confidence_N[inside].mean())
            error += float(inside.mean() * gap)
    return error


def predicted_mean(probabilities_NQ: Float[np.ndarray, "N Q"]) -> Float64[np.ndarray, " N"]:
    """Means of the predictive distributions, on [0, 1]."""
    bins = probabilities_NQ.shape[1]
    return probabilities_NQ.astype(np.float64) @ ((np.arange(bins) + 0.5) / bins)


def _bin(truth_N: Float[np.ndarray, " N"], bins: int) -> np.ndarray:
    return np.clip((truth_N * bins).astype(np.int64), 0, bins - 1)


def _at(
    probabilities_NQ: Float[np.ndarray, "N Q"], truth_N: Float[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    return probabilities_NQ[np.arange(len(truth_N)), _bin(truth_N, probabilities_NQ.shape[1])]


def _cdf_at(
    probabilities_NQ: Float[np.ndarray, "N Q"],
    truth_N: Float[np.ndarray, " N"],
    shares_N: Float[np.ndarray, " N"] | None,
) -> Float64[np.ndarray, " N"]:
    bins = probabilities_NQ.shape[1]
    bin_N = _bin(truth_N, bins)
    inside_N = np.clip(truth_N * bins - bin_N, 0.0, 1.0) if shares_N is None else shares_N
    below_NQ = np.cumsum(probabilities_NQ, axis=1, dtype=np.float64)
    rows = np.arange(len(truth_N))
    return below_NQ[rows, bin_N] - (1.0 - inside_N) * probabilities_NQ[rows, bin_N]


def _cdf(
    probabilities_NQ: Float[np.ndarray, "N Q"], edges_E: Float64[np.ndarray, " E"]
) -> Float64[np.ndarray, "N E"]:
    """Cumulative probabilities at points of [0, 1]."""
    bins = probabilities_NQ.shape[1]
    below_NQ = np.pad(np.cumsum(probabilities_NQ, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
    place_E = edges_E * bins
    # Remove rounding errors, so that an edge that falls on a bin's edge is exactly that edge.
    place_E = np.where(np.abs(place_E - np.round(place_E)) < 1e-9, np.round(place_E), place_E)
    left_E = np.minimum(place_E.astype(np.int64), bins - 1)
    share_E = place_E - left_E
    return below_NQ[:, left_E] * (1 - share_E) + below_NQ[:, left_E + 1] * share_E
