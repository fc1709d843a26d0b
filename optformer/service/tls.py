"""TLS certificates of a service and of its clients, as PEM files."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from optformer.errors import ConfigError

if TYPE_CHECKING:
    import grpc


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certificates:
    """The certificates of one side of a connection.

    Attributes:
      certificate, key: this side's own. A service needs them; a client only if the service asks.
      authority: the certificate authority that must have signed the other side's certificate. A
        service without one accepts any client; a client without one trusts the authorities of its
        machine.

    Raises:
      ConfigError: a certificate without its key, or a file that cannot be read.
    """

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("a TLS certificate and its key go together: give both or neither.")
        for path in (self.certificate, self.key, self.authority):
            if path is not None:
                _read(path)

    def of_server(self) -> "grpc.ServerCredentials":
        """Credentials of a service. With an authority, clients need a certificate that it signed.

        Raises:
          ConfigError: there is no certificate.
        """
        import grpc

        if self.certificate is None or self.key is None:
            raise ConfigError("a service needs a TLS certificate: --tls-cert and --tls-key.")
        return grpc.ssl_server_credentials(
            [(_read(self.key), _read(self.certificate))],
            root_certificates=self.authority and _read(self.authority),
            require_client_auth=self.authority is not None,
        )

    def of_client(self) -> "grpc.ChannelCredentials":
        """Credentials of a client."""
        import grpc

        return grpc.ssl_channel_credentials(
            root_certificates=self.authority and _read(self.authority),
            private_key=self.key and _read(self.key),
            certificate_chain=self.certificate and _read(self.certificate),
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the TLS file {path} cannot be read: {error.strerror}.") from error
