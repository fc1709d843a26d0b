"""Vizier's own service writes the database that is read here, and damage in it is named."""

import contextlib
import sqlite3
from pathlib import Path

import pytest
from vizier.service import clients
from vizier.service import pyvizier as vz

from optformer.data.importers import Remark, read
from optformer.service.server import running
from optformer.study import State, Study
from tests.data.importers import logs


# Vizier's random search calls a function that numpy deprecated.
@pytest.mark.filterwarnings("ignore:This function is deprecated:DeprecationWarning")
def test_database_of_a_real_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "service.db"
    config = logs.vizier_config()
    config.search_space.root.add_bool_param("flag")
    with running(database_url=f"sqlite:///{path}") as endpoint:
        monkeypatch.setattr(clients.environment_variables, "server_endpoint", endpoint)
        study = clients.Study.from_study_config(config, owner="team", study_id="tuning")
        suggestions = study.suggest(count=4)
        for row, suggestion in enumerate(suggestions[:3]):
            if row == 1:
                suggestion.complete(infeasible_reason="diverged")
            else:
                suggestion.complete(vz.Measurement({"accuracy": row / 2}))
        values = [dict(suggestion.parameters) for suggestion in suggestions]

    (ours,) = read(str(path))
    assert isinstance(ours, Study)
    assert (ours.name, ours.algorithm) == ("tuning", "random_search")
    assert [State(state).name for state in ours.states_R] == [
        "COMPLETED",
        "INFEASIBLE",
        "COMPLETED",
        "ACTIVE",
    ]
    names = [parameter.name for parameter in ours.problem.parameters]
    lr, flag = names.index("lr"), names.index("flag")
    assert ours.values_RP[:, lr].tolist() == [trial["lr"] for trial in values]
    assert ours.values_RP[:, flag].tolist() == [float(trial["flag"]) for trial in values]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "UPDATE studies SET serialized_study = x'ff00' WHERE study_id = 'b'",
            "study 'b': not a proto of Vizier's",
        ),
        ("DELETE FROM trials WHERE study_id = 'b'", "study 'b' has no trials"),
        # An empty proto is a valid one: a study without a search space.
        (
            "UPDATE studies SET serialized_study = x'' WHERE study_id = 'b'",
            "problem 'b' has no parameters",
        ),
    ],
)
def test_damage_in_one_study_leaves_the_others(
    tmp_path: Path, statement: str, message: str
) -> None:
    path = logs.vizier_sqlite(tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()
    first, damaged, last = read(path)
    assert isinstance(first, Study)
    assert isinstance(last, Study)
    assert isinstance(damaged, Remark)
    assert message in damaged.reason
    assert str(damaged).startswith(f"{path}, owner 'me': ")


def test_damage_in_one_trial_leaves_the_others(tmp_path: Path) -> None:
    path = logs.vizier_sqlite(tmp_path)
    statement = "UPDATE trials SET serialized_trial = x'ff00' WHERE study_id = 'b' AND trial_id = 3"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()
    first, damaged, second, last = read(path)
    assert isinstance(damaged, Remark)
    assert "study 'b', trial 3: the row: not a proto of Vizier's" in damaged.reason
    assert [len(study) for study in (first, second, last)] == [4, 3, 4]


def test_study_proto_without_trials_names_the_file_that_is_missing(tmp_path: Path) -> None:
    source = logs.vizier_pb(tmp_path)
    (tmp_path / "a.trials.pb").unlink()
    skipped, *others = read(source)
    assert isinstance(skipped, Remark)
    assert "study 'a': its trials are missing. Save them as a.trials.pb" in skipped.reason
    assert len(others) == 2
