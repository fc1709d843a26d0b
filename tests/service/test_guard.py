"""What the service refuses, whom it tells, and that nobody else notices."""

import random
import re
import string
from collections.abc import Callable, Iterator

import grpc
import pytest
import sqlalchemy
from google.protobuf import message_factory
from google.protobuf.message import Message
from vizier import pythia
from vizier._src.service import study_pb2, vizier_service_pb2, vizier_service_pb2_grpc
from vizier.service import pyvizier as service_vz

from optformer.convert import vizier as convert
from optformer.errors import StudyError
from optformer.policies.vizier import VizierPolicyFactory
from optformer.service.limits import Limits
from optformer.service.server import running
from tests.studies import MIXED, plane

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:vizier")

pb = vizier_service_pb2
Stub = vizier_service_pb2_grpc.VizierServiceStub
Code = grpc.StatusCode

LIMITS = Limits(message=1 << 16, name=64, parameters=8, trials=12, count=5)
CLIENTS_FAULT = {
    Code.INVALID_ARGUMENT,
    Code.NOT_FOUND,
    Code.ALREADY_EXISTS,
    Code.FAILED_PRECONDITION,
    Code.RESOURCE_EXHAUSTED,
}


def spec(algorithm: str = "QUASI_RANDOM_SEARCH") -> study_pb2.StudySpec:
    config = service_vz.StudyConfig.from_problem(convert.problem_to_vizier(MIXED))
    config.algorithm = algorithm
    return config.to_proto()


def create(stub: Stub, name: str, owner: str = "test", **fields: object) -> study_pb2.Study:
    study = study_pb2.Study(display_name=name, study_spec=fields.pop("spec", None) or spec())
    return stub.CreateStudy(pb.CreateStudyRequest(parent=f"owners/{owner}", study=study))


def suggest(stub: Stub, study: str, count: int = 1) -> list[study_pb2.Trial]:
    operation = stub.SuggestTrials(
        pb.SuggestTrialsRequest(parent=study, suggestion_count=count, client_id="me")
    )
    assert operation.done and not operation.HasField("error")
    return list(pb.SuggestTrialsResponse.FromString(operation.response.value).trials)


def complete(stub: Stub, trial: str, **metrics: float) -> study_pb2.Trial:
    measured = [
        study_pb2.Measurement.Metric(metric_id=name, value=value) for name, value in metrics.items()
    ]
    return stub.CompleteTrial(
        pb.CompleteTrialRequest(
            name=trial, final_measurement=study_pb2.Measurement(metrics=measured)
        )
    )


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value.code(), error.value.details()


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    with running(limits=LIMITS) as endpoint, grpc.insecure_channel(endpoint) as channel:
        yield Stub(channel)


@pytest.fixture
def neighbour(stub: Stub, request: pytest.FixtureRequest) -> Iterator[None]:
    """Another client, whose study goes on whatever the test does."""
    name = f"neighbour-{abs(hash(request.node.name))}"
    study = create(stub, name).name
    [before] = suggest(stub, study)
    yield
    assert complete(stub, before.name, accuracy=0.5).state == study_pb2.Trial.SUCCEEDED
    assert suggest(stub, study)[0].id == "2"


NAMES = {
    "a/b": "display_name has the part 'a/b'.*no slash",
    "../../etc/passwd": "no slash",
    "": "must not be empty",
    "a\nb": "printable",
    "a\0b": "printable",
    "x" * 65: "65 characters; this service takes 64",
}


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_names_that_cannot_be_are_refused(stub: Stub, name: str) -> None:
    code, details = refused(lambda: create(stub, name))
    assert code == Code.INVALID_ARGUMENT
    assert re.search(NAMES[name], details)


def test_names_in_any_script_are_fine(stub: Stub) -> None:
    study = create(stub, "größe 大きさ").name
    assert suggest(stub, study)[0].name == f"{study}/trials/1"


BEYOND = {
    "a message": (
        lambda stub: stub.GetStudy(pb.GetStudyRequest(name="x" * 10_000_000)),
        "larger than max",
    ),
    "a search space": (
        lambda stub: create(stub, "wide", spec=_spec_of(9)),
        "9 parameters or more; this service takes 8",
    ),
    "conditional parameters": (
        lambda stub: create(stub, "deep", spec=_nested(9)),
        "9 parameters or more; this service takes 8",
    ),
    "suggestions at once": (
        lambda stub: suggest(stub, create(stub, "many").name, 6),
        "count=6 suggestions at once; this service gives 5",
    ),
}


