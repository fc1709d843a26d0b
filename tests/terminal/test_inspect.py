"""The output of `optformer inspect`."""

import json
from pathlib import Path

import jax
import pytest
from rich.console import Console, RenderableType
from rich.text import Text

from optformer.data import store
from optformer.data.importers import import_studies
from optformer.errors import SourceError, StudyError
from optformer.eval.optimizers import optimizer
from optformer.eval.runner import run
from optformer.model import checkpoint, transformer
from optformer.model.config import MICRO
from optformer.model.saved import Checkpoint, flatten
from optformer.model.transformer import Ids
from optformer.study import Study
from optformer.terminal.inspect import describe
from optformer.tokenization.tokenizer import StudyTokenizer
from optformer.training.sharding import to_numpy
from tests.data.importers import logs
from tests.data.test_store import odd, plain
from tests.eval.quadratic import task


def printed(renderable: RenderableType) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_log_and_its_shards_show_the_same_study(tmp_path: Path) -> None:
    source = logs.jsonl(tmp_path, False)
    import_studies(source, tmp_path / "shards")
    raw = printed(describe(source, study="b"))
    shards = printed(describe(str(tmp_path / "shards"), study="b"))
    assert "not imported yet" in raw
    assert "log.jsonl, line 3: study 'bad', trial 2: lr=3.0 lies outside" in " ".join(raw.split())
    for text in (raw, shards):
        for part in ("4 studies", "15 trials", "12 completed", "3 infeasible", "Secret plan of b"):
            assert part in text
        assert "random_search" in text
    assert raw[raw.index("study 'b'") :] == shards[shards.index("study 'b'") :]


def test_a_study_of_many_parameters_fits_a_terminal(tmp_path: Path) -> None:
    names = [f"parameter_number_{k}" for k in range(12)]
    study = {
        "name": "wide",
        "metrics": [{"name": "accuracy", "goal": "MAXIMIZE"}],
        "parameters": [{"name": name, "type": "DOUBLE", "bounds": [0, 1]} for name in names],
        "trials": [
            {"parameters": dict.fromkeys(names, k / 4), "metrics": {"accuracy": k}}
            for k in range(4)
        ],
    }
    (tmp_path / "log.jsonl").write_text(json.dumps(study) + "\n")
    console = Console(width=80)
    with console.capture() as capture:
        console.print(describe(str(tmp_path / "log.jsonl")))
    shown = capture.get()
    assert all(len(line) <= 80 for line in shown.splitlines())
    words = " ".join(shown.replace("│", " ").split())
    assert all(f"{name}=0.25" in words for name in names)


def test_a_checkpoint_is_described(tmp_path: Path) -> None:
    tokenizer = StudyTokenizer()
    weights = to_numpy(transformer.init(MICRO, Ids.of(tokenizer.vocabulary), jax.random.key(0)))
    checkpoint.save(
        Checkpoint(
            config=MICRO,
            tokenizer=tokenizer,
            weights=weights,
            algorithms=("tpe", "cma_es"),
            about={"step": 31},
        ),
        tmp_path / "model",
    )
    text = printed(describe(str(tmp_path / "model")))
    numbers = sum(array.size for array in flatten(weights).values())
    for part in ("a checkpoint", f"{numbers:,}", "tpe, cma_es", "31", f"width {MICRO.width}"):
        assert part in text


def test_a_training_run_shows_its_progress(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.touch()
    assert "none yet" in printed(describe(str(tmp_path)))
    rows = [{"step": s, "done": s / 40, "seconds": 2.0 * s, "loss": 6 - s / 10} for s in (10, 30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = printed(describe(str(tmp_path)))
    for part in ("a training run", "30, 75% of the run", "60 s", "5.000 -> 3.000 nats per token"):
        assert part in text


def test_results_show_their_progress(tmp_path: Path) -> None:
    factories = {name: optimizer(name) for name in ("random_search", "quasi_random")}
    run(factories, [task(trials=3)], [0, 1], tmp_path, protocol="test")
    text = printed(describe(str(tmp_path)))
    for part in ("results of an evaluation", "random_search, quasi_random", "4 of 4, 0 failed"):
        assert part in text


def test_trials_show_values_metrics_states_and_the_best(tmp_path: Path) -> None:
    store.write([odd()], tmp_path, source="test")
    text = printed(describe(str(tmp_path)))
    rows = [line for line in text.splitlines() if "completed  best" in line or "active" in line]
    assert ["True" in row for row in rows if "best" in row] == [True]
    assert "n = 2, 3" in text
    assert "on = True or n" in text
    assert "·" in text  # the inactive child


def test_long_study_shows_both_ends_and_the_best(tmp_path: Path) -> None:
    study = plain("long", 100)
    store.write([study], tmp_path, source="test")
    text = printed(describe(str(tmp_path), trials=4))
    best = int(study.objective().argmax()) + 1
    shown = [line.split()[1] for line in text.splitlines() if "completed" in line][1:]
    assert [int(number) for number in shown] == sorted({1, 2, best, 99, 100})


def test_tokenizer_shows_the_chosen_study(tmp_path: Path) -> None:
    store.write([plain("a"), plain("b")], tmp_path, source="test")

    def tokens(study: Study) -> RenderableType:
        return Text(f"tokens of {study.name}")

    assert "tokens of b" in printed(describe(str(tmp_path), study="b", tokenizer=tokens))


def test_markup_in_names_is_escaped(tmp_path: Path) -> None:
    store.write([plain("[bold]x[/]")], tmp_path, source="[/red]")
    text = printed(describe(str(tmp_path)))
    assert "[bold]x[/]" in text
    assert "[/red]" in text


def test_unknown_study_gets_a_suggestion(tmp_path: Path) -> None:
    store.write([plain("lcbench/31"), plain("rpart/3")], tmp_path, source="test")
    with pytest.raises(StudyError, match=r"no study 'lcbench/30'.*lcbench/31"):
        describe(str(tmp_path), study="lcbench/30")
    with pytest.raises(SourceError, match="does not exist"):
        describe(str(tmp_path / "gone"))


def test_a_log_without_a_readable_study_gives_the_reason(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("{}\n")
    with pytest.raises(StudyError, match=r"no study could be read\. Skipped: .*line 1"):
        describe(str(tmp_path / "log.jsonl"))
