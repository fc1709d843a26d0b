"""How long work says how far it is: a plain function, so that no stage knows of terminals."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from rich.console import Console


@runtime_checkable
class Progress(Protocol):
    """Is told how many of how many pieces are done, and in a few words what matters now."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def silent(done: int, total: int, note: str = "") -> None:
    """Progress that nobody watches."""


@contextlib.contextmanager
def bar(title: str, console: "Console") -> Iterator[Progress]:
    """A progress bar with its title, share, note and time left; gone when the work is done.

    Where output is not a terminal nothing is drawn: the work's own result line says enough.
    """
    from rich.progress import (
        BarColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    if not console.is_terminal:
        yield silent
        return
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("[dim]{task.fields[note]}"),
        console=console,
        transient=True,
    )
    with bars:
        task = bars.add_task(title, total=None, note="")

        def report(done: int, total: int, note: str = "") -> None:
            bars.update(task, completed=done, total=total, note=note)

        yield report
