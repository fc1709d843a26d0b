"""A service under load, killed in the middle of it, and over many suggestions.

    python benchmarks/serve.py one       one client: p50 and p99
    python benchmarks/serve.py load      32 clients, each on a study of its own
    python benchmarks/serve.py shared    the same, all on one study
    python benchmarks/serve.py faults    as load; the server dies (kill -9) and comes back
    python benchmarks/serve.py memory    the server's memory over 5,000 suggestions of 50 shapes
    python benchmarks/serve.py database  what a suggestion costs besides the model, beside Vizier's

Clients are threads of one process with Vizier's own client; the server is `optformer serve` with
the shipped model in another, on loopback, with an SQLite file. Each run checks what the server has
at the end against what its clients saw, and how long a health check took at most. Processor time is
of the server alone: on a machine that does other work too, it says more than rates do.
"""

import argparse
import contextlib
import dataclasses
import functools
import logging
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.table import Table
from vizier import pythia
from vizier import pyvizier as vz
from vizier.service import clients

from optformer.service.client import complete, open_study, patiently
from optformer.study import Metric, Parameter, ParameterType, Problem, Scale

PARAMETERS = 6
PATIENCE = 240.0  # seconds that a client keeps trying to reach the server


def problem(study: int, parameters: int = PARAMETERS) -> Problem:
    """Numbers in [0, 1]; the title tells studies apart."""
    return Problem(
        name=f"study-{study}",
        title=f"load {study}",
        parameters=tuple(
            Parameter(
                name=f"x{index}", type=ParameterType.DOUBLE, scale=Scale.LINEAR, bounds=(0.0, 1.0)
            )
            for index in range(parameters)
        ),
        metrics=(Metric(name="y"),),
    )


def random_checkpoint(folder: Path, shape: str) -> Path:
    """A checkpoint of this shape that has learned nothing."""
    import jax

    from optformer.model import checkpoint, transformer
    from optformer.model.config import MODELS
    from optformer.model.saved import Checkpoint
    from optformer.model.transformer import Ids
    from optformer.tokenization.tokenizer import StudyTokenizer

    tokenizer = StudyTokenizer()
    ids = Ids.of(tokenizer.vocabulary)
    shapes = jax.eval_shape(lambda: transformer.init(MODELS[shape], ids, jax.random.key(0)))
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda a: rng.normal(0, 0.05, a.shape).astype(a.dtype), shapes)
    saved = Checkpoint(
        config=MODELS[shape],
        tokenizer=tokenizer,
        weights=weights,
        algorithms=("random_search",),
        tokens=1024,
    )
    checkpoint.save(saved, folder)
    return folder


