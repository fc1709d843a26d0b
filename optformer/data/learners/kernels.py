"""Support vector machines and other kernel methods of scikit-learn."""

from optformer.data.data_tables.table import Split, Task
from optformer.data.learners.learner import Estimator, Keywords, Learner, Variant, fit_estimator
from optformer.data.learners.settings import category, log, real, whole

_MOST_STEPS = 100_000  # of libsvm, which would otherwise work for minutes at some settings


def _svc(keywords: Keywords, split: Split, seed: int) -> Estimator:
    from sklearn.svm import SVC

    return SVC(**keywords, max_iter=_MOST_STEPS, cache_size=100, random_state=seed)


def _svr(keywords: Keywords, split: Split, seed: int) -> Estimator:
    from sklearn.svm import SVR

    return SVR(**keywords, max_iter=_MOST_STEPS, cache_size=100)


def _kernel_ridge(keywords: Keywords, split: Split, seed: int) -> Estimator:
    from sklearn.kernel_ridge import KernelRidge

    return KernelRidge(**keywords)


def _gaussian_process(keywords: Keywords, split: Split, seed: int) -> Estimator:
    from sklearn.gaussian_process import GaussianProcessClassifier, kernels

    values = dict(keywords)
    length = float(str(values.pop("length_scale", 1.0)))
    constant = float(str(values.pop("constant_value", 1.0)))
    kernel = {
        "rbf": lambda: kernels.RBF(length),
        "matern": lambda: kernels.Matern(length, nu=float(str(values.pop("nu", 1.5)))),
        "rational_quadratic": lambda: kernels.RationalQuadratic(
            length, alpha=float(str(values.pop("alpha", 1.0)))
        ),
        "dot_product": lambda: kernels.DotProduct(length),
    }[str(values.pop("kernel", "rbf"))]()
    return GaussianProcessClassifier(
        kernels.ConstantKernel(constant) * kernel, optimizer=None, **values, random_state=seed
    )


_SVM_KERNELS = category(
    "kernel",
    ("linear", "poly", "rbf", "sigmoid"),
    ("linear", "rbf"),
    ("linear", "poly", "rbf"),
    ("rbf", "poly", "sigmoid"),
    ("rbf", "sigmoid"),
    default="rbf",
    often=0.75,
)
_SVM_COST = log(
    "C",
    (1e-3, 0.01, 0.1, 2.0**-5, 2.0**-10),
    (10, 100, 1e3, 2.0**10, 2.0**15),
    default=1.0,
    also=("cost",),
)
_SVM_SHAPE = (
    log(
        "gamma",
        (1e-5, 1e-4, 2.0**-15, 1e-3),
        (1.0, 10.0, 8.0, 0.1),
        when=("kernel", ("poly", "rbf", "sigmoid")),
        often=0.95,
    ),
    whole("degree", (2,), (3, 4, 5), default=3, when=("kernel", ("poly",)), often=0.8),
    real(
        "coef0", (-1.0, 0.0), (1.0,), default=0.0, when=("kernel", ("poly", "sigmoid")), often=0.5
    ),
    category("shrinking", (True, False), default=True, often=0.25),
    log("tol", (1e-5, 1e-4), (1e-2, 1e-1), default=1e-3, often=0.3),
)

SVM = Learner(
    name="svm",
    families=("svm", "kernel"),
    prefixes=("clf__", "svc__", "svm__", "model__", "classifier__"),
    variants={
        Task.CLASSIFICATION: Variant(
            words=("SVM", "support vector machine", "SVC", "sklearn SVC"),
            settings=(
                _SVM_KERNELS,
                _SVM_COST,
                *_SVM_SHAPE,
                category("class_weight", (None, "balanced"), often=0.25),
            ),
            fit=fit_estimator(_svc),
            probabilities=False,
        ),
        Task.REGRESSION: Variant(
            words=("SVR", "support vector regression", "epsilon-SVR"),
            settings=(
                _SVM_KERNELS,
                _SVM_COST,
                log("epsilon", (1e-4, 1e-3, 1e-2), (0.5, 1.0), default=0.1, often=0.85),
                *_SVM_SHAPE,
            ),
            fit=fit_estimator(_svr),
        ),
    },
)

KERNEL_RIDGE = Learner(
    name="kernel_ridge",
    families=("kernel",),
    prefixes=("model__", "krr__", "kernelridge__", "regressor__"),
    most_rows=1000,
    variants={
        Task.REGRESSION: Variant(
            words=("kernel ridge regression", "KernelRidge", "KRR"),
            settings=(
                category(
                    "kernel",
                    ("rbf", "laplacian"),
                    ("linear", "rbf", "poly"),
                    ("linear", "rbf", "laplacian", "poly", "sigmoid"),
                    default="linear",
                    often=0.9,
                ),
                log(
                    "alpha",
                    (1e-6, 1e-5, 1e-4, 1e-3),
                    (1.0, 10.0, 100.0),
                    default=1.0,
                    also=("lambda",),
                ),
                log(
                    "gamma",
                    (1e-5, 1e-4, 1e-3),
                    (0.1, 1.0, 10.0),
                    when=("kernel", ("rbf", "laplacian", "poly", "sigmoid")),
                ),
                whole("degree", (2,), (4, 5), default=3, when=("kernel", ("poly",)), often=0.8),
                real(
                    "coef0",
                    (0.0,),
                    (1.0, 2.0),
                    default=1,
                    when=("kernel", ("poly", "sigmoid")),
                    often=0.6,
                ),
            ),
            fit=fit_estimator(_kernel_ridge),
        )
    },
)

GAUSSIAN_PROCESS = Learner(
    name="gaussian_process",
    families=("kernel",),
    prefixes=("clf__", "gp__", "gpc__", "model__"),
    most_rows=120,
    variants={
        Task.CLASSIFICATION: Variant(
            words=("Gaussian process classifier", "GaussianProcessClassifier", "GP classification"),
            settings=(
                category(
                    "kernel",
                    ("rbf", "matern"),
                    ("rbf", "matern", "rational_quadratic"),
                    ("rbf", "matern", "rational_quadratic", "dot_product"),
                    default="rbf",
                    often=0.9,
                ),
                log("length_scale", (0.01, 0.1), (10.0, 100.0), default=1.0),
                category(
                    "nu", (0.5, 1.5, 2.5), default=1.5, when=("kernel", ("matern",)), often=0.9
                ),
                log(
                    "alpha",
                    (0.01, 0.1),
                    (10.0, 100.0),
                    when=("kernel", ("rational_quadratic",)),
                    often=0.8,
                ),
                log("constant_value", (0.01, 0.1), (10.0, 100.0), default=1.0, often=0.8),
                whole("max_iter_predict", (1, 5), (20, 100), default=100, often=0.3),
            ),
            fit=fit_estimator(_gaussian_process),
        )
    },
)

LEARNERS = (SVM, KERNEL_RIDGE, GAUSSIAN_PROCESS)
