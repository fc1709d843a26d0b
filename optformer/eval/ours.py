"""A trained model as an optimizer of studies and as a predictor of trials.

Array dimensions: N suggestions or predictions, P parameters, M metrics, Q bins, R trials.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int8, Int64

from optformer.errors import CheckpointError
from optformer.eval.prediction import in_range
from optformer.eval.task import Optimizer, nearest
from optformer.model.checkpoint import fingerprint, value_temperature
from optformer.model.config import Temperature
from optformer.policies.config import PolicyConfig
from optformer.policies.model import OptFormer, load
from optformer.policies.session import Session
from optformer.space import to_units
from optformer.study import Problem, Study
from optformer.tokenization.metadata import UNKNOWN
from optformer.tokenization.quantize import ValueScaling

_AT_ONCE = 1024  # points that are ranked in one pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFactory:
    """Creates optimizers from the model of a checkpoint.

    Attributes:
      checkpoint: its folder, which is not part of the optimizer's identity.
      together: how many studies share one pass through the model; more need more memory.
      weights, value_temperature: the checkpoint's, so that results of other weights are not
        reused. None where the policy sets the temperature.
    """

    checkpoint: Path = dataclasses.field(repr=False)
    policy: PolicyConfig = dataclasses.field(default_factory=PolicyConfig)
    together: int = dataclasses.field(default=16, repr=False)
    weights: str = dataclasses.field(init=False)
    value_temperature: Temperature | None = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", fingerprint(self.checkpoint))
        named = self.policy.value_temperature is not None
        said = None if named else value_temperature(self.checkpoint)
        object.__setattr__(self, "value_temperature", said)

    def __call__(self, problem: Problem, seed: int) -> Optimizer:
        """The policy for a new study."""
        return _One(self.many([problem], [seed]))

    def many(self, problems: Sequence[Problem], seeds: Sequence[int]) -> "_Many":
        """The policy for these new studies."""
        model = loaded(self.checkpoint, self.weights, self.value_temperature)
        return _Many(model, self.policy, problems, seeds)


class _Many:
    """Several studies that share each pass through the model; a `Lockstep`."""

    def __init__(
        self,
        model: OptFormer,
        policy: PolicyConfig,
        problems: Sequence[Problem],
        seeds: Sequence[int],
    ) -> None:
        teacher = model.teacher(policy.algorithm)
        self._session = Session(model, [(problem, teacher) for problem in problems])
        self._policy = policy
        self._rngs = [np.random.default_rng(seed) for seed in seeds]
        self._studies = [
            Study(
                problem=problem,
                values_RP=np.empty((0, len(problem.parameters))),
                metrics_RM=np.empty((0, len(problem.metrics))),
                states_R=np.empty(0, dtype=np.int8),
            )
            for problem in problems
        ]

    def choose(self, values_NP: Float64[np.ndarray, "N P"]) -> int:
        """The row of the point to try next in the first study: the one that the policy ranks
        highest, or the nearest to a sample of the prior. `ts_joint` draws only for the
        `_AT_ONCE` points with the highest 0.9 quantiles."""
        study, policy = self._studies[0], self._policy
        if policy.acquisition == "prior":
            (wish_1P,) = self.suggest()
            parameters = study.problem.parameters
            return nearest(to_units(parameters, values_NP), to_units(parameters, wish_1P)[0])
        rows_N = np.arange(len(values_NP))
        if policy.acquisition == "ts_joint" and len(rows_N) > _AT_ONCE:
            by_quantile = dataclasses.replace(policy, acquisition="ucb")
            high_N = self._score(values_NP, by_quantile)
            rows_N = np.sort(np.argsort(-high_N, kind="stable")[:_AT_ONCE])
        return int(rows_N[self._score(values_NP[rows_N], policy).argmax()])

    def _score(
        self, values_NP: Float64[np.ndarray, "N P"], policy: PolicyConfig
    ) -> Float64[np.ndarray, " N"]:
        """Scores of points for the first study."""
        return np.concatenate(
            [
                self._session.score(
                    self._studies[0], values_NP[first : first + _AT_ONCE], policy, self._rngs[0]
                )
                for first in range(0, len(values_NP), _AT_ONCE)
            ]
        )

    def suggest(self, count: int = 1) -> list[Float64[np.ndarray, "N P"]]:
        """The policy's next points in each study."""
        return self._session.propose(self._studies, count, self._policy, self._rngs)

    def update(
        self,
        row: int,
        values_NP: Float64[np.ndarray, "N P"],
        metrics_NM: Float64[np.ndarray, "N M"],
        states_N: Int8[np.ndarray, " N"],
    ) -> None:
        """Adds the trials to the study that the model sees."""
        study = self._studies[row]
        self._studies[row] = dataclasses.replace(
            study,
            values_RP=np.concatenate([study.values_RP, values_NP]),
            metrics_RM=np.concatenate([study.metrics_RM, metrics_NM]),
            states_R=np.concatenate([study.states_R, states_N]),
        )


