"""Work in many processes ends with the same results or the same error, wherever it is done."""

import builtins
import os
from pathlib import Path

import pytest

from optformer.data.processes import WorkerDied, each
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


def test_every_task_comes_back_with_its_result(place: dict) -> None:
    assert dict(each(_half, range(9), **place)) == {n: n / 2 for n in range(9)}


def test_an_error_comes_back_as_it_was_and_the_rest_is_dropped(place: dict, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^-1 is negative\.$"):
        list(each(_half, [1, -1], **place))
    with pytest.raises(ConfigError, match="the first fails"):
        list(each(_mark, [tmp_path / str(n) for n in range(1000)], **place))
    assert len(list(tmp_path.iterdir())) < 1000


def test_a_death_is_told(place: dict) -> None:
    if place == {"workers": 1}:
        pytest.skip("it would be this process's")
    with pytest.raises(WorkerDied, match=r"a (worker )?process .*died"):
        list(each(_end, [1], **place))


def test_the_environment_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    assert dict(each(os.getenv, ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"], workers=2)) == {
        "OMP_NUM_THREADS": "3",  # the user's wins
        "OPENBLAS_NUM_THREADS": "1",
    }
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "OPENBLAS_NUM_THREADS" not in os.environ


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999", "here"])
def test_a_wrong_address_is_refused_at_once(address: str) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'optformer[ray]'")
    with pytest.raises(ConfigError, match=rf"no Ray cluster at '{address}'.*\"auto\""):
        list(each(_half, [1], cluster=address))


def test_without_ray_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_ray(name: str, *rest: object) -> object:
        if name == "ray":
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(ConfigError, match=r"pip install 'optformer\[ray\]'"):
        list(each(_half, [1], cluster="auto"))
