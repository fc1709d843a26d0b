"""CSV files: one study or several, absent cells, rows out of order, and specs beside or apart."""

import gzip
from pathlib import Path

import pytest

from optformer.data.importers import Remark, read
from optformer.study import State, Study, to_trials

SPEC = """
name = "boosting"
title = "Boosted trees"
algorithm = "random_search"
metrics = [{name = "accuracy", goal = "MAXIMIZE"}]
[[parameters]]
name = "lr"
type = "DOUBLE"
bounds = [1e-4, 1]
[[parameters]]
name = "booster"
type = "CATEGORICAL"
values = ["tree", "linear, plain"]
[[parameters]]
name = "depth"
type = "INTEGER"
bounds = [1, 9]
conditions = [{parent = "booster", values = ["tree"]}]
"""


@pytest.mark.parametrize("packed", [False, True])
def test_file_without_study_column_is_one_study(tmp_path: Path, packed: bool) -> None:
    (tmp_path / "log.toml").write_text(SPEC)
    rows = 'lr,booster,depth,accuracy,note\n0.1,tree,3,0.5,x\n0.2,"linear, plain",,0.25,"a\nb"\n'
    path = tmp_path / ("log.csv.gz" if packed else "log.csv")
    path.write_bytes(gzip.compress(rows.encode()) if packed else rows.encode())
    (study,) = read(str(path))
    assert isinstance(study, Study)
    assert (study.name, study.problem.title) == ("boosting", "Boosted trees")
    assert [trial.parameters for trial in to_trials(study)] == [
        {"lr": 0.1, "booster": "tree", "depth": 3},
        {"lr": 0.2, "booster": "linear, plain"},
    ]


def test_spec_can_be_named(tmp_path: Path) -> None:
    spec = tmp_path / "space.toml"
    spec.write_text(SPEC)
    path = tmp_path / "log.csv"
    path.write_text("lr,booster,depth,accuracy\n0.1,tree,3,0.5\n")
    (study,) = read(str(path), spec=spec)
    assert isinstance(study, Study)


def test_states_default_to_completed(tmp_path: Path) -> None:
    (tmp_path / "log.toml").write_text('state_column = "state"\n' + SPEC)
    path = tmp_path / "log.csv"
    path.write_text(
        "state,lr,booster,depth,accuracy\n"
        ",0.1,tree,3,0.5\nINFEASIBLE,0.1,tree,3,\nACTIVE,0.1,tree,3,\n"
    )
    (study,) = read(str(path))
    assert isinstance(study, Study)
    assert study.states_R.tolist() == [State.COMPLETED, State.INFEASIBLE, State.ACTIVE]


def test_study_whose_rows_are_apart_is_skipped_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "log.toml").write_text('study_column = "task"\n' + SPEC)
    path = tmp_path / "log.csv"
    rows = "".join(f"{task},0.1,tree,3,0.5\n" for task in ("a", "a", "b", "a"))
    path.write_text("task,lr,booster,depth,accuracy\n" + rows)
    first, second, again = read(str(path))
    assert isinstance(first, Study)
    assert isinstance(second, Study)
    assert isinstance(again, Remark)
    assert "line 5: study 'a' has rows in two places. Sort the file by 'task'" in str(again)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("fast,tree,3,0.5", "trial 1: lr='fast' is not a number"),
        ("0.1,tree,3,high", "trial 1: metric accuracy='high' is not a number"),
        ("0.1,tree", "trial 1: line 2: the row has 2 cells, but the header 4"),  # breaks off
        ("0,1,tree,3,0.5", "the row has 5 cells, but the header 4"),  # a decimal comma
        ('"0,1",tree,3,0.5', "lr='0,1' has a decimal comma or separators of thousands"),
        ('"0.1"x,tree,3,0.5', "the row is not CSV"),
        ("0.1,forest,3,0.5", "trial 1: booster='forest' is not one of"),
    ],
)
def test_bad_cell_is_named(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "log.toml").write_text(SPEC)
    path = tmp_path / "log.csv"
    path.write_text(f"lr,booster,depth,accuracy\n{row}\n")
    (skipped,) = read(str(path))
    assert isinstance(skipped, Remark)
    assert message in str(skipped)
    assert str(skipped).startswith(f"{path}, line 2: study 'boosting', ")
