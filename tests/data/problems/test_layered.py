"""Architecture search problems: costs, budgets, rewards, and the burger."""

import itertools

import numpy as np
import pytest

from optformer.data.problems import layered
from optformer.data.problems.layered import REWARDS, LayeredConfig
from optformer.errors import ConfigError
from optformer.study import ParameterType


def _block(seed: int = 0, **settings: object) -> layered.LayeredBlock:
    config = LayeredConfig(**settings)  # type: ignore[arg-type]
    return layered.random_block(config, np.random.default_rng(seed), 9)


def _points(block: layered.LayeredBlock, count: int = 200) -> np.ndarray:
    shape = (len(block.problems), count, block.spaces.levels_BP.shape[1])
    return block.spaces.snap(np.random.default_rng(1).random(shape))


def _block_with_skips() -> layered.LayeredBlock:
    """The first random block whose layout has a layer that can be skipped."""
    blocks = (_block(seed, fewest_stages=3, most_layers=3) for seed in range(20))
    return next(
        block
        for block in blocks
        if any(parameter.name.endswith("skip") for parameter in block.problems[0].parameters)
    )


def test_the_burger() -> None:
    block = layered.burger()
    (problem,) = block.problems
    options = [parameter.values for parameter in problem.parameters]
    assert len(list(itertools.product(*options))) == 216

    def order(*choice: str) -> np.ndarray:
        index = [values.index(name) for values, name in zip(options, choice, strict=True)]
        return np.array([[(index + 0.5) / len(v) for index, v in zip(index, options, strict=True)]])

    best = order("brioche", "beef", "cheddar", "yes", "onions", "special")
    np.testing.assert_array_equal(block.costs(best[None]), [[1000.0]])
    np.testing.assert_allclose(block.evaluate_exact(best[None]), [[0.76]])
    np.testing.assert_allclose(block.optimum_B, 0.76)
    np.testing.assert_allclose(block.optimum_BP, best)
    everything = order("brioche", "double", "blue", "yes", "onions", "special")
    np.testing.assert_allclose(block.accuracies(everything[None]), [[0.86]])
    assert np.isnan(block.evaluate_exact(everything[None])).all()
    no_cheese = order("brioche", "beef", "none", "yes", "onions", "special")
    np.testing.assert_allclose(block.accuracies(no_cheese[None]), [[0.76 - 0.08 - 0.07]])


def test_rewards_have_the_formulas_of_their_papers() -> None:
    for reward in REWARDS:
        block = _block(rewards=(reward,), penalty=-0.1, size_penalty=-0.2)
        units_BNP = _points(block)
        accuracy_BN = block.accuracies(units_BNP)
        share_BN = block.costs(units_BNP) / block.budget_B[:, None]
        needs = block.resources(units_BNP)
        middle = block.resources(block.spaces.snap(np.full_like(units_BNP[:, :1], 0.5)))
        want_BN = {
            "budget": np.where(share_BN <= 1, accuracy_BN, np.nan),
            "absolute": accuracy_BN - 0.1 * np.abs(share_BN - 1),
            "product": accuracy_BN * share_BN**-0.1,
            "training": accuracy_BN
            * (needs.step_time_BN / middle.step_time_BN) ** -0.1
            * (needs.size_BN / middle.size_BN) ** -0.2,
        }[reward]
        np.testing.assert_allclose(block.evaluate_exact(units_BNP), want_BN)
        # Some architectures meet the budget, and some do not.
        assert ((share_BN <= 1).any(axis=1) & (share_BN > 1).any(axis=1)).all()
        assert {problem.name.split("/")[1] for problem in block.problems} == {reward}


def test_accuracy_lies_in_0_to_1_and_rises_with_capacity() -> None:
    for seed in range(5):
        block = _block(seed)
        units_BNP = _points(block)
        accuracy_BN = block.accuracies(units_BNP)
        assert ((accuracy_BN > 0) & (accuracy_BN < 1)).all()
        assert accuracy_BN.std(axis=1).min() > 0.005
        costs_BN = block.costs(units_BNP)
        correlation = [
            np.corrcoef(a, np.log(c))[0, 1] for a, c in zip(accuracy_BN, costs_BN, strict=True)
        ]
        assert np.mean(correlation) > 0.3


