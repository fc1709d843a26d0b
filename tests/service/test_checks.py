"""A study cannot be poisoned: what would stop its later suggestions is refused, or passed over."""

from collections.abc import Callable
from pathlib import Path

import pytest
from vizier import pythia
from vizier import pyvizier as vz
from vizier._src.service import study_pb2, vizier_service_pb2
from vizier.service import pyvizier as service_vz

from optformer.convert.vizier import problem_to_vizier
from optformer.policies.vizier import VizierPolicyFactory
from optformer.service.checks import check_parameters, study_config
from optformer.service.limits import Limits, RefusedError
from optformer.service.servicer import StudyService
from optformer.service.store import Store
from tests.studies import CONDITIONAL, MIXED

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:vizier")

pb = vizier_service_pb2
RIGHT = {"C": 1.0, "depth": 3.0, "batch": 32.0, "kernel": "rbf"}
NAN, INF = float("nan"), float("inf")


def spec(problem: object = MIXED) -> study_pb2.StudySpec:
    config = service_vz.StudyConfig.from_problem(problem_to_vizier(problem))
    config.algorithm = "RANDOM_SEARCH"
    return config.to_proto()


def trial_of(values: dict[str, float | str], **fields: object) -> study_pb2.Trial:
    trial = study_pb2.Trial(**fields)
    for name, value in values.items():
        parameter = trial.parameters.add(parameter_id=name)
        if isinstance(value, str):
            parameter.value.string_value = value
        else:
            parameter.value.number_value = value
    return trial


def measured(**metrics: float) -> study_pb2.Measurement:
    return study_pb2.Measurement(
        metrics=[{"metric_id": name, "value": value} for name, value in metrics.items()]
    )


@pytest.fixture
def service(tmp_path: Path) -> StudyService:
    return StudyService(f"sqlite:///{tmp_path / 'studies.db'}", VizierPolicyFactory())


@pytest.fixture
def study(service: StudyService) -> str:
    study = study_pb2.Study(display_name="s", study_spec=spec())
    return service.CreateStudy(pb.CreateStudyRequest(parent="owners/o", study=study)).name


def suggest(service: StudyService, study: str) -> study_pb2.Trial:
    request = pb.SuggestTrialsRequest(parent=study, suggestion_count=1, client_id="me")
    operation = service.SuggestTrials(request)
    return pb.SuggestTrialsResponse.FromString(operation.response.value).trials[0]


POISON = {
    "nan": (measured(accuracy=NAN), "'accuracy' is nan"),
    "inf": (measured(accuracy=INF), "'accuracy' is inf"),
    "another metric": (measured(accuracy=1.0, acuracy=1.0), "Did you mean accuracy"),
    "twice": (
        study_pb2.Measurement(metrics=2 * [{"metric_id": "accuracy", "value": 1.0}]),
        "measured twice",
    ),
}


@pytest.mark.parametrize("kind", POISON)
def test_a_measurement_that_cannot_be_used_is_refused_wherever_it_comes(
    service: StudyService, study: str, kind: str
) -> None:
    measurement, says = POISON[kind]
    trial = suggest(service, study)
    add = pb.AddTrialMeasurementRequest(trial_name=trial.name, measurement=measurement)
    end = pb.CompleteTrialRequest(name=trial.name, final_measurement=measurement)
    failed = pb.CompleteTrialRequest(
        name=trial.name, final_measurement=measurement, trial_infeasible=True
    )
    new = trial_of(RIGHT, state=study_pb2.Trial.SUCCEEDED, final_measurement=measurement)
    begun = trial_of(RIGHT, measurements=[measurement])
    calls: list[Callable[[], object]] = [
        lambda: service.AddTrialMeasurement(add),
        lambda: service.CompleteTrial(end),
        lambda: service.CompleteTrial(failed),
        lambda: service.CreateTrial(pb.CreateTrialRequest(parent=study, trial=new)),
        lambda: service.CreateTrial(pb.CreateTrialRequest(parent=study, trial=begun)),
    ]
    for call in calls:
        with pytest.raises(RefusedError, match=says):
            call()
    listed = pb.ListTrialsResponse.FromString(
        service.ListTrials(pb.ListTrialsRequest(parent=study))
    )
    assert [each.state for each in listed.trials] == [study_pb2.Trial.ACTIVE]
    assert not listed.trials[0].measurements


def test_the_newest_measurement_completes_a_trial_if_it_has_all_objectives(
    service: StudyService, study: str
) -> None:
    trial = suggest(service, study)
    with pytest.raises(RefusedError, match="'accuracy' was not measured"):
        service.CompleteTrial(pb.CompleteTrialRequest(name=trial.name))
    for value in (0.25, 0.5):
        service.AddTrialMeasurement(
            pb.AddTrialMeasurementRequest(
                trial_name=trial.name, measurement=measured(accuracy=value)
            )
        )
    done = service.CompleteTrial(pb.CompleteTrialRequest(name=trial.name))
    assert done.final_measurement == measured(accuracy=0.5)


WRONG_VALUES = {
    "no parameters": ({}, "no value of parameter"),
    "one less": ({k: v for k, v in RIGHT.items() if k != "C"}, "no value of parameter 'C'"),
    "a foreign one": (RIGHT | {"kernal": "rbf"}, "not in the search space.*Did you mean kernel"),
    "above its bound": (RIGHT | {"C": 101.0}, r"C=101.0 must be in \[0.01, 100.0\]"),
    "nan": (RIGHT | {"C": NAN}, "C=nan must be in"),
    "half an integer": (RIGHT | {"depth": 2.5}, "depth=2.5 must be an integer"),
    "between discrete values": (RIGHT | {"batch": 33.0}, "batch=33.0 must be one of"),
    "an unknown category": (RIGHT | {"kernel": "sigmoid"}, "kernel='sigmoid' must be one of"),
    "a word for a number": (RIGHT | {"C": "1"}, "C='1' must be a number"),
    "a number for a word": (RIGHT | {"kernel": 1.0}, "kernel=1.0 must be one of"),
}


