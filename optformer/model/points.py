"""Points of a study's search space, in every form in which they are needed; converted once.

Array dimensions: N points, P parameters in the problem's order, K places of a trial's parameters.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from optformer.space import in_cube, to_natural
from optformer.tokenization.tokenizer import EncodedProblem, StudyTokenizer

INACTIVE = -1.0
"""Stands for a parameter that a point does not have, in what experts see of it."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Points:
    """Points of one study's search space.

    Attributes:
      values_NP: as in `Study.values_RP`.
      units_NP: the values in the unit cube; NaN where a point lacks the parameter.
      ids_NK: output tokens, in the order of the tokens of a trial.
        A token is a bin, in which there are many values.
      inputs_NK: what the experts see: `units_NP` in that order, `INACTIVE` in place of NaN.
    """

    values_NP: Float64[np.ndarray, "N P"]
    units_NP: Float64[np.ndarray, "N P"]
    ids_NK: Int64[np.ndarray, "N K"]
    inputs_NK: Float64[np.ndarray, "N K"]

    def __len__(self) -> int:
        return len(self.values_NP)

    def rows(self, rows_M: Int64[np.ndarray, " M"]) -> "Points":
        """These of the points."""
        return Points(
            values_NP=self.values_NP[rows_M],
            units_NP=self.units_NP[rows_M],
            ids_NK=self.ids_NK[rows_M],
            inputs_NK=self.inputs_NK[rows_M],
        )

    def unique(self) -> Int64[np.ndarray, " M"]:
        """Rows of which no two are the same point, in the order of their coordinates."""
        return np.unique(self.inputs_NK, axis=0, return_index=True)[1].astype(np.int64)


def joined(parts: Sequence[Points]) -> Points:
    """All of these points, in order."""
    return Points(
        values_NP=np.concatenate([part.values_NP for part in parts]),
        units_NP=np.concatenate([part.units_NP for part in parts]),
        ids_NK=np.concatenate([part.ids_NK for part in parts]),
        inputs_NK=np.concatenate([part.inputs_NK for part in parts]),
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Coordinates:
    """Makes points of one study from whatever is given of them."""

    problem: EncodedProblem
    tokenizer: StudyTokenizer

    def of_values(self, values_NP: Float64[np.ndarray, "N P"]) -> Points:
        """Points of rows as in `Study.values_RP`."""
        ids_NP = self.tokenizer.parameter_ids(self.problem.problem, values_NP)
        ids_NK = ids_NP[:, self.problem.order_P] - self.tokenizer.vocabulary.first_output
        return self._points(values_NP, ids_NK)

    def of_units(self, units_NP: Float64[np.ndarray, "N P"]) -> Points:
        """The legal points that these points of the unit cube stand for."""
        problem = self.problem.problem
        values_NP = to_natural(problem.parameters, units_NP)
        return self.of_values(np.where(problem.active(values_NP), values_NP, np.nan))

    def of_ids(
        self, ids_NK: Int64[np.ndarray, "N K"], rng: np.random.Generator | None = None
    ) -> Points:
        """Points of output tokens: random ones of their bins or, without `rng`, the middles."""
        ids = ids_NK + self.tokenizer.vocabulary.first_output
        return self._points(self.tokenizer.decode_parameters(self.problem, ids, rng), ids_NK)

    def _points(
        self, values_NP: Float64[np.ndarray, "N P"], ids_NK: Int64[np.ndarray, "N K"]
    ) -> Points:
        units_NP = in_cube(self.problem.problem.parameters, values_NP)
        inputs_NK = units_NP[:, self.problem.order_P]
        return Points(
            values_NP=values_NP,
            units_NP=units_NP,
            ids_NK=ids_NK,
            inputs_NK=np.where(np.isnan(inputs_NK), INACTIVE, inputs_NK),
        )
