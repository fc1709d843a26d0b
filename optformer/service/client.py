"""Tuning through a Vizier service, as any client of it does.

with endpoint_of(database=Path("studies.db")) as endpoint:
    study = open_study(endpoint, problem, algorithm="RANDOM_SEARCH", name="svc-wine")
    tried = tune(study, problem, evaluate, trials=30)
"""

import dataclasses
import enum
import functools
import os
import queue
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import TYPE_CHECKING, TypeVar

from optformer.errors import ConfigError, SourceError, did_you_mean
from optformer.study import Metric, Parameter, Problem, State, Value

if TYPE_CHECKING:
    import grpc
    from vizier._src.service import vizier_service_pb2_grpc
    from vizier.service import clients
    from vizier.service import pyvizier as vz

    from optformer.service.tls import Certificates

OWNER = "optformer"

TOKEN = "OPTFORMER_TOKEN"
"""The environment variable with the token to show to a service that knows its clients."""

PATIENCE = 120.0
"""Seconds that `patiently` waits for a service that is away: being restarted, or moved."""

# Of Vizier's service, for suggesting the right one; it has others that need more packages.
ALGORITHMS = (
    "RANDOM_SEARCH",
    "QUASI_RANDOM_SEARCH",
    "GRID_SEARCH",
    "EAGLE_STRATEGY",
    "NSGA2",
    "GP_UCB_PE",
    "GAUSSIAN_PROCESS_BANDIT",
)

_OTHER_ALGORITHMS = ("DEFAULT", "SHUFFLED_GRID_SEARCH", "CMA_ES", "HARMONICA", "BOCS")

OURS = (
    "OPTFORMER",
    *(f"OPTFORMER_{name}" for name in ("EI", "TS", "TS_JOINT", "UCB", "PI", "MEAN", "PRIOR")),
)
"""The algorithms of a service with a model (`policies.vizier.ALGORITHMS`)."""

_LONGEST_REASON = 500  # characters of why a trial failed
_CONNECT_SECONDS = 10.0  # Vizier's own clients wait as long
_SETTING = "setting "  # how the fact that a study has one of our policies' settings begins

Answer = TypeVar("Answer")
Values = Mapping[str, Value]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """The result of an evaluation.

    Attributes:
      metrics: by name, in their own units; none if it failed.
      failure: why it failed, "" if it did not.
    """

    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    failure: str = ""


Evaluate = Callable[[Values], Measured]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tried:
    """One trial of a running study.

    Attributes:
      number: from 1, in the order in which trials ended.
      metric: the objective in its own units; None if the trial failed.
      problem: why it failed, or which constraint it violates; "" if neither.
      best: the best objective so far, None before the first feasible trial.
      improved: whether this trial is better than all before it.
      waited: seconds for the suggestion, round trip.
      measured: seconds for the evaluation.
    """

    number: int
    values: Values
    metric: float | None
    problem: str = ""
    best: float | None
    improved: bool
    waited: float
    measured: float


def new_name(problem: Problem) -> str:
    """A study name made of the problem and the time: `svc-wine-20261124-114500`."""
    # A slash would end the name in Vizier's resource names.
    return f"{problem.name.replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"


def open_study(
    endpoint: str,
    problem: Problem,
    *,
    algorithm: str,
    name: str,
    owner: str = OWNER,
    policy: Mapping[str, str] | None = None,
    tls: "Certificates | None" = None,
) -> "clients.Study":
    """The study of this name at the service, made if it is not there.

    Args:
      policy: how our policies suggest: fields of `PolicyConfig`.
      tls: for a service with a certificate: whose signature it must have, and the client's own if
        it asks for one. Vizier's own way to open a study knows plain text only.

    Raises:
      SourceError: nothing answers at the endpoint.
      ConfigError: the study is there with another search space, metric, algorithm or policy.
    """
    import grpc
    from vizier._src.service import study_pb2, vizier_client, vizier_service_pb2
    from vizier.service import clients
    from vizier.service import pyvizier as vz

    from optformer.convert.vizier import NAMESPACE, problem_to_vizier

    config = vz.StudyConfig.from_problem(problem_to_vizier(problem))
    config.algorithm = algorithm
    if policy:
        config.metadata.ns(NAMESPACE).update(policy)
    _check_answers(endpoint)
    request = vizier_service_pb2.CreateStudyRequest(
        parent=f"owners/{owner}",
        study=study_pb2.Study(display_name=name, study_spec=config.to_proto()),
    )
    try:
        # Vizier's clients take the endpoint from a global of the process; these get theirs.
        stub = _stub(endpoint, tls, os.environ.get(TOKEN, ""))
        made = patiently(lambda: stub.CreateStudy(request))
        study = clients.Study(vizier_client.VizierClient(made.name, clients.UNUSED_CLIENT_ID, stub))
        found = study.materialize_study_config()
    except grpc.FutureTimeoutError as error:
        wants = "another TLS certificate" if tls else "TLS"
        raise SourceError(
            f"the server at {endpoint} is not a Vizier service, or requires {wants}."
        ) from error
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
            raise ConfigError(f"the service refuses the study: {error.details()}") from error
        raise SourceError(
            f"the server at {endpoint} is not a Vizier service, or failed: {error}"
        ) from error
    _check_same(found, config, name)
    return study


