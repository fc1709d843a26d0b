"""`optformer evaluate`: a model beside other optimizers on a suite of functions, with a report."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from optformer.data.problems.bbob import TEST_FAMILIES
from optformer.errors import ConfigError
from optformer.eval import bbob as bbob_tasks
from optformer.eval.optimizers import optimizer
from optformer.eval.page import number
from optformer.eval.report import write_report
from optformer.eval.results import Results
from optformer.eval.runner import OptimizerFactory, run
from optformer.progress import Progress, silent


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evaluated:
    """An evaluation: all its results, and the page that reports them."""

    results: Results
    page: Path

    def table(self) -> list[tuple[str, str, str]]:
        """Optimizer, mean score after the last trial, median milliseconds a suggestion."""
        scores_OKST = self.results.scores()
        rows = [
            (float(np.nanmean(scores_KST[..., -1])), name, float(np.nanmedian(seconds_KST)))
            for name, scores_KST, seconds_KST in zip(
                self.results.optimizers, scores_OKST, self.results.seconds_OKST, strict=True
            )
        ]
        return [
            (name, number(score, 3), number(1000 * seconds, 2))
            for score, name, seconds in sorted(rows, reverse=True)
        ]


def bbob(
    out: Path,
    *,
    checkpoint: Path | None = None,
    acquisitions: Sequence[str] = ("ei", "prior"),
    optimizers: Sequence[str] = ("random_search", "vizier_eagle"),
    families: Sequence[str] = (),
    parameters: Sequence[int] = (2, 4),
    trials: int = 100,
    seeds: int = 5,
    workers: int = 1,
    command: str = "",
    progress: Progress = silent,
) -> Evaluated:
    """Runs what is missing in the folder and writes `report.html` there.

    Args:
      checkpoint: a model; each acquisition makes an optimizer of it, as in `optformer_ei`.
      families: BBOB functions; those that are held out for testing if none.
      command: what was typed, for the report.

    Raises:
      ConfigError: an unknown function, optimizer or acquisition, or nobody to compare.
      CheckpointError: the model cannot be loaded.
    """
    factories: dict[str, OptimizerFactory] = {}
    if checkpoint is not None:
        from optformer import checkpoint as checkpoints
        from optformer.eval.ours import ModelFactory
        from optformer.policies.model import PolicyConfig

        checkpoints.load(checkpoint)  # says what is wrong with it before anything runs
        for name in acquisitions:
            policy = PolicyConfig(acquisition=name)  # type: ignore[arg-type]  # it checks
            factories[f"optformer_{name}"] = ModelFactory(checkpoint=checkpoint, policy=policy)
    factories |= {name: optimizer(name, budget=trials) for name in optimizers}
    if not factories:
        raise ConfigError("nobody to evaluate: give --checkpoint, or --optimizer.")
    results = run(
        factories,
        bbob_tasks.tasks(families=families or TEST_FAMILIES, parameters=parameters, trials=trials),
        range(seeds),
        out,
        protocol=bbob_tasks.PROTOCOL,
        workers=workers,
        progress=progress,
    )
    page = write_report(out, out / "report.html", title="BBOB", command=command)
    return Evaluated(results=results, page=page)
