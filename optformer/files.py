"""Atomic writes, and the folder for caches."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def cache_folder() -> Path:
    """The folder for caches: optformer in $XDG_CACHE_HOME, by default in ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache") / "optformer"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A lock on a folder until the block or the process ends, which other processes respect.

    Where the file system has no locks, there is none.

    Raises:
      BlockingIOError: another process, or another block of this one, has the lock.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)


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
