"""A model as an Optuna sampler.

    sampler = OptFormerSampler("checkpoint", seed=0)
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=50)

How a trial's parameters are found:

- The search space is `space` or, without it, what the completed trials have drawn (where none is
  completed, the failed ones). The model chooses all of its parameters at once. A parameter that
  some trials lack is conditional on the one whose value explains it, as for imported logs
  (`convert.conditions`).
- A parameter outside of it (new, with another range than before, or missing without a reason) is
  chosen by itself: by the model if a completed trial has it within the range that is asked for, by
  chance if none has. So without `space` the first trial is random.
- A parameter that the model cannot express (choices that look the same as text, or more of them
  than it has tokens) is left to chance, and so are those beyond the most that it takes, with a
  warning. In `space` they are refused.
- Constraints (`Trial.set_constraint` or `constraints_func`) are kept by what is suggested.
- Failed and pruned trials, and those with infinite values, are infeasible to the model. Running
  ones are pending, from the moment when the sampler has chosen, so that parallel workers on one
  storage do not try the same.
- Several objectives become one, with another random direction for each trial
  (`policies.objectives`).
"""

import dataclasses
import json
import math
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import optuna
from jaxtyping import Float64
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers._base import _process_constraints_after_trial
from optuna.trial import FrozenTrial, TrialState

from optformer.convert import conditions
from optformer.convert import optuna as optuna_studies
from optformer.errors import StudyError
from optformer.model.config import most_parameters
from optformer.policies.config import PolicyConfig
from optformer.policies.model import OptFormer, load
from optformer.policies.session import check_problem
from optformer.study import Metric, Parameter, Problem, State, Trial, Value, from_trials
from optformer.tokenization.trajectory import value_error

_CHOSEN = "optformer:chosen"  # a trial's system attribute: what was chosen for it, as JSON
_STATES = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)

_Space = Mapping[str, BaseDistribution]


class OptFormerSampler(optuna.samplers.BaseSampler):
    """Optuna's interface for algorithms. It keeps no state besides the model: safe in threads.

    It can be pickled and sent to a worker, with its model; copies share the model.

    Args:
      model: one that is loaded, or the folder of its checkpoint.
      policy: how it suggests.
      seed: the same seed, model and finished trials give the same values for the trial of a number;
        None for other ones each time.
      independent_sampler: who draws what is left to chance; uniformly random if None.
      space: the search space, if it is known; then the model chooses from the first trial on.
      constraints_func: of a finished trial, numbers that are above 0 where a constraint is broken,
        as other samplers of Optuna take it.

    Raises:
      CheckpointError: the model cannot be loaded.
      StudyError: the model cannot express `space`.
    """

    def __init__(
        self,
        model: OptFormer | str | Path,
        *,
        policy: PolicyConfig | None = None,
        seed: int | None = None,
        independent_sampler: optuna.samplers.BaseSampler | None = None,
        space: Mapping[str, BaseDistribution] | None = None,
        constraints_func: Callable[[FrozenTrial], Sequence[float]] | None = None,
    ) -> None:
        self._model = model if isinstance(model, OptFormer) else load(model)
        self._space = dict(space or {})
        self._constraints_func = constraints_func
        if space:
            self._check(space)
        self._policy = policy or PolicyConfig()
        self._seed = int(np.random.default_rng().integers(2**62)) if seed is None else seed
        self._independent = independent_sampler

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The parameters that are chosen at once, parents first."""
        joint = self._joint(study)
        most = most_parameters(self._model.config)
        if len(joint) > most:
            warnings.warn(
                f"the search space has {len(joint)} parameters, but this model takes {most}: "
                f"{', '.join(list(joint)[most:])} are left to chance.",
                stacklevel=2,
            )
        return dict(list(joint.items())[:most])

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, CategoricalChoiceType]:
        """The values of those parameters; of the conditional ones only what is active."""
        trials = _others(study, trial)
        parameters = self._placed(search_space, trials)
        if not parameters:
            return {}
        chosen = self._choose(study, trial, parameters, trials, salt="")
        # Other workers learn of it now; Optuna tells them as the objective asks for the values.
        study._storage.set_trial_system_attr(trial._trial_id, _CHOSEN, json.dumps(chosen))
        return {name: _external(search_space[name], value) for name, value in chosen.items()}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> CategoricalChoiceType:
        """The value of one parameter, by what other trials had for it."""
        trials = [
            each
            for each in _others(study, trial)
            if param_name in each.params and _holds(param_distribution, each.params[param_name])
        ]
        parameters = self._expressible({param_name: param_distribution})
        surplus = list(self._joint(study))[most_parameters(self._model.config) :]
        completed = any(each.state == TrialState.COMPLETE for each in trials)
        if parameters and completed and param_name not in surplus:
            chosen = self._choose(study, trial, parameters, trials, salt=param_name)
            return _external(param_distribution, chosen[param_name])
        by_chance = self._independent or optuna.samplers.RandomSampler(
            self._seed_of(trial, param_name)
        )
        return by_chance.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Stores the trial's constraints, as Optuna's own samplers do."""
        if self._constraints_func is not None:
            _process_constraints_after_trial(self._constraints_func, study, trial, state)

    def _check(self, space: _Space) -> None:
        """Refuses a search space before any trial is paid for."""
        parameters = [
            optuna_studies.parameter(name, [distribution])
            for name, distribution in space.items()
            if not distribution.single()
        ]
        problem = Problem(
            name="space", parameters=tuple(parameters), metrics=(Metric(name="value"),)
        )
        check_problem(problem, most_parameters(self._model.config))
        bins = self._model.tokenizer.vocabulary.bins
        if reason := next(filter(None, (value_error(each, bins) for each in parameters)), ""):
            raise StudyError(f"{reason}.")

    def _joint(self, study: optuna.Study) -> dict[str, BaseDistribution]:
        """All parameters that a model without limits would choose at once, parents first."""
        trials = study.get_trials(deepcopy=False, states=_STATES)
        same = {
            name: seen[0]
            for name, seen in optuna_studies.distributions(_drawn(trials)).items()
            if len(seen) == 1
        }
        space = same | self._space
        several = {name: one for name, one in space.items() if not one.single()}
        return {name: several[name] for name in self._placed(several, trials)}

    def _placed(self, space: _Space, trials: Sequence[FrozenTrial]) -> dict[str, Parameter]:
        """The parameters, parents first, less those whose absence in a trial nothing explains."""
        flat = self._expressible(space)
        # A trial without any of them, such as one with other names, is no evidence.
        drawn = [
            values
            for each in _drawn(trials)
            if (values := optuna_studies.values_of(flat, each.params))
        ]
        seen = {name for values in drawn for name in values}
        if drawn:
            flat = {name: parameter for name, parameter in flat.items() if name in seen}
        return conditions.with_conditions(flat, drawn)

    def _expressible(self, space: _Space) -> dict[str, Parameter]:
        """The parameters that the model has tokens for."""
        found = {}
        for name, distribution in space.items():
            try:
                parameter = optuna_studies.parameter(name, [distribution])
            except StudyError:
                continue
            if not value_error(parameter, self._model.tokenizer.vocabulary.bins):
                found[name] = parameter
        return found

    def _choose(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        parameters: Mapping[str, Parameter],
        trials: Sequence[FrozenTrial],
        *,
        salt: str,
    ) -> dict[str, Value]:
        """The model's suggestion, given those trials that have just these parameters."""
        completed = [each for each in trials if each.state == TrialState.COMPLETE]
        problem = optuna_studies.problem(study, tuple(parameters.values()), completed)
        ours = from_trials(problem, _history(problem, parameters, trials))
        seed = self._seed_of(trial, salt)
        values_NP = self._model.propose(ours, policy=self._policy, seed=seed)
        return _values(problem, values_NP[0])

    def _seed_of(self, trial: FrozenTrial, salt: str) -> int:
        """Another seed for every trial, and in it for every parameter that is chosen by itself."""
        # Workers that were given the same seed differ in their trials' numbers.
        mixed = np.random.SeedSequence([self._seed, trial.number, zlib.crc32(salt.encode())])
        return int(mixed.generate_state(1)[0])


