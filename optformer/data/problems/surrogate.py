"""Past studies as problems: a random forest over a study's own trials, or its nearest trial.

Array dimensions: B studies, N points, P parameters, R recorded trials, F trees, K tree nodes.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

from optformer.data import store
from optformer.errors import SourceError, StudyError
from optformer.space import Spaces, to_natural, to_units
from optformer.study import ParameterType, Problem, State, Study


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurrogateConfig:
    """Which studies' surrogates are drawn.

    Attributes:
      shards: folders of study shards; each block is one of their studies.
      model: "forest" needs scikit-learn; "nearest" only ever says values that were measured.
      trees: of a forest.
    """

    shards: tuple[str, ...] = ()
    model: Literal["forest", "nearest"] = "forest"
    trees: int = 32


INACTIVE = -1.0  # stands for the unit of a parameter that its parent disables
FEWEST_TRIALS = 5


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Forest:
    """Regression trees as arrays, so that many points walk down all of them at once.

    Attributes:
      feature_FK, threshold_FK: a point goes left where its feature is at most the threshold.
      left_FK, right_FK: nodes; a leaf leads to itself.
      value_FK: each node's mean.
      depth: of the deepest leaf.
    """

    feature_FK: Int64[np.ndarray, "F K"]
    threshold_FK: Float64[np.ndarray, "F K"]
    left_FK: Int64[np.ndarray, "F K"]
    right_FK: Int64[np.ndarray, "F K"]
    value_FK: Float64[np.ndarray, "F K"]
    depth: int

    def predict(self, points_NP: Float64[np.ndarray, "N P"]) -> Float64[np.ndarray, " N"]:
        """The trees' mean."""
        trees_F = np.arange(len(self.value_FK))
        rows_N1 = np.arange(len(points_NP))[:, None]
        node_NF = np.zeros((len(points_NP), len(trees_F)), dtype=np.int64)
        # Trees compare in float32, as scikit-learn does when it grows them.
        points_NP = points_NP.astype(np.float32).astype(np.float64)
        for _ in range(self.depth):
            is_left_NF = (
                points_NP[rows_N1, self.feature_FK[trees_F, node_NF]]
                <= self.threshold_FK[trees_F, node_NF]
            )
            node_NF = np.where(
                is_left_NF, self.left_FK[trees_F, node_NF], self.right_FK[trees_F, node_NF]
            )
        return self.value_FK[trees_F, node_NF].mean(axis=1)


class SurrogateBlock:
    """B copies of one function made from a study's trials; an `ObjectiveBlock`.

    A point is infeasible where the nearest recorded trial was. Inactive parameters of conditional
    spaces make no difference.

    Attributes:
      optimum_B, optimum_BP: the best trial for "nearest"; NaN for "forest".
    """

    def __init__(
        self,
        study: Study,
        *,
        model: Literal["forest", "nearest"] = "forest",
        copies: int = 1,
        trees: int = 32,
        seed: int = 0,
    ) -> None:
        """Fits the surrogate; the forest needs scikit-learn (the extra `demo`).

        Raises:
          StudyError: when the study has too few completed trials.
          SourceError: when scikit-learn is missing.
        """
        completed = int(np.sum(study.states_R == State.COMPLETED))
        if completed < FEWEST_TRIALS:
            raise StudyError(
                f"study {study.name!r} has {completed} completed trials; a surrogate needs at "
                f"least {FEWEST_TRIALS}."
            )
        objective = study.problem.objectives[0]
        problem = dataclasses.replace(
            study.problem, name=f"surrogate/{study.name}", metrics=(objective,)
        )
        self.problems: tuple[Problem, ...] = (problem,) * copies
        self.spaces = Spaces.of(problem.parameters, copies)
        study = study.rows(study.states_R != State.ACTIVE)
        self._categorical_P = np.array(
            [parameter.type == ParameterType.CATEGORICAL for parameter in problem.parameters]
        )
        self._points_RP = np.full(study.values_RP.shape, INACTIVE)
        for column, parameter in enumerate(problem.parameters):
            there_R = ~np.isnan(study.values_RP[:, column])
            self._points_RP[there_R, column : column + 1] = to_units(
                (parameter,), study.values_RP[there_R, column : column + 1]
            )
        self._values_R = study.objective()
        self._feasible_R = study.states_R == State.COMPLETED
        self._forest = (
            _grow(self._points_RP[self._feasible_R], self._values_R[self._feasible_R], trees, seed)
            if model == "forest"
            else None
        )
        size = len(problem.parameters)
        self.optimum_B, self.optimum_BP = np.full(copies, np.nan), np.full((copies, size), np.nan)
        if self._forest is None:
            # Any value will do where a parameter is inactive.
            tried_RP = np.where(self._points_RP == INACTIVE, 0.5, self._points_RP)
            legal_BRP = self.spaces.snap(np.tile(tried_RP, (copies, 1, 1)))
            values_R = self.evaluate_exact(legal_BRP[:1])[0]
            self.optimum_B[:] = np.nanmax(values_R)
            self.optimum_BP[:] = legal_BRP[0, np.nanargmax(values_R)]

    def evaluate(
        self, units_BNP: Float64[np.ndarray, "B N P"], rng: np.random.Generator
    ) -> Float64[np.ndarray, "B N"]:
        """As `evaluate_exact`: a surrogate has no noise."""
        return self.evaluate_exact(units_BNP)

    def evaluate_exact(self, units_BNP: Float64[np.ndarray, "B N P"]) -> Float64[np.ndarray, "B N"]:
        """What the surrogate predicts, larger better; NaN where it is infeasible."""
        shape = units_BNP.shape[:2]
        points_NP = units_BNP.reshape(-1, units_BNP.shape[2])
        problem = self.problems[0]
        if problem.is_conditional:
            active_NP = problem.active(to_natural(problem.parameters, points_NP))
            points_NP = np.where(active_NP, points_NP, INACTIVE)
        if self._forest is None:
            return self._values_R[self._nearest(points_NP)].reshape(shape)
        values_N = self._forest.predict(points_NP)
        if not self._feasible_R.all():
            values_N = np.where(self._feasible_R[self._nearest(points_NP)], values_N, np.nan)
        return values_N.reshape(shape)

    def _nearest(self, points_NP: Float64[np.ndarray, "N P"]) -> Int64[np.ndarray, " N"]:
        """The row of the nearest trial; two categories are as far apart as a range's ends."""
        square_NR = np.zeros((len(points_NP), len(self._points_RP)))
        for p, categorical in enumerate(self._categorical_P):
            gap_NR = np.abs(points_NP[:, p, None] - self._points_RP[:, p])
            square_NR += gap_NR > 1e-9 if categorical else gap_NR**2
        return np.argmin(square_NR, axis=1)


