"""Training, top to bottom. A run is a folder:

    config.toml     the resolved configuration
    metrics.jsonl   one line for each report
    state/          weights, optimizer and step, from which a run resumes (`states`)
    checkpoint/     the latest weights, for `optformer.load`
    best/           the weights with the lowest validation loss so far
    programs/       the cache of compiled programs, for a fast start of a resumed run

and optionally `events/` for TensorBoard and `profile/`. Started again with the same folder, a run
resumes from its last saved state. If several processes train together, each runs this code, and the
first one writes the files.
"""

import contextlib
import dataclasses
import itertools
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optformer.data.mixture import GeneratedSource
from optformer.errors import ConfigError, OptFormerError, StudyError, make_folder
from optformer.files import atomic_write, locked
from optformer.model import checkpoint
from optformer.model.config import Numbers, Temperature, most_parameters
from optformer.model.programs import cached_programs
from optformer.model.saved import Checkpoint
from optformer.model.transformer import Ids
from optformer.settings import flat_tree
from optformer.study import Study
from optformer.tokenization.tokenizer import StudyTokenizer
from optformer.training import running, sharding
from optformer.training.batches import Batch, Batches, Source, StudySource, is_held_out
from optformer.training.config import (
    RunConfig,
    TrainConfig,
    can_ask_experts,
    load_config,
    save_config,
)
from optformer.training.events import Events
from optformer.training.feed import feed
from optformer.training.reports import Clock, Log, Report, Totals
from optformer.training.states import States, writing
from optformer.training.step import Measured, in_half, learning_rate, start, step_of
from optformer.training.validation import make_evaluate, temperature_of, validation_batches

MAY_CHANGE = (
    "train.steps",
    "train.seconds",
    "train.evaluate_every",
    "train.checkpoint_every",
    "train.checkpoint_seconds",
    "train.rematerialize",
    "train.workers",
    "train.devices",
    "train.tensor_parallel",
    "train.distributed",
    "train.tensorboard",
)
"""Settings that may change when a run resumes."""


