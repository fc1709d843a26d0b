"""A run's configuration: files, overrides, and error messages."""

from pathlib import Path

import pytest

from optformer.data.mixture import GenerateConfig, Part
from optformer.errors import ConfigError
from optformer.model.config import MODELS
from optformer.settings import from_tree, to_tree
from optformer.training.config import (
    FINE_TUNING_RATE,
    RunConfig,
    load_config,
    run_config,
    save_config,
)


def test_a_saved_config_loads_back_equal(tmp_path: Path) -> None:
    config = load_config(None, ["model=micro", "train.steps=7", 'data.shards=["a", "b"]'])
    save_config(config, tmp_path / "run.toml")
    assert load_config(tmp_path / "run.toml") == config
    assert config.train.steps == 7
    assert config.data.shards == ("a", "b")


def test_a_named_model_can_be_changed() -> None:
    config = load_config(None, ["model=small", "model.dropout=0.1"])
    assert config.model.width == MODELS["small"].width
    assert config.model.dropout == 0.1


def test_a_run_resumes_with_its_own_settings_and_shards_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    monkeypatch.chdir(tmp_path)
    first = run_config(
        out, None, ["train.steps=7", 'data.shards=["a"]'], shards=[Path("b")], init=Path("model")
    )
    assert first.data.shards == (str(tmp_path / "a"), str(tmp_path / "b"))
    assert first.init == str(tmp_path / "model")
    save_config(first, out / "config.toml")
    monkeypatch.chdir(out)
    assert run_config(out) == first
    # Overrides change them.
    longer = run_config(out, None, ["train.steps=8"])
    assert longer.train.steps == 8
    assert longer.data == first.data


def test_fine_tuning_is_slower_unless_a_rate_is_given(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[train]\nsteps = 5\n[optimizer]\nwarmup = 5\n")
    out = tmp_path / "out"
    default = RunConfig().optimizer.learning_rate
    base = tmp_path / "base"

    def rate(path: Path | None = None, *overrides: str, init: Path | None = base) -> float:
        return run_config(out, path, overrides, init=init).optimizer.learning_rate

    assert rate(init=None) == default
    assert rate() == rate(file) == FINE_TUNING_RATE < default / 5
    assert rate(None, f"init={base}", init=None) == FINE_TUNING_RATE
    # Even if the given rate is the default.
    assert rate(file, f"optimizer.learning_rate={default}") == default
    file.write_text("[optimizer]\nlearning_rate = 0.5\n")
    assert rate(file) == 0.5
    # The run's own configuration then has the rate.
    out.mkdir()
    save_config(run_config(out, init=base), out / "config.toml")
    assert rate(init=None) == FINE_TUNING_RATE


def test_a_run_folder_can_be_given_for_its_checkpoint(tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "checkpoint").mkdir(parents=True)
    assert run_config(tmp_path / "out", init=base).init == str(base)
    (base / "config.toml").touch()
    assert run_config(tmp_path / "out", init=base).init == str(base / "checkpoint")


def test_without_settings_all_are_defaults() -> None:
    assert load_config() == RunConfig()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.step=7", "no setting train.step. Did you mean train.steps"),
        ("trian.steps=7", "no setting trian. Did you mean train"),
        ("train.steps=many", "train.steps='many' must be of type int"),
        ("train.steps=0", "train.steps=0 must be at least 1"),
        ("optimizer.name=sgd", "must be one of adamw, adafactor"),
        ("model=tiney", "no model 'tiney'.*Did you mean tiny"),
        ("train.steps", "not of the form section.field=value"),
        ("train=5", "must be a section"),
        ("model.dropout=1.5", r"model.dropout=1.5 must lie in \[0, 1\)"),
    ],
)
def test_mistakes_are_named_with_the_way_out(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(None, [override])


def test_missing_and_invalid_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config file .*absent\.toml"):
        load_config(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("model = [")
    with pytest.raises(ConfigError, match="not a TOML file"):
        load_config(tmp_path / "bad.toml")


def test_a_mixture_of_problems_is_a_list_of_sections() -> None:
    config = GenerateConfig(mixture=(Part(problems="bbob"), Part(problems="layered", weight=2.0)))
    assert from_tree(GenerateConfig, to_tree(config)) == config


@pytest.mark.parametrize("field", ["tokenizer.centred=false", "tokenizer.separators=true"])
def test_the_released_format_has_no_experts(field: str) -> None:
    with pytest.raises(ConfigError, match=r"Set model\.experts=false"):
        load_config(None, [field])
    assert load_config(None, [field, "model.experts=false"]).model.experts is False
