"""Signals that stop a run, and a profile of some steps."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import jax

PROFILE_AFTER = 5
"""The number of steps before a trace begins, because the first steps compile."""


@contextlib.contextmanager
def signals() -> Iterator[Callable[[], int]]:
    """Within the block, the first Ctrl-C or SIGTERM only makes the function return its number.

    A second one has its usual effect. Outside the main thread, signals are not handled.
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
    """Raises the exception with which the signal would have ended the process."""
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
        """Starts or ends the trace. Call it before each step."""
        if self._begin == self._taken < self._end:
            os.makedirs(self._folder, exist_ok=True)
            jax.profiler.start_trace(str(self._folder))
            self._tracing = True
        elif self._taken == self._end:
            self.close()
        self._taken += 1

    def close(self) -> None:
        """Ends and writes a running trace."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()  # type: ignore[no-untyped-call]
            self._say(f"a trace of {self._taken - self._begin} steps is in {self._folder}")
