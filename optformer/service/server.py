"""Vizier's gRPC service with our algorithms beside Vizier's own, and studies in an SQL database."""

import contextlib
import dataclasses
import logging
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from optformer.errors import ConfigError, did_you_mean
from optformer.service.limits import Limits

if TYPE_CHECKING:
    from vizier import pythia

    from optformer.policies.model import OptFormer
    from optformer.service.access import Access
    from optformer.service.observe import LogFormat, LogLevel, Metrics
    from optformer.service.servicer import StudyService
    from optformer.service.tls import Certificates

MEMORY = "sqlite:///:memory:"
GRACE_SECONDS = 25.0
"""How long requests in flight may take when the service stops. Most clusters kill after 30 s."""

SWITCH_SECONDS = 0.001
"""How long a thread may hold Python's lock while others wait; Python's own default is 0.005."""

_LOCAL = ("localhost", "127.0.0.1", "[::1]")


@contextlib.contextmanager
def running(
    *,
    host: str = "localhost",
    port: int | None = None,
    database_url: str = MEMORY,
    policy_factory: "pythia.PolicyFactory | None" = None,
    limits: Limits | None = None,
    tls: "Certificates | None" = None,
    access: "Access | None" = None,
    metrics: "Metrics | None" = None,
) -> Iterator[str]:
    """A Vizier service in this process while the block runs; yields its `host:port`.

    It also answers gRPC's standard health checks: SERVING while the database can be written. When
    the block ends, it accepts no new requests, and those in flight have `GRACE_SECONDS`.

    Args:
      port: None for a free one.
      database_url: SQLAlchemy's; studies in it are there again after a restart.
      policy_factory: provides the algorithms; None for Vizier's own.
      tls: the server's certificate; None for plain text.
      access: which clients may use which owners' studies; None if all may use all.
      metrics: where requests are counted.

    Raises:
      ConfigError: the port is taken, or the database cannot be opened or written.
    """
    from optformer.policies.vizier import VizierPolicyFactory
    from optformer.service import listening, observe
    from optformer.service.guard import Guard

    limits = limits or Limits()
    service = _open(database_url, policy_factory or VizierPolicyFactory(), limits)
    with contextlib.closing(service):
        guard = Guard(service, limits, metrics or observe.Metrics(), cores=_cores(), access=access)
        try:
            listener = listening.start(service, guard, f"{host}:{port or 0}", limits, tls)
        except BaseException:
            guard.close(0.0)
            raise
        try:
            yield f"{host}:{listener.port}"
        finally:
            until = time.monotonic() + GRACE_SECONDS
            listener.stop(GRACE_SECONDS)
            guard.close(max(0.0, until - time.monotonic()))


