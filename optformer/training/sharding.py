"""Which device holds what, and how several processes train as one.

Devices form a mesh of `data` x `model`. A batch's rows are divided over `data`; attention's heads
and the feed-forward's inner size over `model`; XLA adds the communication. The losses are those of
one device but for the order in which numbers are added up.

Every process makes every batch, which is a function of its number alone, and puts its own devices'
rows on them.
"""

import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from optformer.errors import ConfigError
from optformer.model.config import ModelConfig
from optformer.training.batches import Batch
from optformer.training.config import TrainConfig

Tree = dict


def spec(*axes: str | None) -> PartitionSpec:
    """Over which axis of the mesh each dimension is divided; None over none."""
    return PartitionSpec(*axes)  # type: ignore[no-untyped-call]


# By the last name in a weight's path and its number of dimensions. All others are on every device,
# as are the parts of an optimizer's state that have not their weight's dimensions.
_DIVIDED = {
    ("query", 3): spec(None, "model", None),
    ("key", 3): spec(None, "model", None),
    ("value", 3): spec(None, "model", None),
    ("out", 3): spec("model", None, None),
    ("gate", 2): spec(None, "model"),
    ("up", 2): spec(None, "model"),
    ("down", 2): spec("model", None),
    ("position", 2): spec(None, "model"),
}


def join() -> None:
    """Makes this process one of those that train together.

    Raises:
      ConfigError: no one says who the others are, or they do not answer.
    """
    if jax.distributed.is_initialized():
        return
    try:
        count, this = (
            int(os.environ[name]) if name in os.environ else None
            for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
        )
        # JAX reads JAX_COORDINATOR_ADDRESS itself.
        jax.distributed.initialize(num_processes=count, process_id=this)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"train.distributed=true, but this process cannot join others: {error} Start it by a "
            "cluster's launcher, or set JAX_COORDINATOR_ADDRESS (host:port of process 0), "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID."
        ) from error


def is_first() -> bool:
    """Whether this process writes what one process writes for all."""
    return jax.process_index() == 0


def make_mesh(settings: TrainConfig, model: ModelConfig) -> Mesh:
    """The devices to train on, as `data` x `model`.

    Raises:
      ConfigError: there are not so many devices, or they cannot share the model.
    """
    there, shared = jax.devices(), settings.tensor_parallel
    count = settings.devices or len(there)
    if count > len(there) or (jax.process_count() > 1 and count != len(there)):
        raise ConfigError(
            f"train.devices={count}, but JAX finds {len(there)} {there[0].platform} device(s). "
            "Set it to 0 to use all."
        )
    for name, size in (
        ("the number of devices", count),
        ("model.heads", model.heads),
        ("model.feed_forward", model.feed_forward),
    ):
        if size % shared:
            raise ConfigError(
                f"train.tensor_parallel={shared} must divide {name}, which is {size}."
            )
    grid = np.array(there[:count]).reshape(count // shared, shared)
    return Mesh(grid, ("data", "model"))


def layout(tree: Tree, mesh: Mesh) -> Tree:
    """Where the arrays of a state belong: a sharding for each."""

    def of(path: tuple, leaf: jax.Array) -> NamedSharding:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        name = names[-1] if names else ""
        return NamedSharding(mesh, _DIVIDED.get((name, np.ndim(leaf)), spec()))

    return jax.tree_util.tree_map_with_path(of, tree)


def place(tree: Tree, mesh: Mesh) -> Tree:
    """A state on its devices."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, _put(leaves, jax.tree.leaves(layout(tree, mesh))))


def place_batch(batch: Batch, mesh: Mesh) -> Batch:
    """A batch on its devices, with empty rows added where they would not divide evenly."""
    parts = mesh.shape["data"]
    rows, whole = NamedSharding(mesh, spec("data")), NamedSharding(mesh, spec())

    def even(array: np.ndarray) -> np.ndarray:
        missing = -len(array) % parts
        return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)) if missing else array

    arrays = [array if array.ndim == 1 else even(array) for array in batch]
    shardings = [whole if array.ndim == 1 else rows for array in batch]
    return Batch(*_put(arrays, shardings))  # type: ignore[arg-type]


def _put(
    arrays: Sequence[np.ndarray | jax.Array], shardings: Sequence[NamedSharding]
) -> list[jax.Array]:
    if jax.process_count() == 1:
        return jax.device_put(list(arrays), list(shardings))
    here = [np.asarray(array) for array in arrays]
    return [
        jax.make_array_from_callback(array.shape, sharding, array.__getitem__)
        for array, sharding in zip(here, shardings, strict=True)
    ]


def to_numpy(weights: Tree) -> Tree:
    """Weights as numpy arrays on the host, gathered from all devices."""
    if all(getattr(leaf, "is_fully_addressable", True) for leaf in jax.tree.leaves(weights)):
        return jax.tree.map(np.asarray, jax.device_get(weights))
    return multihost_utils.process_allgather(weights, tiled=True)


def agree(seconds: float, stop: bool) -> tuple[float, bool]:
    """What all processes go by: the first one's clock, and whether any was told to stop."""
    if jax.process_count() == 1:
        return seconds, stop
    said = multihost_utils.process_allgather(np.array([seconds, stop], np.float32))
    return float(said[0, 0]), bool(said[:, 1].any())


def wait_for_all(what: str) -> None:
    """Returns when all processes have come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
