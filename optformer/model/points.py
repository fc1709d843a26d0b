"""Points of a study's search space, in every form in which they are needed; converted once.

Array dimensions: N points, P parameters in the problem's order, K places of a trial's parameters.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from optformer.space import to_natural, to_units
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
      inputs_NK: what the experts see: numbers in [0, 1] or `INACTIVE`, in that order.
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
        """Rows of which no two have the same tokens, in the order of the tokens."""
        return np.unique(self.ids_NK, axis=0, return_index=True)[1].astype(np.int64)


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
        vocabulary, problem = self.tokenizer.vocabulary, self.problem.problem
        ids_NP = self.tokenizer.parameter_ids(problem, values_NP)
        units_NP = to_units(problem.parameters, values_NP)
        ids_NK = ids_NP[:, self.problem.order_P]
        return Points(
            values_NP=values_NP,
            units_NP=np.where(np.isfinite(values_NP), units_NP, np.nan),
            ids_NK=ids_NK - vocabulary.first_output,
            inputs_NK=vocabulary.to_units(ids_NK, other=INACTIVE),
        )

    def of_units(self, units_NP: Float64[np.ndarray, "N P"]) -> Points:
        """The points of the bins that these points of the unit cube are in."""
        problem = self.problem.problem
        values_NP = to_natural(problem.parameters, units_NP)
        values_NP = np.where(problem.active(values_NP), values_NP, np.nan)
        ids_NP = self.tokenizer.parameter_ids(problem, values_NP)
        ids_NK = ids_NP[:, self.problem.order_P] - self.tokenizer.vocabulary.first_output
        return self.of_ids(ids_NK)

    def of_ids(self, ids_NK: Int64[np.ndarray, "N K"]) -> Points:
        """The points of output tokens: the middles of their bins."""
        vocabulary, problem = self.tokenizer.vocabulary, self.problem.problem
        values_NP = self.tokenizer.decode_parameters(self.problem, ids_NK + vocabulary.first_output)
        units_NP = to_units(problem.parameters, values_NP)
        return Points(
            values_NP=values_NP,
            units_NP=np.where(np.isfinite(values_NP), units_NP, np.nan),
            ids_NK=ids_NK,
            inputs_NK=vocabulary.to_units(ids_NK + vocabulary.first_output, other=INACTIVE),
        )

    def anywhere_in_bin(
        self, ids_K: Int64[np.ndarray, " K"], rng: np.random.Generator
    ) -> Float64[np.ndarray, " P"]:
        """Values of output tokens; a continuous one is a random number of its bin."""
        ids_1K = ids_K[None] + self.tokenizer.vocabulary.first_output
        return self.tokenizer.decode_parameters(self.problem, ids_1K, rng)[0]
