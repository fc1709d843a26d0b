"""Statistics of results: means with intervals, ranks, and tests.

Intervals are percentile bootstrap intervals over tasks, because conclusions generalize over tasks;
seeds of a task are averaged first. All optimizers are resampled together (paired). The interval of
a single task is NaN. Dependent tasks, such as learners on one data set, form a group: groups are
resampled as a whole, and tests use the means of groups.

Array dimensions besides those of the package: G groups.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Int64


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Band:
    """Means by optimizer and trial, with bootstrap intervals.

    Intervals are NaN if fewer than two tasks have a value.
    """

    mean_OT: Float64[np.ndarray, "O T"]
    low_OT: Float64[np.ndarray, "O T"]
    high_OT: Float64[np.ndarray, "O T"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean difference of two paired samples, first minus second.

    `p_value` is that of `signed_rank`. The interval of a single pair is NaN.
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
    groups_K: Int64[np.ndarray, " K"] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
) -> Band:
    """Means over seeds, then over tasks. NaN runs are left out of their task's mean.

    Args:
      groups_K: the group of each task, from 0; by default, each task is a group.
    """
    by_task_OKT = over_seeds(scores_OKST)
    if groups_K is None:
        groups_K = np.arange(by_task_OKT.shape[1])
    groups = int(groups_K.max()) + 1
    weights_NG = rng.multinomial(groups, np.full(groups, 1 / groups), size=resamples)
    weights_NK = weights_NG[:, groups_K].astype(float)
    known_OKT = ~np.isnan(by_task_OKT)
    filled_OKT = np.where(known_OKT, by_task_OKT, 0.0)
    with np.errstate(invalid="ignore"):
        means_NOT = np.einsum("NK,OKT->NOT", weights_NK, filled_OKT) / np.einsum(
            "NK,OKT->NOT", weights_NK, known_OKT.astype(float)
        )
        mean_OT = filled_OKT.sum(1) / known_OKT.sum(1)
    known_OGT = np.stack([known_OKT[:, groups_K == g].any(1) for g in range(groups)], axis=1)
    means_NOT[:, known_OGT.sum(1) < 2] = np.nan
    low_OT, high_OT = _quantiles(means_NOT, level)
    return Band(mean_OT=mean_OT, low_OT=low_OT, high_OT=high_OT)


def ranks(scores_OKST: Float64[np.ndarray, "O K S T"]) -> Float64[np.ndarray, "O K S T"]:
    """Each optimizer's rank in the same task, seed and trial: 1 is best, ties share the mean rank.

    NaN if any optimizer has no score.
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
    groups_N: Int64[np.ndarray, " N"] | None = None,
    resamples: int = 4000,
    level: float = 0.95,
) -> Difference:
    """Compares two optimizers on the same N tasks; pairs with a NaN are left out.

    Args:
      groups_N: the group of each task; by default, each task is a group.
    """
    known_N = ~np.isnan(first_N - second_N)
    gaps_N = (first_N - second_N)[known_N]
    if not len(gaps_N):
        nothing = float("nan")
        return Difference(
            mean=nothing, low=nothing, high=nothing, wins=0, ties=0, losses=0, p_value=nothing
        )
    groups_N = None if groups_N is None else groups_N[known_N]
    mean, low, high = bootstrap_mean(
        gaps_N, rng, groups_N=groups_N, resamples=resamples, level=level
    )
    return Difference(
        mean=mean,
        low=low,
        high=high,
        wins=int((gaps_N > 0).sum()),
        ties=int((gaps_N == 0).sum()),
        losses=int((gaps_N < 0).sum()),
        p_value=signed_rank(over_groups(gaps_N, groups_N)),
    )


def signed_rank(gaps_N: Float64[np.ndarray, " N"]) -> float:
    """The two-sided p-value of Wilcoxon's signed-rank test; 1.0 if all gaps are 0.

    Gaps of 0 are ranked, too (Pratt): on many tasks several optimizers find the optimum, and
    without these tasks few would remain.
    """
    from scipy import stats

    # For few pairs with ties or zeros, scipy enumerates all permutations of signs.
    return float(stats.wilcoxon(gaps_N, zero_method="pratt").pvalue) if gaps_N.any() else 1.0


def least_p_value(tasks: int, comparisons: int) -> float:
    """The smallest p-value of `signed_rank` after Holm's correction, if one wins every task."""
    return min(1.0, comparisons * 2.0 ** (1 - tasks))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values for multiple comparisons."""
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for place, row in enumerate(sorted(range(len(p_values)), key=lambda row: p_values[row])):
        largest = max(largest, min(1.0, p_values[row] * (len(p_values) - place)))
        adjusted[row] = largest
    return adjusted


def friedman(scores_OK: Float64[np.ndarray, "O K"]) -> float:
    """The p-value of Friedman's test that all optimizers have equal ranks; 1.0 if all are equal."""
    from scipy import stats

    with np.errstate(invalid="ignore"):  # all equal: 0 / 0
        p_value = float(stats.friedmanchisquare(*scores_OK).pvalue)
    return 1.0 if np.isnan(p_value) else p_value


