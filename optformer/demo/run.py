"""`optformer demo`: the whole loop on real input, each step by the functions of its own command.

log     a Vizier service tunes scikit-learn models; its database is the study log
learn   the log is imported; the model of the package is fine-tuned on it and on generated studies
tune    a Vizier service offers that model; a client tunes a problem that the log does not have
report  one page says what came of it
"""

import contextlib
import dataclasses
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float64

from optformer.data import importers, store
from optformer.data.generate import generate
from optformer.data.mixture import GenerateConfig, Part
from optformer.demo import page as report
from optformer.demo.logs import Logs, write_logs
from optformer.demo.problems import SklearnProblem, held_out, logged, need_sklearn
from optformer.errors import ConfigError
from optformer.progress import Progress
from optformer.service.client import Tried, open_study, tune
from optformer.service.server import endpoint_of
from optformer.service.targets import function_target
from optformer.study import Study
from optformer.terminal import show
from optformer.training.augment import AugmentConfig
from optformer.training.batches import BatchConfig, StudySource
from optformer.training.config import (
    FINE_TUNING_RATE,
    DataConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
)

if TYPE_CHECKING:
    from optformer.eval import prediction
    from optformer.training.train import TrainResult

KINDS: tuple[Literal["bbob", "gaussian_process"], ...] = ("bbob", "gaussian_process")
OURS = ("OPTFORMER_EI", "OPTFORMER_PRIOR")

_MARK = ".optformer-demo"  # says that a folder is a demo's, so that the next may replace it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the demo does. A step's length depends on the machine only where it says seconds.

    Attributes:
      problems, logged_trials: what the log holds, and how many trials each of its studies has.
      generated: how many studies are made for training.
      pretrained: the model to fine-tune, a name or a checkpoint's folder.
      train_seconds: for how long.
      trials, repeats: in each study of the comparison, and studies of each algorithm.
    """

    out: Path = Path("runs/demo")
    seed: int = 0
    problems: tuple[SklearnProblem, ...] = dataclasses.field(
        default_factory=lambda: tuple(logged())
    )
    logged_trials: int = 25
    generated: int = 4096
    pretrained: str = "optformer-tiny"
    train_seconds: float = 150.0
    trials: int = 25
    repeats: int = 5
    workers: int = 2

    @property
    def database(self) -> Path:
        """The study log."""
        return self.out / "logs.db"

    @property
    def shards(self) -> Path:
        """The log's studies."""
        return self.out / "studies"

    @property
    def made(self) -> Path:
        """The generated studies."""
        return self.out / "generated"

    @property
    def run(self) -> Path:
        """The training run, with its checkpoint."""
        return self.out / "training"

    @property
    def comparison(self) -> Path:
        """The studies of the comparison."""
        return self.out / "comparison.db"

    @property
    def page(self) -> Path:
        """The report."""
        return self.out / "report.html"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Studies of one problem by several algorithms.

    Attributes:
      best: the best metric so far of each repeat after each trial, in the metric's units; NaN
        before the first feasible one. By algorithm.
      milliseconds: median time for a suggestion, round trip, after each study's first.
      studies: those of random search, for judging predictions: nobody chose them to suit a model.
    """

    metric: str
    sign: float
    best: dict[str, Float64[np.ndarray, "repeats trials"]]
    milliseconds: dict[str, float]
    studies: tuple[Study, ...]

    def final(self, algorithm: str) -> list[float]:
        """The best metric at the end of each repeat."""
        return [float(value) for value in self.best[algorithm][:, -1]]

    def wins(self, algorithm: str) -> tuple[int, int]:
        """In how many pairs of one of its runs and one of random search its run ends better.

        Ties count for neither; the second number is that of all pairs.
        """
        ours, theirs = self.final(algorithm), self.final(report.RANDOM)
        better = sum(self.sign * a > self.sign * b for a in ours for b in theirs)
        return better, len(ours) * len(theirs)


def run(settings: Settings) -> Path:
    """Runs all steps, says on the terminal how each went, and returns the report's path.

    Raises:
      ConfigError: the folder holds something that is not an earlier demo, or scikit-learn is
        not installed.
    """
    need_sklearn()
    claim(settings.out)
    clock: dict[str, float] = {}
    show.line(f"[bold]optformer demo[/bold]: the whole loop on real input, in {settings.out}")

    with step(
        clock, "1/5 logs", f"Vizier's service tunes {len(settings.problems)} scikit-learn problems"
    ) as p:
        logs = log(settings, p)
    show.logged(
        studies=logs.studies,
        trials=logs.trials,
        infeasible=logs.infeasible,
        database=settings.database,
    )
    with step(clock, "2/5 import", "the service's database becomes studies") as p:
        imported = importers.import_studies(
            str(settings.database), settings.shards, progress=show.import_progress(p)
        )
    show.imported(imported, settings.shards)

    with step(clock, "3/5 generate", "algorithms search functions, to learn from as well") as p:
        manifest = make(settings, p)
    show.generated(manifest, settings.made)
    with step(clock, "3/5 train", f"{settings.pretrained} goes on learning, from both") as p:
        trained = train(settings, p)
    show.trained(trained)

    problem = held_out()
    with step(
        clock, "4/5 serve and tune", f"{problem.name}: neither model nor data were in the log"
    ) as p:
        comparison = compare(settings, trained.checkpoint, p)
    with step(clock, "5/5 report", "how good the model's predictions were, and one page") as p:
        predictions = judge(trained.checkpoint, comparison, p)
        page = report.write(settings, imported, manifest, trained, comparison, predictions, clock)
    summary(settings, comparison, clock)
    show.line(f"\nThe whole story, with pictures: [bold]{page}[/bold]")
    return page


def claim(out: Path) -> None:
    """An empty folder for a demo; one with an earlier demo is emptied.

    Raises:
      ConfigError: it holds something else.
    """
    if out.exists():
        if any(out.iterdir()) and not (out / _MARK).exists():
            raise ConfigError(
                f"{out} holds files that are not from a demo. Name an empty or new folder with "
                "--out."
            )
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / _MARK).touch()


def log(settings: Settings, progress: Progress) -> Logs:
    """Step 1: a study log, as a team's own service would leave it."""
    return write_logs(
        settings.database,
        settings.problems,
        trials=settings.logged_trials,
        workers=settings.workers,
        progress=progress,
    )


