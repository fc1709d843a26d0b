"""What a service withstands: bad clients, races of several servers, and deaths.

    python benchmarks/attack.py                      all of it, on SQLite
    python benchmarks/attack.py --database URL       on an empty PostgreSQL database
    python benchmarks/attack.py --servers 3 races    one part, with three servers on the database

Parts: `clients` (one attacker of each kind in turn, while a bystander tunes), `races` (two clients
do the same at several servers at once), `kills` (servers die by kill -9 while clients tune).

Servers are `optformer serve` with the shipped model, in processes of their own, on loopback. Each
row says what was tried and what went wrong: faults, lost, duplicate and wrong should all be 0.
"""

import argparse
import contextlib
import dataclasses
import logging
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from rich.console import Console
from rich.table import Table
from serve import Server, check, client, health_checks, problem, scratch
from vizier._src.service import study_pb2, vizier_service_pb2, vizier_service_pb2_grpc

from optformer.convert.vizier import problem_to_vizier

pb = vizier_service_pb2
Stub = vizier_service_pb2_grpc.VizierServiceStub
ALGORITHM = "OPTFORMER_EI"


@dataclasses.dataclass
class Row:
    """What one part of the run found.

    Attributes:
      tried: bad inputs, races or suggestions.
      faults: INTERNAL answers, servers that ended, and health checks that failed.
    """

    name: str
    tried: int = 0
    faults: int = 0
    lost: int = 0
    duplicate: int = 0
    wrong: int = 0
    said: str = ""

    def count(self, lines: list[str]) -> None:
        """Sorts what `serve.check` found."""
        for line in lines:
            if "lost" in line or "given to nobody" in line:
                self.lost += 1
            elif "twice" in line or "duplicate" in line:
                self.duplicate += 1
            else:
                self.wrong += 1


def spec(parameters: int = 6, **settings: str) -> study_pb2.StudySpec:
    """A search space of our algorithm, with settings of its policy."""
    from vizier.service import pyvizier as service_vz

    config = service_vz.StudyConfig.from_problem(problem_to_vizier(problem(0, parameters)))
    config.algorithm = ALGORITHM
    config.metadata.ns("optformer").update(settings)
    return config.to_proto()


