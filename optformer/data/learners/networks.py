"""Neural networks: multilayer perceptrons of scikit-learn, and small networks in JAX."""

from collections.abc import Sequence

from optformer.data.data_tables.table import Split, Task
from optformer.data.learners.learner import (
    Estimator,
    Keywords,
    Learner,
    Prediction,
    Variant,
    fit_estimator,
)
from optformer.data.learners.settings import Setting, category, log, real, whole, whole_log
from optformer.study import ParameterType, Scale


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
    log(
        "alpha",
        (1e-7, 1e-6, 1e-5, 1e-4),
        (0.1, 1.0, 10.0),
        default=1e-4,
        also=("weight_decay", "l2"),
    ),
    whole_log("batch_size", (8, 16, 32), (64, 128, 256), often=0.75),
    category(
        "learning_rate",
        ("constant", "invscaling", "adaptive"),
        ("constant", "adaptive"),
        default="constant",
        when=("solver", ("sgd",)),
        often=0.6,
    ),
    real(
        "momentum", (0.0, 0.5), (0.9, 0.95, 0.99), default=0.9, when=("solver", ("sgd",)), often=0.8
    ),
    real("beta_1", (0.5, 0.8), (0.95, 0.99), default=0.9, when=("solver", ("adam",)), often=0.3),
    whole(
        "max_iter",
        (5, 10),
        (20, 40, 100, 200),
        default=200,
        often=0.4,
        effort=True,
        also=("epochs",),
    ),
)

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


def _in_jax(keywords: Sequence[Keywords], split: Split, seed: int) -> Sequence[Prediction]:
    from optformer.data.learners import jax_networks

    return jax_networks.fit_many(keywords, split, seed)


_NETWORK = (
    category(
        "optimizer",
        ("adam", "sgd"),
        ("adam", "sgd", "nesterov"),
        ("sgd", "nesterov"),
        default="adam",
        often=0.6,
        also=("opt",),
    ),
    log(
        "learning_rate",
        (1e-5, 1e-4, 1e-3),
        (0.1, 1.0),
        default=0.01,
        also=("lr", "step_size", "eta"),
    ),
    Setting(
        name="momentum",
        type=ParameterType.DOUBLE,
        scale=Scale.REVERSE_LOG,
        lows=(0.1, 0.5),
        highs=(0.99, 0.995),
        default=0.9,
        often=0.6,
        also=("beta1", "beta_1"),
    ),
    real("beta2", (0.9, 0.95), (0.999,), when=("optimizer", ("adam",)), often=0.2),
    log("weight_decay", (1e-6, 1e-5, 1e-4), (0.1, 1.0), often=0.6, also=("wd", "l2")),
    real("dropout", (0.0,), (0.3, 0.5, 0.7), default=0.0, often=0.6, also=("dropout_rate",)),
    whole_log("batch_size", (4, 8, 16), (32, 64), default=32, often=0.6),
    whole_log("hidden_units", (2, 4, 8), (16, 32), default=32, often=0.7, also=("width", "hidden")),
    whole("num_layers", (1,), (2, 3), default=2, often=0.5, also=("n_layers", "depth")),
    category("activation", ("relu", "tanh"), ("relu", "tanh", "gelu"), default="relu", often=0.4),
    category(
        "schedule",
        ("constant", "cosine"),
        ("constant", "cosine", "linear"),
        ("constant", "cosine", "linear", "exponential"),
        default="constant",
        often=0.5,
        also=("lr_schedule", "scheduler"),
    ),
    real("warmup", (0.0,), (0.1, 0.3), often=0.35, also=("warmup_fraction",)),
    log("clip_norm", (0.01, 0.1), (10.0, 100.0), often=0.25, also=("max_grad_norm",)),
)

NETWORK = Learner(
    name="jax_network",
    families=("neural",),
    package="jax",
    prefixes=("model.", "train.", "hparams."),
    most_rows=1000,
    variants={
        Task.CLASSIFICATION: Variant(
            words=("neural network", "MLP in JAX", "flax MLP", "small neural network, 256 updates"),
            settings=(
                *_NETWORK,
                real("label_smoothing", (0.0,), (0.1, 0.2, 0.3), default=0.0, often=0.25),
            ),
            fit_many=_in_jax,
        ),
        Task.REGRESSION: Variant(
            words=("neural network regression", "MLP in JAX", "small neural network"),
            settings=_NETWORK,
            fit_many=_in_jax,
        ),
    },
)

LEARNERS = (MLP, NETWORK)
