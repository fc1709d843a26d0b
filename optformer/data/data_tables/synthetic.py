"""Synthetic tables without end: scikit-learn's makers, and random structural models.

A structural model is a random graph: every node is a random function of earlier nodes plus noise
[TabPFN, section 2]. Some nodes are the columns, one is the target.

Array dimensions: N rows, C columns, V nodes.
"""

import numpy as np
from jaxtyping import Float64

from optformer.data.data_tables.table import Table, Task, make_table
from optformer.errors import SourceError


def synthetic_table(rng: np.random.Generator, *, name: str, task: Task, most_rows: int) -> Table:
    """A random table with this kind of target."""
    while True:
        rows = int(np.exp(rng.uniform(np.log(min(100, most_rows)), np.log(most_rows))))
        make = _structural if rng.random() < 0.7 else _made_by_sklearn
        inputs_NC, target_N = make(rng, rows, task)
        categorical_C = np.zeros(inputs_NC.shape[1], dtype=bool)
        if rng.random() < 0.5:
            inputs_NC, categorical_C = _with_categories(rng, inputs_NC)
        if rng.random() < 0.3:
            inputs_NC = np.where(
                rng.random(inputs_NC.shape) < rng.uniform(0.0, 0.2), np.nan, inputs_NC
            )
        try:
            return make_table(name, inputs_NC, target_N, task=task, categorical_C=categorical_C)
        except SourceError:  # by chance, one class or a constant target
            continue


