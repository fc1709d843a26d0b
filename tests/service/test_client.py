"""A client of a real Vizier service: whom it asks, and how it goes on with a study."""

import dataclasses
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from vizier.service import clients

from optformer.errors import ConfigError, SourceError
from optformer.policies import vizier as policies
from optformer.service.client import (
    OURS,
    Measured,
    Values,
    algorithm_named,
    best_of,
    checked_settings,
    open_study,
    policy_settings,
    progress_of,
    tune,
    violated,
)
from optformer.service.server import endpoint_of
from optformer.study import Goal, Metric, Parameter, ParameterType, Problem

PROBLEM = Problem(
    name="square",
    metrics=(Metric(name="loss", goal=Goal.MINIMIZE),),
    parameters=(
        Parameter(name="x", type=ParameterType.DOUBLE, bounds=(-1.0, 1.0)),
        Parameter(name="kind", type=ParameterType.CATEGORICAL, values=("a", "b")),
    ),
)
X, KIND = PROBLEM.parameters


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with endpoint_of() as address:
        yield address


def square(values: Values) -> Measured:
    return Measured(metrics={"loss": float(values["x"]) ** 2})


def test_an_open_study_resumes_up_to_its_total(endpoint: str) -> None:
    for before, total in ((0, 3), (3, 5), (5, 4)):
        study = open_study(
            endpoint, PROBLEM, algorithm="QUASI_RANDOM_SEARCH", name="resumes", policy={"seed": "1"}
        )
        assert progress_of(study, PROBLEM)[0] == before
        tried = tune(study, PROBLEM, square, trials=total)
        assert [each.number for each in tried] == list(range(before + 1, total + 1))
    # Its settings need not be given again.
    open_study(endpoint, PROBLEM, algorithm="QUASI_RANDOM_SEARCH", name="resumes")


def test_workers_evaluate_different_trials_at_the_same_time(endpoint: str) -> None:
    study = open_study(endpoint, PROBLEM, algorithm="QUASI_RANDOM_SEARCH", name="workers")
    together = threading.Barrier(3, timeout=30.0)

    def evaluate(values: Values) -> Measured:
        together.wait()
        return square(values)

    tried = tune(study, PROBLEM, evaluate, trials=9, workers=3)
    assert [each.number for each in tried] == list(range(1, 10))
    assert len({each.values["x"] for each in tried}) == 9
    assert progress_of(study, PROBLEM) == (9, min(each.metric for each in tried))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_trial_is_suggested_again(endpoint: str, workers: int) -> None:
    study = open_study(
        endpoint, PROBLEM, algorithm="QUASI_RANDOM_SEARCH", name=f"interrupted-{workers}"
    )
    seen: list[float] = []

    def interrupt(values: Values) -> Measured:
        seen.append(float(values["x"]))
        raise KeyboardInterrupt

    stopped = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        tune(study, PROBLEM, interrupt, trials=4, workers=workers, stop=stopped.set)
    assert stopped.is_set() == (workers > 1)
    tried = tune(study, PROBLEM, square, trials=4, workers=workers)
    assert set(seen) <= {each.values["x"] for each in tried}
    assert progress_of(study, PROBLEM)[0] == 4


def test_failures_have_reasons_and_are_no_best(endpoint: str) -> None:
    study = open_study(endpoint, PROBLEM, algorithm="QUASI_RANDOM_SEARCH", name="failures")
    outcomes = iter([Measured(failure="out of memory"), Measured(metrics={"loss": 3.0})])
    failed, good = tune(study, PROBLEM, lambda values: next(outcomes), trials=2)
    assert (failed.metric, failed.problem, failed.best) == (None, "out of memory", None)
    assert (good.metric, good.problem, good.best, good.improved) == (3.0, "", 3.0, True)
    assert best_of(PROBLEM, [failed, good]) == good
    reasons = [trial.infeasibility_reason for trial in study.trials().get()]
    assert reasons == ["out of memory", None]


def test_a_study_whose_first_trials_all_fail_ends_with_the_reason(endpoint: str) -> None:
    study = open_study(endpoint, PROBLEM, algorithm="QUASI_RANDOM_SEARCH", name="hopeless")
    with pytest.raises(ConfigError, match=r"the first 3 trials all failed. The last: no such file"):
        tune(study, PROBLEM, lambda _: Measured(failure="no such file."), trials=9, max_failures=3)
    # Where one has worked, failures are no reason to end.
    other = open_study(endpoint, PROBLEM, algorithm="QUASI_RANDOM_SEARCH", name="works")
    outcomes = iter([Measured(metrics={"loss": 3.0}), *[Measured(failure="no")] * 4])
    assert len(tune(other, PROBLEM, lambda _: next(outcomes), trials=5, max_failures=3)) == 5


def test_best_keeps_the_constraints(endpoint: str) -> None:
    latency = Metric(name="latency", goal=Goal.MINIMIZE, safety_threshold=20.0)
    problem = dataclasses.replace(PROBLEM, metrics=(*PROBLEM.metrics, latency))
    study = open_study(endpoint, problem, algorithm="QUASI_RANDOM_SEARCH", name="constraints")
    outcomes = iter([(1.0, 25.0), (2.0, 20.0), (3.0, 5.0)])

    def evaluate(values: Values) -> Measured:
        loss, slow = next(outcomes)
        return Measured(metrics={"loss": loss, "latency": slow})

    tried = tune(study, problem, evaluate, trials=3)
    assert [each.problem for each in tried] == ["latency=25 is above 20", "", ""]
    assert best_of(problem, tried) == tried[1]
    assert progress_of(study, problem) == (3, 2.0)
    accuracy = Metric(name="accuracy", safety_threshold=0.5)
    assert violated(dataclasses.replace(PROBLEM, metrics=(accuracy,)), {"accuracy": 0.25}) == (
        "accuracy=0.25 is below 0.5"
    )


