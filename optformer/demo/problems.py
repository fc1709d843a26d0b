"""Real tuning problems that need no download: scikit-learn models on its bundled data sets.

A problem is a model on a data set, named like `svc/wine`. An evaluation is a cross-validated score
and takes 5 to 100 ms on one core. As in real tuning, some settings fail: if a network diverges, the
trial is infeasible.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from optformer.errors import ConfigError, did_you_mean
from optformer.service.client import Values
from optformer.study import Goal, Metric, Parameter, ParameterType, Problem, Scale

if TYPE_CHECKING:
    import threadpoolctl  # type: ignore[import-untyped]
    from sklearn.base import BaseEstimator

ROWS = 400  # the largest number of rows; larger data sets are subsampled
FOLDS = 3

# Neither this model nor this data set is in the logs, so the demo tests generalization.
HELD_OUT_MODEL = "mlp"
HELD_OUT_DATA = "breast_cancer"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A kind of model: its search space, and a function from settings to an estimator."""

    parameters: tuple[Parameter, ...]
    build: Callable[[Values], "BaseEstimator"]
    metric: Metric
    scoring: str  # scikit-learn's name of the metric, larger better
    data: tuple[str, ...]


def _double(name: str, low: float, high: float, scale: Scale = Scale.LINEAR) -> Parameter:
    return Parameter(name=name, type=ParameterType.DOUBLE, scale=scale, bounds=(low, high))


def _log(name: str, low: float, high: float) -> Parameter:
    return _double(name, low, high, Scale.LOG)


def _integer(name: str, low: int, high: int, scale: Scale | None = None) -> Parameter:
    return Parameter(name=name, type=ParameterType.INTEGER, scale=scale, bounds=(low, high))


def _discrete(name: str, *values: float) -> Parameter:
    return Parameter(name=name, type=ParameterType.DISCRETE, values=values)


def _category(name: str, *values: str) -> Parameter:
    return Parameter(name=name, type=ParameterType.CATEGORICAL, values=tuple(sorted(values)))


_ACCURACY = Metric(name="accuracy")
_LOG_LOSS = Metric(name="log_loss", goal=Goal.MINIMIZE)
_R2 = Metric(name="r2")
_ABSOLUTE = Metric(name="mean_absolute_error", goal=Goal.MINIMIZE)
_CLASSES = ("breast_cancer", "digits", "iris", "wine")
_NUMBERS = ("diabetes",)


def _svc(values: Values) -> "BaseEstimator":
    from sklearn.svm import SVC

    return SVC(**values, max_iter=5000)


def _svr(values: Values) -> "BaseEstimator":
    from sklearn.svm import SVR

    return SVR(**values, max_iter=5000)


def _forest(values: Values) -> "BaseEstimator":
    from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

    settings = dict(values)
    kind = settings.pop("kind")
    forest = ExtraTreesClassifier if kind == "extra_trees" else RandomForestClassifier
    return forest(**settings, random_state=0)


def _forest_regression(values: Values) -> "BaseEstimator":
    from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor

    settings = dict(values)
    kind = settings.pop("kind")
    forest = ExtraTreesRegressor if kind == "extra_trees" else RandomForestRegressor
    return forest(**settings, random_state=0)


def _boosting(values: Values) -> "BaseEstimator":
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(**values, random_state=0)


def _boosting_regression(values: Values) -> "BaseEstimator":
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(**values, random_state=0)


def _neighbors(values: Values) -> "BaseEstimator":
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(**values)


def _neighbors_regression(values: Values) -> "BaseEstimator":
    from sklearn.neighbors import KNeighborsRegressor

    return KNeighborsRegressor(**values)


def _linear(values: Values) -> "BaseEstimator":
    from sklearn.linear_model import SGDClassifier

    # The number of passes is fixed, so the learning rate also determines convergence.
    return SGDClassifier(**values, loss="log_loss", max_iter=15, tol=None, random_state=0)


def _elastic_net(values: Values) -> "BaseEstimator":
    from sklearn.linear_model import ElasticNet

    return ElasticNet(**values)


def _kernel_ridge(values: Values) -> "BaseEstimator":
    from sklearn.kernel_ridge import KernelRidge

    return KernelRidge(**values)


