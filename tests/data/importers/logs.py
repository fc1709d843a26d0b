"""The same studies as a log of every format, by the library whose format it is if it is installed.

A log holds the studies "a", "b" and "c" of four trials (completed, infeasible, completed,
completed), and, unless it is to be good, the study "bad" before "c", whose second trial is bad: a
value lies outside its bounds, or, where a log says no bounds, a parameter is missing.
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


HOPELESS = "hopeless"


def trials(name: str) -> list[Trial]:
    """Four trials that differ between studies; the second trial of "bad" has lr=3.0.

    Those of "hopeless" are all bad.
    """
    return [
        Trial(
            parameters={
                "lr": 3.0 if (name == BAD and row == 1) or name == HOPELESS else 10.0 ** -(row % 4),
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


def _plain(name: str) -> list[tuple[dict[str, object], float | None]]:
    """Parameters and metric of the trials, for logs that say no search space."""
    return [
        (
            {key: value for key, value in trial.parameters.items() if not (bad and key == "layers")}
            | ({"lr": 0.5} if bad else {}),
            0.5 if bad else trial.metrics.get("accuracy"),
        )
        for row, trial in enumerate(trials(name))
        for bad in [name == BAD and row == 1]
    ]


def _tables(
    folder: Path, good: bool, columns: tuple[str, str], row: Callable[[int, bool], dict[str, str]]
) -> str:
    """A CSV file for each study: parameters, metric and what the tool adds to row."""
    parameter, metric = columns
    for name in names(good):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            rows = [
                row(number, value is None)
                | {f"{parameter}{key}": drawn.get(key, "") for key in ("lr", "layers", "optimizer")}
                | {metric: "" if value is None else value}
                for number, (drawn, value) in enumerate(_plain(name))
            ]
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return str(folder)


def optuna_csv(folder: Path, good: bool = True) -> str:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, optuna.distributions.BaseDistribution] = {
        "lr": optuna.distributions.FloatDistribution(1e-4, 1.0, log=True),
        "layers": optuna.distributions.IntDistribution(1, 8),
        "optimizer": optuna.distributions.CategoricalDistribution(["adam", "sgd"]),
    }
    for name in names(good):
        study = optuna.create_study(direction="maximize")
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            study.set_metric_names(["accuracy"])
        for row, (drawn, value) in enumerate(_plain(name)):
            states = optuna.trial.TrialState
            study.add_trial(
                optuna.trial.create_trial(
                    params=drawn,
                    distributions={key: space[key] for key in drawn},
                    value=value,
                    state=states.FAIL if value is None else states.COMPLETE,
                    user_attrs={"host": f"host-{row}"},
                )
            )
        study.trials_dataframe().to_csv(folder / f"{name}.csv")
    return str(folder)


def wandb(folder: Path, good: bool = True) -> str:
    def row(number: int, failed: bool) -> dict[str, str]:
        state = "crashed" if failed else "finished"
        when = f"2026-01-01T10:0{number}:00Z"
        return {"Name": f"fog-{number}", "State": state, "Sweep": "a1b2", "Created": when}

    return _tables(folder, good, ("config.", "accuracy"), row)


def mlflow(folder: Path, good: bool = True) -> str:
    def row(number: int, failed: bool) -> dict[str, str]:
        status = "FAILED" if failed else "FINISHED"
        when = f"2026-01-01 10:0{number}:00+00:00"
        return {"run_id": f"c{number}", "experiment_id": "1", "status": status, "start_time": when}

    return _tables(folder, good, ("params.", "metrics.accuracy"), row)


def ax(folder: Path, good: bool = True) -> str:
    def row(number: int, failed: bool) -> dict[str, str]:
        status = "FAILED" if failed else "COMPLETED"
        return {"trial_index": str(number), "arm_name": f"{number}_0", "trial_status": status}

    return _tables(folder, good, ("", "accuracy"), row)


def ray_tune(folder: Path, good: bool = True) -> str:
    for name in names(good):
        for number, (drawn, value) in enumerate(_plain(name)):
            trial = folder / name / f"objective_5ccc2_{number:05}_{number}_2026"
            trial.mkdir(parents=True)
            (trial / "params.json").write_text(json.dumps(drawn))
            if value is None:
                (trial / "error.txt").write_text("out of memory")
                continue
            reports = [
                {"accuracy": value * step / 2, "training_iteration": step, "config": drawn}
                for step in (1, 2)
            ]
            (trial / "result.json").write_text("".join(json.dumps(r) + "\n" for r in reports))
    return str(folder)


def syne_tune(folder: Path, good: bool = True) -> str:
    for name in names(good):
        experiment = folder / name
        experiment.mkdir()
        # Without its search space, as older versions wrote it: that of a golden file is read too.
        metadata = {"metric_names": ["accuracy"], "metric_mode": "max"}
        (experiment / "metadata.json").write_text(
            json.dumps({**metadata, "scheduler_name": "random_search"})
        )
        with (experiment / "results.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            columns = "accuracy trial_id st_decision st_status config_lr config_layers"
            writer.writerow([*columns.split(), "config_optimizer"])
            for number, (drawn, value) in enumerate(_plain(name)):
                cells = [drawn.get(key, "") for key in ("lr", "layers", "optimizer")]
                status = "Failed" if value is None else "InProgress"
                metric = "" if value is None else value
                writer.writerow([metric, number, "CONTINUE", status, *cells])
    return str(folder)


def smac(folder: Path, good: bool = True) -> str:
    for name in names(good):
        place = folder / name / "0"
        place.mkdir(parents=True)
        rows = _plain(name)
        runs = [
            {
                "config_id": number,
                "seed": 0,
                "budget": None,
                "cost": 1e9 if value is None else value,
                "status": 2 if value is None else 1,
            }
            for number, (_, value) in enumerate(rows)
        ]
        configs = {number: drawn for number, (drawn, _) in enumerate(rows)}
        history = {"stats": {}, "data": runs, "configs": configs}
        (place / "runhistory.json").write_text(json.dumps(history, indent=2))
        (place / "scenario.json").write_text(json.dumps({"objectives": "accuracy"}))
    return str(folder)


def hyperopt(folder: Path, good: bool = True) -> str:
    for name in names(good):
        rows = [
            {
                "state": 2,
                "tid": number,
                "result": {"status": "fail"} if value is None else {"loss": value, "status": "ok"},
                "misc": {
                    "vals": {
                        key: [str(("adam", "sgd").index(v)) if key == "optimizer" else v]
                        for key, v in drawn.items()
                    }
                },
            }
            for number, (drawn, value) in enumerate(_plain(name))
        ]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return str(folder)


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
    "optuna-csv": optuna_csv,
    "wandb": wandb,
    "mlflow": mlflow,
    "ax": ax,
    "ray-tune": ray_tune,
    "syne-tune": syne_tune,
    "smac": smac,
    "hyperopt": hyperopt,
}
LOGS = {name: copies(make) for name, make in MAKERS.items()}
# Files and folders are read by name, and so are Vizier's studies.
SORTED_BY_NAME = tuple(
    name
    for name in MAKERS
    if name == "optuna-csv" or not name.startswith(("jsonl", "csv", "optuna"))
)
# Logs that say no search space: it is what was tried.
INFERRED = tuple(MAKERS)[tuple(MAKERS).index("optuna-csv") :]
BOUNDLESS = tuple(name for name in MAKERS if "optuna" in name) + INFERRED
WITH_NOTES = tuple(name for name in MAKERS if name.startswith(("jsonl", "vizier", "optuna")))
METRICS = {"hyperopt": "loss"}
MINIMIZED = ("smac", "hyperopt")
ALGORITHMS = {"smac": "smac"}
