"""Training, top to bottom. A run is a folder:

    config.toml     the resolved configuration
    metrics.jsonl   one line a report
    state/          weights, optimizer and step (Orbax), from which a run goes on after any end
    checkpoint/     the latest weights, for `optformer.load`
    best/           the weights with the lowest validation loss so far

Started again on the same folder, a run continues where its last state was saved.
"""

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jaxtyping import Array, Float

from optformer import checkpoint
from optformer.checkpoint import Checkpoint
from optformer.config import OptimizerConfig, RunConfig, TrainConfig, load_config, save_config
from optformer.data import augment
from optformer.data.batches import Batch, Batches, Source, StudySource, is_held, pack
from optformer.data.mixture import GeneratedSource
from optformer.errors import ConfigError, OptFormerError, StudyError, make_folder
from optformer.model import loss, transformer
from optformer.model.config import LossConfig, ModelConfig, most_parameters
from optformer.model.reports import Clock, Log, Report, Totals
from optformer.model.transformer import Ids, Weights
from optformer.settings import flat_tree
from optformer.study import Study
from optformer.tokenization.tokenizer import StudyTokenizer

State = dict
"""weights, average (of the weights), optimizer, step, best (validation loss), seconds."""

MOST_VALIDATION_BATCHES = 16

MAY_CHANGE = ("train.steps", "train.seconds", "train.evaluate_every", "train.checkpoint_every")
"""Settings that a run may go on with other values of."""


class TrainingError(OptFormerError):
    """The loss stopped being a number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished run: where its model is, its reports, its size, and what it could not use."""

    checkpoint: Path
    reports: tuple[Report, ...]
    parameters: int
    skipped: Mapping[str, int]  # reason -> studies


