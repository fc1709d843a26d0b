"""Who may use whose studies: tokens and client certificates, mapped to owners.

    [owners.team-a]
    tokens = ["a long random word"]

    [owners.team-b]
    tokens = ["another one"]
    certificates = ["ci.team-b.example"]

A client sends its token in the metadata of each request, `authorization: Bearer TOKEN`. A
certificate counts by its common name and its alternative names.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import grpc

from optformer.errors import ConfigError
from optformer.settings import read_tree

_SHORTEST_TOKEN = 16


class UnknownClientError(Exception):
    """A client that shows no token or certificate that is known."""


class ForbiddenError(Exception):
    """A client that asks for another owner's studies."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Access:
    """Which owners a client may act as.

    Attributes:
      tokens: owners by the SHA-256 of a token.
      certificates: owners by a name in a client's certificate.
    """

    tokens: Mapping[bytes, frozenset[str]] = dataclasses.field(default_factory=dict)
    certificates: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)

    def check(self, owner: str, token: str | None, names: Iterable[str]) -> None:
        """Checks that a client may act as this owner.

        Args:
          token: what it says; None for nothing.
          names: those in its certificate.

        Raises:
          UnknownClientError: neither is known.
          ForbiddenError: the client may act as other owners only.
        """
        owners: set[str] = set()
        if token is not None:
            owners |= self.tokens.get(_hash(token), frozenset())
        for name in names:
            owners |= self.certificates.get(name, frozenset())
        if not owners:
            raise UnknownClientError(
                "this service wants to know its clients: send a token that it knows in the "
                "metadata, authorization: Bearer TOKEN, or use a certificate that it knows."
            )
        if owner not in owners:
            raise ForbiddenError(
                f"you may not use studies of the owner {owner!r}, but of {sorted(owners)}."
            )


def read_access(path: Path) -> Access:
    """Reads a TOML file of owners.

    Raises:
      ConfigError: it is missing, or says something else; names the owner.
    """
    tree = read_tree(Access, path)
    owners = tree.get("owners")
    if not isinstance(owners, dict) or not owners or tree.keys() != {"owners"}:
        raise ConfigError(f'{path} must have tables [owners.NAME] with tokens = ["..."], only.')
    tokens: dict[bytes, frozenset[str]] = {}
    certificates: dict[str, frozenset[str]] = {}
    for owner, table in owners.items():
        where = f"{path}: owner {owner!r}"
        if not isinstance(table, dict) or table.keys() - {"tokens", "certificates"}:
            raise ConfigError(f"{where} must be a table of tokens and certificates.")
        for token in _words(table, "tokens", where):
            if len(token) < _SHORTEST_TOKEN:
                raise ConfigError(
                    f"{where} has a token of {len(token)} characters, which can be guessed. Use "
                    f"{_SHORTEST_TOKEN} random ones or more: openssl rand -hex 32."
                )
            tokens[_hash(token)] = tokens.get(_hash(token), frozenset()) | {owner}
        for name in _words(table, "certificates", where):
            certificates[name] = certificates.get(name, frozenset()) | {owner}
    return Access(tokens=tokens, certificates=certificates)


def with_token(channel: grpc.Channel, token: str) -> grpc.Channel:
    """The channel, with the token sent with each request; an empty one is not sent."""
    return grpc.intercept_channel(channel, _Sender(token)) if token else channel


class _Sender(grpc.UnaryUnaryClientInterceptor):
    def __init__(self, token: str) -> None:
        self._said = ("authorization", f"Bearer {token}")

    def intercept_unary_unary(
        self, continuation: Callable, details: grpc.ClientCallDetails, request: object
    ) -> object:
        metadata = [*(details.metadata or ()), self._said]
        return continuation(details._replace(metadata=metadata), request)


def _words(table: Mapping[str, object], key: str, where: str) -> list[str]:
    words = table.get(key, [])
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        raise ConfigError(f"{where}: {key} must be a list of words.")
    return words


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
