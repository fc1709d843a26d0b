"""Warping of measured values towards a normal distribution, before a Gaussian process is fitted.

Vizier's default output warper (google-vizier 0.1.24, designers/gp/output_warpers.py), for many
studies at once: the worse half is warped by rank, then all values by a logarithm of their distance
to the best; infeasible trials get a value below all others, and the mean is shifted to zero.

Array dimensions: B studies, N trials.
"""

import numpy as np
from jaxtyping import Float64
from scipy.stats import norm

LOG_OFFSET = 1.5


def warp(values_BN: Float64[np.ndarray, "B N"]) -> Float64[np.ndarray, "B N"]:
    """Finite values for the process, larger better. NaN is an infeasible trial.

    If all values of a study are equal, the result is 0; if all are infeasible, -1.
    """
    if values_BN.shape[1] == 0:
        return values_BN
    with np.errstate(invalid="ignore", divide="ignore"):
        feasible_BN = ~np.isnan(values_BN)
        filled_BN = np.where(feasible_BN, values_BN, np.inf)
        low_B = filled_BN.min(axis=1)
        high_B = np.where(feasible_BN, values_BN, -np.inf).max(axis=1)
        warped_BN = _warp_log(_warp_half(values_BN))
        warped_BN = _warp_infeasible(warped_BN)
    constant_B1 = (low_B == high_B)[:, None] & feasible_BN.all(axis=1)[:, None]
    warped_BN = np.where(constant_B1, 0.0, warped_BN)
    return np.where(~feasible_BN.any(axis=1)[:, None], -1.0, warped_BN)


def _warp_half(values_BN: Float64[np.ndarray, "B N"]) -> Float64[np.ndarray, "B N"]:
    """Replaces values below the median by normal quantiles with the spread of the better half."""
    order_BN = np.argsort(values_BN, axis=1)  # NaN last
    sorted_BN = np.take_along_axis(values_BN, order_BN, axis=1)
    known_BN = ~np.isnan(sorted_BN)
    count_B = known_BN.sum(axis=1)
    rows_B = np.arange(len(values_BN))
    middle_B = (count_B - 1) / 2
    lower_B = sorted_BN[rows_B, np.floor(np.maximum(middle_B, 0)).astype(int)]
    upper_B = sorted_BN[rows_B, np.ceil(np.maximum(middle_B, 0)).astype(int)]
    median_B1 = ((lower_B + upper_B) / 2)[:, None]

    new_BN = known_BN.copy()  # the first of equal values
    new_BN[:, 1:] &= sorted_BN[:, 1:] != sorted_BN[:, :-1]
    rank_BN = np.cumsum(new_BN, axis=1)
    below_B = (new_BN & (sorted_BN < median_B1)).sum(axis=1)
    hits_B = (new_BN & (sorted_BN == median_B1)).any(axis=1)
    denominator_B1 = (below_B + 0.5 * hits_B)[:, None]

    square_BN = np.where(new_BN, np.square(sorted_BN - median_B1), 0.0)
    good_BN = new_BN & (sorted_BN >= median_B1)
    good_B = np.sqrt(np.where(good_BN, square_BN, 0.0).sum(axis=1) / good_BN.sum(axis=1))
    all_B = np.sqrt(square_BN.sum(axis=1) / new_BN.sum(axis=1))
    spread_B1 = np.where(good_B > 0, good_B, all_B)[:, None]

    quantile_BN = norm.ppf(0.5 * (rank_BN - 0.5) / denominator_B1)
    moved_BN = np.where(sorted_BN < median_B1, quantile_BN * spread_B1 + median_B1, sorted_BN)
    result_BN = np.empty_like(values_BN)
    np.put_along_axis(result_BN, order_BN, moved_BN, axis=1)
    return result_BN


def _warp_log(values_BN: Float64[np.ndarray, "B N"]) -> Float64[np.ndarray, "B N"]:
    """Maps values to [-0.5, 0.5], the best to 0.5; differences between good values grow."""
    high_B1 = np.where(np.isnan(values_BN), -np.inf, values_BN).max(axis=1, keepdims=True)
    low_B1 = np.where(np.isnan(values_BN), np.inf, values_BN).min(axis=1, keepdims=True)
    fraction_BN = (high_B1 - values_BN) / np.where(high_B1 > low_B1, high_B1 - low_B1, 1.0)
    return 0.5 - np.log1p(fraction_BN * (LOG_OFFSET - 1)) / np.log(LOG_OFFSET)


def _warp_infeasible(values_BN: Float64[np.ndarray, "B N"]) -> Float64[np.ndarray, "B N"]:
    """Infeasible trials get half the range plus 1 below the worst; then the mean becomes 0."""
    feasible_BN = ~np.isnan(values_BN)
    count_B1 = feasible_BN.sum(axis=1, keepdims=True)
    low_B1 = np.where(feasible_BN, values_BN, np.inf).min(axis=1, keepdims=True)
    high_B1 = np.where(feasible_BN, values_BN, -np.inf).max(axis=1, keepdims=True)
    bad_B1 = low_B1 - (0.5 * (high_B1 - low_B1) + 1)
    chance_B1 = (0.5 + count_B1) / (1 + values_BN.shape[1])
    mean_B1 = np.where(feasible_BN, values_BN, 0.0).sum(axis=1, keepdims=True) / count_B1
    shift_B1 = -mean_B1 * chance_B1 - bad_B1 * (1 - chance_B1)
    return np.where(feasible_BN, values_BN, bad_B1) + shift_B1