def test_each_decision_but_a_skip_adds_to_the_cost() -> None:
    block = _block_with_skips()
    parameters = block.problems[0].parameters
    units_BNP = _points(block)
    for column, parameter in enumerate(parameters):
        low_BNP, high_BNP = units_BNP.copy(), units_BNP.copy()
        low_BNP[..., column] = 0.5 / len(parameter.values)
        high_BNP[..., column] = 1 - 0.5 / len(parameter.values)
        change_BN = block.costs(high_BNP) - block.costs(low_BNP)
        if parameter.type == ParameterType.CATEGORICAL:  # a skip
            assert (change_BN < 0).all()
        else:
            assert (change_BN >= 0).all()
            assert (change_BN > 0).any()


def test_decisions_about_a_skipped_layer_have_no_effect() -> None:
    block = _block_with_skips()
    names = [parameter.name for parameter in block.problems[0].parameters]
    skip = next(column for column, name in enumerate(names) if name.endswith("skip"))
    assert names[skip + 1].endswith("kernel")
    assert names[skip + 2].endswith("expansion")
    units_BNP = _points(block)
    units_BNP[..., skip] = 0.75
    other_BNP = units_BNP.copy()
    other_BNP[..., skip + 1 : skip + 3] = 1 - units_BNP[..., skip + 1 : skip + 3]
    np.testing.assert_array_equal(block.costs(units_BNP), block.costs(other_BNP))
    np.testing.assert_allclose(block.accuracies(units_BNP), block.accuracies(other_BNP))


def test_one_bottleneck_costs_its_multiply_adds() -> None:
    block = _block(fewest_stages=1, most_stages=1, most_layers=1)
    costs = {}
    for width, kernel, expansion in itertools.product(range(5), range(3), range(3)):
        point = np.array([(width + 0.5) / 5, (kernel + 0.5) / 3, (expansion + 0.5) / 3])
        costs[width, kernel, expansion] = block.costs(np.tile(point, (9, 1, 1)))[:, 0]
    # hidden · r² · (input + k² + output): the differences in k² and output are in proportion.
    kernel_step_B = costs[0, 1, 0] - costs[0, 0, 0]  # 3² to 5²
    np.testing.assert_allclose(costs[0, 2, 0] - costs[0, 1, 0], kernel_step_B * (49 - 25) / 16)
    np.testing.assert_allclose(costs[2, 1, 2] / costs[2, 1, 0], 2.0)  # expansion 3 to 6
    np.testing.assert_allclose(costs[4, 0, 0] - costs[3, 0, 0], costs[1, 0, 0] - costs[0, 0, 0])


def test_depthwise_multiply_adds_take_eight_times_as_long() -> None:
    block = _block(fewest_stages=1, most_stages=1, most_layers=1)
    three, five = (
        block.resources(np.tile(np.array([0.5, (kernel + 0.5) / 3, 0.5]), (9, 1, 1)))
        for kernel in (0, 1)
    )
    time_B1 = five.step_time_BN - three.step_time_BN
    np.testing.assert_allclose(time_B1, 8 * (five.cost_BN - three.cost_BN))
    # A weight is used once at each position of the image.
    places_B1 = (five.cost_BN - three.cost_BN) / (five.size_BN - three.size_BN)
    np.testing.assert_allclose(three.cost_BN, places_B1 * three.size_BN)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rewards": ()}, "rewards"),
        ({"fewest_stages": 3, "most_stages": 2}, "from 3 to 2"),
        ({"most_layers": 0}, "0 layers"),
        ({"penalty": 0.1}, "penalty 0.1"),
        ({"size_penalty": 0.1}, "size_penalty 0.1"),
    ],
)
def test_invalid_settings_are_rejected(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LayeredConfig(**settings)  # type: ignore[arg-type]
