"""Settings files: extension of other files, and writing."""

import dataclasses
import tomllib
from pathlib import Path
from typing import ClassVar

import pytest

from optformer.errors import ConfigError
from optformer.settings import read_config, to_toml


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    NAMED: ClassVar[dict[str, "Shape"]] = {}
    width: int = 8
    depth: int = 2


Shape.NAMED["small"] = Shape(width=16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    name: str = ""
    share: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    shape: Shape = dataclasses.field(default_factory=Shape)
    parts: tuple[Part, ...] = ()
    steps: int = 1
    exact: bool = False


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_a_file_changes_the_one_that_it_extends(tmp_path: Path) -> None:
    write(tmp_path / "base.toml", 'shape = "small"\nsteps = 3\nparts = [{name = "a"}]\n')
    (tmp_path / "inner").mkdir()
    write(tmp_path / "middle.toml", 'extends = "base.toml"\n[shape]\ndepth = 5\n')
    last = write(tmp_path / "inner" / "last.toml", 'extends = "../middle.toml"\nparts = []\n')
    assert read_config(Run, last, ["exact=true"]) == Run(
        shape=Shape(width=16, depth=5), steps=3, exact=True
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "self.toml"', "self.toml extends self.toml, which extends it"),
        ('extends = "gone.toml"', r"no config file .*gone\.toml, which .*self\.toml extends"),
        ("extends = 3", "extends=3 must be the path of a TOML file"),
    ],
)
def test_missing_and_circular_extensions_are_errors(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(Run, write(tmp_path / "self.toml", text))


def test_written_settings_are_toml_and_read_back_equal(tmp_path: Path) -> None:
    run = Run(
        parts=(Part(name='quote " \\ \n \x7f é', share=1e-05), Part(share=float("inf"))), exact=True
    )
    text = to_toml(run)
    assert tomllib.loads(text)["exact"] is True
    assert read_config(Run, write(tmp_path / "run.toml", text)) == run
    assert read_config(Run, write(tmp_path / "empty.toml", to_toml(Run()))) == Run()
