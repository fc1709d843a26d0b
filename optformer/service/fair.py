"""A fair queue: no owner or study holds up the others by asking for more.

Jobs run on threads. Owners take turns, and the studies of an owner take turns.
"""

import collections
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from optformer.service.limits import FullError

Result = TypeVar("Result")
_Job = tuple[Future, Callable[[], object]]


class ClosedError(Exception):
    """A job for a queue that takes no more."""


class FairQueue:
    """Runs jobs on threads of its own.

    Args:
      name: of the threads.
      threads: how many jobs run at the same time.
      per_owner: how many of them may be one owner's, so that another owner's job starts at once.
      waiting: how many jobs of one owner may wait or run.
      one_per_study: whether jobs of one study run one after another.
    """

    def __init__(
        self, name: str, *, threads: int, per_owner: int, waiting: int, one_per_study: bool
    ) -> None:
        self._per_owner, self._waiting, self._one_per_study = per_owner, waiting, one_per_study
        self._owners: collections.OrderedDict[
            str, collections.OrderedDict[str, collections.deque[_Job]]
        ] = collections.OrderedDict()
        self._running: collections.Counter[str] = collections.Counter()  # by owner
        self._busy: collections.Counter[tuple[str, str]] = collections.Counter()  # by study
        self._changed = threading.Condition()
        self._closed = False
        # A job that still runs does not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, owner: str, study: str, job: Callable[[], Result]) -> "Future[Result]":
        """The future result of a job. If it is cancelled before its turn, the job never runs.

        Raises:
          FullError: too many of this owner's jobs are waiting.
          ClosedError: the queue is closed.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._closed:
                raise ClosedError("the service stops.")
            studies = self._owners.setdefault(owner, collections.OrderedDict())
            if self._count(owner) >= self._waiting:
                self._forget_cancelled(studies)
            if self._count(owner) >= self._waiting:
                raise FullError(
                    f"{self._waiting} requests of owner {owner!r} are waiting or running already. "
                    "Try again later."
                )
            studies.setdefault(study, collections.deque()).append((future, job))
            self._changed.notify()
        return future

    def close(self, wait: float) -> bool:
        """Drops waiting jobs and waits for running ones, `wait` seconds at most.

        Returns:
          Whether all have ended.
        """
        with self._changed:
            self._closed = True
            for studies in self._owners.values():
                for jobs in studies.values():
                    for future, _ in jobs:
                        if future.set_running_or_notify_cancel():
                            future.set_exception(ClosedError("the service stops."))
            self._owners.clear()
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._running.total(), wait)

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        with self._changed:
            return sum(len(jobs) for of in self._owners.values() for jobs in of.values())

    def _count(self, owner: str) -> int:
        waiting = sum(len(jobs) for jobs in self._owners.get(owner, {}).values())
        return waiting + self._running[owner]

    @staticmethod
    def _forget_cancelled(studies: "collections.OrderedDict[str, collections.deque]") -> None:
        for jobs in studies.values():
            left = [each for each in jobs if not each[0].cancelled()]
            jobs.clear()
            jobs.extend(left)

    def _work(self) -> None:
        while True:
            with self._changed:
                while (found := self._next()) is None:
                    if self._closed:
                        return
                    self._changed.wait()
                owner, study, future, job = found
                # From here on it cannot be cancelled.
                if not future.set_running_or_notify_cancel():
                    continue
                self._running[owner] += 1
                self._busy[owner, study] += 1
            try:
                result = job()
            except BaseException as error:  # it belongs to whoever waits for the result
                future.set_exception(error)
            else:
                future.set_result(result)
                del result
            with self._changed:
                self._running -= collections.Counter({owner: 1})
                self._busy -= collections.Counter({(owner, study): 1})
                self._changed.notify_all()
            del future, job, found

    def _next(self) -> tuple[str, str, Future, Callable[[], object]] | None:
        """Takes the job whose turn it is out of the queue; None if there is none."""
        for owner, studies in self._owners.items():
            if self._running[owner] >= self._per_owner:
                continue
            for study, jobs in studies.items():
                if not jobs or (self._one_per_study and self._busy[owner, study]):
                    continue
                future, job = jobs.popleft()
                studies.move_to_end(study)
                if not jobs:
                    del studies[study]
                self._owners.move_to_end(owner)
                if not studies:
                    del self._owners[owner]
                return owner, study, future, job
        return None