def _mlp(values: Values) -> "BaseEstimator":
    from sklearn.neural_network import MLPClassifier

    settings = dict(values)
    width = int(settings.pop("hidden_units"))
    return MLPClassifier((width,), **settings, solver="sgd", max_iter=10, random_state=0)


_FOREST_SPACE = (
    _category("kind", "random_forest", "extra_trees"),
    _integer("n_estimators", 2, 24),
    _integer("max_depth", 1, 12),
    _integer("min_samples_leaf", 1, 20, Scale.LOG),
    _double("max_features", 0.1, 1.0),
)
_BOOSTING_SPACE = (
    _log("learning_rate", 0.005, 1.0),
    _integer("max_iter", 4, 24),
    _integer("max_leaf_nodes", 2, 16),
    _integer("min_samples_leaf", 2, 40),
    _log("l2_regularization", 1e-4, 100.0),
)
_NEIGHBORS_SPACE = (
    _integer("n_neighbors", 1, 40),
    _category("weights", "uniform", "distance"),
    _discrete("p", 1.0, 1.5, 2.0, 3.0),
)

MODELS: dict[str, Model] = {
    "svc": Model(
        parameters=(
            _log("C", 1e-3, 1e3),
            _log("gamma", 1e-5, 1.0),
            _category("kernel", "linear", "poly", "rbf", "sigmoid"),
        ),
        build=_svc,
        metric=_ACCURACY,
        scoring="accuracy",
        data=_CLASSES,
    ),
    "svr": Model(
        parameters=(
            _log("C", 0.1, 1e4),
            _log("gamma", 1e-4, 1.0),
            _double("epsilon", 0.0, 50.0),
            _category("kernel", "linear", "rbf", "sigmoid"),
        ),
        build=_svr,
        metric=_ABSOLUTE,
        scoring="neg_mean_absolute_error",
        data=_NUMBERS,
    ),
    "forest": Model(
        parameters=(*_FOREST_SPACE, _category("criterion", "gini", "entropy")),
        build=_forest,
        metric=_ACCURACY,
        scoring="accuracy",
        data=_CLASSES,
    ),
    "forest_regression": Model(
        parameters=_FOREST_SPACE,
        build=_forest_regression,
        metric=_R2,
        scoring="r2",
        data=_NUMBERS,
    ),
    "boosting": Model(
        parameters=_BOOSTING_SPACE,
        build=_boosting,
        metric=_LOG_LOSS,
        scoring="neg_log_loss",
        # Digits has ten classes, and boosting fits a tree for each, which is too slow.
        data=tuple(name for name in _CLASSES if name != "digits"),
    ),
    "boosting_regression": Model(
        parameters=_BOOSTING_SPACE,
        build=_boosting_regression,
        metric=_R2,
        scoring="r2",
        data=_NUMBERS,
    ),
    "neighbors": Model(
        parameters=_NEIGHBORS_SPACE,
        build=_neighbors,
        metric=_ACCURACY,
        scoring="accuracy",
        data=_CLASSES,
    ),
    "neighbors_regression": Model(
        parameters=_NEIGHBORS_SPACE,
        build=_neighbors_regression,
        metric=_ABSOLUTE,
        scoring="neg_mean_absolute_error",
        data=_NUMBERS,
    ),
    "linear": Model(
        parameters=(
            _log("alpha", 1e-6, 1.0),
            _log("eta0", 1e-4, 1.0),
            _category("penalty", "l1", "l2", "elasticnet"),
            _category("learning_rate", "constant", "invscaling", "adaptive"),
        ),
        build=_linear,
        metric=_LOG_LOSS,
        scoring="neg_log_loss",
        data=_CLASSES,
    ),
    "elastic_net": Model(
        parameters=(_log("alpha", 1e-4, 10.0), _double("l1_ratio", 0.0, 1.0)),
        build=_elastic_net,
        metric=_R2,
        scoring="r2",
        data=_NUMBERS,
    ),
    "kernel_ridge": Model(
        parameters=(
            _log("alpha", 1e-4, 100.0),
            _log("gamma", 1e-4, 1.0),
            _category("kernel", "rbf", "laplacian", "poly"),
        ),
        build=_kernel_ridge,
        metric=_ABSOLUTE,
        scoring="neg_mean_absolute_error",
        data=_NUMBERS,
    ),
    "mlp": Model(
        parameters=(
            _log("learning_rate_init", 1e-4, 1.0),
            _double("momentum", 0.5, 0.995, Scale.REVERSE_LOG),
            _log("alpha", 1e-6, 1.0),
            _discrete("hidden_units", 4, 8, 16, 32),
            _integer("batch_size", 16, 64, Scale.LOG),
            _category("activation", "relu", "tanh", "logistic"),
        ),
        build=_mlp,
        metric=_LOG_LOSS,
        scoring="neg_log_loss",
        data=_CLASSES,
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SklearnProblem:
    """One model on one data set."""

    model: str
    data: str

    @property
    def name(self) -> str:
        """The name that `find` takes."""
        return f"{self.model}/{self.data}"

    @functools.cached_property
    def problem(self) -> Problem:
        """Search space, metric, and texts for the logs."""
        model = MODELS[self.model]
        readable = self.model.replace("_", " ")
        return Problem(
            parameters=model.parameters,
            metrics=(model.metric,),
            name=self.name,
            title=f"{readable} on {self.data}",
            metadata=(("model", self.model), ("data", self.data), ("library", "scikit-learn")),
        )

    def evaluate(self, values: Values) -> float | None:
        """The cross-validated metric in its own units, or None if training fails.

        Equal settings give equal values.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.model_selection import cross_val_score

        model = MODELS[self.model]
        inputs, targets = _table(self.data)
        # Diverging networks overflow, and the fixed number of iterations may end before
        # convergence; the score accounts for both.
        with (
            _threads().limit(limits=1),  # on so little data, more threads are slower
            warnings.catch_warnings(),
            np.errstate(over="ignore", invalid="ignore"),
        ):
            warnings.simplefilter("ignore", ConvergenceWarning)
            try:
                scores = cross_val_score(
                    model.build(values),
                    inputs,
                    targets,
                    scoring=model.scoring,
                    cv=FOLDS,
                    error_score="raise",
                )
            except ValueError as error:
                if "non-finite" in str(error):  # scikit-learn's message for a diverged network
                    return None
                raise
        return model.metric.sign * float(np.mean(scores))


def names() -> list[str]:
    """Every problem, as `model/data`."""
    return [f"{name}/{data}" for name, model in MODELS.items() for data in model.data]


def find(name: str) -> SklearnProblem:
    """The problem of this name.

    Raises:
      ConfigError: there is none. Suggests the nearest name.
    """
    if name not in names():
        raise ConfigError(
            f"no problem is named {name!r}.{did_you_mean(name, names())} There are: "
            f"{', '.join(names())}."
        )
    model, data = name.split("/")
    return SklearnProblem(model=model, data=data)


def need_sklearn() -> None:
    """Checks that scikit-learn is installed.

    Raises:
      ConfigError: it is not. Gives the command to install it.
    """
    import importlib.util

    if importlib.util.find_spec("sklearn") is None:
        raise ConfigError("scikit-learn is not installed: pip install 'optformer[demo]'.")


def logged() -> list[SklearnProblem]:
    """The problems in the demo's logs."""
    problems = map(find, names())
    return [p for p in problems if p.model != HELD_OUT_MODEL and p.data != HELD_OUT_DATA]


def held_out() -> SklearnProblem:
    """The problem that the demo tunes. Neither its model nor its data set is in the logs."""
    return SklearnProblem(model=HELD_OUT_MODEL, data=HELD_OUT_DATA)


@functools.cache
def _threads() -> "threadpoolctl.ThreadpoolController":
    """The controller of the threads of the libraries that scikit-learn loads."""
    import sklearn.ensemble  # noqa: F401 (the controller finds only loaded libraries)
    import threadpoolctl

    return threadpoolctl.ThreadpoolController()


@functools.cache
def _table(
    name: str,
) -> tuple[Float64[np.ndarray, "rows columns"], Float64[np.ndarray, " rows"]]:
    """Standardized inputs and targets (class numbers, or for diabetes a score)."""
    from sklearn import datasets

    inputs, targets = getattr(datasets, f"load_{name}")(return_X_y=True)
    if len(inputs) > ROWS:
        keep = np.random.default_rng(0).permutation(len(inputs))[:ROWS]
        inputs, targets = inputs[keep], targets[keep]
    spread = inputs.std(axis=0)
    inputs = (inputs - inputs.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return inputs.astype(np.float64), targets.astype(np.float64)
