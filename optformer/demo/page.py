"""The demo's report: one HTML page with its steps, results and conclusions."""

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
    """The conclusion of the comparison and its limits, in one or two sentences."""
    first = next(iter(comparison.best))
    better, pairs = comparison.wins(first)
    runs = len(comparison.final(first))
    if p_value(comparison.final(first), comparison.final(RANDOM)) >= 0.05:
        conclusion = f"with {runs} runs each, {first} and random search do not differ clearly here"
    else:
        comparative = "better" if 2 * better > pairs else "worse"
        conclusion = f"{first} found {comparative} settings than random search here"
    return (
        f"{conclusion}: {first} ended better in {better} of {pairs} pairs of runs. One problem "
        "shows that the workflow works, not how good the method is."
    )


def p_value(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The p-value of an exact two-sided Mann-Whitney test of two groups of runs.

    All ways to divide the runs into groups of these sizes are enumerated.
    """
    runs = [*ours, *theirs]

    def difference(group: tuple[int, ...]) -> float:
        rest = [value for index, value in enumerate(runs) if index not in group]
        pairs = [(runs[index], value) for index in group for value in rest]
        return abs(sum((a > b) - (a < b) for a, b in pairs))

    observed = difference(tuple(range(len(ours))))
    groups = list(itertools.combinations(range(len(runs)), len(ours)))
    return sum(difference(group) >= observed for group in groups) / len(groups)


def write(
    settings: "Settings",
    imported: "ImportReport",
    manifest: Mapping[str, object],
    trained: "TrainResult",
    comparison: "Comparison",
    predictions: Mapping[str, prediction.Predictions],
    clock: Mapping[str, float],
) -> Path:
    """Writes the page with its figures and tables; returns the page's path."""
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
            # The median is NaN until a run has a feasible trial; the curve then starts later.
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
        Heading(title="Tuning a problem that is not in the log"),
        Text(
            paragraphs=(
                f"A Vizier service served the trained model, and an ordinary Vizier client tuned "
                f"{problem.title}: {len(problem.parameters)} parameters, {settings.trials} trials, "
                f"{settings.repeats} runs of each algorithm, each without earlier trials. Neither "
                "this kind of model nor this data set was in the study log.",
                "OPTFORMER_PRIOR samples the model's prediction of the next trial. OPTFORMER_EI "
                "samples many such candidates, adds points that the Gaussian processes inside the "
                "model find promising, and chooses the one with the largest expected improvement "
                "under the joint prediction of the model and its processes.",
            )
        ),
        Figure(
            caption=f"Best {comparison.metric} so far ({better} is better): median of "
            f"{settings.repeats} runs, with the range from the best to the worst run.",
            picture=plot_curves(
                curves,
                x_label="trials",
                y_label=f"best {comparison.metric} so far",
                log_y=comparison.sign < 0,
            ),
            name="tuning",
        ),
        Table(
            caption=f"Best {comparison.metric} after {settings.trials} trials: median and range of "
            "the runs; the number of pairs with a run of random search in which the algorithm's "
            "run was better; and milliseconds for a suggestion, round trip.",
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
                "Before each trial of random search above, the model predicted the distribution "
                "of its value from the earlier trials, and so did a Gaussian process that was "
                "fitted to them. Neither of them chose these trials.",
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
                f"{settings.pretrained}, a model with {trained.parameters:,} weights, was "
                f"fine-tuned for {last.seconds:.0f} s, {last.step:,} steps. The loss for a "
                f"parameter's token was {first.parameter:.2f} nats at first and "
                f"{last.parameter:.2f} at the end, and for a metric's token {first.value:.2f} and "
                f"{last.value:.2f}. A uniform prediction over 1,000 bins has a loss of 6.9 nats.",
            )
        ),
        Figure(
            caption="Cross entropy of the next token on the training studies.",
            picture=plot_curves(curves, x_label="steps", y_label="nats per token"),
            name="training",
        ),
    ]


def _studies(
    settings: "Settings", imported: "ImportReport", manifest: Mapping[str, object]
) -> list[Section]:
    totals: dict[str, tuple[int, int, str]] = {}
    for study in store.scan(settings.shards):
        metric = study.problem.objectives[0]
        studies, trials, _ = totals.get(study.problem.title, (0, 0, ""))
        goal = f"{metric.name}, {metric.goal.lower()}d"
        totals[study.problem.title] = (studies + 1, trials + len(study), goal)
    skipped = ", ".join(f"{kind} ({count})" for kind, count in imported.skipped.items())
    return [
        Heading(title="Studies"),
        Text(
            paragraphs=(
                f"The log is the SQLite database of a Vizier service that tuned these scikit-learn "
                f"models with {', '.join(imported.algorithms)}: {imported.studies:,} studies with "
                f"{imported.trials:,} trials were imported"
                + (f"; skipped: {skipped}." if skipped else ", none was skipped."),
                f"The model was also trained on {manifest['studies']:,} synthetic studies with "
                f"{manifest['trials']:,} trials: searches on BBOB functions (none of those held "
                "out for testing) and on functions drawn from Gaussian processes.",
            )
        ),
        Table(
            caption="The studies in the log.",
            header=("problem", "metric", "studies", "trials"),
            rows=[(title, goal, s, t) for title, (s, t, goal) in sorted(totals.items())],
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
                ("total", sum(clock.values())),
            ],
            name="time",
        ),
    ]
