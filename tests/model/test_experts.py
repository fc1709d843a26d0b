"""Experts are Gaussian processes: their predictions equal the textbook formulas."""

import numpy as np
import pytest
import scipy.stats

from optformer.model import experts
from optformer.model.experts import KERNELS, WARPS
from optformer.model.points import INACTIVE, Points

BINS = 1000
ORDERED = np.array([True, True, False])


def trials(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points of two numbers and a category of three, and values at the middle of bins."""
    rng = np.random.default_rng(seed)
    units_RP = np.column_stack([rng.random((count, 2)), (rng.integers(3, size=count) + 0.5) / 3])
    values_R = 0.5 + 0.3 * np.sin(5 * units_RP[:, 0]) * units_RP[:, 1] + 0.1 * units_RP[:, 2]
    return units_RP, (np.floor(values_R * BINS) + 0.5) / BINS


def points(units_NP: np.ndarray) -> Points:
    """Points for the experts."""
    ids_NK = np.zeros(units_NP.shape, np.int64)
    return Points(values_NP=units_NP, units_NP=units_NP, ids_NK=ids_NK, inputs_NK=units_NP)


def prior(a_NP: np.ndarray, b_NP: np.ndarray, kernel: int) -> np.ndarray:
    """Covariances of the values of a function and its mean, without noise."""
    scale = KERNELS[kernel].length * np.sqrt(3)
    pattern = KERNELS[kernel].relevant
    scales_P = scale * np.array([1.0 if pattern[p % len(pattern)] else 6.0 for p in range(3)])

    def covariance(a_P: np.ndarray, b_P: np.ndarray) -> float:
        apart_P = np.where(ORDERED, a_P - b_P, np.abs(a_P - b_P) > 0.01) / scales_P
        square = float(apart_P @ apart_P)
        root = np.sqrt(5 * square)
        matern = (1 + root + root**2 / 3) * np.exp(-root)
        return experts.MEAN_VARIANCE + (np.exp(-square / 2) if KERNELS[kernel].gaussian else matern)

    return np.array([[covariance(a_P, b_P) for b_P in b_NP] for a_P in a_NP])


def textbook(
    units_RP: np.ndarray, values_R: np.ndarray, unit_P: np.ndarray, expert: int
) -> scipy.stats.rv_continuous:
    """The prediction at a point, by solving the linear equations."""
    warp, kernel = divmod(expert, len(KERNELS))
    noise = KERNELS[kernel].noise + experts.JITTER
    matrix = prior(units_RP, units_RP, kernel) + noise * np.eye(len(units_RP))
    across = prior(units_RP, unit_P[None], kernel)[:, 0]
    warped_R = experts.warp(values_R)[warp]
    solved_R = np.linalg.solve(matrix, warped_R)
    left = (
        prior(unit_P[None], unit_P[None], kernel)[0, 0]
        + noise
        - across @ np.linalg.solve(matrix, across)
    )
    freedom = experts.FREEDOM + len(values_R)
    variance = (experts.FREEDOM * 0.25**2 + warped_R @ solved_R) / freedom
    return scipy.stats.t(freedom, across @ solved_R, np.sqrt(variance * left))


@pytest.mark.parametrize("expert", [0, 5, 13, 20, 30, 45, 90, 130, 199])
def test_predictions_equal_the_textbook_formula(expert: int) -> None:
    units_RP, values_R = trials(12)
    nothing_R = np.zeros(11, bool)
    posterior = experts.condition(units_RP[:11], values_R[:11], nothing_R, ORDERED, BINS)
    said = posterior.predict(points(units_RP[11:]), np.array([expert]))
    want = textbook(units_RP[:11], values_R[:11], units_RP[11], expert)
    np.testing.assert_allclose(said.mean_NM[0, 0], want.mean(), rtol=1e-6)
    np.testing.assert_allclose(said.scale_NM[0, 0], want.args[2], rtol=1e-5)
    assert (said.warp_M[0], said.freedom) == (expert // len(KERNELS), want.args[0])
    # Of the value's bin: within [0, 1], but for the floor.
    followed = experts.follow(units_RP, values_R, ORDERED, BINS)
    edges = np.array([0.0, values_R[11] - 0.5 / BINS, values_R[11] + 0.5 / BINS, 1.0])
    low, left, right, high = want.cdf(experts.warp(edges)[expert // len(KERNELS)])
    share = (1 - experts.FLOOR) * (right - left) / (high - low) + experts.FLOOR / BINS
    np.testing.assert_allclose(np.exp(followed.log_RE[11, expert]), share, rtol=0.03)


def test_evidence_is_the_sum_of_sequential_log_probabilities() -> None:
    units_RP, values_R = trials(15)
    followed = experts.follow(units_RP, values_R, ORDERED, BINS)
    np.testing.assert_allclose(
        followed.evidence_RE[1:], np.cumsum(followed.log_RE, axis=0)[:-1], rtol=1e-4
    )
    posterior = experts.condition(units_RP, values_R, np.zeros(15, bool), ORDERED, BINS)
    np.testing.assert_allclose(posterior.evidence_E, followed.log_RE.sum(0), rtol=1e-4, atol=1e-3)


def test_foretold_distributions_give_the_probabilities_that_were_followed() -> None:
    units_RP, values_R = trials(15)
    values_R[4] = np.nan
    mean_RE, scale_RE, freedom_R = experts.foretell(units_RP, values_R, ORDERED)
    followed = experts.follow(units_RP, values_R, ORDERED, BINS)
    warp_E = np.arange(experts.EXPERTS) // len(KERNELS)
    for row in (0, 3, 10, 14):
        edges = np.array([0.0, values_R[row] - 0.5 / BINS, values_R[row] + 0.5 / BINS, 1.0])
        t_4E = (experts.warp(edges)[warp_E].T - mean_RE[row]) / scale_RE[row]
        low_E, left_E, right_E, high_E = scipy.stats.norm.cdf(
            experts.normal_score(t_4E, freedom_R[row])
        )
        share_E = (1 - experts.FLOOR) * (right_E - left_E) / (high_E - low_E)
        share_E += experts.FLOOR / BINS
        np.testing.assert_allclose(np.exp(followed.log_RE[row]), share_E, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("kernel", [2, 9, 15, 20, 33])
def test_levels_are_of_one_draw_of_the_process(kernel: int) -> None:
    """Uniform, nearly equal at nearly equal points, and as much together as the textbook says: of
    a Student-t process, two are below their medians with probability 1/4 + asin(r) / 2 pi."""
    units_RP, values_R = trials(10)
    units_NP = np.array([[0.31, 0.9, 0.5], [0.3101, 0.9, 0.5], [0.75, 0.4, 0.5]])
    posterior = experts.condition(units_RP, values_R, np.zeros(10, bool), ORDERED, BINS)
    rng = np.random.default_rng(kernel)
    draws = 4000
    levels_DN = np.array(
        [posterior.draw_levels(points(units_NP), kernel, rng) for _ in range(draws)]
    )
    for level in (0.1, 0.5, 0.9):
        error = np.sqrt(level * (1 - level) / draws)
        np.testing.assert_allclose((levels_DN < level).mean(axis=0), level, atol=4 * error)
    near = np.abs(levels_DN[:, 0] - levels_DN[:, 1]).mean()
    assert near < 0.03 < np.abs(levels_DN[:, 0] - levels_DN[:, 2]).mean()
    matrix = prior(units_RP, units_RP, kernel)
    matrix += (KERNELS[kernel].noise + experts.JITTER) * np.eye(10)
    across_RN = prior(units_RP, units_NP, kernel)
    covariance_NN = prior(units_NP, units_NP, kernel) + KERNELS[kernel].noise
    covariance_NN -= across_RN.T @ np.linalg.solve(matrix, across_RN)
    spread_N = np.sqrt(np.diagonal(covariance_NN))
    together = 0.25 + np.arcsin(covariance_NN[0, 2] / spread_N[0] / spread_N[2]) / (2 * np.pi)
    found = (levels_DN[:, [0, 2]] < 0.5).all(axis=1).mean()
    assert abs(found - together) < 4 * np.sqrt(together * (1 - together) / draws)


def test_later_trials_change_nothing() -> None:
    units_RP, values_R = trials(15)
    short = experts.follow(units_RP[:9], values_R[:9], ORDERED, BINS)
    whole = experts.follow(units_RP, values_R, ORDERED, BINS)
    np.testing.assert_allclose(whole.log_RE[:9], short.log_RE, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(whole.below_RE[:9], short.below_RE, rtol=1e-5, atol=1e-6)


def test_a_trial_without_a_value_changes_nothing() -> None:
    units_RP, values_R = trials(10)
    gone_R = values_R.copy()
    gone_R[4] = np.nan
    without = experts.follow(np.delete(units_RP, 4, 0), np.delete(values_R, 4), ORDERED, BINS)
    followed = experts.follow(units_RP, gone_R, ORDERED, BINS)
    np.testing.assert_allclose(np.delete(followed.log_RE, 4, 0), without.log_RE, atol=2e-3)
    assert (followed.log_RE[4] == 0).all()


def test_pending_trials_reduce_the_variance_and_keep_the_mean() -> None:
    units_RP, values_R = trials(10)
    waiting_R = values_R.copy()
    waiting_R[[2, 9]] = np.nan
    pending_R = np.isnan(waiting_R)
    few = np.arange(0, experts.EXPERTS, 7)
    before, after = (
        experts.condition(units_RP, waiting_R, pending, ORDERED, BINS).predict(
            points(units_RP[[2]]), few
        )
        for pending in (np.zeros(10, bool), pending_R)
    )
    np.testing.assert_allclose(after.mean_NM, before.mean_NM, atol=1e-6)
    assert (after.scale_NM < before.scale_NM).all()


@pytest.mark.parametrize("expert", [0, 7, 45, 130])
def test_a_surprise_is_how_far_a_value_is_above_its_prediction(expert: int) -> None:
    units_RP, values_R = trials(12)
    nothing_R = np.zeros(12, bool)
    before = experts.condition(units_RP[:11], values_R[:11], nothing_R[:11], ORDERED, BINS)
    after = experts.condition(units_RP, values_R, nothing_R, ORDERED, BINS)
    said = before.predict(points(units_RP[11:]), np.array([expert]))
    warp, kernel = divmod(expert, len(KERNELS))
    above = experts.warp(values_R[11:])[warp, 0] - said.mean_NM[0, 0]
    scale = said.scale_NM[0, 0] * after.scale_WK[warp, kernel] / before.scale_WK[warp, kernel]
    np.testing.assert_allclose(after.surprises(expert)[-1], above / scale, rtol=1e-5)


@pytest.mark.parametrize("kernel", [1, 9, 20, 33])
def test_fantasies_are_predictions_given_the_drawn_values(kernel: int) -> None:
    """Under the first warp, which only moves values."""
    units_RP, values_R = trials(10)
    values_R[8:] = np.nan
    waits_R = np.isnan(values_R)
    posterior = experts.condition(units_RP, values_R, waits_R, ORDERED, BINS)
    elsewhere = points(trials(5, seed=1)[0])
    normal_SJ = 0.1 * np.random.default_rng(2).normal(size=(3, 2))
    mean_SN, _, drawn_SJ = posterior.fantasize(elsewhere, kernel, normal_SJ)
    for mean_N, drawn_J in zip(mean_SN, drawn_SJ, strict=True):
        told_R = np.append(values_R[:8], drawn_J + 0.5)
        told = experts.condition(units_RP, told_R, np.zeros(10, bool), ORDERED, BINS)
        said = told.predict(elsewhere, np.array([kernel]))
        np.testing.assert_allclose(mean_N, said.mean_NM[:, 0], atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_any_trials_give_probabilities(seed: int) -> None:
    """Repeated points, inactive parameters, values at the ends, or no values."""
    rng = np.random.default_rng(seed)
    units_RP = (rng.integers(4, size=(60, 4)) + 0.5) / 4
    units_RP[rng.random(units_RP.shape) < 0.2] = INACTIVE
    values_R = (rng.choice([0, 500, 999], size=60) + 0.5) / BINS
    ordered_P = np.array([True, False, True, False])
    followed = experts.follow(units_RP, values_R, ordered_P, BINS)
    assert (followed.log_RE <= 1e-5).all()
    assert ((followed.below_RE >= 0) & (followed.below_RE <= 1)).all()
    assert np.isfinite(followed.evidence_RE).all()
    nothing = experts.condition(np.empty((0, 4)), np.empty(0), np.zeros(0, bool), ordered_P, BINS)
    said = nothing.predict(points(units_RP[:3]), np.arange(experts.EXPERTS))
    assert (said.scale_NM > 0).all()
    np.testing.assert_allclose(said.mean_NM, 0.0)


def test_warps_are_monotone_and_of_one_width() -> None:
    warped_WR = experts.warp(np.linspace(0, 1, 101))
    assert (np.diff(warped_WR, axis=1) > 0).all()
    np.testing.assert_allclose(warped_WR[:, -1] - warped_WR[:, 0], 1.0)
    np.testing.assert_allclose(warped_WR[:, 50], 0.0, atol=1e-12)
    assert len(warped_WR) == len(WARPS)


def test_the_score_is_close_to_students() -> None:
    for freedom in (2.0, 5.0, 30.0):
        t = np.linspace(-4, 4, 41)
        np.testing.assert_allclose(
            scipy.stats.norm.cdf(experts.normal_score(t, freedom)),
            scipy.stats.t(freedom).cdf(t),
            atol=0.02,
        )
