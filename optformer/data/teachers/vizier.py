"""Vizier's designers as teachers, one for each study. They are slow: for validation only.

Array dimensions: B studies, P parameters.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64
from vizier import algorithms as vza
from vizier import pyvizier as vz

from optformer.data.teachers.teacher import TeacherFactory, short_seed
from optformer.space import Spaces

METRIC = "objective"
DesignerFactory = Callable[[vz.ProblemStatement, int], vza.Designer]


def vizier_teacher(designer: DesignerFactory) -> TeacherFactory:
    """A teacher from a factory of Vizier's designers, which receives a problem and a seed.

        vizier_teacher(lambda problem, seed: EagleStrategyDesigner(problem, seed=seed))

    Designers that use JAX need 64-bit mode, `jax.enable_x64(True)`, and a separate process.
    """

    def factory(spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], budget: int) -> _Designers:
        return _Designers(spaces, seeds_B, designer)

    return factory


@dataclasses.dataclass(kw_only=True, eq=False)
class _OneStudy:
    """A designer with its unfinished suggestions."""

    designer: vza.Designer
    levels_P: Int64[np.ndarray, " P"]
    ordered_P: np.ndarray
    pending: list[tuple[np.ndarray, vz.TrialSuggestion]] = dataclasses.field(default_factory=list)
    finished: int = 0

    def suggest(self) -> np.ndarray:
        suggestion = self.designer.suggest(1)[0]
        units_P = np.empty(len(self.levels_P))
        for column, levels in enumerate(self.levels_P):
            value = suggestion.parameters[f"x{column}"].value
            if levels and not self.ordered_P[column]:
                units_P[column] = (int(value) + 0.5) / levels
            elif levels:
                units_P[column] = (round(float(value)) + 0.5) / levels
            else:
                units_P[column] = float(value)
        self.pending.append((units_P, suggestion))
        return units_P

    def observe(self, units_P: np.ndarray, value: float) -> None:
        self.finished += 1
        index = next(
            (i for i, (point, _) in enumerate(self.pending) if np.allclose(point, units_P)), None
        )
        # The designer's own suggestion keeps the metadata that the designer stored in it.
        suggestion = self._foreign(units_P) if index is None else self.pending.pop(index)[1]
        trial = suggestion.to_trial(self.finished)
        if np.isnan(value):
            trial.complete(vz.Measurement(), infeasibility_reason="infeasible")
        else:
            trial.complete(vz.Measurement(metrics={METRIC: float(value)}))
        self.designer.update(vza.CompletedTrials([trial]), vza.ActiveTrials())

    def _foreign(self, units_P: np.ndarray) -> vz.TrialSuggestion:
        parameters: dict[str, float | str] = {}
        for column, levels in enumerate(self.levels_P):
            level = int(units_P[column] * levels)
            if levels and not self.ordered_P[column]:
                parameters[f"x{column}"] = _category(level)
            else:
                parameters[f"x{column}"] = float(level if levels else units_P[column])
        return vz.TrialSuggestion(parameters)


class _Designers:
    """One designer for each study; a `Teacher`."""

    def __init__(
        self, spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], designer: DesignerFactory
    ) -> None:
        self._studies = []
        for levels_P, ordered_P, seed in zip(
            spaces.levels_BP, spaces.ordered_BP, seeds_B, strict=True
        ):
            problem = vz.ProblemStatement(
                metric_information=[
                    vz.MetricInformation(METRIC, goal=vz.ObjectiveMetricGoal.MAXIMIZE)
                ]
            )
            root = problem.search_space.root
            for column, (levels, ordered) in enumerate(zip(levels_P, ordered_P, strict=True)):
                name = f"x{column}"
                if not levels:
                    root.add_float_param(name, 0.0, 1.0)
                elif ordered:
                    root.add_discrete_param(name, list(range(levels)))
                else:
                    root.add_categorical_param(name, [_category(k) for k in range(levels)])
            self._studies.append(
                _OneStudy(
                    designer=designer(problem, short_seed(int(seed)) // 2),
                    levels_P=levels_P,
                    ordered_P=ordered_P,
                )
            )

    def suggest(self) -> Float64[np.ndarray, "B P"]:
        return np.stack([study.suggest() for study in self._studies])

    def observe(
        self, units_BP: Float64[np.ndarray, "B P"], values_B: Float64[np.ndarray, " B"]
    ) -> None:
        for study, units_P, value in zip(self._studies, units_BP, values_B, strict=True):
            study.observe(units_P, value)


def _category(level: int) -> str:
    """The name of a category; names have equal length, so that sorting keeps the order."""
    return f"{level:06d}"
