"""A study from a log that does not say its search space: the values that were tried say it.

- Whole numbers are INTEGER, other numbers DOUBLE, between the least and the greatest that was
  tried; few values that were each tried often are DISCRETE. The scale is LOG if the values span
  two powers of ten and most lie near the lower end.
- Text is CATEGORICAL; true and false are its values "True" and "False".
- In a whole configuration, a value that never changes is metadata of the study, not a parameter.
- A parameter that some trials lack is conditional (`convert.conditions`).
- The metric's goal is guessed from its name, as in val_loss or accuracy, and the guess is reported.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from optformer.convert import conditions
from optformer.data.importers.cells import state_of
from optformer.data.importers.record import Options, Record, Remark, records, skipped
from optformer.errors import StudyError, did_you_mean
from optformer.study import (
    Goal,
    Metric,
    Parameter,
    ParameterType,
    Problem,
    Scale,
    State,
    Study,
    Trial,
    Value,
)

Scalar = bool | int | float | str

_MINIMIZED = re.compile(
    r"(^|[^a-z])(loss|losses|error|err|rmse|mse|mae|mape|nll|cost|time|latency|perplexity|ppl|"
    r"regret|wer|cer|fid|logloss|bpb)([^a-z]|$)|loss$|error$"
)
_MAXIMIZED = re.compile(
    r"(^|[^a-z])(acc|accuracy|auc|auroc|f1|score|precision|recall|reward|return|r2|map|miou|iou|"
    r"bleu|rouge|dice|ndcg|mrr|elo|throughput|fps|correct)([^a-z]|$)|accuracy$|score$|reward$"
)
_LOG_RATIO = 100.0
_MOST_CHOICES = 12  # of a DISCRETE
_TRIALS_PER_CHOICE = 3


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial as a tool wrote it.

    Attributes:
      parameters: values of JSON's types; None where there is none.
      state: the tool's word, "" for completed.
    """

    parameters: Mapping[str, object]
    metrics: Mapping[str, object]
    state: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Table:
    """One study as a tool wrote it.

    Attributes:
      rows: an error stands for a trial that could not be read.
      goals: the objectives, where the tool says which metrics they are; None where it does not say
        which way one improves.
      default_goal: what the tool takes if its user does not say.
      parameters: the search space, where the tool says it.
      is_config: whether the parameters are a whole configuration, in which not everything was
        searched.
    """

    name: str
    rows: Sequence[Row | StudyError]
    goals: Mapping[str, Goal | None] = field(default_factory=dict)
    default_goal: Goal | None = None
    parameters: tuple[Parameter, ...] = ()
    is_config: bool = False
    algorithm: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


def studies(
    paths: Sequence[Path],
    read: Callable[[Path], Sequence[Table]],
    options: Options,
    start: int,
) -> Iterator[Record]:
    """The studies of a tool's files, one file in memory at a time.

    Args:
      read: the studies of one of these.
      start: how many studies to pass over.
    """
    for index, path in enumerate(paths):
        tables = read(path)
        for row, table in enumerate(tables, start=1):
            start -= 1
            if start >= 0:
                continue
            done = (index + row / len(tables)) / len(paths)
            for record in _studies_of(table, options, str(path)):
                yield record, done


def _studies_of(table: Table, options: Options, where: str) -> Iterator[Study | Remark]:
    """The study of a table, after what was wrong with it or had to be assumed."""
    try:
        problem, assumed = _problem(table, options)
    except StudyError as error:
        yield skipped(f"study {table.name!r}: {error}", where=where, study=table.name)
        return
    if assumed:
        yield Remark(
            where=where,
            study=table.name,
            kind="a goal or search space that the log does not say",
            reason=f"study {table.name!r}: {assumed}",
            fate="assumed",
        )
    trials = [_trial(problem, row) for row in table.rows]
    yield from records(problem, trials, algorithm=table.algorithm, options=options, where=where)


