"""The page about logged studies.

Array dimensions as in the package; K tasks here are studies with one number of given trials.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from optformer.data.splits import Standing
from optformer.errors import plural
from optformer.eval import statistics
from optformer.eval.logs import predictions
from optformer.eval.logs.predictions import FirstPrediction
from optformer.eval.logs.record import Known, LoggedRecord, read
from optformer.eval.logs.summary import (
    SHOWN_AT,
    counts,
    mean_only,
    saved_trials,
    summary,
    task_names,
)
from optformer.eval.report import curve_tables
from optformer.eval.report import sections as parts
from optformer.eval.report.page import (
    Cell,
    Figure,
    Heading,
    Interval,
    Page,
    Section,
    Table,
    Text,
    named,
    share,
)
from optformer.eval.report.plots import plot_curves
from optformer.eval.report.report import reproduce
from optformer.eval.report.sections import interval
from optformer.eval.report.view import View
from optformer.eval.results import Results

_BY_LEARNER = (1, 5, 10)  # the trials of that table, besides the last one

PORTFOLIO = (
    "portfolio is a fixed list of configurations, chosen greedily on the learner's other data "
    "sets, without that of the study. It does not adapt, so it shows how much memory alone is "
    "worth."
)


def page(out: Path, results: Results, *, title: str, score: str) -> Page:
    """The page about all that is in the folder."""
    known = read(out)
    views = {
        given: View(results.on(task_names(known, given)), shown_at=SHOWN_AT)
        for given in known.given
    }
    views = {given: view for given, view in views.items() if view.results.tasks}
    first = next(iter(views.values()))
    sections: list[Section] = []
    for given, view in views.items():
        sections += _of_given(view, given, known, score)
    sections += [Heading(title="By learner"), *_by_learner(views, known)]
    sections += [Heading(title="Held out or not"), *_by_standing(views, known)]
    sections += [Heading(title="Before the first trial"), *_first(out, known)]
    if len(first.names) > 1:
        compared = parts.comparisons(first)
        sections += [Heading(title="Differences"), *parts.differences(first, compared)]
    sections += [Heading(title="Studies"), *_studies(known)]
    sections += [Heading(title="Cost"), *parts.cost(first)]
    sections += [Heading(title="How to reproduce"), *reproduce(first, [out])]
    return Page(title=title, lead=_lead(first, known), sections=sections)


def _of_given(view: View, given: int, known: Known, score: str) -> list[Section]:
    title = f"After {plural(given, 'given trial')}" if given else "From nothing"
    drawn = [view.curve(row, view.band) for row in view.order]
    suffix = f"_given_{given}" if given else ""
    table = summary(view, known)
    said = [score, PORTFOLIO] if not given else [_about_given(given)]
    if shared := parts.sharing(view).strip():
        said.append(shared)
    if view.results.missing:
        said.insert(
            0,
            f"Unfinished: {view.results.missing:,} of {view.results.runs:,} runs have not ended. "
            "All numbers are of what every optimizer has finished, and will change.",
        )
    return [
        Heading(title=title),
        Table(
            caption=table.caption,
            header=table.header,
            columns=table.columns,
            rows=table.rows,
            name=f"summary{suffix}",
        ),
        Text(paragraphs=tuple(said)),
        *parts.failures(view.results),
        Figure(
            caption=f"Mean score by trial with 95 % intervals. {counts(view)}.",
            picture=plot_curves(
                drawn,
                x_label="trials",
                y_label="score",
                names=view.names,
                unfinished=view.unfinished,
            ),
            name=f"curves{suffix}",
            data=curve_tables.of_curves(drawn, x="trial", y="score"),
        ),
    ]


def _about_given(given: int) -> str:
    return (
        f"Every optimizer is told the same {plural(given, 'random trial')} first, other ones for "
        "each seed; they do not count as trials."
    )


def _by_learner(views: Mapping[int, View], known: Known) -> list[Section]:
    made: list[Section] = []
    for given, view in views.items():
        groups: dict[str, list[int]] = {}
        for place, task in enumerate(view.results.tasks):
            groups.setdefault(task.family, []).append(place)
        made.append(
            _groups_table(
                view,
                groups,
                label="learner",
                caption="Mean score by learner, after some trials"
                + (f" beyond {given} given ones" if given else "")
                + ". The CSV file has 95 % intervals that resample data sets.",
                name="by_learner" + (f"_given_{given}" if given else ""),
            )
        )
    return made


def _by_standing(views: Mapping[int, View], known: Known) -> list[Section]:
    models = sorted({name for record in known.studies.values() for name in record.standings})
    if not models:
        return [Text(paragraphs=("No model was evaluated: there is nothing to hold out from.",))]
    made: list[Section] = [
        Table(
            caption="What each model has seen of the studies, by the record of its training that "
            "its checkpoint keeps. Held out: neither the study nor its data set; in-family: but "
            "the learner or a twin of it, as extra trees is of random forests; cross-family: "
            "nothing of that family. Unknown: the checkpoint keeps no record, so "
            "its score may come from memory.",
            header=("model", *map(str, Standing)),
            rows=[
                [
                    named(model),
                    *(
                        sum(
                            record.standings.get(model) == standing
                            for record in known.studies.values()
                        )
                        for standing in Standing
                    ),
                ]
                for model in models
            ],
            name="standings",
        )
    ]
    for given, view in views.items():
        groups: dict[str, list[int]] = {}
        for place, task in enumerate(view.results.tasks):
            standing = known.of_task(task.name).standing
            groups.setdefault(str(standing), []).append(place)
        order = [str(standing) for standing in Standing if str(standing) in groups]
        made.append(
            _groups_table(
                view,
                {standing: groups[standing] for standing in order},
                label="studies",
                caption="Mean score by what the models together have seen"
                + (f", beyond {given} given trials" if given else "")
                + ": the model that has seen most of a study counts.",
                name="by_standing" + (f"_given_{given}" if given else ""),
            )
        )
    return made


def _groups_table(
    view: View, groups: Mapping[str, Sequence[int]], *, label: str, caption: str, name: str
) -> Table:
    """A row a group and trial, a column an optimizer."""
    rows: list[list[Cell]] = []
    trials = [trial for trial in _BY_LEARNER if trial < view.last] + [view.last]
    for group, places in groups.items():
        scores_OKST = view.scores_OKST[:, places]
        _, groups_K = np.unique(view.groups_K[places], return_inverse=True)
        band = statistics.mean_band(scores_OKST, np.random.default_rng(0), groups_K=groups_K)
        rows += [
            [group, len(places), trial, *(mean_only(band, row, trial, 2) for row in view.order)]
            for trial in trials
        ]
    return Table(
        caption=caption,
        header=(label, "studies", "after", *(view.shown(row) for row in view.order)),
        columns=(label, "studies", "after", *(view.names[row] for row in view.order)),
        rows=rows,
        name=name,
    )


def _first(out: Path, known: Known) -> list[Section]:
    by_model = predictions.read(out)
    if not by_model:
        return [Text(paragraphs=("No model was evaluated.",))]
    groups: dict[str, Callable[[LoggedRecord, str], bool]] = {
        "all": lambda record, model: True,
        **{
            str(standing): lambda record, model, standing=standing: (  # type: ignore[misc]
                record.standings.get(model) == standing
            )
            for standing in Standing
        },
        **{
            learner: lambda record, model, learner=learner: (  # type: ignore[misc]
                record.learner == learner
            )
            for learner in sorted({record.learner for record in known.studies.values()})
        },
    }
    rows: list[list[Cell]] = []
    for group, belongs in groups.items():
        for model, made in by_model.items():
            chosen = {
                study: made[study]
                for study, record in known.studies.items()
                if study in made and belongs(record, model)
            }
            if chosen:
                rows.append([group, named(model), len(chosen), *_means(chosen, known)])
    return [
        Table(
            caption="Predictions before the first trial, from the study's text alone: rank "
            "correlation of predicted means with the truth at 256 random configurations, and log "
            "density of the truth per unit of the range of these values, in nats, where a uniform "
            "prediction scores 0. Means over studies with 95 % intervals that resample data sets.",
            header=("studies", "model", "number", "rank correlation", "log density"),
            rows=rows,
            name="first_predictions",
        )
    ]


def _means(made: Mapping[str, FirstPrediction], known: Known) -> list[Interval]:
    names = [known.studies[study].data_set for study in made]
    _, groups_N = np.unique(names, return_inverse=True)
    cells = []
    for field, digits in (("rank_correlation", 2), ("log_density", 2)):
        values_N = np.array([getattr(one, field) for one in made.values()])
        is_known_N = np.isfinite(values_N)
        if not is_known_N.any():
            cells.append(Interval(mean=float("nan")))
            continue
        found = statistics.bootstrap_mean(
            values_N[is_known_N], np.random.default_rng(0), groups_N=groups_N[is_known_N]
        )
        cells.append(Interval.of(found, digits=digits, signed=True))
    return cells


def _studies(known: Known) -> list[Section]:
    rows: list[list[Cell]] = []
    learners = sorted({record.learner for record in known.studies.values()})
    for learner in learners:
        its = [record for record in known.studies.values() if record.learner == learner]
        forests = [record.r2 for record in its if np.isfinite(record.r2)]
        rows.append(
            [
                learner,
                len(its),
                len({record.data_set for record in its}),
                int(np.median([record.recorded for record in its])),
                share(sum(record.surrogate != "forest" for record in its) / len(its)),
                float(np.median(forests)) if forests else None,
                float(np.quantile(forests, 0.1)) if forests else None,
            ]
        )
    made: list[Section] = [
        Table(
            caption="The studies behind the tasks: how many, on how many data sets, their trials "
            "in the median, how many are exact tables, and how well the forests of the others "
            "predict trials that a tree was not grown from: R² in the median and of the lowest "
            "tenth. Where R² is low, the task is a smoothed version of the study.",
            header=("learner", "studies", "data sets", "trials", "exact", "R²", "R², 10 %"),
            rows=rows,
            name="studies",
        )
    ]
    if known.left_out:
        left = "; ".join(
            f"{plural(count, 'study')}: {reason}" for reason, count in known.left_out.items()
        )
        made.append(Text(paragraphs=(f"Left out: {left}.",)))
    return made


def _lead(view: View, known: Known) -> str:
    best = view.order[0]
    last = interval(view.band, best, view.last)
    told = f"After {view.last} trials, {view.shown(best)} scores {last}"
    if view.last > 3:
        early = max(view.order, key=lambda row: float(np.nan_to_num(view.band.mean_OT[row, 3])))
        told += f"; after 3, {view.shown(early)} has {interval(view.band, early, 3)}"
    saved = saved_trials(view, known.baseline)
    models = {name: cell for name, cell in saved.items() if _is_model(name, known)}
    if models:
        name = max(models, key=lambda one: models[one].mean)
        told += (
            f". {name.replace('_', ' ')} saves {models[name]} of {view.last} trials to reach what "
            f"{known.baseline.replace('_', ' ')} has at the end"
        )
    return f"{told}. {counts(view)}; 95 % intervals resample data sets. {_held_out(known)}"


def _held_out(known: Known) -> str:
    standings = [record.standing for record in known.studies.values() if record.standings]
    if not standings:
        return ""
    unknown = standings.count(Standing.UNKNOWN)
    held = sum(one in (Standing.IN_FAMILY, Standing.CROSS_FAMILY) for one in standings)
    if unknown == len(standings):
        return "Whether a model was trained on these studies is unknown: it keeps no record."
    told = f"{held} of {plural(len(standings), 'study')} are held out from every model"
    return told + (f", of {unknown} it is unknown." if unknown else ".")


def _is_model(name: str, known: Known) -> bool:
    models = {model for record in known.studies.values() for model in record.standings}
    return any(name.startswith(f"{model}_") for model in models)