def make(settings: Settings, progress: Progress) -> dict[str, object]:
    """Step 3, first half: studies of made-up functions with search spaces of the usual kind."""
    config = GenerateConfig(
        mixture=tuple(
            Part(
                problems=problems,
                fewest_parameters=1,
                most_parameters=6,
                trials=(settings.trials,),
            )
            for problems in KINDS
        )
    )
    made = generate(
        config,
        settings.made,
        seed=settings.seed,
        studies=settings.generated,
        workers=settings.workers,
        progress=progress,
    )
    return dict(made)


def train(settings: Settings, progress: Progress) -> "TrainResult":
    """Step 3, second half: fine-tuning for a set time. Most batches are generated studies, so that
    the model does not forget other problems for the few that the log has."""
    from optformer.training import train as training

    config = RunConfig(
        init=settings.pretrained,
        # Just long enough for these studies: many small steps teach more in a short time.
        batch=BatchConfig(
            rows=4,
            tokens=192,
            text_tokens=128,
            sizes=1,
            augment=AugmentConfig(names=0.1, values=0.1),
        ),
        data=DataConfig(shards=(str(settings.shards.resolve()),), generated_weight=2.0),
        optimizer=OptimizerConfig(learning_rate=FINE_TUNING_RATE, warmup=50),
        train=TrainConfig(
            steps=1_000_000,  # time ends it
            seconds=settings.train_seconds,
            seed=settings.seed,
            evaluate_every=200,
            checkpoint_every=1_000_000,
        ),
    )
    return training.train(
        config,
        settings.run,
        list(store.scan(settings.shards)),
        generated=StudySource(list(store.scan(settings.made))),
        report=show.training_progress(progress),
    )


def compare(settings: Settings, checkpoint: Path, progress: Progress) -> Comparison:
    """Step 4: a Vizier client tunes the held-out problem by our policies and by random search."""
    from optformer.study import Trial, from_trials

    target = held_out()
    metric = target.problem.objectives[0]
    runs: dict[str, list[list[Tried]]] = {name: [] for name in (*OURS, report.RANDOM)}
    total, done = len(runs) * settings.repeats * settings.trials, 0
    with endpoint_of(checkpoint=checkpoint, database=settings.comparison) as endpoint:
        for repeat in range(settings.repeats):
            for algorithm in runs:

                def count(tried: Tried, algorithm: str = algorithm) -> None:
                    nonlocal done
                    done += 1
                    progress(done, total, f"{algorithm}, best {metric.name} {tried.best or 0:.4g}")

                study = open_study(
                    endpoint,
                    target.problem,
                    algorithm=algorithm,
                    name=f"{target.name.replace('/', '-')}-{algorithm.lower()}-{repeat}",
                )
                evaluate = function_target(target.problem, target.evaluate).evaluate
                runs[algorithm].append(
                    tune(study, target.problem, evaluate, trials=settings.trials, report=count)
                )
    return Comparison(
        metric=metric.name,
        sign=metric.sign,
        best={
            name: np.array([[np.nan if t.best is None else t.best for t in run] for run in tried])
            for name, tried in runs.items()
        },
        milliseconds={
            name: 1000 * statistics.median(t.waited for run in tried for t in run[1:])
            for name, tried in runs.items()
        },
        studies=tuple(
            from_trials(
                target.problem,
                [
                    Trial(parameters=t.values, metrics={metric.name: t.metric})
                    for t in run
                    if t.metric is not None
                ],
                algorithm=report.RANDOM.lower(),
            )
            for run in runs[report.RANDOM]
        ),
    )


def judge(
    checkpoint: Path, comparison: Comparison, progress: Progress
) -> dict[str, "prediction.Predictions"]:
    """Step 5: the model and a Gaussian process predict each trial of random search in turn."""
    import optformer
    from optformer.eval import prediction
    from optformer.eval.ours import ModelPredictor

    return prediction.evaluate(
        {
            "optformer": ModelPredictor(model=optformer.load(checkpoint)),
            "gaussian_process": prediction.GaussianProcess(),
        },
        comparison.studies,
        progress=progress,
    )


def summary(settings: Settings, comparison: Comparison, clock: dict[str, float]) -> None:
    """The short table at the end, with what it can and cannot show."""
    from rich.table import Table

    title = f"Best {comparison.metric} of {held_out().name} after {settings.trials} trials"
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(report.HEADER):
        table.add_column(name, justify="left" if index == 0 else "right")
    for row in report.rows(comparison):
        table.add_row(*row)
    show.out.print()
    show.out.print(table)
    show.line(report.verdict(comparison))
    show.line(
        "[dim]Seconds: "
        + ", ".join(f"{name} {took:.0f}" for name, took in clock.items())
        + f"; {sum(clock.values()):.0f} in all[/dim]"
    )


@contextlib.contextmanager
def step(clock: dict[str, float], name: str, what: str) -> Iterator[Progress]:
    """Says that a step begins, shows how far it is, and notes how long it took."""
    show.line(f"\n[bold]{name}[/bold]: {what}")
    start = time.perf_counter()
    with show.bar(f"  {name}") as progress:
        yield progress
    clock[name] = time.perf_counter() - start
