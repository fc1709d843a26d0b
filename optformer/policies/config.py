"""How suggestions are made: the settings of a policy, and who is imitated.

Array dimensions: R trials.
"""

import dataclasses

import numpy as np
from jaxtyping import Float64

from optformer.errors import ConfigError
from optformer.policies.acquisition import Acquisition
from optformer.policies.trust import TrustRegion, everywhere
from optformer.study import Study

PREFERENCE = (
    "gp_ucb",
    "cma_es",
    "tpe",
    "eagle_strategy",
    "regularized_evolution",
    "hill_climbing",
    "quasi_random",
    "random_search",
)
"""Whom to imitate if nobody is named, best first."""

STALLED = 0.02
"""Of how much the best trial is above the lower quartile: less is no improvement worth the name."""

SURPRISE = -0.3
"""A stalled search doubts predictions if the latest values were, in the mean, below them by more
than so many standard deviations."""

DOUBT = 2.0
"""Doubt multiplies the value temperature by this."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """How suggestions are made.

    Attributes:
      algorithm: the teacher that the prompt names; None for the best that the model has seen
        (`PREFERENCE`).
      acquisition: what ranks the candidates, from a study's second trial on (`candidates.first` is
        the first); `prior` takes a sample of the model as it is.
      candidates: samples of the model that are ranked.
      uniform: random points that are ranked beside them.
      local: points near the best trials so far that are ranked beside them.
      sifted: of the random and local points, only so many are ranked if the model has experts
        (`model/experts.py`): those of which the experts expect most.
      trust_region: whether a young study's suggestions stay near its measured trials
        (`policies/trust.py`).
      temperature: of the samples; below 1 they stay closer to the likeliest.
      value_temperature: of the predicted metric; above 1 it is less sure. None for the one at
        which the checkpoint was found to be calibrated, but not below 1.
      patience: so many measured trials in a row, whoever chose them, without a better one
        (`STALLED`) are a stall. If they were worse than predicted (`SURPRISE`), predictions are
        believed less (`DOUBT`), so that the search looks elsewhere; otherwise `ei` refines the best
        by what the experts expect of small steps. 0 for neither.
    """

    algorithm: str | None = None
    acquisition: Acquisition = "ei"
    candidates: int = 100
    uniform: int = 400
    local: int = 200
    sifted: int = 28
    trust_region: bool = True
    temperature: float = 1.0
    value_temperature: float | None = None
    patience: int = 5

    def __post_init__(self) -> None:
        for field in ("temperature", "value_temperature"):
            value = getattr(self, field)
            if value is not None and not value > 0:
                raise ConfigError(f"{field}={value} must be above 0.")
        if self.patience < 0:
            raise ConfigError(f"patience={self.patience} must not be below 0; 0 switches it off.")
        numbers = (self.candidates, self.uniform, self.local)
        if min(numbers) < 0 or sum(numbers) < 1 or self.sifted < 1:
            raise ConfigError(
                f"candidates={self.candidates}, uniform={self.uniform}, local={self.local} and "
                f"sifted={self.sifted} leave nothing to rank."
            )

    def stalled(self, values_R: Float64[np.ndarray, " R"]) -> bool:
        """Whether a search with these metrics, larger better, has not improved for a while."""
        if not 0 < self.patience < len(values_R):
            return False
        best = values_R.max()
        # Not of the whole range: a few very bad ones make no search a stalled one.
        least = STALLED * (best - np.quantile(values_R, 0.25))
        return bool(best - values_R[: -self.patience].max() <= least)

    def drawn(self, sifted: bool) -> int:
        """How many points are ranked beside the model's samples, if they are sifted or not."""
        every = self.uniform + self.local
        return min(every, self.sifted) if sifted else every

    def region(self, study: Study) -> TrustRegion:
        """Where the study's next suggestions may lie."""
        return TrustRegion.of(study) if self.trust_region else everywhere(study.problem)
