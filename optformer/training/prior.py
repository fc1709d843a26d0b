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
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import Array, Float
from scipy.stats import spearmanr

from optformer.errors import ConfigError, OptFormerError
from optformer.files import atomic_write
from optformer.model import prior
from optformer.model.prior import LEVEL, PriorConfig, Weights
from optformer.model.saved import SavedPrior
from optformer.settings import to_tree
from optformer.study import Study
from optformer.training import views
from optformer.training.config import OptimizerConfig
from optformer.training.feed import feed
from optformer.training.invented import invented
from optformer.training.step import learning_rate, make_optimizer
from optformer.training.views import View, ViewConfig

LEAST_NOISE = 2e-3

OPTIMUM_SCALE = 4.0
"""Log-odds of being the optimum for one unit of score."""

STATE = "state.safetensors"

State = dict
"""weights, average, optimizer: arrays; step and seconds so far."""


class PriorError(OptFormerError):
    """The loss stopped being a number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriorRun:
    """A training of the prior network.

    Attributes:
      seconds: how long it trains, with the learning rate on its way down by then.
      views, trials: of a batch.
      sizes: views are padded to one of these numbers of parameters; each is compiled once. Studies
        with more parameters than the last are left out.
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
    sizes: tuple[int, ...] = (6, 10, 16, 28, 64)
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
    *,
    workers: int = 0,
    steps: int = 1 << 30,
    saved: Callable[[SavedPrior], None] = lambda prior: None,
) -> SavedPrior:
    """The network with averaged weights, after training in `folder`, where a stopped run resumes.

    Args:
      workers: how many processes make the batches; 0 makes them in a thread.
      steps: at most; otherwise the run ends by the clock.
      saved: is given the network after the first step, and whenever the state is saved.

    Raises:
      ConfigError: there is nothing to learn from.
    """
    views_of = Views(studies, run)
    state = _restore(run, folder)
    step = step_of(run)
    first = int(state["step"])
    began, kept_at = time.monotonic() - float(state["seconds"]), time.monotonic()
    losses: list[jax.Array] = []

    def network() -> SavedPrior:
        weights = jax.tree.map(np.asarray, state["average"])
        measured = correlations(weights, run.model, validation)
        for line in summarize(measured):
            say(line)
        about = {
            "steps": int(state["step"]),
            "studies": views_of.counts(),
            "rank_correlation": {group: float(np.mean(each)) for group, each in measured.items()},
            "settings": to_tree(run),
        }
        return SavedPrior(config=run.model, weights=weights, about=about)

    with feed(views_of, first, max(first, steps), workers) as batches:
        for number, batch in enumerate(batches, start=first):
            seconds = time.monotonic() - began
            if seconds >= run.seconds:
                break
            rate = learning_rate(run.optimizer, number, seconds / run.seconds)
            state, loss = step(state, jnp.float32(rate), batch)
            losses.append(loss)
            if (number + 1) % 500 == 0:
                mean = np.mean(jax.device_get(losses))
                losses.clear()
                if not np.isfinite(mean):
                    raise PriorError(
                        f"the loss became {mean} before step {number + 1}. Resume from the last "
                        "saved state with a lower optimizer.learning_rate."
                    )
                say(f"{seconds:.0f} s, step {number + 1:,}: loss {mean:.3f}")
            if number == first or time.monotonic() - kept_at > run.save_every:
                jax.block_until_ready(loss)  # type: ignore[no-untyped-call]
                _save(folder, state | {"seconds": np.float32(time.monotonic() - began)})
                saved(network())
                kept_at = time.monotonic()
    _save(folder, state | {"seconds": np.float32(run.seconds)})
    last = network()
    saved(last)
    return last


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


def step_of(run: PriorRun) -> Step:
    """The compiled step of a run."""
    return _make_step(run.model, run.optimizer, run.optimum_weight)


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


def select(studies: Sequence[Study], run: PriorRun) -> tuple[list[Study], Mapping[str, int]]:
    """The studies that a run can learn from, and how many others by reason."""
    usable: list[Study] = []
    skipped = Counter[str]()
    for study in studies:
        if len(study.problem.parameters) > run.sizes[-1]:
            skipped[f"more than {run.sizes[-1]} parameters (sizes)"] += 1
        elif not views.is_useful(study):
            skipped["too few completed trials that differ"] += 1
        else:
            usable.append(study)
    return usable, dict(skipped)


class Views:
    """The batches of a run by their number: views of studies of about as many parameters.

    Raises:
      ConfigError: there is nothing to learn from.
    """

    def __init__(self, studies: Sequence[Study], run: PriorRun) -> None:
        self._run = run
        # By search space, scored ones and optima apart.
        found: dict[str, dict[tuple[str, ...], list[Study]]] = {"scored": {}, "optima": {}}
        for study in select(studies, run)[0]:
            kind = "optima" if len(study) == 1 else "scored"
            space = tuple(parameter.name for parameter in study.problem.parameters)
            found[kind].setdefault(space, []).append(study)
        if not found["scored"]:
            raise ConfigError(
                f"{len(studies)} studies are given, and none has {views.LEAST_TRIALS // 2} "
                "completed trials that differ. The prior network learns from such studies."
            )
        self._groups = {kind: list(spaces.values()) for kind, spaces in found.items()}
        self._groups["invented"] = [[study] for study in invented(200, run.trials * 4, run.seed)]

    def counts(self) -> dict[str, int]:
        """How many studies there are of each kind."""
        return {kind: sum(map(len, spaces)) for kind, spaces in self._groups.items()}

    def __getitem__(self, number: int) -> View:
        run, rng = self._run, np.random.default_rng([self._run.seed, number])
        chance = rng.random()
        kind = "scored"
        if chance < run.invented:
            kind = "invented"
        elif chance < run.invented + run.optima and self._groups["optima"]:
            kind = "optima"
        spaces = self._groups[kind]
        share = np.sqrt([len(space) for space in spaces])
        size = self._size(spaces[rng.choice(len(spaces), p=share / share.sum())])
        near = [space for space in spaces if self._size(space) == size]
        share = np.sqrt([len(space) for space in near])
        chosen = []
        for index in rng.choice(len(near), run.views, p=share / share.sum()):
            study = near[index][rng.integers(len(near[index]))]
            chosen.append(views.view(study, run.trials, size, run.view, rng))
        return views.stack(chosen)

    def _size(self, space: Sequence[Study]) -> int:
        parameters = len(space[0].problem.parameters)
        return next(size for size in self._run.sizes if size >= parameters)


def start(run: PriorRun) -> State:
    """The state before the first step."""
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
    state = start(run)
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
