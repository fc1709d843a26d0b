"""Every learner that people tune joins this contract."""

import contextlib
import importlib.util
from collections.abc import Sequence

import numpy as np
import pytest

from optformer.data import data_tables
from optformer.data.data_tables.table import Split, Task, make_table
from optformer.data.learners import LEARNERS, find
from optformer.data.learners.learner import Keywords, Learner, Prediction, Variant
from optformer.data.learners.settings import SearchSpace, category, draw_space, log
from optformer.errors import ConfigError
from optformer.study import Metric, ParameterType, Problem, Trial, from_trials

VARIANTS = [
    pytest.param(
        learner,
        task,
        id=f"{name}-{task}",
        marks=[pytest.mark.slow] if learner.package == "jax" else [],  # compiles for seconds
    )
    for name, learner in LEARNERS.items()
    for task in learner.variants
]


def space_of(learner: Learner, variant: Variant, seed: int) -> SearchSpace:
    rng = np.random.default_rng(seed)
    return draw_space(variant.settings, rng, most_effort=12, prefixes=learner.prefixes)


def split_of(task: Task, learner: Learner) -> tuple[Split, np.ndarray]:
    """Three classes, or a number, that a line through three of five columns tells; and what is
    true of the test rows."""
    rng = np.random.default_rng(0)
    inputs_NC = rng.normal(size=(120, 5))
    inputs_NC[:, 4] = rng.integers(4, size=120)
    line_N = inputs_NC[:, 0] - inputs_NC[:, 1] + (inputs_NC[:, 4] == 2) + 0.1 * rng.normal(size=120)
    class_N = (line_N > -0.8).astype(float) + (line_N > 0.8)
    target_N = class_N if task == Task.CLASSIFICATION else line_N
    inputs_NC[rng.random(inputs_NC.shape) < 0.02] = np.nan
    categorical_C = np.arange(5) == 4
    table = make_table("made", inputs_NC, target_N, task=task, categorical_C=categorical_C)
    part = data_tables.parts(table, folds=3, holdout_rows=1000, seed=0)[0]
    train_N = np.setdiff1d(np.arange(120), part)
    split = data_tables.prepare(table, learner.inputs, train_N, part)
    return split, (table.target_N[part] - split.centre) / split.unit


def fit(variant: Variant, keywords: Sequence[Keywords], split: Split) -> list[Prediction]:
    """Predictions of those that can be trained."""
    if variant.fit_many is not None:
        return list(variant.fit_many(keywords, split, 0))
    found = []
    for each in keywords:
        assert variant.fit is not None
        with contextlib.suppress(ValueError, ArithmeticError):
            found.append(variant.fit(each, split, 0))
    return found


@pytest.mark.parametrize(("learner", "task"), VARIANTS)
def test_spaces_hold_what_is_drawn_from_them(learner: Learner, task: Task) -> None:
    variant = learner.variants[task]
    keywords = {setting.name for setting in variant.settings}
    names = set()
    for seed in range(30):
        space = space_of(learner, variant, seed)
        assert len(space.parameters) >= 2
        assert set(space.keywords) <= keywords
        names |= {parameter.name for parameter in space.parameters}
        problem = Problem(parameters=space.parameters, metrics=(Metric(name="y"),))
        rng = np.random.default_rng(seed)
        for _ in range(5):
            values_P = space.draw(rng)
            trial = Trial(
                parameters={
                    parameter.name: parameter.from_number(number)
                    for parameter, number in zip(space.parameters, values_P, strict=True)
                    if not np.isnan(number)
                },
                metrics={"y": 0.0},
            )
            np.testing.assert_array_equal(from_trials(problem, [trial]).values_RP[0], values_P)
            assert len(space.keyword_values(values_P)) == len(trial.parameters)
    assert len(names) > len(keywords)  # other people, other names
    assert any(name in keywords for name in names)  # most write those of the documentation


