"""Studies and trials in an SQL database, which several servers may share.

The tables are those of Vizier's own datastore, and one more: `study_totals` keeps the highest trial
number that a study ever gave, so that none is used again after a deletion, and the study's size.

A transaction that writes locks the row of its study first (`SELECT ... FOR UPDATE`; SQLite locks
the whole file with `BEGIN IMMEDIATE`). So changes of one study happen one after another, whichever
server makes them, and each sees the ones before it. SQLite writes ahead (WAL), and each commit
waits for the disk: what was acknowledged is there after kill -9 and after a power cut.
"""

import contextlib
import dataclasses
import sqlite3
import threading
from collections.abc import Iterator

import sqlalchemy
from sqlalchemy import Column, Index, Integer, LargeBinary, String, Table, func, select
from vizier._src.service import custom_errors, resources, study_pb2

from optformer.service.limits import FullError, Limits

_WAIT_SECONDS = 20  # for another transaction to end
_CLOSE_SECONDS = 2  # for transactions that are under way when the store is closed
_SCHEMA_LOCK = 0x6F7074666F726D  # one server at a time creates the tables

_TABLES = sqlalchemy.MetaData()
_OWNERS = Table("owners", _TABLES, Column("owner_name", String, primary_key=True))
_STUDIES = Table(
    "studies",
    _TABLES,
    Column("study_name", String, primary_key=True),
    Column("owner_id", String),
    Column("study_id", String),
    Column("serialized_study", LargeBinary),
)
_TRIALS = Table(
    "trials",
    _TABLES,
    Column("trial_name", String, primary_key=True),
    Column("owner_id", String),
    Column("study_id", String),
    Column("trial_id", Integer),
    Column("serialized_trial", LargeBinary),
)
_TOTALS = Table(
    "study_totals",
    _TABLES,
    Column("study_name", String, primary_key=True),
    Column("last_trial_id", Integer, nullable=False),
    Column("stored_bytes", Integer, nullable=False),
)
_PROBES = Table("probes", _TABLES, Column("probe", Integer, primary_key=True), Column("at", String))
# Vizier's own tables have none, and theirs may be there already.
_INDEXES = (
    Index("trials_by_study", _TRIALS.c.owner_id, _TRIALS.c.study_id, _TRIALS.c.trial_id),
    Index("studies_by_owner", _STUDIES.c.owner_id),
)


class BusyError(Exception):
    """Another transaction held a lock for too long, or the store is closed."""


