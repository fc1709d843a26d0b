"""Gaussian processes with a learned prior, beside those of fixed scales (`model/experts.py`).

The prior network (`model/prior.py`) knows a study's score, on an axis where 0 is the median random
configuration and 1 the best. A study's values are on another: they are

    warp(value) = level + unit * score,      score ~ GP(m, k),

with a level and a unit that nobody knows. The level is a part of the kernel; the unit is one of a
few (`UNITS`), weighed by what each says of the trials so far. The experts differ in how much of
the variance is the network's and how much is anybody's: their kernels are

    k = f . f' + mean c m m' + stationary s Matern + noise n,

with the network's own length scales, s and n, and the factors of `KERNELS`. As with the other
experts, each is worth how well it predicted each trial from those before it: where names mislead,
the experts without a prior soon have all the weight (`PRIOR_ODDS`).

Array dimensions: R trials, N candidates, P parameters, F features, K kernels, W warps, U units,
E = W * K experts, M chosen ones, Q bins.
"""

import dataclasses

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float32, Float64, Int64
from scipy.special import logsumexp

from optformer.model import experts, prior
from optformer.model.experts import JITTER, Posterior, Predictions
from optformer.model.points import Points
from optformer.model.prior import Prior


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriorKernel:
    """Factors of the parts of a kernel that the network writes.

    Attributes:
      mean: the variance of the weight of the mean, whose expectation is 1.
      stationary, length, noise: times those of the network.
    """

    mean: float
    stationary: float
    length: float
    noise: float


KERNELS = tuple(
    PriorKernel(mean=mean, stationary=stationary, length=length, noise=noise)
    for mean in (0.02, 0.5)
    for stationary, length, noise in (
        (1.0, 1.0, 1.0),
        (4.0, 1.0, 1.0),
        (1.0, 1.0, 0.1),
        (4.0, 0.5, 0.1),
        (8.0, 1.5, 0.1),
    )
)

USED_WARPS = (0, 1, 2)
"""Of `experts.WARPS`: none, and those that stretch the upper end, where the best values are."""

EXPERTS = len(USED_WARPS) * len(KERNELS)

UNITS = np.geomspace(0.02, 3.0, 14)
"""How long one unit of score may be on the axis of warped values, each as likely as the next."""

LEVEL = 4.0
"""Prior variance of the level, in units of score."""

FIRST_LEVEL = 0.25
"""How far the level may be from the middle of the axis while no value is known."""

LEAST_NOISE = 2e-3

PRIOR_ODDS = 1.0
"""The log-odds, before any trial, of the experts with a prior against those without."""