def random_block(config: SurrogateConfig, rng: np.random.Generator, studies: int) -> SurrogateBlock:
    """Copies of one random study's surrogate.

    Raises:
      SourceError: when the shards hold no study with enough trials.
    """
    usable = _usable(config.shards)
    return SurrogateBlock(
        usable[rng.integers(len(usable))],
        model=config.model,
        copies=studies,
        trees=config.trees,
        seed=int(rng.integers(2**31)),
    )


@functools.lru_cache(maxsize=2)
def _usable(shards: tuple[str, ...]) -> list[Study]:
    """The studies of these folders that have enough completed trials."""
    usable = [
        study
        for study in store.scan([Path(folder) for folder in shards])
        if np.sum(study.states_R == State.COMPLETED) >= FEWEST_TRIALS
    ]
    if not usable:
        raise SourceError(
            f"no study in {', '.join(shards) or 'surrogate.shards, which is empty,'} has "
            f"{FEWEST_TRIALS} completed trials, the fewest for a surrogate."
        )
    return usable


def _grow(
    points_RP: Float64[np.ndarray, "R P"],
    values_R: Float64[np.ndarray, " R"],
    trees: int,
    seed: int,
) -> Forest:
    """A random forest of scikit-learn's, as arrays."""
    try:
        from sklearn.ensemble import RandomForestRegressor
    except ImportError as error:
        raise SourceError(
            "a forest surrogate needs scikit-learn, which is not installed. "
            "Run: pip install 'optformer[demo]', or use model=\"nearest\"."
        ) from error
    forest = RandomForestRegressor(trees, max_features=0.8, random_state=seed)
    grown = [tree.tree_ for tree in forest.fit(points_RP, values_R).estimators_]
    most = max(tree.node_count for tree in grown)

    def stack(name: str, missing: int) -> np.ndarray:
        rows = [np.asarray(getattr(tree, name)).reshape(tree.node_count) for tree in grown]
        return np.stack(
            [np.pad(row, (0, most - len(row)), constant_values=missing) for row in rows]
        )

    left_FK, right_FK = stack("children_left", -1), stack("children_right", -1)
    leaf_FK: Bool[np.ndarray, "F K"] = left_FK < 0
    self_FK = np.tile(np.arange(most), (trees, 1))
    return Forest(
        feature_FK=np.where(leaf_FK, 0, stack("feature", 0)).astype(np.int64),
        threshold_FK=stack("threshold", 0).astype(np.float64),
        left_FK=np.where(leaf_FK, self_FK, left_FK).astype(np.int64),
        right_FK=np.where(leaf_FK, self_FK, right_FK).astype(np.int64),
        value_FK=stack("value", 0).astype(np.float64),
        depth=max(tree.max_depth for tree in grown),
    )
