"""Points to rank beside the model's own samples, and the choice of the best.

Array dimensions: N points, M experts, K centres, P parameters, R trials, E experts, V values.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64
from scipy.integrate import trapezoid
from scipy.special import ndtr

from optformer import space
from optformer.model import experts
from optformer.model.experts import Posterior
from optformer.model.points import Points, joined
from optformer.policies.config import PolicyConfig
from optformer.policies.view import View
from optformer.space import in_cube, to_natural
from optformer.study import Parameter, ParameterType, Problem

CENTRES = 8
"""The second round of `sift` looks around so many points of the first."""

SIFTERS = 8
"""So many experts sift, the weightiest."""

LEAST_GAIN = 1e-6
"""Improvements from this share of what is left above the best trial on are told apart."""

STEPS = 3e-4, 0.3
"""The smallest and the largest step of points near others, as shares of a parameter's range."""


def draw(view: View, policy: PolicyConfig, rng: np.random.Generator) -> Points:
    """Points of the trust region and near the best trials, sifted where there are experts."""
    units_NP = np.concatenate(
        [view.region.draw(policy.uniform, rng), near_best(view, policy.local, rng)]
    )
    points = view.coordinates.of_units(units_NP)
    if view.prior is not None:
        points = joined([points, promising(view, points, policy.local, rng)])
    if view.posterior is None or not len(points):
        return points
    return sift(points, min(policy.drawn(sifted=True), len(points)), view, rng)


def sift(
    points: Points,
    count: int,
    view: View,
    rng: np.random.Generator,
) -> Points:
    """The points from which the experts expect most improvement, some of them found near others.

    Points outside the trust region come after all others.
    """

    def gains(points: Points) -> Float64[np.ndarray, " N"]:
        first_N = view.first_scores(points)
        if first_N is not None:
            return first_N
        return view.region.inside_first(gain(view, points) * view.weight(points), points.units_NP)

    points = points.rows(points.unique())
    gain_N = gains(points)
    centres_KP = points.units_NP[np.argsort(-gain_N, kind="stable")[:CENTRES]]
    parameters = view.study.problem.parameters
    around = view.coordinates.of_units(near(parameters, centres_KP, len(points) // 3, rng))
    around = around.rows(around.unique())
    gain_N = np.concatenate([gain_N, gains(around)])
    points = joined([points, around])
    first_M = points.unique()
    return points.rows(first_M[np.argsort(-gain_N[first_M], kind="stable")[:count]])


def gain(view: View, points: Points) -> Float64[np.ndarray, " N"]:
    """By how much the experts expect each point to be better than the best trial."""
    assert view.posterior is not None and view.log_weights_E is not None
    return expected_improvement(view.posterior, view.log_weights_E, points, view.best)


def expected_improvement(
    posterior: Posterior,
    log_weights_E: Float[np.ndarray, " E"],
    points: Points,
    best: float,
    values: int = 21,
) -> Float64[np.ndarray, " N"]:
    """By how much the experts expect each point to be better than `best`, on the bins' axis."""
    chosen_M = np.argsort(-log_weights_E, kind="stable")[:SIFTERS]
    said = posterior.predict(points, chosen_M)
    share_M = np.exp(log_weights_E[chosen_M].astype(np.float64))
    # The ends of the range first and last. Small improvements are told apart, too.
    beyond_V = np.append(0.0, np.geomspace(LEAST_GAIN, 1.0, values - 1))
    values_V = np.append(0.0, best + (1.0 - best) * beyond_V)
    warped_VM = experts.warp(values_V)[said.warp_M].T
    t_NVM = (warped_VM - said.mean_NM[:, None]) / said.scale_NM[:, None]
    # Where all of the range is in the lower tail, what is below has more digits than what is above.
    sign_N1M = np.where(t_NVM[:, -1:] < 0, -1.0, 1.0)
    tail_NVM = ndtr(-sign_N1M * experts.normal_score(t_NVM, said.freedom))
    tail_NVM -= tail_NVM[:, -1:].copy()
    inside_N1M = np.copysign(np.maximum(np.abs(tail_NVM[:, :1]), 1e-30), tail_NVM[:, :1])
    # The integral of what lies above.
    above_NVM = tail_NVM[:, 1:] / inside_N1M
    return trapezoid(above_NVM, values_V[1:], axis=1) @ share_M


def promising(view: View, points: Points, count: int, rng: np.random.Generator) -> Points:
    """Points around those of which the prior expects most."""
    assert view.prior is not None
    mean_N, _ = view.prior.mean_and_features(points.values_NP)
    centres_KP = points.units_NP[np.argsort(-mean_N, kind="stable")[:CENTRES]]
    return view.coordinates.of_units(near(view.study.problem.parameters, centres_KP, count, rng))


def near_best(view: View, count: int, rng: np.random.Generator) -> Float64[np.ndarray, "N P"]:
    """Points of the unit cube around the best three completed trials; at random without any."""
    parameters = view.study.problem.parameters
    if not len(view.best_trials_K):
        return rng.random((count, len(parameters)))
    return near(parameters, view.trials.units_NP[view.best_trials_K], count, rng)


def near(
    parameters: Sequence[Parameter],
    centres_KP: Float64[np.ndarray, "K P"],
    count: int,
    rng: np.random.Generator,
) -> Float64[np.ndarray, "N P"]:
    """Points of the unit cube around some of these, at random where a coordinate is NaN.

    Half of the points move in about half of their active parameters, the others in about one, and
    all in one at least: by a normal step of the point's own size (`STEPS`), which always reaches
    another value if there is one.
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
    smallest, largest = np.log(STEPS)
    size_N1 = np.exp(rng.uniform(smallest, largest, (count, 1)))
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


def first(
    problem: Problem, values_P: Float64[np.ndarray, " P"], rng: np.random.Generator
) -> Float64[np.ndarray, " P"]:
    """Where a study begins: at the defaults, which people know to work.

    A parameter without one is at its middle, as with Vizier, or has the category of these values.
    """
    [units_P] = in_cube(problem.parameters, values_P[None])
    units_P = np.where(np.isfinite(units_P), units_P, rng.random(len(units_P)))
    ordered_P = [one.type != ParameterType.CATEGORICAL for one in problem.parameters]
    first_1P = to_natural(problem.parameters, np.where(ordered_P, 0.5, units_P)[None])
    for column, parameter in enumerate(problem.parameters):
        if parameter.default is not None:
            first_1P[0, column] = parameter.to_number(parameter.default)
    return np.where(problem.active(first_1P), first_1P, np.nan)[0]


def best_new(scores_N: Float64[np.ndarray, " N"], points: Points, known: Points) -> int:
    """The best point that is no repeat of a known trial, or of all if every one is."""
    known_rows = {row.tobytes() for row in known.inputs_NK}
    new_N = np.array([row.tobytes() not in known_rows for row in points.inputs_NK])
    return int(np.argmax(np.where(new_N, scores_N, -np.inf) if new_N.any() else scores_N))
