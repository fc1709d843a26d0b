"""Where the service listens and keeps its studies; what it suggests is tested with the policies."""

from pathlib import Path

import pytest

from optformer.errors import ConfigError
from optformer.service.server import running


def test_a_taken_port_and_a_bad_database_are_named(tmp_path: Path) -> None:
    with running() as address:
        port = int(address.rsplit(":", 1)[1])
        with (
            pytest.raises(ConfigError, match=f"cannot listen on localhost:{port}"),
            running(port=port),
        ):
            pass
    with (
        pytest.raises(ConfigError, match=r"database .* cannot be opened"),
        running(database_url=f"sqlite:///{tmp_path}/absent/studies.db"),
    ):
        pass
