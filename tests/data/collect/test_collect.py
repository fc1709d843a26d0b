"""Studies of real learners: valid, telling no table's name, the same after a kill."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from optformer.data import store
from optformer.data.collect import CollectConfig, collect, tuning
from optformer.data.collect.collect import JOURNAL, MANIFEST
from optformer.data.collect.evaluate import Answer, Data, Question, answer
from optformer.data.data_tables.table import Task
from optformer.data.learners import LEARNERS
from optformer.data.learners.learner import Keywords, Prediction, Split
from optformer.errors import SourceError
from optformer.study import Goal, State, Study, validate
from optformer.tokenization.metadata import MetadataOptions, describe

pytest.importorskip("sklearn")

SMALL = CollectConfig(
    learners=("decision_tree", "hist_gradient_boosting", "k_nearest_neighbors"),
    tables=("sklearn/wine", "sklearn/diabetes"),
    configurations=12,
    rows=100,
    effort=4,
    seconds=60.0,
    least_effect=0.5,
    studies_per_shard=3,
)
STUDIES = 6

SCRIPT = """
from pathlib import Path
from optformer.data.collect import CollectConfig, collect
if __name__ == "__main__":
    collect(CollectConfig({config}), Path({folder!r}), studies={studies})
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collected")
    collect(SMALL, folder, studies=STUDIES)
    return folder


def studies_of(folder: Path) -> dict[str, Study]:
    return {study.name: study for study in store.scan(folder)}


def assert_same_but_for_seconds(ours: Study, theirs: Study) -> None:
    assert ours.problem == theirs.problem
    assert ours.data_set == theirs.data_set
    np.testing.assert_array_equal(ours.values_RP, theirs.values_RP)
    np.testing.assert_array_equal(ours.states_R, theirs.states_R)
    np.testing.assert_array_equal(ours.metrics_RM[:, :-1], theirs.metrics_RM[:, :-1])
    assert (ours.curves is None) == (theirs.curves is None)
    if ours.curves is not None and theirs.curves is not None:
        np.testing.assert_array_equal(ours.curves.values_CM, theirs.curves.values_CM)


def test_studies_are_valid_and_keep_scores_seconds_and_curves(made: Path) -> None:
    studies = studies_of(made)
    assert studies
    for study in studies.values():
        validate(study)
        assert len(study) == SMALL.configurations
        assert study.algorithm == "random_search"
        learner = study.name.partition("/")[0]
        completed_R = study.states_R == State.COMPLETED
        assert np.isfinite(study.metrics_RM[completed_R]).all()
        assert (study.metrics_RM[completed_R, -1] > 0).all()
        assert study.problem.metrics[-1].goal == Goal.MINIMIZE
        assert len(study.problem.metrics) >= 4
        assert (study.curves is not None) == (learner == "hist_gradient_boosting")
        if study.curves is not None:
            # A curve ends where its trial does.
            last = {
                int(row): values_M[:-1]
                for row, values_M in zip(study.curves.trial_C, study.curves.values_CM, strict=True)
            }
            for row, values_M in last.items():
                np.testing.assert_allclose(values_M, study.metrics_RM[row, :-1], rtol=1e-4)


def test_no_text_names_the_table(made: Path) -> None:
    for study in studies_of(made).values():
        assert study.data_set
        order = tuple(range(len(study.problem.parameters)))
        for grammar in ("words", "letters"):
            options = MetadataOptions(grammar=grammar, most_letters=1000)  # type: ignore[arg-type]
            text = str(describe(study.problem, study.algorithm, order, options))
            for word in ("wine", "diabetes", "sklearn/", "synthetic"):
                assert word not in text


def test_the_manifest_accounts_for_every_number(made: Path) -> None:
    manifest = json.loads((made / MANIFEST).read_text("utf-8"))
    refused = sum(manifest["studies_refused"].values())
    assert manifest["studies"] == len(studies_of(made)) == STUDIES - refused
    assert sum(manifest["studies_by_learner"].values()) == manifest["studies"]
    assert sum(manifest["studies_by_table"].values()) == manifest["studies"]
    assert manifest["fits"] > 0
    assert manifest["config"]["configurations"] == SMALL.configurations


def test_a_longer_run_goes_on_and_another_run_is_refused(made: Path, tmp_path: Path) -> None:
    before = studies_of(made)
    collect(SMALL, made, studies=STUDIES)
    for name, study in studies_of(made).items():
        np.testing.assert_array_equal(study.metrics_RM, before[name].metrics_RM)
    other = dataclasses.replace(SMALL, configurations=15)
    with pytest.raises(SourceError, match="another config, seed or set of tables"):
        collect(other, made, studies=STUDIES)


