"""Logs as they are in the wild: what each odd file gives, and why it is there.

A study is told by the states of its trials: C completed, I infeasible, A active. What is said about
it, or the error of a file that cannot be read at all, is told by a part of the message.
"""

import bz2
import gzip
import io
import json
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from optformer.data.importers import Remark, read
from optformer.data.importers import text as text_files
from optformer.errors import SourceError
from optformer.study import Goal, Study, to_trials

SPEC = """
algorithm = "random_search"
state_column = "state"
metrics = [{name = "acc", goal = "MAXIMIZE"}]
parameters = [
    {name = "lr", type = "DOUBLE", bounds = [0, 1]},
    {name = "batch", type = "CATEGORICAL", values = ["16", "32"]},
    {name = "flag", type = "CATEGORICAL", values = ["True", "False"]},
]
"""
HEADER = "state,lr,batch,flag,acc\n"
GOOD = ",0.5,16,True,0.5\n"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One odd input.

    Attributes:
      files: by name; the first is read, or the folder if `folder`.
      states: of the studies' trials, in order.
      said: a part of a remark, or of the error if there are no studies.
      values: of the first study's first trial, as far as they matter.
    """

    why: str
    files: dict[str, str | bytes]
    states: tuple[str, ...] = ()
    said: str = ""
    folder: bool = False
    values: dict[str, object] = field(default_factory=dict)
    options: dict[str, object] = field(default_factory=dict)


def csv(why: str, rows: str, states: str = "", said: str = "", header: str = HEADER, **more) -> Row:
    """A CSV file with a spec."""
    return Row(
        why=why,
        files={"log.csv": header + rows, "log.toml": SPEC},
        states=(states,) if states else (),
        said=said,
        **more,
    )


def line(**changes: object) -> str:
    study = {
        "name": "s",
        "metrics": [{"name": "acc", "goal": "MAXIMIZE"}],
        "parameters": [{"name": "x", "type": "DOUBLE", "bounds": [0, 1]}],
        "trials": [{"parameters": {"x": 0.5}, "metrics": {"acc": 0.5}}],
    }
    return json.dumps(study | changes) + "\n"


def jsonl(why: str, bad: str, said: str = "", states: tuple[str, ...] = ("C", "C")) -> Row:
    """An odd line between two good ones."""
    files: dict[str, str | bytes] = {"log.jsonl": line() + bad + "\n" + line()}
    return Row(why=why, files=files, states=states, said=said)


def trial(**metrics: object) -> str:
    trials = [
        {"parameters": {"x": 0.5}, "metrics": {"acc": 0.5}},
        {"parameters": {"x": 0.25}, "metrics": metrics},
    ]
    return line(trials=trials).strip()


SEMICOLONS = HEADER.replace(",", ";")
TWO_METRICS = (
    "Name,State,Sweep,Created,config.lr,config.opt,val_loss,train_loss\n"
    "a,finished,q,1,0.1,y,1,2\nb,finished,q,2,0.2,x,1,2\n"
)
DICTIONARIES = """name,config,summary
a,"{'lr': 0.1, '_x': 1}","{'val_loss': 0.5}"
b,"{'lr': 0.2}","{'val_loss': nan}"
"""
OPTUNA = "number,value,params_lr,params_opt,state\n"
WANDB = "Name,State,Sweep,Created,config.lr,config.opt,val_loss\n"
MLFLOW = "run_id,experiment_id,status,start_time,metrics.loss,params.lr,params.opt\n"
THREE = ("C", "CI", "C")

ROWS = [
    # Metrics that are no numbers, in every format.
    jsonl("NaN in JSON, as Python writes it", trial(acc=float("nan")), "is nan", THREE),
    jsonl("infinity, which Optuna allows", trial(acc=float("inf")), "is inf", THREE),
    jsonl("null", trial(acc=None), "is missing", THREE),
    jsonl(
        "a number that overflows",
        trial(acc=1).replace('"acc": 1}', '"acc": 1e999}'),
        "is inf",
        THREE,
    ),
    jsonl("a metric of text", trial(acc="0.5"), "'acc' is '0.5', not a number", ("C", "C", "C")),
    jsonl("400 digits", trial(acc=10**400), "too large for 64 bits", ("C", "C", "C")),
    csv("an empty cell", f"{GOOD},0.5,16,True,\n", "CI", "'acc' is missing"),
    csv("NaN as pandas writes it", f"{GOOD},0.5,16,True,NaN\n", "CI", "'acc' is missing"),
    csv("NA as R writes it", f"{GOOD},0.5,16,True,NA\n", "CI", "'acc' is missing"),
    csv("infinity", f"{GOOD},0.5,16,True,-inf\n", "CI", "is -inf"),
    csv("a failed trial needs no metric", f"{GOOD}FAIL,0.5,16,True,\n", "CI"),
    csv("out of range", f"{GOOD},1.5,16,True,0.5\n", "C", "import with --out-of-range=clip"),
    csv(
        "out of range, moved",
        ",1.5,16,True,0.5\n",
        "C",
        values={"lr": 1.0},
        options={"out_of_range": "clip"},
    ),
    # Words and numbers of other tools.
    csv(
        "states in any tool's words", f"{GOOD}finished,0.5,16,True,1\nRUNNING,0.5,16,True,\n", "CCA"
    ),
    csv(
        "pruned, crashed and killed",
        GOOD + "".join(f"{s},0.5,16,True,\n" for s in ("PRUNED", "crashed", "Killed")),
        "CIII",
    ),
    csv("an unknown state", f"{GOOD}weird,0.5,16,True,1\n", "C", "state is 'weird'"),
    csv("booleans in capitals", ",0.5,16,FALSE,1\n", "C", values={"flag": "False"}),
    csv("booleans in small letters", ",0.5,16,true,1\n", "C", values={"flag": "True"}),
    csv("32.0 for the category 32", ",0.5,32.0,True,1\n", "C", values={"batch": "32"}),
    csv("another category", f"{GOOD},0.5,64,True,1\n", "C", "batch='64' is not one of"),
    # The form of CSV.
    csv("a byte-order mark, as Excel writes it", GOOD, "C", header="\ufeff" + HEADER),
    csv(
        "semicolons and decimal commas",
        ";0,5;16;True;0,25\n",
        "C",
        header=SEMICOLONS,
        values={"lr": 0.5},
    ),
    csv("tabs", GOOD.replace(",", "\t"), "C", header=HEADER.replace(",", "\t")),
    csv("bars", GOOD.replace(",", "|"), "C", header=HEADER.replace(",", "|")),
    csv("a space after each comma", ", 0.5, 16, True, 1\n", "C", header=HEADER.replace(",", ", ")),
    csv(
        "a decimal comma makes one cell more",
        f"{GOOD},0,5,16,True,1\n",
        "C",
        "has 6 cells, but the header 5",
    ),
    csv("a row that breaks off", f"{GOOD},0.5,16\n", "C", "has 3 cells, but the header 5"),
    csv("a decimal comma in quotes", f'{GOOD},"0,5",16,True,1\n', "C", "decimal comma"),
    csv("thousands", f'{GOOD},0.5,16,True,"1,234.5"\n', "C", "separators of thousands"),
    csv(
        "an underscore, which Python would take",
        f"{GOOD},0.5,16,True,1_000\n",
        "C",
        "is not a number",
    ),
    csv(
        "points and commas mixed",
        ";0,5;16;True;0,25\n;0.5;16;True;0.25\n",
        "C",
        "decimal comma",
        header=SEMICOLONS,
    ),
    csv("lines of Windows", GOOD.replace("\n", "\r\n"), "C", header=HEADER.replace("\n", "\r\n")),
    csv(
        "line ends of old Macs",
        GOOD.replace("\n", "\r"),
        said="line feeds",
        header=HEADER.replace("\n", "\r"),
    ),
    csv("empty lines between", f"\n{GOOD}\n\n{GOOD}", "CC"),
    csv(
        "a quote that is never closed",
        f'{GOOD},"0.5,16,True,1\n{GOOD}',
        said="a quote is never closed",
    ),
    csv("one broken quote", f'{GOOD},"0.5"x,16,True,1\n{GOOD}', "CC", "the row is not CSV"),
    csv("a column twice", GOOD, said="has the column 'lr' twice", header="state,lr,batch,lr,acc\n"),
    csv("no column of a parameter", "1\n", said="has no column 'lr'", header="acc\n"),
    Row(
        why="a misspelt key of the spec",
        files={"log.csv": HEADER + GOOD, "log.toml": SPEC.replace("state_column", "state_colum")},
        said="unknown key 'state_colum'. Did you mean state_column?",
    ),
    Row(
        why="capitals in the ending",
        files={"LOG.CSV": HEADER + GOOD, "LOG.toml": SPEC},
        states=("C",),
    ),
    Row(why="another ending", files={"log.txt": HEADER + GOOD, "log.toml": SPEC}, states=("C",)),
    Row(
        why="UTF-16, as a Windows tool writes it",
        files={"log.csv": (HEADER + GOOD).encode("utf-16"), "log.toml": SPEC},
        said="is UTF-16 text. Save it as UTF-8",
    ),
    Row(
        why="Latin-1",
        files={"log.csv": HEADER.encode() + b",0.5,16,Tr\xfce,1\n", "log.toml": SPEC},
        said="is not UTF-8",
    ),
    Row(why="a zipped table", files={"log.csv": b"", "log.toml": SPEC}, states=("C",)),
    # Tables of tools, without a spec.
    Row(
        why="Optuna's states and an empty value",
        files={
            "t.csv": OPTUNA
            + "0,1.0,0.1,a,COMPLETE\n1,,0.2,b,FAIL\n2,3,0.3,a,PRUNED\n3,,0.4,a,RUNNING\n"
        },
        states=("CIIA",),
        said="value is taken as MINIMIZE, the tool's default",
    ),
    Row(
        why="a trial that failed before it had drawn all parameters",
        files={"t.csv": OPTUNA + "0,1.0,0.1,a,COMPLETE\n1,,0.2,,FAIL\n2,3,0.3,b,COMPLETE\n"},
        states=("CC",),
        said="before all its parameters were drawn",
    ),
    Row(
        why="None among the choices, which pandas writes as an empty cell",
        files={"t.csv": OPTUNA + "0,1.0,0.1,a,COMPLETE\n1,2,0.2,,COMPLETE\n2,3,0.3,b,COMPLETE\n"},
        states=("CCC",),
    ),
    Row(
        why="the direction is known",
        files={"t.csv": OPTUNA + "0,1.0,0.1,a,COMPLETE\n1,2,0.2,b,COMPLETE\n"},
        states=("CC",),
        options={"goal": Goal.MAXIMIZE},
    ),
    Row(
        why="a sweep of W&B with its states, newest run first",
        files={
            "w.csv": WANDB + "b,crashed,q1,2026-01-02,0.2,x,\na,finished,q1,2026-01-01,0.1,y,0.5\n"
        },
        states=("CI",),
        values={"lr": 0.1},
    ),
    Row(
        why="several metrics, and nobody says which",
        files={"w.csv": TWO_METRICS},
        said="Say which is the objective: --metric val_loss",
    ),
    Row(
        why="several metrics, and one is said",
        files={"w.csv": TWO_METRICS},
        states=("CC",),
        options={"metric": "train_loss"},
    ),
    Row(
        why="a metric whose goal no name tells",
        files={
            "w.csv": WANDB.replace("val_loss", "quality")
            + "a,finished,q,1,0.1,y,1\nb,finished,q,2,0.2,x,1\n"
        },
        said="--goal MAXIMIZE or --goal MINIMIZE",
    ),
    Row(
        why="the table of W&B's guide, with NaN in a dictionary",
        files={"w.csv": DICTIONARIES},
        states=("CI",),
    ),
    Row(
        why="two sweeps in one table",
        files={
            "w.csv": WANDB
            + "a,finished,q1,1,0.1,y,1\nb,finished,q2,2,0.2,x,1\n"
            + "c,finished,q1,3,0.3,x,1\nd,finished,q2,4,0.1,y,1\n"
        },
        states=("CC", "CC"),
    ),
    Row(
        why="MLflow writes the newest run first, and constants among the parameters",
        files={
            "m.csv": MLFLOW.replace("params.opt", "params.data")
            + "b,1,FINISHED,2026-01-02,2,0.2,wine\na,1,FINISHED,2026-01-01,1,0.1,wine\n"
        },
        states=("CC",),
        values={"lr": 0.1},
    ),
    Row(
        why="Ax's table without the objective's name",
        files={"a.csv": "trial_index,arm_name,trial_status,loss,lr\n0,0_0,COMPLETED,1,0.1\n"},
        said="say which column is the objective, with --metric",
    ),
    # Lines of JSON.
    jsonl("no JSON", '{"name": ', "the text is not JSON"),
    jsonl("100,000 brackets", "[" * 100_000 + "]" * 100_000, "nested too deeply"),
    jsonl("half a character", line(title="\ud800").strip(), "a lone surrogate"),
    jsonl("a key twice", '{"name": "a", "name": "b"}', "the key 'name' is there twice"),
    jsonl("5,000 digits", '{"name": ' + "9" * 5000 + "}", "the text is not JSON"),
    jsonl("a list", "[1, 2]", "must be an object with keys"),
    jsonl("an empty line", "   "),
    Row(why="a byte-order mark", files={"log.jsonl": "\ufeff" + line()}, states=("C",)),
    Row(
        why="a line that is not UTF-8",
        files={"log.jsonl": line().encode() + b'{"\xff"}\n' + line().encode()},
        states=("C", "C"),
        said="is not UTF-8 text",
    ),
    Row(why="no line end at the end", files={"log.jsonl": line().strip()}, states=("C",)),
    Row(
        why="the same file packed beside",
        files={"a.jsonl": line(), "a.jsonl.gz": gzip.compress(line().encode())},
        folder=True,
        states=("C",),
        said="a.jsonl once more",
    ),
    Row(
        why="pretty-printed",
        files={"log.jsonl": json.dumps(json.loads(line()), indent=2)},
        said="is pretty-printed JSON",
    ),
    Row(
        why="a list of studies",
        files={"log.json": "[" + line() + "]"},
        said="is a list of studies in one line",
    ),
    Row(
        why="another tool's JSON",
        files={"log.json": '{"version": 3, "cells": []}'},
        said="is JSON of another tool (with 'version', 'cells')",
    ),
    # What is something else.
    Row(
        why="a packed journal of Optuna",
        files={"j.log.gz": gzip.compress(b'{"op_code": 0, "worker_id": "a"}\n')},
        said="is a packed Optuna journal",
    ),
    Row(
        why="a pickled study",
        files={"study.pkl": pickle.dumps({})},
        said="is a pickled Python object",
    ),
    Row(
        why="bzip2",
        files={"log.jsonl.bz2": bz2.compress(line().encode())},
        said="is packed with bzip2",
    ),
    Row(why="a workbook", files={"log.xlsx": b""}, said="is a zip archive of 2 files"),
    Row(
        why="a page of an error instead of the file",
        files={"log.csv": "<!DOCTYPE html><html></html>"},
        said="is a page of HTML or XML",
    ),
    Row(why="a Parquet file", files={"log.parquet": b"PAR1xxxx"}, said="is a Parquet file"),
    Row(
        why="one trial of Ray Tune",
        files={"params.json": "{}", "result.json": "{}"},
        folder=True,
        said="is one trial of Ray Tune",
    ),
]


def _packed(name: str, content: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for inside, data in content.items():
            archive.writestr(inside, data)
    return packed.getvalue()


def _write(folder: Path, row: Row) -> str:
    for name, content in row.files.items():
        if row.why == "a zipped table" and name == "log.csv":
            content = _packed(name, {"trials.csv": (HEADER + GOOD).encode()})
        if name.endswith(".xlsx"):
            content = _packed(name, {"xl/workbook.xml": b"", "[Content_Types].xml": b""})
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return str(folder if row.folder else folder / next(iter(row.files)))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.why)
def test_an_odd_file_gives(row: Row, tmp_path: Path) -> None:
    source = _write(tmp_path, row)
    try:
        records = list(read(source, **row.options))
    except SourceError as error:
        assert not row.states, error
        assert row.said in str(error)
        return
    studies = [record for record in records if isinstance(record, Study)]
    states = tuple("".join("CIA"[state] for state in study.states_R) for study in studies)
    remarks = " ".join(str(record) for record in records if isinstance(record, Remark))
    assert states == row.states, remarks
    assert row.said in remarks
    for name, value in row.values.items():
        assert to_trials(studies[0])[0].parameters[name] == value


def test_there_are_many_rows() -> None:
    assert len(ROWS) >= 60


def test_a_line_that_no_memory_holds_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gzip packs 8 GB of spaces in 8 MB; here 64 MB must pass through a limit of 1 MB."""
    import tracemalloc

    path = tmp_path / "log.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(line().encode() + b'{"name": "')
        for _ in range(64):
            file.write(b" " * (1 << 20))
        file.write(b'"}\n' + line().encode())
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr(text_files, "LONGEST_LINE", 1 << 20)
    tracemalloc.start()
    first, skipped, last = read(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(first, Study)
    assert isinstance(last, Study)
    assert isinstance(skipped, Remark)
    assert "the line is longer than 1 MiB" in skipped.reason
    assert peak < 16 << 20


def test_a_document_that_no_memory_holds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "LARGEST_DOCUMENT", 1 << 20)
    path = tmp_path / "runhistory.json"
    path.write_bytes(gzip.compress(b'{"data":[' + b" " * (2 << 20) + b'],"configs":{}}'))
    with pytest.raises(SourceError, match="holds more than 1 MiB of JSON in one piece"):
        list(read(str(path), format="smac"))


def test_thousands_of_metrics_and_parameters_are_read_in_seconds(tmp_path: Path) -> None:
    metrics = [{"name": f"m{k}", "goal": "MAXIMIZE", "safety_threshold": 0} for k in range(20_000)]
    parameters = [{"name": f"p{k}", "type": "DOUBLE", "bounds": [0, 1]} for k in range(5_000)]
    document = json.loads(line())
    document["metrics"] += metrics
    document["parameters"] += parameters
    document["trials"][0]["parameters"] |= {f"p{k}": 0.5 for k in range(5_000)}
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(document) + "\n")
    (study,) = read(str(path))
    assert isinstance(study, Study)
    assert len(study.problem.metrics) == 20_001
