"""Training of the prior network (`model/prior.py`) on studies whose names mean something.

A batch is views of whole studies (`training/views.py`), some tens of trials each. The loss is what
the process that the network writes would have paid for their scores: its negative log marginal
likelihood, plus the squared error of the mean. Of a tuned optimum among random configurations it
is the cross entropy of finding it by the mean.

Studies of one search space are a group, and groups are drawn by the root of their number of
studies, so that many studies of one learner do not drown the others. Invented functions of
parameters whose names mean nothing teach the network when to say nothing.

Array dimensions: B views, N trials, P parameters, K features.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import Array, Float
from scipy.stats import spearmanr

from optformer.errors import ConfigError
from optformer.files import atomic_write
from optformer.model import prior
from optformer.model.prior import LEVEL, PriorConfig, Weights
from optformer.model.saved import SavedPrior
from optformer.settings import to_tree
from optformer.study import Study
from optformer.training import views
from optformer.training.config import OptimizerConfig
from optformer.training.invented import invented
from optformer.training.step import learning_rate, make_optimizer
from optformer.training.views import View, ViewConfig

SIZES = (6, 10, 16, 28, 64)
"""Views are padded to so many parameters; each size is compiled once."""

LEAST_NOISE = 2e-3

OPTIMUM_SCALE = 4.0
"""Log-odds of being the optimum for one unit of score."""

STATE = "state.safetensors"

State = dict
"""weights, average, optimizer: arrays; step and seconds so far."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriorRun:
    """A training of the prior network.

    Attributes:
      seconds: how long it trains, with the learning rate on its way down by then.
      views, trials: of a batch.
      invented: share of the batches that are invented functions without meaningful names.
      optima: share of the batches that are tuned optima, if there are any.
      optimum_weight: of their loss.
      save_every: seconds between saved states.
    """

    model: PriorConfig = dataclasses.field(default_factory=PriorConfig)
    view: ViewConfig = dataclasses.field(default_factory=ViewConfig)
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(
            learning_rate=2e-3, warmup=100, cooldown=0.6, weight_decay=0.03, ema=0.999
        )
    )
    seconds: float = 1800.0
    views: int = 16
    trials: int = 64
    invented: float = 0.1
    optima: float = 0.1
    optimum_weight: float = 0.3
    save_every: float = 180.0
    seed: int = 0


def train(
    run: PriorRun,
    folder: Path,
    studies: Sequence[Study],
    validation: Sequence[Study] = (),
    say: Callable[[str], None] = print,
) -> SavedPrior:
    """The network with averaged weights, after training in `folder`, where a stopped run resumes.

    Raises:
      ConfigError: there is nothing to learn from.
    """
    groups = _groups(studies, run)
    state = _restore(run, folder)
    step = _make_step(run.model, run.optimizer, run.optimum_weight)
    saved = time.monotonic()
    began = saved - float(state["seconds"])
    losses: list[float] = []
    while (seconds := time.monotonic() - began) < run.seconds:
        number = int(state["step"])
        batch = _batch(groups, run, np.random.default_rng([run.seed, number]))
        rate = learning_rate(run.optimizer, number, seconds / run.seconds)
        state, loss = step(state, jnp.float32(rate), batch)
        losses.append(float(loss))
        if (number + 1) % 500 == 0:
            say(f"{seconds:.0f} s, step {number + 1:,}: loss {np.mean(losses[-500:]):.3f}")
        if time.monotonic() - saved > run.save_every:
            _save(folder, state | {"seconds": np.float32(time.monotonic() - began)})
            saved = time.monotonic()
            for line in summarize(correlations(state["average"], run.model, validation)):
                say(line)
    _save(folder, state | {"seconds": np.float32(run.seconds)})
    weights = jax.tree.map(np.asarray, state["average"])
    measured = correlations(weights, run.model, validation)
    about = {
        "steps": int(state["step"]),
        "studies": {kind: sum(map(len, spaces)) for kind, spaces in groups.items()},
        "rank_correlation": {group: float(np.mean(each)) for group, each in measured.items()},
        "settings": to_tree(run),
    }
    return SavedPrior(config=run.model, weights=weights, about=about)


def correlations(
    weights: Weights, config: PriorConfig, studies: Sequence[Study], *, hidden: bool = False
) -> dict[str, list[float]]:
    """The rank correlation of the mean with the metric in each study, by the group in its name."""
    found: dict[str, list[float]] = {}
    weights = jax.tree.map(np.asarray, weights)
    for study in studies:
        network = prior.Prior.of(study.problem, weights, config, hidden=hidden)
        mean_R, _ = network.mean_and_features(study.values_RP)
        goal_R = study.objective()
        known_R = np.isfinite(goal_R)
        rho = float(spearmanr(mean_R[known_R], goal_R[known_R])[0])
        found.setdefault(study.name.split("/")[0], []).append(rho)
    return found


def summarize(found: dict[str, list[float]]) -> list[str]:
    """One line of mean rank correlations."""
    means = {group: float(np.mean(each)) for group, each in found.items()}
    listed = ", ".join(f"{group} {mean:.2f}" for group, mean in sorted(means.items()))
    return [f"rank correlation {np.mean(list(means.values())):.3f}: {listed}"] if means else []


