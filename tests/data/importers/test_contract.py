"""What every importer promises, checked on real files of every format."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from optformer import cli
from optformer.data import store
from optformer.data.importers import FORMATS, Remark, detect, import_studies, page, read
from optformer.errors import SourceError
from optformer.study import Goal, ParameterType, Scale, Study, Trial, to_trials
from tests.data.importers import logs

every_log = pytest.mark.parametrize("format", logs.LOGS)
OPTIONS = {"algorithm": "random_search", "metric": "", "goal": None}


def options(format: str) -> dict[str, object]:
    """What has to be said about a log that does not say it."""
    return {**OPTIONS, "metric": "accuracy" if format == "ax" else ""}


def in_order(format: str) -> list[str]:
    """The bad log's studies as they are read: files and databases sort some by name."""
    names = logs.names(False)
    return sorted(names) if format in logs.SORTED_BY_NAME else names


def studies_of(format: str, source: str) -> list[Study]:
    """The studies, without what was said about them."""
    return [study for study in read(source, **options(format)) if isinstance(study, Study)]


def wanted(format: str, name: str) -> list[Trial]:
    """The trials of a good study as the format can hold them."""
    metric = logs.METRICS.get(format, "accuracy")
    return [
        dataclasses.replace(
            trial,
            parameters=trial.parameters
            if format != "hyperopt"  # stores the number of a choice
            else {
                **trial.parameters,
                "optimizer": ("adam", "sgd").index(trial.parameters["optimizer"]),
            },
            metrics=dict.fromkeys([metric] * len(trial.metrics), trial.metrics.get("accuracy")),
            notes=trial.notes if format in logs.WITH_NOTES else {},
        )
        for trial in logs.trials(name)
    ]


