"""Calls with a hard time limit, in a separate process that is killed.

A call into compiled code cannot be interrupted from Python, but its process can be killed.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

from optformer.data.processes import WorkerDied
from optformer.errors import OptFormerError

Task = TypeVar("Task")
Result = TypeVar("Result")

_START_SECONDS = 300.0  # libraries load slowly on a busy machine


class TimedOut(OptFormerError):
    """A call exceeded its time limit."""


class Limited(Generic[Task, Result]):
    """A function that is called in another process, one call at a time, each with a time limit.

    The process starts at the first call, and again after it was killed.

    Args:
      function: defined in a module that can be imported; tasks, results and errors are pickled.
      prepare: called once in each new process; its time does not count.
    """

    def __init__(
        self, function: Callable[[Task], Result], prepare: Callable[[], None] | None = None
    ) -> None:
        self._function = function
        self._prepare = prepare
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    def __call__(self, task: Task, seconds: float) -> Result:
        """`function(task)`.

        Raises:
          TimedOut: it took longer than `seconds`.
          WorkerDied: the process ended, perhaps because memory ran out.
        """
        connection = self._started()
        try:
            connection.send(task)
            if not connection.poll(seconds):
                self.close()
                raise TimedOut(f"took longer than {seconds:g} s")
            worked, result = connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self.close()
            raise WorkerDied("its process died, perhaps because memory ran out") from error
        if not worked:
            raise result
        return result

    def close(self) -> None:
        """Kills the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _started(self) -> Connection:
        if self._connection is None:
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(
                target=_serve, args=(theirs, self._function, self._prepare), daemon=True
            )
            self._process.start()
            theirs.close()
            if not self._connection.poll(_START_SECONDS):
                self.close()
                raise WorkerDied(f"its process did not start in {_START_SECONDS:g} s")
            self._connection.recv()
        return self._connection


def _serve(
    connection: Connection,
    function: Callable[[Task], Result],
    prepare: Callable[[], None] | None,
) -> None:
    if prepare is not None:
        prepare()
    connection.send("ready")
    while True:
        try:
            task = connection.recv()
        except EOFError:  # the caller has ended
            return
        try:
            answer: tuple[bool, object] = (True, function(task))
        except Exception as error:  # is raised again by the caller
            answer = (False, error)
        try:
            connection.send(answer)
        except BrokenPipeError:  # the caller was killed meanwhile
            return