def train(
    config: RunConfig,
    folder: Path,
    studies: Sequence[Study] = (),
    *,
    generated: Source | None = None,
    report: Callable[[Report], None] = lambda report: None,
    report_seconds: float = 1.0,
) -> TrainResult:
    """Trains a model, or goes on with the run in `folder`.

    Args:
      studies: to train on; a share of them, chosen by name, is kept for validation. Those that
        such a model cannot learn from are left out and counted.
      generated: studies made beforehand, in place of `config.data.generate`.
      report: called about every `report_seconds`, and after each evaluation.

    Raises:
      ConfigError: the folder holds another run, or there is nothing to train on.
      CheckpointError: `config.init` cannot be loaded.
      TrainingError: the loss became NaN or infinite; the batch is kept in the folder.
    """
    settings = config.train
    init = checkpoint.load(Path(config.init)) if config.init else None
    if init is not None:
        options = init.tokenizer.options
        config = dataclasses.replace(config, model=init.config, tokenizer=options)
    tokenizer = init.tokenizer if init else StudyTokenizer(config.tokenizer)
    usable, skipped = sort_out(studies, tokenizer, config)
    kept, held = split(usable, settings.validation)
    sources: list[tuple[Source, float]] = []
    if kept and config.data.shards_weight > 0:
        sources.append((StudySource(kept), config.data.shards_weight))
    if config.data.generated_weight > 0:
        made = generated or GeneratedSource(config.data.generate)
        sources.append((made, config.data.generated_weight))
    if not sources:
        why = "; ".join(f"{reason} ({count} studies)" for reason, count in skipped.items())
        raise ConfigError(
            "there is nothing to train on. Name shards of studies, or set data.generated_weight."
            + (f" Left out: {why}." if why else "")
        )
    batches = Batches(sources, tokenizer, config.batch, settings.seed)
    validation = validation_batches(held, tokenizer, config)
    claim(folder, config)

    ids = Ids.of(tokenizer.vocabulary)
    step_function = make_step(config.model, config.loss, config.optimizer, ids, settings.seed)
    evaluate = make_evaluate(config.model, config.loss, ids)
    state = start(config, ids, init)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state["weights"]))
    reports: list[Report] = []
    algorithms = algorithms_of(kept, config, init)

    def save_model(name: str) -> None:
        weights = state["average"] if config.optimizer.ema else state["weights"]
        about = {
            "step": int(state["step"]),
            "studies": len(kept),
            "skipped": dict(skipped),
            "generated_weight": config.data.generated_weight,
            "parameters": parameters,
            "seconds": round(float(state["seconds"])),
        }
        if reports:
            about["last_report"] = dataclasses.asdict(reports[-1])
        saved = Checkpoint(
            config=config.model,
            tokenizer=tokenizer,
            weights=to_numpy(weights),
            algorithms=algorithms,
            tokens=config.batch.tokens,
            about=about,
        )
        checkpoint.save(saved, folder / name)

    with ocp.CheckpointManager(
        (folder / "state").absolute(), options=ocp.CheckpointManagerOptions(max_to_keep=2)
    ) as manager:
        if manager.latest_step() is not None:
            state = manager.restore(
                manager.latest_step(), args=ocp.args.StandardRestore(_abstract(state))
            )
        first = int(state["step"])
        log = Log(folder / "metrics.jsonl", first)
        clock = Clock(float(state["seconds"]))
        totals = Totals()
        over = progress(settings, first, clock.seconds) >= 1.0
        for step, batch in batches.prefetch(first, first if over else settings.steps):
            totals.waited(clock.lap())
            done = progress(settings, step, clock.seconds)
            state, measured = step_function(
                state,
                batch,
                learning_rate(config.optimizer, step, done),
                settings.soft_bins_end + (settings.soft_bins - settings.soft_bins_end) * (1 - done),
            )
            totals.add(jax.device_get(measured))
            totals.worked(clock.lap())
            if not np.isfinite(totals.last_loss):
                np.savez(folder / "bad_batch.npz", **batch._asdict())
                raise TrainingError(
                    f"the loss became {totals.last_loss} at step {step}. The batch is kept in "
                    f"{folder / 'bad_batch.npz'}. Go on from the last saved state with a lower "
                    "train.learning_rate."
                )
            done = progress(settings, step + 1, clock.seconds)
            last = done >= 1.0
            evaluates = bool(validation) and (last or (step + 1) % settings.evaluate_every == 0)
            if evaluates or last or totals.seconds >= report_seconds:
                weights = state["average"] if config.optimizer.ema else state["weights"]
                found = evaluate(weights, validation) if evaluates else None
                reports.append(totals.report(step + 1, done, clock.seconds, found))
                log.write(reports[-1])
                report(reports[-1])
                totals = Totals()
                if found is not None and found["loss"] < float(state["best"]):
                    state["best"] = jnp.float32(found["loss"])
                    save_model("best")
                clock.lap()
            if last or (step + 1) % settings.checkpoint_every == 0:
                state["seconds"] = jnp.float32(clock.seconds)
                manager.save(step + 1, args=ocp.args.StandardSave(state))
                save_model("checkpoint")
            if last:
                break
    if not (folder / "checkpoint").is_dir():
        save_model("checkpoint")
    return TrainResult(
        checkpoint=folder / "checkpoint",
        reports=tuple(reports),
        parameters=parameters,
        skipped=skipped,
    )


def claim(folder: Path, config: RunConfig) -> None:
    """Makes the run's folder, or checks that it holds a run of this configuration.

    How long a run goes on, and how often it reports, can change.

    Raises:
      ConfigError: names the settings that differ.
    """
    path = folder / "config.toml"
    if path.is_file():
        there, here = (flat_tree(each) for each in (load_config(path), config))
        other = [key for key in here if there.get(key) != here[key] and key not in MAY_CHANGE]
        if other:
            key = other[0]
            more = f", and {len(other) - 1} more settings" if len(other) > 1 else ""
            raise ConfigError(
                f"{folder} holds a run with another configuration: {key}={there.get(key)!r}, not "
                f"{here[key]!r}{more}. Choose another folder, or start a new run there from its "
                f"weights with --init {folder / 'checkpoint'}."
            )
    make_folder(folder)
    unfinished = path.with_suffix(".part")
    save_config(config, unfinished)
    unfinished.replace(path)


