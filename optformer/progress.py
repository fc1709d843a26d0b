"""How long work says how far it is: a plain function, so that no stage knows of terminals."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Is told how many of how many pieces are done, and in a few words what matters now."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def silent(done: int, total: int, note: str = "") -> None:
    """Progress that nobody watches."""
