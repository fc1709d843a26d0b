"""Batches made by other processes while the last step runs.

A worker is a Python process without JAX. It gets the pickled batches once, makes every n-th of them
in order, and waits when the trainer has not read its last ones.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar, runtime_checkable

from optformer.errors import OptFormerError

Made = TypeVar("Made", covariant=True)

AHEAD = 2
"""How many batches of each worker are kept ready."""

# Read by numpy's libraries as a process loads them, so set before it starts.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_PROGRAM = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from optformer.training import feed
feed.work()
"""


class FeedError(OptFormerError):
    """A process that makes batches ended before its work was done."""


@runtime_checkable
class Numbered(Protocol[Made]):
    """Something picklable whose item number i is a function of i alone (`batches.Batches`)."""

    def __getitem__(self, number: int, /) -> Made: ...


@contextlib.contextmanager
def feed(
    items: Numbered[Made], start: int, stop: int, workers: int = 0
) -> Iterator[Iterator[Made]]:
    """Within the block, the items from `start` to before `stop`, in order, made a little ahead.

    Args:
      workers: how many processes make them; 0 makes them in a thread of this one.

    Raises:
      FeedError: while iterating, a process ended early, perhaps because memory ran out. An error
        in making an item is raised as it is.
    """
    count = max(1, min(workers, stop - start))
    sources: list[_Process[Made] | _Thread[Made]] = (
        [_Process(items, range(start + first, stop, count)) for first in range(count)]
        if workers
        else [_Thread(items, range(start, stop))]
    )
    try:
        yield (sources[number % count].next() for number in range(stop - start))
    finally:
        for source in sources:
            source.close()


class _Thread(Generic[Made]):
    """Makes some of the items in a thread."""

    def __init__(self, items: Numbered[Made], numbers: range) -> None:
        self._ready: queue.Queue[Made | BaseException] = queue.Queue(AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(items, numbers), daemon=True)
        self._thread.start()

    def _run(self, items: Numbered[Made], numbers: range) -> None:
        try:
            self._begin(items, numbers)
            for number in numbers:
                self._put(self._make(items, number))
                if self._closed.is_set():
                    return
        except BaseException as error:
            self._put(error)

    def _begin(self, items: Numbered[Made], numbers: range) -> None:
        """Whatever is needed before the first item."""

    def _make(self, items: Numbered[Made], number: int) -> Made:
        return items[number]

    def _put(self, made: Made | BaseException) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(made, timeout=0.5)
                return

    def next(self) -> Made:
        made = self._ready.get()
        if isinstance(made, BaseException):
            raise made
        return made

    def close(self) -> None:
        self._closed.set()
        self._thread.join()


class _Process(_Thread[Made]):
    """Makes some of the items in a process, which a thread here reads from."""

    def __init__(self, items: Numbered[Made], numbers: range) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | _ONE_THREAD | {"JAX_PLATFORMS": "cpu"},  # the trainer's are its own
        )
        super().__init__(items, numbers)

    def _begin(self, items: Numbered[Made], numbers: range) -> None:
        assert self._process.stdin is not None
        # A worker that dies at once is noticed when nothing comes from it.
        with contextlib.suppress(BrokenPipeError):
            for sent in (sys.path, (items, numbers)):
                pickle.dump(sent, self._process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()

    def _make(self, items: Numbered[Made], number: int) -> Made:
        assert self._process.stdout is not None
        try:
            made = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError) as error:
            raise FeedError(
                f"the process that makes batch {number} ended with status {self._process.wait()}: "
                "see above for its error; without one, it was killed, perhaps for lack of memory. "
                "Try fewer: train.workers."
            ) from error
        if isinstance(made, BaseException):
            raise made
        return made

    def close(self) -> None:
        self._closed.set()
        self._process.kill()
        super().close()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def work() -> None:
    """The program of a worker: reads what to make, and writes it to the standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the trainer's to handle
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed must not stand between batches
    items, numbers = pickle.load(sys.stdin.buffer)
    with contextlib.suppress(BrokenPipeError):
        for number in numbers:
            try:
                made = items[number]
            except Exception as error:  # raised again in the trainer
                made = error
            pickle.dump(made, out, protocol=pickle.HIGHEST_PROTOCOL)
            out.flush()
            if isinstance(made, Exception):
                return