def _others(study: optuna.Study, trial: FrozenTrial) -> list[FrozenTrial]:
    trials = study.get_trials(deepcopy=False, states=_STATES)
    return [each for each in trials if each.number != trial.number]


def _drawn(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that say what the search space is: completed ones, or failed ones without any."""
    for states in ((TrialState.COMPLETE,), (TrialState.FAIL, TrialState.PRUNED)):
        if found := [each for each in trials if each.state in states]:
            return found
    return []


def _history(
    problem: Problem, parameters: Mapping[str, Parameter], trials: Sequence[FrozenTrial]
) -> list[Trial]:
    """The trials that have just these parameters, each with a value within its range."""
    rows = []
    for each in trials:
        values = optuna_studies.values_of(parameters, each.params)
        if each.state == TrialState.RUNNING:
            chosen = json.loads(each.system_attrs.get(_CHOSEN, "{}"))
            values = {name: chosen[name] for name in chosen if name in parameters} | values
        if not conditions.is_complete(problem, values) or not all(
            _is_legal(parameters[name], value) for name, value in values.items()
        ):
            continue
        row = optuna_studies.trial(problem, each, values)
        if row.state == State.COMPLETED and not all(map(math.isfinite, each.values)):
            row = dataclasses.replace(row, metrics={}, state=State.INFEASIBLE)
        rows.append(row)
    return rows


def _is_legal(parameter: Parameter, value: Value) -> bool:
    try:
        parameter.to_number(value)
    except StudyError:
        return False
    return True


def _values(problem: Problem, values_P: Float64[np.ndarray, " P"]) -> dict[str, Value]:
    """One row of a study by name, without what is inactive."""
    return {
        parameter.name: parameter.from_number(float(number))
        for parameter, number in zip(problem.parameters, values_P, strict=True)
        if not np.isnan(number)
    }


def _external(distribution: BaseDistribution, value: Value) -> CategoricalChoiceType:
    """Our value as the one that Optuna's distribution has."""
    if isinstance(distribution, CategoricalDistribution):
        by_label = {optuna_studies.label(choice): choice for choice in distribution.choices}
        return by_label[str(value)]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    number = float(value)
    if distribution.step is not None and not distribution.log:
        # A grid of many values is continuous to the model.
        steps = round((number - distribution.low) / distribution.step)
        number = distribution.low + steps * distribution.step
    number = min(max(number, distribution.low), distribution.high)
    return int(number) if isinstance(distribution, IntDistribution) else number


def _holds(distribution: BaseDistribution, value: CategoricalChoiceType) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:  # it had another kind of values
        return False
