import numpy as np
import pytest

from optformer.data.problems import studies_of
from optformer.errors import StudyError
from optformer.eval import prediction
from optformer.eval.page import Page, Table, render
from optformer.study import Metric, Parameter, ParameterType, Problem, Study
from tests.eval.quadratic import Quadratic


def studies(count=3, trials=25, noise=0.02):
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        made += prediction.random_studies(Quadratic(noise=noise), trials, rng)
    return made


class Uniform:
    def predict(self, study, y_range, rows_N):
        return np.full((len(rows_N), 50), 1 / 50)


class Oracle:
    """Knows the function but not its noise; also keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def predict(self, study, y_range, rows_N):
        self.asked.append((y_range, rows_N))
        truth_N = (study.objective()[rows_N] - y_range[0]) / (y_range[1] - y_range[0])
        middle_Q = (np.arange(200) + 0.5) / 200
        weights_NQ = np.exp(-(((middle_Q - truth_N[:, None]) / 0.02) ** 2) / 2)
        return weights_NQ / weights_NQ.sum(1, keepdims=True)


def test_uniform_predictions_score_zero_and_good_ones_more():
    made = prediction.evaluate({"uniform": Uniform(), "oracle": Oracle()}, studies())
    np.testing.assert_allclose(made["uniform"].log_density_N, 0.0, atol=1e-12)
    assert made["oracle"].log_density_N.mean() > 2.0
    assert np.abs(made["oracle"].error_N).max() < 0.05


def test_infeasible_trials_are_not_predicted_and_the_range_is_the_studys():
    oracle = Oracle()
    some = studies()
    assert any(np.isnan(study.objective()).any() for study in some)
    made = prediction.evaluate({"oracle": oracle}, some)
    feasible = [int(np.isfinite(study.objective()).sum()) for study in some]
    assert np.bincount(made["oracle"].study_N).tolist() == feasible
    for study, (y_range, _) in zip(some, oracle.asked, strict=True):
        y_R = study.objective()
        assert y_range == (np.nanmin(y_R), np.nanmax(y_R))


def test_fewer_predictions_can_be_asked_for():
    made = prediction.evaluate({"uniform": Uniform()}, studies(), every=5)
    assert set(made["uniform"].seen_N % 5) == {4}


def test_a_study_without_a_scale_is_refused():
    flat = studies_of(Quadratic(), np.full((1, 3, 4), 0.5), np.full((1, 3), 2.0), "r")
    with pytest.raises(StudyError, match=r"all its values are 2\.0"):
        prediction.evaluate({"uniform": Uniform()}, flat)


def smooth_study(trials=24):
    """A sine of one parameter, without noise."""
    parameter = Parameter(name="x", type=ParameterType.DOUBLE, bounds=(0.0, 1.0))
    x_RP = np.random.default_rng(0).random((trials, 1))
    return Study(
        problem=Problem(name="sine", parameters=(parameter,), metrics=(Metric(name="y"),)),
        values_RP=x_RP,
        metrics_RM=np.sin(7 * x_RP),
        states_R=np.zeros(trials, dtype=np.int8),
    )


def test_a_gaussian_process_learns_a_smooth_function():
    process = prediction.GaussianProcess(bins=200)
    made = prediction.evaluate({"gp": process}, [smooth_study()], every=2)["gp"]
    late = made.seen_N >= 12
    assert made.log_density_N[late].mean() > 3.0  # ln 200 = 5.3 is the most that bins can say
    assert np.abs(made.error_N[late]).mean() < 0.02
    np.testing.assert_array_equal(made.log_density_N[made.seen_N < 2], 0.0)


def test_a_gaussian_process_does_not_see_later_trials():
    (study,) = studies(count=1)
    process = prediction.GaussianProcess(refit_every=1, bins=50)
    whole = process.predict(study, (-1.0, 0.0), np.array([8]))
    part = process.predict(study.rows(slice(9)), (-1.0, 0.0), np.array([8]))
    np.testing.assert_array_equal(whole, part)
    np.testing.assert_allclose(whole.sum(1), 1.0)


def test_sections_say_counts_and_intervals():
    made = prediction.evaluate({"uniform": Uniform(), "oracle": Oracle()}, studies())
    sections = prediction.sections(made)
    table = next(section for section in sections if isinstance(section, Table))
    count = len(made["uniform"].pit_N)
    assert f"{count:,} predictions in 3 studies" in table.caption
    assert table.rows[0][:2] == ("uniform", "0.00 [0.00, 0.00]")
    assert "oracle" in render(Page(title="t", lead="l", sections=sections))
