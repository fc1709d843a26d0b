"""What can be said from results: means with intervals, ranks, tests; and how good predictions are.

Intervals are percentile bootstrap intervals over tasks, because tasks are what a claim generalizes
over; seeds of a task are averaged first. All optimizers are resampled together (paired).

A predictive distribution is a row of probabilities over Q equal bins of [0, 1].
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Band:
    """Means by optimizer and trial, with the interval that holds a given share of resamples."""

    mean_OT: Float64[np.ndarray, "O T"]
    low_OT: Float64[np.ndarray, "O T"]
    high_OT: Float64[np.ndarray, "O T"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """How much larger the first of two paired samples is.

    `p_value` is of Wilcoxon's two-sided signed-rank test; 1.0 if all pairs are equal.
    """

    mean: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int
    p_value: float


def mean_band(
    scores_OKST: Float64[np.ndarray, "O K S T"],
    rng: np.random.Generator,
    *,
    resamples: int = 1000,
    level: float = 0.95,
) -> Band:
    """Means over seeds, then tasks. Runs that are NaN are left out of their task's mean."""
    by_task_OKT = over_seeds(scores_OKST)
    tasks = by_task_OKT.shape[1]
    weights_NK = rng.multinomial(tasks, np.full(tasks, 1 / tasks), size=resamples).astype(float)
    known_OKT = ~np.isnan(by_task_OKT)
    filled_OKT = np.where(known_OKT, by_task_OKT, 0.0)
    with np.errstate(invalid="ignore"):
        means_NOT = np.einsum("NK,OKT->NOT", weights_NK, filled_OKT) / np.einsum(
            "NK,OKT->NOT", weights_NK, known_OKT.astype(float)
        )
        mean_OT = filled_OKT.sum(1) / known_OKT.sum(1)
    low_OT, high_OT = _quantiles(means_NOT, level)
    return Band(mean_OT=mean_OT, low_OT=low_OT, high_OT=high_OT)


def ranks(scores_OKST: Float64[np.ndarray, "O K S T"]) -> Float64[np.ndarray, "O K S T"]:
    """Each optimizer's rank among all in the same task, seed and trial: 1 is best, ties share.

    NaN where any optimizer has no score.
    """
    above_OKST = (scores_OKST[None] > scores_OKST[:, None]).sum(1)
    level_OKST = (scores_OKST[None] == scores_OKST[:, None]).sum(1)
    ranks_OKST = above_OKST + (level_OKST + 1) / 2
    return np.where(np.isnan(scores_OKST).any(0), np.nan, ranks_OKST)


