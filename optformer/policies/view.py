"""What a policy knows of one study when it makes a suggestion.

Array dimensions: N points, P parameters, R trials.
"""

import dataclasses

import numpy as np
from jaxtyping import Float64, Int64

from optformer.model import prior_experts
from optformer.model.experts import Posterior
from optformer.model.points import Coordinates, Points
from optformer.model.prior import Prior
from optformer.policies.trust import TrustRegion
from optformer.study import State, Study
from optformer.tokenization.quantize import ValueScaling


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One study before its next suggestion.

    Attributes:
      study: with the points suggested so far as active trials.
      trials: its trials as points.
      values_R: the measured metrics on the bins' axis, larger better.
      region: where suggestions may lie.
      posterior: the experts given the trials; None where they are not asked.
      prior: what is known of the problem before any trial; None if nothing is.
    """

    study: Study
    coordinates: Coordinates
    trials: Points
    values_R: Float64[np.ndarray, " R"]
    region: TrustRegion
    posterior: Posterior | None
    prior: Prior | None = None

    @property
    def best(self) -> float:
        """The best of the measured metrics; 0 where there is none."""
        return float(self.values_R.max(initial=0.0))

    def first_scores(self, points: Points) -> Float64[np.ndarray, " N"] | None:
        """How points rank while no trial is measured; None once one is, or if nothing is known."""
        if self.prior is None or len(self.values_R):
            return None
        pending_R = self.study.states_R == State.ACTIVE
        pending_RP = self.trials.values_NP[pending_R]
        return prior_experts.first_scores(self.prior, points.values_NP, pending_RP)

    @property
    def best_trials_K(self) -> Int64[np.ndarray, " K"]:
        """The rows of the best three completed trials."""
        goal_R = self.study.objective()
        done_R = np.flatnonzero(np.isfinite(goal_R))
        return done_R[np.argsort(-goal_R[done_R], kind="stable")[:3]].astype(np.int64)


def measured(study: Study, scaling: ValueScaling) -> Float64[np.ndarray, " R"]:
    """The metrics of completed trials on the bins' axis, in order; without those that have none."""
    completed_R = study.states_R == State.COMPLETED
    units_R = scaling.to_units(study.metrics_RM[completed_R, 0])
    return units_R[np.isfinite(units_R)].astype(np.float64)


def shorten(study: Study, most: int) -> Study:
    """The study, or if it has more than `most` trials, those that say most, in their order.

    Half of the room is for the newest (which are where the search is, and pending ones are among
    them), a quarter for the best, and the rest for trials spread evenly over the others.
    """
    trials = len(study)
    if trials <= most:
        return study
    newest = np.arange(trials - most // 2, trials)
    ranked = np.argsort(np.nan_to_num(-study.objective(), nan=np.inf), kind="stable")
    best = [row for row in ranked if row < trials - most // 2][: most // 4]
    others = np.setdiff1d(np.arange(trials), np.concatenate([newest, best]))
    room = most - len(newest) - len(best)
    spread = others[np.linspace(0, len(others) - 1, room).round().astype(np.int64)]
    return study.rows(np.sort(np.concatenate([newest, best, spread]).astype(np.int64)))


def with_pending(study: Study, values_P: Float64[np.ndarray, " P"]) -> Study:
    """The study with one more trial, active at these values."""
    unknown_1M = np.full((1, len(study.problem.metrics)), np.nan)
    return Study(
        problem=study.problem,
        values_RP=np.concatenate([study.values_RP, values_P[None]]),
        metrics_RM=np.concatenate([study.metrics_RM, unknown_1M]),
        states_R=np.append(study.states_R, np.int8(State.ACTIVE)).astype(np.int8),
        algorithm=study.algorithm,
    )
