import dataclasses

import numpy as np
import pytest

import optformer
from optformer.errors import ConfigError
from optformer.eval import imitation, imitation_command, imitation_sections, results
from optformer.eval.benchmark import Running
from optformer.eval.imitation import Likelihoods, trial_nats
from optformer.eval.report.page import Figure
from optformer.eval.report.view import View
from optformer.study import Metric, Parameter, ParameterType, Problem, State, Study

PROBLEM = Problem(
    name="p",
    parameters=(
        Parameter(name="kind", type=ParameterType.CATEGORICAL, values=("a", "b", "c")),
        Parameter(name="x", type=ParameterType.DOUBLE, bounds=(0.0, 1.0)),
    ),
    metrics=(Metric(name="y"),),
)
NAMES = ("random_search", "hill_climbing")


@pytest.fixture(scope="module")
def model(model_folder):
    return optformer.load(model_folder)


def study(kinds, x=0.5, problem=PROBLEM):
    """Trials of these kinds; the first two span the range of the metric."""
    kinds_R = np.array(kinds, dtype=np.float64)
    values_RP = np.stack([kinds_R, np.full(len(kinds), x)], axis=1)
    return Study(
        problem=problem,
        values_RP=values_RP[:, : len(problem.parameters)],
        metrics_RM=np.linspace(0.0, 1.0, len(kinds))[[0, -1, *range(1, len(kinds) - 1)], None],
        states_R=np.full(len(kinds), State.COMPLETED, dtype=np.int8),
    )


def test_probabilities_of_all_legal_values_sum_to_one(model):
    problem = dataclasses.replace(PROBLEM, parameters=PROBLEM.parameters[:1])
    each = [study([0, 2, 1, kind], problem=problem) for kind in range(3)]
    nats_BR = trial_nats(model, each, "random_search")
    np.testing.assert_allclose(np.exp(nats_BR - np.log(3)).sum(0)[-1], 1.0, rtol=1e-5)
    # What comes later changes nothing before.
    np.testing.assert_allclose(nats_BR[:, :3], np.tile(nats_BR[:1, :3], (3, 1)), rtol=1e-5)


def test_likelihoods_are_how_often_the_prior_samples_a_value(model):
    """The training pass and the inference engine say the same."""
    problem = dataclasses.replace(PROBLEM, parameters=PROBLEM.parameters[:1])
    told = study([0, 2, 1, 1], problem=problem)
    encoded = model.tokenizer.encode_problem(problem, "random_search")
    trials = model.tokenizer.encode_trials(told, encoded)
    history = model.engine.read([encoded], [trials])
    rules = model.engine.rules([model.tokenizer.legal_tokens(encoded)], [encoded])
    tokens_BNP, *_ = model.engine.rollout(
        history, rules, np.full((1, 8192, 1), -1), 1.0, np.array([0])
    )
    _, counts = np.unique(tokens_BNP, return_counts=True)
    # The next trial's metric lies within the range, so that the scale stays as it was.
    nexts = [
        Study(
            problem=problem,
            values_RP=np.append(told.values_RP, [[kind]], axis=0),
            metrics_RM=np.append(told.metrics_RM, [[0.5]], axis=0),
            states_R=np.append(told.states_R, told.states_R[:1]),
        )
        for kind in (0.0, 1.0, 2.0)
    ]
    nats_3 = trial_nats(model, nexts, "random_search")[:, -1]
    np.testing.assert_allclose(counts / 8192, np.exp(nats_3) / 3, atol=0.02)


def test_studies_are_read_together_as_they_are_alone(model):
    both = [study([0, 2, 1, 1], x=0.1), study([1, 0, 2, 2], x=0.9)]
    together_BR = trial_nats(model, both, "hill_climbing", rows=4)
    for row, one in enumerate(both):
        alone_1R = trial_nats(model, [one], "hill_climbing")
        np.testing.assert_allclose(together_BR[[row]], alone_1R, rtol=1e-4, atol=1e-5)


def test_what_the_model_cannot_read_is_left_out(model):
    layout = model.tokenizer.layout(PROBLEM)
    long = study([0, 1] * model.most_tokens)
    assert trial_nats(model, [long], "random_search").shape == (
        1,
        layout.trials_in(model.most_tokens),
    )


def test_confusion_counts_studies_and_margins_compare_prompts():
    # Two teachers, two prompts, four studies of two tasks, three trials.
    nats_ACNR = np.zeros((2, 2, 4, 3))
    nats_ACNR[0, 0] = 1.0
    nats_ACNR[1, 1, :3] = 0.5
    nats_ACNR[1, 0, 3] = 0.2
    nats_ACNR[:, :, 0, 2] = np.nan
    made = Likelihoods(teachers=NAMES, nats_ACNR=nats_ACNR, task_N=np.array([0, 0, 1, 1]))
    np.testing.assert_array_equal(made.confusion(), [[1.0, 0.0], [0.25, 0.75]])
    mean, low, high = made.margin(0, np.random.default_rng(0))
    assert (mean, low, high) == pytest.approx((1.0, 1.0, 1.0))
    mean, low, high = made.margin(1, np.random.default_rng(0))
    assert low < mean < high and mean == pytest.approx((0.5 + 0.15) / 2)


def test_teachers_are_those_that_the_model_has_learned_from(model_folder):
    assert imitation.choose_teachers(model_folder) == NAMES  # the optimum cannot search
    with pytest.raises(ConfigError, match="Did you mean hill_climbing"):
        imitation.choose_teachers(model_folder, ["hill_clinbing"])
    with pytest.raises(ConfigError, match="takes two or more"):
        imitation.choose_teachers(model_folder, ["hill_climbing"])


def pictures(folder, likelihoods):
    _, parts = imitation_sections.page_parts(View(results.read(folder)), likelihoods)
    return [part.picture for part in parts if isinstance(part, Figure)]


def stamps(picture):
    """How many panels are labelled as unfinished."""
    return sum(
        "UNFINISHED RUN" in [text.get_text() for text in axes.texts] for axes in picture.axes
    )


def test_an_evaluation_of_imitation_goes_on_and_is_reported(tmp_path, model_folder):
    running = Running(trials=4, workers=1, command="optformer evaluate imitation")
    small = {"families": ("Lunacek",), "parameters": (2,), "seeds": 2}
    found = imitation_command.evaluate(tmp_path, running, checkpoint=model_folder, **small)
    assert [row[0] for row in found.rows] == ["random search", "hill climbing"]
    made = imitation.load(tmp_path / imitation_command.LIKELIHOODS)
    assert made.teachers == NAMES and made.nats_ACNR.shape == (2, 2, 2, 4)
    assert np.isfinite(made.nats_ACNR).all()
    page = found.page.read_text("utf-8")
    for words in ("by chance", "told right", "Who the model takes a study for"):
        assert words in page
    for name in ("imitation", "distances", "likelihoods", "confusion"):
        assert (tmp_path / f"{name}.csv").read_text("utf-8").isascii()
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("parts/*/*.parquet")}
    assert (
        imitation_command.evaluate(tmp_path, running, checkpoint=model_folder, **small).rows
        == found.rows
    )
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("parts/*/*.parquet")}
    assert after == files
    assert not any(map(stamps, pictures(tmp_path, made)))
    min(tmp_path.rglob("parts/*/*.parquet")).unlink()
    drawn = pictures(tmp_path, made)
    assert [stamps(picture) for picture in drawn] == [2, 2]  # two teachers; two matrices
