"""The model behind Vizier's interfaces, with Vizier's own client and server."""

import json
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from vizier import algorithms as vza
from vizier import pythia
from vizier import pyvizier as vz
from vizier.interfaces import serializable
from vizier.service import clients
from vizier.service import pyvizier as service_vz

from optformer.convert import vizier as convert
from optformer.errors import ConfigError
from optformer.policies.model import OptFormer
from optformer.policies.vizier import (
    ALGORITHMS,
    OptFormerDesigner,
    OptFormerPolicyFactory,
    _WidePolicy,
    policy_config,
)
from optformer.service.server import running
from tests.studies import MIXED

# Vizier's random search uses a deprecated numpy function.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:vizier")


def statement() -> vz.ProblemStatement:
    return convert.problem_to_vizier(MIXED)


def measure(suggestion: vz.TrialSuggestion) -> float:
    return float(suggestion.parameters["depth"].value) / 7


def test_the_designer_tunes(model: OptFormer) -> None:
    designer = OptFormerDesigner(statement(), model, seed=0)
    completed: list[vz.Trial] = []
    for index in range(1, 5):
        (suggestion,) = designer.suggest(1)
        trial = suggestion.to_trial(index)
        trial.complete(vz.Measurement(metrics={"accuracy": measure(suggestion)}))
        completed.append(trial)
        designer.update(vza.CompletedTrials([trial]), vza.ActiveTrials())
    again = OptFormerDesigner(statement(), model, seed=0)
    again.update(vza.CompletedTrials(completed), vza.ActiveTrials())
    assert again.suggest(1) == designer.suggest(1)


def told(model: OptFormer) -> OptFormerDesigner:
    """A designer that knows a completed, an infeasible and an active trial."""
    designer = OptFormerDesigner(statement(), model, seed=0)
    trials = [each.to_trial(index) for index, each in enumerate(designer.suggest(3), start=1)]
    trials[0].complete(vz.Measurement(metrics={"accuracy": 0.1 + 0.2}))
    trials[1].complete(vz.Measurement(), infeasibility_reason="out of memory")
    designer.update(vza.CompletedTrials(trials[:2]), vza.ActiveTrials(trials[2:]))
    return designer


def test_a_designers_state_goes_on_in_another(model: OptFormer) -> None:
    designer = told(model)
    again = OptFormerDesigner(statement(), model, seed=0)
    again.load(designer.dump())
    assert again.dump() == designer.dump()
    assert again.suggest(2) == designer.suggest(2)
    # A completed trial moves from the active ones.
    extra = designer._active[3]
    extra.complete(vz.Measurement(metrics={"accuracy": 0.5}))
    again.update(vza.CompletedTrials([extra]), vza.ActiveTrials())
    assert (sorted(again._completed), sorted(again._active)) == ([1, 2, 3], [])


@pytest.mark.parametrize("text", [None, "{", "[3]", '[{"id": 1, "parameters": {"no": 1}}]', "[{}]"])
def test_a_damaged_state_leaves_a_designer_as_it_was(model: OptFormer, text: str | None) -> None:
    designer = told(model)
    before = designer.dump()
    metadata = vz.Metadata()
    if text is not None:
        metadata.ns("optformer")["trials"] = text
    with pytest.raises(serializable.HarmlessDecodeError):
        designer.load(metadata)
    assert designer.dump() == before


def test_viziers_benchmarks_keep_the_designer_as_metadata(model: OptFormer) -> None:
    """Vizier's policy hands on only new trials, and finds the others in the state."""
    policy = vza.PartiallySerializableDesignerPolicy(
        statement(),
        supporter := pythia.InRamPolicySupporter(statement()),
        lambda problem, **options: OptFormerDesigner(problem, model, seed=0),
    )
    for number in range(1, 4):
        (trial,) = supporter.SuggestTrials(policy, 1)
        assert trial.id == number
        trial.complete(vz.Measurement(metrics={"accuracy": measure(trial)}))
    assert [row["id"] for row in _rows_in(supporter.study_config.metadata)] == [1, 2]


def _rows_in(metadata: vz.Metadata) -> list[dict]:
    (text,) = [value for _, key, value in metadata.all_items() if key == "trials"]
    return json.loads(text)


