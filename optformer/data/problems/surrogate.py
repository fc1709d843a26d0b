"""Past studies as problems: a function that is fitted to a study's own trials.

A study that measured every point of its search space is an exact table. For other studies, a random
forest predicts the metric and a second one predicts failures, or the nearest trial gives both. Fits
are cached by the content of the trials (`fitted`): in memory and, given a folder, on disk.

Array dimensions: B studies, N points, P parameters, R recorded trials, F trees, K tree nodes,
C points of a finite search space.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import math
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

from optformer.data import store
from optformer.errors import ConfigError, SourceError, StudyError, did_you_mean, make_folder
from optformer.files import atomic_write
from optformer.space import Spaces, to_natural, to_units
from optformer.study import Metric, ParameterType, Problem, State, Study

Model = Literal["auto", "forest", "nearest"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurrogateConfig:
    """Which studies' surrogates are drawn.

    Attributes:
      shards: folders of study shards; each block is one of their studies.
      model: "forest" needs scikit-learn; "nearest" returns only values that were measured;
        "auto" is an exact table where the study measured all of its search space, and a forest
        elsewhere.
      trees: of a forest.
      metrics: the objective of a block: the study's "first" one, or "any" that was measured, with
        equal probability.
      cache: a folder that keeps fitted surrogates; none if empty.
    """

    shards: tuple[str, ...] = ()
    model: Model = "forest"
    trees: int = 32
    metrics: Literal["first", "any"] = "first"
    cache: str = ""


INACTIVE = -1.0  # stands for the unit of a parameter that its parent disables
FEWEST_TRIALS = 5
_LARGEST_TABLE = 1_000_000  # points of a search space that may be an exact table


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Forest:
    """Regression trees as arrays, so that many points walk down all of them at once.

    Attributes:
      feature_FK, threshold_FK: a point goes left where its feature is at most the threshold.
      left_FK, right_FK: nodes; a leaf leads to itself.
      value_FK: each node's mean.
      depth: of the deepest leaf.
      r2: of the trials that a tree was not grown from (out of bag); NaN if there were too few.
    """

    feature_FK: Int64[np.ndarray, "F K"]
    threshold_FK: Float64[np.ndarray, "F K"]
    left_FK: Int64[np.ndarray, "F K"]
    right_FK: Int64[np.ndarray, "F K"]
    value_FK: Float64[np.ndarray, "F K"]
    depth: int
    r2: float = math.nan

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


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ForestFit:
    """A forest of the values and, if any trial failed, one of failures.

    Attributes:
      failures: predicts 1 where a trial fails; above a half counts as a failure.
    """

    values: Forest
    failures: Forest | None

    def predict(self, points_NP: Float64[np.ndarray, "N P"]) -> Float64[np.ndarray, " N"]:
        """Values, larger better; NaN where a trial would fail."""
        values_N = self.values.predict(points_NP)
        if self.failures is None:
            return values_N
        return np.where(self.failures.predict(points_NP) > 0.5, np.nan, values_N)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TableFit:
    """Every point of a finite search space with the mean of its measurements.

    Attributes:
      levels_P: how many values each parameter has; points count up with the last one fastest.
      values_C: larger better; NaN where every measurement failed.
    """

    levels_P: Int64[np.ndarray, " P"]
    values_C: Float64[np.ndarray, " C"]

    def predict(self, points_NP: Float64[np.ndarray, "N P"]) -> Float64[np.ndarray, " N"]:
        """The points' own measurements."""
        return self.values_C[_index(points_NP, self.levels_P)]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class NearestFit:
    """The recorded trials; two categories are as far apart as the ends of a range."""

    points_RP: Float64[np.ndarray, "R P"]
    values_R: Float64[np.ndarray, " R"]
    categorical_P: Bool[np.ndarray, " P"]

    def predict(self, points_NP: Float64[np.ndarray, "N P"]) -> Float64[np.ndarray, " N"]:
        """The nearest trial's value; NaN where that one failed."""
        square_NR = np.zeros((len(points_NP), len(self.points_RP)))
        for p, categorical in enumerate(self.categorical_P):
            gap_NR = np.abs(points_NP[:, p, None] - self.points_RP[:, p])
            square_NR += gap_NR > 1e-9 if categorical else gap_NR**2
        return self.values_R[np.argmin(square_NR, axis=1)]


