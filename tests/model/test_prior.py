"""The prior network: order and padding mean nothing, NumPy and JAX agree, words are normalized."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from optformer.errors import CheckpointError
from optformer.model import description, prior
from optformer.model.prior import Prior, PriorConfig
from optformer.space import to_natural
from optformer.study import Condition, Metric, Parameter, ParameterType, Problem, Scale

CONFIG = PriorConfig(width=16, heads=2, inner=8, hidden=12, features=3, category=4)

PARAMETERS = (
    Parameter(name="kernel", type=ParameterType.CATEGORICAL, values=("linear", "rbf", "poly")),
    Parameter(name="C", type=ParameterType.DOUBLE, scale=Scale.LOG, bounds=(1e-3, 1e3)),
    Parameter(
        name="degree",
        type=ParameterType.INTEGER,
        bounds=(2, 5),
        conditions=(Condition(parent="kernel", values=("poly",)),),
    ),
    Parameter(name="shrink", type=ParameterType.DISCRETE, values=(0.1, 0.5, 0.9)),
)
PROBLEM = Problem(parameters=PARAMETERS, metrics=(Metric(name="accuracy"),), title="svc")


@pytest.fixture(scope="module")
def weights() -> dict:
    return prior.init(CONFIG, np.random.default_rng(1))


def configurations(problem: Problem, count: int = 9) -> np.ndarray:
    units_NP = np.random.default_rng(2).random((count, len(problem.parameters)))
    values_NP = to_natural(problem.parameters, units_NP)
    return np.where(problem.active(values_NP), values_NP, np.nan)


def test_the_order_of_parameters_means_nothing(weights: dict) -> None:
    values_NP = configurations(PROBLEM)
    order = [0, 3, 1, 2]
    other = dataclasses.replace(PROBLEM, parameters=tuple(PARAMETERS[i] for i in order))
    mean_N, features_NK = Prior.of(PROBLEM, weights, CONFIG).mean_and_features(values_NP)
    again_N, other_NK = Prior.of(other, weights, CONFIG).mean_and_features(values_NP[:, order])
    np.testing.assert_allclose(again_N, mean_N, atol=1e-5)
    np.testing.assert_allclose(other_NK, features_NK, atol=1e-5)


def test_the_order_of_categories_means_little_and_their_words_much(weights: dict) -> None:
    """Categories are known by their text, whatever their number; places only add to it."""
    reading = Prior.of(PROBLEM, weights, CONFIG).reading
    turned = dataclasses.replace(PARAMETERS[0], values=("poly", "rbf", "linear"))
    other = dataclasses.replace(PROBLEM, parameters=(turned, *PARAMETERS[1:]))
    again = Prior.of(other, weights, CONFIG).reading
    np.testing.assert_allclose(
        again.categories_PCV[0, :3], reading.categories_PCV[0, 2::-1], atol=1e-5
    )
    np.testing.assert_allclose(again.first_PFI, reading.first_PFI, atol=1e-5)


def test_padding_changes_nothing_and_numpy_agrees_with_jax(weights: dict) -> None:
    network = Prior.of(PROBLEM, weights, CONFIG)
    values_NP = configurations(PROBLEM)
    mean_N, features_NK = network.mean_and_features(values_NP)
    units_NP, finite_NP, inactive_NP = network.places(values_NP)
    padding = [(0, 0), (0, 3)]
    text = description.describe(PROBLEM, len(PARAMETERS) + 3)
    got_N, got_NK = prior.mean_and_features(
        jnp,
        weights,
        prior.read(jnp, weights, CONFIG, text),
        np.pad(units_NP, padding).astype(np.float32),
        np.pad(finite_NP, padding).astype(np.float32),
        np.pad(inactive_NP, padding, constant_values=True),
    )
    np.testing.assert_allclose(got_N, mean_N, atol=1e-4)
    np.testing.assert_allclose(got_NK, features_NK, atol=1e-4)


def test_a_value_means_the_same_in_another_range() -> None:
    """Of the features, those of the natural value stay; only the unit coordinate's move."""
    numbers = np.array([0.01, 0.1])
    both, neither = np.ones(2, bool), np.zeros(2, bool)
    one = description.value_features(np, np.array([0.5, 0.75]), numbers, both, neither)
    other = description.value_features(np, np.array([0.1, 0.3]), numbers, both, neither)
    unit = len(description.UNIT_KNOTS)
    np.testing.assert_array_equal(one[:, unit:], other[:, unit:])
    assert not np.array_equal(one[:, :unit], other[:, :unit])


def test_an_inactive_parameter_has_no_value() -> None:
    both, gone = np.ones(2, bool), np.array([True, True])
    [first, second] = description.value_features(
        np, np.array([0.1, 0.9]), np.array([1.0, 7.0]), both, gone
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("learning_rate", "learningRate"),
        ("max_depth", "max.depth"),
        ("C", "c"),
        ("NumBoostRound", "num-boost-round"),
    ],
)
def test_case_and_separators_of_a_name_do_not_count(name: str, other: str) -> None:
    most = description.NAME_WORDS
    np.testing.assert_array_equal(description.words(name, most), description.words(other, most))


def test_a_prefix_leaves_most_of_a_name() -> None:
    bare = set(description.words("learning_rate", 20)) - {0}
    whole = set(description.words("model__learning_rate", 20)) - {0}
    assert len(bare & whole) >= 0.8 * len(bare)


def test_numbers_in_a_title_are_not_read() -> None:
    one, other = (
        description.describe(dataclasses.replace(PROBLEM, title=f"svc on data set {number}"))
        for number in (31, 1461)
    )
    np.testing.assert_array_equal(one.title_W, other.title_W)


def test_a_hidden_text_has_no_word() -> None:
    hidden = description.describe(PROBLEM, hidden=True)
    for words in (hidden.names_PW, hidden.categories_PCW, hidden.title_W, hidden.metric_W):
        assert not words.any()


def test_weights_of_another_shape_are_refused(weights: dict) -> None:
    prior.check_weights(weights, CONFIG)
    with pytest.raises(CheckpointError, match="mean"):
        prior.check_weights(weights | {"mean": np.zeros((2, 1), np.float32)}, CONFIG)
    with pytest.raises(CheckpointError, match="no place for"):
        prior.check_weights(weights | {"more": np.zeros(1, np.float32)}, CONFIG)
