"""Writes synthetic studies to shards, with processes on this machine or a Ray cluster.

Each shard contains a fixed range of the blocks of a stream (see `mixture`), so the result does not
depend on the number of workers, and a killed run resumes at the next unfinished shard.
"""

import dataclasses
import hashlib
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from optformer.data import store
from optformer.data.mixture import GenerateConfig, generate_with_refusals
from optformer.data.processes import WorkerDied, run_tasks
from optformer.errors import SourceError, make_folder
from optformer.files import atomic_write
from optformer.progress import Progress, silent
from optformer.study import Study

MANIFEST = "manifest.json"

# The suffix that distinguishes random functions of a family.
_INSTANCE = re.compile("/[0-9a-f]{8}$")


def generate(
    config: GenerateConfig,
    folder: Path,
    *,
    seed: int = 0,
    studies: int,
    workers: int = 1,
    cluster: str | None = None,
    progress: Progress = silent,
) -> Mapping[str, object]:
    """Writes the first `studies` studies of the stream as shards; returns the manifest.

    Existing shards are kept, so the same call resumes a killed run. The result does not depend on
    `workers` or `cluster`. Rejected studies are not replaced; the manifest counts them.
    `progress` counts studies.

    Args:
      workers: processes on this machine.
      cluster: the address of a Ray cluster to use instead (see `processes.run_tasks`). Its machines
        send the shards here and do not need access to the folder.

    Raises:
      ConfigError: there is no such cluster.
      SourceError: the folder contains shards of another config or seed.
    """
    make_folder(folder)
    stream = _fingerprint(config, seed)
    size = config.block * config.blocks_per_shard
    planned = [min(size, studies - start) for start in range(0, studies, size)]
    done = {
        shard: int(str(position["planned"]))
        for shard, position in _finished(folder, stream).items()
    }
    # The last shard of a shorter run is generated again; shards of a longer run suffice.
    todo = [shard for shard, count in enumerate(planned) if done.get(shard, 0) < count]
    total, started = sum(planned), time.monotonic()
    ready = total - sum(planned[shard] for shard in todo)
    trials = 0
    progress(ready, total)
    tasks = [
        _Task(config=config, seed=seed, shard=shard, planned=planned[shard], stream=stream)
        for shard in todo
    ]
    try:
        for task, shard in run_tasks(_generate_shard, tasks, workers=workers, cluster=cluster):
            _save(folder, task.shard, shard)
            ready += task.planned
            trials += shard.trials
            rate = trials / (time.monotonic() - started)
            progress(ready, total, f"{rate:,.0f} trials/s")
    except WorkerDied as error:
        fewer = "" if cluster else f"fewer than {workers} workers or "
        raise WorkerDied(
            f"{error} Try {fewer}a smaller block than {config.block}. "
            "Finished shards are kept; the same command resumes after them."
        ) from error
    manifest = _manifest(config, seed, _finished(folder, stream))
    with atomic_write(folder / MANIFEST) as path:
        path.write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    return manifest


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Task:
    """A shard to generate."""

    config: GenerateConfig
    seed: int
    shard: int
    planned: int
    stream: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shard:
    """A finished shard as bytes, to be sent to the machine that saves it."""

    trials: int
    files: Mapping[str, bytes]


def _generate_shard(task: _Task) -> _Shard:
    """Generates the blocks of the shard."""
    config, planned = task.config, task.planned
    counts: dict[str, Counter[str]] = {
        key: Counter() for key in ("families", "teachers", "parameters", "trials", "refused")
    }

    def studies() -> Iterator[Study]:
        first = task.shard * config.blocks_per_shard
        for block in range(-(-planned // config.block)):
            generated = generate_with_refusals(config, task.seed, first + block)
            counts["refused"].update(generated.refused)
            for study in generated.studies[: planned - block * config.block]:
                counts["families"][_INSTANCE.sub("", study.name)] += 1
                counts["teachers"][study.algorithm] += 1
                counts["parameters"][str(len(study.problem.parameters))] += 1
                counts["trials"][str(len(study))] += 1
                yield study

    with tempfile.TemporaryDirectory() as name:
        written = store.write(
            studies(),
            Path(name),
            source="generate",
            studies_per_shard=planned + 1,
            trials_per_shard=2**62,
            prefix=_prefix(task.shard),
            position=lambda: {
                "stream": task.stream,
                "shard": task.shard,
                "planned": planned,
                "counts": counts,
            },
        )
        files = {path.name: path.read_bytes() for path in written}
    trials = sum(int(length) * count for length, count in counts["trials"].items())
    return _Shard(trials=trials, files=files)


def _save(folder: Path, number: int, shard: _Shard) -> None:
    """Writes a shard atomically."""
    for old in folder.glob(f"{_prefix(number)}-*.parquet"):  # of a shorter run
        old.unlink()
    for name, content in shard.files.items():
        with atomic_write(folder / name) as path:
            path.write_bytes(content)


def _prefix(shard: int) -> str:
    return f"generated-{shard:05d}"


def _fingerprint(config: GenerateConfig, seed: int) -> str:
    """A hash that identifies a stream of studies."""
    text = json.dumps({"config": dataclasses.asdict(config), "seed": seed}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _finished(folder: Path, stream: str) -> dict[int, dict[str, object]]:
    """The recorded positions of the folder's shards, by shard number."""
    finished = {}
    for position in store.positions(folder):
        if position.get("stream") != stream:
            raise SourceError(
                f"{folder} contains shards of another config or seed, or imported shards. "
                "Generate into an empty folder; training can read several folders."
            )
        finished[int(str(position["shard"]))] = dict(position)
    return finished


def _manifest(
    config: GenerateConfig, seed: int, finished: Mapping[int, Mapping[str, object]]
) -> Mapping[str, object]:
    totals: dict[str, Counter[str]] = {}
    for position in finished.values():
        counts = position["counts"]
        assert isinstance(counts, Mapping)
        for key, counter in counts.items():
            totals.setdefault(key, Counter()).update(counter)
    by_size = {
        key: {str(size): totals[key][str(size)] for size in sorted(map(int, totals[key]))}
        for key in ("parameters", "trials")
        if key in totals
    }
    by_name = {
        key: dict(sorted(totals[key].items(), key=lambda item: (-item[1], item[0])))
        for key in ("families", "teachers", "refused")
        if key in totals
    }
    return {
        "studies": sum(by_name.get("teachers", {}).values()),
        "trials": sum(int(size) * count for size, count in by_size.get("trials", {}).items()),
        "shards": len(finished),
        "seed": seed,
        "studies_by_teacher": by_name.get("teachers", {}),
        "studies_by_family": by_name.get("families", {}),
        "studies_by_parameters": by_size.get("parameters", {}),
        "studies_by_trials": by_size.get("trials", {}),
        "studies_refused": by_name.get("refused", {}),
        "config": dataclasses.asdict(config),
    }
