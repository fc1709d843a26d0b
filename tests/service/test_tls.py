"""Certificates: who may talk to the service, and whom its clients believe."""

import shutil
import subprocess
from pathlib import Path

import pytest

from optformer.errors import ConfigError, SourceError
from optformer.service import client
from optformer.service.client import open_study
from optformer.service.server import running
from optformer.service.tls import Certificates
from tests.studies import plane

LINE = plane(1, "line")


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, with certificates of it for localhost and for a client, and another's."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with")
    folder = tmp_path_factory.mktemp("pem")
    for authority in ("authority", "other"):
        openssl(
            folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", f"/CN={authority}",
            "-keyout", f"{authority}.key", "-out", f"{authority}.pem",
        )  # fmt: skip
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    for who, authority in (("server", "authority"), ("friend", "authority"), ("thief", "other")):
        openssl(
            folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", f"/CN={who}", "-keyout", f"{who}.key", "-out", f"{who}.csr",
        )  # fmt: skip
        openssl(
            folder, "x509", "-req", "-in", f"{who}.csr", "-CA", f"{authority}.pem",
            "-CAkey", f"{authority}.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", f"{who}.pem",
        )  # fmt: skip
    return folder


def of(folder: Path, who: str | None, authority: str | None = "authority") -> Certificates:
    return Certificates(
        certificate=who and folder / f"{who}.pem",
        key=who and folder / f"{who}.key",
        authority=authority and folder / f"{authority}.pem",
    )


def test_only_clients_of_the_authority_are_served(
    pem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_CONNECT_SECONDS", 2.0)
    with running(tls=of(pem, "server")) as endpoint:

        def open_with(tls: Certificates | None) -> str:
            study = open_study(endpoint, LINE, algorithm="RANDOM_SEARCH", name="line", tls=tls)
            return study.resource_name

        assert open_with(of(pem, "friend")) == "owners/optformer/studies/line"
        strangers = {
            "plain text": (None, "requires TLS"),
            "no certificate": (of(pem, None), "another TLS certificate"),
            "another's certificate": (of(pem, "thief"), "another TLS certificate"),
            "who does not believe the service": (of(pem, "friend", "other"), "another TLS"),
        }
        for tls, says in strangers.values():
            with pytest.raises(SourceError, match=says):
                open_with(tls)


def test_without_an_authority_any_client_is_served(pem: Path) -> None:
    with running(tls=of(pem, "server", None)) as endpoint:
        open_study(endpoint, LINE, algorithm="RANDOM_SEARCH", name="line", tls=of(pem, None))


def test_half_of_a_certificate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "absent.pem"
    with pytest.raises(ConfigError, match="give both or neither"):
        Certificates(certificate=path)
    with pytest.raises(ConfigError, match=r"absent\.pem cannot be read"):
        Certificates(certificate=path, key=path)
    with pytest.raises(ConfigError, match="--tls-cert"):
        Certificates().of_server()
