"""What a database keeps, of ours and of Vizier's own service."""

import uuid
from pathlib import Path

import pytest
import sqlalchemy
from vizier._src.service import study_pb2, vizier_service

from optformer.service.limits import Limits
from optformer.service.store import Store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:vizier")


def test_after_an_error_in_the_database_it_can_be_used(url: str) -> None:
    store = Store(url, Limits())
    name = f"owners/o/studies/{uuid.uuid4()}"
    try:
        with pytest.raises(sqlalchemy.exc.SQLAlchemyError), store.writing() as records:
            records.add_study(study_pb2.Study(name=name, display_name="undone"))
            records._connection.exec_driver_sql("SELECT nothing FROM nowhere")
        with store.writing() as records:
            records.add_study(study_pb2.Study(name=name))
        with store.writing() as records:
            assert records.study(name).display_name == ""
            records.remove_study(name)
    finally:
        store.close()


def test_a_database_of_viziers_own_service_is_served_on(tmp_path: Path) -> None:
    path = tmp_path / "vizier.db"
    theirs = vizier_service.VizierServicer(database_url=f"sqlite:///{path}")
    name = "owners/o/studies/old"
    theirs.datastore.create_study(study_pb2.Study(name=name, display_name="old"))
    theirs.datastore.create_trial(study_pb2.Trial(name=f"{name}/trials/3", id="3"))
    theirs.datastore._connection.close()
    theirs.datastore._engine.dispose()
    store = Store(f"sqlite:///{path}", Limits())
    new = study_pb2.Trial()
    with store.writing() as records:
        assert records.study(name).display_name == "old"
        assert [trial.id for trial in records.trials(name)] == ["3"]
        records.add_trials(name, [new])
    assert new.id == "4"
    store.close()
