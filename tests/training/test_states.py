"""Saved states: damage is detected, and an older state is used instead."""

import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from optformer.errors import CheckpointError
from optformer.training.states import States, fingerprint
from optformer.training.step import State

# Orbax leaves what it was reading when it fails.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def state(number: int) -> State:
    rng = np.random.default_rng(number)
    return {
        "weights": {"a": [jnp.asarray(rng.normal(size=(64, 32)), jnp.float32)]},
        "step": jnp.int32(number),
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    with States(folder) as states:
        for step in (1, 2, 3):
            states.save(step, state(step))
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run"))


def restored(folder: Path) -> tuple[State, list[str]]:
    said: list[str] = []
    with States(folder) as states:
        return states.restore(state(0), said.append), said


def largest_file(folder: Path) -> Path:
    return max(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_the_last_state_is_restored_to_the_bit(folder: Path) -> None:
    found, said = restored(folder)
    assert fingerprint(found) == fingerprint(state(3))
    assert said == []


def test_without_a_state_the_start_is_returned(tmp_path: Path) -> None:
    assert fingerprint(restored(tmp_path)[0]) == fingerprint(state(0))


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_a_damaged_state_is_reported_and_moved(damage: object, folder: Path) -> None:
    damage(largest_file(folder / "state" / "3"))
    found, said = restored(folder)
    assert fingerprint(found) == fingerprint(state(2))
    assert len(said) == 1
    assert "state of step 3 is damaged" in said[0]
    assert (folder / "damaged-3").is_dir()
    # The step can be saved again, and the older state is kept.
    with States(folder) as states:
        states.save(3, state(3))
    assert fingerprint(restored(folder)[0]) == fingerprint(state(3))


@pytest.mark.parametrize("damage", [cut, flip])
def test_damage_of_any_file_of_a_state_is_detected(damage: object, folder: Path) -> None:
    files = [path for path in sorted((folder / "state" / "3").rglob("*")) if path.is_file()]
    right = {fingerprint(state(3)), fingerprint(state(2))}
    for path in files:
        before = path.read_bytes()
        if before:
            damage(path)
            found, _ = restored(folder)
            assert fingerprint(found) in right, path
            shutil.rmtree(folder)
            shutil.copytree(folder.parent / "copy", folder)
    assert files


@pytest.fixture(autouse=True)
def copy(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "copy")


def test_if_all_states_are_damaged_there_is_an_error_and_they_are_kept(folder: Path) -> None:
    for step in ("2", "3"):
        cut(largest_file(folder / "state" / step))
    with pytest.raises(CheckpointError, match=r"no state .* can be read. Step 3: .* Step 2: "):
        restored(folder)
    assert (folder / "state" / "3").is_dir()


def test_states_saved_without_fingerprints_can_be_read(folder: Path) -> None:
    (folder / "states.json").unlink()
    assert fingerprint(restored(folder)[0]) == fingerprint(state(3))


def test_a_fingerprint_depends_on_every_bit_and_the_order() -> None:
    array = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    seen = {fingerprint({"a": jnp.asarray(array)}), fingerprint({"a": jnp.asarray(array[::-1])})}
    for bit in (0, 7, 31):
        changed = array.copy()
        changed.view(np.uint32)[2, 4] ^= np.uint32(1 << bit)
        seen.add(fingerprint({"a": jnp.asarray(changed)}))
    assert len(seen) == 5