@pytest.mark.parametrize("kind", WRONG_VALUES)
def test_parameters_that_the_search_space_does_not_have_are_refused(
    service: StudyService, study: str, kind: str
) -> None:
    values, says = WRONG_VALUES[kind]
    for state in (study_pb2.Trial.REQUESTED, study_pb2.Trial.SUCCEEDED):
        trial = trial_of(values, state=state, final_measurement=measured(accuracy=1.0))
        with pytest.raises(RefusedError, match=says):
            service.CreateTrial(pb.CreateTrialRequest(parent=study, trial=trial))


def test_a_conditional_parameter_is_given_where_it_is_active() -> None:
    space = spec(CONDITIONAL)
    for values in (
        {"kernel": "linear"},
        {"kernel": "rbf", "gamma": 0.1},
        {"kernel": "poly", "gamma": 0.1, "degree": 3.0},
    ):
        check_parameters(space, trial_of(values))
    for values, says in (
        ({"kernel": "linear", "gamma": 0.1}, "'gamma' is inactive"),
        ({"kernel": "rbf"}, "no value of parameter 'gamma'"),
        ({"gamma": 0.1}, "no value of parameter 'kernel'"),
    ):
        with pytest.raises(RefusedError, match=says):
            check_parameters(space, trial_of(values))


def test_a_search_space_that_breaks_a_rule_is_refused() -> None:
    def changed(change: Callable[[study_pb2.StudySpec], object]) -> study_pb2.StudySpec:
        made = spec()
        change(made)
        return made

    double = study_pb2.StudySpec.ParameterSpec.DoubleValueSpec
    for change, says in (
        (lambda made: made.parameters.append(made.parameters[0]), "two parameters"),
        (lambda made: made.metrics.append(made.metrics[0]), "two metrics"),
        (lambda made: made.parameters.add(parameter_id="x"), "'x' has no domain"),
        (
            lambda made: made.parameters.add(
                parameter_id="x", double_value_spec=double(min_value=0.0, max_value=INF)
            ),
            r"bounds \[0.0, inf\]",
        ),
    ):
        with pytest.raises(RefusedError, match=says):
            study_config(changed(change))


class Recording(pythia.PolicyFactory):
    """Vizier's own algorithms; keeps the trials that they are shown."""

    def __init__(self) -> None:
        self.seen: list[vz.Trial] = []

    def __call__(self, problem: object, algorithm: str, supporter: object, name: str) -> object:
        self.seen = supporter.GetTrials(study_guid=name)
        return VizierPolicyFactory()(problem, algorithm, supporter, name)


def test_old_rows_that_break_the_rules_do_not_stop_their_study(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    done = study_pb2.Trial.SUCCEEDED
    rows = [
        trial_of(RIGHT, state=done, final_measurement=measured(accuracy=0.5)),
        trial_of(RIGHT, state=done, final_measurement=measured(accuracy=NAN)),
        trial_of(RIGHT, state=done, final_measurement=measured(loss=1.0)),
        trial_of(RIGHT, state=done),
        trial_of({}, state=done, final_measurement=measured(accuracy=0.5)),
        trial_of(RIGHT | {"x": 1.0}, state=done, final_measurement=measured(accuracy=0.5)),
        trial_of(RIGHT, state=study_pb2.Trial.ACTIVE, measurements=[measured(accuracy=INF)]),
    ]
    name = "owners/o/studies/old"
    store = Store(url, Limits())
    with store.writing() as records:
        records.add_study(study_pb2.Study(name=name, display_name="old", study_spec=spec()))
        records.study(name)
        records.add_trials(name, rows)
    store.close()
    factory = Recording()
    service = StudyService(url, factory)
    assert suggest(service, name).id == "8"
    shown = {trial.id: (trial.infeasible, trial.status.value) for trial in factory.seen}
    failed, fine = (True, "COMPLETED"), (False, "COMPLETED")
    assert shown == {1: fine, 2: failed, 3: failed, 4: failed, 7: (False, "ACTIVE")}
    # What is stored stays as it was.
    kept = service.GetTrial(pb.GetTrialRequest(name=f"{name}/trials/2"))
    assert kept.state == done
    service.close()


def test_a_study_stays_within_its_size(tmp_path: Path) -> None:
    service = StudyService(
        f"sqlite:///{tmp_path / 'studies.db'}", VizierPolicyFactory(), Limits(study=4000)
    )
    study = study_pb2.Study(display_name="s", study_spec=spec())
    name = service.CreateStudy(pb.CreateStudyRequest(parent="owners/o", study=study)).name

    def write(key: str, size: int) -> None:
        request = pb.UpdateMetadataRequest(name=name)
        request.delta.add().metadatum.CopyFrom(
            pb.key__value__pb2.KeyValue(key=key, value="x" * size)
        )
        service.UpdateMetadata(request)

    for _ in range(5):
        write("same", 2000)  # replaces itself
    with pytest.raises(RefusedError, match="this service takes 4,000 in one"):
        write("more", 2000)
    trial = suggest(service, name)
    metadata = study_pb2.Trial().metadata
    metadata.add(key="k", value="x" * 2000)
    with pytest.raises(RefusedError, match="this service takes 4,000 in one"):
        service.CreateTrial(
            pb.CreateTrialRequest(parent=name, trial=trial_of(RIGHT, metadata=metadata))
        )
    service.DeleteTrial(pb.DeleteTrialRequest(name=trial.name))
    write("same", 10)  # makes room
    write("more", 2000)
    service.close()