class Attacker:
    """One bad client, which does the same again and again until it is told to stop."""

    owner = "attacker"

    def __init__(self, endpoint: str) -> None:
        options = [("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(endpoint, options=options)
        self.stub = Stub(self._channel)
        self.tried, self.internal = 0, 0
        self._over = threading.Event()
        self._names = random.Random(0)
        self._held: list[object] = []

    def create(self, made: study_pb2.StudySpec) -> str:
        """A new study of this attacker."""
        name = f"attack-{self._names.random()}"
        study = study_pb2.Study(display_name=name, study_spec=made)
        request = pb.CreateStudyRequest(parent=f"owners/{self.owner}", study=study)
        return self.stub.CreateStudy(request, timeout=60).name

    def suggest(self, study: str, count: int = 1, timeout: float = 60, name: str = "a") -> None:
        """Asks for suggestions."""
        request = pb.SuggestTrialsRequest(parent=study, suggestion_count=count, client_id=name)
        self.stub.SuggestTrials(request, timeout=timeout)

    @contextlib.contextmanager
    def at_work(self, attack: Callable[["Attacker"], None], threads: int) -> Iterator[None]:
        """Attacks while the block runs."""

        def run() -> None:
            while not self._over.is_set():
                self.tried += 1
                try:
                    attack(self)
                except grpc.RpcError as error:
                    self.internal += error.code() == grpc.StatusCode.INTERNAL
                    self._over.wait(0.01)

        with ThreadPoolExecutor(threads) as pool:
            for _ in range(threads):
                pool.submit(run)
            try:
                yield
            finally:
                self._over.set()
                self._channel.close()


def absurd_settings(attacker: Attacker) -> None:
    """Beyond the bounds, and then at them."""
    for candidates in ("100000", "300"):
        study = attacker.create(spec(candidates=candidates, uniform="2000", local="1000"))
        with contextlib.suppress(grpc.RpcError):
            attacker.suggest(study)


def many_at_once(attacker: Attacker) -> None:
    """A hundred suggestions in one request."""
    attacker.suggest(attacker.create(spec()), count=100)


def many_studies(attacker: Attacker) -> None:
    """As many requests at the same time as it can, each on a study of its own."""
    attacker.suggest(attacker.create(spec()))


def new_shapes(attacker: Attacker) -> None:
    """Search spaces of a size that the server has not compiled."""
    attacker.suggest(attacker.create(spec(random.randint(1, 30))))


def gone(attacker: Attacker) -> None:
    """Clients that do not wait for the answer."""
    study = attacker.create(spec())
    for number in range(20):
        with contextlib.suppress(grpc.RpcError):
            attacker.suggest(study, timeout=0.05, name=f"gone-{number}")


def large_messages(attacker: Attacker) -> None:
    """200,000 metrics, 100,000 values, and a search space that is nested deep."""
    wide = spec()
    for _ in range(200_000):
        wide.metrics.add(metric_id="m")
    values = spec()
    values.parameters.add(parameter_id="c").categorical_value_spec.values.extend(
        map(str, range(100_000))
    )
    deep = spec()
    at = deep.parameters[0]
    for _ in range(60):
        at = at.conditional_parameter_specs.add().parameter_spec
        at.parameter_id = "p"
    for made in (wide, values, deep):
        with contextlib.suppress(grpc.RpcError):
            attacker.create(made)


def growing_study(attacker: Attacker) -> None:
    """Metadata, megabyte after megabyte."""
    study = attacker.create(spec())
    for number in range(30):
        request = pb.UpdateMetadataRequest(name=study)
        request.delta.add().metadatum.key = str(number)
        request.delta[0].metadatum.value = "x" * 3_000_000
        attacker.stub.UpdateMetadata(request, timeout=60)


def slow_reader(attacker: Attacker) -> None:
    """Asks for a large study again and again, and reads none of the answers."""
    study = attacker.create(spec())
    for number in range(3):
        request = pb.UpdateMetadataRequest(name=study)
        request.delta.add().metadatum.key = str(number)
        request.delta[0].metadatum.value = "x" * 3_000_000
        attacker.stub.UpdateMetadata(request, timeout=60)
    get = attacker._channel.unary_stream("/vizier.VizierService/GetStudy")
    for _ in range(50):
        attacker._held.append(get(pb.GetStudyRequest(name=study).SerializeToString()))
    time.sleep(1.0)


def slow_sender(attacker: Attacker) -> None:
    """Requests whose message never comes."""

    def never() -> Iterator[bytes]:
        attacker._over.wait()
        yield b""

    call = attacker._channel.stream_unary("/vizier.VizierService/GetStudy")
    attacker._held += [call.future(never()) for _ in range(20)]
    time.sleep(1.0)


def flood(attacker: Attacker) -> None:
    """Cheap requests without a pause."""
    study = attacker.create(spec())
    for _ in range(200):
        attacker.stub.GetStudy(pb.GetStudyRequest(name=study), timeout=60)


def poison(attacker: Attacker) -> None:
    """Measurements and parameters that cannot be used."""
    study = attacker.create(spec(2))
    attacker.suggest(study)
    for metric, value in (("y", float("nan")), ("y", float("inf")), ("z", 1.0)):
        bad = study_pb2.Measurement(metrics=[{"metric_id": metric, "value": value}])
        for call in (
            lambda bad=bad: attacker.stub.CompleteTrial(
                pb.CompleteTrialRequest(name=f"{study}/trials/1", final_measurement=bad)
            ),
            lambda bad=bad: attacker.stub.AddTrialMeasurement(
                pb.AddTrialMeasurementRequest(trial_name=f"{study}/trials/1", measurement=bad)
            ),
            lambda bad=bad: attacker.stub.CreateTrial(
                pb.CreateTrialRequest(
                    parent=study,
                    trial=study_pb2.Trial(state=study_pb2.Trial.SUCCEEDED, final_measurement=bad),
                )
            ),
        ):
            try:
                call()
            except grpc.RpcError:
                continue
            raise AssertionError(f"{metric}={value} was taken")
    attacker.suggest(study, name="b")


def garbage(attacker: Attacker) -> None:
    """Bytes that are no message, to every method."""
    rng = random.Random()
    service = pb.DESCRIPTOR.services_by_name["VizierService"]
    for method in service.methods:
        call = attacker._channel.unary_unary(f"/vizier.VizierService/{method.name}")
        try:
            call(rng.randbytes(rng.randint(1, 200)), timeout=60)
        except grpc.RpcError as error:
            attacker.internal += error.code() == grpc.StatusCode.INTERNAL


ATTACKS: dict[Callable[[Attacker], None], int] = {
    absurd_settings: 2,
    many_at_once: 2,
    many_studies: 64,
    new_shapes: 2,
    gone: 8,
    large_messages: 2,
    growing_study: 2,
    slow_reader: 2,
    slow_sender: 4,
    flood: 8,
    poison: 2,
    garbage: 2,
}


def clients(servers: list[Server], options: argparse.Namespace) -> Iterator[Row]:
    """A bystander alone, and then beside each attacker in turn."""
    server = servers[0]
    client(server.endpoint, problem(1 << 20), "warm-up", options.trials, ALGORITHM)
    alone = 0.0
    for number, attack in enumerate([None, *ATTACKS]):
        row = Row("nobody" if attack is None else attack.__name__.replace("_", " "))
        attacker = Attacker(server.endpoint)
        working = (
            contextlib.nullcontext()
            if attack is None
            else attacker.at_work(attack, ATTACKS[attack])
        )
        with working, health_checks(server) as health:
            time.sleep(0.0 if attack is None else 2.0)
            study, seen = client(
                server.endpoint, problem(number), "bystander", options.trials, ALGORITHM
            )
            row.count(check(study, [seen]))
        median = statistics.median(seen.waited)
        alone = alone or median
        row.tried, row.faults = attacker.tried, attacker.internal
        row.said = (
            f"suggestion {1e3 * median:.0f} ms ({median / alone:.1f} of alone), longest "
            f"{1e3 * max(seen.waited):.0f}; health {1e3 * max(health, default=0):.0f} ms; "
            f"{server.resident:.0f} MiB"
        )
        yield row


def races(servers: list[Server], options: argparse.Namespace) -> Iterator[Row]:
    """The same request at every server in the same moment."""
    channels = [grpc.insecure_channel(server.endpoint) for server in servers]
    stubs = [Stub(channel) for channel in channels]
    many = max(2, len(stubs))
    stubs = [stubs[index % len(stubs)] for index in range(many)]
    made = spec(1)
    made.algorithm = "RANDOM_SEARCH"

    def at_once(calls: list[Callable[[], object]]) -> list[object]:
        barrier = threading.Barrier(len(calls))

        def run(call: Callable[[], object]) -> object:
            barrier.wait()
            try:
                return call()
            except grpc.RpcError as error:
                return error.code()

        with ThreadPoolExecutor(len(calls)) as pool:
            return list(pool.map(run, calls))

    def create(stub: Stub, name: str) -> str:
        study = study_pb2.Study(display_name=name, study_spec=made)
        return stub.CreateStudy(pb.CreateStudyRequest(parent="owners/race", study=study)).name

    def suggest(stub: Stub, study: str, name: str) -> study_pb2.Trial:
        request = pb.SuggestTrialsRequest(parent=study, suggestion_count=1, client_id=name)
        operation = stub.SuggestTrials(request)
        return pb.SuggestTrialsResponse.FromString(operation.response.value).trials[0]

    def measured(value: float) -> study_pb2.Measurement:
        return study_pb2.Measurement(metrics=[{"metric_id": "y", "value": value}])

    create_row, complete_row = Row("create a study"), Row("complete a trial")
    same_row, give_row = Row("one client, all servers"), Row("give a requested trial")
    measure_row = Row("add measurements")
    stamp = f"{time.time():.0f}"
    study = create(stubs[0], f"race-{stamp}")
    for number in range(options.races):
        name = f"new-{stamp}-{number}"
        said = at_once([lambda stub=stub, name=name: create(stub, name) for stub in stubs])
        create_row.tried += 1
        create_row.faults += sum(not isinstance(each, str) for each in said)
        create_row.duplicate += len({each for each in said if isinstance(each, str)}) != 1

        said = at_once(
            [lambda stub=stub, n=number: suggest(stub, study, f"same-{n}") for stub in stubs]
        )
        trials = [each for each in said if isinstance(each, study_pb2.Trial)]
        same_row.tried += 1
        same_row.faults += len(said) - len(trials)
        same_row.duplicate += len({trial.name for trial in trials}) != 1
        trial = trials[0].name

        at_once(
            [
                lambda stub=stub, v=value, trial=trial: stub.AddTrialMeasurement(
                    pb.AddTrialMeasurementRequest(trial_name=trial, measurement=measured(v))
                )
                for value, stub in enumerate(stubs)
            ]
        )
        kept = stubs[0].GetTrial(pb.GetTrialRequest(name=trial)).measurements
        measure_row.tried += many
        measure_row.lost += many - len(kept)

        said = at_once(
            [
                lambda stub=stub, v=value, trial=trial: stub.CompleteTrial(
                    pb.CompleteTrialRequest(name=trial, final_measurement=measured(v))
                )
                for value, stub in enumerate(stubs)
            ]
        )
        accepted = [v for v, each in enumerate(said) if isinstance(each, study_pb2.Trial)]
        kept = stubs[0].GetTrial(pb.GetTrialRequest(name=trial)).final_measurement.metrics
        complete_row.tried += 1
        complete_row.duplicate += len(accepted) != 1
        complete_row.wrong += len(accepted) == 1 and kept[0].value != accepted[0]

    for number in range(options.races):
        trial = study_pb2.Trial()
        trial.parameters.add(parameter_id="x0").value.number_value = number / options.races
        stubs[0].CreateTrial(pb.CreateTrialRequest(parent=study, trial=trial))
    given = []
    for start in range(0, options.races, many):
        calls = [
            lambda stub=stub, n=start + index: suggest(stub, study, f"client-{n}").name
            for index, stub in enumerate(stubs)
            if start + index < options.races
        ]
        given += at_once(calls)
    give_row.tried = options.races
    give_row.faults = sum(not isinstance(each, str) for each in given)
    give_row.duplicate = len(given) - len(set(given))
    for channel in channels:
        channel.close()
    for row in (create_row, same_row, measure_row, complete_row, give_row):
        row.said = f"{len(servers)} servers, {many} clients"
        yield row


def kills(servers: list[Server], options: argparse.Namespace) -> Iterator[Row]:
    """Clients tune while servers die and come back."""
    over, died = threading.Event(), [0]
    row = Row("kill -9")

    def kill() -> None:
        rng = random.Random(0)
        while not over.wait(rng.uniform(1.0, 5.0)) and died[0] < options.kills:
            server = rng.choice(servers)
            server.stop(signal.SIGKILL)
            server.start()
            died[0] += 1

    def tune(number: int) -> tuple[object, object]:
        endpoint = servers[number % len(servers)].endpoint
        return client(endpoint, problem(1000 + number), "worker", options.trials, ALGORITHM)

    killer = threading.Thread(target=kill)
    killer.start()
    rounds = 0
    while died[0] < options.kills or not rounds:
        with ThreadPoolExecutor(8) as pool:
            for study, seen in pool.map(tune, range(8 * rounds, 8 * rounds + 8)):
                row.count(check(study, [seen]))
                row.tried += len(seen.completed)
        rounds += 1
    over.set()
    killer.join()
    row.said = f"{died[0]} deaths of {len(servers)} servers, {8 * rounds} clients"
    yield row


PARTS = {"clients": clients, "races": races, "kills": kills}


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--checkpoint", type=Path, default=Path("optformer-tiny"))
    parser.add_argument("--database", help="URL of an empty database (default: an SQLite file)")
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--trials", type=int, default=20, help="of a bystander's study")
    parser.add_argument("--races", type=int, default=40)
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    table = Table(title=f"{options.servers} servers on {options.database or 'SQLite'}")
    for column in ("attack", "tried", "faults", "lost", "duplicate", "wrong"):
        table.add_column(column, justify="left" if column == "attack" else "right")
    table.add_column("and")
    with scratch() as folder:
        servers: list[Server] = []
        try:
            for number in range(options.servers):
                (folder / str(number)).mkdir()
                database = options.database or str(folder / "studies.db")
                servers.append(Server(options.checkpoint, folder / str(number), database))
            for part in options.parts or PARTS:
                for row in PARTS[part](servers, options):
                    cells = list(dataclasses.astuple(row))
                    table.add_row(*map(str, cells))
                    print(*cells, sep="\t", flush=True)
        finally:
            for server in servers:
                server.stop(signal.SIGKILL)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
