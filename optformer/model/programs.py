"""A cache of compiled programs in a folder, for the next process on the same machine."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from optformer.errors import ConfigError, make_folder


@contextlib.contextmanager
def kept_programs(folder: Path) -> Iterator[None]:
    """Within the block, programs that take longer than a second to compile are kept in the folder.

    A resumed run then starts at once. The cache ends with the block: with it, other programs of the
    same process have been seen to fail. A cache that the user configured in JAX stays.

    Raises:
      ConfigError: the folder cannot be written to.
    """
    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        yield
        return
    unfinished = folder / "unfinished"
    make_folder(folder)
    try:
        if unfinished.exists() and jax.process_index() == 0:
            # The last run was killed, and may have been while it wrote the newest.
            for newest in sorted(folder.glob("*-cache"), key=os.path.getmtime)[-1:]:
                newest.unlink()
        unfinished.touch()
    except OSError as error:
        raise ConfigError(
            f"compiled programs cannot be kept in {folder}: {error.strerror}. Make room there, or "
            "name another folder."
        ) from error
    # JAX looks at the setting once, until it is reset.
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(folder))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)  # type: ignore[no-untyped-call]
        compilation_cache.reset_cache()
        unfinished.unlink(missing_ok=True)