def _open(
    database_url: str, policy_factory: "pythia.PolicyFactory", limits: Limits
) -> "StudyService":
    import sqlalchemy

    from optformer.service.servicer import StudyService

    try:
        return StudyService(database_url, policy_factory, limits)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise ConfigError(
            f"the database {_shown(database_url)} cannot be opened and written: "
            f"{str(error).splitlines()[0]}. Give a file or an SQLAlchemy URL, like "
            "sqlite:///studies.db."
        ) from error


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def endpoint_of(
    *, server: str = "", checkpoint: Path | None = None, database: Path | None = None
) -> Iterator[str]:
    """The service to ask: the one at `server`, or one in this process while the block runs.

    The latter logs nothing: its client gets the same errors, and says them better.

    Args:
      server: `host:port` of a running service.
      checkpoint: a model that the service in this process offers beside Vizier's algorithms.
      database: where that service keeps its studies; in memory if None.

    Raises:
      ConfigError: options that exclude each other, or the database cannot be opened.
      CheckpointError: the model cannot be loaded.
    """
    if server and (checkpoint is not None or database is not None):
        raise ConfigError(
            f"the service at {server} has its own model and database: leave out --checkpoint and "
            "--database, or --server."
        )
    if server:
        yield server
        return
    factory = None
    if checkpoint is not None:
        import optformer
        from optformer.policies.vizier import OptFormerPolicyFactory

        factory = OptFormerPolicyFactory(optformer.load(checkpoint))
    url = MEMORY if database is None else database_url(str(database))
    with _quiet(), running(database_url=url, policy_factory=factory) as endpoint:
        yield endpoint


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing from the service's loggers while the block runs; they are the process's own."""
    loggers = [logging.getLogger(name) for name in ("absl", "grpc._server", "optformer.requests")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serving:
    """How a model is served.

    Attributes:
      tls: the server's certificate; None for plain text.
      access: which clients may use which owners' studies; None if all may use all.
      open: whether every client that can reach the service may use it. Without this or `access`,
        the service listens on this machine only.
      metrics_port: the port for Prometheus; None for no metrics. With a certificate, metrics are
        served over HTTPS at `host`; without one, over HTTP on this machine, or at `host` if the
        service is open.
      warm_up: numbers of parameters. Programs for studies of these sizes are compiled before the
        service listens.
      compiled: a folder that keeps compiled programs for the next start; None to keep none.
    """

    host: str = "localhost"
    port: int = 28080
    database_url: str = MEMORY
    limits: Limits = dataclasses.field(default_factory=Limits)
    tls: "Certificates | None" = None
    access: "Access | None" = None
    open: bool = False
    metrics_port: int | None = None
    log_format: "LogFormat" = "text"
    log_level: "LogLevel" = "info"
    warm_up: tuple[int, ...] = ()
    compiled: Path | None = None

    def __post_init__(self) -> None:
        if self.host not in _LOCAL and self.access is None and not self.open:
            raise ConfigError(
                f"on {self.host}, everybody who reaches it could read and delete all studies. Name "
                "the clients with --access FILE, or say --open."
            )

    @property
    def metrics_host(self) -> str:
        """The host at which metrics are served."""
        return self.host if self.tls is not None or self.open else _LOCAL[0]


def serve(checkpoint: Path, serving: Serving) -> None:
    """Serves a model until the process is told to stop (SIGINT or SIGTERM).

    The first signal lets requests in flight finish; the second ends the process at once.

    Raises:
      CheckpointError: the model cannot be loaded.
      ConfigError: a port is taken, or the database cannot be opened.
    """
    # Read when numpy is first imported. Suggestions run side by side, one on each core: the threads
    # of one would only be in the way of the others.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import optformer
    from optformer.policies.vizier import ALGORITHMS, OptFormerPolicyFactory
    from optformer.service.observe import Metrics, start_log

    start_log(serving.log_format, serving.log_level)
    log = logging.getLogger("optformer.server")
    model = optformer.load(checkpoint)
    factory = OptFormerPolicyFactory(model)
    _open(serving.database_url, factory, serving.limits).close()  # fails before the long part
    _warm_up(model, serving)
    # Suggestions hold Python's lock for long; health checks take it from them after this time.
    sys.setswitchinterval(SWITCH_SECONDS)
    stop = threading.Event()

    def told(number: int, frame: types.FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, told)
    metrics = Metrics()
    with (
        _exported(metrics, serving),
        running(
            host=serving.host,
            port=serving.port,
            database_url=serving.database_url,
            policy_factory=factory,
            limits=serving.limits,
            tls=serving.tls,
            access=serving.access,
            metrics=metrics,
        ) as endpoint,
    ):
        log.info("serving %s on %s", checkpoint, endpoint)
        log.info("studies are kept in %s", _shown(serving.database_url))
        log.info("algorithms: %s, and Vizier's own", ", ".join(ALGORITHMS))
        if serving.open and serving.access is None:
            log.warning("everybody who reaches %s can use all studies (--open)", endpoint)
        if serving.tls is None and serving.host not in _LOCAL:
            log.warning("%s takes plain text, tokens included: there is no --tls-cert", endpoint)
        stop.wait()
        log.info("stopping: no new requests; those in flight have %.0f s", GRACE_SECONDS)
    log.info("stopped")
    if any(thread.name.startswith("suggest") for thread in threading.enumerate()):
        # Its request was told to try again: no reason to wait for what it computes.
        logging.shutdown()
        os._exit(0)


def _warm_up(model: "OptFormer", serving: Serving) -> None:
    """Compiles the programs for suggestions, and logs it."""
    if not serving.warm_up:
        return
    numbers = ", ".join(map(str, serving.warm_up))
    log = logging.getLogger("optformer.server")
    log.info("compiling for studies of %s parameters", numbers)
    start = time.monotonic()
    model.warmup(serving.warm_up, keep=serving.compiled)
    log.info("compiled in %.1f s", time.monotonic() - start)


@contextlib.contextmanager
def _exported(metrics: "Metrics", serving: Serving) -> Iterator[None]:
    """Serves the metrics for Prometheus while the block runs, if there is a port for them."""
    import prometheus_client

    host, port, tls = serving.metrics_host, serving.metrics_port, serving.tls
    if port is None:
        yield
        return
    authority = None if tls is None else tls.authority
    try:
        server, thread = prometheus_client.start_http_server(
            port,
            addr=host,
            registry=metrics.registry,
            certfile=None if tls is None else str(tls.certificate),
            keyfile=None if tls is None else str(tls.key),
            client_cafile=None if authority is None else str(authority),
            client_auth_required=authority is not None,
        )
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}. Choose another --metrics-port."
        ) from error
    scheme = "http" if tls is None else "https"
    log = logging.getLogger("optformer.server")
    log.info("metrics on %s://%s:%d/metrics", scheme, host, port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def default_algorithm(server: str, checkpoint: Path | None) -> str:
    """Who suggests if nobody was named: expected improvement under our model.

    Raises:
      ConfigError: there is no model.
    """
    if not server and checkpoint is None:
        raise ConfigError(
            "nobody to ask for suggestions. Give a model with --checkpoint, a service with "
            "--server, or one of Vizier's algorithms, as in --algorithm RANDOM_SEARCH."
        )
    return "OPTFORMER_EI"


def database_url(database: str) -> str:
    """The URL of an SQLite file; what is a URL already stays.

    Raises:
      ConfigError: a URL of a kind of database that does not exist, or whose driver is missing.
    """
    import sqlalchemy

    if "://" not in database:
        return f"sqlite:///{Path(database).resolve()}"
    try:
        sqlalchemy.make_url(database).get_dialect().import_dbapi()
    except (sqlalchemy.exc.ArgumentError, ImportError) as error:
        missing = getattr(error, "name", None)
        known = ("sqlite", "postgresql", "mysql", "mariadb", "oracle", "mssql")
        way_out = (
            f"Install its driver: pip install {missing}."
            if missing
            else f"Write DIALECT://USER@HOST/DATABASE.{did_you_mean(database.split(':')[0], known)}"
        )
        raise ConfigError(
            f"the database {_shown(database)} cannot be opened: {str(error).splitlines()[0]}. "
            f"{way_out}"
        ) from error
    return database


def _shown(url: str) -> str:
    """The URL without its password."""
    import sqlalchemy

    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return "URL"
