"""The display of a study's tokens."""

import dataclasses

import numpy as np
import pytest
from rich.console import Console

from optformer.study import State
from optformer.terminal.tokens import tokens
from optformer.tokenization.tokenizer import StudyTokenizer
from tests.studies import CONDITIONAL, MIXED, random_study
from tests.tokenization.released import released_tokenizer


def printed(*arguments: object, **options: object) -> str:
    console = Console(width=140, force_terminal=False)
    with console.capture() as capture:
        console.print(tokens(*arguments, **options))
    return capture.get()


@pytest.mark.parametrize("tokenizer", [StudyTokenizer(), released_tokenizer()])
def test_every_value_is_shown_next_to_its_token(tokenizer: StudyTokenizer) -> None:
    study = random_study(MIXED, 5, np.random.default_rng(0))
    states_R = np.array([0, State.ACTIVE, State.INFEASIBLE, 0, 0], dtype=np.int8)
    study = dataclasses.replace(study, states_R=states_R)
    out = printed(study, tokenizer, trials=3)
    encoded = tokenizer.encode_problem(MIXED, "random_search")
    ids_RL = tokenizer.encode_trials(study, encoded).ids_T.reshape(-1, encoded.layout.length)
    # Without statuses there is no token for the pending second trial.
    numbers = [1, 2, 3] if tokenizer.options.statuses else [1, 3, 4]
    assert [f"trial {n}" in out for n in range(1, 6)] == [n in numbers for n in range(1, 6)]
    lines = {line.split()[1]: line for line in out.splitlines() if line.count(" <") > 1}
    for place, parameter in enumerate(MIXED.parameters):
        line = " ".join(lines[parameter.name].split())
        for row, number in enumerate(numbers):
            value = parameter.from_number(study.values_RP[number - 1, place])
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            word = tokenizer.vocabulary.words([int(ids_RL[row, place])])[0]
            assert f"{shown} {word}" in line
    assert "infeasib…" in lines["accuracy"]


def test_studies_without_tokens_or_trials_are_shown() -> None:
    empty = random_study(CONDITIONAL, 0, np.random.default_rng(0))
    assert "trials, 0 tokens, 4 a trial" in printed(empty)
    assert "conditional parameters have no tokens" in printed(empty, released_tokenizer())