@pytest.mark.slow
def test_a_killed_run_loses_and_repeats_nothing(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    config = ", ".join(
        f"{field.name}={getattr(SMALL, field.name)!r}" for field in dataclasses.fields(SMALL)
    )
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(config=config, folder=str(folder), studies=STUDIES), "utf-8")
    root = Path(__file__).parents[3]
    run = subprocess.Popen(
        [sys.executable, str(script)], env=os.environ | {"PYTHONPATH": str(root)}
    )
    journal = folder / JOURNAL
    while run.poll() is None and not (journal.exists() and journal.read_text("utf-8").count("\n")):
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    with journal.open("a", encoding="utf-8") as file:
        file.write('{"number": 99, "lea')  # what a kill leaves at worst
    kept = journal.read_text("utf-8").splitlines()[:-1]
    collect(SMALL, folder, studies=STUDIES)
    lines = journal.read_text("utf-8").splitlines()
    assert sorted(lines[: len(kept)]) == sorted(kept)
    numbers = [json.loads(line)["number"] for line in lines]
    assert sorted(numbers) == list(range(STUDIES))
    expected, found = studies_of(made), studies_of(folder)
    assert expected.keys() == found.keys()
    for name, study in expected.items():
        assert_same_but_for_seconds(study, found[name])


def question(**changes: object) -> Question:
    asked = Question(
        data=Data(name="sklearn/wine", rows=100),
        learner="decision_tree",
        keywords=({"max_depth": 3}, {"max_depth": 1}),
        scores=("accuracy", "log_loss"),
        seconds=60.0,
    )
    return dataclasses.replace(asked, **changes)  # type: ignore[arg-type]


def test_answers_are_means_over_parts_and_depend_on_the_keywords() -> None:
    deep, shallow = answer(question())
    assert deep.scores_FS is not None
    assert shallow.scores_FS is not None
    assert deep.scores_FS.shape == (3, 2)
    assert deep.scores_FS[:, 0].mean() > shallow.scores_FS[:, 0].mean()
    # A hold-out set is scored in as many parts.
    (held_out, _) = answer(question(data=Data(name="sklearn/wine", rows=150, holdout_rows=100)))
    assert held_out.scores_FS is not None
    assert held_out.scores_FS.shape == (3, 2)


def test_failures_are_said_and_cost_only_their_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(keywords: Keywords, split: Split, seed: int) -> Prediction:
        if keywords["kind"] == "refuses":
            raise ValueError("bad keyword\nand more")
        outputs_TK = np.ones((len(split.test_TC), split.classes)) / split.classes
        return Prediction(outputs_TK=outputs_TK * (np.nan if keywords["kind"] == "nan" else 1.0))

    learner = LEARNERS["decision_tree"]
    variant = dataclasses.replace(learner.variants[Task.CLASSIFICATION], fit=fit)
    changed = dataclasses.replace(learner, variants={Task.CLASSIFICATION: variant})
    monkeypatch.setitem(LEARNERS, "decision_tree", changed)
    kinds = tuple({"kind": kind} for kind in ("works", "refuses", "nan"))
    works, refuses, diverged = answer(question(keywords=kinds))
    assert works.scores_FS is not None
    assert refuses.failure == "ValueError: bad keyword"
    assert diverged.failure == "the fit diverged"
    (slow,) = answer(question(keywords=({"kind": "works"},), seconds=0.0))
    assert slow.failure == "a fit took longer than 0 s"


def test_a_study_counts_by_how_far_its_best_is_above_the_median() -> None:
    rng = np.random.default_rng(0)

    def answers(effect: float) -> list[Answer]:
        parts_F = rng.normal(size=3)  # what all trials share
        return [
            Answer(scores_FS=(effect * rng.random() + parts_F + 0.1 * rng.normal(size=3))[:, None])
            for _ in range(60)
        ]

    strong = tuning.effects(Task.CLASSIFICATION, ["accuracy"], answers(2.0))
    weak = tuning.effects(Task.CLASSIFICATION, ["accuracy"], answers(0.0))
    # (2.0 - 1.0) / (0.1 / sqrt(3)), and the largest of 60 normals.
    assert strong[0] == pytest.approx(17, rel=0.3)
    assert weak[0] < 4
    worse = tuning.effects(Task.CLASSIFICATION, ["log_loss"], answers(2.0))
    assert worse[0] == pytest.approx(17, rel=0.3)
    same = [Answer(scores_FS=np.ones((3, 1)))] * 10
    assert tuning.effects(Task.CLASSIFICATION, ["accuracy"], same)[0] == 0.0
