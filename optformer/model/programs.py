"""A cache of compiled programs in a folder, for later processes on the same machine."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from optformer.errors import ConfigError, make_folder


@contextlib.contextmanager
def cached_programs(folder: Path) -> Iterator[None]:
    """Within the block, JAX caches programs that compile for more than a second in this folder.

    A resumed run then starts without compiling again. The cache is switched off when the block
    ends, because other programs of the same process were seen to fail with it. A cache that the
    user has configured in JAX is used instead.

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
            # The last process was killed, perhaps while it wrote the newest entry.
            for newest in sorted(folder.glob("*-cache"), key=os.path.getmtime)[-1:]:
                newest.unlink()
        unfinished.touch()
    except OSError as error:
        raise ConfigError(
            f"compiled programs cannot be cached in {folder}: {error.strerror}. Free some space "
            "there, or choose another folder."
        ) from error
    # JAX reads the setting once, until the cache is reset.
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(folder))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)  # type: ignore[no-untyped-call]
        compilation_cache.reset_cache()
        unfinished.unlink(missing_ok=True)
