"""Real tuning studies, made by training real learners on data tables."""

from optformer.data.collect.collect import collect
from optformer.data.collect.config import CollectConfig

__all__ = ["CollectConfig", "collect"]
