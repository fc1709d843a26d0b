"""Gradient boosting: scikit-learn's histograms, XGBoost and LightGBM, each with its own names."""

from collections.abc import Iterable, Sequence

import numpy as np

from optformer.data.data_tables.table import Inputs, Split, Task
from optformer.data.learners.learner import (
    Estimator,
    Keywords,
    Learner,
    Prediction,
    Variant,
    columns,
    curve_steps,
    fit_staged,
    quiet,
)
from optformer.data.learners.settings import category, log, real, whole, whole_log


def _histogram(keywords: Keywords, split: Split, seed: int) -> Estimator:
    from sklearn import ensemble

    kind = "Classifier" if split.classes else "Regressor"
    return getattr(ensemble, f"HistGradientBoosting{kind}")(
        **keywords,
        early_stopping=False,
        categorical_features=split.categorical_C if split.categorical_C.any() else None,
        random_state=seed,
    )


def _histogram_stages(
    estimator: Estimator, split: Split, steps: Sequence[int]
) -> Iterable[np.ndarray]:
    staged = estimator.staged_predict_proba if split.classes else estimator.staged_predict  # type: ignore[attr-defined]
    return [each for step, each in enumerate(staged(split.test_TC), start=1) if step in steps]


def _xgboost(keywords: Keywords, split: Split, seed: int) -> Prediction:
    import xgboost

    values = dict(keywords)
    rounds = int(str(values.pop("n_estimators", 100)))
    objective: dict[str, object] = {"objective": "reg:squarederror"}
    if split.classes == 2:
        objective = {"objective": "binary:logistic"}
    elif split.classes:
        objective = {"objective": "multi:softprob", "num_class": split.classes}
    data = xgboost.DMatrix(split.train_NC, split.target_N, nthread=1)
    test = xgboost.DMatrix(split.test_TC, nthread=1)
    booster = xgboost.train(
        values | objective | {"nthread": 1, "seed": seed, "verbosity": 0}, data, rounds
    )
    curve = []
    for step in curve_steps(rounds):
        output = booster.predict(test, iteration_range=(0, step))
        if split.classes == 2:
            output = np.stack([1 - output, output], axis=1)
        curve.append((float(step), columns(output, split)))
    return Prediction(outputs_TK=curve[-1][1], curve=tuple(curve))


def _lightgbm(keywords: Keywords, split: Split, seed: int) -> Prediction:
    import lightgbm

    values = dict(keywords)
    rounds = int(str(values.pop("n_estimators", 100)))
    objective: dict[str, object] = {"objective": "regression"}
    if split.classes == 2:
        objective = {"objective": "binary"}
    elif split.classes:
        objective = {"objective": "multiclass", "num_class": split.classes}
    if "bagging_fraction" in values:
        values["bagging_freq"] = 1  # without it, LightGBM takes every row
    common = {"num_threads": 1, "seed": seed, "verbosity": -1, "deterministic": True}
    settings = values | objective | common
    data = lightgbm.Dataset(
        split.train_NC,
        split.target_N,
        categorical_feature=np.flatnonzero(split.categorical_C).tolist(),
        params={"verbosity": -1, "num_threads": 1}
        | {k: v for k, v in values.items() if k == "max_bin"},
    )
    with quiet():
        try:
            booster = lightgbm.train(settings, data, rounds)
        except lightgbm.basic.LightGBMError as error:
            raise ValueError(str(error)) from error
        curve = []
        for step in curve_steps(rounds):
            output = np.asarray(booster.predict(split.test_TC, num_iteration=step, num_threads=1))
            if split.classes == 2:
                output = np.stack([1 - output, output], axis=1)
            curve.append((float(step), columns(output, split)))
    return Prediction(outputs_TK=curve[-1][1], curve=tuple(curve))


_HISTOGRAM = (
    log("learning_rate", (0.001, 0.01, 0.02), (0.3, 0.5, 1.0), default=0.1),
    whole("max_iter", (5, 10, 50), (50, 100, 200, 500), default=100, often=0.7, effort=True),
    whole_log("max_leaf_nodes", (2, 4, 8), (31, 64, 128), default=31, often=0.8),
    whole("max_depth", (2,), (8, 12, 16), often=0.4),
    whole_log("min_samples_leaf", (1, 2, 5), (50, 100), default=20, often=0.8),
    log("l2_regularization", (1e-8, 1e-6, 1e-4), (1.0, 10.0, 100.0), default=0.0, often=0.8),
    real("max_features", (0.1, 0.3), (1.0,), default=1.0, often=0.4),
    whole_log("max_bins", (8, 16, 32), (255,), default=255, often=0.3),
)

HISTOGRAM_BOOSTING = Learner(
    name="hist_gradient_boosting",
    families=("boosting",),
    inputs=Inputs.RAW,
    prefixes=("clf__", "gb__", "histgradientboostingclassifier__", "model__"),
    variants={
        Task.CLASSIFICATION: Variant(
            words=(
                "gradient boosting",
                "HistGradientBoostingClassifier",
                "sklearn hist gradient boosting",
            ),
            settings=(*_HISTOGRAM, category("class_weight", (None, "balanced"), often=0.2)),
            fit=fit_staged(_histogram, _histogram_stages, lambda each: each.n_iter_),  # type: ignore[attr-defined]
        ),
        Task.REGRESSION: Variant(
            words=("gradient boosting", "HistGradientBoostingRegressor", "hist gradient boosting"),
            settings=_HISTOGRAM,
            fit=fit_staged(_histogram, _histogram_stages, lambda each: each.n_iter_),  # type: ignore[attr-defined]
        ),
    },
)

