"""The same studies as a log of every format, each written by the library whose format it is.

A log holds the studies "a", "b" and "c" of four trials (completed, infeasible, completed,
completed), and, unless it is to be good, the study "bad" before "c".
"""

import atexit
import csv
import functools
import gzip
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import optuna
import sqlalchemy
from google.protobuf import json_format, text_format
from optuna.exceptions import ExperimentalWarning
from vizier._src.pyvizier.oss.proto_converters import TrialConverter
from vizier._src.service import sql_datastore, study_pb2, vizier_service_pb2
from vizier.service import pyvizier as vz

from optformer.study import State, Trial

STATES = (State.COMPLETED, State.INFEASIBLE, State.COMPLETED, State.COMPLETED)
GOOD = ("a", "b", "c")
BAD = "bad"

SPEC = {
    "algorithm": "random_search",
    "metrics": [{"name": "accuracy", "goal": "MAXIMIZE"}],
    "parameters": [
        {"name": "lr", "type": "DOUBLE", "scale": "LOG", "bounds": [1e-4, 1.0]},
        {"name": "layers", "type": "INTEGER", "scale": "LINEAR", "bounds": [1, 8]},
        {"name": "optimizer", "type": "CATEGORICAL", "values": ["adam", "sgd"]},
    ],
}


def trials(name: str) -> list[Trial]:
    """Four trials that differ between studies; the second trial of "bad" has lr=3.0."""
    return [
        Trial(
            parameters={
                "lr": 3.0 if name == BAD and row == 1 else 10.0 ** -(row % 4),
                "layers": 1 + (len(name) + ord(name[0]) + row) % 8,
                "optimizer": ("sgd", "adam")[row % 2],
            },
            metrics={} if state == State.INFEASIBLE else {"accuracy": ord(name[0]) / 256 + row},
            state=state,
            notes={"host": f"host-{row}"},
        )
        for row, state in enumerate(STATES)
    ]


def names(good: bool) -> list[str]:
    """The studies of a log in the order in which it is written."""
    return list(GOOD) if good else ["a", "b", BAD, "c"]


def _document(name: str) -> dict[str, object]:
    return {
        "name": name,
        "title": f"Secret plan of {name}",
        "metadata": {"team": f"hidden-{name}"},
        **SPEC,
        "trials": [
            {
                "parameters": dict(t.parameters),
                "metrics": dict(t.metrics),
                "state": t.state.name,
                "notes": dict(t.notes),
            }
            for t in trials(name)
        ],
    }


def jsonl(folder: Path, good: bool = True) -> str:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(_document(name)) + "\n" for name in names(good)))
    return str(path)


def jsonl_gz(folder: Path, good: bool = True) -> str:
    path = folder / "log.jsonl.gz"
    with gzip.open(path, "wt") as file:
        # Blank lines are no studies, and the last line has no end.
        file.write("\n\n".join(json.dumps(_document(name)) for name in names(good)))
    return str(path)


def jsonl_folder(folder: Path, good: bool = True) -> str:
    for number, name in enumerate(names(good)):
        (folder / f"{number}.jsonl").write_text(json.dumps(_document(name)))
    return str(folder)


def table(folder: Path, good: bool = True) -> str:
    path = folder / "log.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "seconds", "lr", "layers", "optimizer", "accuracy", "status"])
        for name in names(good):
            for trial in trials(name):
                values = trial.parameters.values()
                metric = trial.metrics.get("accuracy", "")
                writer.writerow([name, 1.5, *values, metric, trial.state.name])
    spec = {**SPEC, "study_column": "task", "state_column": "status"}
    (folder / "log.json").write_text(json.dumps(spec))
    return str(path)


def vizier_config() -> vz.StudyConfig:
    config = vz.StudyConfig(algorithm="RANDOM_SEARCH")
    root = config.search_space.root
    root.add_float_param("lr", 1e-4, 1.0, scale_type=vz.ScaleType.LOG)
    root.add_int_param("layers", 1, 8, scale_type=vz.ScaleType.LINEAR)
    root.add_categorical_param("optimizer", ["adam", "sgd"])
    config.metric_information.append(
        vz.MetricInformation("accuracy", goal=vz.ObjectiveMetricGoal.MAXIMIZE)
    )
    return config


def vizier_protos(name: str) -> tuple[study_pb2.Study, list[study_pb2.Trial]]:
    config = vizier_config()
    config.metadata["title"] = f"Secret plan of {name}"
    config.metadata["team"] = f"hidden-{name}"
    resource = f"owners/me/studies/{name}"
    protos = []
    for number, trial in enumerate(trials(name), start=1):
        infeasible = trial.state == State.INFEASIBLE
        proto = TrialConverter.to_proto(
            vz.Trial(
                id=number,
                parameters=dict(trial.parameters),
                final_measurement=None if infeasible else vz.Measurement(dict(trial.metrics)),
                infeasibility_reason="diverged" if infeasible else None,
                metadata=vz.Metadata(dict(trial.notes)),
            )
        )
        proto.name = f"{resource}/trials/{number}"
        protos.append(proto)
    study = study_pb2.Study(name=resource, display_name=name, study_spec=config.to_proto())
    return study, protos


