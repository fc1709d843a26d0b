"""A study's text and trials next to their tokens, as a renderable of rich.

A parameter has the same colour in the text, in the table and in the row of tokens.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Int64
from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.style import Style
from rich.table import Table
from rich.text import Text

from optformer.errors import StudyError
from optformer.study import State, Study
from optformer.tokenization.tokenizer import (
    EncodedProblem,
    EncodedTrials,
    StudyTokenizer,
    TokenizerOptions,
)
from optformer.tokenization.trajectory import METRIC_SLOTS, Role

_COLOURS = ("cyan", "magenta", "yellow", "blue", "red", "bright_cyan", "bright_magenta")
_METRIC, _SEPARATOR = Style(color="green", bold=True), Style(dim=True)


def tokens(
    study: Study, tokenizer: StudyTokenizer | None = None, trials: int = 3
) -> RenderableType:
    """The tokens of the study and its first trials, in our format by default."""
    tokenizer = tokenizer or StudyTokenizer()
    try:
        problem = tokenizer.encode_problem(study.problem, study.algorithm)
        whole = tokenizer.encode_trials(study, problem)
    except StudyError as error:
        return Panel(Text(str(error), "yellow"), title="no tokens", title_align="left")
    has_tokens_R = tokenizer.options.statuses | (study.states_R != State.ACTIVE)
    rows = np.flatnonzero(has_tokens_R)[:trials]
    length = problem.layout.length
    return Panel(
        Group(
            Text(f"text, {len(problem.ids_S):,} tokens", "dim"),
            _text(problem, tokenizer),
            Text(),
            _side_by_side(study, problem, whole, tokenizer, rows),
            *_scalings(study, whole),
            Text(f"trials, {len(whole.ids_T):,} tokens, {length} a trial", "dim"),
            _row(problem, whole, tokenizer, len(rows) * length),
        ),
        title=Text(f"tokens, {_name(tokenizer.options)} format"),
        title_align="left",
        border_style="green",
    )


def in_format(preset: str) -> Callable[[Study], RenderableType]:
    """A function that shows a study's tokens in a named format (`TokenizerOptions.NAMED`)."""
    tokenizer = StudyTokenizer(TokenizerOptions.NAMED[preset])
    return lambda study: tokens(study, tokenizer)


def _text(problem: EncodedProblem, tokenizer: StudyTokenizer) -> Text:
    """The encoder's tokens; every other one is underlined to show where tokens end."""
    text = Text()
    words = tokenizer.vocabulary.words(problem.ids_S.tolist())
    for index, (word, slot) in enumerate(zip(words, problem.slots_S, strict=True)):
        style = _style(int(slot)) if slot else Style()
        text.append(word.replace("▁", " ") or " ", style + Style(underline=index % 2 == 0))
    return text


def _side_by_side(
    study: Study,
    problem: EncodedProblem,
    whole: EncodedTrials,
    tokenizer: StudyTokenizer,
    rows: Int64[np.ndarray, " R"],
) -> Table:
    """A table with a row for each token of a trial, and each trial's value and token."""
    layout = problem.layout
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("token of", no_wrap=True, max_width=14)
    table.add_column("bins", justify="right", no_wrap=True, min_width=5)
    for row in rows:
        table.add_column(f"trial {row + 1}", justify="right", no_wrap=True, max_width=9)
        table.add_column("", no_wrap=True, min_width=5)
    ids_RL = layout.rows_of(whole.ids_T)[: len(rows)]
    parameters = [study.problem.parameters[index] for index in problem.order_P]
    for place, (role, slot) in enumerate(zip(layout.roles(), layout.slots(), strict=True)):
        style = _style(int(slot)) if slot else _SEPARATOR
        name, legal, values = "", "", [""] * len(rows)
        if role == Role.PARAMETER:
            parameter = parameters[place]
            name, legal = parameter.name, f"{tokenizer.value_bins(parameter).sum():,}"
            numbers_R = study.values_RP[rows, problem.order_P[place]]
            values = [
                "" if math.isnan(number) else _value(parameter.from_number(number))
                for number in numbers_R
            ]
        elif role == Role.VALUE:
            name, legal = study.problem.metrics[slot - 1].name, f"{tokenizer.options.bins:,}"
            values = [
                _value(number) if state == State.COMPLETED else State(state).name.lower()
                for number, state in zip(
                    study.metrics_RM[rows, slot - 1].tolist(), study.states_R[rows], strict=True
                )
            ]
        cells = [Text(name, style), Text(legal, "dim")]
        for trial, value in enumerate(values):
            [word] = tokenizer.vocabulary.words([int(ids_RL[trial, place])])
            cells += [Text(value), Text(word, style)]
        table.add_row(*cells)
    return table


def _scalings(study: Study, whole: EncodedTrials) -> list[Text]:
    """The range of each metric that the bins cover."""
    lines = []
    for metric, scaling in zip(study.problem.metrics, whole.scalings, strict=True):
        first, last = map(_value, scaling.from_units(np.array([0.0, 1.0])).tolist())
        lines.append(
            Text.assemble((metric.name, _METRIC), (f" in bins from {first} to {last}", "dim"))
        )
    return lines


def _row(
    problem: EncodedProblem, whole: EncodedTrials, tokenizer: StudyTokenizer, count: int
) -> Text:
    """The decoder's tokens in their order."""
    text = Text()
    words = tokenizer.vocabulary.words(whole.ids_T[:count].tolist())
    for index, (word, slot) in enumerate(zip(words, whole.slots_T, strict=False)):
        text.append(word, _style(int(slot)) if slot else _SEPARATOR)
        text.append(" " * ((index + 1) % problem.layout.length == 0))
    return text.append("…" * (count < len(whole.ids_T)))


def _style(slot: int) -> Style:
    if slot <= METRIC_SLOTS:
        return _METRIC
    return Style(color=_COLOURS[(slot - METRIC_SLOTS - 1) % len(_COLOURS)])


def _value(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _name(options: TokenizerOptions) -> str:
    names = [name for name, preset in TokenizerOptions.NAMED.items() if preset == options]
    return names[0] if names else "custom"
