"""Points to rank beside the model's own samples, and the choice of the best.

Array dimensions: N points, M sifted ones, K centres, P parameters, Q
parameters with those that have no token, R trials, E experts, G predictions, V values.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy.integrate import trapezoid
from scipy.special import ndtr

from optformer import space
from optformer.model import experts
from optformer.model.experts import Posterior
from optformer.policies.trust import TrustRegion, in_cube
from optformer.space import to_natural
from optformer.study import Parameter, ParameterType, Problem, Study
from optformer.tokenization.tokenizer import EncodedProblem, StudyTokenizer

CENTRES = 8
"""The second round of `sift` looks around so many points of the first."""

SIFTERS = 8
"""So many experts sift, the weightiest."""


def sift(
    ids_NP: Int64[np.ndarray, "N P"],
    count: int,
    posterior: Posterior,
    log_weights_G: Float[np.ndarray, " G"],
    best: float,
    problem: EncodedProblem,
    tokenizer: StudyTokenizer,
    region: TrustRegion,
    rng: np.random.Generator,
) -> Int64[np.ndarray, "M P"]:
    """The points from which the experts expect most improvement, some of them found near others.

    Args:
      ids_NP: output tokens, in the order of the problem's tokens.
      log_weights_G: of the transformer's own prediction, which has no say, and of each expert's.
      best: the best value so far, on the bins' axis.
      region: points outside of it come after all others.
    """

    def gains(ids_NP: Int64[np.ndarray, "N P"]) -> Float64[np.ndarray, " N"]:
        units_NP = units_of_ids(ids_NP, tokenizer)
        gain_N = expected_improvement(posterior, log_weights_G[1:], units_NP, best)
        return region.inside_first(gain_N, in_study_order(units_NP, problem))

    ids_NP = np.unique(ids_NP, axis=0)
    gain_N = gains(ids_NP)
    best_K = np.argsort(-gain_N, kind="stable")[:CENTRES]
    centres_KP = in_study_order(units_of_ids(ids_NP[best_K], tokenizer), problem)
    moved_NP = near(problem.problem.parameters, centres_KP, len(ids_NP) // 3, rng)
    near_NP = ids_of_units(problem, tokenizer, moved_NP)
    near_NP = np.unique(near_NP, axis=0)
    gain_N = np.concatenate([gain_N, gains(near_NP)])
    ids_NP, first_N = np.unique(np.concatenate([ids_NP, near_NP]), axis=0, return_index=True)
    return ids_NP[np.argsort(-gain_N[first_N], kind="stable")[:count]]


def expected_improvement(
    posterior: Posterior,
    log_weights_E: Float[np.ndarray, " E"],
    units_NP: Float64[np.ndarray, "N P"],
    best: float,
    values: int = 17,
) -> Float64[np.ndarray, " N"]:
    """By how much the experts expect each point to be better than `best`, on the bins' axis."""
    chosen_M = np.argsort(-log_weights_E, kind="stable")[:SIFTERS]
    mean_NM, scale_NM = experts.predict(posterior, units_NP, chosen_M)
    share_M = np.exp(log_weights_E[chosen_M].astype(np.float64))
    # The ends of the range first and last. Small improvements are told apart, too.
    beyond_V = np.append(0.0, np.geomspace(1e-4, 1.0, values - 1))
    values_V = np.append(0.0, best + (1.0 - best) * beyond_V)
    warped_VM = experts.warp(values_V)[chosen_M // len(experts.KERNELS)].T
    t_NVM = (warped_VM - mean_NM[:, None]) / scale_NM[:, None]
    # Where all of the range is in the lower tail, what is below has more digits than what is above.
    sign_N1M = np.where(t_NVM[:, -1:] < 0, -1.0, 1.0)
    tail_NVM = ndtr(-sign_N1M * experts.normal_score(t_NVM, posterior.freedom))
    tail_NVM -= tail_NVM[:, -1:].copy()
    inside_N1M = np.copysign(np.maximum(np.abs(tail_NVM[:, :1]), 1e-30), tail_NVM[:, :1])
    # The integral of what lies above.
    above_NVM = tail_NVM[:, 1:] / inside_N1M
    return trapezoid(above_NVM, values_V[1:], axis=1) @ share_M


def units_of_ids(
    ids_NP: Int64[np.ndarray, "N P"], tokenizer: StudyTokenizer
) -> Float64[np.ndarray, "N P"]:
    """Where output tokens of parameters are in the unit cube, as experts see it."""
    vocabulary = tokenizer.vocabulary
    return vocabulary.to_units(ids_NP + vocabulary.first_output, other=experts.INACTIVE)


def ids_of_units(
    problem: EncodedProblem, tokenizer: StudyTokenizer, units_NQ: Float64[np.ndarray, "N Q"]
) -> Int64[np.ndarray, "N P"]:
    """Output tokens of points of the unit cube, whose columns are the problem's parameters."""
    values_NQ = to_natural(problem.problem.parameters, units_NQ)
    ids_NQ = tokenizer.parameter_ids(problem.problem, values_NQ) - tokenizer.vocabulary.first_output
    active_NQ = problem.problem.active(values_NQ)
    inactive = tokenizer.vocabulary.inactive - tokenizer.vocabulary.first_output
    return np.where(active_NQ, ids_NQ, inactive)[:, problem.order_P]


def in_study_order(
    units_NP: Float64[np.ndarray, "N P"], problem: EncodedProblem
) -> Float64[np.ndarray, "N Q"]:
    """Columns of the tokens as columns of the problem; NaN where a parameter has no token."""
    units_NQ = np.full((len(units_NP), len(problem.problem.parameters)), np.nan)
    units_NQ[:, problem.order_P] = np.where(units_NP == experts.INACTIVE, np.nan, units_NP)
    return units_NQ


def units_near_best(
    study: Study, count: int, rng: np.random.Generator
) -> Float64[np.ndarray, "N P"]:
    """Points of the unit cube around the best three completed trials; at random without any."""
    parameters = study.problem.parameters
    goal = study.objective()
    done_R = np.flatnonzero(np.isfinite(goal))
    if not len(done_R):
        return rng.random((count, len(parameters)))
    best_K = done_R[np.argsort(-goal[done_R], kind="stable")[:3]]
    return near(parameters, in_cube(parameters, study.values_RP[best_K]), count, rng)


def near(
    parameters: Sequence[Parameter],
    centres_KP: Float64[np.ndarray, "K P"],
    count: int,
    rng: np.random.Generator,
) -> Float64[np.ndarray, "N P"]:
    """Points of the unit cube around some of these, at random where a coordinate is NaN.

    Half of the points move in about half of their active parameters, the others in about one, and
    all in one at least: by a normal step of the point's own size, from 0.003 to 0.3 of a
    parameter's range, which always reaches another value if there is one.
    """
    shape = count, len(parameters)
    start_NP = centres_KP[rng.integers(len(centres_KP), size=count)]
    moves_NP = np.isfinite(start_NP) & [not space.is_fixed(parameter) for parameter in parameters]
    # An inactive parameter has no place of its own.
    start_NP = np.where(np.isfinite(start_NP), start_NP, rng.random(shape))
    few_N1 = 1.0 / np.maximum(moves_NP.sum(axis=1, keepdims=True), 1)
    share_N1 = np.where(rng.random((count, 1)) < 0.5, 0.5, few_N1)
    draw_NP = np.where(moves_NP, rng.random(shape), np.inf)
    moved_NP = (draw_NP < share_N1) | (draw_NP == draw_NP.min(axis=1, keepdims=True, initial=2.0))
    size_N1 = np.exp(rng.uniform(np.log(0.003), np.log(0.3), (count, 1)))
    # Reflected, so that borders get no more than their share.
    stepped_NP = start_NP + size_N1 * rng.standard_normal(shape)
    stepped_NP = 1.0 - np.abs(1.0 - np.abs(stepped_NP) % 2.0)
    for column, parameter in enumerate(parameters):
        if parameter.type != ParameterType.DOUBLE:
            pair = start_NP[:, column], stepped_NP[:, column]
            stepped_NP[:, column] = _another_value(parameter, *pair, rng)
    return np.where(moved_NP, stepped_NP, start_NP)


def _another_value(
    parameter: Parameter,
    start_N: Float64[np.ndarray, " N"],
    stepped_N: Float64[np.ndarray, " N"],
    rng: np.random.Generator,
) -> Float64[np.ndarray, " N"]:
    """Steps of which too small ones are to a neighbouring value; without an order, to any other."""
    if parameter.type == ParameterType.CATEGORICAL:
        size = len(parameter.values)
        return (start_N + rng.integers(1, max(size, 2), len(start_N)) / size) % 1.0
    number_N, stepped_to_N = (
        space.column_from_units(parameter, units_N) for units_N in (start_N, stepped_N)
    )
    step_N = np.where(stepped_N < start_N, -1.0, 1.0)
    if parameter.bounds is not None:
        low, high = parameter.bounds
        step_N = np.where((number_N + step_N < low) | (number_N + step_N > high), -step_N, step_N)
        next_N = np.clip(number_N + step_N, low, high)
    else:
        values_V = np.array(parameter.values, dtype=np.float64)
        place_N = np.searchsorted(values_V, number_N)
        step_N = np.where(place_N == 0, 1.0, np.where(place_N == len(values_V) - 1, -1.0, step_N))
        next_N = values_V[np.clip(place_N + step_N.astype(np.int64), 0, len(values_V) - 1)]
    next_units_N = space.column_to_units(parameter, next_N)
    return np.where(stepped_to_N == number_N, next_units_N, stepped_N)


def centre(
    problem: Problem, values_P: Float64[np.ndarray, " P"], rng: np.random.Generator
) -> Float64[np.ndarray, " P"]:
    """Where a study begins, as with Vizier: at the middle of each parameter that has an order, with
    the categories of these values (as in `Study.values_RP`)."""
    [units_P] = in_cube(problem.parameters, values_P[None])
    units_P = np.where(np.isfinite(units_P), units_P, rng.random(len(units_P)))
    ordered_P = [one.type != ParameterType.CATEGORICAL for one in problem.parameters]
    middle_1P = to_natural(problem.parameters, np.where(ordered_P, 0.5, units_P)[None])
    return np.where(problem.active(middle_1P), middle_1P, np.nan)[0]


def best_new(
    scores_N: Float64[np.ndarray, " N"],
    ids_NP: Int64[np.ndarray, "N P"],
    known_RP: Int64[np.ndarray, "R P"],
) -> int:
    """The best candidate that is no repeat of a known trial, or of all if every one is."""
    known = {row.tobytes() for row in known_RP}
    new_N = np.array([row.tobytes() not in known for row in ids_NP])
    return int(np.argmax(np.where(new_N, scores_N, -np.inf) if new_N.any() else scores_N))
