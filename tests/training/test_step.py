"""One step: batches add up, and neither precision nor memory changes what is learned."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optformer.model import predictive, transformer
from optformer.model.transformer import Ids, Weights
from optformer.tokenization.tokenizer import StudyTokenizer
from optformer.tokenization.trajectory import Role
from optformer.training import loss, sharding
from optformer.training.batches import Batch, Batches, StudySource
from optformer.training.config import load_config
from optformer.training.step import Measured, State, make_step, start
from tests.training.tiny import PLANES, SMALL

CONFIG = load_config(None, SMALL)
TOKENIZER = StudyTokenizer(CONFIG.tokenizer)
IDS = Ids.of(TOKENIZER.vocabulary)
BATCHES = Batches([(StudySource(PLANES), 1.0)], TOKENIZER, CONFIG.batch, seed=0, ask_experts=True)


def after_one_step(batches: Sequence[Batch], **options: object) -> tuple[State, Measured]:
    mesh = sharding.make_mesh(CONFIG.train, CONFIG.model)
    step = make_step(CONFIG.model, CONFIG.loss, CONFIG.optimizer, IDS, seed=0, mesh=mesh, **options)
    state, measured = step(sharding.place(start(CONFIG, IDS), mesh), batches, 1e-3, 2.0)
    return jax.device_get(state), jax.device_get(measured)


@pytest.fixture(scope="module")
def plain() -> tuple[State, Measured]:
    return after_one_step([BATCHES[0]])


def moments(state: State) -> np.ndarray:
    """Adam's, which are the gradient's: the weights' first step only has its sign."""
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(state["optimizer"])])


def test_a_step_of_two_batches_is_one_of_all_their_rows() -> None:
    one, other = BATCHES[0], BATCHES[1]
    # Unlike weights: a mean of means would not do.
    other = other._replace(
        weights_BT=other.weights_BT * (np.arange(len(other.text_BS)) < 2)[:, None]
    )
    width = max(one.text_BS.shape[1], other.text_BS.shape[1])

    def rows(batch: Batch) -> dict[str, np.ndarray]:
        text = [(0, 0), (0, width - batch.text_BS.shape[1])]
        return {
            name: np.pad(array, text) if name.startswith("text") else array
            for name, array in batch._asdict().items()
        }

    first, second = rows(one), rows(other)
    together = Batch(
        **{
            name: array if array.ndim == 1 else np.concatenate([array, second[name]])
            for name, array in first.items()
        }
    )
    want, want_measured = after_one_step([together])
    got, measured = after_one_step([one, other], accumulate=2)
    np.testing.assert_allclose(moments(got), moments(want), rtol=1e-4, atol=1e-7)
    assert measured["loss"] == pytest.approx(want_measured["loss"], rel=1e-5)
    assert got["step"] == want["step"] == 1


def test_computing_layers_again_changes_nothing(plain: tuple[State, Measured]) -> None:
    got, measured = after_one_step([BATCHES[0]], rematerialize=True)
    np.testing.assert_allclose(moments(got), moments(plain[0]), rtol=1e-4, atol=1e-7)
    assert measured["loss"] == pytest.approx(plain[1]["loss"], rel=1e-6)


def test_half_precision_has_nearly_the_same_gradient_and_whole_weights(
    plain: tuple[State, Measured],
) -> None:
    got, measured = after_one_step([BATCHES[0]], half=True)
    assert measured["loss"] == pytest.approx(plain[1]["loss"], rel=0.01)
    a, b = moments(got), moments(plain[0])
    assert a @ b / np.sqrt((a @ a) * (b @ b)) > 0.995
    assert {leaf.dtype for leaf in jax.tree.leaves(got["weights"])} == {np.dtype(np.float32)}


def test_measures_of_bins_are_those_of_the_probabilities() -> None:
    """Of the transformer's alone, and of a mixture with two experts at the first metric."""
    rng = np.random.default_rng(0)
    logits_BTO = 3 * rng.normal(size=(2, 5, IDS.outputs)).astype(np.float32)
    bin_BT = rng.integers(IDS.bins, size=(2, 5))
    slots_BT = rng.integers(1, 3, size=(2, 5))
    shares_BTQE = rng.dirichlet(np.ones(IDS.bins), size=(2, 5, 2)).swapaxes(2, 3)
    at_BTE = np.take_along_axis(shares_BTQE, bin_BT[..., None, None], axis=2)[:, :, 0]
    below_BTE = (shares_BTQE * (np.arange(IDS.bins)[:, None] < bin_BT[..., None, None])).sum(2)
    # The places of first metrics, in order; none beyond them.
    places_BR = np.sort(np.where(slots_BT == 1, np.arange(5), 9), axis=1)
    places_BR = np.where(places_BR == 9, -1, places_BR).astype(np.int32)
    row_B1 = np.arange(2)[:, None]
    batch = BATCHES[0]._replace(
        targets_BT=bin_BT + IDS.first_output + IDS.first_bin,
        target_slots_BT=slots_BT,
        roles_BT=np.full((2, 5), Role.VALUE),
        value_places_BR=places_BR,
        expert_logs_BRE=np.log(at_BTE)[row_B1, places_BR].astype(np.float32),
        expert_below_BRE=(below_BTE + at_BTE / 2)[row_B1, places_BR].astype(np.float32),
    )
    weights_BTG = np.log(rng.dirichlet(np.ones(3), size=(2, 5))).astype(np.float32)
    bins_BTQ = logits_BTO[..., IDS.first_bin : IDS.first_bin + IDS.bins]
    own_BTQ = np.exp(bins_BTQ) / np.exp(bins_BTQ).sum(-1, keepdims=True)
    parts_BTQG = np.concatenate([own_BTQ[..., None], shares_BTQE], axis=-1)
    mixed_BTQ = (parts_BTQG * np.exp(weights_BTG)[:, :, None]).sum(-1)
    truth_N = (bin_BT.ravel() + 0.5) / IDS.bins
    for weights, shares_BTQ in (
        (np.zeros((2, 0, 1), np.float32), own_BTQ),
        (weights_BTG[row_B1, places_BR], np.where(slots_BT[..., None] == 1, mixed_BTQ, own_BTQ)),
    ):
        outputs = loss.Outputs(jnp.asarray(logits_BTO), jnp.asarray(weights))
        density_BT, pit_BT = loss.bin_measures(outputs, batch, IDS)
        shares_NQ = shares_BTQ.reshape(10, -1)
        want_N = predictive.log_density(shares_NQ, truth_N)
        np.testing.assert_allclose(np.ravel(density_BT), want_N, atol=1e-4)
        want_N = predictive.pit(shares_NQ, truth_N)
        np.testing.assert_allclose(np.ravel(pit_BT), want_N, atol=1e-4)


def test_no_gradient_adds_up_rows_in_half_precision() -> None:
    """Accelerators do that one after the other: it made a step thirty times slower."""
    weights = start(CONFIG, IDS)["weights"]

    def objective(weights: Weights) -> jax.Array:
        half = transformer.half(weights)
        return loss.loss_and_metrics(half, CONFIG.model, IDS, BATCHES[0], CONFIG.loss)[0]

    scatters = list(equations(jax.make_jaxpr(jax.grad(objective))(weights).jaxpr, "scatter-add"))
    assert scatters
    assert not [each for each in scatters if each.outvars[0].aval.dtype == jnp.bfloat16]


def equations(jaxpr: object, name: str) -> Iterator:
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            yield equation
        for value in equation.params.values():
            for inside in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inside, "jaxpr") or hasattr(inside, "eqns"):
                    yield from equations(getattr(inside, "jaxpr", inside), name)
