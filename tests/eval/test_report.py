import csv
import html
import shutil

import numpy as np
import pytest

from optformer.errors import ConfigError, SourceError
from optformer.eval import hpob, hpob_curves
from optformer.eval.report.page import Heading, Text
from optformer.eval.report.report import write_report
from optformer.eval.results import read
from optformer.eval.runner import run
from optformer.eval.task import Start
from tests.eval.quadratic import Breaks, Corner, Recorder, task

OPTIMIZERS = {"random_search": Recorder, "corner": Corner, "breaks": Breaks}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "runs"
    run(OPTIMIZERS, [task(f"t{index}") for index in range(6)], [0, 1], out, protocol="test")
    return out


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory):
    return _page(folder, tmp_path_factory.mktemp("report") / "new" / "report.html")


def _page(folder, out):
    return write_report(
        folder,
        out,
        title="Three optimizers",
        notes=("A note.",),
        extra=(Heading(title="Extra"), Text(paragraphs=("More.",))),
        command="optformer evaluate bbob",
    )


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_report_says_what_the_results_are(folder, page):
    text = page.read_text()
    for words in ("Three optimizers", "A note.", "More.", "optformer evaluate bbob"):
        assert words in text
    assert "6 tasks, 12 runs an optimizer" in text
    assert "Unfinished" not in text
    scores_OKST = read(folder).scores()
    rows = {row["optimizer"]: row for row in table(page.parent / "summary.csv")}
    for index, name in enumerate(OPTIMIZERS):
        row, mean = rows[name], scores_OKST[index, :, :, 6].mean()
        assert f"{mean:.3f} <small>[" in text
        assert float(row["after 6"]) == pytest.approx(mean, abs=1e-12)
        assert float(row["after 6, low"]) <= mean <= float(row["after 6, high"])
        assert float(row["time, seconds"]) > 0
    curves = table(page.parent / "curves.csv")
    assert len(curves) == 3 * 6
    scores = {(row["optimizer"], row["trial"]): float(row["score"]) for row in curves}
    assert scores["random_search", "6"] == pytest.approx(scores_OKST[0, :, :, 6].mean())
    for name in ("curves", "gap", "ranks", "cost", "critical_difference"):
        assert (page.parent / f"{name}.png").stat().st_size > 1000


def test_files_are_for_programs(page):
    files = sorted(page.parent.glob("*.csv"))
    assert {"curves", "cost", "differences", "ranks", "summary"} <= {path.stem for path in files}
    for path in files:
        assert path.read_text("utf-8").isascii()
        for row in table(path):
            assert row.get("optimizer", "breaks") in OPTIMIZERS
    (row, *_) = table(page.parent / "differences.csv")
    assert {row["optimizer, first"], row["optimizer, second"]} < set(OPTIMIZERS)
    assert float(row["difference, low"]) <= float(row["difference"])
    assert sum(int(row[f"tasks {how}"]) for how in ("won", "tied", "lost")) == 6


def test_failures_are_shown_with_their_error_and_count(page):
    (row,) = table(page.parent / "failures.csv")
    assert row["optimizer"] == "breaks" and row["runs"] == "12"
    assert row["error"] == "RuntimeError: no third idea"
    assert "12 runs of 36 ended with an error" in page.read_text()


def test_the_same_results_give_the_same_page(folder, page, tmp_path):
    assert _page(folder, tmp_path / "report.html").read_bytes() == page.read_bytes()


def test_unfinished_runs_are_labelled_and_only_common_runs_compared(folder, tmp_path):
    unfinished = shutil.copytree(folder, tmp_path / "runs")
    min(unfinished.glob("parts/corner*/*.parquet")).unlink()
    page = write_report(unfinished, tmp_path / "report.html", title="t")
    assert "Unfinished: 1 of 36 runs have not ended" in page.read_text()
    assert "6 tasks, 11 runs an optimizer" in page.read_text()


def test_two_folders_are_compared_in_one_report(folder, tmp_path):
    other = tmp_path / "other"
    run({"corner": Corner}, [task(f"t{index}") for index in range(4)], [0], other, protocol="test")
    page = write_report([folder, other], tmp_path / "report.html", title="t")
    assert "4 tasks, 4 runs an optimizer" in page.read_text()
    assert "other/corner" in page.read_text()
    (row,) = table(tmp_path / "twins.csv")
    assert row["optimizer"] == "corner" and row["tasks tied"] == "4"
    run({"corner": Corner}, [task()], [0], tmp_path / "third", protocol="else")
    with pytest.raises(ConfigError, match="cannot be compared"):
        write_report([folder, tmp_path / "third"], tmp_path / "report.html", title="t")


def test_one_optimizer_on_one_task_is_enough_for_a_report(tmp_path):
    run({"corner": Corner}, [task()], [0], tmp_path / "runs", protocol="test")
    page = write_report(tmp_path / "runs", tmp_path / "report.html", title="t")
    assert "1 task, 1 run an optimizer" in page.read_text()


