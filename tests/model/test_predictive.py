import numpy as np
import pytest

from optformer.model import predictive
from optformer.model.config import Temperature

RNG = np.random.default_rng


def predictions(rng, count=6000, bins=200):
    """Bell-shaped distributions of many widths, and a truth sampled from each."""
    centre_N1, width_N1 = rng.random((count, 1)), rng.uniform(0.01, 0.3, (count, 1))
    middle_Q = (np.arange(bins) + 0.5) / bins
    weights_NQ = np.exp(-(((middle_Q - centre_N1) / width_N1) ** 2) / 2)
    probabilities_NQ = weights_NQ / weights_NQ.sum(1, keepdims=True)
    bin_N = (np.cumsum(probabilities_NQ, 1) < rng.random((count, 1))).sum(1)
    return probabilities_NQ, (np.minimum(bin_N, bins - 1) + rng.random(count)) / bins


def test_correct_predictions_are_calibrated():
    probabilities_NQ, truth_N = predictions(RNG(0))
    assert predictive.expected_calibration_error(probabilities_NQ, truth_N) < 0.015
    pit_N = predictive.pit(probabilities_NQ, truth_N)
    shares, _ = np.histogram(pit_N, 10, (0, 1))
    np.testing.assert_allclose(shares / len(pit_N), 0.1, atol=0.015)
    levels_C, observed_C = predictive.calibration_curve(pit_N)
    np.testing.assert_allclose(observed_C, levels_C, atol=0.02)
    assert predictive.quantile_error(pit_N) < 0.01


def test_overconfident_predictions_are_detected():
    probabilities_NQ, truth_N = predictions(RNG(0))
    sharp_NQ = probabilities_NQ**4
    sharp_NQ /= sharp_NQ.sum(1, keepdims=True)
    assert predictive.expected_calibration_error(sharp_NQ, truth_N) > 0.03
    levels_C, observed_C = predictive.calibration_curve(predictive.pit(sharp_NQ, truth_N))
    assert (observed_C[1:-1] < levels_C[1:-1]).all()
    assert predictive.quantile_error(predictive.pit(sharp_NQ, truth_N)) > 0.03
    # A proper score: the true distribution beats any other.
    sharp = predictive.log_density(sharp_NQ, truth_N).mean()
    assert sharp < predictive.log_density(probabilities_NQ, truth_N).mean()


@pytest.mark.parametrize(
    "temperature",
    [Temperature(start=start, power=power) for start, power in [(0.5, 0), (1, 0), (2, -0.3)]],
)
def test_the_fitted_temperature_undoes_another(temperature):
    rng = RNG(2)
    probabilities_NQ, truth_N = predictions(rng)
    trials_N = rng.integers(50, size=len(truth_N))
    other_N = temperature.after(trials_N)
    with np.errstate(divide="ignore"):
        logits_NQ = np.maximum(np.log(probabilities_NQ), -500) * other_N[:, None] + 7.0
    bin_N = (truth_N * probabilities_NQ.shape[1]).astype(np.int64)
    fitted = predictive.fit_temperature(logits_NQ, bin_N, trials_N)
    # 6,000 predictions: 0.018 at one sigma in the middle.
    np.testing.assert_allclose(fitted.after(trials_N), other_N, rtol=0.12)
    assert fitted.after(15) == pytest.approx(temperature.after(15), rel=0.05)
    np.testing.assert_allclose(predictive.tempered(logits_NQ, other_N), probabilities_NQ, atol=1e-9)


def test_with_equal_numbers_of_trials_the_fitted_temperature_is_constant():
    probabilities_NQ, truth_N = predictions(RNG(3))
    bin_N = (truth_N * probabilities_NQ.shape[1]).astype(np.int64)
    logits_NQ = 1.5 * np.log(np.maximum(probabilities_NQ, 1e-200))
    fitted = predictive.fit_temperature(logits_NQ, bin_N, np.full(len(bin_N), 8))
    assert fitted.power == pytest.approx(0.0, abs=0.02)
    assert fitted.after(8) == pytest.approx(1.5, rel=0.05)


def test_a_repeated_value_is_calibrated_with_random_shares():
    rng = np.random.default_rng(0)
    right_Q = np.array([0.1] * 7 + [0.0, 0.0, 0.3])
    truth_N = np.where(rng.random(4000) < 0.3, 1.0, 0.7 * rng.random(4000))
    shares_NQ = np.tile(right_Q, (4000, 1))
    random, fixed = (
        predictive.calibration_curve(predictive.pit(shares_NQ, truth_N, shares_N))
        for shares_N in (rng.random(4000), None)
    )
    np.testing.assert_allclose(random[1], random[0], atol=0.03)
    assert np.abs(fixed[1] - fixed[0]).max() > 0.2


@pytest.mark.parametrize("bins", [1, 100, 1000])
def test_uniform_predictions_have_log_density_zero_and_the_truth_as_pit(bins):
    truth_N = RNG(0).random(50)
    uniform_NQ = np.full((50, bins), 1 / bins)
    np.testing.assert_allclose(predictive.log_density(uniform_NQ, truth_N), 0.0, atol=1e-12)
    np.testing.assert_allclose(predictive.pit(uniform_NQ, truth_N), truth_N, atol=1e-9)


def test_log_density_does_not_depend_on_the_number_of_bins():
    coarse_NQ, truth_N = predictions(RNG(1), count=200, bins=100)
    fine_NQ = np.repeat(coarse_NQ, 10, axis=1) / 10
    for measure in (predictive.log_density, predictive.pit):
        np.testing.assert_allclose(measure(fine_NQ, truth_N), measure(coarse_NQ, truth_N))
    assert predictive.expected_calibration_error(fine_NQ, truth_N) == pytest.approx(
        predictive.expected_calibration_error(coarse_NQ, truth_N)
    )


def test_predictions_at_the_ends_count_as_the_last_bins():
    probabilities_NQ = np.array([[0.25, 0.75], [0.25, 0.75]])
    density_N = predictive.log_density(probabilities_NQ, np.array([0.0, 1.0]))
    np.testing.assert_allclose(density_N, np.log([0.5, 1.5]))
    np.testing.assert_allclose(predictive.pit(probabilities_NQ, np.array([0.0, 1.0])), [0.0, 1.0])
    assert predictive.log_density(np.array([[1.0, 0.0]]), np.array([0.9]))[0] == -np.inf


def test_ece_by_hand():
    # Confidences 0.75 (right), 0.75 (wrong): gap 0.25; and 0.95 (right): gap 0.05.
    confidence_N = np.array([0.75, 0.75, 0.95])
    right_N = np.array([True, False, True])
    want = (2 * 0.25 + 1 * 0.05) / 3
    assert predictive.calibration_error(confidence_N, right_N) == pytest.approx(want)
