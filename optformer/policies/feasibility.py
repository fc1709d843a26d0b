"""The chance that a trial at a point works and keeps to the constraints.

Two things make a trial worthless: it fails, or it breaks a constraint. `Failures` learns where
trials fail from which of them did; `Limit` predicts one constraint's metric. The chance of both
multiplies what a point is worth, in every acquisition.

Array dimensions: N points, K places of a trial's parameters, R trials, M processes, E experts,
C constraints.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64
from scipy.special import ndtr, stdtr

from optformer.model import experts
from optformer.model.experts import Posterior
from optformer.model.points import Points
from optformer.study import State, Study
from optformer.tokenization.quantize import fit_scaling

LENGTHS = 0.2, 0.5, 1.2
"""Length scales of processes that depend on all parameters, times the root of their number."""

ALONE = 0.15, 0.5
"""Length scales of processes that depend on one parameter above all: many failures do."""

BESIDE = 1.5
"""The other parameters' length scale there, times the root of their number."""

USUAL, DOUBT = 0.5, 1.0
"""Mean and standard deviation of a process's level: 1 where all trials work, -1 where none does."""

NOISE = 0.1
"""Variance of the outcomes around a process, which has variance 1."""

PROCESSES = 6
"""So many processes predict: those under which the outcomes so far are likeliest."""

EXPERTS = 8
"""So many experts predict a constraint's metric."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Failures:
    """Where trials fail: Gaussian processes through outcomes of 1 and -1, weighed by evidence.

    A least-squares classifier (Rasmussen and Williams 2006, section 6.5). Far from all trials the
    chance is that of the study as a whole, so a search in which nothing has worked spreads.
    """

    trials: Points
    ordered_K: Bool[np.ndarray, " K"]
    rates_MK: Float64[np.ndarray, "M K"]
    factor_MRR: Float64[np.ndarray, "M R R"]
    white_MR: Float64[np.ndarray, "M R"]
    weights_M: Float64[np.ndarray, " M"]

    @classmethod
    def of(
        cls, trials: Points, worked_R: Bool[np.ndarray, " R"], ordered_K: np.ndarray
    ) -> "Failures":
        """Learned from finished trials.

        Args:
          worked_R: whether a trial was completed; otherwise it failed.
          ordered_K: whether a parameter's values have an order.
        """
        rates_MK = _rates(trials.inputs_NK.shape[1])
        covariance_MRR = _covariance(trials, trials, rates_MK, ordered_K)
        covariance_MRR[:, np.arange(len(trials)), np.arange(len(trials))] += NOISE
        factor_MRR = np.linalg.cholesky(covariance_MRR)
        outcome_R = np.where(worked_R, 1.0, -1.0) - USUAL
        white_MR = np.linalg.solve(factor_MRR, outcome_R[None, :, None])[..., 0]
        spread_MR = np.diagonal(factor_MRR, axis1=1, axis2=2)
        evidence_M = -0.5 * (white_MR**2).sum(1) - np.log(spread_MR).sum(1)
        best_M = np.argsort(-evidence_M, kind="stable")[:PROCESSES]
        weights_M = np.exp(evidence_M[best_M] - evidence_M[best_M[0]])
        return cls(
            trials=trials,
            ordered_K=ordered_K,
            rates_MK=rates_MK[best_M],
            factor_MRR=factor_MRR[best_M],
            white_MR=white_MR[best_M],
            weights_M=weights_M / weights_M.sum(),
        )

    def probability(self, points: Points) -> Float64[np.ndarray, " N"]:
        """The chance that a trial at each point works."""
        across_MRN = _covariance(self.trials, points, self.rates_MK, self.ordered_K)
        white_MRN = np.linalg.solve(self.factor_MRR, across_MRN)
        mean_MN = USUAL + np.einsum("MR,MRN->MN", self.white_MR, white_MRN)
        left_MN = np.maximum(1.0 + DOUBT**2 - (white_MRN**2).sum(1), 0.0)
        return self.weights_M @ ndtr(mean_MN / np.sqrt(left_MN + NOISE))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Limit:
    """One constraint: the experts' prediction of its metric, and the least that is allowed.

    Attributes:
      weights_E: of the experts, by their evidence.
      least: the threshold on the axis of the experts' values, larger better.
    """

    posterior: Posterior
    weights_E: Float64[np.ndarray, " E"]
    least: float

    @classmethod
    def of(
        cls,
        trials: Points,
        margins_R: Float64[np.ndarray, " R"],
        pending_R: Bool[np.ndarray, " R"],
        ordered_K: Bool[np.ndarray, " K"],
        bins: int,
    ) -> "Limit":
        """Learned from by how much each trial keeps the constraint; NaN where it is not known."""
        scaling = fit_scaling(np.append(margins_R, 0.0), 1.0)
        values_R = scaling.to_units(np.where(np.isfinite(margins_R), margins_R, np.nan))
        posterior = experts.condition(trials.inputs_NK, values_R, pending_R, ordered_K, bins)
        weights_E = np.exp(posterior.evidence_E - posterior.evidence_E.max())
        return cls(
            posterior=posterior,
            weights_E=weights_E / weights_E.sum(),
            least=float(scaling.to_units(np.zeros(1))[0]),
        )

    def probability(self, points: Points) -> Float64[np.ndarray, " N"]:
        """The chance that a trial at each point keeps the constraint."""
        chosen_M = np.argsort(-self.weights_E, kind="stable")[:EXPERTS]
        said = self.posterior.predict(points, chosen_M)
        least_M = experts.warp(np.array([self.least]))[said.warp_M, 0]
        above_NM = stdtr(said.freedom, (said.mean_NM - least_M) / said.scale_NM)
        share_M = self.weights_E[chosen_M]
        return above_NM @ (share_M / share_M.sum())


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Feasibility:
    """What is known of a study's failures and constraints.

    Attributes:
      failures: None if no trial has failed.
    """

    failures: Failures | None = None
    limits: tuple[Limit, ...] = ()

    @classmethod
    def of(
        cls, study: Study, trials: Points, ordered_K: Bool[np.ndarray, " K"], bins: int
    ) -> "Feasibility":
        """Learned from a study's trials."""
        failed_R = study.states_R == State.INFEASIBLE
        failures = None
        if failed_R.any():
            done = np.flatnonzero(study.states_R != State.ACTIVE)
            failures = Failures.of(trials.rows(done), ~failed_R[done], ordered_K)
        pending_R = study.states_R == State.ACTIVE
        return cls(
            failures=failures,
            limits=tuple(
                Limit.of(trials, margins_R, pending_R, ordered_K, bins)
                for margins_R in margins(study).T
            ),
        )

    def probability(self, points: Points) -> Float64[np.ndarray, " N"]:
        """The chance that a trial at each point works and keeps all constraints."""
        parts: Sequence[Failures | Limit] = (
            *([] if self.failures is None else [self.failures]),
            *self.limits,
        )
        chance_N = np.ones(len(points))
        for part in parts:
            chance_N *= part.probability(points)
        return chance_N