STALLED = 1.0
"""What is taken from the log-odds for each trial since the best one. A search that follows a prior
stays where the prior is high; there, trials say little of whether it is right elsewhere."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PriorPosterior:
    """The experts with a prior, given a study's trials.

    Attributes:
      log_weights_WKU: of the units, for each expert.
      evidence_E: as in `experts.Posterior`.
      stalled: how many trials have been measured since the best one.
    """

    prior: Prior
    values_RP: Float64[np.ndarray, "R P"]
    mean_R: Float64[np.ndarray, " R"]
    features_RF: Float64[np.ndarray, "R F"]
    factor_KRR: Float64[np.ndarray, "K R R"]
    value_innovations_WKR: Float64[np.ndarray, "W K R"]
    mean_innovations_KR: Float64[np.ndarray, "K R"]
    log_weights_WKU: Float64[np.ndarray, "W K U"]
    evidence_E: Float64[np.ndarray, " E"]
    freedom: float
    stalled: int

    def log_share(self, others_E: Float64[np.ndarray, " E2"]) -> float:
        """The log weight of all these experts together, beside others with this evidence."""
        odds = PRIOR_ODDS - STALLED * self.stalled
        ours = logsumexp(self.evidence_E) - np.log(EXPERTS) + odds
        theirs = logsumexp(others_E) - np.log(len(others_E))
        return float(ours - np.logaddexp(ours, theirs))

    def log_weights(self) -> Float64[np.ndarray, " E"]:
        """The log weight of each among these experts."""
        return self.evidence_E - logsumexp(self.evidence_E)

    def predict(
        self, values_NP: Float64[np.ndarray, "N P"], experts_M: Int64[np.ndarray, " M"]
    ) -> Predictions:
        """What some of these experts say of the value at rows of `Study.values_RP`."""
        mean_N, features_NF = _float64(*self.prior.mean_and_features(values_NP))
        square_NRP = _squares(self.prior, values_NP, self.values_RP)
        mean_NM = np.empty((len(values_NP), len(experts_M)))
        scale_NM = np.empty_like(mean_NM)
        warp_M, kernel_M = np.divmod(experts_M, len(KERNELS))
        for kernel in np.unique(kernel_M):
            white_RN, left_N = self._conditional(int(kernel), mean_N, features_NF, square_NRP)
            shift_N = mean_N - self.mean_innovations_KR[kernel] @ white_RN
            for column in np.flatnonzero(kernel_M == kernel):
                warp = warp_M[column]
                weight_U = np.exp(self.log_weights_WKU[warp, kernel])
                known_N = self.value_innovations_WKR[warp, kernel] @ white_RN
                # Moments of the mixture over units of what is normal given the unit.
                unit, square = weight_U @ UNITS, weight_U @ UNITS**2
                mean_NM[:, column] = known_N + unit * shift_N
                spread_N = square * left_N + (square - unit**2) * shift_N**2
                if not self.freedom > experts.FREEDOM:
                    spread_N = spread_N + FIRST_LEVEL**2
                scale_NM[:, column] = np.sqrt(spread_N)
        used_M = np.array(USED_WARPS)[warp_M]
        return Predictions(mean_NM=mean_NM, scale_NM=scale_NM, warp_M=used_M, freedom=self.freedom)

    def draw_levels(
        self, values_NP: Float64[np.ndarray, "N P"], expert: int, rng: np.random.Generator
    ) -> Float64[np.ndarray, " N"]:
        """As `experts.draw_levels`, of the kernel of one expert."""
        kernel = expert % len(KERNELS)
        mean_N, features_NF = _float64(*self.prior.mean_and_features(values_NP))
        square_NRP = _squares(self.prior, values_NP, self.values_RP)
        white_RN, _ = self._conditional(int(kernel), mean_N, features_NF, square_NRP)
        places = mean_N, features_NF
        square_NNP = _squares(self.prior, values_NP, values_NP)
        covariance_NN = _covariance(self.prior, KERNELS[kernel], places, places, square_NNP)
        covariance_NN -= white_RN.T @ white_RN
        noise = _noise(self.prior, KERNELS[kernel])
        return experts.levels_of_draw(covariance_NN, noise, self.freedom, rng)

    def _conditional(
        self,
        kernel: int,
        mean_N: Float64[np.ndarray, " N"],
        features_NF: Float64[np.ndarray, "N F"],
        square_NRP: Float64[np.ndarray, "N R P"],
    ) -> tuple[Float64[np.ndarray, "R N"], Float64[np.ndarray, " N"]]:
        """The whitened covariance with the trials, and the variance left, noise included."""
        one = KERNELS[kernel]
        places, trials = (mean_N, features_NF), (self.mean_R, self.features_RF)
        across_NR = _covariance(self.prior, one, places, trials, square_NRP)
        white_RN = _whitened(self.factor_KRR[kernel], across_NR.T)
        scale = one.stationary * np.exp(float(self.prior.reading.log_scale))
        whole_N = (features_NF**2).sum(1) + one.mean * mean_N**2 + scale + LEVEL
        left_N = np.maximum(whole_N - (white_RN**2).sum(0), 0.0)
        return white_RN, left_N + _noise(self.prior, one)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class InformedPosterior(Posterior):
    """The experts without a prior and those with one, which are numbered after them.

    Its own fields, `evidence_E` among them, are those of the experts without a prior.
    """

    learned: PriorPosterior

    @classmethod
    def of(cls, plain: Posterior, learned: PriorPosterior) -> "InformedPosterior":
        """Both, given the same trials."""
        fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(Posterior)}
        return cls(**fields, learned=learned)

    @property
    def log_share(self) -> float:
        """The log weight of all experts with a prior together."""
        return self.learned.log_share(self.evidence_E)

    def weights_with(
        self, log_weights_NG: Float32[np.ndarray, "N G"]
    ) -> Float32[np.ndarray, "N G2"]:
        """Log weights with those of the experts with a prior after the others, which make room."""
        learned_E = self.log_share + self.learned.log_weights()
        left = np.log1p(-min(np.exp(self.log_share), 1.0 - 1e-9))
        learned_NE = np.broadcast_to(learned_E, (len(log_weights_NG), len(learned_E)))
        return np.concatenate([log_weights_NG + left, learned_NE], axis=1).astype(np.float32)

    def predict(self, points: Points, experts_M: Int64[np.ndarray, " M"]) -> Predictions:
        """What some of the experts say of the value at these points."""
        is_learned_M = experts_M >= experts.EXPERTS
        plain = super().predict(points, experts_M[~is_learned_M])
        learned = self.learned.predict(points.values_NP, experts_M[is_learned_M] - experts.EXPERTS)
        mean_NM = np.empty((len(points), len(experts_M)))
        scale_NM, warp_M = np.empty_like(mean_NM), np.empty(len(experts_M), np.int64)
        for said, here_M in ((plain, ~is_learned_M), (learned, is_learned_M)):
            mean_NM[:, here_M], scale_NM[:, here_M] = said.mean_NM, said.scale_NM
            warp_M[here_M] = said.warp_M
        return Predictions(mean_NM=mean_NM, scale_NM=scale_NM, warp_M=warp_M, freedom=self.freedom)

    def draw_levels(
        self, points: Points, expert: int, rng: np.random.Generator
    ) -> Float64[np.ndarray, " N"]:
        """One draw of an expert's function at all points, as levels in [0, 1] of `predict`."""
        if expert < experts.EXPERTS:
            return super().draw_levels(points, expert, rng)
        return self.learned.draw_levels(points.values_NP, expert - experts.EXPERTS, rng)