def _spec_of(parameters: int) -> study_pb2.StudySpec:
    config = service_vz.StudyConfig.from_problem(convert.problem_to_vizier(plane(parameters)))
    return config.to_proto()


def _nested(depth: int) -> study_pb2.StudySpec:
    made = spec()
    del made.parameters[:]
    at = made.parameters.add()
    for level in range(depth):
        at.parameter_id = f"p{level}"
        at.categorical_value_spec.values.extend(["a", "b"])
        if level < depth - 1:
            child = at.conditional_parameter_specs.add()
            child.parent_categorical_values.values.append("a")
            at = child.parameter_spec
    return made


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("what", BEYOND)
def test_more_than_the_service_gives_is_refused(stub: Stub, what: str) -> None:
    ask, says = BEYOND[what]
    code, details = refused(lambda: ask(stub))
    assert code == Code.RESOURCE_EXHAUSTED
    assert says in details


def test_a_study_is_full_at_its_limit(stub: Stub) -> None:
    study = create(stub, "full").name
    for _ in range(LIMITS.trials):
        [trial] = suggest(stub, study)
        complete(stub, trial.name, accuracy=0.5)
    code, details = refused(lambda: suggest(stub, study))
    assert code == Code.RESOURCE_EXHAUSTED
    assert "12 trials; this service takes 12" in details
    given = study_pb2.Trial(parameters=trial.parameters)
    request = pb.CreateTrialRequest(parent=study, trial=given)
    assert refused(lambda: stub.CreateTrial(request))[0] == Code.RESOURCE_EXHAUSTED


@pytest.mark.usefixtures("neighbour")
def test_a_trial_is_completed_once_with_finite_objectives(stub: Stub) -> None:
    [trial] = suggest(stub, create(stub, "once").name)
    for metrics, says in (
        ({"accuracy": float("nan")}, "'accuracy' is nan"),
        ({"accuracy": float("-inf")}, "'accuracy' is -inf"),
        ({"loss": 1.0}, "'loss' is not one of the study's (['accuracy'])"),
        ({}, "'accuracy' was not measured"),
    ):
        code, details = refused(lambda metrics=metrics: complete(stub, trial.name, **metrics))
        assert code == Code.INVALID_ARGUMENT
        assert says in details
    complete(stub, trial.name, accuracy=0.25)
    assert refused(lambda: complete(stub, trial.name, accuracy=0.5))[0] == Code.FAILED_PRECONDITION
    [kept] = stub.GetTrial(pb.GetTrialRequest(name=trial.name)).final_measurement.metrics
    assert kept.value == 0.25


def test_what_is_not_there_is_not_found(stub: Stub) -> None:
    study = "owners/test/studies/nowhere"
    for call in (
        lambda: stub.GetStudy(pb.GetStudyRequest(name=study)),
        lambda: stub.GetTrial(pb.GetTrialRequest(name=f"{study}/trials/7")),
        lambda: suggest(stub, study),
        lambda: stub.ListTrials(pb.ListTrialsRequest(parent=study)),
    ):
        code, details = refused(call)
        assert code == Code.NOT_FOUND
        assert "nowhere" in details


@pytest.mark.usefixtures("neighbour")
def test_no_study_sends_the_service_to_another_server(stub: Stub) -> None:
    config = service_vz.StudyConfig.from_proto(spec())
    config.pythia_endpoint = "localhost:1"
    study = create(stub, "elsewhere", spec=config.to_proto()).name
    code, details = refused(lambda: suggest(stub, study))
    assert code == Code.INVALID_ARGUMENT
    assert "leave out pythia_endpoint" in details


