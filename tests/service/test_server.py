"""Where the service listens, how it ends, and what it shows; suggestions: with the policies."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import jax
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from vizier import pythia
from vizier import pyvizier as vz
from vizier._src.service import vizier_service_pb2_grpc

from optformer.data.importers import read
from optformer.errors import ConfigError
from optformer.model import checkpoint, transformer
from optformer.model.config import ModelConfig
from optformer.model.saved import Checkpoint
from optformer.model.transformer import Ids
from optformer.policies.vizier import VizierPolicyFactory
from optformer.service.client import (
    Measured,
    Values,
    complete,
    open_study,
    patiently,
    tune,
)
from optformer.service.guard import SERVICE
from optformer.service.observe import JsonLines, Metrics
from optformer.service.server import Serving, _exported, running
from optformer.study import Study
from optformer.tokenization.tokenizer import StudyTokenizer
from tests.service.test_guard import Stub, create, suggest
from tests.studies import plane

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:vizier")

CHECK = health_pb2.HealthCheckRequest
LINE = plane(1, "line")


def measure(values: Values) -> Measured:
    return Measured(metrics={"y": float(values["x0"])})


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
    with running(database_url=f"sqlite:///{tmp_path}/there.db"):
        pass
    with (
        pytest.raises(ConfigError, match=r"cannot be opened and written: .*readonly"),
        running(database_url=f"sqlite:///file:{tmp_path}/there.db?mode=ro&uri=true"),
    ):
        pass
    with (
        pytest.raises(ConfigError, match=r"u:\*\*\*@h") as refused,
        running(database_url="nodialect://u:secret@h/d"),
    ):
        pass
    assert "secret" not in str(refused.value)


def test_standard_health_checks_are_answered() -> None:
    with running() as endpoint, grpc.insecure_channel(endpoint) as channel:
        checks = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            serving = checks.Check(CHECK(service=name)).status
            assert serving == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as unknown:
            checks.Check(CHECK(service="another"))
        assert unknown.value.code() == grpc.StatusCode.NOT_FOUND


class Slow(pythia.PolicyFactory):
    """Vizier's own algorithms, which wait to be let go."""

    def __init__(self) -> None:
        self.asked, self.go = threading.Event(), threading.Event()

    def __call__(self, problem: object, algorithm: str, *rest: object) -> pythia.Policy:
        self.asked.set()
        assert self.go.wait(20)
        return VizierPolicyFactory()(problem, algorithm, *rest)


def test_a_service_that_stops_finishes_what_it_began() -> None:
    slow = Slow()
    with ThreadPoolExecutor() as threads:
        with running(policy_factory=slow) as endpoint:
            channel = grpc.insecure_channel(endpoint)
            stub = Stub(channel)
            study = create(stub, "begun").name
            begun = threads.submit(suggest, stub, study)
            assert slow.asked.wait(20)
            threading.Timer(0.3, slow.go.set).start()
        assert begun.result()[0].name == f"{study}/trials/1"
        with pytest.raises(grpc.RpcError) as gone:
            create(stub, "too-late")
        assert gone.value.code() == grpc.StatusCode.UNAVAILABLE
        channel.close()


def test_clients_wait_for_a_service_that_comes_back(tmp_path: Path) -> None:
    """A tuning goes on where the service was restarted; a trial is completed once."""
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    retries = []
    with running(database_url=url) as endpoint:
        port = int(endpoint.rsplit(":", 1)[1])
        study = open_study(endpoint, LINE, algorithm="QUASI_RANDOM_SEARCH", name="line")
        tune(study, LINE, measure, trials=2)
        [trial] = study.suggest(count=1)
        # Its answer was lost, so the client does not know.
        trial.complete(vz.Measurement({"y": 0.5}))

    def restart() -> None:
        time.sleep(0.5)
        with running(database_url=url, port=port):
            assert done.wait(200)

    done = threading.Event()
    again = threading.Thread(target=restart)
    again.start()
    complete(trial, vz.Measurement({"y": 0.75}), on_retry=lambda: retries.append(1))
    assert len(tune(study, LINE, measure, trials=4)) == 1
    trials = list(patiently(lambda: study.trials().get()))
    done.set()
    again.join()
    assert retries
    assert [each.id for each in trials] == [1, 2, 3, 4]
    assert trials[2].final_measurement.metrics["y"].value == 0.5


def test_a_database_can_be_imported_while_it_is_served_and_after(tmp_path: Path) -> None:
    path = tmp_path / "studies.db"
    with running(database_url=f"sqlite:///{path}") as endpoint:
        study = open_study(endpoint, LINE, algorithm="QUASI_RANDOM_SEARCH", name="line")
        tune(study, LINE, measure, trials=3)
        [served] = read(str(path))
    [after] = read(str(path))
    for ours in (served, after):
        assert isinstance(ours, Study)
        assert len(ours) == 3
    assert [each.name for each in tmp_path.iterdir()] == ["studies.db"]  # no log is left beside it


