"""Vizier's gRPC service with our algorithms beside Vizier's own, and studies in an SQL database."""

import contextlib
import dataclasses
import logging
import signal
import threading
import time
import types
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING

from optformer.errors import ConfigError
from optformer.service.limits import Limits

if TYPE_CHECKING:
    import grpc
    from vizier import pythia

    from optformer.policies.model import OptFormer
    from optformer.service.observe import LogFormat, Metrics
    from optformer.service.servicer import StudyService
    from optformer.service.tls import Certificates

MEMORY = "sqlite:///:memory:"
GRACE_SECONDS = 25.0
"""How long requests in flight may take when the service stops. Most clusters kill after 30."""

THREADS = 30
"""How many requests are answered at the same time; more wait in line."""

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
    metrics: "Metrics | None" = None,
) -> Iterator[str]:
    """A Vizier service in this process while the block runs; yields its `host:port`.

    It also answers gRPC's standard health checks. At the end it takes no new requests and waits
    for those in flight.

    Args:
      port: None for a free one.
      database_url: SQLAlchemy's; studies in it are there again after a restart.
      policy_factory: whose algorithms it offers; None for Vizier's own.
      tls: its certificate; None for plain text.
      metrics: where requests are counted.

    Raises:
      ConfigError: the port is taken, or the database cannot be opened.
    """
    import jax
    import sqlalchemy

    from optformer.policies.vizier import VizierPolicyFactory
    from optformer.service.servicer import StudyService

    # Starting a service turns JAX to 64 bits in the whole process, for Vizier's own algorithms.
    # `VizierPolicyFactory` gives them that; training in this process must not change.
    wide = jax.config.read("jax_enable_x64")  # type: ignore[no-untyped-call]
    try:
        service = StudyService(database_url, policy_factory or VizierPolicyFactory())
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise ConfigError(
            f"the database {_shown(database_url)} cannot be opened: "
            f"{str(error).splitlines()[0]}. Give a file or an SQLAlchemy URL, like "
            "sqlite:///studies.db."
        ) from error
    finally:
        jax.config.update("jax_enable_x64", wide)  # type: ignore[no-untyped-call]
    with contextlib.closing(service):
        server, port = _listening(service, host, port or 0, limits or Limits(), tls, metrics)
        try:
            yield f"{host}:{port}"
        finally:
            server.stop(grace=GRACE_SECONDS).wait()


def _listening(
    service: "StudyService",
    host: str,
    port: int,
    limits: Limits,
    tls: "Certificates | None",
    metrics: "Metrics | None",
) -> "tuple[grpc.Server, int]":
    import grpc
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc
    from vizier._src.service import vizier_service_pb2_grpc

    from optformer.service import guard, observe

    server = grpc.server(
        futures.ThreadPoolExecutor(THREADS, "requests"),
        interceptors=[guard.Guard(service, limits, metrics or observe.Metrics())],
        options=[
            ("grpc.max_receive_message_length", limits.message),
            # Otherwise gRPC shares a taken port silently, and a client may reach the other server.
            ("grpc.so_reuseport", 0),
        ],
    )
    vizier_service_pb2_grpc.add_VizierServiceServicer_to_server(service, server)
    checks = health.HealthServicer()
    for name in ("", guard.SERVICE):
        checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    address = f"{host}:{port}"
    try:
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, tls.of_server())
    except RuntimeError as error:
        raise ConfigError(
            f"cannot listen on {address}: is the port taken, or the host another machine's? "
            "Choose another --port or --host."
        ) from error
    server.start()
    return server, port


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
      tls: the service's certificate; None for plain text.
      metrics_port: where Prometheus reads, over HTTP at the same host; None for nowhere.
      warm_up: numbers of parameters; what studies with so many take is compiled before the service
        listens, and so before it is healthy.
      compiled: where that is kept for the next start; None for nowhere.
    """

    host: str = "localhost"
    port: int = 28080
    database_url: str = MEMORY
    limits: Limits = dataclasses.field(default_factory=Limits)
    tls: "Certificates | None" = None
    metrics_port: int | None = None
    log_format: "LogFormat" = "text"
    warm_up: tuple[int, ...] = ()
    compiled: Path | None = None


def serve(checkpoint: Path, serving: Serving) -> None:
    """Serves a model until the process is told to stop (SIGINT or SIGTERM).

    Told so, it finishes the requests in flight; told so again, it ends at once.

    Raises:
      CheckpointError: the model cannot be loaded.
      ConfigError: a port is taken, or the database cannot be opened.
    """
    import optformer
    from optformer.policies.vizier import ALGORITHMS, OptFormerPolicyFactory
    from optformer.service.observe import Metrics, start_log

    start_log(serving.log_format)
    log = logging.getLogger("optformer.server")
    model = optformer.load(checkpoint)
    _warm_up(model, serving)
    factory = OptFormerPolicyFactory(model)
    stop = threading.Event()

    def told(number: int, frame: types.FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, told)
    metrics = Metrics()
    with (
        _exported(metrics, serving.host, serving.metrics_port),
        running(
            host=serving.host,
            port=serving.port,
            database_url=serving.database_url,
            policy_factory=factory,
            limits=serving.limits,
            tls=serving.tls,
            metrics=metrics,
        ) as endpoint,
    ):
        log.info("serving %s on %s", checkpoint, endpoint)
        log.info("studies are kept in %s", _shown(serving.database_url))
        log.info("algorithms: %s, and Vizier's own", ", ".join(ALGORITHMS))
        if serving.tls is None and serving.host not in _LOCAL:
            log.warning("everybody who reaches %s can use it: there is no --tls-cert", endpoint)
        stop.wait()
        log.info("stopping: no new requests; those in flight have %.0f s", GRACE_SECONDS)
    log.info("stopped")


def _warm_up(model: "OptFormer", serving: Serving) -> None:
    """Compiles ahead what suggestions take, and says so."""
    if not serving.warm_up:
        return
    numbers = ", ".join(map(str, serving.warm_up))
    log = logging.getLogger("optformer.server")
    log.info("compiling for studies of %s parameters", numbers)
    start = time.monotonic()
    model.warmup(serving.warm_up, keep=serving.compiled)
    log.info("compiled in %.1f s", time.monotonic() - start)


@contextlib.contextmanager
def _exported(metrics: "Metrics", host: str, port: int | None) -> Iterator[None]:
    """The numbers on an HTTP port while the block runs, if there is one."""
    import prometheus_client

    if port is None:
        yield
        return
    try:
        server, thread = prometheus_client.start_http_server(
            port, addr=host, registry=metrics.registry
        )
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}. Choose another --metrics-port."
        ) from error
    logging.getLogger("optformer.server").info("metrics on http://%s:%d/metrics", host, port)
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
    """The URL of an SQLite file; what is a URL already stays."""
    return database if "://" in database else f"sqlite:///{Path(database).resolve()}"


def _shown(url: str) -> str:
    """The URL without its password."""
    import sqlalchemy

    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return "URL"
