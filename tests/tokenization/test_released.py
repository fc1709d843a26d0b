"""The released preset gives the tokens of Google's checkpoints."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from optformer import space
from optformer.errors import ConfigError, StudyError
from optformer.settings import from_tree, to_tree
from optformer.study import (
    Goal,
    Metric,
    Parameter,
    ParameterType,
    Problem,
    Scale,
    State,
    Study,
    Trial,
    from_trials,
)
from optformer.tokenization import metadata, quantize, trajectory
from optformer.tokenization.metadata import MetadataOptions
from optformer.tokenization.tokenizer import (
    RELEASED,
    StudyTokenizer,
    TokenizerOptions,
    vocabulary_of,
)
from optformer.tokenization.trajectory import Role
from optformer.tokenization.vocabulary import Bin, Vocabulary
from tests.studies import CONDITIONAL, plane, random_study
from tests.tokenization.released import released_tokenizer
from tests.tokenization.spaces import flat_studies

MINIMUM = MetadataOptions(grammar="letters", names=False, values=False)

FLAT = Problem(
    name="flat_search_space",
    parameters=(
        Parameter(name="boolean", type=ParameterType.CATEGORICAL, values=("False", "True")),
        Parameter(name="integer", type=ParameterType.INTEGER, bounds=(-2, 2)),
        Parameter(
            name="lineardouble", type=ParameterType.DOUBLE, scale=Scale.LINEAR, bounds=(-1, 2)
        ),
        Parameter(name="logdouble", type=ParameterType.DOUBLE, scale=Scale.LOG, bounds=(1e-4, 100)),
    ),
    metrics=(Metric(name="single_max"),),
)
FLAT_TEXT = (
    'N:"flat_search_space",A:"grid_search",O:"single_max",G:<1>&&'
    'N:"boolean",P:<3>,L:<2>,C:["False","True"]*'
    'N:"integer",S:<0>,P:<2>,m:<-2>,M:<2>*'
    'N:"lineardouble",S:<1>,P:<1>,m:-1,M:2*'
    'N:"logdouble",S:<2>,P:<1>,m:-9.21,M:4.61'
)
# SentencePiece's ids of FLAT_TEXT with T5's pieces, and bins as user-defined pieces. The integer's
# lower bound, <-2>, is text and not a bin: an unknown piece (2), `-2` and `>`.
FLAT_IDS = (
    "445 10 121 13710 834 13173 834 6633 1686 188 10 121 3496 26 834 13173 1686 667 10 "
    "121 7 53 109 834 9128 1686 517 10 32101 184 184 567 10 121 12840 109 152 1686 345 10 "
    "32103 6 434 10 32102 6 254 10 6306 121 371 5405 15 121 976 21921 15 121 908 1935 567 "
    "10 121 2429 1304 1686 134 10 32100 6 345 10 32102 6 51 10 2 4949 3155 6 329 10 32102 "
    "1935 567 10 121 747 291 25761 1686 134 10 32101 6 345 10 32101 6 51 10 2292 6 329 10 "
    "357 1935 567 10 121 2152 25761 1686 134 10 32102 6 345 10 32101 6 51 10 7141 5 2658 "
    "6 329 10 25652 536"
)
FLAT_TRIALS = "<0><0><111><0>*<999>|<0><0><0><0>*<0>"


def flat_study() -> Study:
    """Two points of a grid with ten values for each parameter."""
    values = {"boolean": "False", "integer": -2, "logdouble": 1e-4}
    return from_trials(
        FLAT,
        [
            Trial(parameters=values | {"lineardouble": -1 + 3 / 9}, metrics={"single_max": 1.0}),
            Trial(parameters=values | {"lineardouble": -1}, metrics={"single_max": 0.0}),
        ],
        algorithm="grid_search",
    )


def text_of(problem: Problem, options: MetadataOptions = RELEASED.metadata) -> str:
    order = tuple(i for i, p in enumerate(problem.parameters) if not space.is_fixed(p))
    parts = metadata.describe(problem, "grid_search", order, options)
    return "".join(str(chunk) for part in parts for chunk in part)


def test_the_published_example_gives_the_published_text() -> None:
    tokenizer, study = released_tokenizer(), flat_study()
    assert text_of(FLAT) == FLAT_TEXT
    encoded = tokenizer.encode_problem(FLAT, study.algorithm)
    assert tokenizer.vocabulary.text(encoded.ids_S.tolist()) == FLAT_TEXT
    # The example is from training, which maps the range of the whole study at random.
    whole = tokenizer.fit_scaling(study, 0, 0.0, 1.0)
    trials = tokenizer.encode_trials(study, encoded, (whole,))
    # A separator follows the last trial, too.
    assert tokenizer.vocabulary.text(trials.ids_T.tolist()) == FLAT_TRIALS + "|"
    np.testing.assert_array_equal(trials.weights_T, [1, 1, 1, 1, 0, 1, 0] * 2)


def test_the_ids_are_those_of_t5s_vocabulary(shared_data: Path) -> None:
    text_model = (shared_data / "t5_vocabulary/sentencepiece.model").read_bytes()
    vocabulary = Vocabulary(text_model, 1000, statuses=False, text_output=True)
    tokenizer = StudyTokenizer(RELEASED, vocabulary)
    assert vocabulary.fingerprint == vocabulary_of(RELEASED, text_model).fingerprint
    assert (vocabulary.first_bin, vocabulary.size) == (32_100, 33_152)
    assert (vocabulary.first_output, vocabulary.outputs) == (0, 33_152)
    # T5's model inserts a space before every text, so also before the first trial.
    assert (vocabulary.prefix, vocabulary.separators) == ((3,), (1935, 9175))
    encoded = tokenizer.encode_problem(FLAT, "grid_search")
    np.testing.assert_array_equal(encoded.ids_S, [int(token) for token in FLAT_IDS.split()])
    study = flat_study()
    trials = tokenizer.encode_trials(study, encoded, (tokenizer.fit_scaling(study, 0, 0.0, 1.0),))
    joined = vocabulary.encode([FLAT_TRIALS])
    assert encoded.layout.prefix == (joined[0],)
    np.testing.assert_array_equal(trials.ids_T[:-1], joined[1:])


@pytest.mark.parametrize(
    ("parameter", "full", "minimum"),
    [
        # Integers are written as bins, or as text of the same form if they are out of range.
        (("INTEGER", None, (-5, 2000)), "S:<0>,P:<2>,m:<-5>,M:<2000>", "S:<0>,P:<2>,L:<2006>"),
        # On a logarithmic scale they are not integers, and neither is their count.
        (("INTEGER", "LOG", (1, 100)), "S:<2>,P:<2>,m:0,M:4.61", "S:<0>,P:<2>,L:5.61"),
        # The mirrored scale also has logarithms.
        (("DOUBLE", "REVERSE_LOG", (0.5, 2.0)), "S:<3>,P:<1>,m:-0.693,M:0.693", "S:<0>,P:<1>"),
        (("DOUBLE", None, (1e-10, 1234.5)), "S:<0>,P:<1>,m:1e-10,M:1.23e+03", "S:<0>,P:<1>"),
        (("DISCRETE", "LINEAR", (-0.5, 1.0, 1.2)), "S:<1>,P:<4>,L:<3>,F:[-0.5,1,1.2]", None),
        (("DISCRETE", "UNIFORM_DISCRETE", (1.0, 2.0)), "S:<4>,P:<4>,L:<2>,F:[1,2]", None),
        # Categories that are numbers are shortened like numbers, and quoted.
        (("CATEGORICAL", None, ("0.12345", "1")), 'P:<3>,L:<2>,C:["0.123","1"]', "P:<3>,L:<2>"),
        (("CATEGORICAL", None, ("0.12345", "x")), 'P:<3>,L:<2>,C:["0.12345","x"]', "P:<3>,L:<2>"),
        # Characters that are not ASCII are escaped.
        (("CATEGORICAL", None, ('ä"', "b")), r'P:<3>,L:<2>,C:["\u00e4\"","b"]', "P:<3>,L:<2>"),
    ],
)
def test_each_kind_of_parameter_in_letters(
    parameter: tuple, full: str, minimum: str | None
) -> None:
    kind, scale, values = parameter
    field = "bounds" if kind in ("INTEGER", "DOUBLE") else "values"
    made = Parameter(
        name="x", type=ParameterType(kind), scale=scale and Scale(scale), **{field: values}
    )
    problem = Problem(name="s", parameters=(made,), metrics=(Metric(name="m"),))
    assert text_of(problem) == f'N:"s",A:"grid_search",O:"m",G:<1>&&N:"x",{full}'
    if minimum is not None:
        start = 'N:"",A:"grid_search",O:"",G:<1>&&N:"",'
        assert text_of(problem, MINIMUM) == start + minimum


def test_fixed_parameters_are_text_and_are_decoded() -> None:
    fixed = (
        Parameter(name="a", type=ParameterType.DOUBLE, bounds=(0.25, 0.25)),
        Parameter(name="b", type=ParameterType.INTEGER, bounds=(7, 7)),
        Parameter(name="c", type=ParameterType.CATEGORICAL, values=("x",)),
    )
    problem = Problem(
        name="s", parameters=(*fixed, *plane(2).parameters), metrics=(Metric(name="m"),)
    )
    tokenizer = released_tokenizer()
    # They are not part of any order.
    encoded = tokenizer.encode_problem(problem, "gp", order_P=np.array([4, 2, 0, 3, 1]))
    np.testing.assert_array_equal(encoded.order_P, [4, 3])
    assert text_of(problem).startswith(
        'N:"s",A:"grid_search",O:"m",G:<1>&a:0.25,b:<7>,c:"x"&N:"x0",'
    )
    assert text_of(problem, MINIMUM).startswith('N:"",A:"grid_search",O:"",G:<1>&&N:"",')
    study = random_study(problem, 5, np.random.default_rng(0))
    trials = tokenizer.encode_trials(study, encoded)
    assert len(trials.ids_T) == 5 * (2 + 3)
    ids_RP = trials.ids_T.reshape(5, 5)[:, :2].astype(np.int64)
    values_RP = tokenizer.decode_parameters(encoded, ids_RP)
    np.testing.assert_allclose(values_RP, study.values_RP, atol=0.0006)


def metric_tokens(study: Study, unit_low: float, unit_high: float) -> list[int]:
    """The released rule as a loop over trials, for a metric to maximize."""
    seen = []
    for state, metric in zip(study.states_R, study.metrics_RM[:, 0], strict=True):
        if state != State.ACTIVE:
            seen.append(np.float32(math.nan if state == State.INFEASIBLE else metric))
    measured = [value for value in seen if not math.isnan(value)]
    low, high = min(measured), max(measured)
    worst = low if low < high else np.float32(low - 1)
    singles = [worst if math.isnan(value) else value for value in seen]
    low, high = min(singles), max(singles)
    width = float(high - low) or 2.0  # a constant c has the range [c-1, c+1]
    lowest = float(low) if low < high else float(low) - 1.0
    values = [float(value) for value in singles]
    scale = (unit_high - unit_low) / width
    offset = unit_low - scale * lowest
    units = [min(max(value * scale + offset, 0.0), 1.0) for value in values]
    return [min(int(unit * 1000), 999) for unit in units]


@settings(max_examples=200, deadline=None)
@example(
    values=[float(np.float32(0.12)), 0.0],
    states=[State.INFEASIBLE] * 9,
    goal=Goal.MAXIMIZE,
)
@given(
    # Up to the limit of exact integers in single precision, so that c-1 is exact.
    values=st.lists(
        st.floats(-(2.0**22), 2.0**22, width=32) | st.integers(-3, 3), min_size=1, max_size=9
    ),
    states=st.lists(st.sampled_from(State), min_size=9, max_size=9),
    goal=st.sampled_from(Goal),
)
def test_metrics_have_the_released_bins(
    values: list[float], states: list[State], goal: Goal
) -> None:
    """Infeasible trials, skipped pending ones, constant histories, and both goals."""
    values_R = np.array(values, dtype=np.float64) * (1 + 1e-9)  # not exact in single precision
    states_R = np.array([State.COMPLETED, *states[: len(values) - 1]], dtype=np.int8)
    sign = 1.0 if goal == Goal.MAXIMIZE else -1.0
    upward, study = (
        Study(
            problem=Problem(
                parameters=plane(1).parameters, metrics=(Metric(name="y", goal=direction),)
            ),
            values_RP=np.full((len(values), 1), 0.5),
            metrics_RM=factor * values_R[:, None],
            states_R=states_R,
        )
        for direction, factor in ((Goal.MAXIMIZE, 1.0), (goal, sign))
    )
    tokenizer = released_tokenizer()
    trials = tokenizer.encode_trials(study, tokenizer.encode_problem(study.problem, "x"))
    bins_R = trials.ids_T[trials.roles_T == Role.VALUE] - tokenizer.vocabulary.first_bin
    np.testing.assert_array_equal(bins_R, metric_tokens(upward, 0.2, 0.8))
    np.testing.assert_array_equal(trials.trials_T[::4], np.flatnonzero(states_R != State.ACTIVE))


@settings(max_examples=100, deadline=None)
@given(
    scale=st.sampled_from([None, Scale.LINEAR, Scale.LOG, Scale.REVERSE_LOG]),
    kind=st.sampled_from([ParameterType.DOUBLE, ParameterType.INTEGER]),
    low=st.integers(1, 1000),
    width=st.integers(1, 10_000),
    seed=st.integers(0, 2**32),
)
def test_numbers_are_scaled_as_vizier_scales_them(
    scale: Scale | None, kind: ParameterType, low: int, width: int, seed: int
) -> None:
    from vizier import pyvizier as vz
    from vizier.pyvizier import converters

    from optformer.convert.vizier import problem_to_vizier

    parameter = Parameter(name="x", type=kind, scale=scale, bounds=(low, low + width))
    values_R = low + width * np.random.default_rng(seed).random(20)
    if kind == ParameterType.INTEGER:
        values_R = np.rint(values_R)
    statement = problem_to_vizier(Problem(parameters=(parameter,), metrics=(Metric(name="y"),)))
    converter = converters.DefaultModelInputConverter(
        statement.search_space.parameters[0],
        scale=True,
        float_dtype=np.float64,
        max_discrete_indices=0,
    )
    numbers = [int(v) if kind == ParameterType.INTEGER else float(v) for v in values_R]
    units_R = converter.convert([vz.Trial(parameters={"x": v}) for v in numbers])[:, 0]
    bins_R = quantize.to_parameter_bins(parameter, values_R, 1000, centred=False)
    # Vizier adds in another order, so a value at the edge of two bins may fall into either.
    edge_R = np.abs(units_R * 1000 - np.rint(units_R * 1000)) < 1e-9
    np.testing.assert_array_equal(
        bins_R[~edge_R], np.minimum((units_R * 1000).astype(np.int64), 999)[~edge_R]
    )
    np.testing.assert_array_less(np.abs(bins_R[edge_R] - units_R[edge_R] * 1000), 1.01)


def test_discrete_values_are_indices_and_match_in_single_precision() -> None:
    parameter = Parameter(name="x", type=ParameterType.DISCRETE, values=(0.1, 0.2, 0.3))
    nearly = np.array([0.2, 0.1, 0.3]).astype(np.float32).astype(np.float64)
    bins_R = quantize.to_parameter_bins(parameter, nearly, 1000, centred=False)
    np.testing.assert_array_equal(bins_R, [1, 0, 2])
    numbers_R = quantize.from_parameter_bins(parameter, bins_R, 1000, centred=False)
    np.testing.assert_array_equal(numbers_R, [0.2, 0.1, 0.3])


@pytest.mark.parametrize("value", [0.0, 1.0, 1e7, -1.265e30, 1e38])
def test_a_single_value_has_a_range_in_single_precision(value: float) -> None:
    """The imputed value is one unit lower, or the next lower number if the spacing is larger."""
    scaling = quantize.fit_scaling(np.array([value]), 1.0, single=True, imputed=True)
    assert np.isfinite(scaling.slope)
    assert scaling.slope > 0
    assert scaling.low < scaling.high


@settings(max_examples=100, deadline=None)
@given(study=flat_studies(), seed=st.integers(0, 2**32))
def test_decoding_returns_the_trials_up_to_a_bin(study: Study, seed: int) -> None:
    """A trial has D+3 tokens, and every legal sequence is a valid trial."""
    tokenizer, rng = released_tokenizer(), np.random.default_rng(seed)
    vocabulary = tokenizer.vocabulary
    order_P = trajectory.random_order(study.problem, rng)
    encoded = tokenizer.encode_problem(study.problem, "x", order_P=order_P)
    trials = tokenizer.encode_trials(study, encoded)
    kept = study.rows(study.states_R != State.ACTIVE)
    assert len(trials.ids_T) == len(kept) * (len(encoded.order_P) + 3)
    ids_RL = trials.ids_T.reshape(len(kept), encoded.layout.length).astype(np.int64)
    values_RP = tokenizer.decode_parameters(encoded, ids_RL[:, : len(encoded.order_P)])
    for column, parameter in enumerate(study.problem.parameters):
        want_R, got_R = kept.values_RP[:, column], values_RP[:, column]
        if parameter.bounds is None:
            np.testing.assert_array_equal(got_R, want_R)
            continue
        difference_R = np.abs(
            space.column_to_units(parameter, got_R, centred=False)
            - space.column_to_units(parameter, want_R, centred=False)
        )
        # Rounding moves an integer by at most 0.5, whose width depends on the scale.
        if parameter.type == ParameterType.DOUBLE:
            np.testing.assert_array_less(difference_R, 1.01 / vocabulary.bins)
    legal = tokenizer.legal_tokens(encoded)
    assert legal.inactive == -1
    assert legal.tokens_PO.shape == (len(encoded.order_P) + 1, vocabulary.outputs)
    np.testing.assert_array_equal(
        np.flatnonzero(legal.tokens_PO[-1]) + vocabulary.first_output, vocabulary.separators[0]
    )
    sampled_P = [rng.choice(np.flatnonzero(legal_O)) for legal_O in legal.tokens_PO[:-1]]
    ids_1P = np.array([sampled_P]) + vocabulary.first_output
    for parameter, number in zip(
        study.problem.parameters, tokenizer.decode_parameters(encoded, ids_1P)[0], strict=True
    ):
        assert parameter.to_number(parameter.from_number(number)) == number


def test_a_text_that_looks_like_a_bin_is_encoded_as_one() -> None:
    """A property of the released vocabulary, whose bins are pieces of its text model."""
    vocabulary = released_tokenizer().vocabulary
    ids = vocabulary.encode(["a<17>", Bin(5), Bin(1000), Bin(-1)])
    assert vocabulary.is_bin(ids).sum() == 2
    assert vocabulary.text(ids.tolist()) == "a<17><5><1000><-1>"
    assert vocabulary.words([vocabulary.first_bin, vocabulary.size - 1]) == ["<0>", "<UNUSED>"]


def test_problems_outside_the_format_are_rejected_with_the_reason() -> None:
    tokenizer = released_tokenizer()
    with pytest.raises(StudyError, match="'conditional': conditional parameters have no tokens"):
        tokenizer.encode_problem(CONDITIONAL, "x")
    two = dataclasses.replace(plane(1), metrics=(Metric(name="a"), Metric(name="b")))
    with pytest.raises(StudyError, match="2 metrics have no tokens"):
        tokenizer.encode_problem(two, "x")
    only = Parameter(name="a", type=ParameterType.CATEGORICAL, values=("x",))
    with pytest.raises(StudyError, match="every parameter has a single value"):
        tokenizer.encode_problem(dataclasses.replace(plane(1), parameters=(only,)), "x")
    study = random_study(plane(1), 2, np.random.default_rng(0))
    study = dataclasses.replace(study, metrics_RM=np.array([[1.0], [1e39]]))
    with pytest.raises(StudyError, match=r"trial 2: y=1e\+39 is not finite in single"):
        tokenizer.encode_trials(study, tokenizer.encode_problem(study.problem, "x"))
    with pytest.raises(
        ConfigError, match="statuses=True, text_output=False, but these options need"
    ):
        StudyTokenizer(RELEASED, StudyTokenizer().vocabulary)


def test_presets_have_names_and_read_back_from_a_file() -> None:
    assert from_tree(TokenizerOptions, "released") == RELEASED
    assert from_tree(TokenizerOptions, to_tree(RELEASED)) == RELEASED
    assert from_tree(TokenizerOptions, "default") == TokenizerOptions()
