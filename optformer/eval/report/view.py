"""The data of a report, computed once for all its sections."""

from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Bool, Float64

from optformer.errors import SourceError, plural
from optformer.eval import statistics
from optformer.eval.report.plots import Curve
from optformer.eval.results import Results

BASELINE = "random_search"


class View:
    """The data of a report, computed once for all its sections.

    Optimizers without a finished run are left out, because no run would be common to all; their
    names are in `not_begun`.

    Args:
      published: the optimizers that are others' published results, which are drawn dashed.
      shown_at: the trials that tables show, besides the last one.

    Raises:
      SourceError: no run has ended.
    """

    def __init__(
        self,
        results: Results,
        published: Collection[str] = (),
        shown_at: Sequence[int] = (10, 30, 100, 300, 1000),
    ) -> None:
        begun = [
            name
            for name, ended_KS in zip(results.optimizers, results.ended_OKS, strict=True)
            if ended_KS.any()
        ]
        self.not_begun = tuple(name for name in results.optimizers if name not in begun)
        if not begun:
            raise SourceError(
                f"{results.folder}: none of {plural(results.runs, 'planned run')} has ended. Run "
                "the same `optformer evaluate` again: it resumes where it stopped."
            )
        if self.not_begun:
            results = results.of(begun)
        self.results = results
        self.published = published
        self._shown_at = shown_at
        # Only what all optimizers have ended is compared: means over different tasks mislead.
        self.common_KS: Bool[np.ndarray, "K S"] = np.all(results.ended_OKS, axis=0)
        self.scores_OKST = np.where(self.common_KS[None, :, :, None], results.scores(), np.nan)
        groups = [task.group or task.name for task in results.tasks]
        # In the order of the tasks, so that tasks without groups are numbered as they come.
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        self.groups_K = np.array([numbers[group] for group in groups])
        self.band = self._band(self.scores_OKST)
        self.ranks_OKST = statistics.ranks(self.scores_OKST)
        self.rank_band = self._band(self.ranks_OKST)
        self.last = results.trials
        order = np.argsort(-np.nan_to_num(self.band.mean_OT[:, self.last]), kind="stable")
        self.order = [int(row) for row in order]
        self.first = 0 if np.isfinite(self.band.mean_OT[:, 0]).any() else 1
        self.trials_T = np.arange(self.first, self.last + 1, dtype=np.float64)

    def _band(self, scores_OKST: Float64[np.ndarray, "O K S T"]) -> statistics.Band:
        """Means with intervals that resample groups of tasks."""
        return statistics.mean_band(scores_OKST, np.random.default_rng(0), groups_K=self.groups_K)

    @property
    def has_groups(self) -> bool:
        """Whether several tasks are of one group."""
        return int(self.groups_K.max()) + 1 < len(self.groups_K)

    @property
    def names(self) -> tuple[str, ...]:
        """All optimizers, in the order of the results."""
        return self.results.optimizers

    def shown(self, row: int) -> str:
        """An optimizer's name for people."""
        return self.names[row].replace("_", " ")

    @property
    def checkpoints(self) -> list[int]:
        """The trials that tables show, the last one among them."""
        return [trial for trial in self._shown_at if trial < self.last] + [self.last]

    @property
    def baseline(self) -> int | None:
        """The row of random search, the reference of the other optimizers; None without it."""
        return self.names.index(BASELINE) if BASELINE in self.names else None

    @property
    def counts(self) -> str:
        """The numbers of tasks and runs behind all means, in words."""
        tasks = int(self.common_KS.any(1).sum())
        runs = int(self.common_KS.sum())
        return f"{plural(tasks, 'task')}, {plural(runs, 'run')} an optimizer"

    def curve(self, row: int, band: statistics.Band) -> Curve:
        """One optimizer's curve with its band."""
        return Curve(
            name=self.names[row],
            x_T=self.trials_T,
            mean_T=band.mean_OT[row, self.first :],
            low_T=band.low_OT[row, self.first :],
            high_T=band.high_OT[row, self.first :],
            published=self.names[row] in self.published,
        )

    @property
    def unfinished(self) -> bool:
        """Whether runs are missing; every plot then says so."""
        return self.results.missing > 0 or bool(self.not_begun)
