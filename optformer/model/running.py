"""What surrounds a run: compiled programs that are kept, signals to stop, a trace of some steps."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import jax
from jax.experimental.compilation_cache import compilation_cache

from optformer.model import sharding
from optformer.model.states import writing

PROFILE_AFTER = 5
"""Steps before a trace begins: the first compile."""


@contextlib.contextmanager
def kept_programs(folder: Path) -> Iterator[None]:
    """Within the block, what takes longer than a second to compile is kept in the folder.

    A run that goes on then starts at once. Not beyond the block: with such a cache, other programs
    of the same process have been seen to fail. A cache that JAX was told of stays.
    """
    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        yield
        return
    unfinished = folder / "unfinished"
    with writing("what was compiled", folder):
        folder.mkdir(exist_ok=True)
        if unfinished.exists() and sharding.is_first():
            # The last run was killed, and may have been while it wrote the newest.
            for newest in sorted(folder.glob("*-cache"), key=os.path.getmtime)[-1:]:
                newest.unlink()
        unfinished.touch()
    # JAX looks at the setting once, until it is reset.
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(folder))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)  # type: ignore[no-untyped-call]
        compilation_cache.reset_cache()
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def signals() -> Iterator[Callable[[], int]]:
    """Within the block, a first Ctrl-C or SIGTERM only makes the function return its number.

    A second one does what it always does. In a thread other than the main one nothing changes.
    """
    caught: list[int] = []

    def wait(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        restore()

    def restore() -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for each in (signal.SIGINT, signal.SIGTERM):
            before[each] = signal.signal(each, wait)
    try:
        yield lambda: caught[0] if caught else 0
    finally:
        restore()


def stop(number: int) -> None:
    """Ends as the signal would have ended the process."""
    if number == signal.SIGTERM:
        raise SystemExit(128 + number)
    raise KeyboardInterrupt


class Trace:
    """A trace of some steps by JAX's profiler, for TensorBoard, XProf or Perfetto."""

    def __init__(self, folder: Path, steps: int, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        self._begin, self._end = PROFILE_AFTER, PROFILE_AFTER + steps
        self._taken, self._tracing = 0, False

    def __call__(self) -> None:
        """To be called before each step."""
        if self._begin == self._taken < self._end:
            os.makedirs(self._folder, exist_ok=True)
            jax.profiler.start_trace(str(self._folder))
            self._tracing = True
        elif self._taken == self._end:
            self.close()
        self._taken += 1

    def close(self) -> None:
        """Writes the trace, if there is one that was not."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()  # type: ignore[no-untyped-call]
            self._say(f"a trace of {self._taken - self._begin} steps is in {self._folder}")