def vizier_sqlite(folder: Path, good: bool = True) -> str:
    path = folder / "vizier.db"
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    datastore = sql_datastore.SQLDataStore(engine)
    for name in names(good):
        study, protos = vizier_protos(name)
        datastore.create_study(study)
        for proto in protos:
            datastore.create_trial(proto)
    datastore._connection.close()
    engine.dispose()
    return str(path)


def vizier_url(folder: Path, good: bool = True) -> str:
    return f"sqlite:///{vizier_sqlite(folder, good)}"


def vizier_pb(folder: Path, good: bool = True) -> str:
    for name in names(good):
        study, protos = vizier_protos(name)
        answer = vizier_service_pb2.ListTrialsResponse(trials=protos)
        # A folder may mix protobuf's three forms.
        if name == "b":
            (folder / f"{name}.study.textproto").write_text(text_format.MessageToString(study))
            (folder / f"{name}.trials.textproto").write_text(text_format.MessageToString(answer))
        elif name == "c":
            (folder / f"{name}.study.json").write_text(json_format.MessageToJson(study))
            (folder / f"{name}.trials.json").write_text(json_format.MessageToJson(answer))
        else:
            (folder / f"{name}.study.pb").write_bytes(study.SerializeToString())
            (folder / f"{name}.trials.pb").write_bytes(answer.SerializeToString())
    return str(folder)


def _optuna_studies(storage: optuna.storages.BaseStorage, good: bool) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, optuna.distributions.BaseDistribution] = {
        "lr": optuna.distributions.FloatDistribution(1e-4, 1.0, log=True),
        "layers": optuna.distributions.IntDistribution(1, 8),
        "optimizer": optuna.distributions.CategoricalDistribution(["adam", "sgd"]),
    }
    for name in names(good):
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            study.set_metric_names(["accuracy"])
        study.set_user_attr("team", f"hidden-{name}")
        study.set_user_attr("algorithm", "random_search")
        for row, trial in enumerate(trials(name)):
            bad = name == BAD and row == 1
            # Optuna refuses values outside a distribution; that a trial may lack a parameter
            # which no other parameter disables, it allows.
            drawn = [p for p in space if not (bad and p == "layers")]
            failed = trial.state == State.INFEASIBLE and not bad
            study.add_trial(
                optuna.trial.create_trial(
                    params={p: 0.5 if bad and p == "lr" else trial.parameters[p] for p in drawn},
                    distributions={p: space[p] for p in drawn},
                    value=None if failed else trial.metrics.get("accuracy", 0.0),
                    state=optuna.trial.TrialState.FAIL
                    if failed
                    else optuna.trial.TrialState.COMPLETE,
                    user_attrs=dict(trial.notes),
                )
            )


def optuna_sqlite(folder: Path, good: bool = True) -> str:
    path = folder / "optuna.db"
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    _optuna_studies(storage, good)
    storage.remove_session()
    storage.engine.dispose()
    return str(path)


def optuna_journal(folder: Path, good: bool = True) -> str:
    path = folder / "journal.log"
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    _optuna_studies(optuna.storages.JournalStorage(backend), good)
    return str(path)


@functools.cache
def _made(make: Callable[[Path, bool], str], good: bool) -> tuple[Path, str]:
    folder = Path(tempfile.mkdtemp(dir=_TEMPORARY.name))
    return folder, make(folder, good)


def copies(make: Callable[[Path, bool], str]) -> Callable[[Path, bool], str]:
    """The same maker, but it makes a log once and then copies it: databases are slow to fill."""

    def copy(folder: Path, good: bool = True) -> str:
        original, source = _made(make, good)
        shutil.copytree(original, folder, dirs_exist_ok=True)
        return source.replace(str(original), str(folder))

    return copy


_TEMPORARY = tempfile.TemporaryDirectory()
atexit.register(_TEMPORARY.cleanup)

MAKERS: dict[str, Callable[[Path, bool], str]] = {
    "jsonl": jsonl,
    "jsonl, gzip": jsonl_gz,
    "jsonl, folder": jsonl_folder,
    "csv": table,
    "vizier, sqlite": vizier_sqlite,
    "vizier, url": vizier_url,
    "vizier-protos": vizier_pb,
    "optuna, sqlite": optuna_sqlite,
    "optuna-journal": optuna_journal,
}
LOGS = {name: copies(make) for name, make in MAKERS.items()}
SORTED_BY_NAME = ("vizier, sqlite", "vizier, url", "vizier-protos")
