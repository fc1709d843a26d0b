"""Vizier's service with our policies: what each of its methods does to studies and trials.

Where it differs from Vizier's own:

- Several servers can share a database (`service/store.py`). A suggestion is computed without a lock
  and stored in one transaction, which first looks whether its client got a trial elsewhere.
- A suggestion is computed within its request: an operation is finished when a client first hears of
  it, so that a server that is killed leaves none behind that its client would wait for.
- What would stop a study's later suggestions is refused before it is stored (`service/checks.py`).
- Trials that wait to be evaluated (REQUESTED) are given out in the order in which they were added.
- A study cannot name another server to ask for suggestions.
- No trial is told to stop, unless someone called StopTrial. (Vizier's default stops random ones.)
"""

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2, timestamp_pb2
from vizier import pythia
from vizier import pyvizier as vz
from vizier._src.service import (
    custom_errors,
    resources,
    service_policy_supporter,
    vizier_service_pb2,
    vizier_service_pb2_grpc,
)
from vizier._src.service.study_pb2 import Study, Trial
from vizier.service import pyvizier as service_vz

from optformer.policies.vizier import ALGORITHMS
from optformer.service.checks import (
    State,
    check_measurement,
    check_parameters,
    study_config,
    usable,
)
from optformer.service.limits import FullError, Limits, RefusedError
from optformer.service.store import Records, Store, repeated

if TYPE_CHECKING:
    from jaxtyping import Float64

pb = vizier_service_pb2

_Resource = TypeVar("_Resource")

_ATTEMPTS = 2  # to suggest without holding up the other servers that add trials
_MUTABLE = (State.ACTIVE, State.STOPPING)


class UnwantedError(Exception):
    """Nobody waits for the answer any more."""


