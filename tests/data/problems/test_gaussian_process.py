"""Draws of functions have the distribution of their prior, in any order of evaluation."""

import dataclasses
import itertools

import numpy as np
import pytest

from optformer.data.problems import gaussian_process
from optformer.data.problems.gaussian_process import (
    NUGGET,
    GaussianProcessBlock,
    GaussianProcessConfig,
)
from optformer.data.problems.kernels import KERNELS, Kernel
from optformer.data.problems.random_spaces import CONTINUOUS, SpaceConfig
from optformer.errors import ConfigError
from optformer.space import Spaces


def _block(
    studies: int, parameters: int, seed: int = 0, **settings: object
) -> GaussianProcessBlock:
    config = GaussianProcessConfig(**settings)  # type: ignore[arg-type]
    return gaussian_process.random_block(config, np.random.default_rng(seed), studies, parameters)


def _same_prior(name: str, studies: int, parameters: int) -> GaussianProcessBlock:
    """Independent noiseless functions from the same prior."""
    one = _block(1, parameters, kernels=(name,), warped=1.0, space=CONTINUOUS)
    prior = one.priors[0]
    fields = {field.name: getattr(prior, field.name) for field in dataclasses.fields(Kernel)}
    arrays = {
        key: np.repeat(value, studies, axis=0) for key, value in fields.items() if key != "name"
    }
    return GaussianProcessBlock(
        problems=one.problems * studies,
        drawn=dataclasses.replace(
            one.drawn,
            spaces=Spaces(
                levels_BP=np.zeros((studies, parameters), dtype=np.int64),
                ordered_BP=np.ones((studies, parameters), dtype=bool),
            ),
            types_BP=np.repeat(one.drawn.types_BP, studies, axis=0),
            positions_BPL=np.repeat(one.drawn.positions_BPL, studies, axis=0),
        ),
        priors=(Kernel(name=name, **arrays),),
        noise_B=np.zeros(studies),
        rng=np.random.default_rng(5),
    )


