"""The report's sections about predictions: by source, trials seen and number of parameters.

All intervals are over studies, which are resampled with all predictors' predictions of them, so
that differences are paired.

Array dimensions: N predictions, S studies, C confidence levels, B resamples.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int64

from optformer.errors import plural
from optformer.eval.prediction import GaussianProcess, Predictions
from optformer.eval.prediction_measures import (
    MEASURES,
    REFERENCE,
    RESAMPLES,
    Estimate,
    density,
    estimate,
)
from optformer.eval.prediction_runs import BySource, Found
from optformer.eval.prediction_sources import title
from optformer.eval.report import curve_tables
from optformer.eval.report.page import Figure, Section, Table, Text, named
from optformer.eval.report.plots import (
    Curve,
    plot_calibration,
    plot_curves,
    plot_histogram,
    plot_intervals,
    plot_panels,
)
from optformer.model import predictive

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

_AT_RANDOM = (
    "Transforms are randomized: where in its bin a truth lies is drawn, once for all predictors. "
    "The ends of a study's range and values that many trials have would otherwise count as badly "
    "calibrated even where their probability is right."
)
_SEEN = (0, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_PARAMETERS = (1, 2, 3, 5, 9, 17, 33)


def table(by_source: BySource) -> Table:
    """Each source's measures, with intervals."""
    rows = [
        ((title(source), label), estimate(made, measure, _all(made), digits))
        for source, made in by_source.items()
        for label, (measure, digits) in MEASURES.items()
    ]
    return _table(
        by_source,
        ("source", "measure"),
        rows,
        caption="Predictions of the next value, by the protocol of OptFormer's table 4. "
        f"{counted(by_source)}. 95 % intervals over studies, differences paired.",
        name="prediction",
    )


def summary(by_source: BySource) -> Table:
    """Each source's log density only, for the terminal."""
    whole = {source: estimate(made, density, _all(made)) for source, made in by_source.items()}
    full = _table(
        by_source,
        ("source",),
        [((title(source),), found) for source, found in whole.items()],
        caption=f"{counted(by_source)}. Log density, with 95 % intervals over studies, "
        "differences paired.",
        name="",
    )
    # Without the column of predictions, of which the caption has the sum.
    header, *rows = [(*row[:2], *row[3:]) for row in (full.header, *full.rows)]
    return dataclasses.replace(full, header=tuple(map(str, header)), columns=(), rows=rows)


def counted(by_source: BySource) -> str:
    """The number of predictions, in words."""
    first = [next(iter(made.values())) for made in by_source.values()]
    studies = sum(len(np.unique(made.study_N)) for made in first)
    return f"{sum(len(made.study_N) for made in first):,} predictions in {plural(studies, 'study')}"


def lead(by_source: BySource) -> str:
    """The result: each source's difference, of all predictions and of the last ones."""
    seen = _by_group(by_source, _seen_of, lambda values_N: _SEEN)
    parts = []
    for source, made in by_source.items():
        whole = estimate(made, density, _all(made))
        label, last = [(label, found) for its, label, _, found in seen if its == source][-1]
        parts += [
            f"{title(source)} {whole.differences[name]}; with {label} trials seen "
            f"{last.differences[name]}"
            for name in whole.differences
        ]
    return (
        f"{counted(by_source)}. Log density of a prediction, the model's less that of a Gaussian "
        f"process that was fitted to the same trials, in nats. {'. '.join(parts)}."
    )


def page_sections(found: Found) -> list[Section]:
    """The sections of a results folder: its studies, and `sections`."""
    made: list[Section] = [
        Table(
            caption="What is predicted.",
            header=("source", "studies"),
            rows=[(title(source), found.about[source]) for source in found.predictions],
        )
    ]
    if found.missing:
        made.append(
            Text(
                paragraphs=(
                    f"{plural(found.missing, 'study')} that were planned have no predictions "
                    "yet: the same command resumes.",
                )
            )
        )
    return [
        *made,
        *sections(
            found.predictions,
            reference=found.settings.get(REFERENCE, ""),
            unfinished=found.missing > 0,
        ),
    ]


