"""Real tuning studies, made by training real learners on data tables."""

from optformer.data.collect.collect import collect
from optformer.data.collect.config import CollectConfig, read_collect_config

__all__ = ["CollectConfig", "collect", "read_collect_config"]