ALGORITHMS = [
    ("EI", True, "OPTFORMER_EI"),
    ("optformer_ei", True, "OPTFORMER_EI"),
    ("ts-joint", True, "OPTFORMER_TS_JOINT"),
    ("random_search", False, "RANDOM_SEARCH"),
    ("OPTFORMER", True, "OPTFORMER"),
]


@pytest.mark.parametrize(("name", "has_model", "found"), ALGORITHMS)
def test_algorithms_are_found_by_short_names(name: str, has_model: bool, found: str) -> None:
    assert algorithm_named(name, has_model=has_model) == found


def test_an_algorithm_that_cannot_be_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match="OPTFORMER_EI needs a model: pass --checkpoint"):
        algorithm_named("EI", has_model=False)
    with pytest.raises(ConfigError, match=r"no algorithm 'RANDOM_SAERCH'. Did you mean RANDOM_SEA"):
        algorithm_named("RANDOM_SAERCH", has_model=True)
    assert set(OURS) == set(policies.ALGORITHMS)


def test_settings_are_checked_before_anything_is_loaded() -> None:
    found = checked_settings("OPTFORMER_EI", PROBLEM, ["candidates=7"], seed=3)
    assert found == {"candidates": "7", "seed": "3"}
    with pytest.raises(ConfigError, match=r"Did you mean .*candidates"):
        checked_settings("OPTFORMER_EI", PROBLEM, ["candidate=7"], seed=None)
    with pytest.raises(ConfigError, match="must be of type int"):
        checked_settings("OPTFORMER_EI", PROBLEM, ["candidates=many"], seed=None)
    with pytest.raises(ConfigError, match="--seed is for the algorithms of a model"):
        checked_settings("RANDOM_SEARCH", PROBLEM, [], seed=3)


OTHERS: dict[str, tuple[dict[str, object], str]] = {
    "algorithm": ({"algorithm": "RANDOM_SEARCH"}, "another algorithm: GRID_SEARCH, not RANDOM"),
    "bounds": (
        {"parameters": (dataclasses.replace(X, bounds=(-2.0, 1.0)), KIND)},
        r"another bounds of parameter 'x': \(-1.0, 1.0\), not \(-2.0, 1.0\)",
    ),
    "a parameter less": ({"parameters": (X,)}, "another type of parameter 'kind': CATEG.*not none"),
    "goal": (
        {"metrics": (Metric(name="loss"),)},
        "another goal of metric 'loss': MINIMIZE, not MAXIMIZE",
    ),
    "setting": ({"policy": {"candidates": "7"}}, "another setting candidates: 9, not 7"),
    "a setting more": ({"policy": {"seed": "7"}}, "another setting seed: none, not 7"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_study_of_the_same_name_is_refused(endpoint: str, other: str) -> None:
    asked = {"algorithm": "GRID_SEARCH", "policy": {"candidates": "9"}}
    open_study(endpoint, PROBLEM, name="taken", **asked)
    changes, says = OTHERS[other]
    problem = {key: changes[key] for key in ("parameters", "metrics") if key in changes}
    asked |= {key: changes[key] for key in ("algorithm", "policy") if key in changes}
    with pytest.raises(ConfigError, match=f"there is a study 'taken' with {says}.*--name"):
        open_study(endpoint, dataclasses.replace(PROBLEM, **problem), name="taken", **asked)


def test_threads_with_different_services_keep_apart() -> None:
    """The endpoint that Vizier's client uses is global to the process."""
    before = clients.environment_variables.server_endpoint
    with endpoint_of() as one, endpoint_of() as two:

        def open_at(job: tuple[int, str]) -> str:
            number, address = job
            open_study(address, PROBLEM, algorithm="RANDOM_SEARCH", name=f"{address}-{number}")
            return address

        jobs = [(number, address) for number in range(10) for address in (one, two)]
        with ThreadPoolExecutor(max_workers=8) as threads:
            list(threads.map(open_at, jobs))
        for address in (one, two):
            study = open_study(address, PROBLEM, algorithm="RANDOM_SEARCH", name=f"{address}-0")
            found = study._client.list_studies()
            assert len(found) == 10
    assert clients.environment_variables.server_endpoint == before


def test_a_service_in_this_process_is_quiet_only_while_it_runs() -> None:
    logger = logging.getLogger("grpc._server")
    before = logger.level
    with endpoint_of():
        assert not logger.isEnabledFor(logging.ERROR)
    assert logger.level == before


@pytest.mark.parametrize(
    ("address", "says"),
    [("localhost", "not of the form host:port"), ("localhost:1", "no Vizier service answers")],
)
def test_no_service_is_said_at_once(address: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        open_study(address, PROBLEM, algorithm="RANDOM_SEARCH", name="any")


def test_settings_are_pairs() -> None:
    assert policy_settings(["candidates=200", "algorithm=tpe"]) == {
        "candidates": "200",
        "algorithm": "tpe",
    }
    with pytest.raises(ConfigError, match="'candidates' is not of the form name=value"):
        policy_settings(["candidates"])
