"""What is said where nobody watches a bar."""

import pytest

from optformer.model.reports import Report
from optformer.progress import silent
from optformer.terminal import show


def report(step: int) -> Report:
    return Report(
        step=step,
        done=step / 100,
        seconds=6.0 * step,
        loss=5.0,
        parameter=5.0,
        value=5.0,
        validation=None,
        tokens_per_second=1234.5,
        waiting=0.0,
    )


def test_a_training_without_a_terminal_says_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 0.0
    update = show.training_progress(silent, every=60.0, clock=lambda: now)
    for step in range(1, 101):
        now += 6.0
        update(report(step))
    lines = capsys.readouterr().err.splitlines()
    # At first, each tenth, and at the end.
    assert [line.split("step ")[1].split(",")[0] for line in lines] == [
        *(str(step) for step in range(1, 100, 10)),
        "100",
    ]
    assert lines[0] == "1%: step 1, loss 5.000, 1,234 tokens/s, about 10 min left"
    assert lines[-1] == "100%: step 100, loss 5.000, 1,234 tokens/s"


@pytest.mark.parametrize(
    ("seconds", "says"), [(45.2, "45 s"), (754, "13 min"), (12_000, "3 h 20 min")]
)
def test_times_are_as_exact_as_one_wants_to_know(seconds: float, says: str) -> None:
    assert show.duration(seconds) == says


def test_notes_are_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    show.training_note("the run goes on from step 3")
    assert capsys.readouterr().err == "The run goes on from step 3.\n"