def first_scores(
    network: Prior, values_NP: Float64[np.ndarray, "N P"], pending_RP: Float64[np.ndarray, "R P"]
) -> Float64[np.ndarray, " N"]:
    """How good configurations promise to be while no trial is measured.

    The mean, and beside pending trials what is uncertain given them: a batch is spread over what
    varies between studies.
    """
    mean_N, features_NF = _float64(*network.mean_and_features(values_NP))
    if not len(pending_RP):
        return mean_N
    mean_R, features_RF = _float64(*network.mean_and_features(pending_RP))
    places, pending = (mean_N, features_NF), (mean_R, features_RF)
    kernel = KERNELS[0]
    square_RRP = _squares(network, pending_RP, pending_RP)
    covariance_RR = _covariance(network, kernel, pending, pending, square_RRP) - LEVEL
    covariance_RR[np.diag_indices(len(mean_R))] += _noise(network, kernel) + JITTER
    square_NRP = _squares(network, values_NP, pending_RP)
    across_NR = _covariance(network, kernel, places, pending, square_NRP) - LEVEL
    white_RN = _whitened(np.linalg.cholesky(covariance_RR), across_NR.T)
    whole_N = (features_NF**2).sum(1) + kernel.mean * mean_N**2
    whole_N += kernel.stationary * np.exp(float(network.reading.log_scale))
    return mean_N + np.sqrt(np.maximum(whole_N - (white_RN**2).sum(0), 0.0))


def condition(
    network: Prior,
    values_RP: Float64[np.ndarray, "R P"],
    metric_R: Float64[np.ndarray, " R"],
    pending_R: Bool[np.ndarray, " R"],
    bins: int,
) -> PriorPosterior:
    """The experts given trials; pending ones narrow predictions, as in `experts.condition`.

    Args:
      values_RP: rows of `Study.values_RP`.
      metric_R: metrics in [0, 1]; NaN where a trial has none.
    """
    rows = np.concatenate([np.flatnonzero(np.isfinite(metric_R)), np.flatnonzero(pending_R)])
    values_RP, metric_R = values_RP[rows], metric_R[rows]
    count = int(np.isfinite(metric_R).sum())
    mean_R, features_RF = _float64(*network.mean_and_features(values_RP))
    places = mean_R, features_RF
    square_RRP = _squares(network, values_RP, values_RP)
    warped_WR = experts.warp(np.where(np.isfinite(metric_R), metric_R, 0.5))[list(USED_WARPS)]
    factor_KRR = np.empty((len(KERNELS), len(rows), len(rows)))
    innovations_KRS = np.zeros((len(KERNELS), len(rows), len(USED_WARPS) + 1))
    for index, kernel in enumerate(KERNELS):
        covariance_RR = _covariance(network, kernel, places, places, square_RRP)
        covariance_RR[np.diag_indices(len(rows))] += _noise(network, kernel) + JITTER
        factor_KRR[index] = np.linalg.cholesky(covariance_RR)
        told_RS = np.concatenate([warped_WR, mean_R[None]]).T
        innovations_KRS[index] = _whitened(factor_KRR[index], told_RS)
    innovations_KRS[:, count:] = 0.0
    value_WKR = np.moveaxis(innovations_KRS[..., :-1], -1, 0)
    mean_KR = innovations_KRS[..., -1]
    spread_KR = np.diagonal(factor_KRR, axis1=1, axis2=2)[:, :count]
    log_WKU, evidence_WK = _evidence(
        value_WKR[..., :count], mean_KR[:, :count], spread_KR, metric_R[:count], bins
    )
    return PriorPosterior(
        prior=network,
        values_RP=values_RP,
        mean_R=mean_R,
        features_RF=features_RF,
        factor_KRR=factor_KRR,
        value_innovations_WKR=value_WKR,
        mean_innovations_KR=mean_KR,
        log_weights_WKU=log_WKU,
        evidence_E=evidence_WK.ravel(),
        freedom=experts.FREEDOM + count,
        stalled=count - 1 - int(np.argmax(metric_R[:count])) if count else 0,
    )