def test_numbers_are_there_for_prometheus() -> None:
    metrics = Metrics()
    port = _free_port()
    with running(metrics=metrics) as endpoint, grpc.insecure_channel(endpoint) as channel:
        stub = Stub(channel)
        suggest(stub, create(stub, "counted").name, 3)
        with pytest.raises(grpc.RpcError):
            create(stub, "a/b")
    serving = Serving(metrics_port=port)
    with _exported(metrics, serving):
        with urllib.request.urlopen(f"http://localhost:{port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        with (
            pytest.raises(ConfigError, match="metrics-port"),
            _exported(metrics, serving),
        ):
            pass
    assert 'optformer_requests_total{code="OK",method="CreateStudy"} 1.0' in lines
    assert 'optformer_requests_total{code="INVALID_ARGUMENT",method="CreateStudy"} 1.0' in lines
    assert 'optformer_request_seconds_count{method="SuggestTrials"} 1.0' in lines
    assert "optformer_suggestions_total 3.0" in lines
    assert "optformer_requests_in_flight 0.0" in lines


def test_a_log_has_a_line_for_every_request_only_if_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for level, lines in ((logging.INFO, 0), (logging.DEBUG, 1)):
        caplog.clear()
        with (
            caplog.at_level(level),
            running() as endpoint,
            grpc.insecure_channel(endpoint) as channel,
        ):
            create(Stub(channel), "a")
        requests = [each for each in caplog.records if each.name == "optformer.requests"]
        assert len(requests) == lines


def test_json_lines_have_the_fields_of_a_request(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO),
        running() as endpoint,
        grpc.insecure_channel(endpoint) as channel,
        pytest.raises(grpc.RpcError),
    ):
        create(Stub(channel), 'a/b"\n')
    [record] = [each for each in caplog.records if each.name == "optformer.requests"]
    text = JsonLines().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert (line["event"], line["method"], line["code"]) == (
        "request",
        "CreateStudy",
        "INVALID_ARGUMENT",
    )
    assert line["time"].endswith("Z") and line["ms"] >= 0
    failed = logging.LogRecord("a", logging.ERROR, "f", 1, "because %s", ("x",), None)
    assert json.loads(JsonLines().format(failed))["message"] == "because x"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture
def random_model(tmp_path: Path) -> Path:
    tokenizer = StudyTokenizer()
    config = ModelConfig(
        width=16, heads=1, head_size=16, feed_forward=16, encoder_layers=1, decoder_layers=1
    )
    ids = Ids.of(tokenizer.vocabulary)
    shapes = jax.eval_shape(lambda: transformer.init(config, ids, jax.random.key(0)))
    rng = np.random.default_rng(0)
    saved = Checkpoint(
        config=config,
        tokenizer=tokenizer,
        weights=jax.tree.map(lambda a: rng.normal(size=a.shape).astype(a.dtype), shapes),
        algorithms=("random_search",),
        tokens=128,
    )
    checkpoint.save(saved, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def served(random_model: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    port = _free_port()
    words = [
        "serve", str(random_model), "--port", str(port),
        "--database", str(tmp_path / "studies.db"),
        "--log-format", "json", "--metrics-port", str(_free_port()), "--limit", "count=2",
        "--warm-up", "1", "--compiled", str(tmp_path / "compiled"),
    ]  # fmt: skip
    code = "from optformer import cli; cli.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "default"},
    )
    yield process, port
    process.kill()
    process.communicate()


def test_the_command_serves_until_told_to_stop(served: tuple[subprocess.Popen, int]) -> None:
    process, port = served
    with grpc.insecure_channel(f"localhost:{port}") as channel:
        checks = health_pb2_grpc.HealthStub(channel)
        checks.Check(CHECK(), timeout=300, wait_for_ready=True)
        stub = vizier_service_pb2_grpc.VizierServiceStub(channel)
        study = open_study(f"localhost:{port}", LINE, algorithm="OPTFORMER_PRIOR", name="line")
        assert len(study.suggest(count=2)) == 2
        with pytest.raises(grpc.RpcError, match="this service gives 2"):
            suggest(stub, study.resource_name, 3)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    lines = [json.loads(line) for line in err.splitlines()]
    told = [line["message"] for line in lines if "message" in line]
    # It listens when it is warm.
    starts = [message.split()[0] for message in told]
    assert starts.index("compiling") < starts.index("compiled") < starts.index("serving")
    assert told[-2:] == ["stopping: no new requests; those in flight have 25 s", "stopped"]
    codes = [line["code"] for line in lines if line.get("method") == "SuggestTrials"]
    assert codes == ["RESOURCE_EXHAUSTED"]  # at this level, only those that failed
