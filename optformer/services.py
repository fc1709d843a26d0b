"""Whom `optformer tune` asks for suggestions: a running Vizier service, or one in this process."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from optformer.errors import ConfigError


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


@contextlib.contextmanager
def service(
    *, server: str = "", checkpoint: Path | None = None, database: Path | None = None
) -> Iterator[str]:
    """The endpoint to ask: the given one, or a service in this process while the block runs.

    Args:
      server: `host:port` of a running service.
      checkpoint: a model that the service in this process offers beside Vizier's algorithms.
      database: where that service keeps its studies; in memory if None.

    Raises:
      ConfigError: options that exclude each other.
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
    from optformer.policies.server import MEMORY, running

    factory = None
    if checkpoint is not None:
        import optformer
        from optformer.policies.vizier import OptFormerPolicyFactory

        factory = OptFormerPolicyFactory(optformer.load(checkpoint))
    # The client in this process gets the same errors as the service's log, and says them better.
    for name in ("absl", "grpc._server"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    url = MEMORY if database is None else database_url(str(database))
    with running(database_url=url, policy_factory=factory) as endpoint:
        yield endpoint


def database_url(database: str) -> str:
    """The URL of an SQLite file; what is a URL already stays."""
    return database if "://" in database else f"sqlite:///{Path(database).resolve()}"


def policy_settings(settings: Sequence[str]) -> dict[str, str]:
    """`["candidates=200"]` as a dict; the service checks names and values.

    Raises:
      ConfigError: one of another form.
    """
    pairs = [setting.partition("=") for setting in settings]
    for setting, (_, equals, _) in zip(settings, pairs, strict=True):
        if not equals:
            raise ConfigError(f"--set {setting!r} is not of the form name=value.")
    return {name: value for name, _, value in pairs}