def _problem(table: Table, options: Options) -> tuple[Problem, str]:
    """The problem, and what was assumed for it."""
    rows = [row for row in table.rows if isinstance(row, Row)]
    if not rows:
        reason = f" The first: {table.rows[0]}" if table.rows else ""
        raise StudyError(f"it has no trials that can be read.{reason}")
    metrics, assumed = _metrics(table, rows, options)
    metadata = dict(table.metadata)
    parameters = table.parameters
    if not parameters:
        parameters, facts = _parameters(table, rows)
        metadata = facts | metadata
        bounds = "the bounds are the least and greatest values that were tried"
        assumed = "; ".join(filter(None, (assumed, bounds)))
    problem = Problem(
        name=table.name,
        parameters=parameters,
        metrics=metrics,
        metadata=tuple(metadata.items()),
    )
    return problem, f"assumed: {assumed}." if assumed else ""


def _metrics(table: Table, rows: Sequence[Row], options: Options) -> tuple[tuple[Metric, ...], str]:
    measured = list(dict.fromkeys(name for row in rows for name in row.metrics))
    names = [options.metric] if options.metric else list(table.goals)
    if options.metric and options.metric not in measured:
        raise StudyError(
            f"there is no metric {options.metric!r}, but {', '.join(measured) or 'none'}."
            f"{did_you_mean(options.metric, measured)}"
        )
    if not names:
        # Losses of one run have several names; only numbers are metrics.
        names = [name for name in measured if any(_is_number(r.metrics.get(name)) for r in rows)]
        if len(names) > 1:
            raise StudyError(
                f"there are the metrics {', '.join(names)}. Say which is the objective: "
                f"--metric {names[0]}."
            )
        if not names:
            raise StudyError("there is no metric: no column of metrics holds a number.")
    metrics, assumed = [], []
    for name in names:
        goal = options.goal or table.goals.get(name)
        if goal is None:
            goal = _goal_by_name(name)
            assumed.append(f"{name} is taken as {goal}, by its name" if goal else "")
        if goal is None:
            goal = table.default_goal
            assumed.append(f"{name} is taken as {goal}, the tool's default" if goal else "")
        if goal is None:
            raise StudyError(
                f"the log does not say which way {name!r} improves. Say it: --goal MAXIMIZE or "
                "--goal MINIMIZE."
            )
        metrics.append(Metric(name=name, goal=goal))
    said = ", ".join(filter(None, assumed))
    return tuple(metrics), f"{said} (else: --goal)" if said else ""


def _goal_by_name(name: str) -> Goal | None:
    """MINIMIZE for val_loss, MAXIMIZE for test/accuracy; None for what says neither, or both."""
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
    lower, higher = _MINIMIZED.search(words), _MAXIMIZED.search(words)
    if (lower is None) == (higher is None):
        return None
    return Goal.MINIMIZE if lower else Goal.MAXIMIZE


def _parameters(table: Table, rows: Sequence[Row]) -> tuple[tuple[Parameter, ...], dict[str, str]]:
    """The parameters that the rows show, and the constants of a configuration by name."""
    names = list(dict.fromkeys(name for row in rows for name in row.parameters))
    flat: dict[str, Parameter] = {}
    facts: dict[str, str] = {}
    for name in names:
        values = [plain for row in rows if (plain := _plain(row.parameters.get(name))) is not None]
        if not values:
            continue
        different = len({label(value) for value in values})
        is_text = any(isinstance(value, str) for value in values)
        if table.is_config and different == 1 and len(values) == len(rows) > 1:
            facts[name] = label(values[0])
        elif not (table.is_config and is_text and different == len(values) > 4):
            # Otherwise every run has its own: a path or an identity, and nothing to search.
            flat[name] = parameter_of(name, values)
    if not flat:
        raise StudyError("no parameter has two different values, so nothing was searched.")
    decisive = [row for row in rows if _is_completed(row)] or list(rows)
    drawn = [_values(flat, row) for row in decisive]
    placed = conditions.with_conditions(flat, drawn)
    for name, parameter in flat.items():
        if name not in placed and parameter.type == ParameterType.CATEGORICAL:
            # pandas writes Python's None as an empty cell.
            choices = (*(str(v) for v in parameter.values if v != "None"), "None")
            flat[name] = Parameter(name=name, type=parameter.type, values=choices)
            drawn = [{name: "None", **each} for each in drawn]
    return tuple(conditions.explained(flat, drawn).values()), facts


