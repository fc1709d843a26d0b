"""The part of the space in which a young study's suggestions lie.

What a model knows least of is far from all trials: in the corners, of which there are the more the
more parameters there are. So suggestions stay near what was measured until enough trials are known,
as those of Vizier's GP bandit do (google-vizier 0.1.24, designers/gp/acquisitions.py) and of the
teacher `gp_ucb`. Here, unlike there, a parameter of few values always reaches their neighbours, and
trials that failed or still run have no box of their own but let the others' grow.

Array dimensions: N points, R measured trials, P parameters in the problem's order.
"""

import dataclasses

import numpy as np
from jaxtyping import Float64

from optformer import space
from optformer.space import in_cube, trust_radius
from optformer.study import Parameter, ParameterType, Problem, Study

_ROUNDING = 1e-3  # points are middles of bins, and so a little off


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrustRegion:
    """Boxes around measured points.

    Attributes:
      measured_RP: the boxes' centres in the unit cube; NaN where a trial lacks the parameter, of
        which it then has all.
      reach_P: how far the boxes go from their centres; infinite along parameters without an order.
    """

    measured_RP: Float64[np.ndarray, "R P"]
    reach_P: Float64[np.ndarray, " P"]

    @classmethod
    def of(cls, study: Study) -> "TrustRegion":
        """Around the trials that have a metric; everywhere where none has.

        All trials widen it: that of failed and running ones, too, was a look at the space.
        """
        values_RP = study.values_RP[np.isfinite(study.objective())]
        parameters = study.problem.parameters
        if not len(values_RP):
            return everywhere(study.problem)
        radius = trust_radius(len(study), len(parameters))
        # Of few values, a neighbour may be further away than that.
        reach_P = [max(radius, _widest_step(parameter)) for parameter in parameters]
        return cls(measured_RP=in_cube(parameters, values_RP), reach_P=np.array(reach_P))

    def draw(self, count: int, rng: np.random.Generator) -> Float64[np.ndarray, "N P"]:
        """Points, each uniform in a box that is chosen at random, then moved into the cube."""
        uniform_NP = rng.random((count, len(self.reach_P)))
        if not len(self.measured_RP):
            return uniform_NP
        centre_NP = self.measured_RP[rng.integers(len(self.measured_RP), size=count)]
        boxed_NP = np.clip(centre_NP + self.reach_P * (2.0 * uniform_NP - 1.0), 0.0, 1.0)
        return np.where((self.reach_P < 1.0) & np.isfinite(boxed_NP), boxed_NP, uniform_NP)

    def beyond(self, units_NP: Float64[np.ndarray, "N P"]) -> Float64[np.ndarray, " N"]:
        """By how much each point lies outside the nearest box; 0 inside.

        Args:
          units_NP: NaN where a point lacks the parameter.
        """
        over_NR = np.zeros((len(units_NP), len(self.measured_RP)))
        for column in np.flatnonzero(self.reach_P < 1.0):
            apart_NR = np.abs(units_NP[:, column, None] - self.measured_RP[None, :, column])
            # Not a number where one of the two lacks the parameter: `fmax` passes over it.
            np.fmax(over_NR, apart_NR - self.reach_P[column], out=over_NR)
        nearest_N = over_NR.min(axis=1) if len(self.measured_RP) else np.zeros(len(units_NP))
        return np.where(nearest_N > _ROUNDING, nearest_N, 0.0)

    def inside_first(
        self, scores_N: Float64[np.ndarray, " N"], units_NP: Float64[np.ndarray, "N P"]
    ) -> Float64[np.ndarray, " N"]:
        """The scores, which are not below 0; of points outside -1 and less, the nearest most."""
        beyond_N = self.beyond(units_NP)
        return np.where(beyond_N > 0, -1.0 - beyond_N, scores_N)


def everywhere(problem: Problem) -> TrustRegion:
    """The whole space."""
    size = len(problem.parameters)
    return TrustRegion(measured_RP=np.empty((0, size)), reach_P=np.full(size, np.inf))


def _widest_step(parameter: Parameter) -> float:
    """The largest distance in [0, 1] between neighbouring values; infinite without an order."""
    if parameter.type == ParameterType.CATEGORICAL:
        return np.inf
    if parameter.type == ParameterType.DOUBLE:
        return 0.0
    if parameter.bounds is None:
        return 1.0 / len(parameter.values)
    low, high = parameter.bounds
    # On a log scale one of the ends has it.
    ends = np.array([low, min(low + 1, high), max(high - 1, low), high], float)
    low_0, low_1, high_1, high_0 = space.column_to_units(parameter, ends)
    return float(max(low_1 - low_0, high_0 - high_1))
