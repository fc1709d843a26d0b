"""The training states from which a run resumes: the last two, each checked when it is read.

    state/        Orbax's folders, one for each step
    states.json   a fingerprint of each state in memory

Orbax writes a state under a temporary name first, so that a killed run leaves no partial state. The
fingerprint detects later damage on the disk.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import safetensors
from jaxtyping import Array, UInt32

from optformer.errors import CheckpointError, OptFormerError
from optformer.files import atomic_write
from optformer.training import sharding
from optformer.training.step import State

# The errors of Orbax, TensorStore and JAX for files that cannot be written or are damaged.
_FAILURES = (OSError, ValueError, TypeError, LookupError, RuntimeError, safetensors.SafetensorError)


class States:
    """The saved states of the run in `folder`; a context manager that waits for the last one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fingerprints = folder / "states.json"
        self._open = True
        self._manager = ocp.CheckpointManager(
            (folder / "state").absolute(), options=ocp.CheckpointManagerOptions(max_to_keep=2)
        )

    def __enter__(self) -> "States":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error:
            # The error that ended the run is more useful than one of writing the state.
            with contextlib.suppress(CheckpointError):
                self.close()
        else:
            self.close()

    def close(self) -> None:
        """Waits until the last state is on the disk.

        Raises:
          CheckpointError: it cannot be written.
        """
        if self._open:
            self._open = False
            with writing("the last state", self._folder):
                self._manager.close()

    def restore(self, start: State, say: Callable[[str], None]) -> State:
        """The last state that can be read; `start` if none was saved.

        Args:
          start: a state with the same arrays and shardings.
          say: called with a message about each damaged state, which is moved to `damaged-<step>`.

        Raises:
          CheckpointError: there are states, but none can be read.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, start)
        bad: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                state = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
            except Exception as error:  # an unreadable array can raise any error
                bad[step] = _first_line(error.__cause__ or error)
                continue
            if self._read().get(str(step), found := fingerprint(state)) == found:
                break
            bad[step] = "its content is not what was saved"
        else:
            if bad:
                raise CheckpointError(
                    f"no state in {self._folder / 'state'} can be read. "
                    + " ".join(f"Step {step}: {reason}." for step, reason in bad.items())
                    + f" Copy the folder again, or start a new run from its weights with --init "
                    f"{self._folder / 'checkpoint'}."
                )
            return start
        for damaged, reason in bad.items():
            self._set_aside(damaged)
            say(f"the state of step {damaged:,} is damaged ({reason}): the one before it is used")
        return state

    def save(self, step: int, state: State) -> None:
        """Saves a state, or starts to save it.

        Raises:
          CheckpointError: this state or the previous one cannot be written, as on a full disk.
        """
        with writing(f"the state of step {step:,}", self._folder):
            self._write({str(step): fingerprint(state)})
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def _read(self) -> dict[str, str]:
        try:
            return dict(json.loads(self._fingerprints.read_text("utf-8")))
        except (FileNotFoundError, ValueError):  # an older version's states, or a damaged file
            return {}

    def _write(self, new: dict[str, str]) -> None:
        if sharding.is_first():
            steps = {str(step) for step in self._manager.all_steps()}
            kept = {step: found for step, found in self._read().items() if step in steps}
            with atomic_write(self._fingerprints) as path:
                path.write_text(json.dumps(kept | new) + "\n", "utf-8")

    def _set_aside(self, step: int) -> None:
        if sharding.is_first():
            place, number = self._folder / f"damaged-{step}", 1
            while place.exists():
                place, number = self._folder / f"damaged-{step}-{number}", number + 1
            os.replace(self._folder / "state" / str(step), place)
        sharding.wait_for_all(f"damaged {step}")
        self._manager.reload()


@contextlib.contextmanager
def writing(title: str, folder: Path) -> Iterator[None]:
    """Turns failures to write into an error with a way out.

    Raises:
      CheckpointError: writing failed.
    """
    try:
        yield
    except OptFormerError:
        raise
    except _FAILURES as error:
        raise CheckpointError(
            f"{title} could not be written to {folder}: {_first_line(error)}. Free some space "
            "there, and repeat the command: the run resumes from the last complete state."
        ) from error


def fingerprint(state: State) -> str:
    """A hash of the arrays' bits. Each device sums its own part."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        digest.update(f"{jax.tree_util.keystr(path)} {int(_weighed_sum(leaf))}\n".encode())
    return digest.hexdigest()


@jax.jit
def _weighed_sum(array: Array) -> UInt32[Array, ""]:
    """The sum of odd numbers times 32-bit words, modulo 2³², which detects any changed bit."""
    words = jax.lax.bitcast_convert_type(array, jnp.uint32)
    strides = [int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim)]
    places = functools.reduce(
        jnp.add,
        (
            jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis) * np.uint32(stride)
            for axis, stride in enumerate(strides)
        ),
        jnp.uint32(0),
    )
    return (words * (2 * places + 1)).sum(dtype=jnp.uint32)


def _first_line(error: BaseException) -> str:
    return (str(error) or repr(error)).splitlines()[0].rstrip(".")[:300]
