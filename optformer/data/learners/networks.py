"""Multilayer perceptrons of scikit-learn."""

from optformer.data.learners.learner import (
    Estimator,
    Keywords,
    Learner,
    Split,
    Task,
    Variant,
    fit_estimator,
)
from optformer.data.learners.settings import category, log, real, whole, whole_log


def _mlp(keywords: Keywords, split: Split, seed: int) -> Estimator:
    from sklearn import neural_network

    values = {"max_iter": 20, "hidden_layer_sizes": (50,)} | dict(keywords)
    if "batch_size" in values:
        values["batch_size"] = min(int(str(values["batch_size"])), len(split.train_NC))
    kind = "Classifier" if split.classes else "Regressor"
    return getattr(neural_network, f"MLP{kind}")(**values, random_state=seed)


_MLP = (
    category(
        "hidden_layer_sizes",
        ((16,), (32,), (64,)),
        ((50,), (100,), (50, 50)),
        ((32,), (64,), (32, 32), (64, 32)),
        ((10,), (30,), (10, 10), (30, 10)),
        default=(100,),
        often=0.85,
    ),
    category(
        "activation",
        ("relu", "tanh"),
        ("relu", "tanh", "logistic"),
        ("identity", "relu", "tanh", "logistic"),
        default="relu",
        often=0.75,
    ),
    category("solver", ("adam", "sgd"), default="adam", often=0.75),
    log("learning_rate_init", (1e-4, 3e-4, 1e-3), (0.03, 0.1, 0.5), default=1e-3, also=("lr",)),
    log("alpha", (1e-7, 1e-6, 1e-5, 1e-4), (0.1, 1.0, 10.0), default=1e-4, also=("weight_decay", "l2")),
    whole_log("batch_size", (8, 16, 32), (64, 128, 256), often=0.75),
    category(
        "learning_rate",
        ("constant", "invscaling", "adaptive"),
        ("constant", "adaptive"),
        default="constant",
        when=("solver", ("sgd",)),
        often=0.6,
    ),
    real("momentum", (0.0, 0.5), (0.9, 0.95, 0.99), default=0.9, when=("solver", ("sgd",)), often=0.8),
    real("beta_1", (0.5, 0.8), (0.95, 0.99), default=0.9, when=("solver", ("adam",)), often=0.3),
    whole("max_iter", (5, 10), (20, 40, 100, 200), default=200, often=0.4, effort=True, also=("epochs",)),
)  # fmt: skip

MLP = Learner(
    name="mlp",
    families=("neural",),
    prefixes=("clf__", "mlp__", "mlpclassifier__", "model__"),
    most_rows=1000,
    variants={
        Task.CLASSIFICATION: Variant(
            words=("MLP", "MLPClassifier", "multilayer perceptron", "neural network (sklearn)"),
            settings=_MLP,
            fit=fit_estimator(_mlp),
        ),
        Task.REGRESSION: Variant(
            words=("MLP regression", "MLPRegressor", "neural network regression"),
            settings=_MLP,
            fit=fit_estimator(_mlp),
        ),
    },
)

LEARNERS = (MLP,)
