"""The cache of compiled programs is active only inside its block."""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from optformer.model.programs import cached_programs


@pytest.fixture
def cache_all() -> Iterator[None]:
    """Caches also programs that compile fast."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 0.0)
    yield
    jax.config.update(name, before)


def compile_another(number: float) -> None:
    jax.jit(lambda x: x * number + 1)(jnp.ones(3)).block_until_ready()


def cached(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*-cache")}


def test_programs_are_cached_within_the_block_only(cache_all: None, tmp_path: Path) -> None:
    folder = tmp_path / "programs"
    with cached_programs(folder):
        compile_another(2.0)
        there = cached(folder)
        assert there
    compile_another(3.0)
    assert cached(folder) == there
    assert jax.config.jax_compilation_cache_dir is None
    assert not (folder / "unfinished").exists()


def test_a_cache_that_the_user_configured_is_used_instead(cache_all: None, tmp_path: Path) -> None:
    with cached_programs(tmp_path / "outer"):
        with cached_programs(tmp_path / "inner"):
            compile_another(4.0)
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "outer")
    assert cached(tmp_path / "outer")
    assert not (tmp_path / "inner").exists()


def test_the_newest_entry_of_a_killed_run_is_deleted(tmp_path: Path) -> None:
    for age, name in enumerate(("newest", "older", "oldest")):
        path = tmp_path / f"{name}-cache"
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    with cached_programs(tmp_path):
        assert cached(tmp_path) == {"newest-cache", "older-cache", "oldest-cache"}
    (tmp_path / "unfinished").touch()
    with cached_programs(tmp_path):
        assert cached(tmp_path) == {"older-cache", "oldest-cache"}