Fit = ForestFit | TableFit | NearestFit


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Recorded:
    """The finished trials of a study, to which a surrogate is fitted.

    Attributes:
      points_RP: in the unit cube, `INACTIVE` where a parameter is inactive.
      values_R: larger better; NaN where a trial failed.
      levels_P, categorical_P: as in `Spaces`.
    """

    points_RP: Float64[np.ndarray, "R P"]
    values_R: Float64[np.ndarray, " R"]
    levels_P: Int64[np.ndarray, " P"]
    categorical_P: Bool[np.ndarray, " P"]

    @classmethod
    def of(cls, study: Study) -> "Recorded":
        """The trials of a study and its first objective.

        Raises:
          StudyError: the study has too few completed trials.
        """
        completed = int(np.sum(study.states_R == State.COMPLETED))
        if completed < FEWEST_TRIALS:
            raise StudyError(
                f"study {study.name!r} has {completed} completed trials; a surrogate needs at "
                f"least {FEWEST_TRIALS}."
            )
        parameters = study.problem.parameters
        study = study.rows(study.states_R != State.ACTIVE)
        points_RP = np.full(study.values_RP.shape, INACTIVE)
        for column, parameter in enumerate(parameters):
            active_R = ~np.isnan(study.values_RP[:, column])
            points_RP[active_R, column : column + 1] = to_units(
                (parameter,), study.values_RP[active_R, column : column + 1]
            )
        return cls(
            points_RP=points_RP,
            values_R=study.objective(),
            levels_P=Spaces.of(parameters).levels_BP[0],
            categorical_P=np.array([p.type == ParameterType.CATEGORICAL for p in parameters]),
        )

    @functools.cached_property
    def content(self) -> str:
        """A hash of all arrays."""
        arrays = (self.points_RP, self.values_R, self.levels_P, self.categorical_P)
        content = hashlib.sha256(repr([array.shape for array in arrays]).encode())
        for array in arrays:
            content.update(np.ascontiguousarray(array).tobytes())
        return content.hexdigest()

    def __hash__(self) -> int:
        return hash(self.content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recorded) and self.content == other.content


class SurrogateBlock:
    """B copies of one function made from a study's trials; an `ObjectiveBlock`.

    Inactive parameters of conditional spaces make no difference.

    Attributes:
      fit: computes the values.
      optimum_B, optimum_BP: the best point, if it is known; NaN for a forest.
    """

    def __init__(
        self,
        study: Study,
        *,
        model: Model = "forest",
        metric: str | None = None,
        copies: int = 1,
        trees: int = 32,
        cache: Path | None = None,
    ) -> None:
        """Fits the surrogate; a forest needs scikit-learn (the extra `demo`).

        Args:
          metric: the objective; the study's first if None.
          cache: a folder that keeps fits.

        Raises:
          StudyError: the study has too few completed trials, or no such objective.
          SourceError: scikit-learn is missing.
        """
        study = of_metric(study, metric)
        recorded = Recorded.of(study)
        problem = dataclasses.replace(study.problem, name=f"surrogate/{study.name}")
        self.problems: tuple[Problem, ...] = (problem,) * copies
        self.spaces = Spaces.of(problem.parameters, copies)
        self.recorded = recorded
        self.fit = fitted(recorded, problem, model=model, trees=trees, cache=cache)
        size = len(problem.parameters)
        self.optimum_B, self.optimum_BP = np.full(copies, np.nan), np.full((copies, size), np.nan)
        if not isinstance(self.fit, ForestFit):
            legal_1RP = self.recorded_points()
            values_R = self.evaluate_exact(legal_1RP)[0]
            self.optimum_B[:] = np.nanmax(values_R)
            self.optimum_BP[:] = legal_1RP[0, np.nanargmax(values_R)]

    def recorded_points(self) -> Float64[np.ndarray, "1 R P"]:
        """The study's trials as legal points."""
        # Any value will do where a parameter is inactive.
        points_RP = np.where(self.recorded.points_RP == INACTIVE, 0.5, self.recorded.points_RP)
        return Spaces.of(self.problems[0].parameters).snap(points_RP[None])

    def evaluate(
        self, units_BNP: Float64[np.ndarray, "B N P"], rng: np.random.Generator
    ) -> Float64[np.ndarray, "B N"]:
        """As `evaluate_exact`: a surrogate has no noise."""
        return self.evaluate_exact(units_BNP)

    def evaluate_exact(self, units_BNP: Float64[np.ndarray, "B N P"]) -> Float64[np.ndarray, "B N"]:
        """The surrogate's values, larger better; NaN where a trial fails."""
        shape = units_BNP.shape[:2]
        points_NP = _masked(self.problems[0], units_BNP.reshape(-1, units_BNP.shape[2]))
        return self.fit.predict(points_NP).reshape(shape)