class Store:
    """Opens transactions.

    Raises:
      sqlalchemy.exc.SQLAlchemyError: the database cannot be opened, or not written.
    """

    def __init__(self, database_url: str, limits: Limits) -> None:
        self._limits = limits
        url = sqlalchemy.make_url(database_url)
        self._is_sqlite = url.get_backend_name() == "sqlite"
        in_memory = self._is_sqlite and url.database in (None, "", ":memory:")
        self._engine = _sqlite_engine(url, in_memory) if self._is_sqlite else _engine(url)
        # SQLite lets one connection write, and others wait in no order. Here they take turns.
        self._write_turn = threading.Semaphore() if self._is_sqlite else None
        # A database in memory is one connection, which one thread may use at a time.
        self._read_turn = self._write_turn if in_memory else None
        self._closed, self._under_way = False, 0
        self._changed = threading.Condition()
        try:
            self._create_tables()
            self.probe()
        except BaseException:
            self._engine.dispose()
            raise

    @contextlib.contextmanager
    def reading(self) -> Iterator["Records"]:
        """A transaction that changes nothing; it is over when the block ends."""
        with self._transaction(write=False, turn=self._read_turn) as connection:
            yield Records(connection, self._limits, locks=False)

    @contextlib.contextmanager
    def writing(self) -> Iterator["Records"]:
        """A transaction whose changes are there for all when the block ends, or never."""
        with self._transaction(write=True, turn=self._write_turn) as connection:
            yield Records(connection, self._limits, locks=True)

    def probe(self) -> None:
        """Writes something.

        Raises:
          sqlalchemy.exc.SQLAlchemyError: it cannot be written.
        """
        with self._transaction(write=True, turn=self._write_turn) as connection:
            written = connection.execute(_PROBES.update().values(at=func.current_timestamp()))
            if not written.rowcount:
                connection.execute(_PROBES.insert().values(probe=1, at=func.current_timestamp()))

    def close(self) -> None:
        """Closes all connections, and removes SQLite's log beside its file."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._under_way, timeout=_CLOSE_SECONDS)
        with _turn(self._write_turn):
            self._engine.dispose()
            if self._is_sqlite and self._read_turn is None:
                # A file that nobody writes any more can be read where nothing can be written.
                with (
                    contextlib.suppress(sqlite3.OperationalError),  # others still do
                    self._engine.connect() as connection,
                ):
                    driver = connection.connection.driver_connection
                    assert isinstance(driver, sqlite3.Connection)
                    driver.execute("PRAGMA busy_timeout = 0")
                    driver.execute("PRAGMA journal_mode = DELETE")
            self._engine.dispose()

    def _create_tables(self) -> None:
        with self._transaction(write=True, turn=self._write_turn) as connection:
            if self._engine.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
            _TABLES.create_all(connection)
            for index in _INDEXES:
                index.create(connection, checkfirst=True)

    @contextlib.contextmanager
    def _transaction(
        self, *, write: bool, turn: threading.Semaphore | None
    ) -> Iterator[sqlalchemy.Connection]:
        with self._changed:
            if self._closed:
                raise BusyError("the database is closed.")
            self._under_way += 1
        try:
            with _turn(turn), self._engine.connect() as connection:
                connection = connection.execution_options(write=write)
                with connection.begin() as transaction:
                    yield connection
                    if not write:
                        transaction.rollback()
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()


@dataclasses.dataclass(kw_only=False)
class Records:
    """The studies and trials that one transaction sees.

    Args:
      locks: whether reading a study locks it until the transaction ends.
    """

    _connection: sqlalchemy.Connection
    _limits: Limits
    locks: bool
    _sizes: dict[str, int] = dataclasses.field(default_factory=dict)

    def study(self, name: str) -> study_pb2.Study:
        """The study of this resource name.

        Raises:
          NotFoundError: there is none.
        """
        query = select(_STUDIES.c.serialized_study).where(_STUDIES.c.study_name == name)
        row = self._connection.execute(query.with_for_update() if self.locks else query).first()
        if row is None:
            raise custom_errors.NotFoundError(f"there is no study {name!r}.")
        self._sizes[name] = len(row[0])
        return study_pb2.Study.FromString(row[0])

    def studies(self, owner_id: str) -> list[bytes]:
        """An owner's studies, serialized.

        Raises:
          NotFoundError: there is no such owner.
          FullError: they do not fit in an answer.
        """
        owner = resources.OwnerResource(owner_id).name
        known = select(_OWNERS.c.owner_name).where(_OWNERS.c.owner_name == owner)
        if self._connection.execute(known).first() is None:
            raise custom_errors.NotFoundError(f"there is no owner {owner!r}.")
        mine = _STUDIES.c.owner_id == owner_id
        size = select(func.sum(func.length(_STUDIES.c.serialized_study))).where(mine)
        total = self._connection.execute(size).scalar() or 0
        if total > self._limits.study:
            raise FullError(
                f"the studies of {owner!r} have {total:,} bytes; this service lists "
                f"{self._limits.study:,}. Get them by name."
            )
        query = select(_STUDIES.c.serialized_study).where(mine).order_by(_STUDIES.c.study_name)
        return list(self._connection.execute(query).scalars())

    def count_studies(self, owner_id: str) -> int:
        """How many studies an owner has."""
        query = select(func.count()).where(_STUDIES.c.owner_id == owner_id)
        return int(self._connection.execute(query).scalar_one())

    def add_study(self, study: study_pb2.Study) -> None:
        """Adds a study.

        Raises:
          AlreadyExistsError: there is one of this name.
        """
        key = resources.StudyResource.from_name(study.name)
        self._insert_unless_there(_OWNERS.insert().values(owner_name=key.owner_resource.name))
        serialized = study.SerializeToString()
        added = self._insert_unless_there(
            _STUDIES.insert().values(
                study_name=study.name,
                owner_id=key.owner_id,
                study_id=key.study_id,
                serialized_study=serialized,
            )
        )
        if not added:
            raise custom_errors.AlreadyExistsError(f"there is a study {study.name!r} already.")
        # A deleted study of this name has left its highest trial number.
        mine = _TOTALS.c.study_name == study.name
        values = {"stored_bytes": len(serialized)}
        if not self._connection.execute(_TOTALS.update().where(mine).values(**values)).rowcount:
            values |= {"study_name": study.name, "last_trial_id": 0}
            self._connection.execute(_TOTALS.insert().values(**values))

    def put_study(self, study: study_pb2.Study) -> None:
        """Replaces a study that this transaction has read.

        Raises:
          FullError: it would be too large.
        """
        serialized = study.SerializeToString()
        self._grow(study.name, len(serialized) - self._sizes[study.name])
        self._sizes[study.name] = len(serialized)
        self._connection.execute(
            _STUDIES.update()
            .where(_STUDIES.c.study_name == study.name)
            .values(serialized_study=serialized)
        )

    def remove_study(self, name: str) -> None:
        """Removes a study with its trials. Their numbers stay used.

        Raises:
          NotFoundError: there is none.
        """
        self.study(name)
        last, _ = self._totals(name)
        self._set_totals(name, last_trial_id=last, stored_bytes=0)
        self._connection.execute(_TRIALS.delete().where(_of_study(name)))
        self._connection.execute(_STUDIES.delete().where(_STUDIES.c.study_name == name))

    def trial(self, name: str) -> study_pb2.Trial:
        """The trial of this resource name.

        Raises:
          NotFoundError: there is none.
        """
        query = select(_TRIALS.c.serialized_trial).where(_TRIALS.c.trial_name == name)
        row = self._connection.execute(query).first()
        if row is None:
            raise custom_errors.NotFoundError(f"there is no trial {name!r}.")
        self._sizes[name] = len(row[0])
        return study_pb2.Trial.FromString(row[0])

    def trials(self, study_name: str) -> list[study_pb2.Trial]:
        """A study's trials by number."""
        trials = []
        for serialized in self.serialized_trials(study_name):
            trial = study_pb2.Trial.FromString(serialized)
            self._sizes[trial.name] = len(serialized)
            trials.append(trial)
        return trials

    def serialized_trials(self, study_name: str) -> list[bytes]:
        """The same, not parsed."""
        query = select(_TRIALS.c.serialized_trial).where(_of_study(study_name))
        return list(self._connection.execute(query.order_by(_TRIALS.c.trial_id)).scalars())

    def count_trials(self, study_name: str) -> int:
        """How many trials a study has."""
        query = select(func.count()).where(_of_study(study_name))
        return int(self._connection.execute(query).scalar_one())

    def add_trials(self, study_name: str, trials: list[study_pb2.Trial]) -> None:
        """Adds trials to a study that this transaction has read, and numbers them.

        Raises:
          FullError: the study has no room for them.
        """
        key = resources.StudyResource.from_name(study_name)
        count = self.count_trials(study_name)
        if count + len(trials) > self._limits.trials:
            raise FullError(
                f"the study has {count} trials; this service takes {self._limits.trials} in one. "
                "Start another study."
            )
        last, _ = self._totals(study_name)
        rows = []
        for number, trial in enumerate(trials, start=last + 1):
            trial.id = str(number)
            trial.name = key.trial_resource(trial.id).name
            rows.append(
                {
                    "trial_name": trial.name,
                    "owner_id": key.owner_id,
                    "study_id": key.study_id,
                    "trial_id": number,
                    "serialized_trial": trial.SerializeToString(),
                }
            )
        size = sum(len(row["serialized_trial"]) for row in rows)
        self._grow(study_name, size, last_trial_id=last + len(trials))
        if rows:
            self._connection.execute(_TRIALS.insert(), rows)

    def put_trial(self, study_name: str, trial: study_pb2.Trial) -> None:
        """Replaces a trial that this transaction has read.

        Raises:
          FullError: the study would be too large.
        """
        serialized = trial.SerializeToString()
        self._grow(study_name, len(serialized) - self._sizes[trial.name])
        self._sizes[trial.name] = len(serialized)
        self._connection.execute(
            _TRIALS.update()
            .where(_TRIALS.c.trial_name == trial.name)
            .values(serialized_trial=serialized)
        )

    def remove_trial(self, study_name: str, name: str) -> None:
        """Removes a trial. Its number stays used.

        Raises:
          NotFoundError: there is none.
        """
        self.trial(name)
        self._grow(study_name, -self._sizes[name])
        self._connection.execute(_TRIALS.delete().where(_TRIALS.c.trial_name == name))

    def _insert_unless_there(self, insert: sqlalchemy.Insert) -> bool:
        """Whether the row was added; one that another transaction adds is waited for."""
        try:
            with self._connection.begin_nested():
                self._connection.execute(insert)
        except sqlalchemy.exc.IntegrityError:
            return False
        return True

    def _grow(self, study_name: str, by: int, last_trial_id: int | None = None) -> None:
        last, size = self._totals(study_name)
        if by > 0 and size + by > self._limits.study:
            raise FullError(
                f"the study would have {size + by:,} bytes; this service takes "
                f"{self._limits.study:,} in one, metadata and measurements included."
            )
        self._set_totals(study_name, last_trial_id=last_trial_id or last, stored_bytes=size + by)

    def _totals(self, study_name: str) -> tuple[int, int]:
        """The highest trial number ever given and the bytes of a study."""
        newest = select(func.max(_TRIALS.c.trial_id)).where(_of_study(study_name))
        highest = self._connection.execute(newest).scalar() or 0
        mine = _TOTALS.c.study_name == study_name
        query = select(_TOTALS.c.last_trial_id, _TOTALS.c.stored_bytes).where(mine)
        row = self._connection.execute(query).first()
        if row is not None:
            # Vizier's own server, which knows no totals, may have added trials.
            return max(row[0], highest), row[1]
        size = 0
        for column, where in (
            (_TRIALS.c.serialized_trial, _of_study(study_name)),
            (_STUDIES.c.serialized_study, _STUDIES.c.study_name == study_name),
        ):
            total = select(func.sum(func.length(column))).where(where)
            size += self._connection.execute(total).scalar() or 0
        values = {"study_name": study_name, "last_trial_id": highest, "stored_bytes": size}
        self._connection.execute(_TOTALS.insert().values(**values))
        return highest, size

    def _set_totals(self, study_name: str, **values: int) -> None:
        mine = _TOTALS.c.study_name == study_name
        self._connection.execute(_TOTALS.update().where(mine).values(**values))


