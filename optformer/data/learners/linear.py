"""Linear models of scikit-learn, by solvers and by stochastic gradient descent."""

from optformer.data.data_tables.table import Split, Task
from optformer.data.learners.learner import Estimator, Keywords, Learner, Variant, fit_estimator
from optformer.data.learners.settings import category, log, real, whole, whole_log

_RATES = ("constant", "optimal", "invscaling", "adaptive")


def _logistic(keywords: Keywords, split: Split, seed: int) -> Estimator:
    from sklearn.linear_model import LogisticRegression

    values = dict(keywords)
    penalty = values.pop("penalty", "l2")
    ratios = {"l1": 1.0, "elasticnet": values.get("l1_ratio", 0.5)}
    ratio = ratios.get(str(penalty), 0.0)
    strength = {"C": float("inf")} if penalty is None else {}
    # Only saga has an l1 part.
    solver = {"solver": "saga"} if ratio else {}
    return LogisticRegression(
        **({"max_iter": 100} | values | {"l1_ratio": ratio} | strength | solver),
        random_state=seed,
    )


def _elastic_net(keywords: Keywords, split: Split, seed: int) -> Estimator:
    from sklearn.linear_model import ElasticNet

    return ElasticNet(**keywords, random_state=seed)


def _sgd_classifier(keywords: Keywords, split: Split, seed: int) -> Estimator:
    from sklearn.linear_model import SGDClassifier

    return SGDClassifier(
        **{"eta0": 0.01, "max_iter": 20, "tol": None, **keywords}, random_state=seed
    )


def _sgd_regressor(keywords: Keywords, split: Split, seed: int) -> Estimator:
    from sklearn.linear_model import SGDRegressor

    return SGDRegressor(**{"max_iter": 20, "tol": None, **keywords}, random_state=seed)


LOGISTIC_REGRESSION = Learner(
    name="logistic_regression",
    families=("linear",),
    prefixes=("clf__", "lr__", "logisticregression__", "model__", "classifier__"),
    variants={
        Task.CLASSIFICATION: Variant(
            words=("logistic regression", "LogisticRegression", "sklearn LogisticRegression"),
            settings=(
                category(
                    "penalty",
                    ("l1", "l2"),
                    ("l2", None),
                    ("l1", "l2", "elasticnet"),
                    ("l1", "l2", "elasticnet", None),
                    default="l2",
                    often=0.7,
                ),
                log(
                    "C",
                    (1e-5, 1e-4, 1e-3, 0.01, 2.0**-5),
                    (10, 100, 1e3, 1e4, 2.0**10),
                    default=1.0,
                    when=("penalty", ("l1", "l2", "elasticnet")),
                ),
                real("l1_ratio", (0,), (1,), when=("penalty", ("elasticnet",))),
                category("class_weight", (None, "balanced"), often=0.4),
                category("fit_intercept", (True, False), default=True, often=0.2),
                log("tol", (1e-6, 1e-5), (1e-2, 1e-1), default=1e-4, often=0.4),
                whole("max_iter", (5, 10, 20), (50, 100, 200), default=100, often=0.4),
            ),
            fit=fit_estimator(_logistic),
        )
    },
)

ELASTIC_NET = Learner(
    name="elastic_net",
    families=("linear",),
    prefixes=("model__", "reg__", "elasticnet__", "regressor__"),
    variants={
        Task.REGRESSION: Variant(
            words=("elastic net", "ElasticNet", "linear regression with elastic net penalty"),
            settings=(
                log(
                    "alpha",
                    (1e-5, 1e-4, 1e-3),
                    (1.0, 10.0, 100.0),
                    default=1.0,
                    also=("lambda", "reg_strength"),
                ),
                real("l1_ratio", (0.0, 0.01, 0.1), (0.9, 1.0), default=0.5),
                category("selection", ("cyclic", "random"), default="cyclic", often=0.4),
                category("fit_intercept", (True, False), default=True, often=0.3),
                log("tol", (1e-6, 1e-5), (1e-2, 1e-1), default=1e-4, often=0.4),
                whole_log("max_iter", (10, 50), (500, 1000), default=1000, often=0.3),
            ),
            fit=fit_estimator(_elastic_net),
        )
    },
)

_SGD_TAIL = (
    real("l1_ratio", (0,), (1,), default=0.15, when=("penalty", ("elasticnet",))),
    log("alpha", (1e-7, 1e-6, 1e-5), (1e-2, 0.1, 1.0), default=1e-4),
    category(
        "learning_rate",
        _RATES,
        ("constant", "invscaling", "adaptive"),
        ("optimal", "adaptive"),
        default="optimal",
        often=0.8,
    ),
    log(
        "eta0",
        (1e-5, 1e-4, 1e-3),
        (0.1, 1.0),
        default=0.01,
        when=("learning_rate", ("constant", "invscaling", "adaptive")),
    ),
    real("power_t", (0.1, 0.25), (0.5, 0.9), default=0.5, when=("learning_rate", ("invscaling",))),
    category("average", (False, True), default=False, often=0.3),
    whole("max_iter", (2, 5), (20, 40, 100), often=0.4, effort=True, also=("epochs",)),
)
_PENALTIES = (("l1", "l2"), ("l1", "l2", "elasticnet"), ("l2", "elasticnet"))

SGD = Learner(
    name="sgd",
    families=("linear",),
    prefixes=("clf__", "sgd__", "sgdclassifier__", "model__"),
    variants={
        Task.CLASSIFICATION: Variant(
            words=("SGDClassifier", "linear classifier trained with SGD", "sklearn SGD classifier"),
            settings=(
                category(
                    "loss",
                    ("hinge", "log_loss"),
                    ("hinge", "log_loss", "modified_huber", "squared_hinge"),
                    ("hinge", "log_loss", "modified_huber", "squared_hinge", "perceptron"),
                    default="hinge",
                    often=0.8,
                ),
                category("penalty", *_PENALTIES, default="l2", often=0.8),
                *_SGD_TAIL,
                category("class_weight", (None, "balanced"), often=0.3),
            ),
            fit=fit_estimator(_sgd_classifier),
            probabilities=False,
        ),
        Task.REGRESSION: Variant(
            words=("SGDRegressor", "linear regression by SGD", "stochastic gradient descent"),
            settings=(
                category(
                    "loss",
                    ("squared_error", "huber"),
                    ("squared_error", "huber", "epsilon_insensitive"),
                    default="squared_error",
                    often=0.8,
                ),
                log(
                    "epsilon",
                    (1e-3, 1e-2),
                    (1.0,),
                    default=0.1,
                    when=("loss", ("huber", "epsilon_insensitive")),
                ),
                category("penalty", *_PENALTIES, default="l2", often=0.8),
                *_SGD_TAIL,
            ),
            fit=fit_estimator(_sgd_regressor),
        ),
    },
)

LEARNERS = (LOGISTIC_REGRESSION, ELASTIC_NET, SGD)
