"""Several servers on one database: what two of them do at the same moment happens once."""

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from vizier import pyvizier as vz
from vizier._src.service import study_pb2, vizier_service_pb2

from optformer.service import listening
from optformer.service.client import Measured, open_study, tune
from optformer.service.server import running
from tests.service.conftest import Postgres
from tests.service.test_guard import Stub
from tests.studies import plane

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:vizier")

pb = vizier_service_pb2
LINE = plane(1, "line")
SERVERS = 2


@pytest.fixture
def stubs(url: str) -> Iterator[list[Stub]]:
    """One client of each of the servers."""
    with ExitStack() as stack:
        endpoints = [stack.enter_context(running(database_url=url)) for _ in range(SERVERS)]
        yield [Stub(stack.enter_context(grpc.insecure_channel(one))) for one in endpoints]


@pytest.fixture
def study(stubs: list[Stub]) -> str:
    return create(stubs[0], f"shared-{uuid.uuid4()}").name


def create(stub: Stub, name: str) -> study_pb2.Study:
    spec = study_pb2.StudySpec(algorithm="QUASI_RANDOM_SEARCH")
    spec.metrics.add(metric_id="y", goal=study_pb2.StudySpec.MetricSpec.MAXIMIZE)
    parameter = spec.parameters.add(parameter_id="x0")
    parameter.double_value_spec.max_value = 1.0
    study = study_pb2.Study(display_name=name, study_spec=spec)
    return stub.CreateStudy(pb.CreateStudyRequest(parent="owners/o", study=study))


def suggest(stub: Stub, study: str, client: str, count: int = 1) -> list[study_pb2.Trial]:
    request = pb.SuggestTrialsRequest(parent=study, suggestion_count=count, client_id=client)
    operation = stub.SuggestTrials(request)
    return list(pb.SuggestTrialsResponse.FromString(operation.response.value).trials)


def add_trial(stub: Stub, study: str, x: float) -> str:
    trial = study_pb2.Trial()
    trial.parameters.add(parameter_id="x0").value.number_value = x
    return stub.CreateTrial(pb.CreateTrialRequest(parent=study, trial=trial)).name


def measurement(value: float) -> study_pb2.Measurement:
    return study_pb2.Measurement(metrics=[{"metric_id": "y", "value": value}])


