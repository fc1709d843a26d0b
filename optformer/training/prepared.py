"""A folder with everything that pretraining on another machine needs, small enough to travel.

    manifest.json    what the folder holds, and the first losses as this machine computes them
    config.toml      the configuration of the run, resolved
    studies/         the usable studies of all given folders, as shards
    init/            the checkpoint to start from, if there is one
    first.npz        the batches of the first steps, on which the other machine is checked

Studies that are cheap to generate are made there, as `data.generate` says.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from optformer.data import store
from optformer.errors import ConfigError, SourceError, make_folder
from optformer.files import atomic_write
from optformer.model import checkpoint
from optformer.model.transformer import Ids
from optformer.study import Study
from optformer.tokenization.tokenizer import StudyTokenizer
from optformer.training import sharding
from optformer.training.batches import Batch, Batches
from optformer.training.config import CONFIG, RunConfig, load_config, run_config, save_config
from optformer.training.step import start, step_of
from optformer.training.train import sort_out, sources_of, split, with_shape_of_init

MANIFEST, STUDIES, INIT, FIRST = "manifest.json", "studies", "init", "first.npz"

CHECKED_STEPS = 2

MEBIBYTE = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a prepared folder holds.

    Attributes:
      config: of the run, with the folder's own paths.
      studies: how many there are.
      skipped: reason -> studies that were left out.
      losses: of the first steps, in single precision, where the folder was made.
    """

    config: RunConfig
    studies: int
    skipped: Mapping[str, int]
    losses: tuple[float, ...]


def prepare(
    folder: Path,
    config: Path | None,
    overrides: Sequence[str] = (),
    *,
    shards: Sequence[Path],
    init: Path | None = None,
    most_bytes: int = 40 * MEBIBYTE,
    say: Callable[[str], None] = print,
) -> Prepared:
    """Writes the folder.

    Args:
      config, overrides: the run, as `optformer train` takes it.
      shards: folders of study shards, beside those that the configuration names.
      init: a checkpoint to start from.
      most_bytes: the folder must not be larger.

    Raises:
      ConfigError: the folder is there, or would be too large; or the run is of several shapes.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty. Name another folder, or remove it.")
    make_folder(folder)
    run = run_config(folder, config, overrides, shards=shards, init=init)
    if run.batch.sizes > 1:
        raise ConfigError(
            f"batch.sizes={run.batch.sizes}, but each shape takes a minute to compile on an "
            "accelerator. Set batch.sizes=1."
        )
    run = dataclasses.replace(run, train=dataclasses.replace(run.train, compute="float32"))
    run, _ = with_shape_of_init(run)
    studies, skipped = _gather([Path(each) for each in run.data.shards], run)
    if studies:
        store.write(studies, folder / STUDIES, source="prepared")
    if run.init:
        shutil.copytree(checkpoint.find(run.init), folder / INIT)
    say(f"{len(studies):,} studies; computing the first {CHECKED_STEPS} steps")
    batches = batches_of(run, studies)
    first = [batches[number] for number in range(CHECKED_STEPS)]
    losses = first_losses(run, first)
    arrays = {f"{n} {key}": a for n, b in enumerate(first) for key, a in b._asdict().items()}
    np.savez_compressed(folder / FIRST, **arrays)
    save_config(
        dataclasses.replace(run, init="", data=dataclasses.replace(run.data, shards=())),
        folder / CONFIG,
    )
    manifest = {"studies": len(studies), "skipped": dict(skipped), "losses": losses}
    with atomic_write(folder / MANIFEST) as path:
        path.write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    _check_size(folder, most_bytes)
    return open_prepared(folder)


def open_prepared(folder: Path) -> Prepared:
    """What the folder holds.

    Raises:
      ConfigError: it is not a prepared folder, or not a whole one.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder} is not a prepared folder: it has no {MANIFEST}. Make one with --prepare."
        ) from error
    run = load_config(folder / CONFIG)
    shards = (str((folder / STUDIES).resolve()),) if (folder / STUDIES).is_dir() else ()
    init = str((folder / INIT).resolve()) if (folder / INIT).is_dir() else ""
    return Prepared(
        config=dataclasses.replace(
            run, init=init, data=dataclasses.replace(run.data, shards=shards)
        ),
        studies=manifest["studies"],
        skipped=manifest["skipped"],
        losses=tuple(manifest["losses"]),
    )


def first_batches(folder: Path) -> list[Batch]:
    """The batches of the first steps, as they were where the folder was made."""
    with np.load(folder / FIRST) as arrays:
        return [
            Batch(**{key: arrays[f"{number} {key}"] for key in Batch._fields})
            for number in range(CHECKED_STEPS)
        ]


def first_losses(run: RunConfig, batches: Sequence[Batch]) -> list[float]:
    """The losses of the first steps on this machine. Training shares the compiled step."""
    run, init = with_shape_of_init(run)
    tokenizer = init.tokenizer if init else StudyTokenizer(run.tokenizer)
    ids = Ids.of(tokenizer.vocabulary)
    mesh = sharding.make_mesh(run.train, run.model)
    step = step_of(run, ids, mesh)
    state = sharding.place(start(run, ids, init), mesh)
    losses = []
    for batch in batches:
        state, measured = step(
            state, [batch], run.optimizer.learning_rate / 10, run.train.soft_bins
        )
        losses.append(float(jax.device_get(measured["loss"])))
    return losses


def batches_of(run: RunConfig, studies: Sequence[Study]) -> Batches:
    """The batches of a run on these studies, as `train` makes them."""
    kept, _ = split(studies, run.train.validation)
    return Batches(
        sources_of(kept, run, None, {}),
        StudyTokenizer(run.tokenizer),
        run.batch,
        run.train.seed,
        ask_experts=run.model.experts,
    )


def _gather(shards: Sequence[Path], run: RunConfig) -> tuple[list[Study], Mapping[str, int]]:
    """The studies that the run can learn from, and how many others by reason."""
    if not shards:
        return [], {}
    studies = list(store.scan(list(shards)))
    usable, skipped = sort_out(studies, StudyTokenizer(run.tokenizer), run)
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