@functools.lru_cache(maxsize=128)
def _stub(
    endpoint: str, tls: "Certificates | None", token: str
) -> "vizier_service_pb2_grpc.VizierServiceStub":
    """One connection for all studies at an endpoint."""
    import grpc
    from vizier._src.service import vizier_service_pb2_grpc

    from optformer.service.access import with_token

    # A study's trials are one message, which can be larger than gRPC's default of 4 MiB.
    options = [("grpc.max_receive_message_length", -1)]
    channel = (
        grpc.insecure_channel(endpoint, options)
        if tls is None
        else grpc.secure_channel(endpoint, tls.of_client(), options)
    )
    try:
        grpc.channel_ready_future(channel).result(timeout=_CONNECT_SECONDS)
    except grpc.FutureTimeoutError:
        channel.close()
        raise
    return vizier_service_pb2_grpc.VizierServiceStub(with_token(channel, token))


def patiently(
    call: Callable[[], Answer],
    *,
    patience: float = PATIENCE,
    on_retry: Callable[[], None] = lambda: None,
) -> Answer:
    """What the call returns; while the service is away, the call is tried again.

    A call that is tried again may have been done before the service went away: a suggestion is then
    given a second time, and `complete` knows it too.

    Raises:
      grpc.RpcError: any other error, or the service did not come back for `patience` seconds.
    """
    import grpc

    until = time.monotonic() + patience
    wait = 0.1
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > until:
                raise
        on_retry()
        time.sleep(wait)
        wait = min(2 * wait, 2.0)


def complete(
    trial: "clients.Trial",
    measurement: "vz.Measurement | None",
    *,
    infeasible: str | None = None,
    on_retry: Callable[[], None] = lambda: None,
) -> None:
    """Completes a trial, also if the service goes away meanwhile; once is enough.

    Args:
      infeasible: why there is no measurement.

    Raises:
      grpc.RpcError: as `patiently`.
    """
    import grpc

    tried = 0

    def call() -> None:
        nonlocal tried
        tried += 1
        try:
            trial.complete(measurement, infeasible_reason=infeasible)
        except grpc.RpcError as error:
            # Done before, by a service that went away before it could say so.
            if tried == 1 or error.code() != grpc.StatusCode.FAILED_PRECONDITION:
                raise

    patiently(call, on_retry=on_retry)


def _check_same(found: "vz.StudyConfig", asked: "vz.StudyConfig", name: str) -> None:
    """Vizier hands out a study that is there as it is, whatever was asked for.

    Raises:
      ConfigError: names what differs.
    """
    there, here = _facts(found), _facts(type(asked).from_proto(asked.to_proto()))
    for fact in there | here:
        # A study that was created with settings keeps them, also if none are given now.
        if there.get(fact) != here.get(fact) and (fact in here or not fact.startswith(_SETTING)):
            raise ConfigError(
                f"there is a study {name!r} with another {fact}: {there.get(fact, 'none')}, not "
                f"{here.get(fact, 'none')}. Give this one another --name, or ask for the same."
            )


def _facts(config: "vz.StudyConfig") -> dict[str, object]:
    """What makes two studies different, in words: `{"bounds of parameter 'x'": (0, 1), ...}`."""
    from optformer.convert.vizier import NAMESPACE, problem_from_vizier

    problem = problem_from_vizier(config)
    facts: dict[str, object] = {"algorithm": config.algorithm}
    # Two problems can have one search space: their texts tell them apart.
    facts |= {"title": problem.title} if problem.title else {}
    facts |= {f"metadata {key!r}": value for key, value in problem.metadata}
    parts: list[tuple[str, Metric | Parameter]] = [
        *(("metric", metric) for metric in problem.metrics),
        *(("parameter", parameter) for parameter in problem.parameters),
    ]
    for kind, part in parts:
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if field.name != "name" and value is not None:
                shown = value.value if isinstance(value, enum.Enum) else value
                facts[f"{field.name} of {kind} {part.name!r}"] = shown
    for key, value in config.metadata.ns(NAMESPACE).items():
        facts[f"{_SETTING}{key}"] = value
    return facts