def loss(
    weights: Weights, config: PriorConfig, batch: View, optimum_weight: float
) -> Float[Array, ""]:
    """The mean loss of a batch of views, per trial."""
    reading = prior.read(jnp, weights, config, batch.text)
    places = batch.units_NP, batch.values_NP, batch.inactive_NP
    mean_BN, features_BNK = prior.mean_and_features(jnp, weights, reading, *places)
    square = prior.squares(jnp, places[0], places[0], places[2], places[2], reading.ordered_P)
    trials = batch.score_N.shape[-1]
    kernel = prior.matern(jnp, square, reading.log_length_P, reading.real_P)
    noise_B = jnp.exp(reading.log_noise) + LEAST_NOISE
    covariance = (
        features_BNK @ jnp.swapaxes(features_BNK, -1, -2)
        + jnp.exp(reading.log_scale)[:, None, None] * kernel
        + LEVEL
        + noise_B[:, None, None] * jnp.eye(trials)
    )
    factor = jnp.linalg.cholesky(covariance)
    error_BN = batch.score_N - mean_BN
    white = jax.scipy.linalg.solve_triangular(factor, error_BN[..., None], lower=True)[..., 0]
    nats_B = 0.5 * (white**2).sum(-1) + jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)).sum(-1)
    # A study's own level counts little: only comparisons within it do.
    centred_BN = error_BN - 0.8 * error_BN.mean(-1, keepdims=True)
    scores_B = nats_B / trials + (centred_BN**2).mean(-1)
    finding_B = -jax.nn.log_softmax(OPTIMUM_SCALE * mean_BN)[:, 0]
    return jnp.where(batch.optimum, optimum_weight * finding_B, scores_B).mean()


Step = Callable[[State, Array, View], tuple[State, Array]]


@functools.lru_cache(maxsize=4)
def _make_step(config: PriorConfig, settings: OptimizerConfig, optimum_weight: float) -> Step:
    optimizer = make_optimizer(settings)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: State, rate: Array, batch: View) -> tuple[State, Array]:
        value, gradient = jax.value_and_grad(loss)(state["weights"], config, batch, optimum_weight)
        updates, moments = optimizer.update(gradient, state["optimizer"], state["weights"])
        weights = jax.tree.map(lambda w, u: w - rate * u, state["weights"], updates)
        # Short at first, so that the start is soon forgotten.
        decay = jnp.minimum(settings.ema, (1 + state["step"]) / (10 + state["step"]))
        average = jax.tree.map(lambda a, w: decay * a + (1 - decay) * w, state["average"], weights)
        new = {"weights": weights, "average": average, "optimizer": moments}
        return state | new | {"step": state["step"] + 1}, value

    return step


def _groups(studies: Sequence[Study], run: PriorRun) -> dict[str, list[list[Study]]]:
    """Useful studies by search space, scored ones and optima apart, and invented ones."""
    found: dict[str, dict[tuple[str, ...], list[Study]]] = {"scored": {}, "optima": {}}
    for study in studies:
        if views.is_useful(study) and len(study.problem.parameters) <= SIZES[-1]:
            kind = "optima" if len(study) == 1 else "scored"
            space = tuple(parameter.name for parameter in study.problem.parameters)
            found[kind].setdefault(space, []).append(study)
    if not found["scored"]:
        raise ConfigError(
            f"{len(studies)} studies are given, and none has {views.LEAST_TRIALS // 2} completed "
            "trials that differ. The prior network learns from such studies."
        )
    groups = {kind: list(spaces.values()) for kind, spaces in found.items()}
    groups["invented"] = [[study] for study in invented(200, run.trials * 4, run.seed)]
    return groups


def _batch(groups: dict[str, list[list[Study]]], run: PriorRun, rng: np.random.Generator) -> View:
    """Views of studies of about the same number of parameters."""
    chance = rng.random()
    kind = "scored"
    if chance < run.invented:
        kind = "invented"
    elif chance < run.invented + run.optima and groups["optima"]:
        kind = "optima"
    spaces = groups[kind]
    share = np.sqrt([len(space) for space in spaces])
    first = spaces[rng.choice(len(spaces), p=share / share.sum())]
    size = _size(first[0])
    near = [space for space in spaces if _size(space[0]) == size]
    share = np.sqrt([len(space) for space in near])
    chosen = []
    for index in rng.choice(len(near), run.views, p=share / share.sum()):
        study = near[index][rng.integers(len(near[index]))]
        chosen.append(views.view(study, run.trials, size, run.view, rng))
    return views.stack(chosen)


def _size(study: Study) -> int:
    return next(size for size in SIZES if size >= len(study.problem.parameters))


def _start(run: PriorRun) -> State:
    weights = jax.tree.map(jnp.asarray, prior.init(run.model, np.random.default_rng(run.seed)))
    return {
        "weights": weights,
        "average": jax.tree.map(jnp.copy, weights),
        "optimizer": make_optimizer(run.optimizer).init(weights),
        "step": jnp.int32(0),
        "seconds": jnp.float32(0.0),
    }


def _restore(run: PriorRun, folder: Path) -> State:
    """The state that a stopped run left, or the first one."""
    state = _start(run)
    if not (folder / STATE).is_file():
        return state
    arrays = safetensors.numpy.load_file(folder / STATE)
    leaves, structure = jax.tree.flatten(state)
    names = [f"{index:04d}" for index in range(len(leaves))]
    if sorted(arrays) != names or any(
        arrays[name].shape != leaf.shape for name, leaf in zip(names, leaves, strict=True)
    ):
        raise ConfigError(
            f"{folder / STATE} is of a run with another network or optimizer. Choose another "
            "folder, or the settings with which the run began."
        )
    return jax.tree.unflatten(structure, [jnp.asarray(arrays[name]) for name in names])


def _save(folder: Path, state: State) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    with atomic_write(folder / STATE) as path:
        safetensors.numpy.save_file({f"{i:04d}": leaf for i, leaf in enumerate(leaves)}, path)
