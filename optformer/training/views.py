"""One real study seen in many ways, for the prior network: the same trials under other names.

What is learned must hold for the next user's study, whose names, ranges and title are a little
different. So parameters are renamed by a table of what libraries and people call them
(`synonyms.json`), narrowed to a part of their range, or left out; categories change places;
titles and metrics are reworded or missing; and in a share of the views no word is left. What a
title says after the learner's name is never shown: data sets would be learned by heart.

A metric becomes a score: 0 is the median of the trials, 1 the best; scores below 0 approach -2.

Array dimensions: N trials of a view, P parameters, C shown ones, R trials of a study.
"""

import dataclasses
import functools
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from optformer.model import description
from optformer.model.description import AnyArray, Description
from optformer.space import column_from_units, column_to_units, to_natural, to_units
from optformer.study import Goal, Metric, Parameter, ParameterType, Problem, Scale, State, Study

SYNONYMS = Path(__file__).with_name("synonyms.json")

LEAST_TRIALS = 100
"""A view of a part of the space has so many trials at least, to choose from."""

_UNDER_NAME = re.compile(r" on ")
"""What follows in a title names the data."""

_SYLLABLES = "ba bo da de do ka ke ki la lo ma mi na no pa po ra re ri sa se ta te to va vi zo"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """How often each change is made, as probabilities.

    Attributes:
      changed: a view has any of the changes below.
      rename: names are changed: each parameter to a synonym with probability `synonym`.
      synonym: see `rename`.
      prefix: a renamed parameter gets a prefix, such as `model__`.
      narrow: one to three parameters have only a part of their range.
      drop: one or two parameters are not shown.
      permute: categories change places.
      title, metric: the title is left out; the metric is another word, of either goal.
      hidden: no word is left.
      normalized: numbers are shown in [0, 1], as many tools and benchmarks keep them.
      wrong: names and title are those of anything else, and what they say is not true.
      held_out: this share of synonyms is kept for evaluation (`is_held_out`).
    """

    changed: float = 0.85
    rename: float = 0.6
    synonym: float = 0.5
    prefix: float = 0.12
    narrow: float = 0.4
    drop: float = 0.3
    permute: float = 0.4
    title: float = 0.25
    metric: float = 0.5
    hidden: float = 0.1
    normalized: float = 0.0
    wrong: float = 0.07
    held_out: float = 0.1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """N trials of one study, or of many, stacked.

    Attributes:
      text: of the problem as the view shows it.
      units_NP, values_NP, inactive_NP: the trials, for `prior.mean_and_features`.
      score_N: their scores.
      optimum: the first trial is a tuned optimum and the others are random configurations; there
        are no scores.
    """

    text: Description
    units_NP: Float32[AnyArray, "*B N P"]
    values_NP: Float32[AnyArray, "*B N P"]
    inactive_NP: Bool[AnyArray, "*B N P"]
    score_N: Float32[AnyArray, "*B N"]
    optimum: Bool[AnyArray, "*B"]


def view(
    study: Study, trials: int, size: int, config: ViewConfig, rng: np.random.Generator
) -> View:
    """A random view of a study with so many trials, padded to `size` parameters."""
    problem, values_RP, score_R, optimum = _trials(study, rng, trials)
    metric = problem.metrics[0]
    parameters = list(problem.parameters)
    columns = np.arange(len(parameters))
    inside_R = np.ones(len(values_RP), bool)
    title = _UNDER_NAME.split(problem.title)[0]
    hidden = False
    if rng.random() < config.changed:
        parents = {one.parent for parameter in parameters for one in parameter.conditions}
        if rng.random() < config.drop:
            columns = _kept(parameters, parents, rng)
        if rng.random() < config.narrow and not optimum:
            inside_R = _narrow(parameters, parents, values_RP, columns, rng)
        if rng.random() < config.permute:
            values_RP = _permute(parameters, values_RP, rng)
        if rng.random() < config.normalized:
            values_RP = _normalize(parameters, parents, values_RP)
        if rng.random() < config.rename:
            _rename(parameters, columns, config, rng)
        if rng.random() < config.title:
            title = ""
        if rng.random() < config.metric:
            metric = _another_metric(rng)
        hidden = bool(rng.random() < config.hidden)
        if rng.random() < config.wrong:
            title = str(rng.choice(_tables()["titles"]))
            _mislead(parameters, rng)
    rows = np.flatnonzero(inside_R)
    if optimum:
        rows = np.arange(trials)
    else:
        score_R = score(score_R) if inside_R.all() else score(np.where(inside_R, score_R, np.nan))
        rows = rng.choice(rows, trials, replace=len(rows) < trials)
    seen = Problem(
        parameters=tuple(parameters[column] for column in columns),
        metrics=(metric,),
        title=title + _data_set(rng),
    )
    return _arrays(seen, values_RP[rows][:, columns], score_R[rows], optimum, size, hidden)


