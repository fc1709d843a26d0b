"""Vizier's gRPC service with our algorithms beside Vizier's own, and studies in an SQL database."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from optformer.errors import ConfigError

if TYPE_CHECKING:
    from vizier import pythia

MEMORY = "sqlite:///:memory:"
GRACE_SECONDS = 5.0
"""How long requests in flight may take when the service stops."""


@contextlib.contextmanager
def running(
    *,
    host: str = "localhost",
    port: int | None = None,
    database_url: str = MEMORY,
    policy_factory: "pythia.PolicyFactory | None" = None,
) -> Iterator[str]:
    """A Vizier service in this process while the block runs; yields its `host:port`.

    Args:
      port: None for a free one.
      database_url: SQLAlchemy's; studies in it are there again after a restart.
      policy_factory: whose algorithms it offers; None for Vizier's own.

    Raises:
      ConfigError: the port is taken, or the database cannot be opened.
    """
    import grpc
    import jax
    import sqlalchemy
    from vizier.service import servers

    from optformer.policies.vizier import VizierPolicyFactory

    options: dict[str, object] = {"policy_factory": policy_factory or VizierPolicyFactory()}
    if port is not None:
        _check_free(host, port)
        options["port"] = port
    # Starting a service turns JAX to 64 bits in the whole process, for Vizier's own algorithms.
    # `VizierPolicyFactory` gives them that; training in this process must not change.
    wide = jax.config.read("jax_enable_x64")  # type: ignore[no-untyped-call]
    try:
        server = servers.DefaultVizierServer(host=host, database_url=database_url, **options)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise ConfigError(
            f"the database {database_url} cannot be opened: {error}. Give a file or an SQLAlchemy "
            "URL, like sqlite:///studies.db."
        ) from error
    except (grpc.RpcError, RuntimeError) as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error}") from error
    finally:
        jax.config.update("jax_enable_x64", wide)  # type: ignore[no-untyped-call]
    try:
        yield server.endpoint
    finally:
        # Vizier has no public way to stop its server, nor to let go of the database.
        server._server.stop(grace=GRACE_SECONDS).wait()


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
    loggers = [logging.getLogger(name) for name in ("absl", "grpc._server")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def serve(checkpoint: Path, *, host: str, port: int, database_url: str) -> None:
    """Serves a model until the process is told to stop (SIGINT or SIGTERM).

    Raises:
      CheckpointError: the model cannot be loaded.
      ConfigError: the port is taken, or the database cannot be opened.
    """
    import optformer
    from optformer.policies.vizier import ALGORITHMS, OptFormerPolicyFactory

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for name in ("absl", "jax"):  # nothing in there is for who runs a service
        logging.getLogger(name).setLevel(logging.WARNING)
    log = logging.getLogger("optformer.server")
    factory = OptFormerPolicyFactory(optformer.load(checkpoint))
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with running(
        host=host, port=port, database_url=database_url, policy_factory=factory
    ) as endpoint:
        log.info("serving %s on %s, studies in %s", checkpoint, endpoint, database_url)
        log.info("algorithms: %s, and Vizier's own", ", ".join(ALGORITHMS))
        stop.wait()
        log.info("stopping")


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


def _check_free(host: str, port: int) -> None:
    """gRPC shares a taken port silently, and then a client may reach the other server."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror}. Choose another --port."
            ) from error