@pytest.mark.parametrize(("learner", "task"), VARIANTS)
def test_learners_learn_or_say_why_not(learner: Learner, task: Task) -> None:
    if importlib.util.find_spec(learner.package) is None:
        pytest.skip(f"{learner.package} is not installed")
    variant = learner.variants[task]
    split, target_T = split_of(task, learner)
    rng = np.random.default_rng(0)
    spaces = [space_of(learner, variant, seed) for seed in range(5)]
    keywords = [space.keyword_values(space.draw(rng)) for space in spaces for _ in range(4)]
    predictions = fit(variant, keywords, split)
    assert len(predictions) >= len(keywords) / 2
    scores = []
    for predicted in predictions:
        outputs_TK = predicted.outputs_TK
        assert outputs_TK.shape == (len(split.test_TC), max(split.classes, 1))
        if not np.isfinite(outputs_TK).all():
            continue
        if split.classes and variant.probabilities:
            np.testing.assert_allclose(outputs_TK.sum(axis=1), 1.0, atol=1e-5)
        if predicted.curve:
            np.testing.assert_allclose(predicted.curve[-1][1], outputs_TK)
            steps = [step for step, _ in predicted.curve]
            assert steps == sorted(set(steps))
        if split.classes:
            scores.append(float(np.mean(outputs_TK.argmax(axis=1) == target_T)))
        else:
            scores.append(1 - float(np.mean((outputs_TK[:, 0] - target_T) ** 2)))
    # Without the columns, less than half of the rows and none of the variance.
    assert max(scores) > (0.5 if split.classes else 0.4)
    assert len(set(scores)) > 2  # the keywords matter


def test_children_are_active_only_where_their_parent_says_so() -> None:
    settings = (
        category("kernel", ("linear", "rbf"), default="rbf"),
        log("gamma", (0.1,), (1.0,), when=("kernel", ("rbf",))),
    )
    space = draw_space(settings, np.random.default_rng(0), most_effort=10)
    drawn = [space.keyword_values(space.draw(np.random.default_rng(seed))) for seed in range(40)]
    assert {("gamma" in each) == (each["kernel"] == "rbf") for each in drawn} == {True}
    assert {each["kernel"] for each in drawn} == {"linear", "rbf"}


def test_a_child_of_a_setting_that_is_left_out_follows_its_default() -> None:
    parent = category("kernel", ("linear", "rbf"), default="linear", often=0.0)
    child = log("gamma", (0.1,), (1.0,), when=("kernel", ("rbf",)))
    others = (log("C", (0.1,), (1.0,)), log("tol", (0.1,), (1.0,)))
    for seed in range(10):
        space = draw_space((parent, child, *others), np.random.default_rng(seed), most_effort=10)
        assert space.keywords == ("C", "tol")


def test_categories_reach_the_learner_as_what_they_are() -> None:
    settings = (
        category("weight", (None, "balanced")),
        category("layers", ((8,), (8, 8))),
        category("on", (True, False)),
    )
    space = draw_space(settings, np.random.default_rng(0), most_effort=10)
    assert [p.values for p in space.parameters] == [
        ("None", "balanced"),
        ("(8,)", "(8, 8)"),
        ("True", "False"),
    ]
    assert space.keyword_values(np.array([0.0, 1.0, 1.0])) == {
        "weight": None,
        "layers": (8, 8),
        "on": False,
    }


def test_effort_bounds_trees_and_rounds() -> None:
    for name in ("random_forest", "xgboost", "lightgbm", "hist_gradient_boosting", "adaboost"):
        learner = LEARNERS[name]
        variant = learner.variants[Task.CLASSIFICATION]
        costly = {setting.name for setting in variant.settings if setting.effort}
        for seed in range(20):
            space = space_of(learner, variant, seed)
            for keyword, parameter in zip(space.keywords, space.parameters, strict=True):
                if keyword in costly:
                    assert parameter.type == ParameterType.INTEGER
                    assert parameter.bounds is not None
                    assert parameter.bounds[1] <= 12


def test_unknown_learners_are_named() -> None:
    with pytest.raises(ConfigError, match=r"'random_forrest'\. Did you mean random_forest\?"):
        find("random_forrest")


def test_a_missing_package_is_named_with_its_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs lightgbm.*pip install 'optformer\[learn\]'"):
        find("lightgbm")
