"""The demo's report: one HTML page that says what was done, what came of it and what it shows."""

import itertools
import os
import statistics
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from optformer.data import store
from optformer.demo.problems import held_out
from optformer.eval import prediction, prediction_sections
from optformer.eval.report.page import Figure, Heading, Page, Section, Table, Text, write_page
from optformer.eval.report.plots import Curve, plot_curves

if TYPE_CHECKING:
    from optformer.data.importers import ImportReport
    from optformer.demo.run import Comparison, Settings
    from optformer.training.train import TrainResult

RANDOM = "RANDOM_SEARCH"
HEADER = ("algorithm", "median", "worst to best run", "pairs won", "ms")


def rows(comparison: "Comparison") -> list[tuple[str, str, str, str, str]]:
    """The numbers of the comparison, ours first."""
    table = []
    for name in comparison.best:
        final = sorted(comparison.final(name), key=lambda value: comparison.sign * value)
        better, pairs = comparison.wins(name)
        table.append(
            (
                name,
                f"{statistics.median(final):.4g}",
                f"{final[0]:.3g} to {final[-1]:.3g}",
                "" if name == RANDOM else f"{better} of {pairs}",
                f"{comparison.milliseconds[name]:.0f}",
            )
        )
    return table


def verdict(comparison: "Comparison") -> str:
    """What the comparison shows, in a sentence or two, with its limits."""
    first = next(iter(comparison.best))
    better, pairs = comparison.wins(first)
    runs = len(comparison.final(first))
    if chance(comparison.final(first), comparison.final(RANDOM)) >= 0.05:
        found = f"{runs} runs each do not tell {first} from random search here"
    else:
        how = "better" if 2 * better > pairs else "worse"
        found = f"{first} found {how} settings than random search here"
    return (
        f"{found}: it ended better in {better} of {pairs} pairs of runs. One problem shows that "
        "the loop works, not how good the method is."
    )


