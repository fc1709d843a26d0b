"""Who may use whose studies."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from optformer.errors import ConfigError, SourceError
from optformer.service import client
from optformer.service.access import read_access, with_token
from optformer.service.server import Serving, running
from tests.service.test_guard import Stub, create, pb, refused, suggest
from tests.service.test_tls import of, pem
from tests.studies import plane

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:vizier")

Code = grpc.StatusCode
LINE = plane(1, "line")
A, B = "a" * 32, "b" * 32
OWNERS = f"""
[owners.alice]
tokens = ["{A}"]
[owners.bob]
tokens = ["{B}"]
certificates = ["friend"]
"""

__all__ = ["pem"]  # a fixture


@pytest.fixture(scope="module")
def owners(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("access") / "owners.toml"
    path.write_text(OWNERS)
    return path


def stub_with(channel: grpc.Channel, token: str) -> Stub:
    return Stub(with_token(channel, token))


@pytest.fixture(scope="module")
def channel(owners: Path) -> Iterator[grpc.Channel]:
    with (
        running(access=read_access(owners)) as endpoint,
        grpc.insecure_channel(endpoint) as channel,
    ):
        yield channel


def test_an_owners_studies_are_its_own(channel: grpc.Channel) -> None:
    alice, bob = (stub_with(channel, token) for token in (A, B))
    study = create(alice, "mine", owner="alice").name
    [trial] = suggest(alice, study)
    for call in (
        lambda: bob.GetStudy(pb.GetStudyRequest(name=study)),
        lambda: bob.ListTrials(pb.ListTrialsRequest(parent=study)),
        lambda: bob.GetTrial(pb.GetTrialRequest(name=trial.name)),
        lambda: bob.AddTrialMeasurement(pb.AddTrialMeasurementRequest(trial_name=trial.name)),
        lambda: bob.DeleteStudy(pb.DeleteStudyRequest(name=study)),
        lambda: bob.ListStudies(pb.ListStudiesRequest(parent="owners/alice")),
        lambda: create(bob, "theirs", owner="alice"),
    ):
        code, details = refused(call)
        assert code == Code.PERMISSION_DENIED
        assert "'alice'" in details and "'bob'" in details
    assert suggest(alice, study) == [trial]
    create(bob, "his", owner="bob")


@pytest.mark.parametrize("token", ["", A[:-1], A.upper(), "owners", f"{A},{B}"])
def test_whoever_is_not_known_may_do_nothing(channel: grpc.Channel, token: str) -> None:
    code, details = refused(lambda: create(stub_with(channel, token), "x", owner="alice"))
    assert code == Code.UNAUTHENTICATED
    assert "authorization: Bearer" in details


def test_our_client_sends_the_token_of_its_environment(
    owners: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(access=read_access(owners)) as endpoint:
        words = {"algorithm": "RANDOM_SEARCH", "name": "s", "owner": "alice"}
        with pytest.raises(SourceError, match="wants to know its clients"):
            client.open_study(endpoint, LINE, **words)
        monkeypatch.setenv(client.TOKEN, A)
        assert client.open_study(endpoint, LINE, **words).suggest(count=1)


def test_a_certificate_stands_for_an_owner(owners: Path, pem: Path) -> None:
    with running(access=read_access(owners), tls=of(pem, "server")) as endpoint:
        for who, owner, code in (
            ("friend", "bob", None),
            ("friend", "alice", Code.PERMISSION_DENIED),
        ):
            credentials = of(pem, who).of_client()
            with grpc.secure_channel(endpoint, credentials) as channel:
                stub = Stub(channel)
                if code is None:
                    assert create(stub, "by-certificate", owner=owner).name
                else:
                    assert refused(lambda: create(stub, "x", owner=owner))[0] == code  # noqa: B023


WRONG = {
    "": r"must have tables \[owners.NAME\]",
    "[owner.a]\ntokens=[]": r"must have tables \[owners.NAME\]",
    "[owners.a]\ntokens='x'": "owner 'a': tokens must be a list",
    "[owners.a]\ntoken=['x']": "owner 'a' must be a table of tokens",
    "[owners.a]\ntokens=['short']": "5 characters, which can be guessed",
    "[owners.a": "not a TOML file",
}


@pytest.mark.parametrize("text", WRONG, ids=repr)
def test_a_file_of_owners_that_says_something_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "owners.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=WRONG[text]):
        read_access(path)


def test_only_this_machine_is_open_by_itself(owners: Path, pem: Path) -> None:
    with pytest.raises(ConfigError, match="everybody who reaches it"):
        Serving(host="0.0.0.0")
    assert Serving(host="localhost").metrics_host == "localhost"
    assert Serving(host="0.0.0.0", open=True).metrics_host == "0.0.0.0"
    access = read_access(owners)
    # Without a certificate, numbers would travel in plain text.
    assert Serving(host="0.0.0.0", access=access).metrics_host == "localhost"
    tls = of(pem, "server")
    assert Serving(host="0.0.0.0", access=access, tls=tls).metrics_host == "0.0.0.0"