@pytest.mark.parametrize("steps", [(6,), (1,) * 6, (3, 1, 2)], ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_draws_have_the_priors_covariance(name: str, steps: tuple[int, ...]) -> None:
    studies = 6000
    block = _same_prior(name, studies, 2)
    units_1NP = np.random.default_rng(1).random((1, 6, 2))
    units_BNP = np.tile(units_1NP, (studies, 1, 1))
    ends = np.cumsum((0, *steps))
    values_BN = np.concatenate(
        [
            block.evaluate_exact(units_BNP[:, start:stop])
            for start, stop in itertools.pairwise(ends)
        ],
        axis=1,
    )
    features = block.features(units_BNP)
    want_NN = block.covariance(features, features)[0]
    # A covariance of 6000 draws of unit variance has a standard error of about 0.02.
    np.testing.assert_allclose(values_BN.T @ values_BN / studies, want_NN, atol=0.1)


@pytest.mark.parametrize("name", KERNELS)
def test_functions_have_about_unit_variance(name: str) -> None:
    block = _block(200, 3, kernels=(name,))
    features = block.features(np.random.default_rng(0).random((200, 20, 3)))
    variance_BN = np.diagonal(block.covariance(features, features), axis1=1, axis2=2)
    assert 0.8 < variance_BN.mean() < 1.25


def test_predictions_are_the_conditional_distributions() -> None:
    rng = np.random.default_rng(0)
    block = _block(6, 3)
    units_BRP = block.spaces.snap(rng.random((6, 12, 3)))
    values_BR = block.evaluate(units_BRP, rng)
    predictive_BR2 = block.predictive(units_BRP, values_BR)
    features = block.features(units_BRP)
    covariance_BRR = block.covariance(features, features)
    for row, t in np.ndindex(6, 12):
        same_RR = (units_BRP[row, :, None] == units_BRP[row]).all(axis=2)
        full_RR = covariance_BRR[row] + NUGGET * same_RR
        full_RR += np.eye(12) * max(block.noise_B[row] ** 2, NUGGET)
        weights_R = np.linalg.solve(full_RR[:t, :t], full_RR[:t, t])
        mean = weights_R @ values_BR[row, :t]
        variance = full_RR[t, t] - weights_R @ full_RR[:t, t]
        np.testing.assert_allclose(predictive_BR2[row, t, 0], mean, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(predictive_BR2[row, t, 1] ** 2, variance, rtol=1e-3, atol=1e-7)


def test_predictions_are_calibrated_along_an_adaptive_search() -> None:
    rng = np.random.default_rng(0)
    studies, trials, size = 64, 60, 2
    block = _block(studies, size, noiseless=0.0, kernels_per_block=7)
    units_BRP = np.empty((studies, trials, size))
    values_BR = np.empty((studies, trials))
    for trial in range(trials):  # around the best so far, ever closer
        best_B = np.argmax(values_BR[:, :trial], axis=1) if trial else np.zeros(studies, dtype=int)
        centre_BP = units_BRP[np.arange(studies), best_B] if trial else 0.5
        step_BP = (rng.random((studies, size)) - 0.5) * 0.95**trial
        units_BRP[:, trial] = block.spaces.snap((centre_BP + step_BP)[:, None])[:, 0]
        values_BR[:, trial] = block.evaluate(units_BRP[:, trial : trial + 1], rng)[:, 0]
    predictive_BR2 = block.predictive(units_BRP, values_BR)
    errors_BR = (values_BR - predictive_BR2[..., 0]) / predictive_BR2[..., 1]
    assert abs(errors_BR.mean()) < 0.08  # 3840 numbers: five standard errors
    assert abs(errors_BR.std() - 1) < 0.06
    assert abs(errors_BR).max() < 5.5


def test_an_equal_point_has_the_same_value() -> None:
    rng = np.random.default_rng(0)
    # With few levels, points also repeat within a call.
    block = _block(16, 2, space=SpaceConfig(double=0.3, most_levels=3))
    units_BNP = block.spaces.snap(rng.random((16, 9, 2)))
    units_BNP[:, 5] = units_BNP[:, 0]
    values_BN = block.evaluate_exact(units_BNP)
    np.testing.assert_array_equal(values_BN[:, 5], values_BN[:, 0])
    for column in range(9):
        again_BN = block.evaluate_exact(units_BNP[:, column : column + 1])
        np.testing.assert_array_equal(again_BN[:, 0], values_BN[:, column])
    np.testing.assert_array_equal(block.evaluate_exact(units_BNP[:, ::-1]), values_BN[:, ::-1])


def test_near_points_of_a_smooth_function_have_near_values() -> None:
    block = _block(14, 1, kernels_per_block=7, lengthscale=1.0, space=CONTINUOUS)
    units_N1 = np.concatenate([np.linspace(0, 1, 100), 0.5 + np.geomspace(1e-12, 1e-2, 60)])
    units_BN1 = np.tile(units_N1[:, None], (14, 1, 1))
    values_BN = np.concatenate(
        [block.evaluate_exact(units_BN1[:, :80])]
        + [block.evaluate_exact(units_BN1[:, n : n + 1]) for n in range(80, 160)],
        axis=1,
    )
    assert np.abs(values_BN).max() < 6
    # A millionth away from 0.5, where a matern12 function differs by 1e-3 at most.
    near_BN = values_BN[:, 100:130]
    assert (near_BN.max(axis=1) - near_BN.min(axis=1) < 0.05).all()
    predictive_BN2 = block.predictive(units_BN1, values_BN)
    assert np.isfinite(predictive_BN2).all()
    assert (predictive_BN2[..., 1] >= 1e-4).all()


def test_noise_has_the_blocks_standard_deviation() -> None:
    rng = np.random.default_rng(0)
    block = _block(40, 2)
    assert 5 < (block.noise_B == 0).sum() < 30
    units_BNP = np.tile(block.spaces.snap(rng.random((40, 1, 2))), (1, 100, 1))
    values_BN = block.evaluate(units_BNP, rng)
    np.testing.assert_allclose(values_BN.std(axis=1), block.noise_B, rtol=0.3, atol=1e-12)


def test_the_optimum_is_the_best_drawn_value() -> None:
    rng = np.random.default_rng(0)
    block = _block(16, 2, search=200)
    np.testing.assert_array_equal(
        block.evaluate_exact(block.optimum_BP[:, None])[:, 0], block.optimum_B
    )
    np.testing.assert_array_equal(
        block.spaces.snap(block.optimum_BP[:, None])[:, 0], block.optimum_BP
    )
    others_BN = block.evaluate_exact(block.spaces.snap(rng.random((16, 100, 2))))
    better_B = others_BN.max(axis=1) > block.optimum_B + 0.02
    assert better_B.sum() <= 4  # rough functions can have better points


def test_the_same_seed_draws_the_same_functions() -> None:
    units_BNP = np.full((8, 4, 3), 0.5)
    first, second, other = (_block(8, 3, seed=seed) for seed in (1, 1, 2))
    assert first.problems == second.problems
    first_BN = first.evaluate(units_BNP, np.random.default_rng(0))
    np.testing.assert_array_equal(first_BN, second.evaluate(units_BNP, np.random.default_rng(0)))
    assert not np.allclose(first_BN, other.evaluate(units_BNP, np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernels": ("mattern",)}, "kernel 'mattern' is unknown"),
        ({"kernels": ()}, "none"),
        ({"least_noise": 0.5, "most_noise": 0.1}, "ascend"),
        ({"lengthscale": -1.0}, "positive"),
        ({"search": -1}, "search -1"),
        ({"kernels_per_block": 0}, "kernels_per_block 0"),
    ],
)
def test_invalid_settings_are_rejected(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GaussianProcessConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings", [{"double": -1.0}, {"double": 0.0, "discrete": 0.0, "categorical": 0.0}]
)
def test_invalid_spaces_are_rejected(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="weights of parameter types"):
        SpaceConfig(**settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="levels from 5 to 2"):
        SpaceConfig(fewest_levels=5, most_levels=2)
