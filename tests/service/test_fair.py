"""Whose job is next."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from optformer.service.fair import ClosedError, FairQueue
from optformer.service.limits import FullError


@pytest.fixture
def make() -> Iterator[Callable[..., FairQueue]]:
    queues = []

    def made(**options: int) -> FairQueue:
        defaults = {"threads": 1, "per_owner": 1, "waiting": 1000, "one_per_study": True}
        queues.append(FairQueue("test", **defaults | options))
        return queues[-1]

    yield made
    for queue in queues:
        queue.close(10.0)


def held(queue: FairQueue, owner: str = "holder", study: str = "s") -> Callable[[], None]:
    """Occupies a thread until the returned function is called."""
    begun, go = threading.Event(), threading.Event()

    def job() -> None:
        begun.set()
        assert go.wait(20)

    queue.submit(owner, study, job)
    assert begun.wait(20)
    return go.set


def test_owners_and_their_studies_take_turns(make: Callable[..., FairQueue]) -> None:
    queue, order = make(), []
    release = held(queue)
    wanted = [("a", "1")] * 4 + [("a", "2")] * 2 + [("b", "1")] * 2
    futures = [
        queue.submit(owner, study, lambda each=(owner, study): order.append(each))
        for owner, study in wanted
    ]
    assert queue.waiting == 8
    release()
    for future in futures:
        future.result(20)
    one, two, other = ("a", "1"), ("a", "2"), ("b", "1")
    assert order == [one, other, two, other, one, two, one, one]


def test_an_owner_cannot_take_the_last_thread(make: Callable[..., FairQueue]) -> None:
    queue = make(threads=2, per_owner=1)
    release = held(queue, "greedy", "1")
    waiting = queue.submit("greedy", "2", lambda: None)
    assert queue.submit("other", "1", lambda: "at once").result(20) == "at once"
    assert not waiting.done()
    release()
    waiting.result(20)


@pytest.mark.parametrize("one_per_study", [True, False])
def test_jobs_of_a_study_run_one_after_another_if_wanted(
    make: Callable[..., FairQueue], one_per_study: bool
) -> None:
    queue = make(threads=4, per_owner=4, one_per_study=one_per_study)
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    lock, pause = threading.Lock(), threading.Event()

    def job(study: str) -> None:
        with lock:
            running[study] += 1
            most[study] = max(most[study], running[study])
        pause.wait(0.02)
        with lock:
            running[study] -= 1

    studies = ["s1", "s2"] * 8
    for future in [queue.submit("o", study, lambda s=study: job(s)) for study in studies]:
        future.result(20)
    assert (max(most.values()) == 1) == one_per_study


def test_a_job_that_nobody_waits_for_does_not_run(make: Callable[..., FairQueue]) -> None:
    queue, ran = make(), []
    release = held(queue)
    unwanted = queue.submit("o", "s", lambda: ran.append("unwanted"))
    wanted = queue.submit("o", "s", lambda: ran.append("wanted"))
    assert unwanted.cancel()
    release()
    wanted.result(20)
    assert ran == ["wanted"]


def test_an_owner_has_so_many_jobs_and_the_others_have_theirs(
    make: Callable[..., FairQueue],
) -> None:
    queue = make(waiting=3)
    release = held(queue)
    mine = [queue.submit("o", "s", lambda: None) for _ in range(3)]
    with pytest.raises(FullError, match="3 requests of owner 'o' are waiting"):
        queue.submit("o", "t", lambda: None)
    others = queue.submit("p", "s", lambda: None)
    mine[0].cancel()  # makes room
    again = queue.submit("o", "t", lambda: None)
    release()
    for future in (*mine[1:], others, again):
        future.result(20)


def test_an_error_is_its_own_jobs(make: Callable[..., FairQueue]) -> None:
    queue = make()
    failing = queue.submit("o", "s", lambda: 1 // 0)
    assert queue.submit("o", "s", lambda: "next").result(20) == "next"
    with pytest.raises(ZeroDivisionError):
        failing.result(20)


def test_a_closed_queue_tells_those_who_wait(make: Callable[..., FairQueue]) -> None:
    queue = make()
    release = held(queue)
    waiting = queue.submit("o", "s", lambda: None)
    assert not queue.close(0.0)  # one runs
    with pytest.raises(ClosedError):
        waiting.result(0)
    with pytest.raises(ClosedError):
        queue.submit("o", "s", lambda: None)
    release()
    assert queue.close(20.0)