class TrainingError(OptFormerError):
    """The loss stopped being a number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished run: the folder of its model, its reports, its size, and skipped studies."""

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
    say: Callable[[str], None] = lambda text: None,
    saved: Callable[[str, Checkpoint], None] = lambda name, model: None,
    profile: int = 0,
) -> TrainResult:
    """Trains a model, or resumes the run in `folder`.

    The first Ctrl-C or SIGTERM saves the state before it ends the run.

    Args:
      studies: training studies, of which a share, chosen by name, is held out for validation.
        Studies that do not fit the model are left out and counted.
      generated: synthetic studies that replace `config.data.generate`.
      report: called about every `report_seconds`, and after each evaluation.
      say: called with a line of text when the run resumes or stops.
      saved: called with the name, `checkpoint` or `best`, and each model saved under it.
      profile: the number of steps to trace.

    Raises:
      ConfigError: the folder has another run, there is nothing to train on, or there are fewer
        devices than the settings require.
      CheckpointError: `config.init` cannot be loaded, no saved state can be read, or one cannot be
        written.
      TrainingError: the loss became NaN or infinite; the batch is kept in the folder.
    """
    settings = config.train
    if settings.distributed:
        sharding.join()
    if not sharding.is_first():
        report, say = (lambda report: None), (lambda text: None)
    config, init = with_shape_of_init(config)
    tokenizer = init.tokenizer if init else StudyTokenizer(config.tokenizer)
    mesh = sharding.make_mesh(settings, config.model)
    usable, skipped = sort_out(studies, tokenizer, config)
    kept, held = split(usable, settings.validation)
    batches = Batches(
        sources_of(kept, config, generated, skipped),
        tokenizer,
        config.batch,
        settings.seed,
        ask_experts=config.model.experts,
    )
    validation = validation_batches(held, tokenizer, config)
    around = _take(folder, config) if sharding.is_first() else contextlib.ExitStack()
    # Vizier's service switches JAX to 64 bits for the whole process that starts one.
    around.enter_context(jax.enable_x64(False))
    sharding.wait_for_all("claimed")

    ids = Ids.of(tokenizer.vocabulary)
    step_function = step_of(config, ids, mesh)
    evaluate = make_evaluate(
        config.model, config.loss, ids, mesh=mesh, half=in_half(settings.compute)
    )
    state = sharding.place(start(config, ids, init), mesh)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state["weights"]))
    reports: list[Report] = []
    algorithms = algorithms_of(kept, config, init)
    temperature = init.value_temperature if init else Temperature()

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
        model = Checkpoint(
            config=config.model,
            tokenizer=tokenizer,
            weights=sharding.to_numpy(weights),
            algorithms=algorithms,
            tokens=max(config.batch.tokens, init.tokens if init else 0),
            value_temperature=temperature,
            about=about,
            prior=init.prior if init else None,
        )
        if sharding.is_first():
            with writing(f"the model {name!r}", folder):
                checkpoint.save(model, folder / name)
            saved(name, model)

    with around:
        around.enter_context(cached_programs(folder / "programs"))
        states = around.enter_context(States(folder))
        state = states.restore(state, say)
        first = int(state["step"])
        if first and (folder / "checkpoint").is_dir():
            temperature = checkpoint.value_temperature(folder / "checkpoint")
        write = around.enter_context(_writer(folder, first, settings))
        trace = running.Trace(folder / "profile", profile, say)
        around.callback(trace.close)
        stopped = around.enter_context(running.signals())
        seconds = float(state["seconds"])
        clock, totals = Clock(seconds), Totals()
        over = progress(settings, first, clock.seconds) >= 1.0
        if over:
            say(f"the run is over since step {first:,}; more steps or seconds make it longer")
        elif first:
            say(f"the run resumes from step {first:,}")
        every = settings.accumulate
        until = first if over else settings.steps
        waiting = around.enter_context(
            feed(batches, first * every, until * every, settings.workers)
        )
        pending: _Pending | None = None

        def finish(step: _Pending) -> None:
            """Waits for a step's numbers, which are fetched while the next step runs."""
            totals.add(jax.device_get(step.measured))
            if not np.isfinite(totals.last_loss):
                raise _no_number(folder, step.number, totals.last_loss, step.batches)

        saved_at = clock.seconds
        for step in range(first, until):
            taken = list(itertools.islice(waiting, every))
            totals.waited(clock.lap())
            trace()
            done = progress(settings, step, seconds)
            state, measured = step_function(
                state,
                taken,
                learning_rate(config.optimizer, step, done),
                settings.soft_bins_end + (settings.soft_bins - settings.soft_bins_end) * (1 - done),
            )
            if pending:
                finish(pending)
            pending = _Pending(step, measured, taken)
            if step == first:  # which compiled it: the first report should not wait for another
                finish(pending)
                pending = None
            totals.worked(clock.lap())
            seconds, stops = sharding.agree(clock.seconds, bool(stopped()))
            done = progress(settings, step + 1, seconds)
            last = done >= 1.0
            late = 0 < settings.checkpoint_seconds <= seconds - saved_at
            # A run that goes by the clock has something to show from the first step on.
            saves = last or stops or late or (step + 1) % settings.checkpoint_every == 0
            saves |= step == first and settings.checkpoint_seconds > 0
            evaluates = last or late or (step + 1) % settings.evaluate_every == 0
            evaluates = evaluates and bool(validation)
            reports_now = evaluates or last or totals.seconds >= report_seconds
            if pending and (saves or reports_now):
                finish(pending)
                pending = None
            if reports_now:
                weights = state["average"] if config.optimizer.ema else state["weights"]
                found = evaluate(weights, validation)[0] if evaluates else None
                reports.append(totals.report(step + 1, done, seconds, found))
                write(reports[-1])
                report(reports[-1])
                totals = Totals()
                if found is not None:
                    temperature = temperature_of(found, temperature)
                if found is not None and found["loss"] < float(state["best"]):
                    state["best"] = jnp.full_like(state["best"], found["loss"])
                    save_model("best")
                clock.lap()
            if saves:
                state["seconds"] = jnp.full_like(state["seconds"], seconds)
                states.save(step + 1, state)
                save_model("checkpoint")
                saved_at = seconds
            if stops and not last:
                say(f"the run stopped after step {step + 1:,}; the same command resumes it")
                states.close()
                running.stop(stopped() or signal.SIGTERM)
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


