"""Optuna's tree-structured Parzen estimator, with one sampler for each study.

Array dimensions: B studies, P parameters.
"""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, Int64

from optformer.data.teachers.teacher import short_seed
from optformer.space import Spaces

if TYPE_CHECKING:
    import optuna


class Tpe:
    """Optuna's `TPESampler` with its defaults: ten random trials, then the ratio of densities.

    An infeasible trial is a failed one, which the sampler leaves out of its densities. Unfinished
    trials count as bad ones, so that they are not suggested again.
    """

    def __init__(self, spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], budget: int) -> None:
        self._studies = [
            _OneStudy(levels_P, ordered_P, short_seed(int(seed)))
            for levels_P, ordered_P, seed in zip(
                spaces.levels_BP, spaces.ordered_BP, seeds_B, strict=True
            )
        ]

    def suggest(self) -> Float64[np.ndarray, "B P"]:
        return np.stack([study.suggest() for study in self._studies])

    def observe(
        self, units_BP: Float64[np.ndarray, "B P"], values_B: Float64[np.ndarray, " B"]
    ) -> None:
        for study, units_P, value in zip(self._studies, units_BP, values_B, strict=True):
            study.observe(units_P, float(value))


class _OneStudy:
    def __init__(
        self,
        levels_P: Int64[np.ndarray, " P"],
        ordered_P: np.ndarray,
        seed: int,
    ) -> None:
        import optuna

        self._levels_P = levels_P
        self._distributions: dict[str, optuna.distributions.BaseDistribution] = {}
        for column, (levels, ordered) in enumerate(zip(levels_P.tolist(), ordered_P, strict=True)):
            one: optuna.distributions.BaseDistribution
            if not levels:
                one = optuna.distributions.FloatDistribution(0.0, 1.0)
            elif ordered:
                one = optuna.distributions.IntDistribution(0, levels - 1)
            else:
                one = optuna.distributions.CategoricalDistribution(range(levels))
            self._distributions[f"x{column}"] = one
        self._study = _quiet_study(optuna.samplers.TPESampler(seed=seed, constant_liar=True))
        self._pending: list[tuple[np.ndarray, int]] = []

    def suggest(self) -> Float64[np.ndarray, " P"]:
        trial = self._study.ask(self._distributions)
        units_P = np.array([float(trial.params[name]) for name in self._distributions])
        steps_P = np.maximum(self._levels_P, 1)
        units_P = np.where(self._levels_P > 0, (units_P + 0.5) / steps_P, units_P)
        self._pending.append((units_P, trial.number))
        return units_P

    def observe(self, units_P: Float64[np.ndarray, " P"], value: float) -> None:
        import optuna

        feasible = bool(np.isfinite(value))
        state = optuna.trial.TrialState.COMPLETE if feasible else optuna.trial.TrialState.FAIL
        for index, (own_P, number) in enumerate(self._pending):
            if np.allclose(own_P, units_P):
                self._study.tell(number, value if feasible else None, state=state)
                del self._pending[index]
                return
        values_P = np.where(self._levels_P > 0, np.floor(units_P * self._levels_P), units_P)
        parameters = {
            name: float(number) if levels == 0 else int(number)
            for name, number, levels in zip(
                self._distributions, values_P, self._levels_P, strict=True
            )
        }
        self._study.add_trial(
            optuna.trial.create_trial(
                params=parameters,
                distributions=self._distributions,
                value=value if feasible else None,
                state=state,
            )
        )


def _quiet_study(sampler: "optuna.samplers.BaseSampler") -> "optuna.Study":
    """A study in memory, created without Optuna's log message."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(direction="maximize", sampler=sampler)
    finally:
        optuna.logging.set_verbosity(before)
