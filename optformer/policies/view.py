"""What a policy knows of one study when it makes a suggestion.

Array dimensions: N points, P parameters, R trials.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float64, Int64

from optformer.model import prior_experts
from optformer.model.experts import Posterior
from optformer.model.points import Coordinates, Points
from optformer.model.prior import Prior
from optformer.policies.feasibility import Feasibility, margins
from optformer.policies.pending import Pending
from optformer.policies.trust import TrustRegion
from optformer.study import Problem, State, Study
from optformer.tokenization.quantize import ValueScaling
from optformer.tokenization.trajectory import METRIC_SLOTS


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One study before its next suggestion.

    Attributes:
      study: with the points suggested so far as active trials.
      trials: its trials as points.
      values_R: the measured metrics on the bins' axis, larger better.
      kept_R: which of these trials keep all constraints.
      region: where suggestions may lie.
      feasibility: what is known of failures and constraints.
      posterior: the experts given the trials, and `log_weights_E` by their evidence; None where the
        model has none.
      pending: what the trials that are running now may bring; None where the model has no experts.
      prior: what is known of the problem before any trial; None if nothing is.
    """

    study: Study
    coordinates: Coordinates
    trials: Points
    values_R: Float64[np.ndarray, " r"]
    kept_R: Bool[np.ndarray, " r"]
    region: TrustRegion
    feasibility: Feasibility
    posterior: Posterior | None
    log_weights_E: Float64[np.ndarray, " E"] | None
    pending: Pending | None
    prior: Prior | None = None

    @property
    def best(self) -> float:
        """The best of the measured metrics that keep the constraints; 0 where there is none."""
        return float(self.values_R[self.kept_R].max(initial=0.0))

    def first_scores(self, points: Points) -> Float64[np.ndarray, " N"] | None:
        """How points rank while no trial is measured; None once one is, or if nothing is known."""
        if self.prior is None or len(self.values_R):
            return None
        pending_R = self.study.states_R == State.ACTIVE
        pending_RP = self.trials.values_NP[pending_R]
        first_N = prior_experts.first_scores(self.prior, points.values_NP, pending_RP)
        return first_N + np.log(np.maximum(self.feasibility.probability(points), 1e-9))

    @property
    def best_trials_K(self) -> Int64[np.ndarray, " K"]:
        """The rows of the best three measured trials; those that keep the constraints first."""
        goal_R = self.study.objective()
        done_R = np.flatnonzero(np.isfinite(goal_R))
        order_R = np.lexsort((-goal_R[done_R], ~self.kept_R))
        return done_R[order_R[:3]].astype(np.int64)

    def surprise(self, trials: int) -> float:
        """By how many standard deviations, in the mean, so many of the latest values were above
        what the weightiest expert without a prior had predicted; below 0 if they were below."""
        if self.posterior is None or self.log_weights_E is None or not len(self.values_R):
            return -np.inf
        expert = int(np.argmax(self.log_weights_E[: len(self.posterior.evidence_E)]))
        return float(self.posterior.surprises(expert)[-trials:].mean())

    def weight(self, points: Points) -> Float64[np.ndarray, " N"]:
        """What multiplies the worth of points, in [0, 1]: the chance that a trial there works and
        keeps the constraints, and what the trials that are running now leave to gain."""
        weight_N = self.feasibility.probability(points)
        if self.pending is not None:
            weight_N *= self.pending.left(points)
        return weight_N


def measured(study: Study, scaling: ValueScaling) -> Float64[np.ndarray, " R"]:
    """The metrics of completed trials on the bins' axis, in order; without those that have none."""
    measured_R = np.isfinite(study.objective())
    return scaling.to_units(scaling.sign * study.objective()[measured_R]).astype(np.float64)


def keeps(study: Study) -> Bool[np.ndarray, " R"]:
    """Which of the measured trials (`measured`) keep all constraints."""
    measured_R = np.isfinite(study.objective())
    return (margins(study)[measured_R] >= 0).all(axis=1)


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


def objective_first(problem: Problem) -> Int64[np.ndarray, " M"]:
    """The columns of a problem's metrics, the objective's first, as the model reads them.

    Constraints for which a trial has no token are left out.
    """
    limits_M = np.array([metric.safety_threshold is not None for metric in problem.metrics])
    return np.argsort(limits_M, kind="stable")[:METRIC_SLOTS].astype(np.int64)


def with_metrics(study: Study, columns_M: Int64[np.ndarray, " M"]) -> Study:
    """The study with these of its metrics, in this order."""
    metrics = tuple(study.problem.metrics[column] for column in columns_M)
    if metrics == study.problem.metrics:
        return study
    return dataclasses.replace(
        study,
        problem=dataclasses.replace(study.problem, metrics=metrics),
        metrics_RM=study.metrics_RM[:, columns_M],
        predictive_R2=None,
    )
