"""BBOB functions against Vizier's, their optima, noise, and the split of families."""

import dataclasses
import itertools
import math
import types
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import ks_2samp

from optformer.data.problems import bbob, bbob_noise
from optformer.data.problems.bbob import BbobBlock, BbobConfig
from optformer.data.problems.bbob_functions import FUNCTIONS
from optformer.data.problems.random_spaces import CONTINUOUS, SpaceConfig
from optformer.errors import ConfigError
from optformer.study import Problem

# Vizier's name, and whether its rotations are identities, for functions with another form there.
ELSEWHERE = {"RastriginSeparable": ("Rastrigin", 0), "Rosenbrock": ("RosenbrockRotated", 0)}


@pytest.fixture
def vizier_bbob(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Vizier's functions. They convert arrays of one element to floats, an error in numpy 2.4."""
    from vizier._src.benchmarks.experimenters.synthetic import bbob as module

    def scalar(value: object) -> float:
        return float(np.asarray(value).reshape(()))

    def lenient(function: Callable[..., float]) -> Callable[..., float]:
        return lambda *arguments: function(*map(scalar, arguments))

    names = ("log", "exp", "sin", "cos", "floor", "pow")
    lenient_math = types.SimpleNamespace(
        pi=math.pi, **{name: lenient(getattr(math, name)) for name in names}
    )
    monkeypatch.setattr(module, "float", scalar, raising=False)
    monkeypatch.setattr(module, "math", lenient_math)
    return module


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_equal_viziers(name: str, vizier_bbob: types.ModuleType) -> None:
    rng = np.random.default_rng(0)
    function = FUNCTIONS[name]
    for size, seed in itertools.product((1, 2, 3, 7, 20), (0, 1, 5)):
        if size < function.fewest_parameters:
            continue
        rotation_PP = vizier_bbob._R(size, seed, b"R")
        x_NP = np.concatenate(
            [
                rng.uniform(-9, 9, (8, size)),  # with a shift of 4
                1e-3 * rng.standard_normal((2, size)),
                np.zeros((1, size)),
            ]
        )
        ours_N = function.evaluate(
            x_NP[None], rotation_PP[None], vizier_bbob._R(size, seed, b"Q")[None]
        )[0]
        if name == "EllipsoidalRotated":  # BBOB's f10, which Vizier does not have
            theirs = [vizier_bbob.Ellipsoidal(rotation_PP @ x_P, 0) for x_P in x_NP]
        else:
            their_name, their_seed = ELSEWHERE.get(name, (name, seed))
            their_function = getattr(vizier_bbob, their_name)
            theirs = [their_function(x_P.copy(), their_seed) for x_P in x_NP]
        # Cosines of arguments around 1e9, and Gallagher's distances, are accurate to nine figures.
        np.testing.assert_allclose(ours_N, np.array(theirs).reshape(-1), rtol=1e-8, atol=1e-9)


def test_families_have_viziers_names_and_the_papers_split() -> None:
    assert len(FUNCTIONS) == 24
    assert len(bbob.TRAIN_FAMILIES) == 16
    assert len(bbob.TEST_FAMILIES) == 5
    not_in_vizier = {"RastriginSeparable", "Rosenbrock", "EllipsoidalRotated"}
    assert {*bbob.TRAIN_FAMILIES, *bbob.TEST_FAMILIES} == set(FUNCTIONS) - not_in_vizier


@pytest.mark.parametrize("name", [*bbob.TEST_FAMILIES, "Rosenbrock"])
def test_held_out_families_are_rejected(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*held out"):
        bbob.refuse_held_out(["Sphere", name])
    bbob.refuse_held_out(bbob.TRAIN_FAMILIES)


def test_a_family_is_read_from_a_problems_name() -> None:
    block = _block("Katsuura", 3, 2, seed=0)
    assert bbob.family_of(block.problems[0]) == "Katsuura"
    other = dataclasses.replace(block.problems[0], name="Katsuura/5")
    assert isinstance(other, Problem)
    assert bbob.family_of(other) is None


def _block(
    family: str, studies: int, size: int, seed: int, space: SpaceConfig = CONTINUOUS
) -> BbobBlock:
    config = BbobConfig(families=(family,), space=space)
    return bbob.random_block(config, np.random.default_rng(seed), studies, size)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_point_is_better_than_the_optimum(name: str) -> None:
    rng = np.random.default_rng(0)
    for size in (2, 5):
        block = _block(name, 40, size, seed=size)
        known_B = ~np.isnan(block.optimum_B)
        assert known_B.sum() >= 10
        optimum_BP = np.where(known_B[:, None], block.optimum_BP, 0.5)
        assert ((optimum_BP >= 0) & (optimum_BP <= 1)).all()
        np.testing.assert_array_equal(
            block.evaluate_exact(optimum_BP[:, None])[known_B, 0], block.optimum_B[known_B]
        )
        anywhere_BNP = rng.random((40, 300, size))
        near_BNP = np.clip(optimum_BP[:, None] + 0.01 * (anywhere_BNP - 0.5), 0, 1)
        best_B = block.evaluate_exact(np.concatenate([anywhere_BNP, near_BNP], axis=1)).max(axis=1)
        assert (best_B <= block.optimum_B + 1e-6)[known_B].all()


@pytest.mark.parametrize("name", [name for name, f in FUNCTIONS.items() if f.separable])
def test_separable_optima_are_exact_on_discrete_spaces(name: str) -> None:
    space = SpaceConfig(double=0.0, most_levels=4)
    block = _block(name, 20, 3, seed=1, space=space)
    units_NP = np.array(list(itertools.product((np.arange(12) + 0.5) / 12, repeat=3)))
    every_BNP = block.spaces.snap(np.tile(units_NP, (20, 1, 1)))
    np.testing.assert_allclose(
        block.optimum_B, block.evaluate_exact(every_BNP).max(axis=1), rtol=1e-12
    )


def test_other_optima_are_unknown_on_discrete_spaces() -> None:
    block = _block("Katsuura", 5, 2, seed=0, space=SpaceConfig(double=0.0))
    assert np.isnan(block.optimum_B).all()
    assert np.isnan(block.optimum_BP).all()


def test_a_function_does_not_depend_on_the_rest_of_its_block() -> None:
    rng = np.random.default_rng(0)
    block = bbob.random_block(BbobConfig(), rng, 12, 4)
    assert len(set(block.families)) > 1
    x_BNP = rng.uniform(-5, 5, (12, 6, 4))
    values_BN = block.minimized(x_BNP)
    for row, name in enumerate(block.families):
        one = slice(row, row + 1)
        alone_1N = FUNCTIONS[name].evaluate(
            x_BNP[one] - block.shift_BP[one], block.rotation_BPP[one], block.rotation2_BPP[one]
        )
        np.testing.assert_allclose(values_BN[one], alone_1N, rtol=1e-9, atol=1e-9)
        assert block.problems[row].name.startswith(f"bbob/{name}/")


@pytest.mark.parametrize("size", [1, 2, 20])
def test_rotations_preserve_lengths_and_orientation(size: int) -> None:
    rotation_BPP = bbob.random_rotations(np.random.default_rng(0), 50, size)
    product_BPP = rotation_BPP @ rotation_BPP.transpose(0, 2, 1)
    np.testing.assert_allclose(product_BPP, np.tile(np.eye(size), (50, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation_BPP), 1.0)


@pytest.mark.parametrize("kind", bbob_noise.NOISES)
def test_noise_has_viziers_distribution(kind: str) -> None:
    from vizier._src.benchmarks.experimenters import noisy_experimenter

    draws = 20_000
    noise = bbob_noise.NOISES[kind]
    rng = np.random.default_rng(0)
    for value in (5e-9, 0.3, 4000.0):
        ours_N = bbob_noise.apply([noise], np.full((1, draws), value), 3, rng)[0]
        if value < bbob_noise.TARGET and not noise.additive:
            assert (ours_N == value).all()  # so the optimum does not move
            continue
        theirs = noisy_experimenter._create_noise_fn(kind, dimension=3, seed=1)
        theirs_N = np.array([theirs(value) for _ in range(draws)])
        # Vizier adds 1.01e-8 to values that are not below the target.
        distance = ks_2samp(np.round(ours_N, 6), np.round(theirs_N, 6)).statistic
        assert distance < 0.02  # exceeded by one in a thousand pairs of samples of one distribution


def test_evaluation_without_noise_is_exact() -> None:
    rng = np.random.default_rng(0)
    block = bbob.random_block(BbobConfig(noises=("NO_NOISE",)), rng, 8, 4)
    units_BNP = block.spaces.snap(rng.random((8, 5, 4)))
    np.testing.assert_array_equal(block.evaluate(units_BNP, rng), block.evaluate_exact(units_BNP))


def test_families_that_need_more_parameters_are_not_drawn() -> None:
    rng = np.random.default_rng(0)
    config = BbobConfig(families=("SchaffersF7", "Sphere"))
    assert set(bbob.random_block(config, rng, 20, 1).families) == {"Sphere"}
    with pytest.raises(ConfigError, match="need more than 1 parameters"):
        bbob.random_block(BbobConfig(families=("Lunacek",)), rng, 20, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"families": ("Spere",)}, "BBOB family 'Spere' is unknown"),
        ({"families": ()}, "none"),
        ({"noises": ("LOUD",)}, "noise 'LOUD' is unknown"),
        ({"shift": 6.0}, "shift 6.0"),
        ({"families_per_block": 0}, "families_per_block 0"),
    ],
)
def test_invalid_settings_are_rejected(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BbobConfig(**settings)  # type: ignore[arg-type]
