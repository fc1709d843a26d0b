"""What every importer promises, checked on real files of every format."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from optformer.data import store
from optformer.data.importers import Skipped, detect, import_studies, read
from optformer.errors import SourceError
from optformer.study import Goal, ParameterType, Scale, Study, to_trials
from tests.data.importers import logs

every_log = pytest.mark.parametrize("make", logs.LOGS.values(), ids=logs.LOGS.keys())
every_maker = pytest.mark.parametrize("make", logs.MAKERS.values(), ids=logs.MAKERS.keys())
Make = Callable[[Path, bool], str]


def in_order(make: Make) -> list[str]:
    """The bad log's studies as they are read: files and databases sort some by name."""
    by_name = make in [logs.LOGS[name] for name in logs.SORTED_BY_NAME]
    return sorted(logs.names(False)) if by_name else logs.names(False)


def fingerprint(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@every_log
def test_format_is_found_by_looking(make: Make, tmp_path: Path) -> None:
    format = next(name for name, log in logs.LOGS.items() if log is make).split(",")[0]
    assert detect(make(tmp_path, True)) == format


@every_log
def test_studies_come_whole_and_in_order(make: Make, tmp_path: Path) -> None:
    studies = list(read(make(tmp_path, True)))
    assert [study.name for study in studies] == list(logs.GOOD)
    for study in studies:
        assert isinstance(study, Study)
        wanted = logs.trials(study.name)
        if study.notes is None:  # a CSV has no place for them
            wanted = [dataclasses.replace(trial, notes={}) for trial in wanted]
            assert make is logs.LOGS["csv"]
        assert to_trials(study) == wanted
        assert study.algorithm == "random_search"


@every_log
def test_search_space_and_metric_are_kept(make: Make, tmp_path: Path) -> None:
    study = next(read(make(tmp_path, True)))
    assert isinstance(study, Study)
    lr, layers, optimizer = study.problem.parameters
    assert (lr.type, lr.scale, lr.bounds) == (ParameterType.DOUBLE, Scale.LOG, (1e-4, 1.0))
    assert (layers.type, layers.bounds) == (ParameterType.INTEGER, (1.0, 8.0))
    assert (optimizer.type, optimizer.values) == (ParameterType.CATEGORICAL, ("adam", "sgd"))
    (metric,) = study.problem.metrics
    assert metric.goal == Goal.MAXIMIZE


@every_log
def test_bad_study_is_skipped_and_named(make: Make, tmp_path: Path) -> None:
    source = make(tmp_path, False)
    records = list(read(source))
    assert [r.study if isinstance(r, Skipped) else r.name for r in records] == in_order(make)
    (bad,) = [record for record in records if isinstance(record, Skipped)]
    assert source.removeprefix("sqlite:///") in bad.where or bad.where in source
    assert f"'{logs.BAD}'" in bad.reason
    if "optuna" in detect(source):
        assert "'layers' is missing from trial 2, and no parameter decides when" in bad.reason
    else:
        assert bad.trial == 2
        assert bad.kind == "a value outside its bounds"
        assert "trial 2: lr=3.0 lies outside [0.0001, 1.0]" in bad.reason


@every_log
def test_shards_hold_what_was_read(make: Make, tmp_path: Path) -> None:
    source = make(tmp_path, False)
    report = import_studies(source, tmp_path / "shards")
    assert (report.studies, report.trials) == (3, 12)
    assert report.parameters == 3
    assert report.algorithms == {"random_search": 3}
    assert sum(report.skipped.values()) == 1
    assert [example.study for example in report.examples] == [logs.BAD]
    back = list(store.scan(tmp_path / "shards"))
    good = [study for study in read(source) if isinstance(study, Study)]
    for ours, theirs in zip(good, back, strict=True):
        assert ours.problem == theirs.problem
        np.testing.assert_array_equal(ours.values_RP, theirs.values_RP)
        np.testing.assert_array_equal(ours.metrics_RM, theirs.metrics_RM)
        assert ours.notes == theirs.notes


@every_log
def test_reading_leaves_the_source_as_it_was(make: Make, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    source = make(tmp_path / "log", False)
    before = fingerprint(tmp_path / "log")
    import_studies(source, tmp_path / "shards")
    assert fingerprint(tmp_path / "log") == before


@every_log
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_resumed_import_equals_an_unbroken_one(make: Make, tmp_path: Path, stop_after: int) -> None:
    (tmp_path / "log").mkdir()
    source = make(tmp_path / "log", False)
    calls = 0

    def interrupt(_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == stop_after:
            raise KeyboardInterrupt

    out = tmp_path / "shards"
    with pytest.raises(KeyboardInterrupt):
        import_studies(source, out, studies_per_shard=1, progress=interrupt)
    import_studies(source, out, studies_per_shard=1)
    names = [study.name for study in store.scan(out)]
    assert names == [name for name in in_order(make) if name != logs.BAD]

    again = import_studies(source, out)
    assert again.studies == 0
    assert again.resumed_at >= 3
    assert store.summarize(out).studies == 3


@every_log
def test_dropped_text_and_hashed_names_are_nowhere_in_the_shards(
    make: Make, tmp_path: Path
) -> None:
    (tmp_path / "confidential").mkdir()
    source = make(tmp_path / "confidential", True)
    words = ["Secret", "hidden", "team", "host", "confidential", "log.", "vizier.db", "journal.log"]
    names = ["lr", "layers", "optimizer", "adam", "sgd", "accuracy"]

    out = tmp_path / "dropped"
    import_studies(source, out, drop_text=True)
    for text, found in in_shards(out, words + names).items():
        assert found == (text in names), text
    assert [study.name for study in store.scan(out)] == [f"study-{k:06d}" for k in (1, 2, 3)]

    out = tmp_path / "hashed only"
    import_studies(source, out, hash_names=True)
    assert not any(in_shards(out, ["host", *names[1:], '"lr"']).values())

    out = tmp_path / "hashed"
    import_studies(source, out, drop_text=True, hash_names=True)
    assert not any(in_shards(out, words + names[1:] + ['"lr"']).values())

    # What is learned from stays the same, and one name has one hash.
    spaces = {study.problem.parameters for study in store.scan(out)}
    assert len(spaces) == 1
    for ours, theirs in zip(read(source), store.scan(out), strict=True):
        assert isinstance(ours, Study)
        np.testing.assert_array_equal(ours.values_RP, theirs.values_RP)
        np.testing.assert_array_equal(ours.metrics_RM, theirs.metrics_RM)


def in_shards(folder: Path, texts: list[str]) -> dict[str, bool]:
    """Which of the texts are in the bytes of the shards: as they lie there, and unpacked."""
    import pyarrow.parquet as pq

    found = dict.fromkeys(texts, False)
    for path in folder.iterdir():
        table = pq.read_table(path)
        unpacked = repr(table.to_pylist()) + repr(table.schema.metadata)
        for text in texts:
            found[text] |= text.encode() in path.read_bytes() or text in unpacked
    return found


@every_maker
def test_log_of_bad_studies_only_is_an_error_that_names_one(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "names", lambda good: [logs.BAD])
    source = make(tmp_path, False)
    with pytest.raises(SourceError, match=r"none of its 1 studies can be used.*'bad'"):
        import_studies(source, tmp_path / "shards")


@every_maker
def test_log_without_studies_is_an_error_that_names_it(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "names", lambda good: [])
    source = make(tmp_path, True)
    name = Path(source.removeprefix("sqlite:///")).name
    with pytest.raises(SourceError, match=name):
        list(read(source))


@pytest.mark.parametrize("make", [logs.jsonl, logs.table, logs.vizier_sqlite, logs.vizier_pb])
def test_clip_keeps_the_study(make: Make, tmp_path: Path) -> None:
    studies = list(read(make(tmp_path, False), out_of_range="clip"))
    (bad,) = [study for study in studies if isinstance(study, Study) and study.name == logs.BAD]
    assert bad.values_RP[1, 0] == 1.0
    assert len(studies) == 4


def test_changed_source_is_not_added_twice(tmp_path: Path) -> None:
    source = logs.jsonl(tmp_path, True)
    out = tmp_path / "shards"
    import_studies(source, out)
    with Path(source).open("a") as file:
        file.write(Path(source).read_text().splitlines()[0].replace('"a"', '"d"') + "\n")
    with pytest.raises(SourceError, match="changed since"):
        import_studies(source, out)


def test_another_source_adds_shards(tmp_path: Path) -> None:
    out = tmp_path / "shards"
    for make in (logs.jsonl, logs.vizier_sqlite):
        import_studies(make(tmp_path, True), out)
    assert store.summarize(out).sources == {"log.jsonl": 3, "vizier.db": 3}


def test_progress_ends_at_the_whole(tmp_path: Path) -> None:
    seen = []
    import_studies(logs.jsonl(tmp_path, False), tmp_path / "shards", progress=seen.append)
    shares = [progress.done for progress in seen]
    assert shares == sorted(shares)
    assert (seen[-1].done, seen[-1].studies, seen[-1].trials, seen[-1].skipped) == (1.0, 3, 12, 1)


def test_values_printed_with_seven_digits_lie_within_exact_bounds(
    shared_data: Path, tmp_path: Path
) -> None:
    """Real logs whose bounds are the exact least and greatest value of what they print rounded."""
    report = import_studies(str(shared_data / "study_logs" / "xgb48.jsonl.gz"), tmp_path)
    assert (report.studies, report.trials) == (41, 16_400)
    assert (report.skipped, report.left_out) == ({}, {})


def test_key_of_the_hashes_lies_beside_the_shards_for_its_owner_only(tmp_path: Path) -> None:
    source = logs.jsonl(tmp_path, True)
    for folder in ("one", "two"):
        import_studies(source, tmp_path / folder, hash_names=True)
    one, two = (tmp_path / f"{folder}.names-key" for folder in ("one", "two"))
    assert one.stat().st_mode & 0o777 == 0o600
    assert one.read_bytes() != two.read_bytes()
    assert all(path.suffix == ".parquet" for path in (tmp_path / "one").iterdir())
    first, second = (next(store.scan(tmp_path / folder)).problem for folder in ("one", "two"))
    assert first.parameters[0].name != second.parameters[0].name
