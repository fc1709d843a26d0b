"""The errors for users. Each message names the thing, its value, the rule, and a way out."""

import difflib
from collections.abc import Iterable
from pathlib import Path


class OptFormerError(Exception):
    """Base of every error that optformer raises for bad input."""


class StudyError(OptFormerError, ValueError):
    """A study, trial or search space that breaks a rule."""


class SourceError(OptFormerError):
    """A study log or shard folder that cannot be read at all."""


class ConfigError(OptFormerError, ValueError):
    """A setting that does not exist or has an illegal value."""


class CheckpointError(OptFormerError):
    """A checkpoint that is missing, damaged, or does not fit its vocabulary or version."""


class TeacherError(OptFormerError, ValueError):
    """A search space that an algorithm cannot handle."""


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "", alike: float = 0.6) -> str:
    """A hint to end a message about an unknown name: " Did you mean X?", or an empty string.

    Args:
      prefix: shown before the suggested name.
      alike: the least similarity, from 0 to 1, of the suggested name.
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=alike)
    return f" Did you mean {prefix}{near[0]}?" if near else ""


def plural(count: int, one: str) -> str:
    """`1 study`, `2,000 studies`."""
    many = one[:-1] + "ies" if one.endswith("y") else one + "s"
    return f"{count:,} {one if count == 1 else many}"


def make_folder(folder: Path) -> None:
    """Creates the folder and its parents if they do not exist.

    Raises:
      ConfigError: the path is a file, or the folder cannot be created; gives the reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ConfigError(f"{folder} is a file, but must be a folder. Choose another.") from error
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be created: {error.strerror}.") from error