def at_once(calls: list[Callable[[], object]]) -> list[object]:
    """What the calls return, or raise, if all are made in the same moment."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return call()
        except grpc.RpcError as error:
            return error.code()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


def test_a_requested_trial_is_given_to_one_client(stubs: list[Stub], study: str) -> None:
    for number in range(16):
        add_trial(stubs[0], study, number / 16)
    given = at_once(
        [
            lambda stub=stubs[n % SERVERS], n=n: suggest(stub, study, f"client-{n}")[0].id
            for n in range(16)
        ]
    )
    assert sorted(map(int, given)) == list(range(1, 17))


def test_a_trial_is_completed_by_one_of_those_who_try(stubs: list[Stub], study: str) -> None:
    for number in range(5):
        [trial] = suggest(stubs[0], study, "me")
        said = at_once(
            [
                lambda stub=stub, value=value, name=trial.name: stub.CompleteTrial(
                    pb.CompleteTrialRequest(name=name, final_measurement=measurement(value))
                )
                for value, stub in enumerate(stubs * 2)
            ]
        )
        accepted = [value for value, each in enumerate(said) if isinstance(each, study_pb2.Trial)]
        assert len(accepted) == 1, f"trial {number}"
        refusals = {each for each in said if not isinstance(each, study_pb2.Trial)}
        assert refusals == {grpc.StatusCode.FAILED_PRECONDITION}
        kept = stubs[0].GetTrial(pb.GetTrialRequest(name=trial.name)).final_measurement
        assert kept.metrics[0].value == accepted[0]


def test_every_measurement_is_kept(stubs: list[Stub], study: str) -> None:
    [trial] = suggest(stubs[0], study, "me")
    at_once(
        [
            lambda stub=stubs[n % SERVERS], n=n: stub.AddTrialMeasurement(
                pb.AddTrialMeasurementRequest(
                    trial_name=trial.name, measurement=measurement(float(n))
                )
            )
            for n in range(16)
        ]
    )
    kept = stubs[0].GetTrial(pb.GetTrialRequest(name=trial.name)).measurements
    assert sorted(each.metrics[0].value for each in kept) == list(range(16))


def test_a_client_at_two_servers_has_one_active_trial(stubs: list[Stub], study: str) -> None:
    for number in range(4):
        given = at_once(
            [lambda stub=stub, n=number: suggest(stub, study, f"me-{n}")[0].name for stub in stubs]
        )
        assert len(set(given)) == 1
    response = stubs[0].ListTrials(pb.ListTrialsRequest(parent=study))
    assert Counter(trial.client_id for trial in response.trials).most_common(1)[0][1] == 1


def test_one_study_is_made_by_those_who_ask_for_the_same(stubs: list[Stub]) -> None:
    for _ in range(5):
        name = f"new-{uuid.uuid4()}"
        made = at_once([lambda stub=stub, name=name: create(stub, name).name for stub in stubs * 3])
        assert set(made) == {f"owners/o/studies/{name}"}


def test_servers_share_a_study(stubs: list[Stub], study: str) -> None:
    """Every suggestion has its own number and point, and none is lost."""

    def tune(worker: int) -> list[str]:
        stub, seen = stubs[worker % SERVERS], []
        for _ in range(4):
            [trial] = suggest(stub, study, f"worker-{worker}")
            request = pb.CompleteTrialRequest(name=trial.name, final_measurement=measurement(1.0))
            stub.CompleteTrial(request)
            seen.append(trial.id)
        return seen

    with ThreadPoolExecutor(4) as threads:
        seen = [number for numbers in threads.map(tune, range(4)) for number in numbers]
    assert sorted(map(int, seen)) == list(range(1, 17))
    trials = stubs[1].ListTrials(pb.ListTrialsRequest(parent=study)).trials
    assert [trial.state for trial in trials] == [study_pb2.Trial.SUCCEEDED] * 16
    assert len({trial.parameters[0].value.number_value for trial in trials}) == 16


def test_a_number_is_not_used_again_after_a_deletion(stubs: list[Stub], study: str) -> None:
    old = add_trial(stubs[0], study, 0.5)
    stubs[1].DeleteTrial(pb.DeleteTrialRequest(name=old))
    new = add_trial(stubs[0], study, 0.5)
    assert (old, new) == (f"{study}/trials/1", f"{study}/trials/2")
    stubs[1].DeleteStudy(pb.DeleteStudyRequest(name=study))
    create(stubs[0], study.rpartition("/")[2])
    # A client of the deleted study would complete another's trial.
    assert add_trial(stubs[1], study, 0.5) == f"{study}/trials/3"


@pytest.mark.slow
def test_a_database_that_is_away_for_seconds_costs_nothing(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "PROBE_SECONDS", 0.2)
    with (
        running(database_url=postgres.url) as endpoint,
        grpc.insecure_channel(endpoint) as channel,
        ThreadPoolExecutor() as threads,
    ):
        checks = health_pb2_grpc.HealthStub(channel)

        def wait_for(status: str) -> None:
            until = time.monotonic() + 30
            wanted = health_pb2.HealthCheckResponse.ServingStatus.Value(status)
            while checks.Check(health_pb2.HealthCheckRequest()).status != wanted:
                assert time.monotonic() < until
                time.sleep(0.1)

        name = f"away-{uuid.uuid4()}"
        opened = open_study(endpoint, LINE, algorithm="QUASI_RANDOM_SEARCH", name=name)

        def evaluate(values: object) -> Measured:
            time.sleep(0.05)
            return Measured(metrics={"y": 1.0})

        tuned = threads.submit(tune, opened, LINE, evaluate, trials=30)
        time.sleep(0.5)
        postgres.stop()
        wait_for("NOT_SERVING")
        postgres.start()
        wait_for("SERVING")
        assert len(tuned.result()) == 30
        trials = list(opened.trials().get())
    assert [trial.status for trial in trials] == [vz.TrialStatus.COMPLETED] * 30