def chance(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How often runs that are dealt at random into two such groups differ as much as these.

    Exact, by all ways to deal them; groups differ by their pairs in order (Mann and Whitney).
    """
    every = [*ours, *theirs]

    def lead(group: tuple[int, ...]) -> float:
        rest = [value for index, value in enumerate(every) if index not in group]
        pairs = [(every[index], value) for index in group for value in rest]
        return abs(sum((a > b) - (a < b) for a, b in pairs))

    seen = lead(tuple(range(len(ours))))
    deals = list(itertools.combinations(range(len(every)), len(ours)))
    return sum(lead(group) >= seen for group in deals) / len(deals)


def write(
    settings: "Settings",
    imported: "ImportReport",
    manifest: Mapping[str, object],
    trained: "TrainResult",
    comparison: "Comparison",
    predictions: Mapping[str, prediction.Predictions],
    clock: Mapping[str, float],
) -> Path:
    """Writes the page, its pictures and its tables; returns the page's path."""
    page = Page(
        title="From study logs to a served optimizer",
        lead=verdict(comparison),
        sections=(
            *_tuning(settings, comparison),
            *_predictions(predictions),
            *_training(settings, trained),
            *_studies(settings, imported, manifest),
            *_time(clock),
        ),
    )
    return write_page(page, settings.page)


def _tuning(settings: "Settings", comparison: "Comparison") -> list[Section]:
    better = "higher" if comparison.sign > 0 else "lower"
    trials_T = np.arange(1, settings.trials + 1, dtype=np.float64)
    curves = []
    for name, best_RT in comparison.best.items():
        with warnings.catch_warnings():
            # Before any run's first feasible trial there is no median: the curve starts later.
            warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
            curves.append(
                Curve(
                    name=name.lower(),
                    x_T=trials_T,
                    mean_T=np.nanmedian(best_RT, axis=0),
                    low_T=np.nanmin(best_RT, axis=0),
                    high_T=np.nanmax(best_RT, axis=0),
                )
            )
    problem = held_out().problem
    return [
        Heading(title="Tuning what the log does not have"),
        Text(
            paragraphs=(
                f"A Vizier service offered the trained model, and an ordinary Vizier client tuned "
                f"{problem.title}: {len(problem.parameters)} parameters, {settings.trials} trials, "
                f"{settings.repeats} runs of each algorithm, each from nothing. Neither this kind "
                "of model nor this data set was in the study log.",
                "OPTFORMER_PRIOR samples what the model thinks comes next. OPTFORMER_EI samples "
                "many such candidates, adds points that the Gaussian processes inside the model "
                "find promising, and takes the one with the largest expected improvement under "
                "the prediction of the model and its processes together.",
            )
        ),
        Figure(
            caption=f"Best {comparison.metric} so far ({better} is better): median of "
            f"{settings.repeats} runs, and the range from the best to the worst run.",
            picture=plot_curves(
                curves,
                x_label="trials",
                y_label=f"best {comparison.metric} so far",
                log_y=comparison.sign < 0,
            ),
            name="tuning",
        ),
        Table(
            caption=f"Best {comparison.metric} after {settings.trials} trials: the median of the "
            "runs and their range; in how many pairs of one of its runs and one of random "
            "search's its run was better; and milliseconds for a suggestion, round trip.",
            header=HEADER,
            rows=rows(comparison),
            name="tuning",
        ),
    ]


def _predictions(predictions: Mapping[str, prediction.Predictions]) -> list[Section]:
    return [
        Heading(title="Predictions"),
        Text(
            paragraphs=(
                "Before each trial of random search above, the model said how likely each value "
                "was, from the trials before it; so did a Gaussian process that was fitted to "
                "them. Neither had a say in which trials these were.",
            )
        ),
        *prediction_sections.sections({"random search above": predictions}),
    ]


def _training(settings: "Settings", trained: "TrainResult") -> list[Section]:
    reports = trained.reports
    steps_T = np.array([report.step for report in reports], dtype=np.float64)
    curves = [
        Curve(name=name, x_T=steps_T, mean_T=np.array([getattr(r, field) for r in reports]))
        for name, field in (("parameter tokens", "parameter"), ("metric tokens", "value"))
    ]
    first, last = reports[0], reports[-1]
    return [
        Heading(title="Training"),
        Text(
            paragraphs=(
                f"{settings.pretrained}, a model of {trained.parameters:,} weights, learned for "
                f"{last.seconds:.0f} s more, "
                f"{last.step:,} steps. A token of a parameter cost {first.parameter:.2f} nats at "
                f"first and {last.parameter:.2f} at last, one of a metric {first.value:.2f} and "
                f"{last.value:.2f}. A model that knows nothing pays about 6.9 nats for one of "
                "1,000 bins.",
            )
        ),
        Figure(
            caption="Cross entropy of the next token on studies as they were trained on.",
            picture=plot_curves(curves, x_label="steps", y_label="nats a token"),
            name="training",
        ),
    ]


def _studies(
    settings: "Settings", imported: "ImportReport", manifest: Mapping[str, object]
) -> list[Section]:
    best: dict[str, tuple[int, int, str]] = {}
    for study in store.scan(settings.shards):
        metric = study.problem.objectives[0]
        studies, trials, _ = best.get(study.problem.title, (0, 0, ""))
        told = f"{metric.name}, {metric.goal.lower()}d"
        best[study.problem.title] = (studies + 1, trials + len(study), told)
    skipped = ", ".join(f"{kind} ({count})" for kind, count in imported.skipped.items())
    return [
        Heading(title="Studies"),
        Text(
            paragraphs=(
                f"The log is the SQLite database of a Vizier service that tuned these scikit-learn "
                f"models with {', '.join(imported.algorithms)}: {imported.studies:,} studies with "
                f"{imported.trials:,} trials were imported"
                + (f"; skipped: {skipped}." if skipped else ", none was skipped."),
                f"Beside them the model learned from {manifest['studies']:,} studies with "
                f"{manifest['trials']:,} trials that were generated: algorithms searching BBOB "
                "functions (none of those held out for testing) and functions drawn from Gaussian "
                "processes.",
            )
        ),
        Table(
            caption="What the log holds.",
            header=("tuned", "metric", "studies", "trials"),
            rows=[(title, told, s, t) for title, (s, t, told) in sorted(best.items())],
            name="studies",
        ),
    ]


def _time(clock: Mapping[str, float]) -> list[Section]:
    return [
        Heading(title="Time"),
        Table(
            caption=f"Wall time on this machine ({os.cpu_count()} cores), in seconds.",
            header=("step", "seconds"),
            rows=[
                *((name, round(s, 1)) for name, s in clock.items()),
                ("all", sum(clock.values())),
            ],
            name="time",
        ),
    ]
