"""Output of commands without a terminal."""

import pytest

from optformer.terminal import show
from optformer.training.reports import Report


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


def test_training_without_a_terminal_prints_a_line_at_intervals(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 0.0
    with show.bar("Training", every=60.0, clock=lambda: now) as progress:
        update = show.training_progress(progress)
        for step in range(1, 101):
            now += 6.0
            update(report(step))
    lines = capsys.readouterr().err.splitlines()
    steps = [int(line.split("step ")[1].split(",")[0]) for line in lines[:-1]]
    assert steps == [*range(10, 100, 10)]
    assert lines[-1] == "Training: 99%, saving"  # the model is saved after the last step
    assert lines[0] == "Training: 10%, step 10, loss 5.000, 1,234 tokens/s, about 9 min left"


def test_short_work_prints_only_its_result(capsys: pytest.CaptureFixture[str]) -> None:
    with show.bar("Importing", clock=lambda: 0.0) as progress:
        progress(1, 1, "all of it")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "says"), [(45.2, "45 s"), (754, "13 min"), (12_000, "3 h 20 min")]
)
def test_times_are_rounded_to_useful_precision(seconds: float, says: str) -> None:
    assert show.duration(seconds) == says


def test_notes_are_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    show.training_note("the run goes on from step 3")
    assert capsys.readouterr().err == "The run goes on from step 3.\n"
