"""A model behind Vizier's interfaces: a Designer, a Pythia Policy, and their factory.

Algorithm names: OPTFORMER (the same as OPTFORMER_EI), OPTFORMER_EI, _TS, _TS_JOINT, _UCB, _PI,
_MEAN and _PRIOR. A study's metadata in the namespace "optformer" can set any field of
`PolicyConfig`:

    problem.metadata.ns("optformer")["candidates"] = "200"
"""

import json
import typing

import jax
from vizier import algorithms as vza
from vizier import pythia
from vizier import pyvizier as vz
from vizier.interfaces import serializable

from optformer.convert import study_json
from optformer.convert import vizier as convert
from optformer.convert.vizier import NAMESPACE
from optformer.errors import ConfigError, StudyError, did_you_mean
from optformer.policies.acquisition import ACQUISITIONS
from optformer.policies.config import PolicyConfig
from optformer.policies.model import OptFormer
from optformer.settings import from_tree
from optformer.study import from_trials

PREFIX = "OPTFORMER"

MOST = {
    "candidates": 300.0,
    "uniform": 2000.0,
    "local": 1000.0,
    "sifted": 100.0,
    "patience": 1e6,
    "temperature": 100.0,
    "value_temperature": 100.0,
}
"""The most that a study's metadata may ask for: the time of one study is that of all."""

SEED = "seed"  # the key of a study's metadata that is no setting of a policy
_TRIALS = "trials"  # the key of a designer's state
ALGORITHMS = (PREFIX, *(f"{PREFIX}_{name.upper()}" for name in ACQUISITIONS))