def plain(study: Study, trials: int, size: int, rng: np.random.Generator) -> View:
    """Random trials of a study as it is, padded to `size` parameters."""
    problem, values_RP, score_R, optimum = _trials(study, rng, trials, first=True)
    rows = rng.choice(len(values_RP), trials, replace=len(values_RP) < trials)
    rows = np.arange(trials) if optimum else rows
    score_R = score_R if optimum else score(score_R)
    return _arrays(problem, values_RP[rows], score_R[rows], optimum, size, False)


def stack(views: Sequence[View]) -> View:
    """Views of one size as one, with a batch dimension first."""
    texts = [one.text for one in views]
    text = Description(
        **{
            field.name: np.stack([getattr(one, field.name) for one in texts])
            for field in dataclasses.fields(Description)
        }
    )
    names = ("units_NP", "values_NP", "inactive_NP", "score_N", "optimum")
    return View(text=text, **{name: np.stack([getattr(v, name) for v in views]) for name in names})


def score(signed_R: Float64[np.ndarray, " R"]) -> Float64[np.ndarray, " R"]:
    """Metrics, larger better, as scores; the worst where a trial has none."""
    finite_R = signed_R[np.isfinite(signed_R)]
    middle, best = np.median(finite_R), finite_R.max()
    score_R = (signed_R - middle) / max(best - middle, 1e-12)
    score_R = np.where(np.isfinite(score_R), score_R, -4.0)
    return np.where(score_R < 0, 2.0 * np.tanh(np.maximum(score_R, -20.0) / 2.0), score_R)


def is_useful(study: Study) -> bool:
    """Whether a study teaches which of its configurations are good: tuned optima do, and enough
    trials of which the best is better than most."""
    if len(study) == 1:
        return True
    goal_R = study.objective()
    goal_R = goal_R[np.isfinite(goal_R)]
    return len(goal_R) >= LEAST_TRIALS // 2 and bool(goal_R.max() > np.quantile(goal_R, 0.75))


def is_held_out(name: str, share: float) -> bool:
    """Whether a name of the table is kept for evaluation, however it is spelt."""
    return zlib.crc32(f"held out {_plain(name)}".encode()) % 1000 < 1000 * share


@functools.cache
def synonyms() -> dict[str, tuple[str, ...]]:
    """Other names of a name, without its case and separators."""
    table: dict[str, dict[str, None]] = {}
    for group in _tables()["names"]:
        for name in group:
            table.setdefault(_plain(name), {}).update(dict.fromkeys(group))
    return {name: tuple(others) for name, others in table.items()}