class _One:
    """A lockstep of one study; an `Optimizer`."""

    def __init__(self, studies: _Many) -> None:
        self._studies = studies

    def suggest(self, count: int) -> Float64[np.ndarray, "N P"]:
        """The policy's next points."""
        return self._studies.suggest(count)[0]

    def choose(self, values_NP: Float64[np.ndarray, "N P"]) -> int:
        """The row of these points to try next."""
        return self._studies.choose(values_NP)

    def update(
        self,
        values_NP: Float64[np.ndarray, "N P"],
        metrics_NM: Float64[np.ndarray, "N M"],
        states_N: Int8[np.ndarray, " N"],
    ) -> None:
        """Adds the trials to the study that the model sees."""
        self._studies.update(0, values_NP, metrics_NM, states_N)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ModelPredictor:
    """Predicts trials, with values scaled by the range that all predictors are given."""

    model: OptFormer

    def predict(
        self, study: Study, y_range: tuple[float, float], rows_N: Int64[np.ndarray, " N"]
    ) -> Float64[np.ndarray, "N Q"]:
        """See `prediction.Predictor`."""
        scaling = self._scaling(study, y_range)
        prompt = study.algorithm if study.algorithm in self.model.algorithms else UNKNOWN
        # One session: it reads each trial once.
        session = Session(self.model, [(study.problem, prompt)])
        inside_NQ = np.concatenate(
            [
                session.predict(
                    study.rows(slice(row)),
                    study.values_RP[row : row + 1],
                    scaling=scaling,
                )[0]
                for row in rows_N
            ]
        )
        return in_range(inside_NQ)

    def predict_first(
        self, study: Study, y_range: tuple[float, float]
    ) -> Float64[np.ndarray, "N Q"]:
        """The distribution of each of the study's points before any trial."""
        session = Session(self.model, [(study.problem, UNKNOWN)])
        inside_NQ, _ = session.predict(
            study.rows(slice(0)), study.values_RP, scaling=self._scaling(study, y_range)
        )
        return in_range(inside_NQ)

    def _scaling(self, study: Study, y_range: tuple[float, float]) -> ValueScaling:
        return ValueScaling(
            sign=study.problem.objectives[0].sign,
            low=y_range[0],
            high=y_range[1],
            unit_low=0.0,
            unit_high=1.0,
            single=self.model.tokenizer.options.single,
        )


def loaded(checkpoint: Path, weights: str, temperature: Temperature | None) -> OptFormer:
    """The model of a checkpoint with these weights.

    Args:
      temperature: of its values; None where a policy names one.

    Raises:
      CheckpointError: it cannot be loaded, or has other weights.
    """
    model = _kept(checkpoint, weights)
    if temperature is not None:
        model.value_temperature = temperature
    return model


@functools.lru_cache(maxsize=4)
def _kept(checkpoint: Path, weights: str) -> OptFormer:
    """Cached, because many runs use it in turn."""
    model = load(checkpoint)
    if fingerprint(checkpoint) != weights:
        raise CheckpointError(
            f"{checkpoint} has changed since this evaluation began. Evaluate a copy of it."
        )
    return model