def with_shape_of_init(config: RunConfig) -> tuple[RunConfig, Checkpoint | None]:
    """The run with the shape and tokenizer of the checkpoint that it starts from, and that one.

    Raises:
      ConfigError: it has experts, and the settings say no.
      CheckpointError: it cannot be loaded.
    """
    if not config.init:
        return config, None
    init = checkpoint.load(Path(config.init))
    if init.config.experts and not config.model.experts:
        raise ConfigError(
            f"model.experts=false, but {config.init} has experts, and its shape is kept. Leave "
            "the setting out."
        )
    options = init.tokenizer.options
    model = dataclasses.replace(
        init.config,
        experts=init.config.experts or (config.model.experts and can_ask_experts(options)),
        number_embedding=_widened(init.config.number_embedding, config.model.number_embedding),
        number_output=_widened(init.config.number_output, config.model.number_output),
    )
    return dataclasses.replace(config, model=model, tokenizer=options), init


class _Pending(NamedTuple):
    """A step that was started, whose numbers are not here yet."""

    number: int
    measured: Measured
    batches: Sequence[Batch]


@contextlib.contextmanager
def _writer(folder: Path, first: int, settings: TrainConfig) -> Iterator[Callable[[Report], None]]:
    """Writes reports to where the settings say."""
    if not sharding.is_first():
        yield lambda report: None
        return
    with writing("reports", folder):
        log = Log(folder / "metrics.jsonl", first)
    events = Events(folder / "events") if settings.tensorboard else None

    def write(report: Report) -> None:
        with writing("a report", folder):
            log.write(report)
            if events:
                events.write(report)

    try:
        yield write
    finally:
        if events:
            events.close()


def _no_number(folder: Path, step: int, loss: float, batches: Sequence[Batch]) -> TrainingError:
    """Saves the batches, and raises an error with a way out."""
    path = folder / "bad_batch.npz"
    if sharding.is_first():
        many = len(batches) > 1
        np.savez(
            path,
            **{
                f"{name}_{number}" if many else name: array
                for number, batch in enumerate(batches)
                for name, array in batch._asdict().items()
            },
        )
    return TrainingError(
        f"the loss became {loss} at step {step}. The batch is kept in {path}. Go on from the last "
        "saved state with a lower optimizer.learning_rate."
    )


def sources_of(
    kept: Sequence[Study],
    config: RunConfig,
    generated: Source | None,
    skipped: Mapping[str, int],
) -> list[tuple[Source, float]]:
    """Where studies come from, each source with its share of the batches.

    Raises:
      ConfigError: nowhere; says why studies were left out.
    """
    sources: list[tuple[Source, float]] = []
    if kept and config.data.shards_weight > 0:
        sources.append((StudySource(kept), config.data.shards_weight))
    if config.data.generated_weight > 0:
        made = generated or GeneratedSource(
            config.data.generate, config.batch.rows, config.batch.tokens
        )
        sources.append((made, config.data.generated_weight))
    if not sources:
        why = "; ".join(f"{reason} ({count} studies)" for reason, count in skipped.items())
        raise ConfigError(
            "there is nothing to train on. Name shards of studies, or set data.generated_weight."
            + (f" Left out: {why}." if why else "")
        )
    return sources


def _take(folder: Path, config: RunConfig) -> contextlib.ExitStack:
    """Claims the folder for this process, until the returned stack is closed.

    Raises:
      ConfigError: another process trains in it, or it holds a run of another configuration.
    """
    make_folder(folder)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except BlockingIOError as error:
            raise ConfigError(
                f"another process trains in {folder}. Wait for its end, or name another folder."
            ) from error
        claim(folder, config)
        return stack.pop_all()


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
    with writing("the configuration", folder):
        with atomic_write(path) as new:
            save_config(config, new)
        # Of models that were being written when a run was killed.
        for leftover in itertools.chain(folder.glob(".checkpoint-*"), folder.glob(".best-*")):
            shutil.rmtree(leftover)


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


def _widened(had: Numbers, asked: Numbers) -> Numbers:
    return "both" if (had, asked) == ("value", "both") else had


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
    """Studies to train on, and studies to validate on (`batches.is_held_out`)."""
    held = [study for study in studies if is_held_out(study, share)]
    return [study for study in studies if not is_held_out(study, share)], held


def progress(settings: TrainConfig, step: int, seconds: float) -> float:
    """The share of the run that is over, by steps or by time, whichever is further."""
    by_time = seconds / settings.seconds if settings.seconds else 0.0
    return min(1.0, max(step / settings.steps, by_time))
