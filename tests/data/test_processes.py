"""Parallel tasks give the same results or errors in any kind of process."""

import builtins
import os
from pathlib import Path

import pytest

from optformer.data.processes import WorkerDied, run_tasks
from optformer.errors import ConfigError

PLACES = [{"workers": 1}, {"workers": 2}, {"cluster": "local"}]


@pytest.fixture(params=PLACES, ids=["here", "processes", "ray"])
def place(request: pytest.FixtureRequest) -> dict:
    if "cluster" in request.param:
        pytest.importorskip("ray", reason="Ray is an extra: pip install 'optformer[ray]'")
    return request.param


def _half(number: int) -> float:
    if number < 0:
        raise ConfigError(f"{number} is negative.")
    return number / 2


def _end(number: int) -> None:
    os._exit(number)


def _mark(path: Path) -> None:
    path.touch()
    if path.name == "0":
        raise ConfigError("the first fails.")


def test_every_task_is_returned_with_its_result(place: dict) -> None:
    assert dict(run_tasks(_half, range(9), **place)) == {n: n / 2 for n in range(9)}


def test_an_error_is_raised_unchanged_and_no_further_task_starts(
    place: dict, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"^-1 is negative\.$"):
        list(run_tasks(_half, [1, -1], **place))
    with pytest.raises(ConfigError, match="the first fails"):
        list(run_tasks(_mark, [tmp_path / str(n) for n in range(1000)], **place))
    assert len(list(tmp_path.iterdir())) < 1000


def test_a_killed_worker_is_reported(place: dict) -> None:
    if place == {"workers": 1}:
        pytest.skip("the task would end this process")
    with pytest.raises(WorkerDied, match=r"a (worker )?process .*died"):
        list(run_tasks(_end, [1], **place))


def test_the_environment_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    assert dict(run_tasks(os.getenv, ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"], workers=2)) == {
        "OMP_NUM_THREADS": "3",  # the user's setting is kept
        "OPENBLAS_NUM_THREADS": "1",
    }
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "OPENBLAS_NUM_THREADS" not in os.environ


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999", "here"])
def test_an_invalid_address_is_rejected_at_once(address: str) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'optformer[ray]'")
    with pytest.raises(ConfigError, match=rf"no Ray cluster at '{address}'.*\"auto\""):
        list(run_tasks(_half, [1], cluster=address))


def test_without_ray_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_ray(name: str, *rest: object) -> object:
        if name == "ray":
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(ConfigError, match=r"pip install 'optformer\[ray\]'"):
        list(run_tasks(_half, [1], cluster="auto"))