def sort_out(
    studies: Sequence[Study], tokenizer: StudyTokenizer, config: RunConfig
) -> tuple[list[Study], Mapping[str, int]]:
    """The studies that such a model can learn from, and how many others by reason."""
    usable, skipped = [], Counter[str]()
    slots, batch = config.model.slots, config.batch
    # The shortest that augmentation makes it.
    bare = dataclasses.replace(tokenizer.options.metadata, names=False, values=False)
    for study in studies:
        parameters, length = len(study.problem.parameters), tokenizer.layout(study.problem).length
        if slots and parameters > most_parameters(config.model):
            skipped[f"more than {most_parameters(config.model)} parameters (model.slots)"] += 1
        elif length > batch.tokens:
            skipped[f"a trial longer than batch.tokens={batch.tokens}"] += 1
        elif not len(study):
            skipped["no trials"] += 1
        else:
            try:
                text = tokenizer.encode_problem(study.problem, study.algorithm, text=bare).ids_S
            except StudyError as error:
                skipped[str(error).split(": ", 1)[-1].rstrip(".")] += 1
                continue
            if len(text) > batch.text_tokens:
                skipped[f"a text longer than batch.text_tokens={batch.text_tokens}"] += 1
            else:
                usable.append(study)
    return usable, dict(skipped)


def algorithms_of(
    studies: Sequence[Study], config: RunConfig, init: Checkpoint | None
) -> tuple[str, ...]:
    """Whose trajectories a run learns from."""
    names = {study.algorithm for study in studies if study.algorithm}
    if config.data.generated_weight > 0:
        names |= {name for part in config.data.generate.mixture for name in part.teachers}
    if init is not None:
        names |= set(init.algorithms)
    return tuple(sorted(names))


def split(studies: Sequence[Study], share: float) -> tuple[list[Study], list[Study]]:
    """Studies to train on, and studies to validate on (`batches.is_held`)."""
    held = [study for study in studies if is_held(study, share)]
    return [study for study in studies if not is_held(study, share)], held


def validation_batches(
    studies: Sequence[Study], tokenizer: StudyTokenizer, config: RunConfig
) -> list[Batch]:
    """The held studies as batches, unchanged; each layout has its turn before any has two."""
    groups: dict[int, list] = {}
    for study in studies:
        example = augment.plain(study, tokenizer, config.batch.tokens)
        if len(example[0].ids_S) <= config.batch.text_tokens:
            groups.setdefault(example[0].layout.length, []).append(example)
    # A row takes at least one study, so that none of a batch's is left out.
    rows = config.batch.rows
    rounds = itertools.zip_longest(
        *(
            [examples[first : first + rows] for first in range(0, len(examples), rows)]
            for examples in groups.values()
        )
    )
    parts = [part for one_round in rounds for part in one_round if part is not None]
    return [pack(part, tokenizer, config.batch) for part in parts[:MOST_VALIDATION_BATCHES]]


def make_optimizer(settings: OptimizerConfig) -> optax.GradientTransformation:
    """The update direction; the step scales it by the learning rate."""
    if settings.name == "adafactor":
        direction = optax.adafactor(learning_rate=1.0, multiply_by_parameter_scale=True)
        return optax.chain(optax.clip_by_global_norm(settings.clip), direction, optax.scale(-1.0))
    return optax.chain(
        optax.clip_by_global_norm(settings.clip),
        optax.scale_by_adam(b1=0.9, b2=0.98),
        optax.add_decayed_weights(settings.weight_decay, mask=_is_matrix),
    )


def learning_rate(settings: OptimizerConfig, step: int, done: float) -> float:
    """Warm-up, then level, then down to a hundredth."""
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    left = (1.0 - done) / settings.cooldown if settings.cooldown else 1.0
    return settings.learning_rate * warm * max(0.01, min(1.0, left))


