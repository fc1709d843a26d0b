"""Batches from other processes: the same batches, in order, and no process remains."""

import dataclasses
import os
import pickle
import time
from collections.abc import Iterator

import numpy as np
import pytest

from optformer.errors import SourceError
from optformer.training.batches import Batches, StudySource
from optformer.training.feed import FeedError, feed
from tests.training.test_batches import CONFIG, STUDIES, TOKENIZER


@dataclasses.dataclass(frozen=True)
class Squares:
    """Squares of numbers, with a failure at one of them."""

    bad: int = -1
    dies: bool = False

    def __getitem__(self, number: int) -> tuple[int, int]:
        if number == self.bad and self.dies:
            os._exit(3)
        if number == self.bad:
            raise SourceError(f"no square of {number}")
        print("what a source prints does not stand between batches")
        return number * number, os.getpid()


@pytest.fixture(params=[0, 1, 3])
def workers(request: pytest.FixtureRequest) -> int:
    return request.param


def test_items_are_in_order_from_any_number_of_processes(workers: int) -> None:
    with feed(Squares(), 5, 12, workers) as items:
        squares, processes = zip(*items, strict=True)
    assert squares == tuple(number**2 for number in range(5, 12))
    assert len(set(processes)) == max(1, workers)
    assert (os.getpid() in processes) == (workers == 0)


def test_batches_do_not_depend_on_the_number_of_workers(workers: int) -> None:
    batches = Batches([(StudySource(STUDIES), 1.0)], TOKENIZER, CONFIG, 0)
    with feed(batches, 3, 6, workers) as items:
        for step, got in enumerate(items, start=3):
            for one, other in zip(got, batches[step], strict=True):
                np.testing.assert_array_equal(one, other)


def test_an_error_in_a_worker_is_raised(workers: int) -> None:
    with feed(Squares(bad=2), 0, 4, workers) as items:
        assert next(items)[0] == 0
        assert next(items)[0] == 1
        with pytest.raises(SourceError, match="no square of 2"):
            next(items)


def test_a_killed_worker_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        feed(Squares(bad=1, dies=True), 0, 4, 2) as items,
        pytest.raises(FeedError, match="makes batch 1 ended with status 3"),
    ):
        list(items)


def test_no_process_outlives_its_feed() -> None:
    with feed(Squares(), 0, 10_000, 2) as items:
        processes = {next(items)[1] for _ in range(4)}

    def left() -> Iterator[int]:
        for process in processes:
            try:
                os.kill(process, 0)
                yield process
            except ProcessLookupError:
                pass

    for _ in range(50):
        if not list(left()):
            break
        time.sleep(0.1)
    assert not list(left())


def test_an_empty_feed_has_no_items(workers: int) -> None:
    with feed(Squares(), 3, 3, workers) as items:
        assert list(items) == []


def test_an_item_source_that_cannot_be_sent_to_a_process_is_an_error() -> None:
    class Local(Squares):
        pass

    with (
        feed(Local(), 0, 4, 1) as items,
        pytest.raises((AttributeError, pickle.PicklingError), match="Local"),
    ):
        next(items)