@pytest.mark.parametrize(("trials", "at"), [(3, ["3"]), (5, ["5"]), (7, ["5", "7"])])
def test_macro_means_are_compared_at_the_last_trial_whatever_it_is(tmp_path, trials, at):
    names = [f"hpob/{space}/{dataset}" for space in "ab" for dataset in (1, 2)]
    tasks = [task(name, trials=trials) for name in names]
    both = {"random_search": Recorder, "corner": Corner}
    run(both, tasks, [0, 1], tmp_path / "runs", protocol="test")
    write_report(
        tmp_path / "runs", tmp_path / "report.html", title="t", own_sections=hpob.HPOB.sections
    )
    rows = {row["optimizer"]: row for row in table(tmp_path / "hpob.csv")}
    means = [name[1:] for name in rows["corner"] if name[0] == "@" and name[1:].isdigit()]
    assert means == at
    last = f"@{trials}"
    over = f"{last} over random_search"
    ours, theirs = (float(rows[name][last]) for name in ("corner", "random_search"))
    assert float(rows["corner"][over]) == pytest.approx(ours - theirs)
    assert float(rows["corner"][f"{over}, low"]) <= ours - theirs
    assert rows["random_search"][over] == ""


def test_optimizers_without_an_ended_run_are_named_and_left_out(folder, tmp_path):
    killed = shutil.copytree(folder, tmp_path / "runs")
    for part in killed.glob("parts/breaks*/*.parquet"):
        part.unlink()
    page = write_report(killed, tmp_path / "report.html", title="t")
    assert "Not begun and left out: breaks." in page.read_text()
    assert "Unfinished: 12 of 36 runs have not ended" in page.read_text()
    assert "6 tasks, 12 runs an optimizer" in page.read_text()
    assert {row["optimizer"] for row in table(tmp_path / "summary.csv")} < set(OPTIMIZERS)
    for part in killed.glob("parts/corner*/*.parquet"):
        part.unlink()
    page = write_report(killed, tmp_path / "report.html", title="t")
    assert "Not begun and left out: corner, breaks." in page.read_text()
    for part in killed.glob("parts/*/*.parquet"):
        part.unlink()
    with pytest.raises(SourceError, match="none of 36 planned runs has ended"):
        write_report(killed, tmp_path / "report.html", title="t")


def test_optimizers_whose_runs_have_nothing_in_common_are_not_compared(folder, tmp_path):
    killed = shutil.copytree(folder, tmp_path / "runs")
    for name, seed in (("random_search", 0), ("corner", 1)):
        for part in killed.glob(f"parts/{name}*/*.seed{seed}.parquet"):
            part.unlink()
    page = write_report(killed, tmp_path / "report.html", title="t")
    assert "0 tasks, 0 runs an optimizer" in page.read_text()


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        (5, "so few tasks, 5, cannot tell."),
        (8, "the difference is larger than chance between tasks explains, p = 0.0078 by Wilcoxon"),
    ],
)
def test_only_the_corrected_test_of_enough_tasks_tells_optimizers_apart(tmp_path, tasks, told):
    made = [task(f"t{index}") for index in range(tasks)]
    run({"fine": Recorder, "corner": Corner}, made, range(4), tmp_path / "runs", protocol="test")
    page = write_report(tmp_path / "runs", tmp_path / "report.html", title="t")
    (row,) = table(tmp_path / "differences.csv")
    assert int(row["tasks won"]) == tasks  # the table's numbers are those of the sentence
    assert told in html.unescape(page.read_text())


def test_a_single_task_has_no_interval(tmp_path):
    both = {"fine": Recorder, "corner": Corner}
    run(both, [task()], range(3), tmp_path / "runs", protocol="test")
    page = write_report(tmp_path / "runs", tmp_path / "report.html", title="t")
    assert "so few tasks, 1, cannot tell" in page.read_text()
    assert "<small>[" not in page.read_text()
    for name in ("summary", "differences", "curves"):
        assert not any(", low" in column for column in table(tmp_path / f"{name}.csv")[0])


def test_published_curves_stand_beside_ours_on_the_same_tasks(tmp_path):
    start = Start(
        values_NP=np.array([[0.1, 2.0, 64.0, 1.0]]),
        metric_N=np.array([0.5]),
        exact_N=np.array([-0.5]),
    )
    tasks = [task(f"hpob/{space}/1", starts={0: start}) for space in ("a", "b")]
    run({"corner": Corner}, tasks, [0], tmp_path / "runs", protocol="test")
    rising = np.linspace(0.5, 0.8, 7)[None]
    curves = {"a": {"1": rising, "9": rising * 0}, "b": {"1": rising}, "c": {}}
    page = write_report(
        tmp_path / "runs",
        tmp_path / "report.html",
        title="t",
        own_sections=hpob.HPOB.sections,
        published=lambda results: hpob_curves.with_published(results, {"GP (published)": curves}),
        about_published=hpob.HPOB.about_published,
    )
    rows = {row["optimizer"]: row for row in table(tmp_path / "hpob.csv")}
    assert float(rows["GP (published)"]["@5"]) == pytest.approx(0.75)
    assert float(rows["GP (published)"]["@6"]) == pytest.approx(0.8)
    # Of one dataset a space nothing can be said about others.
    assert not any(column.endswith(", low") for column in rows["GP (published)"])
    curves = table(tmp_path / "hpob_curves.csv")
    assert {row["optimizer"] for row in curves} == {"corner", "GP (published)"}
    assert (rows["GP (published)"]["spaces"], rows["GP (published)"]["tasks"]) == ("2", "2")
    assert "Published curves" in page.read_text()
