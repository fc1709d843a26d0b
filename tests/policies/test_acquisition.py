"""Scores follow from the predicted distributions."""

import numpy as np
import pytest

from optformer.errors import ConfigError
from optformer.policies.acquisition import ACQUISITIONS, quantile, score


def distributions() -> np.ndarray:
    """Sure and low, unsure around the middle, sure and high; over ten bins."""
    rows = np.zeros((3, 10))
    rows[0, 2] = 1.0
    rows[1, 3:8] = 0.2
    rows[2, 8] = 1.0
    return rows


@pytest.mark.parametrize("acquisition", [name for name in ACQUISITIONS if name != "prior"])
def test_a_distribution_that_is_better_everywhere_scores_best(acquisition: str) -> None:
    rng = np.random.default_rng(0)
    levels_N = np.full(3, 0.7) if acquisition == "ts_joint" else None
    scores_N = score(acquisition, distributions(), 0.5, rng, levels_N)
    assert scores_N.argmax() == 2
    assert scores_N.argmin() == 0


def test_expected_improvement_by_hand() -> None:
    scores_N = score("ei", distributions(), 0.55, np.random.default_rng(0))
    # Bins 6 and 7 of the middle row, centred 0.1 and 0.2 above the best.
    np.testing.assert_allclose(scores_N, [0.0, 0.2 * (0.1 + 0.2), 0.3])


def test_the_chance_of_infeasibility_gains_nothing() -> None:
    half = distributions() / 2
    for acquisition in ("ei", "pi", "mean"):
        whole_N = score(acquisition, distributions(), 0.5, np.random.default_rng(0))
        half_N = score(acquisition, half, 0.5, np.random.default_rng(0))
        np.testing.assert_allclose(half_N, whole_N / 2)
    # The lower half of the distribution is infeasible.
    np.testing.assert_allclose(quantile(half, np.full(3, 0.25)), 0.0)


def test_quantiles_invert_the_distribution() -> None:
    rng = np.random.default_rng(0)
    rows = np.repeat(distributions()[1:2], 4000, axis=0)
    draws_N = score("ts", rows, 0.5, rng)
    assert draws_N.min() >= 0.3
    assert draws_N.max() <= 0.8
    # Uniform on [0.3, 0.8].
    np.testing.assert_allclose(draws_N.mean(), 0.55, atol=0.01)
    np.testing.assert_allclose(draws_N.std(), 0.5 / 12**0.5, atol=0.01)


def test_what_cannot_rank_is_refused() -> None:
    with pytest.raises(ConfigError, match="'prior' cannot rank"):
        score("prior", distributions(), 0.5, np.random.default_rng(0))
