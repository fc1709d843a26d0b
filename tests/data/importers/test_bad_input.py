"""What is wrong with a log is said with the names of file, study, trial and value."""

import gzip
import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optformer.data.importers import Remark, import_studies, read
from optformer.errors import SourceError
from optformer.study import State
from tests.data.importers import logs

STUDY: dict[str, object] = {
    "name": "s7",
    "metrics": [{"name": "accuracy", "goal": "MAXIMIZE"}],
    "parameters": [
        {"name": "lr", "type": "DOUBLE", "scale": "LOG", "bounds": [1e-5, 1.0]},
        {"name": "n", "type": "INTEGER", "bounds": [1, 5]},
        {"name": "batch", "type": "DISCRETE", "values": [16, 32]},
        {"name": "opt", "type": "CATEGORICAL", "values": ["sgd", "adam"]},
        {
            "name": "momentum",
            "type": "DOUBLE",
            "bounds": [0, 1],
            "conditions": [{"parent": "opt", "values": ["sgd"]}],
        },
    ],
}
TRIAL: dict[str, object] = {
    "parameters": {"lr": 0.1, "n": 2, "batch": 16, "opt": "adam"},
    "metrics": {"accuracy": 0.5},
}


def trial(parameters: dict[str, object] | None = None, **changes: object) -> dict[str, object]:
    return {**TRIAL, "parameters": {**TRIAL["parameters"], **(parameters or {})}, **changes}


def study(**changes: object) -> dict[str, object]:
    return {**STUDY, "trials": [TRIAL], **changes}


def parameter(**changes: object) -> dict[str, object]:
    first = {**STUDY["parameters"][0], **changes}
    return study(parameters=[first, *STUDY["parameters"][1:]])


UNMEASURED = "a completed trial without a finite metric"

# What stands in the second trial of study s7, and what is said about it.
TRIALS = [
    (trial({"lr": 3.0}), "a value outside its bounds", "lr=3.0 lies outside [1e-05, 1.0]"),
    (trial({"lr": float("nan")}), "a value outside its bounds", "lr=nan lies outside"),
    (trial({"lr": 10**400}), "a value that is not a number", "lr=1000"),
    (trial({"n": 2.5}), "an INTEGER that is not whole", "n=2.5 is not a whole number"),
    (trial({"batch": 20}), "a value that is not among its parameter's values", "batch=20 is not"),
    (trial({"opt": "rms"}), "a value that is not among its parameter's values", "opt='rms' is not"),
    (trial({"lr": "fast"}), "a value that is not a number", "lr='fast' is not a number"),
    (trial({"lr": [1]}), "a trial with a wrong form", "lr is a list, not a number or a string"),
    (trial({"decay": 1}), "an unknown parameter", "parameter 'decay' is not in the search space"),
    (trial({"lr": None}), "a missing parameter", "parameter 'lr' is missing"),
    (trial({"momentum": 1}), "a value for an inactive parameter", "'momentum' is given, but"),
    (trial({"opt": "sgd"}), "a missing parameter", "parameter 'momentum' is missing"),
    (trial(metrics={}), UNMEASURED, "metric 'accuracy' is missing"),
    (trial(metrics=None), UNMEASURED, "metric 'accuracy' is missing"),
    (trial(metrics={"accuracy": None}), UNMEASURED, "metric 'accuracy' is missing"),
    (trial(metrics={"accuracy": float("nan")}), UNMEASURED, "metric 'accuracy' is nan"),
    (trial(metrics={"accuracy": float("inf")}), UNMEASURED, "metric 'accuracy' is inf"),
    (trial(metrics={"accuracy": True}), "a trial with a wrong form", "'accuracy' is True, not"),
    (trial(metrics={"accuracy": "good"}), "a trial with a wrong form", "'accuracy' is 'good', not"),
    (trial(state="DONE"), "a trial with a wrong form", "state is 'DONE'; it can be COMPLETED"),
    (trial(params={}), "a trial with a wrong form", "unknown key 'params'"),
    (trial(metric={}), "a trial with a wrong form", "Did you mean metrics?"),
    ([], "a trial with a wrong form", "a trial must be an object with keys, not a list"),
]


