"""Tables hold what can be learned, say what was left out, and are split without leaks."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optformer.data import data_tables
from optformer.data.data_tables.files import read_index, read_table, table_paths
from optformer.data.data_tables.synthetic import synthetic_table
from optformer.data.data_tables.table import FEWEST_OF_A_CLASS, Inputs, Task, make_table
from optformer.errors import ConfigError, SourceError


def rows(count: int, line: str = "{i},{c},{i}.5,{t}") -> list[str]:
    return [line.format(i=i, c="ab"[i % 2], t="xyz"[i % 3]) for i in range(count)]


def write(path: Path, header: str, lines: list[str]) -> Path:
    path.write_text("\n".join([header, *lines]) + "\n", "utf-8")
    return path


def test_a_file_becomes_numbers_categories_and_a_target(tmp_path: Path) -> None:
    lines = [f"{i},{'ab'[i % 2]},,2024-01-0{i % 9 + 1},word{i},7,{'xyz'[i % 3]}" for i in range(60)]
    path = write(tmp_path / "t.csv", "n,c,empty,day,text,one,target", lines)
    table = read_table(path)
    assert table.task == Task.CLASSIFICATION
    assert table.classes == 3
    assert table.inputs_NC.shape == (60, 2)
    assert table.categorical_C.tolist() == [False, True]
    said = "; ".join(table.notes)
    for column, why in (
        ("empty", "no values"),
        ("day", "date32"),
        ("text", "60 different values"),
        ("one", "one value"),
    ):
        assert column in said
        assert why in said


def test_gzipped_tabs_and_an_index_are_read(tmp_path: Path) -> None:
    text = "a\ty\n" + "".join(f"{i}\t{i % 4}\n" for i in range(80))
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(text.encode()))
    said = [{"name": "t", "target": "y", "task": "regression", "group": "twins", "rows": 80}]
    (tmp_path / "index.json").write_text(json.dumps(said), "utf-8")
    name = f"{tmp_path.name}/t"
    table = data_tables.load(name, (tmp_path,))
    assert (table.task, table.twins, table.name, len(table)) == ("regression", "twins", name, 80)
    # Without the index, four whole numbers are taken for classes.
    assert read_table(tmp_path / "t.tsv.gz", target="y").classes == 4


@pytest.mark.parametrize(
    ("header", "lines", "message"),
    [
        ("a,b,c,goal", rows(60), "no column 'target' to predict.*--target.*Columns: a, b, c, goal"),
        ("a,b,a,target", rows(60), "two columns named 'a'. Rename one"),
        ("a,b,c,target", rows(60, "{i},{c},1.5,one"), "only one class"),
        ("a,b,c,target", rows(60, "{i},{c},1.5,7.25"), "same target in every row|only one class"),
        ("a,b,c,target", rows(20), "has 20 usable rows, and 30 are needed"),
        ("a,b,c,target", rows(60, "1,a,2.5,{t}"), "no column that varies"),
        ("a,b,c,target", rows(60, "{i},{c}"), "cannot be read as a table"),
        ("a,target", rows(60, "2024-01-01,{t}"), "no column to predict 'target' from"),
        ("a,target", rows(60, "{i},2024-01-01"), "the target 'target' is of the type date32"),
    ],
)
def test_tables_that_cannot_be_used_say_why(
    tmp_path: Path, header: str, lines: list[str], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        read_table(write(tmp_path / "t.csv", header, lines))


def test_folders_and_names_that_are_wrong_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no tables"):
        table_paths(tmp_path)
    with pytest.raises(SourceError, match="is no folder"):
        table_paths(tmp_path / "none")
    (tmp_path / "index.json").write_text('{"name": 1}', "utf-8")
    with pytest.raises(SourceError, match="no list of objects"):
        read_index(tmp_path)
    with pytest.raises(SourceError, match="Did you mean wine"):
        data_tables.load("sklearn/wines")
    with pytest.raises(SourceError, match="no table is named 'wine'"):
        data_tables.load("wine")


def test_a_missing_package_is_named_with_its_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'optformer\[pmlb\]'"):
        data_tables.load("pmlb/iris-of-nobody")


def test_rare_classes_are_left_out() -> None:
    inputs_NC = np.random.default_rng(0).normal(size=(63, 2))
    target_N = np.array([0.0] * 30 + [1.0] * 30 + [2.0] * 3)
    table = make_table("t", inputs_NC, target_N, task=Task.CLASSIFICATION)
    assert (len(table), table.classes) == (60, 2)
    assert "1 classes with fewer than 6 rows" in table.notes


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from(tuple(Task)), st.booleans(), st.integers(2, 3))
def test_parts_are_disjoint_and_each_has_every_class(
    seed: int, task: Task, holdout: bool, folds: int
) -> None:
    rng = np.random.default_rng(seed)
    table = synthetic_table(rng, name="t", task=task, most_rows=300)
    table = data_tables.subset(table, 150, rng)
    assert len(table) <= 150
    parts = data_tables.parts(table, folds=folds, holdout_rows=10 if holdout else 1000, seed=seed)
    together = np.concatenate(parts)
    assert len(set(together.tolist())) == len(together)
    assert len(parts) == folds
    if holdout:
        assert len(together) < 0.7 * len(table)
    else:
        assert len(together) == len(table)
    train_N = np.setdiff1d(np.arange(len(table)), together if holdout else parts[0])
    if table.classes:
        count = np.bincount(table.target_N.astype(int))
        assert count.min() >= FEWEST_OF_A_CLASS
        for rows_N in [*parts, train_N]:
            assert set(table.target_N[rows_N]) == set(range(table.classes))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from(tuple(Inputs)))
def test_test_rows_do_not_change_what_is_trained_on(seed: int, inputs: Inputs) -> None:
    rng = np.random.default_rng(seed)
    table = synthetic_table(rng, name="t", task=Task.REGRESSION, most_rows=120)
    train_N, test_N = np.arange(0, len(table), 2), np.arange(1, len(table), 2)
    before = data_tables.prepare(table, inputs, train_N, test_N)
    table.inputs_NC[test_N] = 1000.0
    table.target_N[test_N] = 1000.0
    after = data_tables.prepare(table, inputs, train_N, test_N)
    np.testing.assert_array_equal(before.train_NC, after.train_NC)
    np.testing.assert_array_equal(before.target_N, after.target_N)
    assert before.train_NC.shape[1] == before.test_TC.shape[1]
    if inputs != Inputs.RAW:
        assert np.isfinite(before.train_NC).all()
        assert np.isfinite(before.test_TC).all()


def test_synthetic_tables_are_many_and_a_function_of_their_generator() -> None:
    seen = set()
    for seed in range(40):
        task = tuple(Task)[seed % 2]
        first, again = (
            synthetic_table(np.random.default_rng(seed), name="t", task=task, most_rows=200)
            for _ in range(2)
        )
        np.testing.assert_array_equal(first.inputs_NC, again.inputs_NC)
        np.testing.assert_array_equal(first.target_N, again.target_N)
        assert first.task == task
        assert 30 <= len(first) <= 200
        seen.add((first.inputs_NC.shape[1], first.classes))
    assert len(seen) > 20


def test_scikit_learns_own_tables_are_there() -> None:
    for name in data_tables.SKLEARN:
        table = data_tables.load(f"sklearn/{name}")
        assert table.task == (Task.REGRESSION if name == "diabetes" else Task.CLASSIFICATION)
