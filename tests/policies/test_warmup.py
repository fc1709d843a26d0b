"""After warm-up, no suggestion waits for a compiler."""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from optformer.model import transformer
from optformer.model.config import ModelConfig
from optformer.model.saved import Checkpoint
from optformer.model.transformer import Ids
from optformer.policies.config import PolicyConfig
from optformer.policies.model import OptFormer
from optformer.study import Metric, Problem, State, Study
from optformer.tokenization.tokenizer import StudyTokenizer
from optformer.training.sharding import to_numpy
from tests.studies import CONDITIONAL, MIXED, plane, random_study

# With 9 tokens a trial, 28 trials fill the first room; the second is all that it learned to read.
EIGHT, TOKENS = plane(8), 512
TWO = dataclasses.replace(MIXED, name="two", metrics=(Metric(name="y"), Metric(name="z")))
FEW = PolicyConfig(candidates=8, uniform=20, local=8, sifted=4)


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    """What JAX compiles."""
    names: list[str] = []

    def note(event: str, seconds: float, **about: object) -> None:
        if event.endswith("backend_compile_duration"):
            names.append(str(about.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.fixture(scope="module")
def model() -> OptFormer:
    """One of its own, since what is compiled belongs to a model."""
    tokenizer = StudyTokenizer()
    config = ModelConfig(
        width=16, heads=1, head_size=16, feed_forward=16, encoder_layers=1, decoder_layers=1
    )
    weights = transformer.init(config, Ids.of(tokenizer.vocabulary), jax.random.key(0))
    saved = Checkpoint(config=config, tokenizer=tokenizer, weights=to_numpy(weights), tokens=TOKENS)
    return OptFormer(saved)


def test_warm_up_compiles_and_a_second_time_does_not(model: OptFormer, compiled: list[str]) -> None:
    """So the tests below, of the same model, would notice what it leaves out."""
    model.warmup([8], policy=FEW)
    assert {"jit(_read)", "jit(_extend)", "jit(_rollout)", "jit(mix)"} <= set(compiled)
    compiled.clear()
    model.warmup([8, EIGHT], policy=FEW)
    assert compiled == []


@pytest.mark.parametrize(
    "problem, counts",
    [
        pytest.param(EIGHT, range(32), id="growing into the second room"),
        pytest.param(EIGHT, (2, 3, 20, 30), id="trials that others made"),
        pytest.param(EIGHT, (60, 61, 62), id="longer than what the model learned to read"),
        pytest.param(plane(1), range(7), id="fewer parameters"),
        pytest.param(MIXED, range(7), id="other kinds"),
        pytest.param(CONDITIONAL, range(7), id="conditions"),
        pytest.param(TWO, range(7), id="two objectives"),
    ],
)
def test_then_a_study_compiles_nothing(
    model: OptFormer, compiled: list[str], problem: Problem, counts: range | tuple[int, ...]
) -> None:
    study = of_all_states(random_study(problem, max(counts), np.random.default_rng(0)))
    for count in counts:
        model.propose(study.rows(slice(0, count)), 1 + (count == 3), policy=FEW, seed=count)
    assert compiled == []


def of_all_states(study: Study) -> Study:
    """The study with some failed and some pending trials."""
    states_R = study.states_R.copy()
    states_R[3::9], states_R[5::9] = State.INFEASIBLE, State.ACTIVE
    return dataclasses.replace(study, states_R=states_R)