def _trials(
    study: Study, rng: np.random.Generator, trials: int, *, first: bool = False
) -> tuple[Problem, Float64[np.ndarray, "R P"], Float64[np.ndarray, " R"], bool]:
    """The problem with one of its metrics, its configurations, their metric with larger better,
    and whether they are one tuned optimum, which random configurations then follow."""
    problem = study.problem
    column = problem.metrics.index(problem.objectives[0])
    if not first and len(problem.metrics) > 1 and rng.random() < 0.3:
        usable = np.isfinite(study.metrics_RM).mean(0) > 0.5
        column = int(rng.choice(np.flatnonzero(usable))) if usable.any() else column
    metric = problem.metrics[column]
    problem = dataclasses.replace(problem, metrics=(Metric(name=metric.name, goal=metric.goal),))
    if len(study) == 1:
        units_NP = rng.random((trials - 1, len(problem.parameters)))
        values_NP = to_natural(problem.parameters, units_NP)
        values_NP = np.where(problem.active(values_NP), values_NP, np.nan)
        return problem, np.concatenate([study.values_RP, values_NP]), np.zeros(trials), True
    signed_R = metric.sign * study.metrics_RM[:, column]
    signed_R = np.where(study.states_R == State.COMPLETED, signed_R, np.nan)
    if not (np.isfinite(signed_R).sum() > 1 and np.ptp(signed_R[np.isfinite(signed_R)]) > 0):
        signed_R = study.objective()
    ended_R = study.states_R != State.ACTIVE
    return problem, study.values_RP[ended_R], signed_R[ended_R], False


def _arrays(
    problem: Problem,
    values_NP: Float64[np.ndarray, "N P"],
    score_N: Float64[np.ndarray, " N"],
    optimum: bool,
    size: int,
    hidden: bool,
) -> View:
    count = len(problem.parameters)
    inactive_NP = ~np.isfinite(values_NP)
    padding = [(0, 0), (0, size - count)]
    units_NP = np.where(inactive_NP, 0.5, to_units(problem.parameters, values_NP))
    return View(
        text=description.describe(problem, size, hidden=hidden),
        units_NP=np.pad(units_NP, padding).astype(np.float32),
        values_NP=np.pad(np.where(inactive_NP, 0.0, values_NP), padding).astype(np.float32),
        inactive_NP=np.pad(inactive_NP, padding, constant_values=True),
        score_N=score_N.astype(np.float32),
        optimum=np.asarray(optimum),
    )


def _kept(
    parameters: Sequence[Parameter], parents: set[str], rng: np.random.Generator
) -> Int64[np.ndarray, " C"]:
    """The columns that are shown: all but one or two that are no parents; two at least."""
    columns = np.arange(len(parameters))
    free = [column for column in range(len(parameters)) if parameters[column].name not in parents]
    most = min(2, len(free) - 1, len(columns) - 2)
    if most < 1:
        return columns
    return np.setdiff1d(columns, rng.choice(free, rng.integers(1, most + 1), replace=False))


def _narrow(
    parameters: list[Parameter],
    parents: set[str],
    values_RP: Float64[np.ndarray, "R P"],
    columns: Int64[np.ndarray, " C"],
    rng: np.random.Generator,
) -> Bool[np.ndarray, " R"]:
    """Narrows one to three parameters in place; which trials are inside of what is left."""
    inside_R = np.ones(len(values_RP), bool)
    for column in rng.permutation(columns)[: rng.integers(1, 4)]:
        parameter = parameters[column]
        narrowed = None if parameter.name in parents else _narrowed(parameter, rng)
        if narrowed is None or narrowed.bounds is None:
            continue
        value_R, (low, high) = values_RP[:, column], narrowed.bounds
        still_R = inside_R & (np.isnan(value_R) | ((value_R >= low) & (value_R <= high)))
        if still_R.sum() >= max(LEAST_TRIALS, 0.15 * len(value_R)):
            inside_R, parameters[column] = still_R, narrowed
    return inside_R


def _narrowed(parameter: Parameter, rng: np.random.Generator) -> Parameter | None:
    """The parameter with 35 % to all of its range; None where there is no range to narrow."""
    if parameter.bounds is None or parameter.scale == Scale.REVERSE_LOG:
        return None
    # Ranges of numbers that people choose often keep the lower end.
    units = np.sort(rng.random() + np.array([0.0, rng.uniform(0.35, 1.0)]))
    units = units - max(units[1] - 1.0, 0.0) - (units[0] if rng.random() < 0.4 else 0.0)
    low, high = column_from_units(parameter, np.clip(units, 0.0, 1.0))
    if not low < high:
        return None
    return dataclasses.replace(parameter, bounds=(float(low), float(high)), default=None)


