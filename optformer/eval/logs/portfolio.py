"""A learned portfolio: a fixed list of configurations that did well on a learner's other data sets.

For a study, the list is chosen without its data set (leave one out): from the configurations of the
learner's other studies, greedily, each the one that most improves the mean over these studies of
the best score so far. It does not adapt to the study.

Array dimensions: C configurations, D studies, K places of the list, P parameters.
"""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int8

from optformer.data.problems.surrogate import Model, SurrogateBlock
from optformer.data.splits import data_set_of, learner_of, same_name
from optformer.eval.task import Optimizer, rng_of
from optformer.progress import Progress, silent
from optformer.space import Spaces, to_natural
from optformer.study import Problem, Study

_STUDIES = 40  # of a learner at most
_BEST, _RANDOM = 3, 12  # configurations that each study contributes


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PortfolioFactory:
    """Makes an optimizer that tries a list of its problem's name, then random configurations.

    Attributes:
      lists: by problem, points in the unit cube.
    """

    lists: Mapping[str, Float64[np.ndarray, "K P"]]

    def __repr__(self) -> str:
        return f"PortfolioFactory(studies={len(self.lists)})"

    @property
    def random_trials(self) -> int:
        """No first trial is random."""
        return 0

    def __call__(self, problem: Problem, seed: int) -> Optimizer:
        """The list's first configuration is the first to try."""
        listed_KP = self.lists.get(problem.name, np.empty((0, len(problem.parameters))))
        return _Portfolio(problem, listed_KP, seed)


class _Portfolio:
    def __init__(self, problem: Problem, listed_KP: Float64[np.ndarray, "K P"], seed: int) -> None:
        self._problem, self._listed_KP = problem, listed_KP
        self._rng = np.random.default_rng(seed)
        self._tried = 0

    def suggest(self, count: int) -> Float64[np.ndarray, "N P"]:
        """The next configurations of the list."""
        parameters = self._problem.parameters
        units_NP = self._rng.random((count, len(parameters)))
        listed_NP = self._listed_KP[self._tried : self._tried + count]
        units_NP[: len(listed_NP)] = listed_NP
        self._tried += count
        return to_natural(parameters, Spaces.of(parameters).snap(units_NP[None])[0])

    def update(
        self,
        values_NP: Float64[np.ndarray, "N P"],
        metrics_NM: Float64[np.ndarray, "N M"],
        states_N: Int8[np.ndarray, " N"],
    ) -> None:
        """Does nothing: the list is fixed."""


def factory(
    studies: Sequence[Study],
    usable: Mapping[str, Sequence[Study]],
    *,
    length: int,
    model: Model = "auto",
    cache: Path | None = None,
    progress: Progress = silent,
) -> PortfolioFactory:
    """The portfolio of each study's learner without its data set.

    Args:
      studies: those to optimize.
      usable: by learner, all studies to learn from.
    """
    lists: dict[str, Float64[np.ndarray, "K P"]] = {}
    by_learner: dict[str, list[Study]] = {}
    for study in studies:
        by_learner.setdefault(learner_of(study) or "other", []).append(study)
    for number, (learner, wanted) in enumerate(by_learner.items()):
        progress(number, len(by_learner), f"portfolio of {learner}")
        for parameters in {study.problem.parameters for study in wanted}:
            others = [study for study in usable[learner] if study.problem.parameters == parameters]
            # The same ones whatever the order and however many there are.
            others.sort(key=lambda study: zlib.crc32(study.name.encode()))
            pooled = _Pooled.of(others[:_STUDIES], model, cache)
            for study in wanted:
                if study.problem.parameters == parameters:
                    listed_KP = pooled.without(data_set_of(study), length)
                    lists[f"surrogate/{study.name}"] = listed_KP
    return PortfolioFactory(lists=lists)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Pooled:
    """Scores of some configurations on all studies of a learner.

    Attributes:
      points_CP: in the unit cube.
      score_CD: 0 is the study's median trial, 1 its best; a failure scores 0.
      of_CD: whose configuration it is.
      data_sets: of the studies.
    """

    points_CP: Float64[np.ndarray, "C P"]
    score_CD: Float64[np.ndarray, "C D"]
    of_CD: Bool[np.ndarray, "C D"]
    data_sets: tuple[str, ...]

    @classmethod
    def of(cls, studies: Sequence[Study], model: Model, cache: Path | None) -> "_Pooled":
        blocks = [SurrogateBlock(study, model=model, cache=cache) for study in studies]
        points, owners = [], []
        for place, (study, block) in enumerate(zip(studies, blocks, strict=True)):
            recorded_RP = block.recorded_points()[0]
            value_R = np.nan_to_num(block.recorded.values_R, nan=-np.inf)
            order_R = np.argsort(-value_R, kind="stable")
            random_R = rng_of(study.name, 2).permutation(len(order_R))[:_RANDOM]
            rows = np.unique(np.concatenate([order_R[:_BEST], random_R]))
            points.append(recorded_RP[rows])
            owners.append(np.full(len(rows), place))
        points_CP, owner_C = np.concatenate(points), np.concatenate(owners)
        columns = []
        for block in blocks:
            recorded_R = block.evaluate_exact(block.recorded_points())[0]
            low, high = np.nanmedian(recorded_R), np.nanmax(recorded_R)
            score_C = (block.evaluate_exact(points_CP[None])[0] - low) / max(high - low, 1e-300)
            columns.append(np.clip(np.nan_to_num(score_C, nan=0.0), 0.0, 1.0))
        return cls(
            points_CP=points_CP,
            score_CD=np.stack(columns, axis=1),
            of_CD=owner_C[:, None] == np.arange(len(studies)),
            data_sets=tuple(same_name(data_set_of(study)) for study in studies),
        )

    def without(self, data_set: str, length: int) -> Float64[np.ndarray, "K P"]:
        """The greedy list of all data sets but this one; empty if there is no other."""
        other_D = np.array([one != same_name(data_set) for one in self.data_sets])
        if not other_D.any():
            return self.points_CP[:0]
        mine_C = self.of_CD[:, other_D].any(axis=1)
        points_CP, score_CD = self.points_CP[mine_C], self.score_CD[mine_C][:, other_D]
        best_D = np.zeros(score_CD.shape[1])
        chosen: list[int] = []
        for _ in range(min(length, len(points_CP))):
            mean_C = np.maximum(score_CD, best_D).mean(axis=1)
            mean_C[chosen] = -1.0
            chosen.append(int(mean_C.argmax()))
            best_D = np.maximum(best_D, score_CD[chosen[-1]])
        return points_CP[chosen]
