"""One tuning study: a random search over one person's space of a learner, on one table.

Array dimensions: R trials, P parameters, M metrics.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from scipy.stats import chi2

from optformer.data.collect.config import CollectConfig
from optformer.data.collect.evaluate import Answer, Data, Question, answer, prepare
from optformer.data.collect.plan import Assignment
from optformer.data.data_tables.table import Task
from optformer.data.learners import LEARNERS
from optformer.data.learners.learner import Variant
from optformer.data.learners.scores import SCORES, SECONDS_NAMES, metric_of
from optformer.data.learners.settings import SearchSpace, draw_space
from optformer.data.limited import Limited, TimedOut
from optformer.data.processes import WorkerDied
from optformer.study import Curves, Goal, Metric, Problem, State, Study

ALGORITHM = "random_search"
_FAILURE = "failure"  # the note of an infeasible trial

_TITLES = (
    "{learner}",
    "{learner}",
    "{learner} hyperparameter tuning",
    "tuning of {learner}",
    "Tune {learner}",
    "hyperparameter search for {learner}",
    "{learner} {task}",
    "{learner} for {task} of tabular data",
    "{learner} on tabular data, {metric}",
    "{metric} of {learner}",
    "HPO {learner}",
    "{learner}, {task} ({metric})",
)

_process: Limited[Question, tuple[Answer, ...]] = Limited(answer, prepare)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """What came of one number: a study, or why it does not count.

    Attributes:
      refused: "" if it counts.
      failures: reason -> trials.
      fits: how many models were trained.
      fit_seconds: what those of completed trials took.
      seconds: what everything took.
    """

    assignment: Assignment
    study: Study | None
    refused: str
    failures: Mapping[str, int]
    fits: int
    fit_seconds: float
    seconds: float


def make_study(config: CollectConfig, seed: int, assignment: Assignment) -> Made:
    """The study with this number; apart from its seconds a function of the arguments."""
    began = time.monotonic()
    rng = np.random.default_rng((seed, assignment.number))
    learner = LEARNERS[assignment.learner]
    variant = learner.variants[assignment.task]
    space = draw_space(variant.settings, rng, most_effort=config.effort, prefixes=learner.prefixes)
    names = _scores(variant, assignment.task, rng)
    data = Data(
        name=assignment.table,
        folders=tuple(map(Path, config.folders)),
        target=config.target,
        rows=config.rows,
        folds=config.folds,
        holdout_rows=config.holdout_rows,
        seed=seed,
    )
    values_RP = np.array([space.draw(rng) for _ in range(config.configurations)])
    answers: list[Answer] = []
    for start in range(0, config.configurations, variant.at_once):
        question = Question(
            data=data,
            learner=learner.name,
            keywords=tuple(
                space.keyword_values(values_P)
                for values_P in values_RP[start : start + variant.at_once]
            ),
            scores=names,
            seconds=config.seconds,
        )
        answers += _asked(question, config)
        # A look after a third of them: would it hardly count in the end?
        if start * 3 < config.configurations <= len(answers) * 3:
            effects_S = effects(assignment.task, names, answers)
            if not (effects_S > config.least_effect / 2).any():
                break
    done = [each for each in answers if each.scores_FS is not None]
    effects_S = effects(assignment.task, names, answers)
    counts = len(answers) == config.configurations and effects_S > config.least_effect
    study, refused = None, ""
    if len(done) < len(answers) / 2:
        refused = "fewer than half of its trials completed"
    elif not np.any(counts):
        refused = "its best score is too near the median"
    else:
        study = _study(assignment, space, values_RP, answers, names, int(np.argmax(counts)), rng)
    return Made(
        assignment=assignment,
        study=study,
        refused=refused,
        failures=Counter(each.failure for each in answers if each.failure),
        fits=sum(each.fits for each in answers),
        fit_seconds=float(sum(each.fits * each.seconds for each in done)),
        seconds=time.monotonic() - began,
    )


def _asked(question: Question, config: CollectConfig) -> Sequence[Answer]:
    fits = config.folds * len(question.keywords)
    try:
        return _process(question, config.seconds * fits)
    except TimedOut:
        failure = f"a fit took longer than {config.seconds:g} s"
    except WorkerDied:
        failure = "the process died"
    return [Answer(failure=failure)] * len(question.keywords)


def _scores(variant: Variant, task: Task, rng: np.random.Generator) -> tuple[str, ...]:
    """All scores that the learner can have, in random order: the first that counts is optimized."""
    known = [
        name
        for name, score in SCORES[task].items()
        if variant.probabilities or not score.needs_probabilities
    ]
    return tuple(map(str, rng.permutation(known)))


def effects(
    task: Task, names: Sequence[str], answers: Sequence[Answer]
) -> Float64[np.ndarray, " S"]:
    """How far the best of each score is above the median, in standard errors of a score."""
    done = [each.scores_FS for each in answers if each.scores_FS is not None]
    if len(done) < 3:
        return np.zeros(len(names))
    signs_S = np.array([1.0 if SCORES[task][n].goal == Goal.MAXIMIZE else -1.0 for n in names])
    scores_RFS = np.array(done) * signs_S
    mean_RS = scores_RFS.mean(axis=1)
    gap_S = mean_RS.max(axis=0) - np.median(mean_RS, axis=0)
    # What makes one part of the rows harder than another is the same for all trials.
    left_RFS = scores_RFS - scores_RFS.mean(axis=0)
    parts = scores_RFS.shape[1]
    # The median is robust against trials that went wild, but lies below the mean.
    usual = np.sqrt(chi2.median(parts - 1) / (parts - 1))
    error_S = np.median(left_RFS.std(axis=1, ddof=1), axis=0) / usual / np.sqrt(parts)
    return gap_S / np.where(error_S > 0, error_S, np.inf)


def _study(
    assignment: Assignment,
    space: SearchSpace,
    values_RP: Float64[np.ndarray, "R P"],
    answers: Sequence[Answer],
    names: Sequence[str],
    objective: int,
    rng: np.random.Generator,
) -> Study:
    """The study, with one of the scores as its objective and the others behind it."""
    order_S = [objective, *(column for column in range(len(names)) if column != objective)]
    metrics, signs_M = _metrics(assignment.task, [names[column] for column in order_S], rng)
    metrics_RM = np.full((len(answers), len(metrics)), np.nan)
    states_R = np.full(len(answers), State.INFEASIBLE, dtype=np.int8)
    trials, steps, curves = [], [], []
    for row, each in enumerate(answers):
        if each.scores_FS is None:
            continue
        states_R[row] = State.COMPLETED
        metrics_RM[row] = [*each.scores_FS.mean(axis=0)[order_S], each.seconds]
        for step, scores_S in each.curve:
            trials.append(row)
            steps.append(step)
            curves.append([*scores_S[order_S], np.nan])
    failed = any(each.failure for each in answers)
    return Study(
        problem=_problem(assignment, space, metrics, rng),
        values_RP=values_RP,
        metrics_RM=_rounded(metrics_RM * signs_M),
        states_R=states_R,
        algorithm=ALGORITHM,
        notes=tuple({_FAILURE: each.failure} if each.failure else {} for each in answers)
        if failed
        else None,
        curves=Curves(
            trial_C=np.array(trials, dtype=np.int32),
            step_C=np.array(steps, dtype=np.float64),
            values_CM=_rounded(np.array(curves) * signs_M),
        )
        if trials
        else None,
        data_set=assignment.twins,
    )


def _metrics(
    task: Task, names: Sequence[str], rng: np.random.Generator
) -> tuple[list[Metric], Float64[np.ndarray, " M"]]:
    """The scores and the seconds as somebody calls them, and -1 where that changes the sign."""
    metrics, signs = [], []
    for name in names:
        score = SCORES[task][name]
        shown = str(rng.choice(list(score.names)))
        metrics.append(metric_of(score, shown))
        signs.append(-1.0 if score.names[shown] else 1.0)
    metrics.append(Metric(name=str(rng.choice(SECONDS_NAMES)), goal=Goal.MINIMIZE))
    return metrics, np.array([*signs, 1.0])


def _problem(
    assignment: Assignment,
    space: SearchSpace,
    metrics: Sequence[Metric],
    rng: np.random.Generator,
) -> Problem:
    # The table's name is no part of any text: a model would learn it by heart.
    title = str(rng.choice(_TITLES)).format(
        learner=rng.choice(LEARNERS[assignment.learner].variants[assignment.task].words),
        task=assignment.task.value,
        metric=metrics[0].name,
    )
    return Problem(
        name=f"{assignment.learner}/{assignment.number:06d}",
        title=title if rng.random() < 0.95 else "",
        parameters=space.parameters,
        metrics=tuple(metrics),
        metadata=(("task", assignment.task.value),) if rng.random() < 0.2 else (),
    )


def _rounded(values_RM: Float64[np.ndarray, "R M"]) -> Float64[np.ndarray, "R M"]:
    """The numbers with the six digits that logs keep."""
    with np.errstate(divide="ignore", invalid="ignore"):
        power_RM = np.floor(np.log10(np.abs(values_RM)))
        unit_RM = 10.0 ** (5 - np.where(np.isfinite(power_RM), power_RM, 0.0))
        return np.round(values_RM * unit_RM) / unit_RM