def random_block(config: SurrogateConfig, rng: np.random.Generator, studies: int) -> SurrogateBlock:
    """Copies of one random study's surrogate.

    Raises:
      SourceError: the shards hold no study with enough trials.
    """
    usable = _usable(config.shards)
    study = usable[rng.integers(len(usable))]
    metric = None
    if config.metrics == "any":
        known = measured_objectives(study)
        metric = known[rng.integers(len(known))].name
    return SurrogateBlock(
        study,
        model=config.model,
        metric=metric,
        copies=studies,
        trees=config.trees,
        cache=Path(config.cache) if config.cache else None,
    )


def measured_objectives(study: Study) -> tuple[Metric, ...]:
    """The objectives of a study that enough completed trials have."""
    completed_R = study.states_R == State.COMPLETED
    return tuple(
        metric
        for column, metric in enumerate(study.problem.metrics)
        if metric.safety_threshold is None
        and np.isfinite(study.metrics_RM[completed_R, column]).sum() >= FEWEST_TRIALS
    )


def of_metric(study: Study, name: str | None = None) -> Study:
    """The study with one objective as its only metric: this one, or the first.

    Completed trials that did not measure it are left out.

    Raises:
      StudyError: the study has no objective of that name.
    """
    objectives = {metric.name: metric for metric in study.problem.objectives}
    name = study.problem.objectives[0].name if name is None else name
    if name not in objectives:
        raise StudyError(
            f"study {study.name!r} has no objective {name!r}, but {', '.join(objectives)}."
            f"{did_you_mean(name, objectives)}"
        )
    column = study.problem.metrics.index(objectives[name])
    measured_R = (study.states_R != State.COMPLETED) | np.isfinite(study.metrics_RM[:, column])
    rows = study.rows(measured_R)
    return Study(
        problem=dataclasses.replace(study.problem, metrics=(objectives[name],)),
        values_RP=rows.values_RP,
        metrics_RM=rows.metrics_RM[:, column : column + 1],
        states_R=rows.states_R,
        algorithm=study.algorithm,
        data_set=study.data_set,
    )


def fitted(
    recorded: Recorded,
    problem: Problem,
    *,
    model: Model = "auto",
    trees: int = 32,
    cache: Path | None = None,
) -> Fit:
    """The surrogate of these trials, which depends only on them and the settings.

    Args:
      problem: whose conditions say which parameters of a point are active.
      cache: a folder with forests that were grown before.

    Raises:
      SourceError: a forest needs scikit-learn, which is not installed.
    """
    if model == "nearest":
        return NearestFit(
            points_RP=recorded.points_RP,
            values_R=recorded.values_R,
            categorical_P=recorded.categorical_P,
        )
    if model == "auto" and (table := _table(recorded, problem)) is not None:
        return table
    return _forests(recorded, trees, cache)


@functools.lru_cache(maxsize=64)
def _forests(recorded: Recorded, trees: int, cache: Path | None) -> ForestFit:
    """Kept in memory and, if there is a folder for them, on disk."""
    feasible_R = ~np.isnan(recorded.values_R)
    path = cache and cache / f"{_forest_key(recorded, trees)}.npz"
    if path is not None and path.exists():
        with np.load(path) as arrays:
            return _from_arrays(dict(arrays))
    # The trials decide the random numbers, too.
    seed = int(recorded.content[:8], 16) % 2**31
    values = _grow(recorded.points_RP[feasible_R], recorded.values_R[feasible_R], trees, seed)
    failures = None
    if not feasible_R.all():
        failures = _grow(recorded.points_RP, (~feasible_R).astype(np.float64), trees, seed)
    fit = ForestFit(values=values, failures=failures)
    if path is not None:
        make_folder(path.parent)
        with atomic_write(path, shared=True) as new, new.open("wb") as file:
            np.savez_compressed(file, **_to_arrays(fit))  # type: ignore[arg-type]  # not allow_pickle
    return fit


