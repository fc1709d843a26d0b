"""Trees, forests, AdaBoost and nearest neighbours of scikit-learn."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from optformer.data.data_tables.table import Inputs, Split, Task
from optformer.data.learners.learner import (
    Estimator,
    Keywords,
    Learner,
    Variant,
    fit_estimator,
    fit_staged,
)
from optformer.data.learners.settings import (
    Setting,
    category,
    discrete,
    log,
    real,
    whole,
    whole_log,
)


def _of(module: str, name: str, *, seeded: bool = True) -> Callable[..., Estimator]:
    """Makes the estimator of this name in a module of scikit-learn."""

    def build(keywords: Keywords, split: Split, seed: int) -> Estimator:
        import importlib

        kind = getattr(importlib.import_module(f"sklearn.{module}"), name)
        return kind(**keywords, **({"random_state": seed} if seeded else {}))

    return build


def _ada(name: str) -> Callable[..., Estimator]:
    def build(keywords: Keywords, split: Split, seed: int) -> Estimator:
        from sklearn import ensemble, tree

        values = dict(keywords)
        base = getattr(tree, f"DecisionTree{name}")(
            max_depth=values.pop("max_depth", 1 if split.classes else 3)
        )
        return getattr(ensemble, f"AdaBoost{name}")(base, **values, random_state=seed)

    return build


def _ada_stages(estimator: Estimator, split: Split, steps: Sequence[int]) -> Iterable[np.ndarray]:
    staged = estimator.staged_predict_proba if split.classes else estimator.staged_predict  # type: ignore[attr-defined]
    return [each for step, each in enumerate(staged(split.test_TC), start=1) if step in steps]


def _tree_settings(*criteria: str) -> tuple[Setting, ...]:
    """How deep, how fine and on which columns trees split, which comes in many wordings."""
    return (
        *(
            [category("criterion", criteria, criteria[:2], default=criteria[0], often=0.6)]
            if criteria
            else []
        ),
        whole("max_depth", (1, 2, 3), (8, 12, 16, 20, 30, 50), often=0.75),
        whole("min_samples_split", (2,), (10, 20, 40, 64), default=2, often=0.7),
        whole_log("min_samples_leaf", (1,), (10, 20, 50, 64), default=1, often=0.75),
    )


_COLUMNS = (
    real("max_features", (0.05, 0.1, 0.2), (0.9, 1.0), often=0.6),
    whole_log("max_leaf_nodes", (2, 4, 8), (64, 128, 256), often=0.2),
    log("ccp_alpha", (1e-6, 1e-5), (1e-2, 0.1), often=0.2, also=("cp",)),
)
_WEIGHT = category("class_weight", (None, "balanced"), often=0.25)
_GINI = ("gini", "entropy", "log_loss")


DECISION_TREE = Learner(
    name="decision_tree",
    families=("tree",),
    inputs=Inputs.FILLED,
    prefixes=("clf__", "tree__", "dt__", "decisiontreeclassifier__"),
    variants={
        Task.CLASSIFICATION: Variant(
            words=("decision tree", "DecisionTreeClassifier", "CART"),
            settings=(
                *_tree_settings(*_GINI),
                category("splitter", ("best", "random"), default="best", often=0.4),
                *_COLUMNS,
                _WEIGHT,
            ),
            fit=fit_estimator(_of("tree", "DecisionTreeClassifier")),
        ),
        Task.REGRESSION: Variant(
            words=("regression tree", "DecisionTreeRegressor", "CART"),
            settings=(
                *_tree_settings("squared_error", "absolute_error"),
                category("splitter", ("best", "random"), default="best", often=0.4),
                *_COLUMNS,
            ),
            fit=fit_estimator(_of("tree", "DecisionTreeRegressor")),
        ),
    },
)


def _forest(
    name: str, prefixes: tuple[str, ...], words: tuple[str, ...], kind: str, *, bootstrap: bool
) -> Learner:
    trees = whole(
        "n_estimators", (5, 10, 50), (50, 100, 200, 500), default=100, often=0.8, effort=True
    )
    tail = (
        category("bootstrap", (True, False), default=bootstrap, often=0.5),
        real("max_samples", (0.1, 0.3, 0.5), (0.99,), when=("bootstrap", (True,)), often=0.4),
    )
    return Learner(
        name=name,
        families=("forest",),
        inputs=Inputs.FILLED,
        prefixes=prefixes,
        variants={
            Task.CLASSIFICATION: Variant(
                words=(*words, f"{kind}Classifier"),
                settings=(trees, *_tree_settings(*_GINI), *_COLUMNS, *tail, _WEIGHT),
                fit=fit_estimator(_of("ensemble", f"{kind}Classifier")),
            ),
            Task.REGRESSION: Variant(
                words=(*words, f"{kind}Regressor"),
                settings=(trees, *_tree_settings(), *_COLUMNS, *tail),
                fit=fit_estimator(_of("ensemble", f"{kind}Regressor")),
            ),
        },
    )


RANDOM_FOREST = _forest(
    "random_forest",
    ("clf__", "rf__", "randomforestclassifier__", "model__"),
    ("random forest", "random forest (sklearn)", "RF"),
    "RandomForest",
    bootstrap=True,
)
EXTRA_TREES = _forest(
    "extra_trees",
    ("clf__", "et__", "extratreesclassifier__", "model__"),
    ("extra trees", "extremely randomized trees"),
    "ExtraTrees",
    bootstrap=False,
)

_ADA = (
    whole_log("n_estimators", (5, 10, 20), (50, 100, 200, 500), default=50, effort=True),
    log("learning_rate", (0.001, 0.01, 0.05), (1.0, 2.0), default=1.0),
    whole(
        "max_depth",
        (1,),
        (3, 5, 10),
        often=0.75,
        also=("estimator__max_depth", "base_estimator__max_depth"),
    ),
)

ADABOOST = Learner(
    name="adaboost",
    families=("adaboost",),
    inputs=Inputs.FILLED,
    prefixes=("clf__", "ada__", "adaboostclassifier__", "model__"),
    variants={
        Task.CLASSIFICATION: Variant(
            words=("AdaBoost", "AdaBoostClassifier", "adaboost on decision trees"),
            settings=_ADA,
            fit=fit_staged(_ada("Classifier"), _ada_stages, lambda each: len(each.estimators_)),  # type: ignore[attr-defined]
        ),
        Task.REGRESSION: Variant(
            words=("AdaBoost regression", "AdaBoostRegressor"),
            settings=(
                *_ADA,
                category("loss", ("linear", "square", "exponential"), default="linear", often=0.6),
            ),
            fit=fit_staged(_ada("Regressor"), _ada_stages, lambda each: len(each.estimators_)),  # type: ignore[attr-defined]
        ),
    },
)

_NEIGHBORS = (
    whole_log("n_neighbors", (1, 2), (20, 30, 50, 64), default=5, also=("k",)),
    category("weights", ("uniform", "distance"), default="uniform", often=0.8),
    category(
        "metric",
        ("minkowski", "cosine"),
        ("euclidean", "manhattan", "chebyshev"),
        ("minkowski", "manhattan", "cosine", "chebyshev"),
        default="minkowski",
        often=0.5,
    ),
    discrete(
        "p",
        (1, 2),
        (1, 2, 3),
        (1.0, 1.5, 2.0, 3.0, 4.0),
        default=2,
        when=("metric", ("minkowski",)),
        often=0.8,
    ),
)

NEIGHBORS = Learner(
    name="k_nearest_neighbors",
    families=("neighbors",),
    prefixes=("clf__", "knn__", "kneighborsclassifier__", "model__"),
    variants={
        Task.CLASSIFICATION: Variant(
            words=("k-nearest neighbors", "kNN", "KNeighborsClassifier"),
            settings=_NEIGHBORS,
            fit=fit_estimator(_of("neighbors", "KNeighborsClassifier", seeded=False)),
        ),
        Task.REGRESSION: Variant(
            words=("k-nearest neighbors regression", "KNeighborsRegressor", "kNN"),
            settings=_NEIGHBORS,
            fit=fit_estimator(_of("neighbors", "KNeighborsRegressor", seeded=False)),
        ),
    },
)

LEARNERS = (DECISION_TREE, RANDOM_FOREST, EXTRA_TREES, ADABOOST, NEIGHBORS)
