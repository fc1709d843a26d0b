import numpy as np
import pytest

from optformer.eval import statistics

RNG = np.random.default_rng


def predictions(rng, count=6000, bins=200):
    """Bell-shaped distributions of many widths, and a truth drawn from each."""
    centre_N1, width_N1 = rng.random((count, 1)), rng.uniform(0.01, 0.3, (count, 1))
    middle_Q = (np.arange(bins) + 0.5) / bins
    weights_NQ = np.exp(-(((middle_Q - centre_N1) / width_N1) ** 2) / 2)
    probabilities_NQ = weights_NQ / weights_NQ.sum(1, keepdims=True)
    bin_N = (np.cumsum(probabilities_NQ, 1) < rng.random((count, 1))).sum(1)
    return probabilities_NQ, (np.minimum(bin_N, bins - 1) + rng.random(count)) / bins


def test_right_predictions_are_calibrated():
    probabilities_NQ, truth_N = predictions(RNG(0))
    assert statistics.expected_calibration_error(probabilities_NQ, truth_N) < 0.015
    pit_N = statistics.pit(probabilities_NQ, truth_N)
    shares, _ = np.histogram(pit_N, 10, (0, 1))
    np.testing.assert_allclose(shares / len(pit_N), 0.1, atol=0.015)
    levels_C, observed_C = statistics.calibration_curve(pit_N)
    np.testing.assert_allclose(observed_C, levels_C, atol=0.02)


def test_too_sure_predictions_are_found_out():
    probabilities_NQ, truth_N = predictions(RNG(0))
    sharp_NQ = probabilities_NQ**4
    sharp_NQ /= sharp_NQ.sum(1, keepdims=True)
    assert statistics.expected_calibration_error(sharp_NQ, truth_N) > 0.03
    levels_C, observed_C = statistics.calibration_curve(statistics.pit(sharp_NQ, truth_N))
    assert (observed_C[1:-1] < levels_C[1:-1]).all()
    # A proper score: the truth's own distribution beats any other.
    sharp = statistics.log_density(sharp_NQ, truth_N).mean()
    assert sharp < statistics.log_density(probabilities_NQ, truth_N).mean()


@pytest.mark.parametrize("bins", [1, 100, 1000])
def test_uniform_predictions_have_log_density_zero_and_the_truth_as_pit(bins):
    truth_N = RNG(0).random(50)
    uniform_NQ = np.full((50, bins), 1 / bins)
    np.testing.assert_allclose(statistics.log_density(uniform_NQ, truth_N), 0.0, atol=1e-12)
    np.testing.assert_allclose(statistics.pit(uniform_NQ, truth_N), truth_N, atol=1e-9)


def test_log_density_does_not_depend_on_how_finely_a_density_is_cut():
    coarse_NQ, truth_N = predictions(RNG(1), count=200, bins=100)
    fine_NQ = np.repeat(coarse_NQ, 10, axis=1) / 10
    for measure in (statistics.log_density, statistics.pit):
        np.testing.assert_allclose(measure(fine_NQ, truth_N), measure(coarse_NQ, truth_N))
    assert statistics.expected_calibration_error(fine_NQ, truth_N) == pytest.approx(
        statistics.expected_calibration_error(coarse_NQ, truth_N)
    )


def test_predictions_at_the_ends_count_as_the_last_bins():
    probabilities_NQ = np.array([[0.25, 0.75], [0.25, 0.75]])
    density_N = statistics.log_density(probabilities_NQ, np.array([0.0, 1.0]))
    np.testing.assert_allclose(density_N, np.log([0.5, 1.5]))
    np.testing.assert_allclose(statistics.pit(probabilities_NQ, np.array([0.0, 1.0])), [0.0, 1.0])
    assert statistics.log_density(np.array([[1.0, 0.0]]), np.array([0.9]))[0] == -np.inf


