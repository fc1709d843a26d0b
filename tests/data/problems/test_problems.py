"""Conversions between unit-cube points and natural values, and studies of blocks."""

import numpy as np
import pytest

from optformer.data.problems import bbob, gaussian_process, studies_of
from optformer.data.problems.random_spaces import TYPES, SpaceConfig, draw, varied_parameter
from optformer.space import Spaces, to_natural, to_units
from optformer.study import Goal, Parameter, ParameterType, Scale, State, validate

PARAMETERS = (
    Parameter(name="linear", type=ParameterType.DOUBLE, bounds=(-2.0, 6.0)),
    Parameter(name="log", type=ParameterType.DOUBLE, scale=Scale.LOG, bounds=(1e-4, 1.0)),
    # Uniform in the logarithm of the distance from the upper end.
    Parameter(name="rev", type=ParameterType.DOUBLE, scale=Scale.REVERSE_LOG, bounds=(0.01, 1.0)),
    Parameter(name="integer", type=ParameterType.INTEGER, bounds=(1.0, 4.0)),
    Parameter(name="discrete", type=ParameterType.DISCRETE, values=(1.0, 10.0, 1000.0)),
    Parameter(name="category", type=ParameterType.CATEGORICAL, values=("sgd", "adam")),
)


def test_units_convert_to_values_under_each_scale() -> None:
    units_NP = np.array([[0.5, 0.5, 0.5, 0.375, 0.5, 0.75], [0.0, 0.0, 0.0, 0.125, 1 / 6, 0.25]])
    natural_NP = to_natural(PARAMETERS, units_NP)
    np.testing.assert_allclose(
        natural_NP, [[2, 0.01, 0.91, 2, 10, 1], [-2, 1e-4, 0.01, 1, 1, 0]], rtol=1e-12
    )


def test_natural_values_convert_back_to_their_units() -> None:
    rng = np.random.default_rng(0)
    units_NP = Spaces.of(PARAMETERS).snap(rng.random((1, 100, len(PARAMETERS))))[0]
    np.testing.assert_allclose(to_units(PARAMETERS, to_natural(PARAMETERS, units_NP)), units_NP)


@pytest.mark.parametrize("kind", list(ParameterType))
def test_varied_parameters_have_every_level(kind: ParameterType) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        levels = int(rng.integers(2, 9))
        parameter = varied_parameter("x", kind, levels, rng)
        units_N1 = (np.arange(levels)[:, None] + 0.5) / levels
        natural_N = to_natural((parameter,), units_N1)[:, 0]
        assert len(np.unique(natural_N)) == levels
        for number in natural_N:
            assert parameter.to_number(parameter.from_number(number)) == number


def test_studies_contain_the_evaluated_points_and_values() -> None:
    rng = np.random.default_rng(1)
    block = gaussian_process.random_block(
        gaussian_process.GaussianProcessConfig(), rng, studies=16, parameters=5
    )
    units_BRP = block.spaces.snap(rng.random((16, 7, 5)))
    values_BR = block.evaluate(units_BRP, rng)
    values_BR[3, 2] = np.nan
    predictive_BR2 = rng.random((16, 7, 2))
    studies = studies_of(block, units_BRP, values_BR, "somebody", predictive_BR2)
    assert {study.problem.metrics[0].goal for study in studies} == set(Goal)
    for row, study in enumerate(studies):
        validate(study)
        assert study.algorithm == "somebody"
        np.testing.assert_array_equal(
            study.values_RP, to_natural(study.problem.parameters, units_BRP[row])
        )
        np.testing.assert_array_equal(study.objective(), values_BR[row])
        assert study.predictive_R2 is not None
        sign = study.problem.metrics[0].sign
        np.testing.assert_array_equal(study.predictive_R2[:, 0], sign * predictive_BR2[row, :, 0])
        np.testing.assert_array_equal(study.predictive_R2[:, 1], predictive_BR2[row, :, 1])
    assert studies[3].states_R[2] == State.INFEASIBLE
    assert sum(int((study.states_R != State.COMPLETED).sum()) for study in studies) == 1


def test_levels_are_spread_from_end_to_end() -> None:
    drawn = draw(SpaceConfig(integer=1.0), np.random.default_rng(0), studies=50, parameters=6)
    levels_BP = drawn.spaces.levels_BP
    assert set(np.unique(levels_BP)) == {0, 2, 3, 4, 5, 6, 7, 8}
    shuffled = 0
    for row, column in np.ndindex(levels_BP.shape):
        levels = levels_BP[row, column]
        kind = TYPES[drawn.types_BP[row, column]]
        assert (levels == 0) == (kind == ParameterType.DOUBLE)
        assert drawn.spaces.ordered_BP[row, column] == (kind != ParameterType.CATEGORICAL)
        if levels == 0:
            continue
        units_BNP = np.full((50, levels, 6), 0.5)
        units_BNP[row, :, column] = (np.arange(levels) + 0.5) / levels
        place_N = drawn.place(units_BNP)[row, :, column]
        even_N = np.linspace(0, 1, levels)
        np.testing.assert_allclose(np.sort(place_N), even_N)
        if kind == ParameterType.CATEGORICAL:
            shuffled += not np.array_equal(place_N, even_N)
        else:
            np.testing.assert_allclose(place_N, even_N)
    assert shuffled > 30  # a category's index is independent of its position


def test_bbob_parameters_are_those_of_the_paper() -> None:
    block = bbob.random_block(bbob.BbobConfig(), np.random.default_rng(0), 32, 3)
    for problem in block.problems:
        for parameter in problem.parameters:
            if parameter.type == ParameterType.DOUBLE:
                assert parameter.bounds == (-5, 5)
            elif parameter.type == ParameterType.DISCRETE:
                assert parameter.values == tuple(np.linspace(-5, 5, len(parameter.values)))
            else:
                assert parameter.type == ParameterType.CATEGORICAL
