"""Shards read back equal, survive interruptions, and damaged ones give clear errors."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from optformer.data import store
from optformer.errors import SourceError
from optformer.study import (
    Condition,
    Goal,
    Metric,
    Parameter,
    ParameterType,
    Problem,
    Scale,
    Study,
)
from tests.studies import assert_same_curves, random_curves

NAN = float("nan")


def assert_same(ours: Study, theirs: Study) -> None:
    assert ours.problem == theirs.problem
    assert ours.algorithm == theirs.algorithm
    assert ours.notes == theirs.notes
    assert ours.data_set == theirs.data_set
    assert_same_curves(ours.curves, theirs.curves)
    np.testing.assert_array_equal(ours.values_RP, theirs.values_RP)
    np.testing.assert_array_equal(ours.metrics_RM, theirs.metrics_RM)
    np.testing.assert_array_equal(ours.states_R, theirs.states_R)
    assert (ours.predictive_R2 is None) == (theirs.predictive_R2 is None)
    if ours.predictive_R2 is not None:
        np.testing.assert_array_equal(ours.predictive_R2, theirs.predictive_R2)


def plain(name: str, trials: int = 3, *, predictive: bool = False) -> Study:
    rng = np.random.default_rng(trials)
    return Study(
        problem=Problem(
            name=name,
            parameters=(Parameter(name="x", type=ParameterType.DOUBLE, bounds=(0.0, 1.0)),),
            metrics=(Metric(name="y"),),
        ),
        values_RP=rng.random((trials, 1)),
        metrics_RM=rng.random((trials, 1)),
        states_R=np.zeros(trials, np.int8),
        algorithm="random_search",
        predictive_R2=rng.random((trials, 2)) if predictive else None,
    )


def odd() -> Study:
    """All types and scales, texts in many languages, a condition, all states, two metrics."""
    return Study(
        problem=Problem(
            name="größe/大きさ",
            title='quotes " and \n lines',
            metadata=(("ключ", "значение"), ("", "")),
            parameters=(
                Parameter(
                    name="lr",
                    type=ParameterType.DOUBLE,
                    scale=Scale.LOG,
                    bounds=(5e-324, 1e300),
                    default=0.1,
                ),
                Parameter(name="n", type=ParameterType.INTEGER, bounds=(-(2.0**53), 2.0**53)),
                Parameter(
                    name="batch",
                    type=ParameterType.DISCRETE,
                    scale=Scale.UNIFORM_DISCRETE,
                    values=(0.1, 16.0),
                    external_type="FLOAT",
                ),
                Parameter(
                    name="on",
                    type=ParameterType.CATEGORICAL,
                    values=("False", "True"),
                    default="True",
                    external_type="BOOLEAN",
                ),
                Parameter(
                    name="child",
                    type=ParameterType.DOUBLE,
                    scale=Scale.REVERSE_LOG,
                    bounds=(1.0, 2.0),
                    conditions=(
                        Condition(parent="on", values=("True",)),
                        Condition(parent="n", values=(2, 3)),
                    ),
                ),
            ),
            metrics=(
                Metric(name="loss", goal=Goal.MINIMIZE),
                Metric(name="safe", safety_threshold=0.5),
            ),
        ),
        values_RP=np.array(
            [
                [5e-324, 2.0**53, 0.1, 1.0, 1.5],
                [1e300, -1.0, 16.0, 0.0, NAN],
                [1.0, 3.0, 16.0, 0.0, 2.0],
            ]
        ),
        metrics_RM=np.array([[-1e300, NAN], [NAN, NAN], [NAN, 1.0]]),
        states_R=np.array([0, 1, 2], np.int8),
        notes=({"машина": "a7"}, {}, {"": '"\n'}),
    )


def test_studies_read_back_equal(tmp_path: Path) -> None:
    studies = [plain("a"), odd(), plain("none", 0), plain("known", 4, predictive=True), odd()]
    store.write(studies, tmp_path, source="test")
    back = list(store.scan(tmp_path))
    assert len(back) == len(studies)
    for ours, theirs in zip(studies, back, strict=True):
        assert_same(ours, theirs)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_numbers_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    trials, width, metrics = (data.draw(st.integers(low, 4)) for low in (0, 1, 1))

    def matrix(columns: int) -> np.ndarray:
        return data.draw(hnp.arrays(np.float64, (trials, columns)))

    study = Study(
        problem=Problem(
            parameters=tuple(
                Parameter(name=str(k), type=ParameterType.DOUBLE, bounds=(0.0, 1.0))
                for k in range(width)
            ),
            metrics=tuple(Metric(name=str(k)) for k in range(metrics)),
        ),
        values_RP=matrix(width),
        metrics_RM=matrix(metrics),
        states_R=data.draw(hnp.arrays(np.int8, trials, elements=st.integers(0, 2))),
        predictive_R2=data.draw(st.none() | st.builds(lambda: matrix(2))),
        curves=random_curves(trials, metrics, np.random.default_rng(data.draw(st.integers(0, 99)))),
        data_set=data.draw(st.text(max_size=3)),
    )
    folder = tmp_path_factory.mktemp("shards")
    store.write([study, study], folder, source="test")
    for back in store.scan(folder):
        assert_same(study, back)


def test_shards_of_before_there_were_curves_and_data_sets_are_read(tmp_path: Path) -> None:
    studies = [plain("a"), odd()]
    (path,) = store.write(studies, tmp_path, source="test")
    table = pq.read_table(path)
    new = ["notes", "data_set", "curve_trials", "curve_steps", "curve_metrics"]
    pq.write_table(table.drop_columns(new), path)
    for ours, theirs in zip(studies, store.scan(tmp_path), strict=True):
        assert_same(dataclasses.replace(ours, notes=None), theirs)


def test_shards_are_limited_by_studies_and_by_trials(tmp_path: Path) -> None:
    few, big = tmp_path / "few", tmp_path / "big"
    names = [f"s{k}" for k in range(7)]
    paths = store.write((plain(n) for n in names), few, source="test", studies_per_shard=3)
    assert [path.name for path in paths] == [f"shard-{k:05d}.parquet" for k in range(3)]
    assert [len(store.read_shard(path)) for path in paths] == [3, 3, 1]
    assert [study.name for study in store.scan(few)] == names
    paths = store.write((plain(n, 10) for n in names), big, source="test", trials_per_shard=25)
    assert [len(store.read_shard(path)) for path in paths] == [3, 3, 1]


def test_writing_again_adds_shards(tmp_path: Path) -> None:
    store.write([plain("a")], tmp_path, source="first")
    store.write([plain("b")], tmp_path, source="second")
    store.write([plain("c")], tmp_path, source="third", prefix="worker-2")
    assert [study.name for study in store.scan(tmp_path)] == ["a", "b", "c"]
    assert store.summarize(tmp_path).sources == {"first": 1, "second": 1, "third": 1}


def test_an_interruption_leaves_only_complete_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = 0

    def studies() -> Iterator[Study]:
        nonlocal drawn
        for drawn in range(1, 6):
            if drawn == 5:
                raise KeyboardInterrupt
            yield plain(f"s{drawn}")

    with pytest.raises(KeyboardInterrupt):
        store.write(
            studies(), tmp_path, source="test", studies_per_shard=2, position=lambda: {"at": drawn}
        )
    assert [study.name for study in store.scan(tmp_path)] == ["s1", "s2", "s3", "s4"]
    assert store.positions(tmp_path) == [{"at": 2}, {"at": 4}]

    # The disk gets full in the middle of a shard.
    def full(table: pa.Table, file: object, **_: object) -> None:
        file.write(b"PAR1")
        raise OSError("No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space"):
        store.write([plain("late")], tmp_path, source="test")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "shard-00000.parquet",
        "shard-00001.parquet",
    ]


def test_the_unfinished_file_of_a_killed_process_is_ignored(tmp_path: Path) -> None:
    store.write([plain("a")], tmp_path, source="test")
    (tmp_path / ".shard-00001.parquet.partial").write_bytes(b"PAR1")
    assert [study.name for study in store.scan(tmp_path)] == ["a"]
    store.write([plain("b")], tmp_path, source="test")
    assert [study.name for study in store.scan(tmp_path)] == ["a", "b"]
    assert not list(tmp_path.glob(".*"))


def test_summary_counts_everything(tmp_path: Path) -> None:
    store.write([plain("a", 2), odd(), plain("b", 4)], tmp_path, source="test", studies_per_shard=2)
    summary = store.summarize(tmp_path)
    assert (summary.shards, summary.studies, summary.trials) == (2, 3, 9)
    assert summary.dimensions == {1: 2, 5: 1}
    assert summary.algorithms == {"random_search": 2, "": 1}
    assert summary.states == {"COMPLETED": 7, "INFEASIBLE": 1, "ACTIVE": 1}
    assert summary.spaces == 2
    assert summary.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_the_columns_have_their_documented_form(tmp_path: Path) -> None:
    """Names, nesting and nulls, on which queries of pandas, Polars and DuckDB users depend."""
    (path,) = store.write([odd()], tmp_path, source="test")
    row = pq.read_table(path).to_pylist()[0]
    assert row["trials"] == 3
    assert row["parameters"] == 5
    assert row["values"][1] == [1e300, -1.0, 16.0, 0.0, None]
    assert row["metrics"] == [[-1e300, None], [None, None], [None, 1.0]]
    assert row["states"] == [0, 1, 2]
    assert row["predictive"] is None
    assert json.loads(row["metadata"]) == {"ключ": "значение", "": ""}
    assert json.loads(row["space"])["parameters"][0]["name"] == "lr"


def test_pandas_polars_and_duckdb_read_shards(tmp_path: Path) -> None:
    pandas, polars, duckdb = map(pytest.importorskip, ("pandas", "polars", "duckdb"))
    store.write([plain("a"), odd()], tmp_path, source="test")
    (path,) = store.shard_paths(tmp_path)

    frame = pandas.read_parquet(path)
    assert frame["trials"].tolist() == [3, 3]
    best = polars.read_parquet(path).select(
        polars.col("name"),
        polars.col("metrics").list.eval(polars.element().list.first()).list.max().alias("best"),
    )
    assert best["best"].to_list() == [plain("a").metrics_RM.max(), -1e300]
    query = (
        f"SELECT algorithm, sum(trials), any_value(notes[1]) FROM '{path}' GROUP BY 1 ORDER BY 1"
    )
    assert duckdb.sql(query).fetchall() == [
        ("", 3, '{"машина":"a7"}'),
        ("random_search", 3, None),
    ]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _garble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100:400] = bytes(300)
    path.write_bytes(bytes(data))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _foreign(path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), path)


def _newer(path: Path) -> None:
    table = pq.read_table(path)
    metadata = {**table.schema.metadata, b"optformer.version": b"99"}
    pq.write_table(table.replace_schema_metadata(metadata), path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_truncate, "is damaged"),
        (_garble, "is damaged"),
        (_empty, "is damaged"),
        (_foreign, "does not contain optformer studies"),
        (_newer, "version 99 of the shard format"),
    ],
)
def test_a_bad_shard_is_named_with_a_way_out(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    (path,) = store.write([plain("a", 200)], tmp_path, source="test")
    spoil(path)
    with pytest.raises(SourceError, match=message) as raised:
        list(store.scan(tmp_path))
    assert str(path) in str(raised.value)


def test_missing_folders_and_folders_without_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere does not exist"):
        store.shard_paths(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"has no study shards.*optformer import"):
        store.shard_paths(tmp_path)
