"""A small run of the demo, with a real model, SQLite files and gRPC servers."""

import csv
import re
from pathlib import Path

import pytest

from optformer.data import importers
from optformer.demo import problems, run
from optformer.errors import ConfigError

# Vizier's own random search calls it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:This function is deprecated. Please call randint:DeprecationWarning"
)


def test_a_folder_of_other_files_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not from a demo"):
        run.prepare_folder(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.slow
def test_a_small_demo_runs_to_its_report(tmp_path: Path) -> None:
    settings = run.Settings(
        out=tmp_path / "demo",
        problems=tuple(problems.find(name) for name in ("svc/iris", "linear/wine")),
        logged_trials=4,
        generated=64,
        train_seconds=1.0,
        trials=5,
        repeats=2,
        workers=1,
    )
    page = run.run(settings)
    text = page.read_text()
    for words in ("OPTFORMER_EI", "RANDOM_SEARCH", "mlp on breast_cancer", "8 studies with 32"):
        assert words in text
    with (page.parent / "tuning.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["algorithm"] for row in rows] == [*run.OURS, "RANDOM_SEARCH"]
    # The README's Python example also runs with the demo's checkpoint.
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    code = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[0]
    assert "optformer-tiny" in code
    names: dict[str, object] = {}
    exec(code.replace("optformer-tiny", str(settings.run / "checkpoint")), names)
    assert len(names["trials"]) == 15
    # The studies of the comparison can be imported, ours included.
    report = importers.import_studies(str(settings.comparison), tmp_path / "again")
    assert (report.studies, report.trials) == (6, 30)
    assert "optformer_ei" in report.algorithms