class Failing(pythia.PolicyFactory):
    """Vizier's own algorithms, after these errors."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)

    def __call__(self, problem: object, algorithm: str, *rest: object) -> pythia.Policy:
        policy = VizierPolicyFactory()(problem, algorithm, *rest)
        if self._errors:
            error = self._errors.pop()

            def suggest(request: pythia.SuggestRequest) -> pythia.SuggestDecision:
                raise error

            policy.suggest = suggest
        return policy


SECRET = "secret-password@database"
FAULTS = {
    "a bug": (ZeroDivisionError(SECRET), Code.INTERNAL, "its log has more about request"),
    "the database": (
        sqlalchemy.exc.OperationalError(f"SELECT {SECRET}", {}, Exception(SECRET)),
        Code.UNAVAILABLE,
        "its log has more about request",
    ),
    "a study": (StudyError("x=3 lies outside [0, 1]."), Code.INVALID_ARGUMENT, "x=3 lies outside"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_failure_its_client_knows_enough_and_can_go_on(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    error, wanted, says = FAULTS[fault]
    with (
        running(policy_factory=Failing(error)) as endpoint,
        grpc.insecure_channel(endpoint) as channel,
    ):
        stub = Stub(channel)
        study = create(stub, "fails").name
        code, details = refused(lambda: suggest(stub, study))
        assert (code, says in details) == (wanted, True)
        assert SECRET not in details
        # Vizier would have this client wait for the failed suggestion forever.
        assert suggest(stub, study)[0].id == "1"
    if wanted == Code.INTERNAL:
        [record] = [each for each in caplog.records if each.exc_info]
        assert str(record.request) in details
        assert SECRET in caplog.text


def test_an_unknown_algorithm_is_named(stub: Stub) -> None:
    study = create(stub, "typo", spec=spec("RANDOM_SAERCH")).name
    code, details = refused(lambda: suggest(stub, study))
    assert code == Code.INVALID_ARGUMENT
    assert "RANDOM_SAERCH is not registered" in details


METHODS = {
    name.removesuffix("Request"): getattr(pb, name)
    for name in pb.DESCRIPTOR.message_types_by_name
    if name.endswith("Request")
}


def fuzzed(kind: type[Message], rng: random.Random, depth: int = 0) -> Message:
    """A message with some fields set to odd values, and names that are partly those of a study."""
    message = kind()
    for field in message.DESCRIPTOR.fields:
        if rng.random() < 0.3:
            continue
        values: list[object] = []
        for _ in range(rng.choice([0, 1, 3]) if field.is_repeated else 1):
            if field.message_type is not None:
                if depth < 4:
                    inner = message_factory.GetMessageClass(field.message_type)
                    values.append(fuzzed(inner, rng, depth + 1))
            elif field.type == field.TYPE_STRING:
                values.append(_odd_text(rng))
            elif field.type == field.TYPE_ENUM:
                values.append(rng.choice([value.number for value in field.enum_type.values]))
            elif field.type in (field.TYPE_DOUBLE, field.TYPE_FLOAT):
                values.append(rng.choice([0.0, -1.0, 1e308, float("nan"), float("inf"), 0.5]))
            elif field.type == field.TYPE_BOOL:
                values.append(rng.random() < 0.5)
            elif field.type == field.TYPE_BYTES:
                values.append(rng.randbytes(5))
            else:
                values.append(rng.choice([0, 1, -1, 3, 2**31 - 1]))
        for value in values:
            if field.is_repeated:
                if field.message_type is not None:
                    getattr(message, field.name).add().CopyFrom(value)
                else:
                    getattr(message, field.name).append(value)
            elif field.message_type is not None:
                getattr(message, field.name).CopyFrom(value)
            else:
                setattr(message, field.name, value)
    return message


def _odd_text(rng: random.Random) -> str:
    return rng.choice(
        [
            "",
            "owners/fuzz",
            "owners/fuzz/studies/fuzzed",
            "owners/fuzz/studies/fuzzed/trials/1",
            "owners/fuzz/studies/fuzzed/trials/-1",
            "owners/a/b",
            "'; DROP TABLE trials; --",
            "C",
            "rbf",
            "\u202e\0\n",
            "9" * 5000,
            "".join(rng.choices(string.printable, k=20)),
        ]
    )


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("method", METHODS)
def test_any_message_gets_an_answer_or_its_clients_fault(stub: Stub, method: str) -> None:
    rng = random.Random(method)
    create(stub, "fuzzed", owner="fuzz")
    answers = set()
    for _ in range(60):
        request = fuzzed(METHODS[method], rng)
        try:
            getattr(stub, method)(request, timeout=20)
            answers.add(Code.OK)
        except grpc.RpcError as error:
            details = error.details()
            assert error.code() in CLIENTS_FAULT, (request, details)
            assert not any(word in details.lower() for word in ("sqlite", "sqlalchemy", "select "))
            answers.add(error.code())
    assert answers & CLIENTS_FAULT
