"""Files that are there whole or not at all, and where to keep what can be computed again."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def cache_folder() -> Path:
    """Where what can be computed again is kept: $XDG_CACHE_HOME/optformer, or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache") / "optformer"


@contextlib.contextmanager
def whole(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Where to write a file that takes its place at `path` once the block ends.

    Nobody reads half of it, also if the process is killed; if the block fails, nothing changes.

    Args:
      shared: whether several processes may write the same file; then the last one's stays.
        Otherwise what a killed one left is written over.
    """
    writer = f".{os.getpid()}" if shared else ""
    unfinished = path.with_name(f".{path.name}{writer}.partial")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
