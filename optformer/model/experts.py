"""Gaussian processes of fixed scales, and what each says about a study's next value.

A transformer of a few layers learns from many studies which functions there are, but not to solve
the linear equations that tell a function's value from those nearby. Gaussian processes solve them,
but take a fit of their hyperparameters for every trial. So many of them, with hyperparameters that
never change, predict side by side, and the model weighs them (`model/mixture.py`), above all by how
well each foretold the trials so far: one Cholesky factor per kernel predicts every trial of a study
from those before it.

An expert is a kernel and a warp: a monotone map of values under which they are Gaussian, with a
constant mean and a variance that are integrated out. Inputs and values are numbers in [0, 1]; in
training, those that tokens say.

Array dimensions: R trials, N candidates, P parameters, K kernels, W warps, E = W·K experts, Q bins.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float32, Float64, Int, Int64
from scipy.special import ndtr, stdtr

from optformer.model.points import INACTIVE, Points
from optformer.tokenization.tokenizer import EncodedProblem, StudyTokenizer

FLOOR = 1e-4
"""This share of each expert's prediction is uniform, so that no surprise costs infinitely much."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
    """A stationary kernel of variance 1.

    Attributes:
      gaussian: the squared exponential; otherwise Matérn-5/2.
      length: the length scale, times the root of the number of parameters.
      noise: the variance of the noise.
      relevant: every which parameter counts fully; the others have six times the length scale.
    """

    gaussian: bool
    length: float
    noise: float
    relevant: tuple[bool, ...] = (True,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warp:
    """-sign log(offset + distance of the value to the end that it stretches), or nothing.

    Attributes:
      end: 1 stretches values near 1, 0 those near 0, None none.
    """

    end: int | None
    offset: float = 0.0


def _patterns(count: int, slots: int = 40) -> tuple[tuple[bool, ...], ...]:
    """Random halves of the parameters, each with its complement."""
    rng = np.random.default_rng(0)
    halves = [tuple(bool(bit) for bit in rng.random(slots) < 0.5) for _ in range(count // 2)]
    return (*halves, *(tuple(not bit for bit in half) for half in halves))


KERNELS = (
    *(
        Kernel(gaussian=False, length=float(length), noise=noise)
        for noise in (1e-4, 1e-2, 0.3)
        for length in np.geomspace(0.1, 4.0, 6)
    ),
    *(
        Kernel(gaussian=True, length=float(length), noise=noise)
        for noise in (1e-4, 1e-2)
        for length in np.geomspace(0.1, 2.0, 5)
    ),
    *(
        Kernel(gaussian=False, length=length, noise=1e-3, relevant=relevant)
        for length in (0.2, 0.6)
        for relevant in _patterns(6)
    ),
)

WARPS = (
    Warp(end=None),
    Warp(end=1, offset=0.03),
    Warp(end=1, offset=0.2),
    Warp(end=0, offset=0.03),
    Warp(end=0, offset=0.2),
)

EXPERTS = len(WARPS) * len(KERNELS)

MEAN_VARIANCE = 4.0
"""Prior variance of the constant mean, in units of the process's variance."""

FREEDOM = 2.0
"""Degrees of freedom of the prior of the variance, whose root is a quarter of the range."""

JITTER = 1e-6
SAME = 1e-6
"""Categories that are no further apart in [0, 1] than this are the same."""
UNMEASURED = 1e8
"""Noise of a trial without a value: it says nothing."""


def fingerprint() -> str:
    """What tells these experts from others: a model's weights for them are by their number."""
    kernels = [
        f"{kernel.gaussian:d} {kernel.length:.5g} {kernel.noise:.5g} "
        + "".join(map(str, map(int, kernel.relevant)))
        for kernel in KERNELS
    ]
    constants = f"{MEAN_VARIANCE} {FREEDOM} {FLOOR}"
    text = "\n".join([*kernels, *(f"{one.end} {one.offset}" for one in WARPS), constants])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def warp(values: Float64[np.ndarray, "*R"]) -> Float64[np.ndarray, "W *R"]:  # noqa: F821
    """Values under each warp, scaled so that [0, 1] goes to an interval of length 1 around 0."""
    return np.stack([_warped(one, values) for one in WARPS])


def _warped(one: Warp, values: Float64[np.ndarray, "*R"]) -> Float64[np.ndarray, "*R"]:
    if one.end is None:
        return values - 0.5
    width = np.log1p(1.0 / one.offset)
    if one.end:
        return (np.log1p(one.offset - 0.5) - np.log(1.0 + one.offset - values)) / width
    return (np.log(values + one.offset) - np.log(0.5 + one.offset)) / width


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Followed:
    """What the experts said about each trial of a study before they saw its value.

    Attributes:
      log_RE: log probability of the bin that the value is in; 0 where there is no value.
      below_RE: probability of what lies below the middle of that bin.
      evidence_RE: the sum of `log_RE` over the trials before.
    """

    log_RE: Float32[np.ndarray, "R E"]
    below_RE: Float32[np.ndarray, "R E"]
    evidence_RE: Float32[np.ndarray, "R E"]


def follow(
    units_RP: Float64[np.ndarray, "R P"],
    values_R: Float64[np.ndarray, " R"],
    ordered_P: Bool[np.ndarray, " P"],
    bins: int,
) -> Followed:
    """The experts' predictions of each value from its trial's parameters and the trials before.

    Args:
      units_RP: parameters in [0, 1], or `INACTIVE`.
      values_R: values in [0, 1]; NaN where a trial has none.
      ordered_P: whether a parameter's values have an order; if not, two are the same or not.
      bins: how many bins there are.
    """
    measured_R = np.isfinite(values_R)
    factor_KRR, innovations_WKR = _factor(units_RP, values_R, measured_R, ordered_P)
    middle_R = np.where(measured_R, values_R, 0.5)
    log_WKR, below_WKR = _foretold(factor_KRR, innovations_WKR, middle_R, measured_R, bins)
    log_RE = np.where(measured_R, log_WKR, 0.0).reshape(EXPERTS, -1).T
    evidence_RE = np.zeros_like(log_RE)
    np.cumsum(log_RE[:-1], axis=0, out=evidence_RE[1:])
    return Followed(
        log_RE=log_RE.astype(np.float32),
        below_RE=below_WKR.reshape(EXPERTS, -1).T.astype(np.float32),
        evidence_RE=evidence_RE.astype(np.float32),
    )


def read_trials(
    problem: EncodedProblem, ids_T: Int[np.ndarray, " T"], tokenizer: StudyTokenizer
) -> tuple[Float64[np.ndarray, "R P"], Float64[np.ndarray, " R"], Bool[np.ndarray, " P"]]:
    """What experts see of whole trials: parameters and first metrics in [0, 1], as tokens say them,
    and which parameters have an order."""
    layout, vocabulary = problem.layout, tokenizer.vocabulary
    return (
        vocabulary.to_units(layout.parameters_of(ids_T), other=INACTIVE),
        vocabulary.to_units(layout.values_of(ids_T), other=np.nan),
        problem.ordered_P,
    )


def foretell(
    units_RP: Float64[np.ndarray, "R P"],
    values_R: Float64[np.ndarray, " R"],
    ordered_P: Bool[np.ndarray, " P"],
) -> tuple[Float64[np.ndarray, "R E"], Float64[np.ndarray, "R E"], Float64[np.ndarray, " R"]]:
    """The whole predictions of which `follow` says what they were worth: mean, scale and degrees
    of freedom of each trial's Student-t, under the experts' warps."""
    measured_R = np.isfinite(values_R)
    factor_KRR, innovations_WKR = _factor(units_RP, values_R, measured_R, ordered_P)
    middle_R = np.where(measured_R, values_R, 0.5)
    mean_WKR, scale_WKR, freedom_R = _moments(factor_KRR, innovations_WKR, middle_R, measured_R)
    return mean_WKR.reshape(EXPERTS, -1).T, scale_WKR.reshape(EXPERTS, -1).T, freedom_R


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What M experts say of the value at N points: Student-t distributions under their warps.

    Attributes:
      warp_M: the number of each expert's warp in `WARPS`.
      freedom: degrees of freedom.
    """

    mean_NM: Float64[np.ndarray, "N M"]
    scale_NM: Float64[np.ndarray, "N M"]
    warp_M: Int64[np.ndarray, " M"]
    freedom: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Posterior:
    """The experts given a study's trials.

    Attributes:
      evidence_E: log probability of the values so far, each given those before it.
      freedom: degrees of freedom of the predictions.
      pending: how many of the trials, the last ones, have no value yet.
    """

    units_RP: Float64[np.ndarray, "R P"]
    ordered_P: Bool[np.ndarray, " P"]
    pending: int
    factor_KRR: Float64[np.ndarray, "K R R"]
    innovations_WKR: Float64[np.ndarray, "W K R"]
    scale_WK: Float64[np.ndarray, "W K"]
    evidence_E: Float64[np.ndarray, " E"]
    freedom: float

    def predict(self, points: Points, experts_M: Int64[np.ndarray, " M"]) -> Predictions:
        """What some of the experts say of the value at these points."""
        mean_NM = np.empty((len(points), len(experts_M)))
        scale_NM = np.empty_like(mean_NM)
        square_NRP = squares(points.inputs_NK, self.units_RP, self.ordered_P)
        warp_M, kernel_M = np.divmod(experts_M, len(KERNELS))
        for kernel in np.unique(kernel_M):
            here_m = np.flatnonzero(kernel_M == kernel)
            covariance_NR = _covariance(square_NRP, np.array([kernel]))[0]
            white_RN = scipy.linalg.solve_triangular(
                self.factor_KRR[kernel], covariance_NR.T, lower=True, check_finite=False
            )
            left_N = 1.0 + MEAN_VARIANCE + JITTER - (white_RN**2).sum(0)
            spread_N = np.sqrt(np.maximum(left_N, 0.0) + KERNELS[kernel].noise)
            mean_NM[:, here_m] = (self.innovations_WKR[warp_M[here_m], kernel] @ white_RN).T
            scale_NM[:, here_m] = spread_N[:, None] * self.scale_WK[warp_M[here_m], kernel]
        return Predictions(mean_NM=mean_NM, scale_NM=scale_NM, warp_M=warp_M, freedom=self.freedom)

    def surprises(self, expert: int) -> Float64[np.ndarray, " R"]:
        """By how many standard deviations of an expert each measured value was above what it had
        predicted from those before."""
        warp, kernel = divmod(expert, len(KERNELS))
        measured = len(self.units_RP) - self.pending
        return self.innovations_WKR[warp, kernel, :measured] / self.scale_WK[warp, kernel]

    def fantasize(
        self, points: Points, expert: int, normal_SJ: Float64[np.ndarray, "S J"]
    ) -> tuple[Float64[np.ndarray, "S N"], Float64[np.ndarray, " N"], Float64[np.ndarray, "S J"]]:
        """What an expert would say if the J pending trials had the values of S draws.

        Args:
          normal_SJ: standard normal numbers.

        Returns:
          Means and scale of the function at the points, and the drawn values, all warped.
        """
        warp, kernel = divmod(expert, len(KERNELS))
        across_NR = _covariance(
            squares(points.inputs_NK, self.units_RP, self.ordered_P), np.array([kernel])
        )[0]
        factor_RR = self.factor_KRR[kernel]
        white_RN = scipy.linalg.solve_triangular(
            factor_RR, across_NR.T, lower=True, check_finite=False
        )
        first = len(self.units_RP) - self.pending
        innovation_R = self.innovations_WKR[warp, kernel]
        drawn_SJ = self.scale_WK[warp, kernel] * normal_SJ
        mean_SN = innovation_R @ white_RN + drawn_SJ @ white_RN[first:]
        left_N = 1.0 + MEAN_VARIANCE + JITTER - (white_RN**2).sum(0)
        scale_N = np.sqrt(np.maximum(left_N, JITTER)) * self.scale_WK[warp, kernel]
        pending_J = factor_RR[first:, :first] @ innovation_R[:first]
        return mean_SN, scale_N, pending_J + drawn_SJ @ factor_RR[first:, first:].T

    def draw_levels(
        self, points: Points, expert: int, rng: np.random.Generator
    ) -> Float64[np.ndarray, " N"]:
        """One draw of an expert's function at all points, as levels in [0, 1] of `predict`.

        A level is the predicted probability of a lower value, and uniform over draws; those of near
        points are near. The prediction's noise is one draw for all points, which moves them alike:
        the best of the points is the best of the function's values. Warps change no level.
        """
        kernel = expert % len(KERNELS)
        units_NP, every = points.inputs_NK, np.array([kernel])
        across_NR = _covariance(squares(units_NP, self.units_RP, self.ordered_P), every)[0]
        white_RN = scipy.linalg.solve_triangular(
            self.factor_KRR[kernel], across_NR.T, lower=True, check_finite=False
        )
        covariance_NN = _covariance(squares(units_NP, units_NP, self.ordered_P), every)[0]
        covariance_NN -= white_RN.T @ white_RN
        return levels_of_draw(covariance_NN, KERNELS[kernel].noise, self.freedom, rng)


def levels_of_draw(
    covariance_NN: Float64[np.ndarray, "N N"],
    noise: float,
    freedom: float,
    rng: np.random.Generator,
) -> Float64[np.ndarray, " N"]:
    """One draw of a Student-t process, as levels in [0, 1]: see `Posterior.draw_levels`.

    Args:
      covariance_NN: of the process given the trials, without noise.
    """
    points = len(covariance_NN)
    covariance_NN = covariance_NN + JITTER * np.eye(points)
    drawn_N = np.linalg.cholesky(covariance_NN) @ rng.standard_normal(points)
    drawn_N += np.sqrt(noise) * rng.standard_normal()
    drawn_N /= np.sqrt(covariance_NN.diagonal() + noise)
    # One variance for all points.
    drawn_N *= np.sqrt(freedom / rng.chisquare(freedom))
    return stdtr(freedom, drawn_N)


def condition(
    units_RP: Float64[np.ndarray, "R P"],
    values_R: Float64[np.ndarray, " R"],
    pending_R: Bool[np.ndarray, " R"],
    ordered_P: Bool[np.ndarray, " P"],
    bins: int,
) -> Posterior:
    """The experts given trials, as in `follow`.

    Pending trials narrow predictions and leave their mean alone (Desautels et al., 2014); in
    `follow`, from which weights are learned, they say nothing, as others without a value do in
    both.
    """
    # Pending ones last: then nothing about the others depends on them.
    rows = np.concatenate([np.flatnonzero(np.isfinite(values_R)), np.flatnonzero(pending_R)])
    units_RP, values_R = units_RP[rows], values_R[rows]
    measured_R = np.isfinite(values_R)
    factor_KRR, innovations_WKR = _factor(units_RP, values_R, np.ones_like(measured_R), ordered_P)
    innovations_WKR = innovations_WKR * measured_R
    count = int(measured_R.sum())
    log_WKR, _ = _foretold(
        factor_KRR[:, :count, :count],
        innovations_WKR[..., :count],
        values_R[:count],
        measured_R[:count],
        bins,
    )
    squares_WK = (innovations_WKR**2).sum(-1)
    return Posterior(
        units_RP=units_RP,
        ordered_P=ordered_P,
        pending=len(values_R) - count,
        factor_KRR=factor_KRR,
        innovations_WKR=innovations_WKR,
        scale_WK=_scale(squares_WK, np.asarray(float(count))),
        evidence_E=log_WKR.sum(-1).ravel(),
        freedom=FREEDOM + count,
    )


def normal_score(
    t: Float64[np.ndarray, "*N"], freedom: float | Float64[np.ndarray, "..."]
) -> Float64[np.ndarray, "*N"]:
    """About where a normal distribution has the same mass below as Student's below `t`
    (Wallace, 1959)."""
    bent = np.sqrt(freedom * np.log1p(t * t / freedom)) * (1.0 - 0.25 / freedom)
    return np.copysign(bent, t)


def squares(
    units_NP: Float64[np.ndarray, "N P"],
    units_RP: Float64[np.ndarray, "R P"],
    ordered_P: Bool[np.ndarray, " P"],
) -> Float64[np.ndarray, "N R P"]:
    """Squared distances in each parameter: those of points of a Euclidean space, so that every
    kernel stays positive definite.

    Categories are 1 apart. What a trial does not have lies beside the middle of the parameter's
    range, 1 away from it.
    """
    apart_NRP = units_NP[:, None] - units_RP[None]
    other_NRP = (np.abs(apart_NRP) > SAME).astype(np.float64)
    gone_NP, gone_RP = units_NP == INACTIVE, units_RP == INACTIVE
    if gone_NP.any() or gone_RP.any():
        apart_NRP = np.where(gone_NP, 0.5, units_NP)[:, None] - np.where(gone_RP, 0.5, units_RP)
    alone_NRP = gone_NP[:, None] != gone_RP[None]
    return np.where(ordered_P, apart_NRP**2 + alone_NRP, other_NRP)


@functools.cache
def _weights(parameters: int) -> Float64[np.ndarray, "K P"]:
    """The inverse squared length scales."""
    rows = [
        [
            (kernel.length * (1.0 if kernel.relevant[p % len(kernel.relevant)] else 6.0)) ** -2
            for p in range(parameters)
        ]
        for kernel in KERNELS
    ]
    return np.array(rows) / parameters


_GAUSSIAN_K = np.array([kernel.gaussian for kernel in KERNELS])
_NOISE_K = np.array([kernel.noise for kernel in KERNELS])


def _covariance(
    square_NRP: Float64[np.ndarray, "N R P"], kernels_k: Int64[np.ndarray, " k"]
) -> Float64[np.ndarray, "k N R"]:
    """Of the process and its mean, without noise."""
    weights_kP = _weights(square_NRP.shape[-1])[kernels_k]
    square_kNR = np.moveaxis(square_NRP @ weights_kP.T, -1, 0)
    gaussian_k = _GAUSSIAN_K[kernels_k]
    covariance_kNR = np.empty_like(square_kNR)
    covariance_kNR[gaussian_k] = np.exp(-0.5 * square_kNR[gaussian_k])
    root_kNR = np.sqrt(5.0 * square_kNR[~gaussian_k])
    covariance_kNR[~gaussian_k] = (1.0 + root_kNR + root_kNR**2 / 3.0) * np.exp(-root_kNR)
    return covariance_kNR + MEAN_VARIANCE


def _factor(
    units_RP: Float64[np.ndarray, "R P"],
    values_R: Float64[np.ndarray, " R"],
    counts_R: Bool[np.ndarray, " R"],
    ordered_P: Bool[np.ndarray, " P"],
) -> tuple[Float64[np.ndarray, "K R R"], Float64[np.ndarray, "W K R"]]:
    """The Cholesky factor of each kernel's covariance, and its inverse times the warped values:
    by how many standard deviations of a process of variance 1 each value was a surprise."""
    trials, warps = len(units_RP), len(WARPS)
    covariance_KRR = _covariance(squares(units_RP, units_RP, ordered_P), np.arange(len(KERNELS)))
    noise_KR = _NOISE_K[:, None] + JITTER + np.where(counts_R, 0.0, UNMEASURED)
    warped_WR = warp(np.where(np.isfinite(values_R), values_R, 0.5))
    # Bordered by the values, one factorization gives both.
    bordered_KSS = np.zeros((len(KERNELS), trials + warps, trials + warps))
    bordered_KSS[:, :trials, :trials] = covariance_KRR
    bordered_KSS[:, trials:, :trials] = warped_WR
    diagonal = np.arange(trials + warps)
    bordered_KSS[:, diagonal[:trials], diagonal[:trials]] += noise_KR
    bordered_KSS[:, diagonal[trials:], diagonal[trials:]] = 1e12
    factor_KSS = np.linalg.cholesky(bordered_KSS)
    innovations_WKR = np.moveaxis(factor_KSS[:, trials:, :trials], 1, 0)
    return factor_KSS[:, :trials, :trials], innovations_WKR


def _scale(
    squares: Float64[np.ndarray, "..."], count: Float64[np.ndarray, "..."]
) -> Float64[np.ndarray, "..."]:
    """The scale of a process from the sum of its squared innovations."""
    return np.sqrt((FREEDOM * 0.25**2 + squares) / (FREEDOM + count))


def _moments(
    factor_KRR: Float64[np.ndarray, "K R R"],
    innovations_WKR: Float64[np.ndarray, "W K R"],
    values_R: Float64[np.ndarray, " R"],
    measured_R: Bool[np.ndarray, " R"],
) -> tuple[Float64[np.ndarray, "W K R"], Float64[np.ndarray, "W K R"], Float64[np.ndarray, " R"]]:
    """Mean, scale and degrees of freedom of each value's prediction from those before it."""
    spread_KR = np.diagonal(factor_KRR, axis1=1, axis2=2)
    known_WKR = innovations_WKR**2 * measured_R
    squares_WKR = np.cumsum(known_WKR, axis=-1) - known_WKR
    count_R = (np.cumsum(measured_R) - measured_R).astype(np.float64)
    scale_WKR = _scale(squares_WKR, count_R) * spread_KR
    mean_WKR = warp(values_R)[:, None] - spread_KR * innovations_WKR
    return mean_WKR, scale_WKR, FREEDOM + count_R


def _foretold(
    factor_KRR: Float64[np.ndarray, "K R R"],
    innovations_WKR: Float64[np.ndarray, "W K R"],
    values_R: Float64[np.ndarray, " R"],
    measured_R: Bool[np.ndarray, " R"],
    bins: int,
) -> tuple[Float64[np.ndarray, "W K R"], Float64[np.ndarray, "W K R"]]:
    """Log probability of each value's bin, and the probability below its middle."""
    mean_WKR, scale_WKR, freedom_R = _moments(factor_KRR, innovations_WKR, values_R, measured_R)
    return log_chance_of_bins(mean_WKR, scale_WKR, freedom_R, values_R, bins)


def log_chance_of_bins(
    mean_WKR: Float64[np.ndarray, "W K R"],
    scale_WKR: Float64[np.ndarray, "W K R"],
    freedom_R: Float64[np.ndarray, " R"],
    values_R: Float64[np.ndarray, " R"],
    bins: int,
    warps: Sequence[int] = tuple(range(len(WARPS))),
) -> tuple[Float64[np.ndarray, "W K R"], Float64[np.ndarray, "W K R"]]:
    """Log probability of each value's bin, and the probability below its middle, from Student-t
    predictions under these of the warps."""
    used = list(warps)

    def score(values_R: Float64[np.ndarray, " R"]) -> Float64[np.ndarray, "W K R"]:
        t_WKR = (warp(values_R)[used][:, None] - mean_WKR) / scale_WKR
        return normal_score(t_WKR, freedom_R)

    low_WKR, high_WKR = score(np.zeros_like(values_R)), score(np.ones_like(values_R))
    total_WKR = np.maximum(_mass(low_WKR, high_WKR), 1e-30)
    bin_WKR = _mass(score(values_R - 0.5 / bins), score(values_R + 0.5 / bins)) / total_WKR
    below_WKR = _mass(low_WKR, score(values_R)) / total_WKR
    log_WKR = np.log((1.0 - FLOOR) * np.minimum(bin_WKR, 1.0) + FLOOR / bins)
    return log_WKR, (1.0 - FLOOR) * np.minimum(below_WKR, 1.0) + FLOOR * values_R


def _mass(
    low: Float64[np.ndarray, "..."], high: Float64[np.ndarray, "..."]
) -> Float64[np.ndarray, "..."]:
    """The normal distribution's mass between two scores, exact in both tails."""
    return np.where(low > 0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))
