"""The main table about logged studies: scores, trials saved, and the cost of a suggestion.

Array dimensions as in the package; K tasks here are studies with one number of given trials.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from optformer.errors import plural
from optformer.eval import statistics
from optformer.eval.benchmark import Evaluated
from optformer.eval.logs.record import Known, read, task_name
from optformer.eval.report.page import Cell, Interval, Shown, Table, named, shown
from optformer.eval.report.sections import interval, median_time
from optformer.eval.report.view import View
from optformer.eval.results import Results

SHOWN_AT = (1, 3, 5, 10, 20, 30)


def summarize(out: Path, results: Results) -> Evaluated:
    """The first table of the page as text."""
    known = read(out)
    view = View(results.on(task_names(known, known.given[0])), shown_at=SHOWN_AT)
    table = summary(view, known)
    return Evaluated(
        counted=table.caption,
        header=tuple(table.header),
        rows=tuple(tuple(map(shown, row)) for row in table.rows),
        page=out,
        failed=len(results.failures),
    )


def summary(view: View, known: Known) -> Table:
    """Scores at a few trials, and what was saved."""
    saved = saved_trials(view, known.baseline)
    absent = {name: why for name, why in known.absent.items() if name not in view.names}
    rows: list[list[Cell]] = []
    for row in view.order:
        name = view.names[row]
        rows.append(
            [
                named(name),
                *(mean_only(view.band, row, trial) for trial in view.checkpoints[:-1]),
                interval(view.band, row, view.last),
                saved.get(name),
                _random_first(known, name),
                median_time(view, row),
            ]
        )
    rows += [
        [named(name), *([None] * len(view.checkpoints)), None, "not run", None] for name in absent
    ]
    not_run = "".join(
        f" {name.replace('_', ' ')} was not run: it {why}." for name, why in absent.items()
    )
    baseline = known.baseline.replace("_", " ")
    return Table(
        caption=f"Mean score after a number of trials. Trials saved: how many of {view.last} are "
        f"not needed to reach the score of {baseline} after {view.last}; 0 if it is not reached. "
        "Random first: how many of an optimizer's first trials are random. Time: the median of a "
        f"suggestion. 95 % intervals resample data sets; those of other trials are in the CSV "
        f"file. {counts(view)}.{not_run}",
        header=(
            "optimizer",
            *(str(trial) for trial in view.checkpoints),
            "trials saved",
            "random first",
            "time",
        ),
        columns=(
            "optimizer",
            *(f"after {trial}" for trial in view.checkpoints),
            "trials saved",
            "random first",
            "time",
        ),
        rows=rows,
        name="summary",
    )


def mean_only(band: statistics.Band, row: int, trial: int, digits: int = 3) -> Shown:
    """A mean on the page, and with its interval in the file."""
    full = interval(band, row, trial, digits)
    values: dict[str, str | int | float] = {"": full.mean}
    if not np.isnan(full.low):
        values |= {", low": full.low, ", high": full.high}
    return Shown(text=str(Interval(mean=full.mean, digits=digits)), values=values)


def saved_trials(view: View, baseline: str) -> dict[str, Interval]:
    """By optimizer, how many trials fewer than all reach the baseline's last score.

    Of each task, curves are means over seeds. Not reached: none saved.
    """
    if baseline not in view.names:
        return {}
    scores_OKT = statistics.over_seeds(view.scores_OKST)
    target_K = scores_OKT[view.names.index(baseline), :, view.last]
    made = {}
    for row, name in enumerate(view.names):
        known_K = np.isfinite(scores_OKT[row, :, view.last]) & np.isfinite(target_K)
        if name == baseline or not known_K.any():
            continue
        saved_K = view.last - reached_at(
            scores_OKT[row, known_K], target_K[known_K], first=view.first
        )
        made[name] = Interval.of(
            statistics.bootstrap_mean(
                saved_K, np.random.default_rng(0), groups_N=view.groups_K[known_K]
            ),
            digits=1,
        )
    return made


def reached_at(
    scores_KT: Float64[np.ndarray, "K T"], target_K: Float64[np.ndarray, " K"], *, first: int
) -> Float64[np.ndarray, " K"]:
    """The first trial at which each task's score is as good as its target; the last if none is."""
    there_KT = scores_KT >= target_K[:, None] - 1e-12
    there_KT[:, :first] = False
    there_KT[:, -1] = True
    return there_KT.argmax(axis=1).astype(np.float64)


def _random_first(known: Known, name: str) -> Cell:
    if name not in known.random_trials:
        return None
    count = known.random_trials[name]
    return Shown(
        text="all" if count is None else str(count), values={"": "" if count is None else count}
    )


def counts(view: View) -> str:
    data_sets = int(view.groups_K.max()) + 1
    return (
        f"{plural(len(view.results.tasks), 'study')} on {plural(data_sets, 'data set')}, "
        f"{plural(len(view.results.seeds), 'seed')}"
    )


def task_names(known: Known, given: int) -> Collection[str]:
    return {task_name(study, given) for study in known.studies}