@pytest.mark.parametrize(("bad", "kind", "message"), TRIALS, ids=[row[2] for row in TRIALS])
def test_bad_trial_is_named_and_its_study_stays(
    bad: object, kind: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    lines = [study(name="s6"), study(trials=[TRIAL, bad]), study(name="s8")]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    before, remark, ours, after = read(str(path))
    assert isinstance(remark, Remark)
    assert str(remark).startswith(f"{path}, line 2: study 's7', trial 2: ")
    assert message in remark.reason
    assert (remark.study, remark.trial, remark.trials, remark.kind) == ("s7", 2, 1, kind)
    # Its study stays, and so do the others.
    assert [study.name for study in (before, ours, after)] == ["s6", "s7", "s8"]
    if kind == UNMEASURED:
        assert remark.fate == "infeasible"
        assert ours.states_R.tolist() == [State.COMPLETED, State.INFEASIBLE]
    else:
        assert remark.fate == "left out"
        assert ours.states_R.tolist() == [State.COMPLETED]


# A line of the file, and what is said about it.
STUDIES = [
    ('{"name": "s7", ', "the text is not JSON"),
    ('{"name": "s7", "name": "s8"}', "the key 'name' is there twice"),
    ('{"name": "s7", "title": "\\ud800"}', "a lone surrogate"),
    ('{"name": "s7", "trials": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
    ('{"name": "s7", "trials": [' + "9" * 5000 + "]}", "the text is not JSON"),
    ("[1, 2]", "the study must be an object with keys, not a list"),
    (study(trials=[]), "study 's7' has no trials"),
    (study(trials=None), "study 's7': trials must be a list, not missing"),
    (study(name=7), "the study: name must be text, not 7"),
    (study(algorithm=7), "study 's7': algorithm must be text, not 7"),
    (study(paramters=[]), "unknown key 'paramters'. Did you mean parameters?"),
    (study(metrics=[]), "problem 's7' has no metrics"),
    (study(metrics="accuracy"), "study 's7': metrics must be a list, not text"),
    (study(metrics=[{"name": "a"}]), "metric 'a': goal is None; it can be MAXIMIZE, MINIMIZE"),
    (study(parameters=[]), "problem 's7' has no parameters"),
    (study(parameters=[*STUDY["parameters"], STUDY["parameters"][0]]), "name 'lr' is used twice"),
    (study(parameters=STUDY["parameters"][4:]), "'momentum' depends on 'opt'"),
    (parameter(type="FLOAT"), "parameter 'lr': type is 'FLOAT'; it can be DOUBLE"),
    (parameter(scale="log"), "parameter 'lr': scale is 'log'; it can be LINEAR, LOG"),
    (parameter(bounds=[0, 1]), "parameter 'lr': scale LOG needs positive bounds"),
    (parameter(bounds=[2, 1]), "parameter 'lr': bounds (2.0, 1.0) must be finite"),
    (parameter(bounds=[1]), "parameter 'lr': bounds are two numbers, not 1"),
    (parameter(bounds=None), "parameter 'lr': DOUBLE needs bounds"),
    (parameter(step=0.1), "a parameter has the unknown key 'step'"),
    (parameter(type="CATEGORICAL", bounds=None, values=[1, 2]), "category 1 must be a string"),
    (parameter(type="DISCRETE", bounds=None, values=["1"]), "values: '1' is not a number"),
]


@pytest.mark.parametrize(("line", "message"), STUDIES, ids=[row[1] for row in STUDIES])
def test_bad_study_is_named(line: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    good = json.dumps(study(name="s6"))
    bad = line if isinstance(line, str) else json.dumps(line)
    path.write_text(f"{good}\n{bad}\n")
    _, skipped = read(str(path))
    assert isinstance(skipped, Remark)
    assert message in skipped.reason
    assert str(skipped).startswith(f"{path}, line 2: ")


def test_other_keys_and_metrics_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    more = trial(metrics={"accuracy": 0.5, "seconds": 3}, worker="w1")
    path.write_text(json.dumps(study(source="team", trials=[more])))
    (good,) = read(str(path))
    assert not isinstance(good, Remark)


def test_report_counts_kinds_and_shows_a_few_of_each(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [study(), *[study(trials=[trial({"lr": 2.0 + k})]) for k in range(5)], study(trials=[])]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    report = import_studies(str(path), tmp_path / "shards")
    assert report.skipped == {"a value outside its bounds": 5, "a study without trials": 1}
    assert [str(example) for example in report.examples[:2]] == [
        f"{path}, line {line}: study 's7', trial 1: lr={lr} lies outside [1e-05, 1.0]. "
        "Fix the export, or import with --out-of-range=clip."
        for line, lr in ((2, 2.0), (3, 3.0))
    ]
    assert len(report.examples) == 4


def _file(name: str, data: bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(data)
        return str(folder / name)

    return make


def _other_tables(folder: Path) -> str:
    connection = sqlite3.connect(folder / "mlflow.db")
    connection.execute("CREATE TABLE experiments (x INTEGER)")
    connection.execute("CREATE TABLE runs (x INTEGER)")
    connection.close()
    return str(folder / "mlflow.db")


def _no_tables(folder: Path) -> str:
    connection = sqlite3.connect(folder / "new.db")
    connection.execute("CREATE TABLE t (x INTEGER)")
    connection.execute("DROP TABLE t")
    connection.close()
    return str(folder / "new.db")


def _cut_database(folder: Path) -> str:
    path = Path(logs.vizier_sqlite(folder))
    path.write_bytes(path.read_bytes()[:6000])
    return str(path)


def _cut_gzip(folder: Path) -> str:
    path = folder / "log.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(study()).encode() * 200)[:-300])
    return str(path)


def _cut_journal(folder: Path) -> str:
    path = Path(logs.optuna_journal(folder))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], lines[4][:20], *lines[5:]]) + "\n")
    return str(path)


def _shards(folder: Path) -> str:
    pq.write_table(pa.table({"x": [1]}), folder / "shard-00000.parquet")
    return str(folder)


def _csv_without_spec(folder: Path) -> str:
    return _file("log.csv", b"lr,accuracy\n1,2\n")(folder)


def _csv_without_column(folder: Path) -> str:
    (folder / "log.json").write_text(json.dumps(STUDY))
    return _file("log.csv", b"lr,n,batch,accuracy\n1,2,16,0.5\n")(folder)


def _csv_with_bad_spec(folder: Path) -> str:
    (folder / "log.toml").write_text("name = 'x'\nmetrics = [\n")
    return _file("log.csv", b"lr\n1\n")(folder)


def _csv_with_open_quote(folder: Path) -> str:
    (folder / "log.json").write_text(json.dumps(STUDY))
    return _file("log.csv", b'lr,n,batch,opt,momentum,accuracy\n"1,2,16,adam,,0.5\n')(folder)


# How a source is made, and what is said: a pattern that comes after the source's name.
SOURCES = [
    (lambda folder: str(folder / "gone.db"), "does not exist"),
    (lambda folder: f"sqlite:///{folder}/gone.db", "does not exist"),
    (_file("empty.jsonl", b""), "is empty"),
    (_file("blank.jsonl", b"{}"[:0] + b"\n \n"), "none of the formats"),
    (_file("notes.txt", b"accuracy was good"), "none of the formats"),
    (_file("vizier.db", b"accuracy was good"), "is not an SQLite database"),
    (_file("x.json", b'{"a": {"b": {"X": [[0.5]], "y": [[1]'), "is not one of HPO-B's files"),
    (_file("list.json", b'{"a": [1, 2]}'), "is JSON of another tool (with 'a')"),
    (_cut_gzip, "Compressed file ended before the end"),
    (_other_tables, "has the tables experiments, runs, which is neither"),
    (_no_tables, "has no tables"),
    (_cut_database, "cannot be read as a database"),
    (_cut_journal, "is damaged: Optuna cannot replay"),
    (_shards, "holds study shards already"),
    (lambda folder: str(folder), "is a folder without study logs"),
    (_csv_without_spec, "its search space is unknown. Describe it in log.toml"),
    (_csv_without_column, "has no column 'opt'"),
    (_csv_with_bad_spec, "cannot be read as the spec"),
    (_csv_with_open_quote, "line 2: not CSV (a quote is never closed)"),
]


@pytest.mark.parametrize(("make", "message"), SOURCES, ids=[row[1] for row in SOURCES])
def test_bad_source_is_named_with_a_way_out(
    make: Callable[[Path], str], message: str, tmp_path: Path
) -> None:
    source = make(tmp_path)
    with pytest.raises(SourceError, match=re.escape(message)) as raised:
        list(read(source))
    assert str(tmp_path) in str(raised.value)
    # Fault, then what to do about it.
    assert len(re.findall(r"[.:] [A-Z]|[;,] (?:or|there)", str(raised.value))) >= 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:hunter2@localhost/x", "needs the driver|cannot be read"),
        ("oracledb9://me:hunter2@localhost/x", "knows no such kind of database"),
        ("://x", "is not a database URL"),
    ],
)
def test_bad_url_is_named_without_its_password(url: str, message: str) -> None:
    with pytest.raises(SourceError, match=message) as raised:
        list(read(url))
    assert "hunter2" not in str(raised.value)


def test_unknown_format_names_the_known_and_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"format 'json' is not one of vizier, .*mean jsonl\?"):
        list(read(logs.jsonl(tmp_path), format="json"))