def _evidence(
    value_WKR: Float64[np.ndarray, "W K R"],
    mean_KR: Float64[np.ndarray, "K R"],
    spread_KR: Float64[np.ndarray, "K R"],
    metric_R: Float64[np.ndarray, " R"],
    bins: int,
) -> tuple[Float64[np.ndarray, "W K U"], Float64[np.ndarray, "W K"]]:
    """The units' log weights after all trials, and the log probability of the trials' bins, each
    predicted from those before it."""
    units_U1 = UNITS[:, None]
    surprise_WKUR = value_WKR[:, :, None] / units_U1 - mean_KR[:, None]
    log_WKUR = -0.5 * surprise_WKUR**2 - np.log(units_U1 * spread_KR[:, None])
    after_WKUR = np.cumsum(log_WKUR, axis=-1)
    before_WKUR = after_WKUR - log_WKUR
    if metric_R.size:
        last_WKU = after_WKUR[..., -1]
    else:
        # No range of values is known either. Short units leave all of them inside of [0, 1], where
        # predictions keep the order of the mean.
        last_WKU = np.broadcast_to(-2.0 * np.log(UNITS), log_WKUR.shape[:-1])
    log_WKU = last_WKU - logsumexp(last_WKU, axis=-1, keepdims=True)
    weight_WKUR = np.exp(before_WKUR - logsumexp(before_WKUR, axis=2, keepdims=True))
    warped_W1R = experts.warp(metric_R)[list(USED_WARPS)][:, None]
    scale_KUR = units_U1 * spread_KR[:, None]
    expected_WKUR = warped_W1R[:, :, None] - scale_KUR * surprise_WKUR
    mean_WKR = (weight_WKUR * expected_WKUR).sum(2)
    square_WKR = (weight_WKUR * (scale_KUR**2 + expected_WKUR**2)).sum(2)
    scale_WKR = np.sqrt(np.maximum(square_WKR - mean_WKR**2, 1e-12))
    freedom_R = experts.FREEDOM + np.arange(len(metric_R))
    log_bins_WKR, _ = experts.log_chance_of_bins(
        mean_WKR, scale_WKR, freedom_R, metric_R, bins, USED_WARPS
    )
    return log_WKU, log_bins_WKR.sum(-1)


def _covariance(
    network: Prior,
    kernel: PriorKernel,
    places: tuple[Float64[np.ndarray, " N"], Float64[np.ndarray, "N F"]],
    others: tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, "R F"]],
    square_NRP: Float64[np.ndarray, "N R P"],
) -> Float64[np.ndarray, "N R"]:
    """Of the process and its level, without noise."""
    reading = network.reading
    length_P = reading.log_length_P + np.log(kernel.length)
    scale = kernel.stationary * np.exp(float(reading.log_scale))
    return (
        places[1] @ others[1].T
        + kernel.mean * places[0][:, None] * others[0]
        + scale * prior.matern(np, square_NRP, length_P, reading.real_P)
        + LEVEL
    )


def _whitened(
    factor_RR: Float64[np.ndarray, "R R"], columns_RN: Float64[np.ndarray, "R N"]
) -> Float64[np.ndarray, "R N"]:
    """The inverse of a lower triangle times some columns."""
    if not len(factor_RR):  # SciPy takes no empty matrix
        return columns_RN
    solved_RN = scipy.linalg.solve_triangular(factor_RR, columns_RN, lower=True, check_finite=False)
    return np.asarray(solved_RN)


def _noise(network: Prior, kernel: PriorKernel) -> float:
    return kernel.noise * (np.exp(float(network.reading.log_noise)) + LEAST_NOISE)


def _squares(
    network: Prior, values_NP: Float64[np.ndarray, "N P"], values_RP: Float64[np.ndarray, "R P"]
) -> Float64[np.ndarray, "N R P"]:
    units_NP, _, inactive_NP = network.places(values_NP)
    units_RP, _, inactive_RP = network.places(values_RP)
    ordered_P = np.asarray(network.reading.ordered_P)
    square_NRP = prior.squares(np, units_NP, units_RP, inactive_NP, inactive_RP, ordered_P)
    return np.asarray(square_NRP)


def _float64(*arrays: np.ndarray) -> tuple[Float64[np.ndarray, "..."], ...]:
    return tuple(array.astype(np.float64) for array in arrays)
