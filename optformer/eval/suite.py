"""`optformer evaluate`: one function a protocol. Each writes `report.html` in its folder, a page
about all that the folder holds: BBOB runs, predictions, or both."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from optformer import checkpoint as checkpoints
from optformer.data.problems.bbob import TEST_FAMILIES
from optformer.errors import ConfigError, did_you_mean
from optformer.eval import bbob as bbob_tasks
from optformer.eval import prediction as predicting
from optformer.eval.optimizers import optimizer
from optformer.eval.page import Code, Heading, Page, Section, write_page
from optformer.eval.report import write_report
from optformer.eval.report_sections import (
    View,
    interval,
    many,
    over_baseline,
    seconds_shown,
    suggestion_seconds,
)
from optformer.eval.runner import run
from optformer.eval.task import OptimizerFactory
from optformer.policies.acquisition import ACQUISITIONS
from optformer.progress import Progress, silent

REPORT = "report.html"
PREDICTIONS = "predictions.npz"
COMMANDS = "commands.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
    """An evaluation: what was counted, a table of words, and the page that reports it in full."""

    counted: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    page: Path


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
    """Best-so-far curves: runs what is missing in the folder.

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
        from optformer.eval.ours import ModelFactory
        from optformer.policies.model import PolicyConfig

        checkpoints.load(checkpoint)  # says what is wrong with it before anything runs
        for name in acquisitions:
            if name not in ACQUISITIONS:
                raise ConfigError(
                    f"there is no acquisition {name!r}. Known: {', '.join(ACQUISITIONS)}."
                    f"{did_you_mean(name, ACQUISITIONS)}"
                )
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
    view = View(results)
    header = ("optimizer", f"score after {view.last}", "over random search", "a suggestion")
    rows = tuple(
        (
            view.shown(row),
            interval(view.band, row, view.last),
            over_baseline(view, row),
            seconds_shown(float(np.median(suggestion_seconds(view, row)))),
        )
        for row in view.order
    )
    counted = (
        f"{many(len(results.tasks), 'task')}, {many(len(results.seeds), 'seed')}, "
        f"{results.trials} trials; {many(len(results.failures), 'run')} failed. "
        "95 % intervals over tasks, differences paired by task."
    )
    page = _report(out, "bbob", command, checkpoint)
    return Evaluated(counted=counted, header=header, rows=rows, page=page)


def prediction(
    out: Path,
    *,
    checkpoint: Path | None,
    families: Sequence[str] = (),
    parameters: Sequence[int] = (2, 4),
    trials: int = 100,
    instances: int = 5,
    command: str = "",
    progress: Progress = silent,
) -> Evaluated:
    """How well a model predicts random trials of held-out functions, beside a Gaussian process
    whose hyperparameters are fitted by maximum likelihood every 5 trials.

    Args:
      instances: functions of each family and size.

    Raises:
      ConfigError: no model, or an unknown function. CheckpointError: the model cannot be loaded.
    """
    if checkpoint is None:
        raise ConfigError("nobody predicts: give --checkpoint.")
    from optformer.eval.ours import ModelPredictor
    from optformer.policies.model import load

    predictors: dict[str, predicting.Predictor] = {
        "optformer": ModelPredictor(model=load(checkpoint)),
        "gaussian_process": predicting.GaussianProcess(refit_every=5),
    }
    studies = bbob_tasks.random_studies(
        families=families or TEST_FAMILIES,
        parameters=parameters,
        instances=instances,
        trials=trials,
    )
    predictions = predicting.evaluate(predictors, studies, progress=progress)
    predicting.save(predictions, out / PREDICTIONS)
    table = predicting.table(predictions)
    return Evaluated(
        counted=table.caption,
        header=tuple(table.header),
        rows=tuple(tuple(map(str, row)) for row in table.rows),
        page=_report(out, "prediction", command, checkpoint),
    )


def _report(out: Path, protocol: str, command: str, checkpoint: Path | None) -> Path:
    """The page about all that is in the folder, with each protocol's last command and weights."""
    noted = out / COMMANDS
    known: dict[str, str] = json.loads(noted.read_text("utf-8")) if noted.exists() else {}
    if checkpoint is not None:
        command += f"  # weights {checkpoints.fingerprint(checkpoint)[:16]}"
    known[protocol] = command.strip()
    noted.write_text(json.dumps(known, indent=1), "utf-8")
    commands = "\n".join(filter(None, known.values()))
    sections: list[Section] = []
    if (out / PREDICTIONS).exists():
        predictions = predicting.load(out / PREDICTIONS)
        sections = [Heading(title="Predictions"), *predicting.sections(predictions)]
    if (out / "plan.json").exists():
        return write_report(out, out / REPORT, title="BBOB", extra=sections, command=commands)
    page = Page(
        title="Predictions on BBOB",
        lead=predicting.table(predictions).caption,
        sections=[*sections, Heading(title="How to reproduce"), Code(text=commands)],
    )
    return write_page(page, out / REPORT)