def repeated(field: int, serialized: list[bytes]) -> bytes:
    """A message that has only this repeated field, of messages that are serialized already."""
    parts: list[bytes] = []
    for each in serialized:
        parts += (bytes([field << 3 | 2]), _varint(len(each)), each)
    return b"".join(parts)


def _varint(number: int) -> bytes:
    groups = []
    while True:
        number, group = divmod(number, 128)
        groups.append(group | (128 if number else 0))
        if not number:
            return bytes(groups)


def _of_study(name: str) -> sqlalchemy.ColumnElement[bool]:
    key = resources.StudyResource.from_name(name)
    return (_TRIALS.c.owner_id == key.owner_id) & (_TRIALS.c.study_id == key.study_id)


@contextlib.contextmanager
def _turn(lock: threading.Semaphore | None) -> Iterator[None]:
    if lock is None:
        yield
        return
    if not lock.acquire(timeout=_WAIT_SECONDS):
        raise BusyError(f"the database was busy for {_WAIT_SECONDS} s.")
    try:
        yield
    finally:
        lock.release()


def _engine(url: sqlalchemy.URL) -> sqlalchemy.Engine:
    """A server's: connections are checked before use, as the server may have been restarted."""
    options: dict[str, object] = {}
    if url.get_backend_name() == "postgresql":
        options = {"connect_timeout": 5, "keepalives_idle": 10, "tcp_user_timeout": 15_000}
    engine = sqlalchemy.create_engine(
        url,
        pool_size=12,
        max_overflow=4,
        pool_timeout=_WAIT_SECONDS,
        pool_pre_ping=True,
        connect_args=options,
    )
    if engine.dialect.name == "postgresql":
        sqlalchemy.event.listen(engine, "connect", _limit_waits)
    return engine