def _check_answers(endpoint: str) -> None:
    """Vizier's client would wait ten seconds for what can be known at once.

    Raises:
      SourceError: the endpoint has no port, or nothing listens there.
    """
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdigit():
        raise SourceError(f"the service {endpoint!r} is not of the form host:port.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
    except OSError as error:
        raise SourceError(
            f"no Vizier service answers at {endpoint} ({error.strerror or error}). Start one with "
            "`optformer serve`, or name another host:port."
        ) from error


def tune(
    study: "clients.Study",
    problem: Problem,
    evaluate: Evaluate,
    *,
    trials: int,
    workers: int = 1,
    max_failures: int = 0,
    report: Callable[[Tried], None] = lambda tried: None,
    stop: Callable[[], None] = lambda: None,
) -> list[Tried]:
    """Asks the study for trials until it has this many, and tells it what they measured.

    While the service is away, it is waited for (`patiently`). A study that has trials resumes:
    numbers and the best so far count those too. An interrupted trial is suggested again.

    Args:
      trials: how many the study shall have in all.
      workers: how many trials are evaluated at the same time.
      max_failures: give up if this many trials all fail and the study has no other; 0 for never.
      report: called after each trial, in this thread.
      stop: ends the evaluations that are running; called if this one is interrupted.

    Raises:
      ConfigError: the service failed to suggest, or the first trials all failed; says why.
    """
    history = _history(study, problem)
    remaining = max(trials - history.number, 0)
    tried: list[Tried] = []

    def take(done: "_Done") -> None:
        tried.append(history.add(done))
        report(tried[-1])
        failures = sum(each.metric is None for each in tried)
        if max_failures and failures == history.number == max_failures:
            raise ConfigError(
                f"the first {max_failures} trials all failed. The last: {tried[-1].problem} "
                "Run the program once by hand to see why, or raise --max-failures."
            )

    if workers == 1:
        for _ in range(remaining):
            take(_one_trial(study, problem, evaluate, "worker-1"))
        return tried
    names = queue.SimpleQueue[str]()
    for number in range(1, workers + 1):
        names.put(f"worker-{number}")

    def work() -> "_Done":
        # The service gives a client that asks twice the same trial, so each worker is a client.
        name = names.get()
        try:
            return _one_trial(study, problem, evaluate, name)
        finally:
            names.put(name)

    with futures.ThreadPoolExecutor(workers, "trials") as pool:
        jobs = [pool.submit(work) for _ in range(remaining)]
        try:
            for job in futures.as_completed(jobs):
                take(job.result())
        except BaseException:
            for job in jobs:
                job.cancel()
            stop()
            raise
    return tried


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Done:
    """One trial as a worker leaves it."""

    values: Values
    outcome: Measured
    waited: float
    measured: float


@dataclasses.dataclass(kw_only=True)
class _History:
    """What is known of a study's trials while it runs."""

    problem: Problem
    number: int
    best: float | None

    def add(self, done: _Done) -> Tried:
        """The trial, and whether it is better than all before."""
        metric = self.problem.objectives[0]
        value = done.outcome.metrics.get(metric.name)
        trouble = done.outcome.failure or violated(self.problem, done.outcome.metrics)
        is_better = value is not None and (
            self.best is None or metric.sign * value > metric.sign * self.best
        )
        improved = is_better and not trouble
        self.number += 1
        self.best = value if improved else self.best
        return Tried(
            number=self.number,
            values=done.values,
            metric=value,
            problem=trouble,
            best=self.best,
            improved=improved,
            waited=done.waited,
            measured=done.measured,
        )


def progress_of(study: "clients.Study", problem: Problem) -> tuple[int, float | None]:
    """How many trials of a study have ended, and the best feasible objective."""
    history = _history(study, problem)
    return history.number, history.best


def _history(study: "clients.Study", problem: Problem) -> _History:
    from vizier import pyvizier as vz

    from optformer.convert.vizier import trial_from_vizier

    metric = problem.objectives[0]
    ended = [
        trial_from_vizier(problem, trial)
        for trial in patiently(lambda: study.trials().get())
        if trial.status == vz.TrialStatus.COMPLETED
    ]
    feasible = [
        trial.metrics[metric.name]
        for trial in ended
        if trial.state == State.COMPLETED and not violated(problem, trial.metrics)
    ]
    best = max(feasible, key=lambda value: metric.sign * value, default=None)
    return _History(problem=problem, number=len(ended), best=best)


def violated(problem: Problem, metrics: Mapping[str, float]) -> str:
    """The first safety metric beyond its threshold, as in "latency=25 is above 20"; "" if none."""
    for metric in problem.metrics:
        threshold, value = metric.safety_threshold, metrics.get(metric.name)
        if threshold is None or value is None or metric.sign * value >= metric.sign * threshold:
            continue
        side = "below" if metric.sign > 0 else "above"
        return f"{metric.name}={value:g} is {side} {threshold:g}"
    return ""


def _one_trial(study: "clients.Study", problem: Problem, evaluate: Evaluate, client: str) -> _Done:
    """Asks for a trial, evaluates it, and completes it."""
    import grpc
    from vizier import pyvizier as vz

    from optformer.convert.vizier import trial_from_vizier

    start = time.perf_counter()
    try:
        [trial] = patiently(lambda: study.suggest(count=1, client_id=client))
    except grpc.RpcError as error:
        raise ConfigError(f"the service did not suggest a trial: {_reason(error)}") from error
    given = trial_from_vizier(
        problem, patiently(functools.partial(trial.materialize, include_all_measurements=False))
    )
    values = {
        parameter.name: parameter.from_number(parameter.to_number(given.parameters[parameter.name]))
        for parameter in problem.parameters
        if parameter.name in given.parameters
    }
    middle = time.perf_counter()
    outcome = evaluate(values)
    end = time.perf_counter()
    try:
        if outcome.failure:
            complete(trial, None, infeasible=outcome.failure[:_LONGEST_REASON])
        else:
            complete(trial, vz.Measurement(metrics=dict(outcome.metrics)))
    except grpc.RpcError as error:
        raise ConfigError(
            f"the service did not accept the measurement: {_reason(error)}"
        ) from error
    return _Done(values=values, outcome=outcome, waited=middle - start, measured=end - middle)


def policy_settings(settings: Sequence[str]) -> dict[str, str]:
    """`["candidates=200"]` as a dict; the service checks names and values.

    Raises:
      ConfigError: one of another form.
    """
    pairs = [setting.partition("=") for setting in settings]
    for setting, (_, equals, _) in zip(settings, pairs, strict=True):
        if not equals:
            raise ConfigError(f"--set {setting!r} is not of the form name=value.")
    return {name: value for name, _, value in pairs}


def checked_settings(
    algorithm: str, problem: Problem, settings: Sequence[str], seed: int | None
) -> dict[str, str]:
    """The settings of a policy by name, for `open_study`.

    Raises:
      ConfigError: a setting that does not exist or has a wrong value, or settings of an algorithm
        that is not ours.
    """
    if algorithm not in OURS:
        if settings or seed is not None:
            option = "--set" if settings else "--seed"
            raise ConfigError(
                f"{option} is for the algorithms of a model; {algorithm} is Vizier's own."
            )
        return {}
    from optformer.convert.vizier import NAMESPACE, problem_to_vizier
    from optformer.policies.vizier import SEED, policy_config

    policy = policy_settings(settings)
    statement = problem_to_vizier(problem)
    statement.metadata.ns(NAMESPACE).update(policy)
    policy_config(algorithm, statement)
    return policy if seed is None else policy | {SEED: str(seed)}


def best_of(problem: Problem, tried: Sequence[Tried]) -> Tried | None:
    """The best feasible trial, the first of equals; None if there is none."""
    sign = problem.objectives[0].sign
    feasible = [trial for trial in tried if trial.metric is not None and not trial.problem]
    return max(feasible, key=lambda trial: sign * (trial.metric or 0.0), default=None)


def algorithm_named(name: str, *, has_model: bool) -> str:
    """The service's name of an algorithm: OPTFORMER_EI for EI, RANDOM_SEARCH for random-search.

    Raises:
      ConfigError: there is none of this name, or it is ours and there is no model.
    """
    wanted = name.strip().upper().replace("-", "_")
    known = (*OURS, *ALGORITHMS, *_OTHER_ALGORITHMS)
    found = next((each for each in (wanted, f"{OURS[0]}_{wanted}") if each in known), None)
    if found is None:
        hint = did_you_mean(wanted, known)
        raise ConfigError(
            f"there is no algorithm {name!r}.{hint} With a model there are {', '.join(OURS)}; "
            f"Vizier has {', '.join(ALGORITHMS)}."
        )
    if found in OURS and not has_model:
        raise ConfigError(
            f"{found} needs a model: pass --checkpoint, or --server for a service that has one."
        )
    return found


def _reason(error: "grpc.RpcError") -> str:
    """What the service says went wrong; for an unknown algorithm, the nearest known one too."""
    reason = str(error.details())
    for opening in ("Exception calling application: ", "Pythia has encountered an error: "):
        reason = reason.removeprefix(opening)
    unknown = re.search(r"[Aa]lgorithm '?(\w+)'? is not registered", reason)
    if unknown:
        hint = did_you_mean(unknown[1].upper(), ALGORITHMS)
        return f"{reason.removesuffix('.')}.{hint} Vizier has {', '.join(ALGORITHMS)}, and more."
    return reason
