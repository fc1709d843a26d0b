"""Studies in a database: what is kept, and several servers on one."""

import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy
from vizier import pyvizier as vz
from vizier._src.service import study_pb2, vizier_service

from optformer.service.client import open_study
from optformer.service.server import running
from optformer.service.limits import Limits
from optformer.service.store import Store
from tests.studies import plane

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:vizier")

LINE = plane(1, "line")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studies.db'}"
    given = os.environ.get("OPTFORMER_TEST_POSTGRESQL", "")
    if not given:
        pytest.skip("OPTFORMER_TEST_POSTGRESQL names no database, postgresql+psycopg://...")
    return given


def test_servers_share_a_database(url: str) -> None:
    """Clients of one study at two servers: every trial has its own number, and none is lost."""
    name = f"shared-{uuid.uuid4()}"
    with ExitStack() as stack:
        endpoints = [stack.enter_context(running(database_url=url)) for _ in range(2)]

        def tune(worker: int) -> list[int]:
            endpoint = endpoints[worker % 2]
            study = open_study(endpoint, LINE, algorithm="QUASI_RANDOM_SEARCH", name=name)
            seen = []
            for _ in range(3):
                [trial] = study.suggest(count=1, client_id=f"worker-{worker}")
                trial.complete(vz.Measurement({"y": float(worker)}))
                seen.append(trial.id)
            return seen

        tune(0)
        with ThreadPoolExecutor(4) as threads:
            seen = [number for numbers in threads.map(tune, range(1, 5)) for number in numbers]
        study = open_study(endpoints[0], LINE, algorithm="QUASI_RANDOM_SEARCH", name=name)
        trials = list(study.trials().get())
        study.delete()
    assert sorted(seen) == list(range(4, 16))
    assert [trial.id for trial in sorted(trials, key=lambda t: t.id)] == list(range(1, 16))
    assert all(trial.status == vz.TrialStatus.COMPLETED for trial in trials)


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
