"""Learned black-box optimization: a T5-style model of tuning studies that suggests and predicts.

import optformer

model = optformer.load("checkpoint")
suggestions = model.suggest(problem, trials, count=3)   # Vizier's types in and out
"""

from typing import TYPE_CHECKING

from optformer.errors import OptFormerError
from optformer.study import Problem, Study

if TYPE_CHECKING:
    from optformer.policies.config import PolicyConfig
    from optformer.policies.model import OptFormer, load
    from optformer.policies.optuna import OptFormerSampler
    from optformer.policies.vizier import OptFormerDesigner

__all__ = [
    "OptFormer",
    "OptFormerDesigner",
    "OptFormerError",
    "OptFormerSampler",
    "PolicyConfig",
    "Problem",
    "Study",
    "load",
]

_LATER = {
    "OptFormer": "optformer.policies.model",
    "PolicyConfig": "optformer.policies.config",
    "load": "optformer.policies.model",
    "OptFormerDesigner": "optformer.policies.vizier",
    "OptFormerSampler": "optformer.policies.optuna",
}


def __getattr__(name: str) -> object:
    # JAX and Vizier take a second to import, so they are imported on first use.
    if name in _LATER:
        import importlib

        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module 'optformer' has no attribute {name!r}")
