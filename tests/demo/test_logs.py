"""The demo's log is an ordinary database of a Vizier service."""

from pathlib import Path

import pytest

from optformer.data import importers, store
from optformer.demo import problems
from optformer.demo.logs import write_logs
from optformer.errors import ConfigError

# Vizier's own random search calls it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:This function is deprecated. Please call randint:DeprecationWarning"
)


def test_all_studies_of_the_log_are_imported(tmp_path: Path) -> None:
    tuned = [problems.find(name) for name in ("svc/iris", "elastic_net/diabetes")]
    algorithms = ("QUASI_RANDOM_SEARCH", "EAGLE_STRATEGY")
    counts: list[int] = []
    logs = write_logs(
        tmp_path / "logs.db",
        tuned,
        algorithms=algorithms,
        trials=3,
        workers=1,
        progress=lambda done, total, note="": counts.append(done),
    )
    assert (logs.studies, logs.trials) == (4, 12)
    assert sorted(counts) == list(range(1, 13))
    report = importers.import_studies(str(tmp_path / "logs.db"), tmp_path / "shards")
    assert (report.studies, report.trials, dict(report.skipped)) == (4, 12, {})
    # The names of our teachers.
    assert dict(report.algorithms) == {"quasi_random": 2, "eagle_strategy": 2}
    titles = {study.problem.title for study in store.scan(tmp_path / "shards")}
    assert titles == {"svc on iris", "elastic net on diabetes"}
    for study in store.scan(tmp_path / "shards"):
        problem = next(p.problem for p in tuned if p.problem.title == study.problem.title)
        assert {p.name for p in study.problem.parameters} == {p.name for p in problem.parameters}
        assert study.problem.metrics == problem.metrics


def test_an_existing_database_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "logs.db").write_text("years of work")
    with pytest.raises(ConfigError, match=r"logs\.db exists already"):
        write_logs(tmp_path / "logs.db")