def test_the_algorithms_name_and_metadata_set_the_policy() -> None:
    problem = statement()
    assert policy_config("OPTFORMER", problem).acquisition == "ei"
    assert policy_config("OPTFORMER_TS", problem).acquisition == "ts"
    assert policy_config("OPTFORMER_TS_JOINT", problem).acquisition == "ts_joint"
    metadata = problem.metadata.ns("optformer")
    metadata["candidates"] = "7"
    metadata["algorithm"] = "random_search"
    metadata["temperature"] = "0.5"
    metadata["value_temperature"] = "1.5"
    policy = policy_config("OPTFORMER_PRIOR", problem)
    assert (policy.acquisition, policy.candidates) == ("prior", 7)
    assert (policy.algorithm, policy.temperature) == ("random_search", 0.5)
    assert policy.value_temperature == 1.5


@pytest.mark.parametrize(
    ("algorithm", "metadata", "says"),
    [
        ("OPTFORMER", {"acquisition": "e"}, "optformer.acquisition='e' must be one of ei, ts"),
        ("OPTFORMER", {"temperature": "-1"}, "temperature=-1.0 must be above 0"),
        ("OPTFORMER_EE", {}, "no algorithm 'OPTFORMER_EE'.*Did you mean OPTFORMER_EI"),
        ("OPTFORMER", {"candidate": "7"}, "Did you mean optformer.candidates"),
        ("OPTFORMER", {"candidates": "many"}, "optformer:candidates='many' must be of type int"),
        ("OPTFORMER", {"candidates": "100000"}, "optformer:candidates=100000 must be at most 300"),
        ("OPTFORMER", {"temperature": "nan"}, "optformer:temperature=nan must be at most 100"),
    ],
)
def test_wrong_names_and_metadata_suggest_the_right_ones(
    algorithm: str, metadata: dict[str, str], says: str
) -> None:
    problem = statement()
    problem.metadata.ns("optformer").update(metadata)
    with pytest.raises(ConfigError, match=says):
        policy_config(algorithm, problem)


def test_other_names_go_to_viziers_factory(model: OptFormer) -> None:
    factory = OptFormerPolicyFactory(model)
    supporter = pythia.InRamPolicySupporter(statement())
    policy = factory(statement(), "RANDOM_SEARCH", supporter, "study")
    request = pythia.SuggestRequest(study_descriptor=supporter.study_descriptor(), count=3)
    assert len(policy.suggest(request).suggestions) == 3


def test_viziers_algorithms_run_in_64_bits_and_ours_in_32(model: OptFormer) -> None:
    """Whatever the process is set to, and only while Vizier's own policy runs."""
    seen = []

    class Looks(pythia.Policy):
        def suggest(self, request: pythia.SuggestRequest) -> pythia.SuggestDecision:
            seen.append(jax.numpy.ones(1, float).dtype)
            return pythia.SuggestDecision([])

        def early_stop(self, request: pythia.EarlyStopRequest) -> pythia.EarlyStopDecisions:
            raise AssertionError

    supporter = pythia.InRamPolicySupporter(statement())
    request = pythia.SuggestRequest(study_descriptor=supporter.study_descriptor(), count=1)
    _WidePolicy(Looks()).suggest(request)
    assert seen == [jax.numpy.float64]
    assert jax.numpy.ones(1, float).dtype == jax.numpy.float32


@pytest.fixture
def endpoint() -> Iterator[None]:
    before = clients.environment_variables.server_endpoint
    yield
    clients.environment_variables.server_endpoint = before


@pytest.mark.usefixtures("endpoint")
def test_studies_survive_a_restart_of_the_server(model: OptFormer, tmp_path: Path) -> None:
    """A client tunes through the real service, which stops and starts again on its database."""
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    factory = OptFormerPolicyFactory(model)
    config = service_vz.StudyConfig.from_problem(statement())
    config.algorithm = "OPTFORMER_EI"

    def tune(expected: int, more: int) -> None:
        with running(database_url=url, policy_factory=factory) as address:
            clients.environment_variables.server_endpoint = address
            study = clients.Study.from_study_config(config, owner="test", study_id="survivor")
            trials = list(study.trials().get())
            assert len(trials) == expected
            assert all(trial.status == vz.TrialStatus.COMPLETED for trial in trials)
            for _ in range(more):
                (suggestion,) = study.suggest(count=1)
                value = float(suggestion.parameters["depth"]) / 7
                suggestion.complete(vz.Measurement(metrics={"accuracy": value}))

    tune(expected=0, more=3)
    tune(expected=3, more=2)
    tune(expected=5, more=0)
    assert set(ALGORITHMS) > {"OPTFORMER", "OPTFORMER_TS"}