def _limit_waits(connection: object, record: object) -> None:
    with connection.cursor() as cursor:  # type: ignore[attr-defined]
        cursor.execute(f"SET lock_timeout = '{_WAIT_SECONDS}s'")
        cursor.execute(f"SET statement_timeout = '{_WAIT_SECONDS}s'")
        cursor.execute("SET idle_in_transaction_session_timeout = '60s'")
    connection.commit()  # type: ignore[attr-defined]


def _sqlite_engine(url: sqlalchemy.URL, in_memory: bool) -> sqlalchemy.Engine:
    arguments = {"check_same_thread": False, "timeout": float(_WAIT_SECONDS)}
    # A file's connections, or the one that a database in memory is.
    pool: dict[str, object] = {"poolclass": sqlalchemy.StaticPool}
    if not in_memory:
        pool = {"poolclass": sqlalchemy.QueuePool, "pool_size": 12, "pool_timeout": _WAIT_SECONDS}
    engine = sqlalchemy.create_engine(url, connect_args=arguments, **pool)
    sqlalchemy.event.listen(engine, "connect", _make_durable)
    sqlalchemy.event.listen(engine, "begin", _begin)
    return engine


def _make_durable(connection: sqlite3.Connection, record: object) -> None:
    connection.isolation_level = None  # transactions begin as `_begin` says
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")


def _begin(connection: sqlalchemy.Connection) -> None:
    writes = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