def sections(
    by_source: BySource, *, reference: str = repr(GaussianProcess()), unfinished: bool = False
) -> list[Section]:
    """Tables and pictures, without a heading.

    Args:
      by_source: as `prediction_runs.BySource`; a name that is no source's stands for itself.
      reference: the settings of the reference, if it is among the predictors.
      unfinished: writes across each picture that predictions are missing.
    """
    seen = _by_group(by_source, _seen_of, lambda values_N: _SEEN)
    parameters = _by_group(by_source, lambda made: made.parameters_N, _sizes)
    names = _names(by_source)
    calibrated = {
        source: [_calibration(name, part) for name, part in predictions.items()]
        for source, predictions in by_source.items()
    }
    made: list[Section] = [
        table(by_source),
        Text(
            paragraphs=(
                "Values are scaled to [0, 1] by the smallest and largest of their study. Log "
                "density is in nats per unit of the scaled value: uniform predictions score 0, "
                "more is better. ECE is the expected calibration error of the likeliest of 100 "
                "intervals, in 10 bins of confidence; of it and of RMSE, less is better. Resamples "
                "have fewer different studies, which makes an ECE larger: its intervals lie high.",
                *([_about_reference(by_source, reference)] if REFERENCE in names else []),
            )
        ),
        Figure(
            caption="Mean log density by how many trials were seen, with 95 % intervals over "
            f"studies. {counted(by_source)}; the table below has the counts of each point.",
            picture=_density_curves(by_source, seen, unfinished),
            name="density",
        ),
        _table(
            by_source,
            ("source", "trials seen"),
            [((title(source), label), found) for source, label, _, found in seen],
            caption="Mean log density by how many trials were seen, with 95 % intervals over "
            "studies, differences paired.",
            name="prediction_by_seen",
        ),
    ]
    made += _difference_figures(by_source, parameters, unfinished)
    made += [
        _table(
            by_source,
            ("source", "parameters"),
            [((title(source), label), found) for source, label, _, found in parameters],
            caption="Mean log density by the study's number of parameters, with 95 % intervals "
            "over studies, differences paired.",
            name="prediction_by_parameters",
        ),
        Figure(
            caption="Calibration: how often the truth lay in the central interval that was "
            "predicted to hold it with this probability, by the probability integral transforms "
            f"below; bands are 95 % intervals over studies. {_AT_RANDOM} {counted(by_source)}.",
            picture=plot_calibration(
                {
                    _panel(source, by_source[source]): curves
                    for source, curves in calibrated.items()
                },
                names=names,
                unfinished=unfinished,
            ),
            name="calibration",
            data=curve_tables.of_panels(
                {title(source): curves for source, curves in calibrated.items()},
                panel="source",
                name="predictor",
                x="probability",
                y="frequency",
            ),
        ),
        Figure(
            caption="Probability integral transforms: flat is right, a hump is too cautious, a "
            f"valley too sure, a slope biased. {_AT_RANDOM} {counted(by_source)}.",
            picture=plot_histogram(
                {
                    title(source): {name: part.pit_N for name, part in predictions.items()}
                    for source, predictions in by_source.items()
                },
                x_label="probability integral transform",
                names=names,
                unfinished=unfinished,
            ),
            name="pit",
            data=Table(
                caption="",
                header=("source", "predictor", "study", "transform"),
                rows=[
                    (title(source), named(name), int(study), float(pit))
                    for source, predictions in by_source.items()
                    for name, part in predictions.items()
                    for study, pit in zip(part.study_N, part.pit_N, strict=True)
                ],
            ),
        ),
    ]
    return made


def _about_reference(by_source: BySource, settings: str) -> str:
    """A description of the Gaussian process, with how often its hyperparameters were fitted."""
    usual = GaussianProcess()
    if settings == repr(usual):
        seen_N = np.concatenate(
            [made[REFERENCE].seen_N for made in by_source.values() if REFERENCE in made]
        )
        early = int((seen_N < usual.always_below).sum())
        fitted = (
            "are fitted by maximum likelihood before each prediction from fewer than "
            f"{usual.always_below} trials, which are {early:,} of {counted(by_source)}, and later "
            f"at every {usual.refit_every}th trial"
        )
    else:  # of another version
        fitted = f"were fitted by maximum likelihood with the settings {settings}"
    return (
        "The Gaussian process has a Matérn-5/2 kernel with a length scale a feature, and noise; "
        f"its hyperparameters {fitted}. Fitted to few trials, it can be far too sure of itself, "
        "which costs it much log density: differences by trials seen say more than those of all "
        "predictions."
    )


_Group = tuple[str, str, float, Estimate]  # source, the group in words, its mean number, density


def _by_group(
    by_source: BySource,
    numbers: Callable[[Predictions], Int64[np.ndarray, " N"]],
    edges: Callable[[Int64[np.ndarray, " N"]], Sequence[int]],
) -> list[_Group]:
    """Log density of the predictions whose number lies from an edge to before the next one."""
    groups = []
    for source, made in by_source.items():
        values_N = numbers(next(iter(made.values())))
        starts = [*edges(values_N), int(values_N.max()) + 1]
        for low, high in itertools.pairwise(starts):
            chosen_N = (values_N >= low) & (values_N < high)
            if chosen_N.any():
                first, last = int(values_N[chosen_N].min()), int(values_N[chosen_N].max())
                label = f"{first:,}" if first == last else f"{first:,}–{last:,}"
                mean = float(values_N[chosen_N].mean())
                groups.append((source, label, mean, estimate(made, density, chosen_N)))
    return groups


def _seen_of(made: Predictions) -> Int64[np.ndarray, " N"]:
    return made.seen_N


def _sizes(values_N: Int64[np.ndarray, " N"]) -> Sequence[int]:
    """Each number of parameters for itself if they are few, otherwise in groups."""
    sizes = np.unique(values_N).tolist()
    return sizes if len(sizes) <= 6 else _PARAMETERS