class Server:
    """`optformer serve` as a process that can be killed and started again."""

    def __init__(self, checkpoint: Path, folder: Path, database: str | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            self.port = probe.getsockname()[1]
        self.endpoint = f"localhost:{self.port}"
        self.log = folder / "server.log"
        self._words = [
            "optformer", "serve", str(checkpoint),
            "--port", str(self.port), "--database", database or str(folder / "studies.db"),
            "--warm-up", "0",
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        """Starts it and waits until it answers."""
        code = "import sys; from optformer import cli; cli.main()"
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, *self._words[1:]], stdout=log, stderr=log
            )
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise SystemExit(f"the server ended:\n{self.log.read_text()[-2000:]}")
            with contextlib.suppress(OSError):
                socket.create_connection(("localhost", self.port), timeout=1.0).close()
                return
            time.sleep(0.1)
        raise SystemExit(f"no answer from the server:\n{self.log.read_text()[-2000:]}")

    def stop(self, number: int) -> float:
        """Sends a signal and waits for the end; returns the seconds that it took."""
        start = time.perf_counter()
        self._process.send_signal(number)
        self._process.wait()
        return time.perf_counter() - start

    @property
    def resident(self) -> float:
        """MiB of memory."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    @property
    def cpu(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass
class Seen:
    """What one client saw of its study."""

    study: str
    completed: dict[int, float] = dataclasses.field(default_factory=dict)
    waited: list[float] = dataclasses.field(default_factory=list)
    retries: int = 0


def client(
    endpoint: str,
    ours: Problem,
    worker: str,
    trials: int,
    algorithm: str,
    on_trial: Callable[[], None] = lambda: None,
) -> tuple[clients.Study, Seen]:
    """Tunes a study; when the server is away, tries again until it is back."""
    seen = Seen(ours.name)

    def retried() -> None:
        seen.retries += 1

    opened = open_study(endpoint, ours, algorithm=algorithm, name=ours.name)
    while len(seen.completed) < trials:
        start = time.perf_counter()
        [trial] = patiently(
            lambda: opened.suggest(count=1, client_id=worker), on_retry=retried, patience=PATIENCE
        )
        seen.waited.append(time.perf_counter() - start)
        # In one call; `trial.parameters` takes two.
        given = patiently(trial.materialize, on_retry=retried, patience=PATIENCE)
        value = sum(given.parameters.get_value(p.name) for p in ours.parameters)
        complete(trial, vz.Measurement({"y": value}), on_retry=retried)
        seen.completed[trial.id] = value
        on_trial()
    return opened, seen


def check(study: clients.Study, seen: list[Seen]) -> list[str]:
    """What is wrong with the study that the server has, given what its clients saw."""
    there = {trial.id: trial for trial in study.trials().get()}
    name, wrong = seen[0].study, []
    numbers = [number for one in seen for number in one.completed]
    if len(set(numbers)) != len(numbers):
        wrong.append(f"{name}: {len(numbers) - len(set(numbers))} trials were given twice")
    for number, value in (item for one in seen for item in one.completed.items()):
        trial = there.get(number)
        if trial is None or trial.status != vz.TrialStatus.COMPLETED:
            wrong.append(f"{name}: trial {number} is lost")
        elif trial.final_measurement.metrics["y"].value != value:
            wrong.append(f"{name}: trial {number} has another value")
    extra = there.keys() - set(numbers)
    wrong += [f"{name}: trial {number} was given to nobody" for number in extra]
    points = {tuple(sorted(trial.parameters.as_dict().items())) for trial in there.values()}
    if len(points) != len(there):
        wrong.append(f"{name}: {len(there) - len(points)} trials are duplicates")
    return wrong


def tune_all(
    server: Server, options: argparse.Namespace, on_trial: Callable[[], None], shared: bool = False
) -> tuple[list[Seen], list[str], float]:
    """All clients at once: what they saw, what is wrong, and the seconds it took."""
    shares = [
        options.suggestions // options.clients + (n < options.suggestions % options.clients)
        for n in range(options.clients)
    ]

    def run(n: int) -> tuple[clients.Study, Seen]:
        ours = problem(0 if shared else n)
        return client(server.endpoint, ours, f"worker-{n}", shares[n], options.algorithm, on_trial)

    start = time.perf_counter()
    with ThreadPoolExecutor(options.clients) as threads:
        ended = list(threads.map(run, range(options.clients)))
    seconds = time.perf_counter() - start
    seen = [one for _, one in ended]
    if shared:
        return seen, check(ended[0][0], seen), seconds
    return seen, [line for study, one in ended for line in check(study, [one])], seconds


@contextlib.contextmanager
def health_checks(server: Server) -> Iterator[list[float]]:
    """How long each of the health checks took that are made while the block runs, in seconds."""
    took: list[float] = []
    over = threading.Event()

    def ask() -> None:
        with grpc.insecure_channel(server.endpoint) as channel:
            checks = health_pb2_grpc.HealthStub(channel)
            while not over.wait(0.2):
                start = time.perf_counter()
                checks.Check(health_pb2.HealthCheckRequest(), timeout=60)
                took.append(time.perf_counter() - start)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield took
    finally:
        over.set()
        asking.join()


def load(
    server: Server, options: argparse.Namespace, shared: bool = False
) -> list[tuple[str, str]]:
    """Many clients, one server."""
    client(server.endpoint, problem(1 << 20), "warm-up", 3, options.algorithm)  # compiles
    before = server.cpu
    with health_checks(server) as took:
        seen, wrong, seconds = tune_all(server, options, lambda: None, shared)
    waited = sorted(1e3 * each for one in seen for each in one.waited)
    cuts = statistics.quantiles(waited, n=100)
    return [
        ("suggestions", f"{len(waited):,}"),
        ("lost, duplicate or wrong", str(len(wrong))),
        *(("", line) for line in wrong[:5]),
        ("a second", f"{len(waited) / seconds:.1f}"),
        ("p50, p99, longest (ms)", f"{cuts[49]:.0f}, {cuts[98]:.0f}, {waited[-1]:.0f}"),
        ("server's processor time each (ms)", f"{1e3 * (server.cpu - before) / len(waited):.1f}"),
        ("server's memory (MiB)", f"{server.resident:.0f}"),
        ("longest health check (ms)", f"{1e3 * max(took, default=0.0):.0f}"),
        ("stopped by SIGTERM in (s)", f"{server.stop(signal.SIGTERM):.1f}"),
    ]


def shared(server: Server, options: argparse.Namespace) -> list[tuple[str, str]]:
    """Many clients of one study."""
    return load(server, options, shared=True)


def faults(server: Server, options: argparse.Namespace) -> list[tuple[str, str]]:
    """The server is killed at a third and at two thirds of the work."""
    done = 0
    lock = threading.Lock()
    deaths = [options.suggestions // 3, 2 * options.suggestions // 3]
    died: list[float] = []

    def on_trial() -> None:
        nonlocal done
        with lock:
            done += 1
            if not deaths or done < deaths[0]:
                return
            deaths.pop(0)
        server.stop(signal.SIGKILL)
        start = time.perf_counter()
        server.start()
        died.append(time.perf_counter() - start)

    seen, wrong, seconds = tune_all(server, options, on_trial)
    server.stop(signal.SIGTERM)
    return [
        ("completed trials", f"{sum(len(one.completed) for one in seen):,} in {seconds:.0f} s"),
        ("kill -9", f"{len(died)} times, back after {', '.join(f'{s:.1f}' for s in died)} s"),
        ("calls tried again", f"{sum(one.retries for one in seen):,}"),
        ("lost, duplicate or wrong", str(len(wrong))),
        *(("", line) for line in wrong[:5]),
        ("studies that ended", f"{len(seen)} of {options.clients}"),
    ]


def memory(server: Server, options: argparse.Namespace) -> list[tuple[str, str]]:
    """One study of 100 trials after another, with different numbers of parameters."""
    rows = []
    per_study = 100
    studies = options.suggestions // per_study
    for study in range(studies):
        ours = problem(study, 1 + study % 25)
        client(server.endpoint, ours, "worker", per_study, options.algorithm)
        if (study + 1) % max(1, studies // 10) == 0:
            rows.append((f"after {(study + 1) * per_study:,} (MiB)", f"{server.resident:.0f}"))
    server.stop(signal.SIGTERM)
    return rows


class Constant(pythia.PolicyFactory, pythia.Policy):
    """Suggests the same at once."""

    def __call__(self, *_: object) -> pythia.Policy:
        return self

    def suggest(self, request: pythia.SuggestRequest) -> pythia.SuggestDecision:
        values = {f"x{index}": 0.5 for index in range(PARAMETERS)}
        return pythia.SuggestDecision([vz.TrialSuggestion(values)], metadata=vz.MetadataDelta())

    def early_stop(self, request: pythia.EarlyStopRequest) -> pythia.EarlyStopDecisions:
        raise NotImplementedError

    should_be_cached = False


def database(options: argparse.Namespace) -> list[tuple[str, str]]:
    """A suggestion and its completion, in process, with no model: Vizier's service and ours.

    Both have one study under way among others that have 31 trials each.
    """
    from vizier._src.service import pythia_service, vizier_service

    from optformer.service.servicer import StudyService

    rows = []
    with scratch() as folder:
        theirs = vizier_service.VizierServicer(database_url=f"sqlite:///{folder / 'vizier.db'}")
        theirs.default_pythia_service = pythia_service.PythiaServicer(theirs, Constant())
        ours = StudyService(f"sqlite:///{folder / 'ours.db'}", Constant())
        measure = functools.partial(_without_model, trials=31)
        for others in (0, options.clients):
            for name, service in (("Vizier's", theirs), ("ours", ours)):
                for study in range(others):
                    measure(service, f"other-{study}")
                wall, cpu = measure(service, f"measured-{others}")
                about = f"{name}, among {others} studies: ms, of the processor"
                rows.append((about, f"{wall:.1f}, {cpu:.1f}"))
    return rows


def _without_model(service: object, name: str, trials: int) -> tuple[float, float]:
    """Milliseconds a trial, on the clock and of the processor."""
    from vizier._src.service import study_pb2, vizier_service_pb2
    from vizier.service import pyvizier as service_vz

    from optformer.convert.vizier import problem_to_vizier

    config = service_vz.StudyConfig.from_problem(problem_to_vizier(problem(0)))
    config.algorithm = "CONSTANT"
    study = study_pb2.Study(display_name=name, study_spec=config.to_proto())
    request = vizier_service_pb2.CreateStudyRequest(parent="owners/me", study=study)
    made = service.CreateStudy(request).name
    measured = study_pb2.Measurement(metrics=[study_pb2.Measurement.Metric(metric_id="y", value=1)])
    clocks = time.perf_counter(), time.process_time()
    for number in range(1, trials + 1):
        service.SuggestTrials(
            vizier_service_pb2.SuggestTrialsRequest(parent=made, suggestion_count=1, client_id="me")
        )
        service.CompleteTrial(
            vizier_service_pb2.CompleteTrialRequest(
                name=f"{made}/trials/{number}", final_measurement=measured
            )
        )
    ends = time.perf_counter(), time.process_time()
    wall, cpu = (1e3 * (end - start) / trials for start, end in zip(clocks, ends, strict=True))
    return wall, cpu


RUNS = {
    "one": (load, 100, 1),
    "load": (load, 960, 32),
    "shared": (shared, 480, 32),
    "faults": (faults, 640, 32),
    "memory": (memory, 5000, 1),
}


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", choices=[*RUNS, "database"])
    parser.add_argument("--checkpoint", type=Path, default=Path("optformer-tiny"), help="a model")
    parser.add_argument("--shape", help="a model of this shape with random weights instead")
    parser.add_argument("--clients", type=int)
    parser.add_argument("--suggestions", type=int)
    parser.add_argument("--algorithm", default="OPTFORMER_EI")
    options = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if options.run == "database":
        options.clients = options.clients or 64
        show("database", database(options))
        return
    run, suggestions, many = RUNS[options.run]
    options.suggestions = options.suggestions or suggestions
    options.clients = options.clients or many
    with scratch() as folder:
        checkpoint = options.checkpoint
        if options.shape:
            checkpoint = random_checkpoint(folder / "model", options.shape)
        server = Server(checkpoint, folder)
        try:
            rows = run(server, options)
        finally:
            server.stop(signal.SIGKILL)
    show(f"{options.run}: {options.clients} clients, {options.algorithm}", rows)


def show(title: str, rows: list[tuple[str, str]]) -> None:
    """A table on the terminal."""
    table = Table(title=title)
    table.add_column("what")
    table.add_column("measured", justify="right")
    for row in rows:
        table.add_row(*row)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