def margins(study: Study) -> Float64[np.ndarray, "R C"]:
    """By how much each completed trial keeps each constraint; below 0 where it breaks it."""
    limits = [
        (column, metric.sign, metric.safety_threshold)
        for column, metric in enumerate(study.problem.metrics)
        if metric.safety_threshold is not None
    ]
    margins_RC = np.full((len(study), len(limits)), np.nan)
    for index, (column, sign, threshold) in enumerate(limits):
        margins_RC[:, index] = sign * (study.metrics_RM[:, column] - threshold)
    margins_RC[study.states_R != State.COMPLETED] = np.nan
    return margins_RC


def _rates(places: int) -> Float64[np.ndarray, "M K"]:
    """Inverse squared length scales of all processes."""
    every_MK = np.outer(np.power(LENGTHS, -2.0), np.full(places, 1.0 / places))
    if places == 1:
        return every_MK
    rest = BESIDE**-2.0 / places
    alone_MK = [
        np.where(np.arange(places) == place, length**-2.0, rest)
        for length in ALONE
        for place in range(places)
    ]
    return np.concatenate([every_MK, alone_MK])


def _covariance(
    left: Points,
    right: Points,
    rates_MK: Float64[np.ndarray, "M K"],
    ordered_K: Bool[np.ndarray, " K"],
) -> Float64[np.ndarray, "M L N"]:
    """Matérn 3/2, since what fails begins at an edge, and the variance of the level."""
    square_LNK = experts.squares(left.inputs_NK, right.inputs_NK, ordered_K)
    root_MLN = np.sqrt(3.0 * np.einsum("LNK,MK->MLN", square_LNK, rates_MK, optimize=True))
    return (1.0 + root_MLN) * np.exp(-root_MLN) + DOUBT**2