def _density_curves(by_source: BySource, seen: Sequence[_Group], unfinished: bool) -> "Picture":
    panels: dict[str, list[Curve]] = {}
    for source, made in by_source.items():
        points = [(mean, found) for its, _, mean, found in seen if its == source]
        panels[_panel(source, made)] = curves = []
        for name in made:
            values = [found.values[name] for _, found in points]
            mean_T, low_T, high_T = np.array([(v.mean, v.low, v.high) for v in values]).T
            x_T = np.array([mean for mean, _ in points])
            curves.append(Curve(name=name, x_T=x_T, mean_T=mean_T, low_T=low_T, high_T=high_T))
    x_label, y_label, names = "trials seen", "log predictive density", _names(by_source)
    if len(panels) > 1:
        return plot_panels(
            panels,
            x_label=x_label,
            y_label=y_label,
            log_x=True,
            names=names,
            unfinished=unfinished,
        )
    ((panel, curves),) = panels.items()
    return plot_curves(
        curves,
        title=panel,
        x_label=x_label,
        y_label=y_label,
        log_x=True,
        names=names,
        unfinished=unfinished,
    )


def _difference_figures(
    by_source: BySource, parameters: Sequence[_Group], unfinished: bool
) -> list[Section]:
    """The differences to the reference of each source, all of it and by number of parameters."""
    figures: list[Section] = []
    for name in _names(by_source):
        rows: dict[str, tuple[float, float, float]] = {}
        groups: dict[str, str] = {}
        for source, made in by_source.items():
            if name not in made or name == REFERENCE or REFERENCE not in made:
                continue
            whole = estimate(made, density, _all(made))
            its = [(label, found) for of, label, _, found in parameters if of == source]
            for label, found in [("", whole), *(its if len(its) > 1 else [])]:
                words = f"{label} parameter{'' if label == '1' else 's'}" if label else "all"
                row = f"{title(source)}, {words} ({plural(found.studies, 'study')})"
                gap = found.differences[name]
                rows[row], groups[row] = (gap.mean, gap.low, gap.high), source
        if rows:
            shown, reference = name.replace("_", " "), REFERENCE.replace("_", " ")
            figures.append(
                Figure(
                    caption=f"How much more log density a prediction of {shown} has than that of "
                    f"the {reference} for the same trial, with 95 % intervals over studies.",
                    picture=plot_intervals(
                        rows,
                        x_label=f"log density, {shown} − {reference}",
                        reference=0.0,
                        groups=groups,
                        unfinished=unfinished,
                    ),
                    name=f"difference_{name}",
                )
            )
    return figures


def _calibration(name: str, made: Predictions) -> Curve:
    """The calibration curve with its band."""
    studies = np.unique(made.study_N)
    levels_C, observed_C = predictive.calibration_curve(made.pit_N)
    of_study = [made.pit_N[made.study_N == study] for study in studies]
    inside_SC = np.array(
        [predictive.calibration_curve(pit_N)[1] * len(pit_N) for pit_N in of_study]
    )
    count_S = np.array([len(pit_N) for pit_N in of_study])
    rng = np.random.default_rng(0)
    weights_BS = rng.multinomial(
        len(studies), np.full(len(studies), 1 / len(studies)), size=RESAMPLES
    )
    observed_BC = (weights_BS @ inside_SC) / (weights_BS @ count_S)[:, None]
    low_C, high_C = np.quantile(observed_BC, [0.025, 0.975], axis=0)
    return Curve(name=name, x_T=levels_C, mean_T=observed_C, low_T=low_C, high_T=high_C)


def _table(
    by_source: BySource,
    labels: tuple[str, ...],
    rows: Sequence[tuple[tuple[str, ...], Estimate]],
    *,
    caption: str,
    name: str,
) -> Table:
    names = _names(by_source)
    compared = list(dict.fromkeys(other for _, found in rows for other in found.differences))
    return Table(
        caption=caption,
        header=(
            *labels,
            "studies",
            "predictions",
            *(one.replace("_", " ") for one in names),
            *(f"{one.replace('_', ' ')} − {REFERENCE.replace('_', ' ')}" for one in compared),
        ),
        columns=(
            *labels,
            "studies",
            "predictions",
            *names,
            *(f"{one} − {REFERENCE}" for one in compared),
        ),
        rows=[
            (
                *label,
                found.studies,
                found.predictions,
                *(found.values.get(one) for one in names),
                *(found.differences.get(one) for one in compared),
            )
            for label, found in rows
        ],
        name=name,
    )


def _names(by_source: BySource) -> list[str]:
    """All predictors."""
    return list(dict.fromkeys(name for made in by_source.values() for name in made))


def _all(made: Mapping[str, Predictions]) -> Bool[np.ndarray, " N"]:
    return np.ones(len(next(iter(made.values())).study_N), dtype=bool)


def _panel(source: str, made: Mapping[str, Predictions]) -> str:
    studies = len(np.unique(next(iter(made.values())).study_N))
    return f"{title(source)}  ({plural(studies, 'study')})"
