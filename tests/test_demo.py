"""Real logs, and the whole loop in miniature: model, SQLite files and gRPC servers are real."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from optformer import demo
from optformer.data import importers, sklearn_problems, store
from optformer.data.problems import to_natural
from optformer.data.sklearn_logs import make_logs
from optformer.errors import ConfigError
from optformer.services import service

# Vizier's own random search calls it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:This function is deprecated. Please call randint:DeprecationWarning"
)


@pytest.mark.parametrize("name", sklearn_problems.names())
def test_every_problem_measures_what_its_space_allows(name: str) -> None:
    problem = sklearn_problems.find(name)
    parameters = problem.problem.parameters
    values_NP = to_natural(parameters, np.full((1, len(parameters)), 0.4))
    values = {p.name: p.from_number(v) for p, v in zip(parameters, values_NP[0], strict=True)}
    measured = problem.evaluate(values)
    assert measured is not None and np.isfinite(measured)
    assert problem.evaluate(values) == measured


def test_what_is_held_out_is_not_logged() -> None:
    held = sklearn_problems.held_out()
    assert held.name in sklearn_problems.names()
    for problem in sklearn_problems.logged():
        assert problem.model != held.model
        assert problem.data != held.data


def test_logs_are_imported_whole(tmp_path: Path) -> None:
    problems = [sklearn_problems.find(name) for name in ("svc/iris", "elastic_net/diabetes")]
    algorithms = ("RANDOM_SEARCH", "EAGLE_STRATEGY")
    counts: list[int] = []
    with service(database=tmp_path / "logs.db") as endpoint:
        logs = make_logs(
            endpoint,
            problems,
            algorithms=algorithms,
            trials=3,
            workers=1,
            progress=lambda done, total, note="": counts.append(done),
        )
    assert (logs.studies, logs.trials) == (4, 12)
    assert sorted(counts) == list(range(1, 13))
    report = importers.import_studies(str(tmp_path / "logs.db"), tmp_path / "shards")
    assert (report.studies, report.trials, dict(report.skipped)) == (4, 12, {})
    assert dict(report.algorithms) == {"random_search": 2, "eagle_strategy": 2}
    titles = {study.problem.title for study in store.scan(tmp_path / "shards")}
    assert titles == {"svc on iris", "elastic net on diabetes"}
    for study in store.scan(tmp_path / "shards"):
        problem = next(p.problem for p in problems if p.problem.title == study.problem.title)
        assert {p.name for p in study.problem.parameters} == {p.name for p in problem.parameters}
        assert study.problem.metrics == problem.metrics


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not from a demo"):
        demo.claim(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_the_whole_loop_in_miniature(tmp_path: Path) -> None:
    settings = demo.Settings(
        out=tmp_path / "demo",
        problems=tuple(sklearn_problems.find(name) for name in ("svc/iris", "linear/wine")),
        logged_trials=4,
        generated=64,
        train_seconds=1.0,
        trials=5,
        repeats=2,
        workers=1,
    )
    page = demo.run(settings)
    text = page.read_text()
    for words in ("OPTFORMER_EI", "RANDOM_SEARCH", "mlp on breast_cancer", "8 studies with 32"):
        assert words in text
    with (page.parent / "tuning.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["algorithm"] for row in rows] == [*demo.OURS, "RANDOM_SEARCH"]
    # The README's Python runs on the demo's checkpoint.
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert "runs/demo/training/checkpoint" in code
    names: dict[str, object] = {}
    exec(code.replace("runs/demo", str(settings.out)), names)
    assert len(names["trials"]) == 15
    # The studies of the comparison can be imported like any others, ours among them.
    report = importers.import_studies(str(settings.comparison), tmp_path / "again")
    assert (report.studies, report.trials) == (6, 30)
    assert "optformer_ei" in report.algorithms
