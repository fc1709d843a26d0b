"""Scores of candidates from the distribution of each one's metric; the highest is suggested.

A distribution is a row of probabilities over Q bins of equal width on [0, 1], larger better. It
may sum to less than 1: the rest is the chance that the trial is infeasible, which gains nothing.

Array dimensions: N candidates, Q bins.
"""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Float64

from optformer.errors import ConfigError

Acquisition = Literal["ei", "ts", "ts_joint", "ucb", "pi", "mean", "prior"]
"""Expected improvement, Thompson sampling of each candidate by itself or of all as one draw of the
function, upper confidence bound, probability of improvement, mean; `prior` ranks nothing and takes
a sample of the model as it is."""

ACQUISITIONS: tuple[str, ...] = get_args(Acquisition)

UCB_QUANTILE = 0.9
"""OptFormer, appendix."""


def score(
    acquisition: Acquisition,
    probabilities_NQ: Float[np.ndarray, "N Q"],
    best: float,
    rng: np.random.Generator,
    levels_N: Float64[np.ndarray, " N"] | None = None,
) -> Float64[np.ndarray, " N"]:
    """The candidates' scores.

    Args:
      best: the best metric so far, on the bins' axis.
      levels_N: of `ts_joint`, the quantiles at which one draw of all candidates is.

    Raises:
      ConfigError: an acquisition that does not exist, or that ranks nothing.
    """
    probabilities_NQ = probabilities_NQ.astype(np.float64)
    centres_Q = (np.arange(probabilities_NQ.shape[1]) + 0.5) / probabilities_NQ.shape[1]
    if acquisition == "ei":
        return probabilities_NQ @ np.maximum(centres_Q - best, 0.0)
    if acquisition == "pi":
        return probabilities_NQ @ (centres_Q > best)
    if acquisition == "mean":
        return probabilities_NQ @ centres_Q
    if acquisition == "ucb":
        return quantile(probabilities_NQ, np.full(len(probabilities_NQ), UCB_QUANTILE))
    if acquisition == "ts":
        return quantile(probabilities_NQ, rng.random(len(probabilities_NQ)))
    if acquisition == "ts_joint":
        assert levels_N is not None
        return quantile(probabilities_NQ, levels_N)
    raise ConfigError(
        f"acquisition {acquisition!r} cannot rank candidates. Known: {', '.join(ACQUISITIONS)}."
    )


def quantile(
    probabilities_NQ: Float64[np.ndarray, "N Q"], levels_N: Float64[np.ndarray, " N"]
) -> Float64[np.ndarray, " N"]:
    """The value that a share `level` of each distribution lies below, linear within a bin.

    What is missing from 1 counts as lying below all bins, at 0.
    """
    bins = probabilities_NQ.shape[1]
    below_NQ = 1.0 - probabilities_NQ.sum(axis=1, keepdims=True) + probabilities_NQ.cumsum(axis=1)
    index_N = np.minimum((below_NQ < levels_N[:, None]).sum(axis=1), bins - 1)
    rows_N = np.arange(len(levels_N))
    inside_N = probabilities_NQ[rows_N, index_N]
    over_N = levels_N - (below_NQ[rows_N, index_N] - inside_N)
    share_N = np.clip(over_N / np.maximum(inside_N, 1e-300), 0.0, 1.0)
    return (index_N + share_N) / bins