def pairwise_p_values(scores_OK: Float64[np.ndarray, "O K"]) -> Float64[np.ndarray, "O O"]:
    """`signed_rank` of all pairs over tasks, after Holm's correction. 1.0 on the diagonal."""
    pairs = [(a, b) for a in range(len(scores_OK)) for b in range(a)]
    raw = [signed_rank(scores_OK[first] - scores_OK[second]) for first, second in pairs]
    p_OO = np.eye(len(scores_OK))
    for (first, second), p_value in zip(pairs, holm(raw), strict=True):
        p_OO[first, second] = p_OO[second, first] = p_value
    return p_OO


def alike(
    ranks_O: Float64[np.ndarray, " O"],
    p_OO: Float64[np.ndarray, "O O"],
    *,
    significance: float = 0.05,
) -> list[tuple[int, ...]]:
    """The largest groups of optimizers, adjacent in rank, without a significant difference."""
    order = np.argsort(ranks_O, kind="stable")
    groups: list[tuple[int, ...]] = []
    reached = 0
    for first in range(len(order)):
        stop = first + 1
        while stop < len(order) and (p_OO[order[stop], order[first:stop]] >= significance).all():
            stop += 1
        if stop - first > 1 and stop > reached:
            groups.append(tuple(int(row) for row in order[first:stop]))
            reached = stop
    return groups


def seed_distance(
    first_KST: Float64[np.ndarray, "K S T"], second_KST: Float64[np.ndarray, "K S T"]
) -> Float64[np.ndarray, "K T"]:
    """Wasserstein's distance between two equally large sets of seeds, in each task and trial.

    It is the mean gap between the two sorted sets.
    """
    return np.abs(np.sort(first_KST, axis=1) - np.sort(second_KST, axis=1)).mean(1)


def same_distribution(
    first_KST: Float64[np.ndarray, "K S T"],
    second_KST: Float64[np.ndarray, "K S T"],
    rng: np.random.Generator,
    *,
    permutations: int = 2000,
) -> tuple[Float64[np.ndarray, " T"], Float64[np.ndarray, " T"]]:
    """A two-sample permutation test: in each task, seeds are randomly reassigned to the two sets.

    Returns:
      The p-value at each trial of the mean over tasks of `seed_distance`, and the average of that
      mean under random assignment.
    """
    seeds = first_KST.shape[1]
    all_KNT = np.concatenate([first_KST, second_KST], axis=1)
    observed_T = seed_distance(first_KST, second_KST).mean(0)
    dealt_T = np.zeros_like(observed_T)
    beyond_T = np.ones_like(observed_T)  # counts the observed assignment itself
    for _ in range(permutations):
        order_KN = rng.permuted(np.tile(np.arange(2 * seeds), (len(all_KNT), 1)), axis=1)
        mixed_KNT = np.take_along_axis(all_KNT, order_KN[:, :, None], axis=1)
        distance_T = seed_distance(mixed_KNT[:, :seeds], mixed_KNT[:, seeds:]).mean(0)
        dealt_T += distance_T / permutations
        beyond_T += distance_T >= observed_T - 1e-12
    return beyond_T / (permutations + 1), dealt_T


def bootstrap_mean(
    values_N: Float[np.ndarray, " N"],
    rng: np.random.Generator,
    *,
    groups_N: Int64[np.ndarray, " N"] | None = None,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """The mean of the values and its interval, NaN for a single value: mean, low, high.

    Args:
      groups_N: the group of each value; groups are resampled as a whole. By default, each value is
        a group.
    """
    if len(values_N) == 1 or (groups_N is not None and len(np.unique(groups_N)) == 1):
        return float(values_N.mean()), float("nan"), float("nan")
    if groups_N is None:
        means = rng.choice(values_N, size=(resamples, len(values_N))).mean(1)
    else:
        _, group_N = np.unique(groups_N, return_inverse=True)
        count_G = np.bincount(group_N)
        sum_G = np.bincount(group_N, weights=values_N)
        drawn_RG = rng.integers(len(count_G), size=(resamples, len(count_G)))
        means = sum_G[drawn_RG].sum(1) / count_G[drawn_RG].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(values_N.mean()), float(low), float(high)


def over_groups(
    values_K: Float64[np.ndarray, "*O K"], groups_K: Int64[np.ndarray, " K"] | None
) -> Float64[np.ndarray, "*O G"]:
    """Means over the tasks of each group; without groups, the values themselves."""
    if groups_K is None:
        return values_K
    return np.stack(
        [values_K[..., groups_K == group].mean(axis=-1) for group in np.unique(groups_K)], axis=-1
    )


def over_seeds(scores_OKST: Float64[np.ndarray, "O K S T"]) -> Float64[np.ndarray, "O K T"]:
    """Means over the seeds that are not NaN; NaN if there are none."""
    known_OKST = ~np.isnan(scores_OKST)
    with np.errstate(invalid="ignore"):
        return np.where(known_OKST, scores_OKST, 0.0).sum(2) / known_OKST.sum(2)


def _quantiles(
    means_NOT: Float64[np.ndarray, "N O T"], level: float
) -> tuple[Float64[np.ndarray, "O T"], Float64[np.ndarray, "O T"]]:
    # A resample without any task that has a value does not count for that trial.
    known = ~np.isnan(means_NOT).all(0)
    low_OT, high_OT = (np.full(means_NOT.shape[1:], np.nan) for _ in range(2))
    if not known.any():
        return low_OT, high_OT
    edges = np.nanquantile(means_NOT[:, known], [(1 - level) / 2, (1 + level) / 2], axis=0)
    low_OT[known], high_OT[known] = edges
    return low_OT, high_OT
