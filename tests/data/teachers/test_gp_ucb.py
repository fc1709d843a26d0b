"""The batched Gaussian process, compared with formulas and with Vizier's implementation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from optformer.data.teachers import TEACHERS
from optformer.data.teachers import gaussian_process as gp
from optformer.data.teachers.warping import warp
from optformer.space import Spaces

N, P = 12, 3
ORDERED_P = jnp.array([True, True, False])
USED_N = jnp.arange(N) < 9
NONE_N = jnp.zeros(N, bool)


def history(seed: int) -> tuple[jax.Array, jax.Array, gp.Hyperparameters]:
    rng = np.random.default_rng(seed)
    units_NP = rng.random((N, P)).astype(np.float32)
    units_NP[:, 2] = (rng.integers(0, 3, N) + 0.5) / 3
    logs = gp.Hyperparameters(
        jnp.float32(0.3), jnp.asarray([-1.0, 0.5, 0.2], jnp.float32), jnp.float32(-3.0)
    )
    values_N = np.sin(5 * units_NP[:, 0]) + units_NP[:, 1]
    return jnp.asarray(units_NP), jnp.asarray(values_N), logs


def by_hand(a_NP: jax.Array, b_MP: jax.Array, logs: gp.Hyperparameters) -> np.ndarray:
    """Matern-5/2 written out in 64 bits."""
    apart = np.asarray(a_NP, float)[:, None] - np.asarray(b_MP, float)[None]
    square = np.where(ORDERED_P, apart**2, apart != 0) / np.exp(np.asarray(logs.scale_P, float))
    r = np.sqrt(5 * square.sum(axis=2))
    return np.exp(float(logs.signal)) * (1 + r + r**2 / 3) * np.exp(-r)


def test_predictions_equal_the_formula_with_any_padding():
    units_NP, values_N, logs = history(0)
    other_MP = history(1)[0]
    posterior = gp.condition(logs, units_NP, values_N, USED_N, NONE_N, ORDERED_P)
    mean_M, deviation_M = gp.predict(logs, posterior, other_MP, ORDERED_P)
    known_NP, known_N = units_NP[USED_N], values_N[USED_N]
    noise = np.exp(float(logs.noise)) + gp.JITTER * np.exp(float(logs.signal))
    kernel = by_hand(known_NP, known_NP, logs) + noise * np.eye(len(known_N))
    cross = by_hand(other_MP, known_NP, logs)
    np.testing.assert_allclose(mean_M, cross @ np.linalg.solve(kernel, known_N), atol=1e-4)
    variance = np.exp(float(logs.signal)) - np.einsum(
        "MN,NM->M", cross, np.linalg.solve(kernel, cross.T)
    )
    np.testing.assert_allclose(deviation_M, np.sqrt(variance), atol=1e-4)


def test_pending_points_reduce_the_variance_and_keep_the_mean():
    units_NP, values_N, logs = history(0)
    other_MP = history(1)[0]
    nothing = gp.condition(logs, units_NP, values_N, USED_N, NONE_N, ORDERED_P)
    pending = gp.condition(logs, units_NP, values_N, USED_N, ~USED_N, ORDERED_P)
    mean_M, deviation_M = gp.predict(logs, nothing, other_MP, ORDERED_P)
    same_M, less_M = gp.predict(logs, pending, other_MP, ORDERED_P)
    np.testing.assert_allclose(mean_M, same_M, atol=1e-5)
    assert np.all(less_M <= deviation_M + 1e-5)
    at_pending = gp.predict(logs, pending, units_NP[~USED_N], ORDERED_P)[1]
    before = gp.predict(logs, nothing, units_NP[~USED_N], ORDERED_P)[1]
    assert np.all(at_pending < 0.9 * before)


def test_the_slope_is_the_gradient_of_the_loss():
    units_NP, values_N, logs = history(0)
    rest = (units_NP, values_N, USED_N, ORDERED_P)
    for ours, theirs in zip(gp.slope(logs, *rest), jax.grad(gp.loss)(logs, *rest), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_fitting_converges_to_a_zero_gradient():
    units_NP, values_N, _ = history(0)
    rest = (units_NP, values_N, USED_N, ORDERED_P)
    start = jax.tree.map(lambda part: jnp.asarray(part[0, 0]), gp.first_fit(np.arange(1), P, 1))
    short, long = (gp.fit(start, steps, *rest) for steps in (40, 1000))
    before, after, end = (float(gp.loss(one.logs, *rest)) for one in (start, short, long))
    assert end <= after + 1e-3 and after < before
    # The steps of one suggestion cover most of the way.
    assert after - end < 0.1 * (before - end)
    inside = gp.Hyperparameters(
        *(
            (part > np.log(low) + 1e-3) & (part < np.log(high) - 1e-3)
            for part, low, high in zip(long.logs, gp.LOWEST, gp.HIGHEST, strict=True)
        )
    )
    for part, free in zip(gp.slope(long.logs, *rest), inside, strict=True):
        assert np.all(np.abs(np.where(free, part, 0.0)) < 0.1)


@pytest.mark.filterwarnings("ignore")  # of TensorFlow Probability
def test_values_are_warped_as_by_viziers_default_warper(monkeypatch):
    warpers = pytest.importorskip(
        "vizier._src.algorithms.designers.gp.output_warpers", exc_type=ImportError
    )
    # In new versions of SciPy, ranks are all NaN if one value is, so that Vizier's warper treats
    # the worse half as infeasible; it was written for ranks that ignore NaN.
    omit = functools.partial(stats.rankdata, nan_policy="omit")
    monkeypatch.setattr(warpers.stats, "rankdata", omit)
    rng = np.random.default_rng(0)
    values_BN = rng.standard_t(2, (40, 15)) * 10
    values_BN[:10] = np.round(values_BN[:10] / 10)  # ties
    values_BN[5:25][rng.random((20, 15)) < 0.3] = np.nan
    values_BN[38], values_BN[39] = 3.0, np.nan  # constant, and all infeasible
    theirs = [
        warpers.create_default_warper().warp(values_N[:, None])[:, 0] for values_N in values_BN
    ]
    np.testing.assert_allclose(warp(values_BN), np.stack(theirs), atol=1e-9)


def test_one_feasible_value_among_infeasible_ones_is_warped_above_them():
    (warped_N,) = warp(np.array([[np.nan, 2.0, np.nan]]))
    assert np.all(np.isfinite(warped_N))
    assert warped_N[1] > warped_N[0] == warped_N[2]


def continuous(studies: int, parameters: int) -> Spaces:
    shape = (studies, parameters)
    return Spaces(levels_BP=np.zeros(shape, np.int64), ordered_BP=np.ones(shape, bool))


def test_it_starts_at_the_centre_and_stays_in_the_trust_region():
    studies, trials = 8, 10
    teacher = TEACHERS["gp_ucb"](continuous(studies, 2), np.arange(studies), trials)
    seen: list[np.ndarray] = []
    rng = np.random.default_rng(0)
    for trial in range(trials):
        units_BP = teacher.suggest()
        if trial == 0:
            assert np.all(units_BP == 0.5)
        else:
            apart = np.abs(np.stack(seen) - units_BP).max(axis=2).min(axis=0)
            assert np.all(apart <= 0.2 + 0.3 * trial / 15 + 1e-6)
        seen.append(units_BP)
        teacher.observe(units_BP, rng.normal(size=studies))
    assert np.ptp(np.stack(seen), axis=0).min() > 0.2  # it explores


def test_it_finds_the_maximum_of_a_smooth_function_in_twelve_trials():
    studies = 8
    teacher = TEACHERS["gp_ucb"](continuous(studies, 2), np.arange(studies), 15)
    tops_BP = np.random.default_rng(0).uniform(0.1, 0.9, (studies, 2))
    best_B = np.full(studies, np.inf)
    for _ in range(15):
        units_BP = teacher.suggest()
        teacher.observe(units_BP, -np.square(units_BP - tops_BP).sum(axis=1))
        best_B = np.minimum(best_B, np.abs(units_BP - tops_BP).max(axis=1))
    assert np.median(best_B) < 0.03


def test_64_bit_jax_changes_nothing():
    """Vizier's service enables it for the whole process."""
    points = []
    for wide in (False, True):
        with jax.enable_x64(wide):
            teacher = TEACHERS["gp_ucb"](continuous(2, 2), np.arange(2), 5)
            for _ in range(5):
                units_BP = teacher.suggest()
                teacher.observe(units_BP, units_BP.sum(axis=1))
            points.append(units_BP)
    np.testing.assert_array_equal(*points)