_XGBOOST = (
    whole(
        "n_estimators",
        (5, 10, 50),
        (100, 200, 500, 1000),
        default=100,
        often=0.7,
        effort=True,
        also=("num_boost_round", "nrounds"),
    ),
    log("learning_rate", (1e-4, 1e-3, 0.01), (0.3, 0.5, 1.0), default=0.3, also=("eta",)),
    whole("max_depth", (1, 2, 3), (6, 8, 10, 12, 15), default=6, often=0.9),
    log("min_child_weight", (0.01, 0.1, 1.0), (10.0, 32.0, 100.0, 128.0), default=1.0, often=0.7),
    real("subsample", (0.1, 0.3, 0.5), (1.0,), default=1.0, often=0.85),
    real("colsample_bytree", (0.1, 0.3, 0.5), (1.0,), default=1.0, often=0.75),
    real("colsample_bylevel", (0.1, 0.3, 0.5), (1.0,), default=1.0, often=0.3),
    log(
        "reg_alpha",
        (1e-8, 1e-5, 1e-3, 2.0**-10),
        (1.0, 10.0, 2.0**10),
        default=0.0,
        often=0.6,
        also=("alpha",),
    ),
    log(
        "reg_lambda",
        (1e-8, 1e-5, 1e-3, 2.0**-10),
        (1.0, 10.0, 100.0, 2.0**10),
        default=1.0,
        often=0.7,
        also=("lambda",),
    ),
    log(
        "gamma",
        (1e-8, 1e-4, 1e-3),
        (1.0, 7.0, 10.0),
        default=0.0,
        often=0.5,
        also=("min_split_loss",),
    ),
    category("grow_policy", ("depthwise", "lossguide"), default="depthwise", often=0.15),
)

XGBOOST = Learner(
    name="xgboost",
    families=("boosting",),
    package="xgboost",
    inputs=Inputs.RAW,
    prefixes=("clf__", "xgb__", "xgbclassifier__", "model__"),
    variants={
        Task.CLASSIFICATION: Variant(
            words=("XGBoost", "xgboost", "XGBClassifier", "gradient boosted trees (XGBoost)"),
            settings=_XGBOOST,
            fit=_xgboost,
        ),
        Task.REGRESSION: Variant(
            words=("XGBoost", "XGBRegressor", "xgboost regression"), settings=_XGBOOST, fit=_xgboost
        ),
    },
)

_LIGHTGBM = (
    whole(
        "n_estimators",
        (5, 10, 50),
        (100, 200, 500, 1000),
        default=100,
        often=0.7,
        effort=True,
        also=("num_iterations", "num_boost_round"),
    ),
    log("learning_rate", (1e-3, 5e-3, 0.01), (0.1, 0.3, 0.5), default=0.1),
    whole_log("num_leaves", (2, 4, 8), (31, 64, 128, 256), default=31, often=0.9),
    whole("max_depth", (2, 3), (8, 12, 16), often=0.35),
    whole_log(
        "min_data_in_leaf",
        (1, 2, 5),
        (50, 100),
        default=20,
        often=0.75,
        also=("min_child_samples",),
    ),
    log(
        "min_sum_hessian_in_leaf",
        (1e-4, 1e-3),
        (1.0, 10.0),
        default=1e-3,
        often=0.25,
        also=("min_child_weight",),
    ),
    real("bagging_fraction", (0.2, 0.4, 0.5), (1.0,), default=1.0, often=0.7, also=("subsample",)),
    real(
        "feature_fraction",
        (0.2, 0.4, 0.5),
        (1.0,),
        default=1.0,
        often=0.75,
        also=("colsample_bytree",),
    ),
    log("lambda_l1", (1e-8, 1e-4, 1e-3), (1.0, 10.0), default=0.0, often=0.6, also=("reg_alpha",)),
    log(
        "lambda_l2",
        (1e-8, 1e-4, 1e-3),
        (1.0, 10.0, 100.0),
        default=0.0,
        often=0.6,
        also=("reg_lambda",),
    ),
    log(
        "min_gain_to_split",
        (1e-4, 1e-3),
        (0.5, 1.0),
        default=0.0,
        often=0.25,
        also=("min_split_gain",),
    ),
    whole_log("max_bin", (15, 31, 63), (255,), default=255, often=0.2),
    category("extra_trees", (False, True), default=False, often=0.2),
)

LIGHTGBM = Learner(
    name="lightgbm",
    families=("boosting",),
    package="lightgbm",
    inputs=Inputs.RAW,
    prefixes=("clf__", "lgbm__", "lgbmclassifier__", "model__"),
    variants={
        Task.CLASSIFICATION: Variant(
            words=("LightGBM", "lightgbm", "LGBMClassifier", "gradient boosting (LightGBM)"),
            settings=_LIGHTGBM,
            fit=_lightgbm,
        ),
        Task.REGRESSION: Variant(
            words=("LightGBM", "LGBMRegressor", "lightgbm regression"),
            settings=_LIGHTGBM,
            fit=_lightgbm,
        ),
    },
)

LEARNERS = (HISTOGRAM_BOOSTING, XGBOOST, LIGHTGBM)