def fingerprint(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@every_log
def test_format_is_detected(format: str, tmp_path: Path) -> None:
    assert detect(logs.LOGS[format](tmp_path, True)) == format.split(",")[0]


def test_every_format_is_here_and_in_the_commands_help_and_docs() -> None:
    assert {format.split(",")[0] for format in logs.LOGS} | {"hpob"} == set(FORMATS)
    assert [format.value for format in cli.Format] == list(FORMATS)
    written = (Path(__file__).parents[3] / "docs" / "importing.md").read_text("utf-8")
    assert written == page() + "\n", "run: optformer import --describe all > docs/importing.md"


@every_log
def test_studies_come_whole_and_in_order(format: str, tmp_path: Path) -> None:
    studies = studies_of(format, logs.LOGS[format](tmp_path, True))
    assert [study.name for study in studies] == list(logs.GOOD)
    for study in studies:
        assert to_trials(study) == wanted(format, study.name)
        assert study.algorithm == logs.ALGORITHMS.get(format, "random_search")


@every_log
def test_search_space_and_metric_are_kept(format: str, tmp_path: Path) -> None:
    study = studies_of(format, logs.LOGS[format](tmp_path, True))[0]
    parameters = {parameter.name: parameter for parameter in study.problem.parameters}
    lr, layers, optimizer = (parameters[name] for name in ("lr", "layers", "optimizer"))
    is_inferred = format in logs.INFERRED
    assert (lr.type, lr.scale) == (ParameterType.DOUBLE, Scale.LOG)
    assert lr.bounds == ((1e-3, 1.0) if is_inferred else (1e-4, 1.0))
    assert layers.type == ParameterType.INTEGER
    assert layers.bounds == (1.0, 8.0) or is_inferred
    if format != "hyperopt":
        assert (optimizer.type, optimizer.values) == (ParameterType.CATEGORICAL, ("adam", "sgd"))
    (metric,) = study.problem.metrics
    assert metric.goal == (Goal.MINIMIZE if format in logs.MINIMIZED else Goal.MAXIMIZE)


@every_log
def test_what_a_log_does_not_say_is_reported_once_a_study(format: str, tmp_path: Path) -> None:
    records = read(logs.LOGS[format](tmp_path, True), **options(format))
    remarks = [record for record in records if isinstance(record, Remark)]
    if format in logs.INFERRED:
        assert [(remark.fate, remark.trials) for remark in remarks] == [("assumed", 0)] * 3
        assert all("bounds" in remark.reason for remark in remarks)
    else:
        assert not remarks


@every_log
def test_bad_trial_is_left_out_and_named_and_its_study_stays(format: str, tmp_path: Path) -> None:
    source = logs.LOGS[format](tmp_path, False)
    records = list(read(source, **options(format)))
    studies = [record for record in records if isinstance(record, Study)]
    assert [study.name for study in studies] == in_order(format)
    assert {study.name: len(study) for study in studies}[logs.BAD] == 3
    (bad,) = [r for r in records if isinstance(r, Remark) and r.fate != "assumed"]
    assert source.removeprefix("sqlite:///") in bad.where or bad.where in source
    assert (bad.study, bad.trial, bad.trials, bad.fate) == (logs.BAD, 2, 1, "left out")
    assert f"study {logs.BAD!r}, trial 2: " in bad.reason
    if format in logs.BOUNDLESS:
        assert bad.kind == "a parameter that is missing without a rule"
    else:
        assert bad.kind == "a value outside its bounds"
        assert "lr=3.0 lies outside [0.0001, 1.0]" in bad.reason
        assert "--out-of-range=clip" in bad.reason


@every_log
def test_shards_hold_what_was_read(format: str, tmp_path: Path) -> None:
    source = logs.LOGS[format](tmp_path, False)
    report = import_studies(source, tmp_path / "shards", **options(format))
    assert (report.studies, report.trials) == (4, 15)
    assert report.parameters == 3
    assert report.algorithms == {logs.ALGORITHMS.get(format, "random_search"): 4}
    assert (sum(report.left_out.values()), report.skipped, report.infeasible) == (1, {}, {})
    assert logs.BAD in [example.study for example in report.examples]
    back = list(store.scan(tmp_path / "shards"))
    for ours, theirs in zip(studies_of(format, source), back, strict=True):
        assert ours.problem == theirs.problem
        np.testing.assert_array_equal(ours.values_RP, theirs.values_RP)
        np.testing.assert_array_equal(ours.metrics_RM, theirs.metrics_RM)
        assert ours.notes == theirs.notes


@every_log
def test_reading_leaves_the_source_as_it_was(format: str, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    source = logs.LOGS[format](tmp_path / "log", False)
    before = fingerprint(tmp_path / "log")
    import_studies(source, tmp_path / "shards", **options(format))
    assert fingerprint(tmp_path / "log") == before


@every_log
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_resumed_import_equals_an_unbroken_one(
    format: str, tmp_path: Path, stop_after: int
) -> None:
    (tmp_path / "log").mkdir()
    source = logs.LOGS[format](tmp_path / "log", False)
    calls = 0

    def interrupt(_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == stop_after:
            raise KeyboardInterrupt

    out = tmp_path / "shards"
    with pytest.raises(KeyboardInterrupt):
        import_studies(source, out, studies_per_shard=1, progress=interrupt, **options(format))
    import_studies(source, out, studies_per_shard=1, **options(format))
    names = [study.name for study in store.scan(out)]
    assert names == in_order(format)

    again = import_studies(source, out, **options(format))
    assert (again.studies, again.resumed_at) == (0, 4)
    assert store.summarize(out).studies == 4


@every_log
def test_dropped_text_and_hashed_names_are_nowhere_in_the_shards(
    format: str, tmp_path: Path
) -> None:
    (tmp_path / "confidential").mkdir()
    source = logs.LOGS[format](tmp_path / "confidential", True)
    words = ["Secret", "hidden", "team", "host", "confidential", "log.", "vizier.db", "journal.log"]
    names = ["lr", "layers", "optimizer", "adam", "sgd", "accuracy"]
    if format == "hyperopt":  # has no names of choices and metrics
        names = ["lr", "layers", "optimizer", "loss"]

    out = tmp_path / "dropped"
    import_studies(source, out, drop_text=True, **options(format))
    for text, found in in_shards(out, words + names).items():
        assert found == (text in names), text
    assert [study.name for study in store.scan(out)] == [f"study-{k:06d}" for k in (1, 2, 3)]

    out = tmp_path / "hashed only"
    import_studies(source, out, hash_names=True, **options(format))
    assert not any(in_shards(out, ["host", *names[1:], '"lr"']).values())

    out = tmp_path / "hashed"
    import_studies(source, out, drop_text=True, hash_names=True, **options(format))
    assert not any(in_shards(out, words + names[1:] + ['"lr"']).values())

    # What is learned from stays the same, and one name has one hash.
    parameters = [study.problem.parameters for study in store.scan(out)]
    assert len({parameter.name for each in parameters for parameter in each}) == 3
    for ours, theirs in zip(studies_of(format, source), store.scan(out), strict=True):
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


@pytest.mark.parametrize("format", [name for name in logs.MAKERS if name not in logs.BOUNDLESS])
def test_log_of_bad_studies_only_is_an_error_that_names_one(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "names", lambda good: [logs.HOPELESS])
    source = logs.MAKERS[format](tmp_path, False)
    with pytest.raises(SourceError, match=r"none of its 1 studies can be used.*'hopeless'"):
        import_studies(source, tmp_path / "shards")


@pytest.mark.parametrize("format", logs.MAKERS)
def test_log_without_studies_is_an_error_that_names_it(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "names", lambda good: [])
    source = logs.MAKERS[format](tmp_path, True)
    name = Path(source.removeprefix("sqlite:///")).name
    with pytest.raises(SourceError, match=name):
        list(read(source, **options(format)))


@pytest.mark.parametrize("make", [logs.jsonl, logs.table, logs.vizier_sqlite, logs.vizier_pb])
def test_clip_keeps_the_trial(make: Callable[[Path, bool], str], tmp_path: Path) -> None:
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
    assert (seen[-1].done, seen[-1].studies, seen[-1].trials, seen[-1].skipped) == (1.0, 4, 15, 0)


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