def _permute(
    parameters: list[Parameter], values_RP: Float64[np.ndarray, "R P"], rng: np.random.Generator
) -> Float64[np.ndarray, "R P"]:
    """Puts categories into a random order in place; the configurations in those terms."""
    values_RP = values_RP.copy()
    for column, parameter in enumerate(parameters):
        if parameter.type == ParameterType.CATEGORICAL:
            order = rng.permutation(len(parameter.values))
            given_R = np.isfinite(values_RP[:, column])
            old = values_RP[given_R, column].astype(np.int64)
            values_RP[given_R, column] = np.argsort(order)[old]
            shuffled = tuple(str(parameter.values[index]) for index in order)
            parameters[column] = dataclasses.replace(parameter, values=shuffled)
    return values_RP


def _normalize(
    parameters: list[Parameter], parents: set[str], values_RP: Float64[np.ndarray, "R P"]
) -> Float64[np.ndarray, "R P"]:
    """Shows numbers in place by where in their range they are; the configurations as shown."""
    values_RP = values_RP.copy()
    for column, parameter in enumerate(parameters):
        if parameter.type == ParameterType.CATEGORICAL or parameter.name in parents:
            continue
        given_R = np.isfinite(values_RP[:, column])
        values_RP[given_R, column] = column_to_units(parameter, values_RP[given_R, column])
        parameters[column] = Parameter(
            name=parameter.name,
            type=ParameterType.DOUBLE,
            scale=Scale.LINEAR,
            bounds=(0.0, 1.0),
            conditions=parameter.conditions,
        )
    return values_RP


def _rename(
    parameters: list[Parameter],
    columns: Int64[np.ndarray, " C"],
    config: ViewConfig,
    rng: np.random.Generator,
) -> None:
    """Gives parameters other names in place, unless two of them would have the same."""
    new = {parameter.name: parameter.name for parameter in parameters}
    for column in columns:
        name = parameters[column].name
        # "classifier:svc:C" and "model__C" are a C.
        bare = re.split(r"__|[:/]", name)[-1]
        if rng.random() < config.synonym:
            known = [
                n for n in synonyms().get(_plain(bare), ()) if not is_held_out(n, config.held_out)
            ]
            bare = str(rng.choice(known)) if known else name
        else:
            bare = name
        if rng.random() < config.prefix:
            bare = str(rng.choice(_tables()["prefixes"])) + bare
        new[name] = bare
    if len(set(new.values())) < len(new):
        return
    _apply(parameters, new)


def _apply(parameters: list[Parameter], new: Mapping[str, str]) -> None:
    """Renames parameters in place, in conditions too."""
    for column, parameter in enumerate(parameters):
        conditions = tuple(
            dataclasses.replace(one, parent=new[one.parent]) for one in parameter.conditions
        )
        parameters[column] = dataclasses.replace(
            parameter, name=new[parameter.name], conditions=conditions
        )


def _mislead(parameters: list[Parameter], rng: np.random.Generator) -> None:
    """Gives parameters names of any other parameters in place."""
    every = sorted({name for group in _tables()["names"] for name in group})
    chosen = rng.choice(every, len(parameters), replace=False)
    _apply(parameters, {one.name: str(new) for one, new in zip(parameters, chosen, strict=True)})


def _another_metric(rng: np.random.Generator) -> Metric:
    goal = Goal.MINIMIZE if rng.random() < 0.4 else Goal.MAXIMIZE
    return Metric(name=str(rng.choice(_tables()["metrics"])), goal=goal)


def _data_set(rng: np.random.Generator) -> str:
    """What a title says of its data, in words that mean nothing."""
    word = "".join(rng.choice(_SYLLABLES.split(), rng.integers(2, 5)))
    endings = ("", " on OpenML data set", " on OpenML task", f" on {word}", f" for {word} data")
    return str(rng.choice(endings, p=[0.4, 0.2, 0.1, 0.2, 0.1]))


@functools.cache
def _tables() -> dict[str, list]:
    return json.loads(SYNONYMS.read_text("utf-8"))


def _plain(name: str) -> str:
    """A name without case and separators."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
