"""What is left to gain at a point once the trials that are running now have ended.

A point beside a running trial promises as much as that trial did, and will have promised it in vain
when that trial ends. So the values of running trials are drawn from the experts, again and again,
and a point is worth what it then adds to the best of them (Snoek et al. 2012, section 3.2).

Array dimensions: N points, S draws, J pending trials, E experts.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Float64
from scipy.special import ndtr

from optformer.model import experts
from optformer.model.experts import Posterior
from optformer.model.points import Points

DRAWS = 32

EXPERTS = 3
"""So many experts draw, the weightiest."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pending:
    """Draws of what a study's running trials may bring.

    Attributes:
      log_weights_E: of the experts.
      best: the best value so far, on the bins' axis.
    """

    posterior: Posterior
    log_weights_E: Float[np.ndarray, " E"]
    best: float
    normal_SJ: Float64[np.ndarray, "S J"]

    @classmethod
    def of(
        cls,
        posterior: Posterior,
        log_weights_E: Float[np.ndarray, " E"],
        best: float,
        rng: np.random.Generator,
    ) -> "Pending":
        """Draws for a study; the same for all points that are compared."""
        half_SJ = rng.standard_normal((DRAWS // 2, posterior.pending))
        return cls(
            posterior=posterior,
            log_weights_E=log_weights_E,
            best=best,
            normal_SJ=np.concatenate([half_SJ, -half_SJ]),
        )

    def left(self, points: Points) -> Float64[np.ndarray, " N"]:
        """The share of each point's expected improvement that running trials leave, in [0, 1]."""
        if not self.posterior.pending:
            return np.ones(len(points))
        before_N, after_N = np.zeros(len(points)), np.zeros(len(points))
        # Experts with a learned prior come after these and draw nothing.
        plain_E = self.log_weights_E[: experts.EXPERTS]
        for expert in np.argsort(-plain_E, kind="stable")[:EXPERTS]:
            weight = float(np.exp(plain_E[expert] - plain_E.max()))
            warp = int(expert) // len(experts.KERNELS)
            best = float(experts.warp(np.array([self.best]))[warp, 0])
            mean_SN, scale_N, drawn_SJ = self.posterior.fantasize(
                points, int(expert), self.normal_SJ
            )
            best_S1 = np.maximum(best, drawn_SJ.max(axis=1, keepdims=True))
            before_N += weight * _gain(mean_SN, scale_N, best).mean(axis=0)
            after_N += weight * _gain(mean_SN, scale_N, best_S1).mean(axis=0)
        return np.where(before_N > 0, np.minimum(after_N / np.maximum(before_N, 1e-300), 1.0), 1.0)


def _gain(
    mean_SN: Float64[np.ndarray, "S N"],
    scale_N: Float64[np.ndarray, " N"],
    best: float | Float64[np.ndarray, "S 1"],
) -> Float64[np.ndarray, "S N"]:
    """Expected improvement of normal predictions."""
    score_SN = (mean_SN - best) / scale_N
    density_SN = np.exp(-0.5 * score_SN**2) / np.sqrt(2.0 * np.pi)
    return np.maximum(scale_N * (score_SN * ndtr(score_SN) + density_SN), 0.0)
