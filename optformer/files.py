"""Atomic writes, and the folder for caches."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def cache_folder() -> Path:
    """The folder for caches: optformer in $XDG_CACHE_HOME, by default in ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache") / "optformer"


@contextlib.contextmanager
def atomic_write(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """A temporary path to write to, renamed to `path` when the block ends.

    A reader never sees half a file, even if the process is killed. If the block raises, the file
    at `path` stays as it was.

    Args:
      shared: whether several processes may write the same file at once. Each then has its own
        temporary file, and the last rename wins. Otherwise the temporary file of a killed process
        is overwritten.
    """
    writer = f".{os.getpid()}" if shared else ""
    temporary = path.with_name(f".{path.name}{writer}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
