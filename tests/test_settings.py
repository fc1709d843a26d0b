"""Settings: reading, overrides, presets and checks, on a small class."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from optformer.errors import ConfigError
from optformer.settings import check_ranges, flat_tree, from_tree, read_config, read_tree, to_tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    NAMED: ClassVar[dict[str, "Inner"]] = {}

    size: int = 3
    rate: float = 0.5
    mode: Literal["slow", "fast"] = "slow"


Inner.NAMED["large"] = Inner(size=300)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    names: tuple[str, ...] = ()
    limit: int | None = None
    on: bool = False


CHANGED = Outer(inner=Inner(size=7, mode="fast"), names=("a", "b"), limit=9, on=True)


def test_a_tree_of_plain_values_reads_back_equal() -> None:
    for config in (Outer(), CHANGED):
        assert from_tree(Outer, to_tree(config)) == config


def test_flat_settings_are_overrides_that_give_the_config_back() -> None:
    overrides = [
        f"{key}={'true' if value is True else value}" for key, value in flat_tree(CHANGED).items()
    ]
    assert "inner.size=7" in overrides
    assert read_config(Outer, None, overrides) == CHANGED


def test_overrides_change_the_file_and_defaults_fill_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("names = ['x']\n[inner]\nsize = 4\nrate = 2\n")
    config = read_config(Outer, path, ["inner.size=5", "on=true", "inner.mode=fast"])
    assert config == Outer(inner=Inner(size=5, rate=2.0, mode="fast"), names=("x",), on=True)
    # The tree holds only the given settings.
    assert read_tree(Outer, path, ["on=true"]).keys() == {"names", "inner", "on"}


def test_a_preset_can_be_named_and_changed() -> None:
    assert read_config(Outer, None, ["inner=large"]).inner == Inner.NAMED["large"]
    changed = read_config(Outer, None, ["inner=large", "inner.rate=0.1"]).inner
    assert changed == Inner(size=300, rate=0.1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner.siez=1", "no setting inner.siez. Did you mean inner.size"),
        ("inner.size=1.5", r"inner\.size=1\.5 must be of type int"),
        ("inner.size=true", "inner.size=True must be of type int"),
        ("on=1", "on=1 must be of type bool"),
        ("inner.mode=quick", "inner.mode='quick' must be one of slow, fast"),
        ("inner=huge", "there is no inner 'huge'. Known: large"),
        ("names=x", "names='x' must be a list"),
        ("limit.most=3", "must be of type int"),
        ("on", "'on' is not of the form section.field=value"),
    ],
)
def test_errors_name_the_setting_the_value_and_the_rule(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(Outer, None, [override])


def test_ranges_include_their_ends() -> None:
    check_ranges(Inner(size=3), "inner.", size=(3, 3), rate=(0, None))
    with pytest.raises(ConfigError, match=r"inner\.size=3 must be between 4 and 9"):
        check_ranges(Inner(), "inner.", size=(4, 9))
    with pytest.raises(ConfigError, match=r"inner\.rate=0\.5 must be at least 1"):
        check_ranges(Inner(), "inner.", rate=(1, None))
