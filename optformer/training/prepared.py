"""A folder with everything that pretraining on another machine needs, small enough to travel.

    manifest.json    the task, what the folder holds, and the first losses as this machine has them
    config.toml      the configuration of the run, resolved
    studies/         the usable studies of all given folders, as shards
    validation/      studies for measuring only, if there are any
    init/            the checkpoint to start from, if there is one
    first.npz        the batches of the first steps, on which the other machine is checked

There are two tasks. `trajectories` trains the transformer, as `optformer train` does, and `prior`
the prior network, as `optformer train-prior` does. Studies that are cheap to generate are made
while training.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

from optformer.data import store
from optformer.errors import ConfigError, SourceError, make_folder
from optformer.files import atomic_write
from optformer.model import checkpoint
from optformer.model.transformer import Ids
from optformer.settings import read_config, to_toml
from optformer.study import Study
from optformer.tokenization.tokenizer import StudyTokenizer
from optformer.training import prior, sharding
from optformer.training.batches import Batches
from optformer.training.config import CONFIG, Compute, RunConfig, load_config, run_config
from optformer.training.prior import PriorRun
from optformer.training.step import start, step_of
from optformer.training.train import sort_out, sources_of, split, with_shape_of_init

MANIFEST, FIRST = "manifest.json", "first.npz"
STUDIES, VALIDATION, INIT = "studies", "validation", "init"

CHECKED_STEPS = 2

MEBIBYTE = 1 << 20

TaskName = Literal["trajectories", "prior"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trajectories:
    """The transformer, on trajectories."""

    config: RunConfig

    def __post_init__(self) -> None:
        if self.config.batch.sizes > 1:
            raise ConfigError(
                f"batch.sizes={self.config.batch.sizes}, but each shape takes a minute to compile "
                "on an accelerator. Set batch.sizes=1."
            )

    def select(self, studies: Sequence[Study]) -> tuple[Sequence[Study], Mapping[str, int]]:
        """The studies that it can learn from, and how many others by reason."""
        return sort_out(studies, StudyTokenizer(self.config.tokenizer), self.config)

    def batches(self, studies: Sequence[Study]) -> Batches:
        """Its batches on these studies."""
        run = self.config
        kept, _ = split(studies, run.train.validation)
        return Batches(
            sources_of(kept, run, None, {}),
            StudyTokenizer(run.tokenizer),
            run.batch,
            run.train.seed,
            ask_experts=run.model.experts,
        )

    def losses(self, batches: Sequence[Any]) -> list[float]:
        """The losses of the first steps, with the compiled step that training uses."""
        run, init = with_shape_of_init(self.config)
        ids = Ids.of(StudyTokenizer(run.tokenizer).vocabulary)
        mesh = sharding.make_mesh(run.train, run.model)
        step = step_of(run, ids, mesh)
        state = sharding.place(start(run, ids, init), mesh)
        losses = []
        for batch in batches:
            rate = run.optimizer.learning_rate / 10
            state, measured = step(state, [batch], rate, run.train.soft_bins)
            losses.append(float(jax.device_get(measured["loss"])))
        return losses

    def to_toml(self) -> str:
        """Its configuration, without paths."""
        data = dataclasses.replace(self.config.data, shards=())
        return to_toml(dataclasses.replace(self.config, init="", data=data))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prior:
    """The prior network of a checkpoint, on whole studies whose names mean something."""

    config: PriorRun

    def select(self, studies: Sequence[Study]) -> tuple[Sequence[Study], Mapping[str, int]]:
        """The studies that it can learn from, and how many others by reason."""
        return prior.select(studies, self.config)

    def batches(self, studies: Sequence[Study]) -> prior.Views:
        """Its batches on these studies."""
        return prior.Views(studies, self.config)

    def losses(self, batches: Sequence[Any]) -> list[float]:
        """The losses of the first steps, with the compiled step that training uses."""
        step, state = prior.step_of(self.config), prior.start(self.config)
        losses = []
        for batch in batches:
            rate = jax.numpy.float32(self.config.optimizer.learning_rate / 10)
            state, loss = step(state, rate, batch)
            losses.append(float(loss))
        return losses

    def to_toml(self) -> str:
        """Its configuration, without paths."""
        return to_toml(self.config)


Task = Trajectories | Prior


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a prepared folder holds.

    Attributes:
      init: the checkpoint to start from; the prior network's is the one that gets it.
      skipped: reason -> studies that were left out.
      losses: of the first steps, in single precision, where the folder was made.
    """

    folder: Path
    task: Task
    init: Path | None
    skipped: Mapping[str, int]
    losses: tuple[float, ...]

    def studies(self) -> list[Study]:
        """The studies to train on."""
        return _scan(self.folder / STUDIES)

    def validation(self) -> list[Study]:
        """Studies for measuring only."""
        return _scan(self.folder / VALIDATION)

    def first_batches(self, like: object) -> list[Any]:
        """The batches of the first steps, as they were where the folder was made.

        Args:
          like: a batch of the task.
        """
        leaves, structure = jax.tree.flatten(like)
        with np.load(self.folder / FIRST) as arrays:
            return [
                jax.tree.unflatten(
                    structure, [arrays[_key(number, leaf)] for leaf in range(len(leaves))]
                )
                for number in range(CHECKED_STEPS)
            ]


