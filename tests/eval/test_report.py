import csv
import shutil

import numpy as np
import pytest

from optformer.errors import ConfigError
from optformer.eval import hpob
from optformer.eval.page import Heading, Text
from optformer.eval.report import write_report
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
        shown = rows[name.replace("_", " ")]["after 6"]
        assert shown.startswith(f"{scores_OKST[index, :, :, 6].mean():.3f} [")
    curves = table(page.parent / "curves.csv")
    assert len(curves) == 3 * 6
    assert float(curves[0]["score"]) == pytest.approx(scores_OKST[0, :, :, 1].mean())
    for name in ("curves", "gap", "ranks", "cost", "critical_difference"):
        assert (page.parent / f"{name}.png").stat().st_size > 1000


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
    assert row["optimizer"] == "corner" and row["won / tied / lost"] == "0 / 4 / 0"
    run({"corner": Corner}, [task()], [0], tmp_path / "third", protocol="else")
    with pytest.raises(ConfigError, match="cannot be compared"):
        write_report([folder, tmp_path / "third"], tmp_path / "report.html", title="t")


def test_one_optimizer_on_one_task_is_enough_for_a_report(tmp_path):
    run({"corner": Corner}, [task()], [0], tmp_path / "runs", protocol="test")
    page = write_report(tmp_path / "runs", tmp_path / "report.html", title="t")
    assert "1 task, 1 run an optimizer" in page.read_text()


def test_published_curves_stand_beside_ours_on_the_same_tasks(tmp_path):
    start = Start(
        values_NP=np.array([[0.1, 2.0, 64.0, 1.0]]),
        metric_N=np.array([0.5]),
        exact_N=np.array([-0.5]),
    )
    tasks = [task(f"hpob/{space}/1", starts={0: start}) for space in ("a", "b")]
    run({"corner": Corner}, tasks, [0], tmp_path / "runs", protocol=hpob.PROTOCOL)
    rising = np.linspace(0.5, 0.8, 7)[None]
    published = {"GP": {"a": {"1": rising, "9": rising * 0}, "b": {"1": rising}, "c": {}}}
    page = write_report(tmp_path / "runs", tmp_path / "report.html", title="t", published=published)
    rows = {row["optimizer"]: row for row in table(tmp_path / "hpob.csv")}
    assert rows["GP (published)"]["@5"] == "0.7500 [0.7500, 0.7500]"
    assert (rows["GP (published)"]["spaces"], rows["GP (published)"]["tasks"]) == ("2", "2")
    assert "Published curves" in page.read_text()
