"""The benchmark `optformer evaluate logs`: what would a model have saved on these studies?"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from optformer.errors import ConfigError
from optformer.eval.benchmark import Benchmark, Evaluated, Option, Protocol, Running

if TYPE_CHECKING:
    from optformer.eval.contestants import Contestants
    from optformer.eval.report.page import Page
    from optformer.eval.results import Results
    from optformer.eval.task import OptimizerFactory
    from optformer.study import Study

PORTFOLIO = "portfolio"
SCORE = (
    "The score is the best value so far on a scale where 0 is what one random configuration has in "
    "the median and 1 is the best that is known of the study. A study is a function here: a random "
    "forest over its trials, or the exact table of its configurations where it measured all of "
    "them (optformer/eval/logs/tasks.py)."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogsOptions:
    """Which studies are optimized, from where, and what their results are measured against."""

    studies: Annotated[
        tuple[Path, ...],
        Option("A folder of study shards, from `optformer import` or `optformer collect`."),
    ]
    learners: Annotated[tuple[str, ...], Option("Only studies of this learner.", "--learner")] = ()
    most_studies: Annotated[
        int, Option("How many studies at most, in turn of each learner.", min=1)
    ] = 100
    fewest_trials: Annotated[
        int, Option("Studies with fewer completed trials are left out.", min=5)
    ] = 40
    given: Annotated[
        tuple[int, ...], Option("How many random trials of a study are given at the start.", min=0)
    ] = (0,)
    baseline: Annotated[
        str, Option("The optimizer whose last score the others are to reach sooner.")
    ] = "optuna_tpe"
    trained_on: Annotated[
        bool, Option("Keep studies that a model was trained on, too.", "--trained-on")
    ] = False
    cache: Annotated[
        Path | None,
        Option(
            "A folder that keeps surrogates and other optimizers' runs for the next evaluation; "
            "by default in the user's cache folder."
        ),
    ] = None
    seeds: Annotated[int, Option("How many paired runs on each task.", min=1)] = 2


def run(out: Path, contestants: "Contestants", running: Running, options: LogsOptions) -> "Results":
    """Runs what is missing in the folder: predictions before the first trial, and all optimizers.

    An optimizer whose packages are not installed is named on the page with what it needs.

    Raises:
      ConfigError: nothing to evaluate.
      SourceError: no shards, or no study that can be used.
      CheckpointError: a model cannot be loaded.
    """
    from optformer.data.splits import TrainingRecord, standing_for
    from optformer.eval import runner
    from optformer.eval.logs import portfolio, predictions, record, tasks
    from optformer.eval.optimizers import missing
    from optformer.eval.prediction_command import accepts
    from optformer.eval.prediction_runs import CheckpointPredictor
    from optformer.files import cache_folder
    from optformer.model import checkpoint

    contestants = dataclasses.replace(contestants, named_by_folder=True)
    names = [name for name in contestants.optimizers if name != PORTFOLIO]
    absent = {name: what for name in names if (what := missing(name))}
    wants_portfolio = PORTFOLIO in contestants.optimizers
    models = contestants.models()
    present = [name for name in names if name not in absent]
    if not (models or present or wants_portfolio):
        raise ConfigError("nothing to evaluate: pass --checkpoint or --optimizer.")
    factories: dict[str, OptimizerFactory] = {}
    if models or present:
        factories = dataclasses.replace(contestants, optimizers=present).factories(running.trials)

    records = {
        name: TrainingRecord.from_about(checkpoint.load(folder).about)
        for name, folder in models.items()
    }
    checks = [accepts(folder) for folder in models.values()]

    def accept(study: "Study") -> None:
        for check in checks:
            check(study)

    cache = options.cache or cache_folder()
    choice = tasks.Choice(
        learners=options.learners,
        most=options.most_studies,
        fewest_trials=options.fewest_trials,
        trained_on=options.trained_on,
    )
    chosen = tasks.choose(
        options.studies,
        choice,
        lambda study: {name: standing_for(seen, study) for name, seen in records.items()},
        accept=accept,
        cache=cache / "surrogates",
        progress=running.progress,
    )
    if wants_portfolio:
        factories[PORTFOLIO] = portfolio.factory(
            [logged.study for logged in chosen.tasks],
            chosen.usable,
            length=running.trials,
            model=choice.model,
            cache=cache / "surrogates",
            progress=running.progress,
        )
    given = sorted(set(options.given))
    record.write(
        out,
        {logged.study.name: logged.known() for logged in chosen.tasks},
        left_out=chosen.left_out,
        given=given,
        baseline=options.baseline if options.baseline in factories else "random_search",
        random_trials=_random_trials(factories),
        absent=absent,
    )
    predictions.predict(
        {name: CheckpointPredictor(checkpoint=folder) for name, folder in models.items()},
        chosen.tasks,
        out,
        progress=running.progress,
    )
    seeds = range(options.seeds)
    return runner.run(
        factories,
        tasks.tasks(chosen, trials=running.trials, given=given, seeds=seeds),
        seeds,
        out,
        protocol=LOGS.protocols[0].name,
        workers=running.workers,
        cache=cache,
        progress=running.progress,
    )


def _random_trials(factories: "Mapping[str, OptimizerFactory]") -> dict[str, int | None]:
    """How many first trials of an optimizer are random, where its factory knows; None for all."""
    found: dict[str, int | None] = {}
    for name, factory in factories.items():
        if hasattr(factory, "random_trials"):
            found[name] = factory.random_trials
    return found


def _page(out: Path, results: "Results") -> "Page":
    from optformer.eval.logs.sections import page

    return page(out, results, title=LOGS.protocols[0].title, score=SCORE)


def _summary(out: Path, results: "Results") -> Evaluated:
    from optformer.eval.logs.summary import summarize

    return summarize(out, results)


LOGS = Benchmark(
    name="logs",
    help="How many trials a model would have saved on real studies that it was not trained on.",
    protocols=(Protocol(name="logs", title="Logged studies", score=SCORE),),
    options=LogsOptions,
    run=run,
    defaults={
        "trials": 30,
        "acquisitions": ("ei",),
        "optimizers": ("random_search", "optuna_tpe", "optuna_gp", "gp_ucb", PORTFOLIO),
    },
    page=_page,
    summary=_summary,
)
