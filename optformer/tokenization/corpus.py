"""The synthetic corpus on which the shipped text model is trained.

    python -m optformer.tokenization.corpus     # writes text.model beside this file

The corpus describes random search spaces in the grammar of `metadata.py`, with common names of
hyperparameters. Text that the pieces do not cover, such as other alphabets, is encoded as bytes.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from optformer.study import Goal, Metric, Parameter, ParameterType, Problem, Scale
from optformer.tokenization import metadata
from optformer.tokenization.vocabulary import Bin, train_text_model

PIECES = 1024

ALGORITHMS = (
    "random_search grid_search shuffled_grid_search quasi_random regularized_evolution "
    "hill_climbing eagle_strategy gp_ucb cma_es tpe optimum nsga2 layer_nas model_search "
    "policy_gradient gp_bandit default unknown"
).split()

NAMES = (
    "learning_rate lr eta momentum weight_decay batch_size epochs num_layers n_layers depth "
    "max_depth width hidden_size hidden_units n_units num_units units dropout dropout_rate "
    "max_dropout alpha beta beta1 beta2 gamma lambda epsilon eps C kernel degree coef0 tol "
    "penalty solver l1_ratio l1 l2 reg_alpha reg_lambda n_estimators num_rounds nrounds "
    "min_child_weight subsample colsample_bytree colsample_bylevel max_features "
    "min_samples_split min_samples_leaf max_leaf_nodes criterion bootstrap splitter cp "
    "minsplit minbucket mtry num_trees sample_fraction min_node_size booster n_neighbors "
    "weights p metric leaf_size activation optimizer warmup_steps decay schedule decay_rate "
    "decay_factor kernel_size filters channels stride expansion skip se_ratio num_heads "
    "attention_dropout embedding_dim clip_norm label_smoothing temperature top_k num_blocks "
    "resolution cell op edge lr_schedule lr_init hidden_layer_sizes learning_rate_init "
    "max_iter loss shrinkage x x0 x1 x2 x3 x4 x5 x6 x7 batch norm use use_bias num max min "
    "rate size log2 k n"
).split()

CATEGORIES = (
    "adam sgd rmsprop adamw adagrad momentum relu tanh gelu swish elu selu sigmoid identity "
    "linear poly rbf gini entropy log_loss True False none auto sqrt log2 uniform distance "
    "euclidean manhattan cosine constant step exponential l1 l2 elasticnet lbfgs liblinear "
    "saga conv1x1 conv3x3 avg_pool_3x3 skip_connect gbtree dart gblinear small medium large "
    "on off a b c"
).split()

METRICS = (
    "accuracy val_accuracy test_accuracy error loss val_loss auc f1 rmse mse mae r2 log_loss "
    "objective value score bbob_eval latency cost flops params reward regret perplexity"
).split()

TITLES = (
    "tuning of svc random forest extra trees gradient boosting xgboost lightgbm logistic "
    "regression ridge elastic net mlp neural network decision tree knn resnet transformer on "
    "OpenML task data set breast cancer wine digits iris diabetes mnist cifar imagenet "
    "architecture search classifier regressor with cross validation trained epochs"
).split()


def lines(count: int = 20_000, seed: int = 0) -> Iterator[str]:
    """Metadata texts of random search spaces."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        problem = _problem(rng)
        options = metadata.MetadataOptions(
            names=bool(rng.random() < 0.7), values=bool(rng.random() < 0.7)
        )
        algorithm = str(rng.choice(ALGORITHMS))
        order = tuple(range(len(problem.parameters)))
        for part in metadata.describe(problem, algorithm, order, options):
            yield "".join(f"<{c.index}>" if isinstance(c, Bin) else c for c in part)


def _problem(rng: np.random.Generator) -> Problem:
    names = rng.choice(NAMES, size=rng.integers(1, 9), replace=False)
    return Problem(
        title=" ".join(rng.choice(TITLES, size=rng.integers(0, 7))),
        parameters=tuple(_parameter(str(name), rng) for name in names),
        metrics=(Metric(name=str(rng.choice(METRICS)), goal=list(Goal)[int(rng.integers(2))]),),
    )


def _parameter(name: str, rng: np.random.Generator) -> Parameter:
    kind = list(ParameterType)[int(rng.integers(4))]
    if kind == ParameterType.CATEGORICAL:
        values = rng.choice(CATEGORIES, size=rng.integers(2, 9), replace=False)
        return Parameter(name=name, type=kind, values=tuple(map(str, values)))
    if kind == ParameterType.DISCRETE:
        values = np.unique(rng.choice([1, 2, 4, 8, 16, 0.1, 0.5, 0.01], size=rng.integers(2, 9)))
        return Parameter(
            name=name, type=kind, scale=Scale.UNIFORM_DISCRETE, values=tuple(map(float, values))
        )
    scale = (None, Scale.LINEAR, Scale.LOG, Scale.REVERSE_LOG)[int(rng.integers(4))]
    if kind == ParameterType.INTEGER:
        first = int(rng.integers(1, 5))
        return Parameter(
            name=name, type=kind, scale=scale, bounds=(first, first + int(2 ** rng.uniform(1, 10)))
        )
    low = float(10 ** rng.uniform(-6, 0))
    return Parameter(
        name=name, type=kind, scale=scale, bounds=(low, low * float(10 ** rng.uniform(1, 4)))
    )


def main() -> None:
    """Trains the shipped text model again. Training is deterministic: the result is the same."""
    path = Path(__file__).with_name("text.model")
    path.write_bytes(train_text_model(lines(), PIECES))
    print(f"{path}: {PIECES} pieces, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