def prepare(
    folder: Path,
    task: TaskName,
    config: Path | None,
    overrides: Sequence[str] = (),
    *,
    shards: Sequence[Path],
    validation: Sequence[Path] = (),
    init: Path | None = None,
    most_bytes: int = 40 * MEBIBYTE,
    say: Callable[[str], None] = print,
) -> Prepared:
    """Writes the folder.

    Args:
      config, overrides: the run, as `optformer train` or `optformer train-prior` takes it.
      shards, validation: folders of study shards.
      init: a checkpoint to start from.
      most_bytes: the folder must not be larger.

    Raises:
      ConfigError: the folder is there, or would be too large; or the run is of several shapes.
      SourceError: nothing can be learned from the studies.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty. Name another folder, or remove it.")
    make_folder(folder)
    if init is not None:
        shutil.copytree(checkpoint.find(init), folder / INIT)
    work: Task
    if task == "trajectories":
        run = run_config(folder, config, overrides, init=folder / INIT if init else None)
        shards = [*map(Path, run.data.shards), *shards]
        train = dataclasses.replace(run.train, compute="float32")
        run, _ = with_shape_of_init(dataclasses.replace(run, train=train))
        work = Trajectories(config=run)
    else:
        work = Prior(config=read_config(PriorRun, config, overrides))
    studies, skipped = _gather(work, shards)
    if studies:
        store.write(studies, folder / STUDIES, source="prepared")
    if validation:
        measured, _ = work.select(list(store.scan(list(validation))))
        store.write(measured, folder / VALIDATION, source="prepared")
    say(f"{len(studies):,} studies; computing the first {CHECKED_STEPS} steps")
    batches = work.batches(studies)
    first = [batches[number] for number in range(CHECKED_STEPS)]
    arrays = {
        _key(number, leaf): np.asarray(array)
        for number, batch in enumerate(first)
        for leaf, array in enumerate(jax.tree.leaves(batch))
    }
    np.savez_compressed(folder / FIRST, **arrays)  # type: ignore[arg-type]
    (folder / CONFIG).write_text(work.to_toml(), "utf-8")
    manifest = {"task": task, "skipped": dict(skipped), "losses": work.losses(first)}
    with atomic_write(folder / MANIFEST) as path:
        path.write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    _check_size(folder, most_bytes)
    return open_prepared(folder)


def open_prepared(folder: Path, compute: Compute = "float32") -> Prepared:
    """What the folder holds.

    Args:
      compute: the precision to train trajectories in.

    Raises:
      ConfigError: it is not a prepared folder, or not a whole one.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder} is not a prepared folder: it has no {MANIFEST}. Make one with --prepare."
        ) from error
    init = folder / INIT if (folder / INIT).is_dir() else None
    assert manifest["task"] in get_args(TaskName)
    task: Task
    if manifest["task"] == "trajectories":
        run = load_config(folder / CONFIG)
        task = Trajectories(
            config=dataclasses.replace(
                run,
                init=str(init.resolve()) if init else "",
                train=dataclasses.replace(run.train, compute=compute),
            )
        )
    else:
        task = Prior(config=read_config(PriorRun, folder / CONFIG))
    return Prepared(
        folder=folder,
        task=task,
        init=init,
        skipped=manifest["skipped"],
        losses=tuple(manifest["losses"]),
    )


def _scan(folder: Path) -> list[Study]:
    return list(store.scan(folder)) if folder.is_dir() else []


def _key(number: int, leaf: int) -> str:
    return f"batch {number} array {leaf}"


def _gather(task: Task, shards: Sequence[Path]) -> tuple[Sequence[Study], Mapping[str, int]]:
    """The studies that the task can learn from, and how many others by reason."""
    if not shards:
        return [], {}
    studies = list(store.scan(list(shards)))
    usable, skipped = task.select(studies)
    if not usable:
        raise SourceError(
            f"none of {len(studies):,} studies can be learned from: "
            + "; ".join(f"{reason} ({count})" for reason, count in skipped.items())
            + "."
        )
    return usable, skipped


def _check_size(folder: Path, most_bytes: int) -> None:
    sizes = {
        entry.name: sum(
            path.stat().st_size for path in (entry, *entry.rglob("*")) if path.is_file()
        )
        for entry in folder.iterdir()
    }
    if sum(sizes.values()) > most_bytes:
        each = ", ".join(f"{name} {size / MEBIBYTE:.1f}" for name, size in sizes.items())
        raise ConfigError(
            f"{folder} has {sum(sizes.values()) / MEBIBYTE:.1f} MiB ({each}), more than "
            f"{most_bytes / MEBIBYTE:.0f}. Name fewer studies."
        )
