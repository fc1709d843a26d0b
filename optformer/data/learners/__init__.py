"""Learners that people tune on data tables, with the search spaces that their users know."""

import importlib.util

from optformer.data.learners import boosting, kernels, linear, networks, pipelines, trees
from optformer.data.learners.learner import Learner
from optformer.errors import ConfigError, did_you_mean

__all__ = ["LEARNERS", "Learner", "find"]

LEARNERS: dict[str, Learner] = {
    learner.name: learner
    for module in (linear, kernels, trees, boosting, networks, pipelines)
    for learner in module.LEARNERS
}

_INSTALL = {
    "sklearn": "scikit-learn",
    "xgboost": "xgboost-cpu",
    "lightgbm": "lightgbm",
    "jax": "jax",
}


def find(name: str) -> Learner:
    """The learner of this name.

    Raises:
      ConfigError: there is none, or its package is not installed.
    """
    learner = LEARNERS.get(name)
    if learner is None:
        raise ConfigError(
            f"no learner is named {name!r}.{did_you_mean(name, LEARNERS)} There are: "
            f"{', '.join(LEARNERS)}."
        )
    if importlib.util.find_spec(learner.package) is None:
        raise ConfigError(
            f"the learner {name!r} needs {_INSTALL[learner.package]}, which is not installed. "
            "Run: pip install 'optformer[learn]', or leave it out of --learner."
        )
    return learner
