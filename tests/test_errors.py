"""The parts that error messages are made of."""

from pathlib import Path

import pytest

from optformer.errors import (
    ConfigError,
    OptFormerError,
    StudyError,
    did_you_mean,
    make_folder,
    plural,
)


def test_a_misspelt_name_gets_the_nearest_as_a_hint() -> None:
    assert did_you_mean("acuracy", ["loss", "accuracy"]) == " Did you mean accuracy?"
    assert did_you_mean("stpe", ["steps"], prefix="train.") == " Did you mean train.steps?"
    assert did_you_mean("something else", ["loss", "accuracy"]) == ""
    assert did_you_mean("note", ["state"], alike=0.75) == ""


def test_plural_counts() -> None:
    assert [plural(n, "study") for n in (0, 1, 2000)] == ["0 studies", "1 study", "2,000 studies"]
    assert plural(3, "trial") == "3 trials"


def test_make_folder_creates_parents_and_names_the_obstacle(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")  # existing folders are fine
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file, but must be a folder"):
        make_folder(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot be created: Not a directory"):
        make_folder(tmp_path / "file" / "below")


def test_errors_can_be_caught_as_one_and_as_builtins() -> None:
    for error in (ConfigError, StudyError):
        assert issubclass(error, OptFormerError) and issubclass(error, ValueError)
