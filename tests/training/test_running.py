"""Signals that stop a run."""

import os
import signal

import pytest

from optformer.training import running


def test_a_second_interrupt_ends_at_once() -> None:
    # Processes in a shell's background ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with running.signals() as stopped:
            assert stopped() == 0
            os.kill(os.getpid(), signal.SIGINT)
            assert stopped() == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
