"""Blocks of studies -> shards, by as many processes as there are cores.

Each shard holds a fixed range of the blocks of a stream (see `mixture`), so that what is written
does not depend on the number of workers, and a run that was killed goes on where it stopped.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from optformer.data import store
from optformer.data.mixture import GenerateConfig, make_block
from optformer.errors import OptFormerError, SourceError, make_folder
from optformer.progress import Progress, silent
from optformer.study import Study

MANIFEST = "manifest.json"

# What tells random functions of one family apart at the end of their names.
_INSTANCE = re.compile("/[0-9a-f]{8}$")


def generate(
    config: GenerateConfig,
    folder: Path,
    *,
    seed: int = 0,
    studies: int,
    workers: int = 1,
    progress: Progress = silent,
) -> Mapping[str, object]:
    """Writes the first `studies` studies of the stream as shards, and the manifest; returns that.

    Shards that the folder already holds are kept, so that after a kill the same call goes on.
    The result does not depend on `workers`. What was refused is missing from the number, and
    the manifest says so. `progress` counts studies.

    Raises:
      SourceError: when the folder holds shards of another config or seed.
    """
    make_folder(folder)
    stream = _fingerprint(config, seed)
    size = config.block * config.blocks_per_shard
    planned = [min(size, studies - start) for start in range(0, studies, size)]
    done = {
        shard: int(str(position["planned"]))
        for shard, position in _finished(folder, stream).items()
    }
    # A shorter run's last shard is made again; a longer run's are more than enough.
    todo = [shard for shard, count in enumerate(planned) if done.get(shard, 0) < count]
    total, started = sum(planned), time.monotonic()
    ready = total - sum(planned[shard] for shard in todo)
    trials = 0
    progress(ready, total)
    with _pool(workers) as pool:
        jobs = (
            (shard, pool.submit(_write_shard, config, seed, folder, shard, planned[shard], stream))
            for shard in todo
        )
        pending = {job: shard for shard, job in jobs}
        for job in concurrent.futures.as_completed(pending):
            try:
                written = job.result()
            except BrokenProcessPool as error:
                raise OptFormerError(
                    f"a worker process died, perhaps for want of memory: try fewer than {workers} "
                    f"workers or a smaller block than {config.block}. Shards that are finished "
                    "stay; the same command goes on after them."
                ) from error
            ready += planned[pending[job]]
            trials += written
            rate = trials / (time.monotonic() - started)
            progress(ready, total, f"{rate:,.0f} trials/s")
    manifest = _manifest(config, seed, _finished(folder, stream))
    partial = folder / f".{MANIFEST}.partial"
    partial.write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    partial.replace(folder / MANIFEST)
    return manifest


def _write_shard(
    config: GenerateConfig, seed: int, folder: Path, shard: int, planned: int, stream: str
) -> int:
    """Makes the shard's blocks and writes it; returns its number of trials."""
    counts: dict[str, Counter[str]] = {
        key: Counter() for key in ("families", "teachers", "parameters", "trials", "refused")
    }

    def studies() -> Iterator[Study]:
        first = shard * config.blocks_per_shard
        for block in range(-(-planned // config.block)):
            made = make_block(config, seed, first + block)
            counts["refused"].update(made.refused)
            for study in made.studies[: planned - block * config.block]:
                counts["families"][_INSTANCE.sub("", study.name)] += 1
                counts["teachers"][study.algorithm] += 1
                counts["parameters"][str(len(study.problem.parameters))] += 1
                counts["trials"][str(len(study))] += 1
                yield study

    for old in folder.glob(f"{_prefix(shard)}-*.parquet"):  # of a shorter run
        old.unlink()
    store.write(
        studies(),
        folder,
        source="generate",
        studies_per_shard=planned + 1,
        trials_per_shard=2**62,
        prefix=_prefix(shard),
        position=lambda: {"stream": stream, "shard": shard, "planned": planned, "counts": counts},
    )
    return sum(int(length) * count for length, count in counts["trials"].items())


def _prefix(shard: int) -> str:
    return f"generated-{shard:05d}"


def _fingerprint(config: GenerateConfig, seed: int) -> str:
    """Tells streams of studies apart."""
    text = json.dumps({"config": dataclasses.asdict(config), "seed": seed}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _finished(folder: Path, stream: str) -> dict[int, dict[str, object]]:
    """What the folder's shards say of themselves, by shard number."""
    finished = {}
    for position in store.positions(folder):
        if position.get("stream") != stream:
            raise SourceError(
                f"{folder} holds shards that another config or seed made, or that were imported. "
                "Generate into an empty folder; training can read several."
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


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[concurrent.futures.Executor]:
    """Worker processes with one thread of arithmetic each; for one worker, this process."""
    if workers == 1:
        with _giving_up(concurrent.futures.ThreadPoolExecutor(1)) as pool:
            yield pool
        return
    # Read by libraries as a process loads them; this process has long done so.
    single = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    }
    before = {key: os.environ.get(key) for key in single}
    os.environ.update({key: value for key, value in single.items() if before[key] is None})
    try:
        processes = concurrent.futures.ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent
        )
        with _giving_up(processes) as pool:
            yield pool
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)


@contextlib.contextmanager
def _giving_up(pool: concurrent.futures.Executor) -> Iterator[concurrent.futures.Executor]:
    """On an error, and when interrupted, the jobs that have not begun are dropped."""
    try:
        yield pool
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _end_with_parent() -> None:
    """Ends this worker when its parent is gone: a killed parent cannot tell it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
