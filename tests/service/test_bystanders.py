"""What one client does, the others do not notice."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from vizier import pythia
from vizier._src.service import study_pb2

from optformer.policies.vizier import VizierPolicyFactory
from optformer.service import guard, server
from optformer.service.limits import Limits
from optformer.service.server import running
from tests.service.test_guard import Stub, complete, create, pb, refused, spec, suggest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:vizier")

Code = grpc.StatusCode


class Held(pythia.PolicyFactory):
    """Vizier's own algorithms; those of the owner `slow` wait to be let go."""

    def __init__(self) -> None:
        self.asked, self.go = threading.Semaphore(0), threading.Event()

    def __call__(self, problem: object, algorithm: str, supporter: object, name: str) -> object:
        if name.startswith("owners/slow/"):
            self.asked.release()
            assert self.go.wait(20)
        return VizierPolicyFactory()(problem, algorithm, supporter, name)


@pytest.fixture
def held() -> Iterator[Held]:
    factory = Held()
    yield factory
    factory.go.set()


@pytest.fixture
def endpoint(held: Held, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(server, "_cores", lambda: 2)
    with running(policy_factory=held, limits=Limits(waiting=16)) as endpoint:
        try:
            yield endpoint
        finally:
            held.go.set()


@pytest.fixture
def stub(endpoint: str) -> Iterator[Stub]:
    with grpc.insecure_channel(endpoint) as channel:
        yield Stub(channel)


def ask(study: str, client: str) -> pb.SuggestTrialsRequest:
    return pb.SuggestTrialsRequest(parent=study, suggestion_count=1, client_id=client)


def test_while_an_owners_suggestions_hang_the_others_get_theirs(
    stub: Stub, endpoint: str, held: Held
) -> None:
    studies = [create(stub, f"s{number}", owner="slow").name for number in range(6)]
    with ThreadPoolExecutor() as threads:
        hanging = [threads.submit(suggest, stub, study) for study in studies]
        for _ in range(2):
            assert held.asked.acquire(timeout=20)
        # A suggestion, what takes no time, and a health check.
        [trial] = suggest(stub, create(stub, "other", owner="quick").name)
        complete(stub, trial.name, accuracy=0.5)
        with grpc.insecure_channel(endpoint) as channel:
            checks = health_pb2_grpc.HealthStub(channel)
            checks.Check(health_pb2.HealthCheckRequest(), timeout=5)
        # The owner's other requests, too.
        stub.ListTrials(pb.ListTrialsRequest(parent=studies[0]), timeout=5)
        assert not any(each.done() for each in hanging)
        held.go.set()
        assert all(each.result() for each in hanging)


def test_requests_of_clients_that_are_gone_are_dropped(stub: Stub, held: Held) -> None:
    study = create(stub, "gone", owner="slow").name
    calls = [stub.SuggestTrials.future(ask(study, f"client-{n}"), timeout=60) for n in range(8)]
    assert held.asked.acquire(timeout=20)  # the first is being computed
    for call in calls[:4]:
        call.cancel()
    for call in calls[4:]:
        call.cancel()
    late = stub.SuggestTrials.future(ask(study, "late"), timeout=0.3)
    assert late.code() == Code.DEADLINE_EXCEEDED
    held.go.set()
    [trial] = suggest(stub, study)
    assert trial.id == "1"
    assert len(stub.ListTrials(pb.ListTrialsRequest(parent=study)).trials) == 1


def test_an_owner_may_have_so_many_requests_waiting(stub: Stub, held: Held) -> None:
    study = create(stub, "many", owner="slow").name
    first = stub.SuggestTrials.future(ask(study, "first"))
    assert held.asked.acquire(timeout=20)
    more = [stub.SuggestTrials.future(ask(study, f"client-{n}"), timeout=30) for n in range(15)]
    time.sleep(0.3)  # until they wait
    code, details = refused(lambda: stub.SuggestTrials(ask(study, "one-more"), timeout=5))
    assert code == Code.RESOURCE_EXHAUSTED
    assert "16 requests of owner 'slow'" in details
    held.go.set()
    assert first.result().done
    assert {call.code() for call in more} == {Code.OK}


def large(stub: Stub, study: str) -> None:
    """Adds trials of 8 MB."""
    for number in range(8):
        trial = study_pb2.Trial(state=study_pb2.Trial.SUCCEEDED)
        for name, value in (("C", 1.0), ("depth", 3.0), ("batch", 32.0)):
            trial.parameters.add(parameter_id=name).value.number_value = value
        trial.parameters.add(parameter_id="kernel").value.string_value = "rbf"
        trial.final_measurement.metrics.add(metric_id="accuracy", value=float(number))
        trial.metadata.add(key="k", value="x" * 1_000_000)
        stub.CreateTrial(pb.CreateTrialRequest(parent=study, trial=trial))


def test_a_reader_that_does_not_read_is_refused_more(
    stub: Stub, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = create(stub, "large", owner="quick").name
    large(stub, study)
    monkeypatch.setattr(guard, "UNREAD_OF_ONE", 4 << 20)
    options = [("grpc.max_receive_message_length", -1)]
    request = pb.ListTrialsRequest(parent=study).SerializeToString()
    with (
        grpc.insecure_channel(endpoint, options=options) as channel,
        grpc.insecure_channel(endpoint, options=options) as other,
    ):
        # As a stream, an answer waits until it is asked for.
        lists = channel.unary_stream("/vizier.VizierService/ListTrials")
        unread = lists(request)
        assert dict(unread.initial_metadata()) == {}
        code, details = refused(lambda: next(lists(request)))
        assert code == Code.RESOURCE_EXHAUSTED
        assert "of owner 'quick' have not read yet" in details
        assert create(Stub(other), "other", owner="other").name
        assert len(next(unread)) > 8_000_000
        assert list(unread) == []
        time.sleep(0.2)  # the server hears of it a little later
        assert len(next(lists(request))) > 8_000_000


def test_a_service_that_stops_tells_those_who_still_wait(
    held: Held, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "GRACE_SECONDS", 4.0)
    with running(policy_factory=held) as endpoint:
        channel = grpc.insecure_channel(endpoint)
        stub = Stub(channel)
        study = create(stub, "long", owner="slow").name
        calls = [stub.SuggestTrials.future(ask(study, f"client-{n}")) for n in range(3)]
        assert held.asked.acquire(timeout=20)
        start = time.monotonic()
    assert time.monotonic() - start < 10.0
    assert [call.code() for call in calls] == [Code.UNAVAILABLE] * 3
    channel.close()
    held.go.set()  # what was being computed finds the database closed, and says nothing
    time.sleep(0.2)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_what_cannot_be_parsed_is_the_clients_fault(endpoint: str) -> None:
    deep = spec()
    with grpc.insecure_channel(endpoint) as channel:
        call = channel.unary_unary("/vizier.VizierService/CreateStudy")
        assert refused(lambda: call(b"\xff\xff\xff"))[0] == Code.INVALID_ARGUMENT
        # 200 parameters, each the child of the one before.
        nested = b""
        for _ in range(200):
            nested = (
                b"\x52"
                + _length(b"\x0a" + _length(nested) + nested)
                + (b"\x0a" + _length(nested) + nested)
            )
        parameters = b"\x12" + _length(nested) + nested
        study = b"\x1a" + _length(parameters) + parameters
        message = b"\x0a\x08owners/o\x12" + _length(study) + study
        code, details = refused(lambda: call(message))
        assert code == Code.INVALID_ARGUMENT
        assert "nested too deep" in details
        assert call(
            pb.CreateStudyRequest(
                parent="owners/o", study=study_pb2.Study(display_name="s", study_spec=deep)
            ).SerializeToString()
        )


def _length(data: bytes) -> bytes:
    number, groups = len(data), []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])
