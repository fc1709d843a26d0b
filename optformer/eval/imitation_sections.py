"""The report's sections about imitation: `optformer.eval.imitation` in pictures and tables."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from optformer.errors import plural
from optformer.eval import statistics
from optformer.eval.imitation import CHECKPOINTS, Likelihoods, pairs
from optformer.eval.report import curve_tables
from optformer.eval.report.page import (
    Cell,
    Figure,
    Heading,
    Interval,
    Section,
    Shown,
    Table,
    Text,
    named,
    rounded,
    share,
)
from optformer.eval.report.plots import plot_matrices, plot_panels
from optformer.eval.report.sections import difference
from optformer.eval.report.view import View

_TEACHER, _MODEL = "teacher", "optformer"


def page_parts(view: View, likelihoods: Likelihoods | None) -> tuple[str, list[Section]]:
    """What was found in two sentences; and curves, distances and likelihoods with headings."""
    tested = _tested(view)
    made: list[Section] = [Heading(title="Curves"), _curves(view)]
    made += [Heading(title="Distance from the teacher"), _distances(view, tested)]
    if likelihoods is not None:
        made += [
            Heading(title="Does the prompt matter?"),
            *_likelihoods(likelihoods, view.unfinished),
        ]
    return _lead(view, tested, likelihoods), made


def _lead(view: View, tested: "Sequence[_Tested]", likelihoods: Likelihoods | None) -> str:
    last = [row for row in tested if row.trial == view.last]
    apart = sum(row.corrected < 0.05 for row in last)
    told = (
        f"After {view.last} trials, the model's best value so far can be told from its teacher's "
        f"for {apart} of {plural(len(last), 'teacher')} (5 % level, Holm; "
        f"{plural(len(view.results.seeds), 'seed')} a task). Not told apart does not mean alike: "
        "few seeds hide differences."
    )
    if likelihoods is not None:
        share = float(np.diag(likelihoods.confusion()).mean())
        told += (
            f" Of the teachers' own studies, {share:.0%} are likeliest under the right prompt; "
            f"{1 / len(likelihoods.teachers):.0%} would be by chance."
        )
    return f"{told} {_counts(view)}."


def _counts(view: View) -> str:
    return view.counts[0].upper() + view.counts[1:]


def _curves(view: View) -> Figure:
    panels = {}
    for teacher, model in pairs(view.names):
        both = []
        for name, shown in ((teacher, _TEACHER), (model, _MODEL)):
            curve = view.curve(view.names.index(name), view.band)
            both.append(dataclasses.replace(curve, name=shown))
        panels[teacher] = both
    return Figure(
        caption="Mean score by trial of each teacher, and of the model's prior prompted with its "
        f"name, with 95 % intervals over tasks. {_counts(view)}.",
        picture=plot_panels(
            {teacher.replace("_", " "): both for teacher, both in panels.items()},
            x_label="trials",
            y_label="score",
            log_x=True,
            names=(_TEACHER, _MODEL),
            columns=3 if len(panels) > 4 else 2,
            unfinished=view.unfinished,
        ),
        name="imitation",
        data=curve_tables.of_panels(panels, panel="teacher", name="whose", x="trial", y="score"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Tested:
    """One teacher and its model at one trial; means are the teacher's and the model's."""

    teacher: str
    trial: int
    means: tuple[float, float]
    gap: statistics.Difference
    distance: tuple[float, float, float]
    chance: float
    p_value: float
    corrected: float


def _tested(view: View) -> list[_Tested]:
    at = [trial for trial in CHECKPOINTS if trial < view.last] + [view.last]
    whole_K = view.common_KS.all(1)  # sets of as many seeds are compared
    if not whole_K.any():
        return []
    rows = []
    for teacher, model in pairs(view.names):
        both = [view.names.index(teacher), view.names.index(model)]
        theirs_KST, ours_KST = view.scores_OKST[both][:, whole_K][..., at]
        rng = np.random.default_rng(0)
        p_T, chance_T = statistics.same_distribution(ours_KST, theirs_KST, rng)
        distance_KT = statistics.seed_distance(ours_KST, theirs_KST)
        for place, trial in enumerate(at):
            rows.append(
                _Tested(
                    teacher=teacher,
                    trial=trial,
                    means=(theirs_KST[..., place].mean(), ours_KST[..., place].mean()),
                    gap=statistics.paired_difference(
                        ours_KST[..., place].mean(1), theirs_KST[..., place].mean(1), rng
                    ),
                    distance=statistics.bootstrap_mean(distance_KT[:, place], rng),
                    chance=float(chance_T[place]),
                    p_value=float(p_T[place]),
                    corrected=float("nan"),
                )
            )
    adjusted = statistics.holm([row.p_value for row in rows])
    return [
        dataclasses.replace(row, corrected=p_value)
        for row, p_value in zip(rows, adjusted, strict=True)
    ]


def _distances(view: View, tested: Sequence[_Tested]) -> Table:
    rows = [
        (
            named(row.teacher),
            row.trial,
            Shown(
                text="{:.3f} / {:.3f}".format(*row.means),
                values={", teacher": row.means[0], ", optformer": row.means[1]},
            ),
            difference(row.gap),
            Interval.of(row.distance),
            Interval(mean=row.chance),
            rounded(row.p_value, 2),
            rounded(row.corrected, 2),
        )
        for row in tested
    ]
    return Table(
        caption="The model against its teacher. Scores: mean, teacher's / model's. Difference: of "
        "mean scores, model − teacher, paired by task. Distance: Wasserstein's between the scores "
        "of the two sets of seeds of a task, mean over tasks. Both with 95 % bootstrap intervals "
        "over tasks. By chance: the mean distance when seeds are dealt at random to the two. p: "
        "two-sample permutation test of the distance, seeds dealt within tasks 2,000 times; then "
        f"with Holm's correction for {plural(len(rows), 'test')}. {_counts(view)}.",
        header=(
            "teacher",
            "trial",
            "scores",
            "difference",
            "distance",
            "by chance",
            "p",
            "p (Holm)",
        ),
        rows=rows,
        name="distances",
    )


def _likelihoods(made: Likelihoods, unfinished: bool) -> list[Section]:
    rng = np.random.default_rng(0)
    mean_AC, share_AC = made.mean(), made.confusion()
    studies, tasks = len(made.task_N), len(np.unique(made.task_N))
    trials = int((~np.isnan(made.nats_ACNR)).any((0, 1)).sum())
    counted = (
        f"{plural(studies, 'study')} a teacher on "
        f"{plural(tasks, 'task')}, {trials:,} trials a teacher"
    )
    rows: list[list[Cell]] = []
    for row, name in enumerate(made.teachers):
        wrong = [column for column in range(len(made.teachers)) if column != row]
        likest = max(wrong, key=lambda column: mean_AC[row, column])
        best = Interval(mean=float(mean_AC[row, likest]))
        rows.append(
            [
                named(name),
                Interval(mean=float(mean_AC[row, row])),
                Shown(
                    text=f"{best} ({made.teachers[likest].replace('_', ' ')})",
                    values={"": best.mean, ", teacher": made.teachers[likest]},
                ),
                Interval.of(made.margin(row, rng), signed=True),
                share(float(share_AC[row, row])),
            ]
        )
    return [
        Text(
            paragraphs=(
                "The model reads each teacher's own studies under the name of every teacher. The "
                "log-likelihood of a trial's parameters, given the trials before it, is counted "
                "above that of a uniform choice among legal values, in nats a parameter: 0 says "
                "that the model knows no better than chance. Values are scaled by the range of "
                "the whole study, the same under all prompts.",
            )
        ),
        Table(
            caption="Likelihood of the teachers' next trials under the right prompt, under the "
            "best of the wrong ones, and how much more the right one gives than the wrong ones do "
            "on average, with its 95 % interval over tasks; and how many studies are likeliest "
            f"under the right prompt. {counted}.",
            header=(
                "teacher",
                "right prompt",
                "best wrong prompt",
                "right − mean of wrong",
                "studies told right",
            ),
            rows=rows,
            name="likelihoods",
        ),
        Figure(
            caption="Who the model takes a study for. Left: mean log-likelihood above uniform, "
            "nats a parameter. Right: share of a teacher's studies that are likeliest under each "
            f"prompt. The darker the larger within a row; the right prompt is bold. {counted}.",
            picture=plot_matrices(
                {"nats a parameter": mean_AC, "share of studies": share_AC},
                made.teachers,
                x_label="prompt",
                y_label="teacher",
                unfinished=unfinished,
            ),
            name="confusion",
            data=Table(
                caption="",
                header=("teacher", "prompt", "nats a parameter", "share of studies"),
                rows=[
                    (named(teacher), named(prompt), float(mean), float(part))
                    for teacher, means, parts in zip(made.teachers, mean_AC, share_AC, strict=True)
                    for prompt, mean, part in zip(made.teachers, means, parts, strict=True)
                ],
            ),
        ),
    ]
