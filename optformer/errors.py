"""The errors that users meet. Each message names the thing, its value, the rule, and a way out."""


class OptFormerError(Exception):
    """Base of every error that optformer raises for bad input."""


class StudyError(OptFormerError, ValueError):
    """A study, trial or search space that breaks a rule."""


class SourceError(OptFormerError):
    """A study log or shard folder that cannot be read at all."""


class ConfigError(OptFormerError, ValueError):
    """A setting that does not exist or has a value that it cannot take."""


class CheckpointError(OptFormerError):
    """A checkpoint that is missing, damaged, or does not fit its vocabulary or version."""


class TeacherError(OptFormerError, ValueError):
    """A search space that an algorithm cannot handle."""