def paired_difference(
    first_N: Float64[np.ndarray, " N"],
    second_N: Float64[np.ndarray, " N"],
    rng: np.random.Generator,
    *,
    resamples: int = 4000,
    level: float = 0.95,
) -> Difference:
    """Compares two optimizers on the same N tasks; pairs with a NaN are left out."""
    from scipy import stats

    gaps_N = (first_N - second_N)[~np.isnan(first_N - second_N)]
    if not len(gaps_N):
        nothing = float("nan")
        return Difference(
            mean=nothing, low=nothing, high=nothing, wins=0, ties=0, losses=0, p_value=nothing
        )
    means = rng.choice(gaps_N, size=(resamples, len(gaps_N))).mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    # Few pairs with ties: scipy then has no exact distribution and falls back to the normal one.
    p_value = float(stats.wilcoxon(gaps_N).pvalue) if np.any(gaps_N != 0) else 1.0
    return Difference(
        mean=float(gaps_N.mean()),
        low=float(low),
        high=float(high),
        wins=int((gaps_N > 0).sum()),
        ties=int((gaps_N == 0).sum()),
        losses=int((gaps_N < 0).sum()),
        p_value=p_value,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values for how many there are."""
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for place, row in enumerate(sorted(range(len(p_values)), key=lambda row: p_values[row])):
        largest = max(largest, min(1.0, p_values[row] * (len(p_values) - place)))
        adjusted[row] = largest
    return adjusted


def critical_difference(optimizers: int, tasks: int, *, significance: float = 0.05) -> float:
    """The difference of mean ranks that Nemenyi's test calls significant [Demšar 2006, 3.2.2]."""
    from scipy import stats

    quantile = stats.studentized_range.ppf(1 - significance, optimizers, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(optimizers * (optimizers + 1) / (6 * tasks)))


def bootstrap_mean(
    values_N: Float[np.ndarray, " N"],
    rng: np.random.Generator,
    *,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Mean of the values with its interval: mean, low, high."""
    means = rng.choice(values_N, size=(resamples, len(values_N))).mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(values_N.mean()), float(low), float(high)


def over_seeds(scores_OKST: Float64[np.ndarray, "O K S T"]) -> Float64[np.ndarray, "O K T"]:
    """Means over the seeds that are not NaN; NaN where none is left."""
    known_OKST = ~np.isnan(scores_OKST)
    with np.errstate(invalid="ignore"):
        return np.where(known_OKST, scores_OKST, 0.0).sum(2) / known_OKST.sum(2)


def _quantiles(
    means_NOT: Float64[np.ndarray, "N O T"], level: float
) -> tuple[Float64[np.ndarray, "O T"], Float64[np.ndarray, "O T"]]:
    # A resample may miss every task that has a value: it says nothing about that trial.
    known = ~np.isnan(means_NOT).all(0)
    low_OT, high_OT = (np.full(means_NOT.shape[1:], np.nan) for _ in range(2))
    edges = np.nanquantile(means_NOT[:, known], [(1 - level) / 2, (1 + level) / 2], axis=0)
    low_OT[known], high_OT[known] = edges
    return low_OT, high_OT


# --- predictions ------------------------------------------------------------------------------


def log_density(
    probabilities_NQ: Float[np.ndarray, "N Q"], truth_N: Float[np.ndarray, " N"]
) -> Float64[np.ndarray, " N"]:
    """Log predictive density at the truth, per unit of [0, 1]: uniform predictions score 0.

    −inf where the truth's bin was given no probability.
    """
    bins = probabilities_NQ.shape[1]
    with np.errstate(divide="ignore"):
        return np.log(_at(probabilities_NQ, truth_N).astype(np.float64) * bins)


def pit(
    probabilities_NQ: Float[np.ndarray, "N Q"], truth_N: Float[np.ndarray, " N"]
) -> Float64[np.ndarray, " N"]:
    """Probability integral transforms: the predicted probability of a value below the truth.

    Within a bin the density is constant. Sequential predictions that are right give independent
    uniform numbers (Rosenblatt 1952).
    """
    return _cdf_at(probabilities_NQ, truth_N)


def calibration_curve(
    pit_N: Float[np.ndarray, " N"], levels: int = 20
) -> tuple[Float64[np.ndarray, " C"], Float64[np.ndarray, " C"]]:
    """How often the truth lay in the central interval of each probability: levels, frequencies.

    Equal for calibrated predictions; frequencies below the levels mean overconfidence.
    """
    levels_C = np.linspace(0.0, 1.0, levels + 1)
    depth_N = np.abs(2 * pit_N - 1)
    return levels_C, (depth_N[:, None] <= levels_C).mean(0)


def expected_calibration_error(
    probabilities_NQ: Float[np.ndarray, "N Q"],
    truth_N: Float[np.ndarray, " N"],
    *,
    intervals: int = 100,
    confidence_bins: int = 10,
) -> float:
    """ECE of Guo et al. 2017 with OptFormer's numbers: [0, 1] is cut into 100 equal intervals,
    which are the classes, and predictions are grouped into 10 bins; see `calibration_error`.
    """
    confidence_N, right_N = likeliest(probabilities_NQ, truth_N, intervals=intervals)
    return calibration_error(confidence_N, right_N, bins=confidence_bins)


def likeliest(
    probabilities_NQ: Float[np.ndarray, "N Q"],
    truth_N: Float[np.ndarray, " N"],
    *,
    intervals: int = 100,
) -> tuple[Float64[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """The probability of the likeliest of equal intervals of [0, 1], and whether it was right."""
    classes_NQ = np.diff(_cdf(probabilities_NQ, np.linspace(0.0, 1.0, intervals + 1)), axis=1)
    likeliest_N = classes_NQ.argmax(1)
    confidence_N = classes_NQ[np.arange(len(classes_NQ)), likeliest_N]
    return confidence_N, likeliest_N == _bin(truth_N, intervals)


def calibration_error(
    confidence_N: Float64[np.ndarray, " N"], right_N: Bool[np.ndarray, " N"], *, bins: int = 10
) -> float:
    """Predictions are grouped into equal bins of confidence; the mean gap between a group's
    confidence and how often it was right, weighted by the groups' sizes."""
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
    probabilities_NQ: Float[np.ndarray, "N Q"], truth_N: Float[np.ndarray, " N"]
) -> Float64[np.ndarray, " N"]:
    bins = probabilities_NQ.shape[1]
    bin_N = _bin(truth_N, bins)
    below_NQ = np.cumsum(probabilities_NQ, axis=1, dtype=np.float64)
    rows = np.arange(len(truth_N))
    inside_N = np.clip(truth_N * bins - bin_N, 0.0, 1.0)
    return below_NQ[rows, bin_N] - (1.0 - inside_N) * probabilities_NQ[rows, bin_N]


def _cdf(
    probabilities_NQ: Float[np.ndarray, "N Q"], edges_E: Float64[np.ndarray, " E"]
) -> Float64[np.ndarray, "N E"]:
    """Cumulative probabilities at points of [0, 1]."""
    bins = probabilities_NQ.shape[1]
    below_NQ = np.pad(np.cumsum(probabilities_NQ, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
    place_E = edges_E * bins
    # Edges that are meant to be the same may differ by a rounding error.
    place_E = np.where(np.abs(place_E - np.round(place_E)) < 1e-9, np.round(place_E), place_E)
    left_E = np.minimum(place_E.astype(np.int64), bins - 1)
    share_E = place_E - left_E
    return below_NQ[:, left_E] * (1 - share_E) + below_NQ[:, left_E + 1] * share_E
