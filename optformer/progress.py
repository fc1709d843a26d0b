"""The progress callback of long computations, so that they do not depend on a terminal."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Called with the number of finished pieces, the total, and a short note to display."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def silent(done: int, total: int, note: str = "") -> None:
    """Ignores progress; the default."""
