"""Vizier's service with our policies, and what it needs to hold under load and faults.

What differs from Vizier's own:

- A suggestion is computed within its request, so an operation is finished when a client first hears
  of it. Operations live in memory and not in the database. A server that is killed leaves none
  behind that its client would wait for, and a suggestion is one commit and not four.
- SQLite writes ahead (WAL) and waits for the disk at each commit: what was acknowledged is there
  after kill -9 and after a power cut. Look-ups by study have an index.
- A trial is completed only with a finite value of every objective, and only once. (Vizier writes
  the second value over the first, and a NaN would stop the study's later suggestions.)
- A study cannot name another server to ask for suggestions.
- Bytes are stored as bytes, so that PostgreSQL takes them, and several servers can share it.
"""

import collections
import contextlib
import math
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import sqlalchemy
from google.longrunning import operations_pb2
from vizier._src.service import (
    custom_errors,
    pythia_service,
    resources,
    sql_datastore,
    study_pb2,
    types,
    vizier_service,
    vizier_service_pb2,
)

from optformer.errors import StudyError

if TYPE_CHECKING:
    import sqlite3

    import grpc
    from vizier import pythia

_OPERATIONS = 1000  # how many finished ones can still be asked for
_ATTEMPTS = 20  # to give a trial a number that no other server gives
_WAIT_SECONDS = 30.0  # for another process to let go of an SQLite file


class StudyService(vizier_service.VizierServicer):
    """Answers the requests of Vizier's clients.

    Args:
      database_url: SQLAlchemy's.
      policy_factory: whose algorithms it offers.
    """

    def __init__(self, database_url: str, policy_factory: "pythia.PolicyFactory") -> None:
        super().__init__(database_url=None)
        self.datastore = Datastore(database_url)
        self.default_pythia_service = pythia_service.PythiaServicer(
            self, policy_factory=policy_factory
        )

    def close(self) -> None:
        """Lets go of the database."""
        self.datastore.close()

    def recover(self) -> None:
        """Makes the database usable again after an error in it."""
        self.datastore.recover()

    def trials(self, study_name: str) -> int:
        """The highest trial number of the study.

        Raises:
          NotFoundError: there is no such study.
        """
        return self.datastore.max_trial_id(study_name)

    def CompleteTrial(
        self,
        request: vizier_service_pb2.CompleteTrialRequest,
        context: "grpc.ServicerContext | None" = None,
    ) -> study_pb2.Trial:
        """As Vizier's, if the measurement is one that suggestions can go on with.

        Raises:
          StudyError: an objective is missing, or a value is not finite.
        """
        measured = {each.metric_id: each.value for each in request.final_measurement.metrics}
        if not request.trial_infeasible and measured:
            _check_measured(request.name, measured, self._objectives(request.name))
        return super().CompleteTrial(request, context)

    def _objectives(self, trial_name: str) -> list[str]:
        study = resources.TrialResource.from_name(trial_name).study_resource.name
        metrics = self.datastore.load_study(study).study_spec.metrics
        return [each.metric_id for each in metrics if not each.HasField("safety_config")]

    def _select_pythia_service(self, endpoint: str | None = None) -> types.PythiaService:
        if endpoint is not None:
            raise StudyError(
                f"the study asks for suggestions from the server {endpoint!r}. This one computes "
                "its own: leave out pythia_endpoint."
            )
        return self.default_pythia_service