class OptFormerDesigner(vza.PartiallySerializableDesigner):
    """Vizier's in-process interface: told of trials, asked for suggestions.

    Its state is the trials that it was told of.

    Args:
      seed: the same seed and trials give the same suggestions; None for other ones each time.
    """

    def __init__(
        self,
        problem: vz.ProblemStatement,
        model: OptFormer,
        policy: PolicyConfig | None = None,
        seed: int | None = None,
    ) -> None:
        self._problem = convert.problem_from_vizier(problem)
        self._model = model
        self._policy = policy or PolicyConfig()
        self._seed = seed
        self._completed: dict[int, vz.Trial] = {}
        self._active: dict[int, vz.Trial] = {}

    def update(self, completed: vza.CompletedTrials, all_active: vza.ActiveTrials) -> None:
        """Takes in newly completed trials, and all that are active."""
        self._completed |= {trial.id: trial for trial in completed.trials}
        self._active = {trial.id: trial for trial in all_active.trials}

    def suggest(self, count: int | None = None) -> list[vz.TrialSuggestion]:
        """`count` suggestions, one if None."""
        trials = self._completed | self._active
        return self._model.suggest_next(
            self._problem,
            [trials[index] for index in sorted(trials)],
            count or 1,
            policy=self._policy,
            seed=None if self._seed is None else self._seed + len(trials),
        )

    def dump(self) -> vz.Metadata:
        """The state, for a designer that is made in the same way."""
        rows = []
        for index, trial in sorted((self._completed | self._active).items()):
            ours = convert.trial_from_vizier(self._problem, trial)
            rows.append({"id": index, **study_json.trial_to_json(ours)})
        metadata = vz.Metadata()
        metadata.ns(NAMESPACE)[_TRIALS] = json.dumps(rows)
        return metadata

    def load(self, metadata: vz.Metadata) -> None:
        """Takes the state from `dump`, in place of its own.

        Raises:
          HarmlessDecodeError: there is none, or it is damaged or of another problem.
        """
        text = metadata.ns(NAMESPACE).get(_TRIALS)
        if text is None:
            raise serializable.HarmlessDecodeError(
                f"the metadata has no key {_TRIALS!r} in the namespace {NAMESPACE!r}."
            )
        try:
            rows = json.loads(str(text))
            numbers = [int(row.pop("id")) for row in rows]
            trials = study_json.trials_from_json(self._problem, rows)
            from_trials(self._problem, trials)  # checks them
        except (StudyError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise serializable.HarmlessDecodeError(
                f"the designer's state is damaged, or of another problem: {error!r}"
            ) from error
        theirs = {
            number: convert.trial_to_vizier(self._problem, trial, uid=number)
            for number, trial in zip(numbers, trials, strict=True)
        }
        done = {number for number, trial in theirs.items() if trial.is_completed}
        self._completed = {number: theirs[number] for number in theirs.keys() & done}
        self._active = {number: theirs[number] for number in theirs.keys() - done}


class OptFormerPolicy(pythia.Policy):
    """Vizier's service-side interface. It keeps no state: a study is its trials."""

    def __init__(
        self,
        supporter: pythia.PolicySupporter,
        model: OptFormer,
        policy: PolicyConfig,
        *,
        seed: int | None = None,
    ) -> None:
        self._supporter = supporter
        self._model = model
        self._policy = policy
        self._seed = seed

    def suggest(self, request: pythia.SuggestRequest) -> pythia.SuggestDecision:
        """Suggestions from the model, given all of the study's trials."""
        trials = self._supporter.GetTrials(study_guid=request.study_guid)
        # The name keeps apart what the model remembers of studies with the same search space.
        problem = convert.problem_from_vizier(request.study_config, name=request.study_guid)
        suggestions = self._model.suggest_next(
            problem,
            sorted(trials, key=lambda trial: trial.id),
            request.count,
            policy=self._policy,
            seed=None if self._seed is None else self._seed + len(trials),
        )
        return pythia.SuggestDecision(suggestions, metadata=vz.MetadataDelta())

    def early_stop(self, request: pythia.EarlyStopRequest) -> pythia.EarlyStopDecisions:
        """Stops nothing: the model has not learned from intermediate measurements."""
        decisions = [
            pythia.EarlyStopDecision(id=index, reason="not supported", should_stop=False)
            for index in sorted(request.trial_ids or ())
        ]
        return pythia.EarlyStopDecisions(decisions)

    @property
    def should_be_cached(self) -> bool:
        """There is nothing to keep: the model keeps what it has read of recent studies."""
        return False


class VizierPolicyFactory(pythia.PolicyFactory):
    """Vizier's own algorithms, which are written for 64-bit JAX, while the rest stays in 32."""

    def __call__(
        self,
        problem_statement: vz.ProblemStatement,
        algorithm: str,
        policy_supporter: pythia.PolicySupporter,
        study_name: str,
    ) -> pythia.Policy:
        """The policy of this name, from Vizier's factory."""
        from vizier._src.service.policy_factory import DefaultPolicyFactory

        with jax.enable_x64(True):
            made = DefaultPolicyFactory()(
                problem_statement, algorithm, policy_supporter, study_name
            )
        return _WidePolicy(made)


class _WidePolicy(pythia.Policy):
    def __init__(self, policy: pythia.Policy) -> None:
        self._policy = policy

    def suggest(self, request: pythia.SuggestRequest) -> pythia.SuggestDecision:
        with jax.enable_x64(True):
            return self._policy.suggest(request)

    def early_stop(self, request: pythia.EarlyStopRequest) -> pythia.EarlyStopDecisions:
        with jax.enable_x64(True):
            return self._policy.early_stop(request)

    @property
    def should_be_cached(self) -> bool:
        return self._policy.should_be_cached


class OptFormerPolicyFactory(pythia.PolicyFactory):
    """Makes our policies for our algorithm names, and lets Vizier's factory make the others."""

    def __init__(self, model: OptFormer) -> None:
        self._model = model

    def __call__(
        self,
        problem_statement: vz.ProblemStatement,
        algorithm: str,
        policy_supporter: pythia.PolicySupporter,
        study_name: str,
    ) -> pythia.Policy:
        """The policy of this algorithm.

        Raises:
          ConfigError: a name of ours that does not exist, or metadata that is no setting.
        """
        if algorithm.startswith(PREFIX):
            policy = policy_config(algorithm, problem_statement)
            seed = _seed(problem_statement)
            return OptFormerPolicy(policy_supporter, self._model, policy, seed=seed)
        return VizierPolicyFactory()(problem_statement, algorithm, policy_supporter, study_name)


def policy_config(algorithm: str, problem: vz.ProblemStatement) -> PolicyConfig:
    """The settings that an algorithm's name and a study's metadata ask for.

    Raises:
      ConfigError: names the algorithm or the key, and the nearest that exists.
    """
    if algorithm not in ALGORITHMS:
        raise ConfigError(
            f"there is no algorithm {algorithm!r}. Known: {', '.join(ALGORITHMS)}."
            f"{did_you_mean(algorithm, ALGORITHMS)}"
        )
    settings: dict[str, object] = {}
    if algorithm != PREFIX:
        settings["acquisition"] = algorithm.removeprefix(f"{PREFIX}_").lower()
    kinds = typing.get_type_hints(PolicyConfig)
    for key, text in problem.metadata.ns(NAMESPACE).items():
        if key == SEED:
            continue
        kind = kinds.get(key, str)
        kind = float if kind == float | None else kind
        try:
            settings[key] = kind(text) if kind in (int, float) else str(text)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"metadata {NAMESPACE}:{key}={text!r} must be of type {kind.__name__}."
            ) from error
    for key, most in MOST.items():
        value = settings.get(key, most)
        if isinstance(value, int | float) and not value <= most:  # NaN is not, either
            raise ConfigError(f"metadata {NAMESPACE}:{key}={value} must be at most {most:g}.")
    return from_tree(PolicyConfig, settings, f"{NAMESPACE}.")


def _seed(problem: vz.ProblemStatement) -> int | None:
    """The seed that a study's metadata asks for: then the same trials give the same suggestions."""
    text = problem.metadata.ns(NAMESPACE).get(SEED)
    if text is None:
        return None
    try:
        return int(str(text))
    except ValueError as error:
        raise ConfigError(
            f"metadata {NAMESPACE}:{SEED}={text!r} must be a whole number."
        ) from error
