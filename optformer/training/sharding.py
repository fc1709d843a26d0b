"""Sharding over devices and processes.

Devices form a mesh of `data` x `model`. A batch's rows are divided over `data`; attention heads and
the feed-forward size over `model`; XLA adds the communication. Losses equal those of one device,
except for the order of summation.

Every process builds every batch, which is a function of its number alone, and transfers only the
rows of its own devices.
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
    """The axis of the mesh over which each dimension is divided; None for no axis."""
    return PartitionSpec(*axes)  # type: ignore[no-untyped-call]


# By the last name in a weight's path and its number of dimensions. All other arrays are on every
# device, also parts of the optimizer's state whose dimensions differ from their weight's.
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
    """Joins this process to the others of a distributed run.

    Raises:
      ConfigError: the other processes are not configured or do not respond.
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
    """Whether this is the process that writes files for all."""
    return jax.process_index() == 0


def make_mesh(settings: TrainConfig, model: ModelConfig) -> Mesh:
    """The devices to train on, as `data` x `model`.

    Raises:
      ConfigError: there are fewer devices, or the model cannot be divided over them.
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
    """The sharding of each array of a state."""

    def of(path: tuple, leaf: jax.Array) -> NamedSharding:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        name = names[-1] if names else ""
        return NamedSharding(mesh, _DIVIDED.get((name, np.ndim(leaf)), spec()))

    return jax.tree_util.tree_map_with_path(of, tree)


def place(tree: Tree, mesh: Mesh) -> Tree:
    """The state, transferred to its devices."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, _put(leaves, jax.tree.leaves(layout(tree, mesh))))


def place_batch(batch: Batch, mesh: Mesh) -> Batch:
    """The batch, transferred to its devices, padded with empty rows to divide evenly."""
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
    """Values that all processes agree on: the first one's clock, and whether any must stop."""
    if jax.process_count() == 1:
        return seconds, stop
    gathered = multihost_utils.process_allgather(np.array([seconds, stop], np.float32))
    return float(gathered[0, 0]), bool(gathered[:, 1].any())


def wait_for_all(name: str) -> None:
    """Waits until all processes have reached this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
