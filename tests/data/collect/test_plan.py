"""Any beginning of a run is balanced, and nothing is on a table that is held out from it."""

import json
from collections import Counter
from pathlib import Path

import pytest

from optformer.data.collect import CollectConfig, read_collect_config
from optformer.data.collect.plan import Plan, RealTable, is_held_out, make_plan, read_held_out
from optformer.data.data_tables.table import Task
from optformer.data.learners import LEARNERS
from optformer.errors import ConfigError, SourceError

pytest.importorskip("sklearn")


def folder_of(place: Path, names: str) -> Path:
    place.mkdir()
    for name in names.split():
        lines = [f"{i},{(i * 7) % 11},{i % 2}" for i in range(60)]
        (place / f"{name}.csv").write_text("\n".join(["a,b,target", *lines]) + "\n", "utf-8")
    return place


def test_every_beginning_is_balanced_over_learners_and_tables() -> None:
    tables = tuple(
        RealTable(name=f"t{i}", task=Task.CLASSIFICATION, twins=f"t{i}") for i in range(5)
    )
    learners = ("svm", "decision_tree", "xgboost")
    plan = Plan(seed=3, real=0.6, allowed=dict.fromkeys(learners, tables), refused={})
    assigned = [plan.assignment(number) for number in range(150)]
    assert assigned == [plan.assignment(number) for number in range(150)]
    for end in range(3, 150, 3):
        counts = Counter(each.learner for each in assigned[:end])
        assert set(counts.values()) == {end // 3}
    for learner in learners:
        mine = [each for each in assigned if each.learner == learner]
        real = [each.table for each in mine if not each.table.startswith("synthetic/")]
        assert len(real) == pytest.approx(0.6 * len(mine), abs=1)
        for start in range(0, len(real) - 4, 5):  # each table once before any again
            assert len(set(real[start : start + 5])) == 5
    synthetic = [each.table for each in assigned if each.table.startswith("synthetic/")]
    assert len(set(synthetic)) == len(synthetic)
    other = Plan(seed=4, real=0.6, allowed=plan.allowed, refused={})
    assert assigned != [other.assignment(number) for number in range(150)]


def test_held_out_pairs_are_never_assigned(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "mine", "open closed no_svm no_boosting")
    pairs = {"closed": ["*"], "mine/no_svm": ["svm"], "no_boosting": ["boosting"], "absent": ["*"]}
    (tmp_path / "held.json").write_text(json.dumps(pairs), "utf-8")
    config = CollectConfig(
        folders=(str(folder),),
        learners=("svm", "xgboost", "pipeline", "decision_tree"),
        held_out=str(tmp_path / "held.json"),
        real=1.0,
    )
    plan = make_plan(config, seed=0)
    seen: dict[str, set[str]] = {}
    for number in range(60):
        each = plan.assignment(number)
        seen.setdefault(each.learner, set()).add(each.table.removeprefix("mine/"))
    assert seen == {
        "svm": {"open", "no_boosting"},
        "xgboost": {"open", "no_svm"},
        "pipeline": {"open", "no_boosting"},  # it may choose a support vector machine
        "decision_tree": {"open", "no_svm", "no_boosting"},
    }


def test_twins_of_a_held_out_table_are_held_out() -> None:
    held_out = {"wdbc": frozenset({"*"})}
    table = RealTable(name="pmlb/breast_cancer_wisconsin", task=Task.CLASSIFICATION, twins="wdbc")
    assert is_held_out(held_out, table, LEARNERS["svm"])


def test_files_that_cannot_be_used_are_left_out_with_the_reason(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "mine", "good")
    (folder / "bad.csv").write_text("a,b\n1,2\n", "utf-8")
    plan = make_plan(CollectConfig(folders=(str(folder),), learners=("svm",)), seed=0)
    assert [table.name for table in plan.allowed["svm"]] == ["mine/good"]
    assert "no column 'target'" in plan.refused["mine/bad"]


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        (
            '{"t": ["svmm"]}',
            r"held out from 'svmm', which is no learner or family.* Did you mean svm",
        ),
        ('["t"]', "does not say which tables are held out"),
        ("{", "does not say which tables are held out"),
    ],
)
def test_a_wrong_file_of_held_out_pairs_is_refused(
    tmp_path: Path, held_out: str, message: str
) -> None:
    path = tmp_path / "held.json"
    path.write_text(held_out, "utf-8")
    with pytest.raises(SourceError, match=message):
        read_held_out(path)


def test_what_is_named_and_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no table is named"):
        make_plan(CollectConfig(tables=("nowhere",)), seed=0)
    with pytest.raises(ConfigError, match="no learner is named 'svn'"):
        make_plan(CollectConfig(learners=("svn",)), seed=0)
    with pytest.raises(ConfigError, match="no real table can be used"):
        make_plan(CollectConfig(real=1.0), seed=0)
    with pytest.raises(ConfigError, match="folds=7 must be between 2 and 3"):
        CollectConfig(folds=7)
    with pytest.raises(ConfigError, match="configurations=3 must be at least 10"):
        read_collect_config(changes=["configurations=3"])


def test_the_command_line_tells_folders_from_names(tmp_path: Path) -> None:
    config = read_collect_config(
        tables=[str(tmp_path), "sklearn/wine"], learners=["svm"], held_out=tmp_path / "held.json"
    )
    assert config.folders == (str(tmp_path),)
    assert config.tables == ("sklearn/wine",)
    assert config.learners == ("svm",)
    assert config.held_out == str(tmp_path / "held.json")