def progress(settings: TrainConfig, step: int, seconds: float) -> float:
    """The share of the run that is over, by steps or by time, whichever is further."""
    by_time = seconds / settings.seconds if settings.seconds else 0.0
    return min(1.0, max(step / settings.steps, by_time))


def start(config: RunConfig, ids: Ids, init: Checkpoint | None = None) -> State:
    """The state before the first step."""
    if init is not None:
        transformer.check_weights(init.weights, init.config, ids)
        weights = jax.tree.map(jnp.asarray, init.weights)
    else:
        weights = transformer.init(config.model, ids, jax.random.key(config.train.seed))
    return {
        "weights": weights,
        # A copy: the step reuses the memory of both.
        "average": jax.tree.map(jnp.copy, weights) if config.optimizer.ema else {},
        "optimizer": make_optimizer(config.optimizer).init(weights),
        "step": jnp.int32(0),
        "best": jnp.float32(np.inf),
        "seconds": jnp.float32(0.0),
    }


@functools.lru_cache(maxsize=4)
def make_step(
    model: ModelConfig, loss_config: LossConfig, settings: OptimizerConfig, ids: Ids, seed: int
) -> Callable[[State, Batch, float, float], tuple[State, dict[str, Array]]]:
    """The compiled step: (state, batch, learning rate, soft bins) -> (state, measured).

    Runs of one shape in one process share it, and what is compiled.
    """
    optimizer = make_optimizer(settings)

    def step(
        state: State, batch: Batch, rate: Float[Array, ""], soft_bins: Float[Array, ""]
    ) -> tuple[State, dict[str, Array]]:
        dropout = jax.random.fold_in(jax.random.key(seed + 1), state["step"])

        def objective(weights: Weights) -> tuple[Float[Array, ""], dict[str, Array]]:
            return loss.loss_and_metrics(
                weights, model, ids, batch, loss_config, soft_bins, dropout
            )

        (mean, metrics), gradient = jax.value_and_grad(objective, has_aux=True)(state["weights"])
        updates, moments = optimizer.update(gradient, state["optimizer"], state["weights"])
        weights = jax.tree.map(lambda w, u: w - rate * u, state["weights"], updates)
        average = state["average"]
        if settings.ema:
            # Short at first, so that the start is soon forgotten.
            decay = jnp.minimum(settings.ema, (1 + state["step"]) / (10 + state["step"]))
            average = jax.tree.map(lambda a, w: decay * a + (1 - decay) * w, average, weights)
        new = state | {
            "weights": weights,
            "average": average,
            "optimizer": moments,
            "step": state["step"] + 1,
        }
        return new, metrics | {"loss": mean}

    return jax.jit(step, donate_argnums=0)


@functools.lru_cache(maxsize=4)
def make_evaluate(
    model: ModelConfig, loss_config: LossConfig, ids: Ids
) -> Callable[[Weights, Sequence[Batch]], dict[str, float]]:
    """(weights, batches) -> mean nats of parameter and value tokens, and their mean `loss`."""

    @jax.jit
    def measure(weights: Weights, batch: Batch) -> dict[str, Array]:
        return loss.loss_and_metrics(weights, model, ids, batch, loss_config)[1]

    def evaluate(weights: Weights, batches: Sequence[Batch]) -> dict[str, float]:
        totals = Totals()
        for batch in batches:
            totals.add(jax.device_get(measure(weights, batch)) | {"loss": np.float32(0.0)})
        means = totals.means()
        value_weight = loss_config.value_weight
        total = (means["parameter"] + value_weight * means["value"]) / (1 + value_weight)
        return means | {"loss": total}

    return evaluate


def to_numpy(weights: Weights) -> Weights:
    """The weights as numpy arrays on the host."""
    return jax.tree.map(np.asarray, jax.device_get(weights))


def _is_matrix(weights: Weights) -> Weights:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, weights)


def _abstract(state: State) -> State:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