def parameter_of(name: str, values: Sequence[Scalar]) -> Parameter:
    """The parameter whose values these are."""
    numbers = [float(v) for v in values if not isinstance(v, bool | str) and _is_number(v)]
    if len(numbers) < len(values) or not numbers:
        is_bool = all(isinstance(value, bool) for value in values)
        return Parameter(
            name=name,
            type=ParameterType.CATEGORICAL,
            values=tuple(sorted({label(value) for value in values})),
            external_type="BOOLEAN" if is_bool else "INTERNAL",
        )
    choices = sorted(set(numbers))
    low, high = choices[0], choices[-1]
    middle = sorted(numbers)[len(numbers) // 2]
    is_log = low > 0 and high / low >= _LOG_RATIO and middle - low < (high - low) / 4
    scale = Scale.LOG if is_log else None
    whole = all(number.is_integer() for number in choices)
    is_grid = (
        1 < len(choices) <= _MOST_CHOICES
        and len(numbers) >= _TRIALS_PER_CHOICE * len(choices)
        and not (whole and high - low < 2 * len(choices))
    )
    if is_grid:
        external = "INTEGER" if whole else "FLOAT"
        return Parameter(
            name=name,
            type=ParameterType.DISCRETE,
            scale=scale,
            values=tuple(choices),
            external_type=external,
        )
    kind = ParameterType.INTEGER if whole else ParameterType.DOUBLE
    return Parameter(name=name, type=kind, scale=scale, bounds=(low, high))


def label(value: Scalar) -> str:
    """A value as a category: 32 for 32.0, True, or the text itself."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else str(value)


def _trial(problem: Problem, row: Row | StudyError) -> Trial | StudyError:
    if isinstance(row, StudyError):
        return row
    try:
        state = state_of(row.state)
        known = {parameter.name: parameter for parameter in problem.parameters}
        values = _values(known, row)
        values |= {
            p.name: "None"
            for p in problem.parameters
            if p.name not in values and "None" in p.values and not p.conditions
        }
        if not conditions.is_complete(problem, values):
            raise StudyError(_unlike(problem, values, state))
        metrics = {}
        for metric in problem.metrics:
            value = row.metrics.get(metric.name)
            if isinstance(value, float | int) and not isinstance(value, bool):
                metrics[metric.name] = _float(value)
            elif value is not None:
                raise StudyError(f"metric {metric.name}={value!r} is not a number.")
        return Trial(parameters=values, metrics=metrics, state=state, notes=row.notes)
    except StudyError as error:
        return error


def _unlike(problem: Problem, values: Mapping[str, Value], state: State) -> str:
    missing = [p.name for p in problem.parameters if p.name not in values and not p.conditions]
    if missing and state != State.COMPLETED:
        return (
            f"left out: it has no {missing[0]!r}, because it is {state.name} and ended before all "
            "its parameters were drawn."
        )
    if missing:
        return f"parameter {missing[0]!r} is missing, and no parameter decides when."
    return f"left out: its parameters {sorted(values)} are not those that its values call for."


def _values(parameters: Mapping[str, Parameter], row: Row) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for name, parameter in parameters.items():
        plain = _plain(row.parameters.get(name))
        if plain is None:
            continue
        is_text = parameter.type == ParameterType.CATEGORICAL
        values[name] = label(plain) if is_text or isinstance(plain, bool) else plain
    return values


def _plain(value: object) -> Scalar | None:
    if isinstance(value, float) and math.isnan(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return json.dumps(value, sort_keys=True, default=str)


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(_float(value))


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _is_completed(row: Row) -> bool:
    try:
        return state_of(row.state) == State.COMPLETED
    except StudyError:
        return False
