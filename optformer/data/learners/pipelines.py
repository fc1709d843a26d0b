"""A pipeline of scikit-learn: how to scale, which columns to keep, and a choice of learner.

The settings of a learner are active only where it is chosen.
"""

from optformer.data.data_tables.table import Inputs, Split, Task
from optformer.data.learners.learner import Estimator, Keywords, Learner, Variant, fit_estimator
from optformer.data.learners.settings import Object, Setting, category, log, real, whole, whole_log

_SCALERS = {
    "standard": "StandardScaler",
    "minmax": "MinMaxScaler",
    "robust": "RobustScaler",
    "maxabs": "MaxAbsScaler",
}


def _pipeline(keywords: Keywords, split: Split, seed: int) -> Estimator:
    from sklearn import decomposition, preprocessing
    from sklearn.pipeline import make_pipeline

    steps = []
    scaler = str(keywords.get("scaler", "standard"))
    if scaler != "none":
        steps.append(getattr(preprocessing, _SCALERS[scaler])())
    if keywords.get("reducer", "none") == "pca":
        share = float(str(keywords.get("pca__n_components", 0.9)))
        steps.append(decomposition.PCA(share, svd_solver="full", random_state=seed))
    chosen = str(keywords.get("learner", "svm"))
    mine = {
        name.removeprefix(f"{chosen}__"): value
        for name, value in keywords.items()
        if name.startswith(f"{chosen}__")
    }
    return make_pipeline(*steps, _estimator(chosen, mine, split, seed))


def _estimator(chosen: str, mine: dict[str, Object], split: Split, seed: int) -> Estimator:
    from sklearn import ensemble, linear_model, neighbors, svm

    kind = "Classifier" if split.classes else "Regressor"
    if chosen == "svm":
        return (svm.SVC if split.classes else svm.SVR)(**mine, max_iter=100_000)
    if chosen == "forest":
        return getattr(ensemble, f"RandomForest{kind}")(
            **({"n_estimators": 15} | mine), random_state=seed
        )
    if chosen == "neighbors":
        return getattr(neighbors, f"KNeighbors{kind}")(**mine)
    if split.classes:
        return linear_model.LogisticRegression(**mine)
    return linear_model.Ridge(alpha=1.0 / float(str(mine.get("C", 1.0))))


def _of(learner: str) -> tuple[str, tuple[Object, ...]]:
    return ("learner", (learner,))


_CHOICES = ("svm", "forest", "neighbors", "linear")
_SETTINGS: tuple[Setting, ...] = (
    category(
        "scaler",
        ("none", "standard"),
        ("none", "standard", "minmax"),
        ("standard", "minmax", "robust", "maxabs"),
        default="standard",
        often=0.8,
        also=("scaling", "preprocessor"),
    ),
    category("reducer", ("none", "pca"), default="none", often=0.5, also=("dim_reduction",)),
    real("pca__n_components", (0.3, 0.5), (0.95, 0.99), when=("reducer", ("pca",)), often=0.9),
    category(
        "learner",
        _CHOICES,
        ("svm", "forest"),
        ("svm", "forest", "linear"),
        ("forest", "neighbors", "linear"),
        default="svm",
        also=("classifier", "model", "estimator", "algorithm"),
    ),
    log("svm__C", (1e-3, 0.01, 0.1), (10, 100, 1e3), when=_of("svm")),
    log("svm__gamma", (1e-5, 1e-4, 1e-3), (1.0, 10.0), when=_of("svm"), often=0.9),
    category("svm__kernel", ("rbf", "poly"), ("rbf", "sigmoid"), when=_of("svm"), often=0.4),
    whole_log("forest__min_samples_leaf", (1,), (10, 20, 50), when=_of("forest"), often=0.7),
    whole("forest__max_depth", (1, 2), (8, 16, 30), when=_of("forest"), often=0.7),
    real("forest__max_features", (0.1, 0.2), (0.9, 1.0), when=_of("forest"), often=0.7),
    whole_log("neighbors__n_neighbors", (1, 2), (30, 50), when=_of("neighbors")),
    category("neighbors__weights", ("uniform", "distance"), when=_of("neighbors"), often=0.6),
    log("linear__C", (1e-4, 1e-3, 0.01), (10, 100, 1e3), when=_of("linear")),
)

PIPELINE = Learner(
    name="pipeline",
    families=("pipeline", "svm", "kernel", "forest", "neighbors", "linear"),
    inputs=Inputs.FILLED,
    prefixes=("pipeline__", "params__"),
    variants={
        task: Variant(
            words=(
                "sklearn pipeline",
                "pipeline with a choice of model",
                "model selection and hyperparameters",
                "AutoML pipeline",
            ),
            settings=_SETTINGS,
            fit=fit_estimator(_pipeline),
            probabilities=False,
        )
        for task in Task
    },
)

LEARNERS = (PIPELINE,)
