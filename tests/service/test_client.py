"""A client of a real Vizier service: whom it asks, and how it goes on with a study."""

import dataclasses
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from vizier.service import clients

from optformer.errors import ConfigError, SourceError
from optformer.service.client import open_study, policy_settings, tune
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


def test_an_open_study_goes_on(endpoint: str) -> None:
    for before in (0, 3):
        study = open_study(
            endpoint, PROBLEM, algorithm="QUASI_RANDOM_SEARCH", name="goes-on", policy={"seed": "1"}
        )
        tried = tune(study, PROBLEM, lambda values: float(values["x"]) ** 2, trials=3)
        assert [each.number for each in tried] == [before + 1, before + 2, before + 3]
    # Its settings need not be said again.
    open_study(endpoint, PROBLEM, algorithm="QUASI_RANDOM_SEARCH", name="goes-on")


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