def _forest_key(recorded: Recorded, trees: int) -> str:
    """A hash of everything that a forest depends on."""
    try:
        version = importlib.metadata.version("scikit-learn")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    told = f"forest 2 {recorded.content} {trees} {version}"
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def _to_arrays(fit: ForestFit) -> dict[str, np.ndarray]:
    parts = {"values": fit.values} | ({} if fit.failures is None else {"failures": fit.failures})
    return {
        f"{name}.{field.name}": np.asarray(getattr(forest, field.name))
        for name, forest in parts.items()
        for field in dataclasses.fields(forest)
    }


def _from_arrays(arrays: dict[str, np.ndarray]) -> ForestFit:
    def forest(name: str) -> Forest:
        return Forest(
            feature_FK=arrays[f"{name}.feature_FK"],
            threshold_FK=arrays[f"{name}.threshold_FK"],
            left_FK=arrays[f"{name}.left_FK"],
            right_FK=arrays[f"{name}.right_FK"],
            value_FK=arrays[f"{name}.value_FK"],
            depth=int(arrays[f"{name}.depth"]),
            r2=float(arrays[f"{name}.r2"]),
        )

    failures = forest("failures") if "failures.depth" in arrays else None
    return ForestFit(values=forest("values"), failures=failures)


@functools.lru_cache(maxsize=64)
def _table(recorded: Recorded, problem: Problem) -> TableFit | None:
    """The study as an exact table; None unless it measured every point of its search space."""
    levels_P = recorded.levels_P
    size = math.prod(map(int, levels_P))
    if size == 0 or size > _LARGEST_TABLE:
        return None
    index_R = _index(recorded.points_RP, levels_P)
    feasible_R = ~np.isnan(recorded.values_R)
    tries_C = np.bincount(index_R, minlength=size)
    feasible_C = np.bincount(index_R[feasible_R], minlength=size)
    sums_C = np.bincount(index_R[feasible_R], weights=recorded.values_R[feasible_R], minlength=size)
    if problem.is_conditional:
        # Points that differ in inactive parameters only are one point.
        places_CP = np.stack(np.unravel_index(np.arange(size), tuple(levels_P)), axis=1)
        points_CP = _masked(problem, (places_CP + 0.5) / levels_P)
        needed_C = np.unique(_index(points_CP, levels_P))
    else:
        needed_C = np.arange(size)
    if not (tries_C[needed_C] > 0).all():
        return None
    with np.errstate(invalid="ignore"):
        return TableFit(levels_P=levels_P, values_C=sums_C / feasible_C)


def _index(
    points_NP: Float64[np.ndarray, "N P"], levels_P: Int64[np.ndarray, " P"]
) -> Int64[np.ndarray, " N"]:
    """The numbers of points of a finite space; an inactive parameter counts as its first value."""
    places_NP = np.clip(np.floor(points_NP * levels_P), 0, levels_P - 1).astype(np.int64)
    return np.ravel_multi_index(tuple(places_NP.T), tuple(levels_P))


def _masked(problem: Problem, units_NP: Float64[np.ndarray, "N P"]) -> Float64[np.ndarray, "N P"]:
    """The points with `INACTIVE` in place of inactive parameters."""
    if not problem.is_conditional:
        return units_NP
    active_NP = problem.active(to_natural(problem.parameters, units_NP))
    return np.where(active_NP, units_NP, INACTIVE)


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
    if trees < 1:
        raise ConfigError(f"trees={trees}: a forest needs at least one.")
    forest = RandomForestRegressor(trees, max_features=0.8, random_state=seed, oob_score=True)
    with warnings.catch_warnings():
        # With few trees or trials, some trials are in every tree: then there is no R2.
        warnings.filterwarnings("ignore", message="Some inputs do not have OOB scores")
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
        r2=float(forest.oob_score_) if trees >= 16 else math.nan,
    )