class Datastore(sql_datastore.SQLDataStore):
    """Studies and trials in an SQL database; operations in memory."""

    def __init__(self, database_url: str) -> None:
        engine = _engine(database_url)
        # Vizier declares its columns of bytes as text, which only SQLite lets pass.
        tables = sql_datastore.SQLDataStore(sqlalchemy.create_engine("sqlite://"))._root_metadata
        _declare_bytes(tables)
        tables.create_all(engine)
        super().__init__(engine)
        _declare_bytes(self._root_metadata)
        self._operations: collections.OrderedDict[str, bytes] = collections.OrderedDict()
        self._started = 0
        self._operations_lock = threading.Lock()
        trials, studies = self._trials_table.c, self._studies_table.c
        for index in (
            sqlalchemy.Index("trials_by_study", trials.owner_id, trials.study_id, trials.trial_id),
            sqlalchemy.Index("studies_by_owner", studies.owner_id),
        ):
            index.create(self._engine, checkfirst=True)

    def recover(self) -> None:
        """Ends a transaction that failed, and connects again if the connection is lost."""
        with self._lock:
            self._connection.rollback()

    def create_trial(self, trial: study_pb2.Trial) -> resources.TrialResource:
        """As Vizier's; where another server on the database took its number, it gets the next.

        Raises:
          AlreadyExistsError: others were faster each time.
        """
        for _ in range(_ATTEMPTS):
            try:
                return super().create_trial(trial)
            except custom_errors.AlreadyExistsError:
                study = resources.TrialResource.from_name(trial.name).study_resource
                trial.id = str(self.max_trial_id(study.name) + 1)
                trial.name = study.trial_resource(trial.id).name
        return super().create_trial(trial)

    def close(self) -> None:
        """Lets go of the database, and of SQLite's log beside it."""
        with self._lock:
            self._connection.rollback()
            if self._engine.dialect.name == "sqlite":
                # A file that nobody writes any more can be read where nothing can be written.
                with contextlib.suppress(sqlalchemy.exc.OperationalError):  # others still do
                    self._connection.exec_driver_sql("PRAGMA busy_timeout = 0")
                    self._connection.exec_driver_sql("PRAGMA journal_mode = DELETE")
            self._connection.close()
            self._engine.dispose()

    def create_suggestion_operation(
        self, operation: operations_pb2.Operation
    ) -> resources.SuggestionOperationResource:
        """Keeps the operation, in memory."""
        with self._operations_lock:
            self._operations[operation.name] = operation.SerializeToString()
            while len(self._operations) > _OPERATIONS:
                self._operations.popitem(last=False)
        return resources.SuggestionOperationResource.from_name(operation.name)

    def update_suggestion_operation(
        self, operation: operations_pb2.Operation
    ) -> resources.SuggestionOperationResource:
        """Keeps the operation as it is now."""
        return self.create_suggestion_operation(operation)

    def get_suggestion_operation(self, operation_name: str) -> operations_pb2.Operation:
        """A recent operation.

        Raises:
          NotFoundError: there is none of that name.
        """
        with self._operations_lock:
            found = self._operations.get(operation_name)
        if found is None:
            raise custom_errors.NotFoundError(f"there is no operation {operation_name!r}.")
        return operations_pb2.Operation.FromString(found)

    def list_suggestion_operations(
        self,
        study_name: str,
        client_id: str,
        filter_fn: Callable[[operations_pb2.Operation], bool] | None = None,
    ) -> list[operations_pb2.Operation]:
        """None: while one is under way, nobody else may ask, and a finished one is of no use."""
        return []

    def max_suggestion_operation_number(self, study_name: str, client_id: str) -> int:
        """A number that grows: how many there have been since the start, of any study."""
        with self._operations_lock:
            self._started += 1
            return self._started

    def update_metadata(
        self, study_name: str, study_metadata: Iterable, trial_metadata: Iterable
    ) -> None:
        """As Vizier's, but writes nothing where there is nothing to write."""
        on_study, on_trials = list(study_metadata), list(trial_metadata)
        if on_study or on_trials:
            super().update_metadata(study_name, on_study, on_trials)


def _engine(database_url: str) -> sqlalchemy.Engine:
    """One connection for all threads: the datastore lets one of them use it at a time."""
    url = sqlalchemy.make_url(database_url)
    if url.get_backend_name() != "sqlite":
        return sqlalchemy.create_engine(url, poolclass=sqlalchemy.StaticPool, pool_pre_ping=True)
    engine = sqlalchemy.create_engine(
        url,
        poolclass=sqlalchemy.StaticPool,
        connect_args={"check_same_thread": False, "timeout": _WAIT_SECONDS},
    )
    sqlalchemy.event.listen(engine, "connect", _make_durable)
    return engine


def _declare_bytes(tables: sqlalchemy.MetaData) -> None:
    for table in tables.tables.values():
        for column in table.columns:
            if column.name.startswith("serialized_"):
                column.type = sqlalchemy.LargeBinary()


def _make_durable(connection: "sqlite3.Connection", record: object) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")


def _check_measured(trial: str, measured: dict[str, float], objectives: list[str]) -> None:
    for name, value in measured.items():
        if not math.isfinite(value):
            raise StudyError(
                f"{trial}: metric {name!r} is {value}, but must be a finite number. Complete a "
                "failed trial with infeasible_reason."
            )
    for name in objectives:
        if name not in measured:
            raise StudyError(
                f"{trial}: metric {name!r} was not measured (measured: {sorted(measured)}). "
                "Complete the trial with it, or with infeasible_reason."
            )
