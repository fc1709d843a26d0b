"""HPO-B's tables become studies with their names, whatever the layout of the JSON."""

import json
from pathlib import Path

import numpy as np
import pytest

from optformer.data import store
from optformer.data.importers import Remark, detect, import_studies, read
from optformer.study import State, Study

TABLES = {
    "4796": {
        "3549": {"X": [[0.25, 0.5], [1.0, 0.0]], "y": [[0.75], [0.5]]},
        "31": {"X": [[1.5, 0.0]], "y": [[0.5]]},  # outside the unit square
    },
    "5527": {},
    "5636": {"9": {"X": [[0.0]], "y": [0.5]}},
}


@pytest.mark.parametrize("indent", [None, 2])
def test_tables_become_studies(tmp_path: Path, indent: int | None) -> None:
    (tmp_path / "meta-test-dataset.json").write_text(json.dumps(TABLES, indent=indent))
    descriptors = {"4796": {"variables_order": ["cp", "minsplit"]}}
    (tmp_path / "meta-dataset-descriptors.json").write_text(json.dumps(descriptors))
    assert detect(str(tmp_path)) == "hpob"
    assert detect(str(tmp_path / "meta-test-dataset.json")) == "hpob"
    good, bad, unnamed = read(str(tmp_path))
    assert isinstance(good, Study)
    assert good.name == "hpob/4796/3549"
    assert [parameter.name for parameter in good.problem.parameters] == ["cp", "minsplit"]
    np.testing.assert_array_equal(good.values_RP, [[0.25, 0.5], [1.0, 0.0]])
    np.testing.assert_array_equal(good.metrics_RM, [[0.75], [0.5]])
    assert isinstance(bad, Remark)
    assert "study 'hpob/4796/31', trial 1: cp=1.5 lies outside [0.0, 1.0]" in str(bad)
    assert isinstance(unnamed, Study)
    assert [parameter.name for parameter in unnamed.problem.parameters] == ["x0"]


def test_bad_rows_leave_the_others(tmp_path: Path) -> None:
    rows = {"X": [[0.5], [1.5], [0.5, 0.5], ["a"], [0.25]], "y": [[0.5], [0.5], [1], [1], [None]]}
    path = tmp_path / "meta-test-dataset.json"
    path.write_text(json.dumps({"4796": {"31": rows}}))
    *remarks, study = read(str(path))
    assert isinstance(study, Study)
    assert study.states_R.tolist() == [State.COMPLETED, State.INFEASIBLE]
    assert sorted(remark.trial for remark in remarks) == [2, 3, 4, 5]


def test_augmented_twin_of_a_file_is_not_read_again(tmp_path: Path) -> None:
    tables = json.dumps({"4796": {"31": {"X": [[0.5]], "y": [[0.5]]}}})
    for name in ("meta-train-dataset", "meta-train-dataset-augmented", "meta-test-dataset"):
        (tmp_path / f"{name}.json").write_text(tables)
    records = list(read(str(tmp_path)))
    assert sum(isinstance(record, Study) for record in records) == 2
    (twin,) = [record for record in records if not isinstance(record, Study)]
    assert "holds the tables of its twin" in twin.reason


def test_resumed_import_equals_an_unbroken_one(tmp_path: Path) -> None:
    source = tmp_path / "meta-train-dataset.json"
    source.write_text(json.dumps(TABLES))

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "shards"
    with pytest.raises(KeyboardInterrupt):
        import_studies(str(source), out, studies_per_shard=1, progress=interrupt)
    assert import_studies(str(source), out).resumed_at == 1
    assert [study.name for study in store.scan(out)] == ["hpob/4796/3549", "hpob/5636/9"]


def test_released_files_import(shared_data: Path, tmp_path: Path) -> None:
    report = import_studies(str(shared_data / "hpob" / "hpob-data"), tmp_path)
    assert (report.studies, report.trials, report.skipped) == (41, 1025, {})
