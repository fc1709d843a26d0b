"""`optformer demo`: the complete workflow on real data, each step with the code of its command.

log     a Vizier service tunes scikit-learn models; its database is the study log
train   the log is imported; the shipped model is fine-tuned on it and on synthetic studies
tune    a Vizier service serves the model; a client tunes a problem that is not in the log
report  one page shows the results
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

_MARK = ".optformer-demo"  # marks the folder of a demo, which another demo may overwrite


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of the demo.

    Attributes:
      problems, logged_trials: the problems in the log, and the number of trials of each study.
      generated: the number of synthetic studies for training.
      pretrained: the model to fine-tune, a name or a checkpoint folder.
      train_seconds: the time for fine-tuning.
      trials, repeats: the number of trials in each study of the comparison, and the number of
        studies of each algorithm.
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
        """The imported studies of the log."""
        return self.out / "studies"

    @property
    def synthetic(self) -> Path:
        """The synthetic studies."""
        return self.out / "generated"

    @property
    def run(self) -> Path:
        """The training run, including its checkpoint."""
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
    """Studies of several algorithms on one problem.

    Attributes:
      best: for each algorithm, the best metric so far of each repeat after each trial, in the
        metric's units; NaN before the first feasible trial.
      milliseconds: for each algorithm, the median round-trip time of a suggestion, without the
        first of each study.
      studies: those of random search, which do not favour any model, to evaluate predictions.
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
        """The number of pairs with a run of random search in which its run ends better.

        Ties count for neither. The second number is that of all pairs.
        """
        ours, theirs = self.final(algorithm), self.final(report.RANDOM)
        better = sum(self.sign * a > self.sign * b for a in ours for b in theirs)
        return better, len(ours) * len(theirs)


def run(settings: Settings) -> Path:
    """Runs all steps, prints their results, and returns the report's path.

    Raises:
      ConfigError: the folder has files that are not from a demo, or scikit-learn is not installed.
    """
    need_sklearn()
    prepare_folder(settings.out)
    clock: dict[str, float] = {}
    show.line(f"[bold]optformer demo[/bold]: the whole workflow on real data, in {settings.out}")

    with step(
        clock, "1/5 logs", f"a Vizier service tunes {len(settings.problems)} scikit-learn problems"
    ) as p:
        logs = write_log(settings, p)
    show.logged(
        studies=logs.studies,
        trials=logs.trials,
        infeasible=logs.infeasible,
        database=settings.database,
    )
    with step(clock, "2/5 import", "the service's database is imported") as p:
        imported = importers.import_studies(
            str(settings.database), settings.shards, progress=show.import_progress(p)
        )
    show.imported(imported, settings.shards)

    with step(clock, "3/5 generate", "synthetic studies of several algorithms") as p:
        manifest = generate_studies(settings, p)
    show.generated(manifest, settings.synthetic)
    with step(clock, "3/5 train", f"{settings.pretrained} is fine-tuned on both") as p:
        trained = train(settings, p)
    show.trained(trained)

    problem = held_out()
    with step(
        clock, "4/5 serve and tune", f"{problem.name}: model and data set are not in the log"
    ) as p:
        comparison = compare(settings, trained.checkpoint, p)
    with step(clock, "5/5 report", "the predictions are evaluated, and the page is written") as p:
        predictions = predict_trials(trained.checkpoint, comparison, p)
        page = report.write(settings, imported, manifest, trained, comparison, predictions, clock)
    summary(settings, comparison, clock)
    show.line(f"\nThe report: [bold]{page}[/bold]")
    return page


def prepare_folder(out: Path) -> None:
    """Creates the folder of the demo, or empties that of an earlier demo.

    Raises:
      ConfigError: the folder has other files.
    """
    if out.exists():
        if any(out.iterdir()) and not (out / _MARK).exists():
            raise ConfigError(
                f"{out} has files that are not from a demo. Choose an empty or new folder with "
                "--out."
            )
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / _MARK).touch()


def write_log(settings: Settings, progress: Progress) -> Logs:
    """Step 1: a study log, like that of a team's own service."""
    return write_logs(
        settings.database,
        settings.problems,
        trials=settings.logged_trials,
        workers=settings.workers,
        progress=progress,
    )


def generate_studies(settings: Settings, progress: Progress) -> dict[str, object]:
    """Step 3, first half: synthetic studies with search spaces similar to real ones."""
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
    manifest = generate(
        config,
        settings.synthetic,
        seed=settings.seed,
        studies=settings.generated,
        workers=settings.workers,
        progress=progress,
    )
    return dict(manifest)


def train(settings: Settings, progress: Progress) -> "TrainResult":
    """Step 3, second half: fine-tuning for a fixed time.

    Most batches are synthetic studies, so that the model does not forget other problems.
    """
    from optformer.training import train as training

    config = RunConfig(
        init=settings.pretrained,
        # Rows just long enough for these studies: in a short time, many small steps work best.
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
            steps=1_000_000,  # `seconds` ends it earlier
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
        generated=StudySource(list(store.scan(settings.synthetic))),
        report=show.training_progress(progress),
    )


def compare(settings: Settings, checkpoint: Path, progress: Progress) -> Comparison:
    """Step 4: a Vizier client tunes the held-out problem with our policies and random search."""
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


def predict_trials(
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
    """Prints the table of results with its conclusion."""
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
        + f"; {sum(clock.values()):.0f} in total[/dim]"
    )


@contextlib.contextmanager
def step(clock: dict[str, float], name: str, description: str) -> Iterator[Progress]:
    """Announces a step, shows its progress, and records its time in `clock`."""
    show.line(f"\n[bold]{name}[/bold]: {description}")
    start = time.perf_counter()
    with show.bar(f"  {name}") as progress:
        yield progress
    clock[name] = time.perf_counter() - start
