"""A trained model as what evaluation runs: an optimizer of one study, and a predictor of trials.

Array dimensions: N suggestions or predictions, P parameters, M metrics, Q bins, R trials.
"""

import dataclasses
import functools
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64, Int8, Int64

from optformer.eval.runner import Optimizer
from optformer.policies.model import OptFormer, PolicyConfig, load
from optformer.study import Problem, Study


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFactory:
    """Makes the model of a checkpoint search one study."""

    checkpoint: Path
    policy: PolicyConfig = dataclasses.field(default_factory=PolicyConfig)

    def __call__(self, problem: Problem, seed: int) -> Optimizer:
        """The policy at the start of a study."""
        return _Model(_loaded(self.checkpoint), self.policy, problem, seed)


class _Model:
    def __init__(self, model: OptFormer, policy: PolicyConfig, problem: Problem, seed: int) -> None:
        self._model = model
        self._policy = policy
        self._seeds = np.random.default_rng(seed)
        self._study = Study(
            problem=problem,
            values_RP=np.empty((0, len(problem.parameters))),
            metrics_RM=np.empty((0, len(problem.metrics))),
            states_R=np.empty(0, dtype=np.int8),
        )

    def suggest(self, count: int) -> Float64[np.ndarray, "N P"]:
        """The policy's next points."""
        seed = int(self._seeds.integers(2**31))
        return self._model.propose(self._study, count, policy=self._policy, seed=seed)

    def update(
        self,
        values_NP: Float64[np.ndarray, "N P"],
        metrics_NM: Float64[np.ndarray, "N M"],
        states_N: Int8[np.ndarray, " N"],
    ) -> None:
        """Adds the trials to the study that the model sees."""
        self._study = dataclasses.replace(
            self._study,
            values_RP=np.concatenate([self._study.values_RP, values_NP]),
            metrics_RM=np.concatenate([self._study.metrics_RM, metrics_NM]),
            states_R=np.concatenate([self._study.states_R, states_N]),
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ModelPredictor:
    """Predicts trials as in serving: values are scaled by what the model has seen so far.

    Its distributions are cut to the range that all predictors are told. A millionth of each is
    uniform, so that one surprise does not cost infinitely much.
    """

    model: OptFormer
    bins: int = 1000
    value_temperature: float = 1.0

    def predict(
        self, study: Study, y_range: tuple[float, float], rows_N: Int64[np.ndarray, " N"]
    ) -> Float[np.ndarray, "N Q"]:
        """See `prediction.Predictor`."""
        metric = study.problem.objectives[0]
        edges_E = metric.sign * np.linspace(*y_range, self.bins + 1)  # in the metric's own units
        probabilities_NQ = np.empty((len(rows_N), self.bins))
        for place, row in enumerate(rows_N):
            shares_1Q, scaling = self.model.predict(
                study.rows(slice(row)),
                study.values_RP[row : row + 1],
                algorithm=study.algorithm,
                value_temperature=self.value_temperature,
            )
            below_E = np.append(0.0, np.cumsum(shares_1Q[0]))
            units_E = np.linspace(0.0, 1.0, len(below_E))
            inside_Q = np.diff(np.interp(scaling.to_line(edges_E), units_E, below_E))
            total = inside_Q.sum()
            share_Q = inside_Q / total if total > 0 else np.full(self.bins, 1.0 / self.bins)
            probabilities_NQ[place] = (1 - 1e-6) * share_Q + 1e-6 / self.bins
        return probabilities_NQ


@functools.lru_cache(maxsize=4)
def _loaded(checkpoint: Path) -> OptFormer:
    return load(checkpoint)