def _structural(
    rng: np.random.Generator, rows: int, task: Task
) -> tuple[Float64[np.ndarray, "N C"], Float64[np.ndarray, " N"]]:
    nodes = int(rng.integers(4, 40))
    roots = int(rng.integers(2, max(3, nodes // 2)))
    noise = 10 ** rng.uniform(-2.5, 0)
    values_NV = np.empty((rows, nodes))
    for node in range(nodes):
        if node < roots:
            values_NV[:, node] = _root(rng, rows)
            continue
        parents = rng.choice(node, size=min(node, int(rng.integers(1, 5))), replace=False)
        values_NV[:, node] = _standard(_function(rng, values_NV[:, parents]))
        values_NV[:, node] += noise * rng.normal(size=rows)
    # The target is one of the later nodes, so that some columns cause it and it causes others.
    target = int(rng.integers(roots, nodes))
    others = np.setdiff1d(np.arange(nodes), [target])
    most = min(len(others), 30)
    kept = rng.choice(others, size=int(rng.integers(2, most + 1)), replace=False)
    if rng.random() < 0.5:  # otherwise columns that follow from the target give it away
        kept = kept[kept < target] if (kept < target).sum() >= 2 else kept
    target_N = values_NV[:, target]
    return values_NV[:, kept], _classes(rng, target_N) if task == Task.CLASSIFICATION else target_N


def _root(rng: np.random.Generator, rows: int) -> Float64[np.ndarray, " N"]:
    kind = rng.integers(4)
    if kind == 0:
        return rng.normal(size=rows)
    if kind == 1:
        return _standard(rng.uniform(size=rows))
    if kind == 2:
        return _standard(np.exp(rng.normal(size=rows)))
    centres = rng.normal(size=int(rng.integers(2, 6)))
    return centres[rng.integers(len(centres), size=rows)] + 0.1 * rng.normal(size=rows)


def _function(
    rng: np.random.Generator, parents_NV: Float64[np.ndarray, "N V"]
) -> Float64[np.ndarray, " N"]:
    """A random function: a small network, a tree, a product, or waves."""
    rows, count = parents_NV.shape
    kind = rng.integers(5)
    if kind == 0:
        return parents_NV @ rng.normal(size=count)
    if kind == 1:
        width = int(rng.integers(2, 12))
        hidden = np.tanh(parents_NV @ rng.normal(size=(count, width)) * 2 + rng.normal(size=width))
        return hidden @ rng.normal(size=width)
    if kind == 2:
        leaf_N = np.zeros(rows, dtype=np.int64)
        depth = int(rng.integers(1, 6))
        for _ in range(depth):
            column = int(rng.integers(count))
            leaf_N = 2 * leaf_N + (parents_NV[:, column] > rng.normal())
        return rng.normal(size=2**depth)[leaf_N]
    if kind == 3:
        return np.prod(parents_NV[:, :2] + rng.normal(size=min(count, 2)), axis=1)
    return np.sin(parents_NV @ rng.normal(size=count) * rng.uniform(1, 4))


def _classes(
    rng: np.random.Generator, values_N: Float64[np.ndarray, " N"]
) -> Float64[np.ndarray, " N"]:
    """Cuts at random shares of the rows, so that classes are often of unlike size."""
    classes = int(rng.choice([2, 2, 2, 3, 4, 6, 8]))
    shares = rng.dirichlet(np.full(classes, rng.choice([1.0, 3.0, 20.0])))
    cuts = np.quantile(values_N, np.cumsum(shares)[:-1])
    class_N = np.searchsorted(cuts, values_N).astype(np.float64)
    if rng.random() < 0.5:  # an order of the classes that means nothing
        class_N = rng.permutation(classes)[class_N.astype(np.int64) % classes].astype(np.float64)
    flipped_N = rng.random(len(values_N)) < rng.choice([0.0, 0.02, 0.1])
    return np.where(flipped_N, rng.integers(classes, size=len(values_N)), class_N)


def _made_by_sklearn(
    rng: np.random.Generator, rows: int, task: Task
) -> tuple[Float64[np.ndarray, "N C"], Float64[np.ndarray, " N"]]:
    from sklearn import datasets

    seed = int(rng.integers(2**31))
    columns = int(rng.integers(4, 30))
    useful = int(rng.integers(2, columns + 1))
    if task == Task.REGRESSION:
        if rng.random() < 0.5:
            noise = float(10 ** rng.uniform(-1, 2))
            return datasets.make_regression(
                rows, columns, n_informative=useful, noise=noise, random_state=seed
            )
        return datasets.make_friedman1(
            rows, max(5, columns), noise=float(10 ** rng.uniform(-1, 1)), random_state=seed
        )
    kind = rng.integers(3)
    if kind == 0:
        inputs, target = datasets.make_moons(
            rows, noise=float(rng.uniform(0.05, 0.5)), random_state=seed
        )
        return np.hstack([inputs, rng.normal(size=(rows, int(rng.integers(0, 6))))]), target.astype(
            float
        )
    if kind == 1:
        centers = int(rng.integers(2, 8))
        inputs, target = datasets.make_blobs(
            rows, columns, centers=centers, cluster_std=float(rng.uniform(2, 12)), random_state=seed
        )
        return inputs, target.astype(float)
    informative = max(3, useful)
    classes = int(rng.integers(2, 5))
    inputs, target = datasets.make_classification(
        rows,
        max(columns, informative),
        n_informative=informative,
        n_redundant=0,
        n_classes=classes,
        n_clusters_per_class=int(rng.integers(1, 3)),
        class_sep=float(rng.uniform(0.3, 1.5)),
        flip_y=float(rng.choice([0.0, 0.01, 0.1])),
        weights=[float(rng.uniform(0.5, 0.95))] if classes == 2 and rng.random() < 0.5 else None,
        random_state=seed,
    )
    return inputs, target.astype(float)


def _with_categories(
    rng: np.random.Generator, inputs_NC: Float64[np.ndarray, "N C"]
) -> tuple[np.ndarray, np.ndarray]:
    """Some of the columns cut into categories, whose codes are in a random order."""
    inputs_NC = inputs_NC.copy()
    categorical_C = np.asarray(rng.random(inputs_NC.shape[1]) < rng.uniform(0.1, 0.6))
    for column in np.flatnonzero(categorical_C):
        levels = int(rng.integers(2, 10))
        cuts = np.quantile(inputs_NC[:, column], np.sort(rng.random(levels - 1)))
        code_N = np.searchsorted(cuts, inputs_NC[:, column])
        inputs_NC[:, column] = rng.permutation(levels)[code_N]
    return inputs_NC, categorical_C


def _standard(values_N: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    spread = values_N.std()
    return (values_N - values_N.mean()) / (spread if spread > 1e-9 else 1.0)
