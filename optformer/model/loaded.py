"""A checkpoint and all that runs it."""

from optformer.model.decode import Engine
from optformer.model.ensemble import Ensemble
from optformer.model.prior import Prior
from optformer.model.saved import Checkpoint
from optformer.model.transformer import Ids
from optformer.study import Problem


class LoadedModel:
    """A checkpoint in memory, ready to read studies.

    Attributes:
      most_tokens: the longest trajectory that it has learned to read.
      value_temperature: at which its predictions of a metric are calibrated.
      engine: runs the transformer.
      experts: None for a model that has none.
    """

    def __init__(self, saved: Checkpoint) -> None:
        self.tokenizer = saved.tokenizer
        self.config = saved.config
        self.about = saved.about
        self.algorithms = saved.algorithms
        self.most_tokens = saved.tokens
        self.value_temperature = saved.value_temperature
        ids = Ids.of(saved.tokenizer.vocabulary)
        self.engine = Engine(saved.weights, saved.config, ids)
        self.experts: Ensemble | None = None
        if saved.config.experts:
            self.experts = Ensemble(self.engine.weights["experts"], ids)
        self._prior = saved.prior

    def prior_of(self, problem: Problem) -> Prior | None:
        """What the model knows of a problem before any trial; None if it knows nothing."""
        if self._prior is None or self.experts is None:
            return None
        network = Prior.of(problem, self._prior.weights, self._prior.config)
        return network if network.knows else None
