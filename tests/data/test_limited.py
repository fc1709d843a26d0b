"""A call that takes too long is ended, and the next one works."""

import os
import time

import pytest

from optformer.data.limited import Limited, TimedOut
from optformer.data.processes import WorkerDied
from optformer.errors import ConfigError


def _work(task: str | float) -> object:
    if task == "pid":
        return os.getpid()
    if task == "die":
        os._exit(1)
    if task == "fail":
        raise ConfigError("no such thing")
    time.sleep(float(task))
    return task


def test_calls_that_take_too_long_are_ended_and_others_return() -> None:
    limited: Limited[str | float, object] = Limited(_work)
    try:
        first = limited("pid", 60.0)
        assert first != os.getpid()
        assert limited(0.01, 60.0) == 0.01
        with pytest.raises(ConfigError, match="no such thing"):
            limited("fail", 60.0)
        assert limited("pid", 60.0) == first
        began = time.monotonic()
        with pytest.raises(TimedOut, match=r"longer than 0\.2 s"):
            limited(600.0, 0.2)
        assert time.monotonic() - began < 60
        with pytest.raises(ProcessLookupError):
            os.kill(int(str(first)), 0)
        second = limited("pid", 60.0)
        assert second != first
        with pytest.raises(WorkerDied, match="died"):
            limited("die", 60.0)
        assert limited("pid", 60.0) != second
    finally:
        limited.close()