class StudyService(vizier_service_pb2_grpc.VizierServiceServicer):
    """Answers the requests of Vizier's clients. Safe to use from several threads.

    Args:
      database_url: SQLAlchemy's.
      policy_factory: whose algorithms it offers.
    """

    def __init__(
        self,
        database_url: str,
        policy_factory: Callable[..., pythia.Policy],
        limits: Limits | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._policy_factory = policy_factory
        self._store = Store(database_url, self._limits)
        self._operations = itertools.count(1)

    def close(self) -> None:
        """Closes the database."""
        self._store.close()

    def probe(self) -> None:
        """Writes something to the database.

        Raises:
          sqlalchemy.exc.SQLAlchemyError, BusyError: it cannot be written.
        """
        self._store.probe()

    def CreateStudy(self, request: pb.CreateStudyRequest, context: object = None) -> Study:
        """Adds the study, or returns the one that its owner has under this name."""
        owner = _named(resources.OwnerResource, request.parent)
        if request.study.name:
            raise RefusedError(f"the service names studies: leave out name={request.study.name!r}.")
        study_config(request.study.study_spec)
        study = Study()
        study.CopyFrom(request.study)
        study.name = resources.StudyResource(owner.owner_id, study.display_name).name
        try:
            with self._store.reading() as records:
                return records.study(study.name)
        except custom_errors.NotFoundError:
            pass
        try:
            with self._store.writing() as records:
                if records.count_studies(owner.owner_id) >= self._limits.studies:
                    raise FullError(
                        f"owner {owner.owner_id!r} has {self._limits.studies} studies, as many as "
                        "this service takes. Delete some."
                    )
                records.add_study(study)
        except custom_errors.AlreadyExistsError:  # by another client, in this moment
            with self._store.reading() as records:
                return records.study(study.name)
        return study

    def GetStudy(self, request: pb.GetStudyRequest, context: object = None) -> Study:
        """The study."""
        with self._store.reading() as records:
            return records.study(request.name)

    def ListStudies(self, request: pb.ListStudiesRequest, context: object = None) -> bytes:
        """All studies of an owner, as a serialized `ListStudiesResponse`."""
        owner = _named(resources.OwnerResource, request.parent)
        with self._store.reading() as records:
            return repeated(1, records.studies(owner.owner_id))

    def DeleteStudy(
        self, request: pb.DeleteStudyRequest, context: object = None
    ) -> empty_pb2.Empty:
        """Deletes a study with its trials."""
        with self._store.writing() as records:
            records.remove_study(request.name)
        return empty_pb2.Empty()

    def SetStudyState(self, request: pb.SetStudyStateRequest, context: object = None) -> Study:
        """Stops a study, or lets it resume."""
        if request.state not in Study.State.values():
            raise RefusedError(f"there is no study state {request.state}.")
        with self._store.writing() as records:
            study = records.study(request.parent)
            study.state = request.state
            records.put_study(study)
        return study

    def SuggestTrials(
        self, request: pb.SuggestTrialsRequest, context: object = None
    ) -> operations_pb2.Operation:
        """As many trials as asked for, all steps of `suggest` at once."""
        while (operation := self.suggest(request)) is None:
            pass
        return operation

    def suggest(
        self, request: pb.SuggestTrialsRequest, wanted: Callable[[], bool] = lambda: True
    ) -> operations_pb2.Operation | None:
        """A step of work for the request; None if more steps are needed.

        A client's active trials are given to it again, then trials that were requested, and then
        new ones. A step adds one new trial, or all at once for Vizier's algorithms, some of which
        choose batches.

        Args:
          wanted: whether the client still waits.

        Raises:
          UnwantedError: it does not; nothing was added.
        """
        name, client, count = request.parent, request.client_id, request.suggestion_count
        with self._store.reading() as records:
            study, trials = _active(records.study(name)), records.trials(name)
        given = _of_client(trials, client)
        if len(given) < count and any(trial.state == State.REQUESTED for trial in trials):
            with self._store.writing() as records:
                study, trials = _active(records.study(name)), records.trials(name)
                given = _give_requested(records, name, trials, client, count)
        for _ in range(_ATTEMPTS):
            if len(given) >= count:
                return self._done(name, client, given[:count])
            decision = self._decide(study, trials, count - len(given))
            with self._store.writing() as records:
                seen = {trial.name for trial in trials}
                study, trials = _active(records.study(name)), records.trials(name)
                given = _of_client(trials, client)
                if len(given) < count and all(trial.name in seen for trial in trials):
                    return self._add(records, study, decision, given, request, wanted)
        # Other servers were faster each time. Now they wait.
        with self._store.writing() as records:
            study, trials = _active(records.study(name)), records.trials(name)
            given = _of_client(trials, client)
            if len(given) >= count:
                return self._done(name, client, given[:count])
            decision = self._decide(study, trials, count - len(given))
            return self._add(records, study, decision, given, request, wanted)

    def _add(
        self,
        records: Records,
        study: Study,
        decision: pythia.SuggestDecision,
        given: list[Trial],
        request: pb.SuggestTrialsRequest,
        wanted: Callable[[], bool],
    ) -> operations_pb2.Operation | None:
        """Stores a decision for a client that has been given trials; None if it wants still more.

        What an algorithm suggests beyond that waits for the next request.
        """
        if not wanted():
            raise UnwantedError(f"the client of {study.name} is gone.")
        new = service_vz.TrialConverter.to_protos(
            [each.to_trial() for each in decision.suggestions]
        )
        most = request.suggestion_count - len(given)
        for index, trial in enumerate(new):
            trial.start_time.CopyFrom(_now())
            trial.state = State.ACTIVE if index < most else State.REQUESTED
            trial.client_id = request.client_id if index < most else ""
        records.add_trials(study.name, new)
        on_study = service_vz.metadata_util.make_key_value_list(decision.metadata.on_study)
        delta = [pb.UnitMetadataUpdate(metadatum=each) for each in on_study]
        delta += service_vz.metadata_util.trial_metadata_to_update_list(decision.metadata.on_trials)
        _put_metadata(records, study, delta)
        if _takes_steps(study) and 0 < len(new) < most:
            return None
        return self._done(study.name, request.client_id, given + new[:most])

    def _done(self, study: str, client: str, trials: list[Trial]) -> operations_pb2.Operation:
        key = resources.StudyResource.from_name(study)
        number = next(self._operations)
        operation = operations_pb2.Operation(
            name=resources.SuggestionOperationResource(
                key.owner_id, key.study_id, client, number
            ).name,
            done=True,
        )
        operation.response.value = pb.SuggestTrialsResponse(
            trials=trials, start_time=_now()
        ).SerializeToString()
        return operation

    def _decide(self, study: Study, trials: list[Trial], count: int) -> pythia.SuggestDecision:
        """What the study's algorithm suggests next: so many trials, or a first of them."""
        count = 1 if _takes_steps(study) else count
        if len(trials) + count > self._limits.trials:
            raise FullError(
                f"the study has {len(trials)} trials; this service takes {self._limits.trials} in "
                "one. Start another study."
            )
        config = study_config(study.study_spec)
        if config.pythia_endpoint is not None:
            raise RefusedError(
                f"the study asks for suggestions from the server {config.pythia_endpoint!r}. This "
                "one computes its own: leave out pythia_endpoint."
            )
        view = _View(study, usable(study.study_spec, trials))
        supporter = service_policy_supporter.ServicePolicySupporter(study.name, view)
        descriptor = vz.StudyDescriptor(
            config=config,
            guid=study.name,
            max_trial_id=max((int(trial.id) for trial in trials), default=0),
        )
        algorithm = study.study_spec.algorithm
        try:
            policy = self._policy_factory(config, algorithm, supporter, study.name)
            return policy.suggest(pythia.SuggestRequest(study_descriptor=descriptor, count=count))
        except (ValueError, NotImplementedError) as error:
            if algorithm in ALGORITHMS:
                raise
            # How Vizier's algorithms refuse a search space, and its factory an unknown name.
            raise RefusedError(f"algorithm {algorithm!r}: {error}") from error

    def GetOperation(
        self, request: operations_pb2.GetOperationRequest, context: object = None
    ) -> operations_pb2.Operation:
        """None is kept.

        Raises:
          NotFoundError: always.
        """
        raise custom_errors.NotFoundError(
            f"there is no operation {request.name!r}: SuggestTrials returns finished ones."
        )

    def CreateTrial(self, request: pb.CreateTrialRequest, context: object = None) -> Trial:
        """Adds a trial: a completed one, or one for the next client that asks for a suggestion."""
        trial = Trial()
        trial.CopyFrom(request.trial)
        if trial.state != State.SUCCEEDED:
            trial.state = State.REQUESTED
        trial.ClearField("client_id")
        trial.start_time.CopyFrom(_now())
        with self._store.writing() as records:
            study = _active(records.study(request.parent))
            check_parameters(study.study_spec, trial)
            for measurement in trial.measurements:
                check_measurement("trial", study.study_spec, measurement, final=False)
            done = trial.state == State.SUCCEEDED
            check_measurement("trial", study.study_spec, trial.final_measurement, final=done)
            records.add_trials(study.name, [trial])
        return trial

    def GetTrial(self, request: pb.GetTrialRequest, context: object = None) -> Trial:
        """The trial."""
        with self._store.reading() as records:
            return records.trial(request.name)

    def ListTrials(self, request: pb.ListTrialsRequest, context: object = None) -> bytes:
        """All trials of a study by number, as a serialized `ListTrialsResponse`."""
        with self._store.reading() as records:
            records.study(request.parent)
            return repeated(1, records.serialized_trials(request.parent))

    def AddTrialMeasurement(
        self, request: pb.AddTrialMeasurementRequest, context: object = None
    ) -> Trial:
        """Adds an intermediate measurement."""
        with self._store.writing() as records:
            study, trial = _of_trial(records, request.trial_name)
            if trial.state == State.INFEASIBLE:
                return trial
            _check_mutable(trial)
            check_measurement(trial.name, study.study_spec, request.measurement, final=False)
            trial.measurements.append(request.measurement)
            records.put_trial(study.name, trial)
        return trial

    def CompleteTrial(self, request: pb.CompleteTrialRequest, context: object = None) -> Trial:
        """Completes a trial, once: with this measurement, its newest one, or as infeasible."""
        with self._store.writing() as records:
            study, trial = _of_trial(records, request.name)
            _check_mutable(trial)
            measurement = request.final_measurement
            if not measurement.metrics and trial.measurements and not request.trial_infeasible:
                measurement = trial.measurements[-1]
            check_measurement(
                trial.name, study.study_spec, measurement, final=not request.trial_infeasible
            )
            trial.state = State.INFEASIBLE if request.trial_infeasible else State.SUCCEEDED
            trial.infeasible_reason = request.infeasible_reason
            if measurement.metrics:
                trial.final_measurement.CopyFrom(measurement)
            records.put_trial(study.name, trial)
        return trial

    def DeleteTrial(
        self, request: pb.DeleteTrialRequest, context: object = None
    ) -> empty_pb2.Empty:
        """Deletes a trial."""
        with self._store.writing() as records:
            study, trial = _of_trial(records, request.name)
            records.remove_trial(study.name, trial.name)
        return empty_pb2.Empty()

    def CheckTrialEarlyStoppingState(
        self, request: pb.CheckTrialEarlyStoppingStateRequest, context: object = None
    ) -> pb.CheckTrialEarlyStoppingStateResponse:
        """Whether someone called StopTrial for this trial."""
        with self._store.reading() as records:
            _, trial = _of_trial(records, request.trial_name)
        _check_mutable(trial)
        return pb.CheckTrialEarlyStoppingStateResponse(should_stop=trial.state == State.STOPPING)

    def StopTrial(self, request: pb.StopTrialRequest, context: object = None) -> Trial:
        """Asks whoever evaluates a trial to stop."""
        with self._store.writing() as records:
            study, trial = _of_trial(records, request.name)
            if trial.state == State.ACTIVE:
                trial.state = State.STOPPING
                records.put_trial(study.name, trial)
            elif trial.state != State.SUCCEEDED:
                _check_mutable(trial)
        return trial

    def ListOptimalTrials(
        self, request: pb.ListOptimalTrialsRequest, context: object = None
    ) -> pb.ListOptimalTrialsResponse:
        """The completed trials that no other is better than in all metrics."""
        with self._store.reading() as records:
            study, trials = records.study(request.parent), records.trials(request.parent)
        metrics = study.study_spec.metrics
        rows, values = [], []
        for trial in trials:
            measured = {each.metric_id: each.value for each in trial.final_measurement.metrics}
            done = trial.state == State.SUCCEEDED
            if done and all(metric.metric_id in measured for metric in metrics):
                signs = [-1.0 if each.goal == each.MINIMIZE else 1.0 for each in metrics]
                ids = [each.metric_id for each in metrics]
                vector = [sign * measured[name] for sign, name in zip(signs, ids, strict=True)]
                if np.all(np.isfinite(vector)):
                    rows.append(trial)
                    values.append(vector)
        optimal = _pareto(np.array(values).reshape(len(rows), len(metrics)))
        return pb.ListOptimalTrialsResponse(optimal_trials=[rows[row] for row in optimal])

    def UpdateMetadata(
        self, request: pb.UpdateMetadataRequest, context: object = None
    ) -> pb.UpdateMetadataResponse:
        """Writes metadata of a study and its trials, all or nothing."""
        with self._store.writing() as records:
            study = _active(records.study(request.name))
            _put_metadata(records, study, list(request.delta))
        return pb.UpdateMetadataResponse()


class _View:
    """One study for an algorithm that asks for it."""

    def __init__(self, study: Study, trials: list[Trial]) -> None:
        self._study, self._trials = study, trials

    def GetStudy(self, request: pb.GetStudyRequest) -> Study:
        self._check(request.name)
        return self._study

    def ListTrials(self, request: pb.ListTrialsRequest) -> pb.ListTrialsResponse:
        self._check(request.parent)
        return pb.ListTrialsResponse(trials=self._trials)

    def _check(self, name: str) -> None:
        assert name == self._study.name, "an algorithm reads its own study only"


def _named(kind: type[_Resource], name: str) -> _Resource:
    """The parts of a resource name.

    Raises:
      RefusedError: it is none of this kind.
    """
    try:
        return kind.from_name(name)  # type: ignore[attr-defined]
    except ValueError as error:
        raise RefusedError(str(error)) from error


def _now() -> timestamp_pb2.Timestamp:
    now = timestamp_pb2.Timestamp()
    now.GetCurrentTime()
    return now


def _active(study: Study) -> Study:
    if study.state not in (Study.State.ACTIVE, Study.State.STATE_UNSPECIFIED):
        raise custom_errors.ImmutableStudyError(
            f"study {study.name} is {Study.State.Name(study.state)}. Set its state to ACTIVE first."
        )
    return study


def _of_trial(records: Records, name: str) -> tuple[Study, Trial]:
    """A trial and its study, which comes first as it is what is locked."""
    key = _named(resources.TrialResource, name)
    return _active(records.study(key.study_resource.name)), records.trial(key.name)


def _check_mutable(trial: Trial) -> None:
    if trial.state not in _MUTABLE:
        raise custom_errors.ImmutableTrialError(
            f"trial {trial.name} is {State.Name(trial.state)}, and must be ACTIVE or STOPPING."
        )


def _takes_steps(study: Study) -> bool:
    """Whether suggestions are computed one at a time: ours take as long together."""
    return study.study_spec.algorithm in ALGORITHMS


def _of_client(trials: list[Trial], client: str) -> list[Trial]:
    return [each for each in trials if each.state == State.ACTIVE and each.client_id == client]


def _give_requested(
    records: Records, study: str, trials: list[Trial], client: str, count: int
) -> list[Trial]:
    """The client's trials, with requested ones up to `count` in all."""
    given = _of_client(trials, client)
    requested = [trial for trial in trials if trial.state == State.REQUESTED]
    for trial in requested[: max(0, count - len(given))]:
        trial.state = State.ACTIVE
        trial.client_id = client
        trial.start_time.CopyFrom(_now())
        records.put_trial(study, trial)
        given.append(trial)
    return given


def _put_metadata(records: Records, study: Study, delta: "list[pb.UnitMetadataUpdate]") -> None:
    """Merges metadata of a study that the transaction has read, and of its trials."""
    of_trials: dict[str, list] = {}
    of_study = []
    for update in delta:
        if update.HasField("trial_id"):
            of_trials.setdefault(update.trial_id, []).append(update)
        else:
            of_study.append(update.metadatum)
    if of_study:
        service_vz.metadata_util.merge_study_metadata(study.study_spec, of_study)
        records.put_study(study)
    for number, updates in of_trials.items():
        name = _named(resources.TrialResource, f"{study.name}/trials/{number}").name
        trial = records.trial(name)
        service_vz.metadata_util.merge_trial_metadata(trial, updates)
        records.put_trial(study.name, trial)


def _pareto(values_RM: "Float64[np.ndarray, 'R M']") -> list[int]:
    """The rows that no other row is as good as everywhere and better than somewhere."""
    front: list[int] = []
    # A row comes after those that it may be worse than.
    for row in np.lexsort(-values_RM.T):
        better = values_RM[front]
        at_least = (better >= values_RM[row]).all(axis=1)
        if not (at_least & (better > values_RM[row]).any(axis=1)).any():
            front.append(int(row))
    return sorted(front)
