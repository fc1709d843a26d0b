"""Compiled programs are kept in a folder, and only where they should be."""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from optformer.model.programs import kept_programs


@pytest.fixture
def keep_all() -> Iterator[None]:
    """Keeps programs however fast they compile."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 0.0)
    yield
    jax.config.update(name, before)


def compile_another(number: float) -> None:
    jax.jit(lambda x: x * number + 1)(jnp.ones(3)).block_until_ready()


def kept(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*-cache")}


def test_programs_are_kept_within_the_block_only(keep_all: None, tmp_path: Path) -> None:
    folder = tmp_path / "programs"
    with kept_programs(folder):
        compile_another(2.0)
        there = kept(folder)
        assert there
    compile_another(3.0)
    assert kept(folder) == there
    assert jax.config.jax_compilation_cache_dir is None
    assert not (folder / "unfinished").exists()


def test_a_cache_that_jax_was_told_of_stays(keep_all: None, tmp_path: Path) -> None:
    with kept_programs(tmp_path / "outer"):
        with kept_programs(tmp_path / "inner"):
            compile_another(4.0)
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "outer")
    assert kept(tmp_path / "outer")
    assert not (tmp_path / "inner").exists()


def test_what_a_killed_run_may_have_been_writing_is_dropped(tmp_path: Path) -> None:
    for age, name in enumerate(("newest", "older", "oldest")):
        path = tmp_path / f"{name}-cache"
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    with kept_programs(tmp_path):
        assert kept(tmp_path) == {"newest-cache", "older-cache", "oldest-cache"}
    (tmp_path / "unfinished").touch()
    with kept_programs(tmp_path):
        assert kept(tmp_path) == {"older-cache", "oldest-cache"}