def test_ece_by_hand():
    # Confidences 0.75 (right), 0.75 (wrong): gap 0.25; and 0.95 (right): gap 0.05.
    confidence_N = np.array([0.75, 0.75, 0.95])
    right_N = np.array([True, False, True])
    want = (2 * 0.25 + 1 * 0.05) / 3
    assert statistics.calibration_error(confidence_N, right_N) == pytest.approx(want)


def test_means_are_over_seeds_then_tasks_and_leave_nan_out():
    scores_OKST = np.array([[[[0.0], [1.0]], [[0.2], [np.nan]]]])
    band = statistics.mean_band(scores_OKST, RNG(0))
    assert band.mean_OT[0, 0] == pytest.approx((0.5 + 0.2) / 2)
    assert 0.2 <= band.low_OT[0, 0] <= band.mean_OT[0, 0] <= band.high_OT[0, 0] <= 0.5


def test_trials_without_any_score_have_no_band():
    scores_OKST = np.full((2, 3, 2, 2), np.nan)
    scores_OKST[:, :, :, 1] = 0.5
    band = statistics.mean_band(scores_OKST, RNG(0))
    assert np.isnan(band.mean_OT[:, 0]).all() and np.isnan(band.low_OT[:, 0]).all()
    np.testing.assert_allclose([band.low_OT[:, 1], band.high_OT[:, 1]], 0.5)


def test_intervals_hold_the_true_mean_as_often_as_they_say():
    rng = RNG(0)
    inside = 0
    for _ in range(300):
        _, low, high = statistics.bootstrap_mean(rng.normal(size=40), rng, resamples=300)
        inside += low <= 0.0 <= high
    assert 0.89 <= inside / 300 <= 0.98


def test_ranks_share_ties_and_always_sum_to_the_same():
    scores_OKST = np.array([0.9, 0.5, 0.9, 0.1]).reshape(4, 1, 1, 1)
    np.testing.assert_array_equal(statistics.ranks(scores_OKST).ravel(), [1.5, 3.0, 1.5, 4.0])
    random_OKST = RNG(0).integers(0, 3, (5, 4, 3, 2)).astype(float)
    np.testing.assert_allclose(statistics.ranks(random_OKST).sum(0), 15.0)


def test_ranks_need_every_optimizer():
    scores_OKST = np.array([[0.9, np.nan], [0.5, 0.5]]).reshape(2, 1, 1, 2)
    ranks_OT = statistics.ranks(scores_OKST)[:, 0, 0]
    np.testing.assert_array_equal(ranks_OT, [[1.0, np.nan], [2.0, np.nan]])


def test_a_paired_difference_sees_what_an_unpaired_one_cannot():
    rng = RNG(0)
    hard_N = rng.normal(size=30) * 10
    gap = statistics.paired_difference(hard_N + 0.1 + 0.01 * rng.normal(size=30), hard_N, rng)
    assert gap.low > 0.09 and gap.high < 0.11 and gap.p_value < 1e-4
    assert (gap.wins, gap.ties, gap.losses) == (30, 0, 0)


def test_equal_samples_do_not_differ():
    same_N = np.arange(5.0)
    gap = statistics.paired_difference(same_N, same_N, RNG(0))
    assert (gap.mean, gap.low, gap.high, gap.ties, gap.p_value) == (0.0, 0.0, 0.0, 5, 1.0)
    nothing = statistics.paired_difference(same_N * np.nan, same_N, RNG(0))
    assert np.isnan(nothing.mean) and nothing.ties == 0


def test_holm_by_hand():
    # Sorted: .01*3, .02*2, .04*1 -> never below the one before.
    assert statistics.holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])


@pytest.mark.parametrize(("optimizers", "q"), [(2, 1.960), (5, 2.728), (10, 3.164)])
def test_critical_difference_is_that_of_demsars_table_5(optimizers, q):
    want = q * np.sqrt(optimizers * (optimizers + 1) / (6 * 20))
    assert statistics.critical_difference(optimizers, 20) == pytest.approx(want, abs=1e-3)
