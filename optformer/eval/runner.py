"""Runs optimizers on tasks with seeds, and writes a Parquet row for each trial.

    results = run({"random_search": factory}, tasks, seeds=range(5), out=Path("runs/bbob"))

Runs are paired: with the same seed, a task has the same starting points and, at the same trial, the
same noise for every optimizer. Each run is a separate file, written atomically when the run has
ended; calling `run` again executes only missing runs. If an optimizer raises an error, its rows so
far are kept, with a last row for the error.

Optimizers that are faster on many studies at once (`LockstepFactory`) process groups of runs.
Grouping changes a run's numbers only by floating-point rounding.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from optformer.errors import ConfigError, OptFormerError
from optformer.eval import peers
from optformer.eval.results import Results, read, write_plan
from optformer.eval.rows import Rows, fill_together, write
from optformer.eval.task import FreshFactory, LockstepFactory, OptimizerFactory, Task, file_name
from optformer.progress import Progress, silent


def run(
    optimizers: Mapping[str, OptimizerFactory],
    tasks: Sequence[Task],
    seeds: Sequence[int],
    out: Path,
    *,
    protocol: str,
    workers: int = 1,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Results:
    """Executes the runs that are missing in `out`, and returns all results there.

    Args:
      protocol: the kind of results, "bbob" or "hpob"; a folder has one kind.
      workers: processes; with 1, runs are executed in this process.
      cache: a folder that shares runs between results folders, for optimizers with a version
        (`peers.Versioned`).
      progress: called after each run.

    With several workers, and for optimizers that need fresh processes (`FreshFactory`), factories
    and tasks are pickled. If a process is killed, that is recorded as the run's error.

    Raises:
      ConfigError: the folder has another protocol, another task with the same name, or an
        optimizer with other settings and the same name.
    """
    names = [task.name for task in tasks]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"two tasks are named {repeated[0]!r}. Give each its own name.")
    write_plan(
        out,
        protocol=protocol,
        optimizers={name: _description(factory) for name, factory in optimizers.items()},
        tasks=[task.record() for task in tasks],
        seeds=list(seeds),
    )
    # Seeds are outermost, so that a killed run can compare all optimizers on the finished seeds.
    # Optimizers that need fresh processes come last.
    jobs = [
        _Job(
            optimizer=name, factory=factory, task=task, seed=seed, part=_part(out, name, task, seed)
        )
        for seed in seeds
        for task in tasks
        for name, factory in optimizers.items()
    ]
    if cache is not None:
        _take_kept(jobs, cache)
    waiting = [job for job in jobs if not job.part.exists()]
    done = len(jobs) - len(waiting)
    shared = _groups([job for job in waiting if not _wants_fresh(job)])
    fresh = [(job,) for job in waiting if _wants_fresh(job)]
    if workers == 1:
        ended: Iterator[_Job] = (job for group in shared for job in _run_group(group))
    else:
        ended = _run_in_processes(shared, workers, fresh=False)
    for job in itertools.chain(ended, _run_in_processes(fresh, workers, fresh=True)):
        done += 1
        if cache is not None and (place := _kept(job, cache)) is not None:
            peers.copy(job.part, place)
        progress(done, len(jobs), f"{job.optimizer} on {job.task.name}, seed {job.seed}")
    return read(out)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    optimizer: str
    factory: OptimizerFactory
    task: Task
    seed: int
    part: Path


_Group = tuple[_Job, ...]


def _kept(job: _Job, cache: Path) -> Path | None:
    return peers.kept(cache, job.optimizer, job.factory, job.task, job.seed)


def _take_kept(jobs: Sequence[_Job], cache: Path) -> None:
    """Copies the runs that the cache has."""
    for job in jobs:
        if job.part.exists():
            continue
        place = _kept(job, cache)
        if place is not None and place.exists():
            peers.copy(place, job.part)


def _wants_fresh(job: _Job) -> bool:
    return isinstance(job.factory, FreshFactory) and job.factory.fresh_process


def _groups(jobs: Sequence[_Job]) -> list[_Group]:
    """Jobs that run together: of one optimizer that can, with as many trials. Low seeds first."""
    alike: dict[tuple[object, ...], list[_Job]] = {}
    for job in jobs:
        if isinstance(job.factory, LockstepFactory) and job.task.pool is None:
            key: tuple[object, ...] = (job.optimizer, job.task.trials)
        else:
            key = (job.optimizer, job.seed, job.task.name)
        alike.setdefault(key, []).append(job)
    groups: list[_Group] = []
    for same in alike.values():
        factory = same[0].factory
        most = factory.together if isinstance(factory, LockstepFactory) else 1
        # Neighbours have about as many parameters: that is what a group waits for.
        same.sort(key=lambda job: len(job.task.problem.parameters))
        groups += [tuple(same[first : first + most]) for first in range(0, len(same), most)]
    return sorted(groups, key=lambda group: min(job.seed for job in group))


def _run_group(group: _Group) -> _Group:
    runs = [Rows(job.task, job.seed, together=len(group)) for job in group]
    factory = group[0].factory
    if len(group) > 1 and isinstance(factory, LockstepFactory):
        done = fill_together(runs, factory)
    else:
        done = False
    if not done:
        runs = [Rows(job.task, job.seed) for job in group]
        for run in runs:
            run.fill(factory)
    for job, run in zip(group, runs, strict=True):
        write(job.part, job.optimizer, run)
    return group


def _part(out: Path, optimizer: str, task: Task, seed: int) -> Path:
    return out / "parts" / file_name(optimizer) / f"{file_name(task.name)}.seed{seed}.parquet"


def _description(factory: OptimizerFactory) -> str:
    """The factory's settings as text; empty if its repr contains a memory address."""
    text = repr(factory)
    return "" if " at 0x" in text else text


# --- many processes ---------------------------------------------------------------------------


def _run_in_processes(groups: Sequence[_Group], workers: int, fresh: bool) -> Iterator[_Job]:
    """Runs jobs in other processes. If a job's process is killed twice, that is its error."""
    queue = list(reversed(groups))
    suspects: list[_Group] = []
    while queue or suspects:
        # After a killed process it is unknown which job was the cause, so each is retried alone.
        alone = bool(suspects)
        pool = ProcessPoolExecutor(
            max_workers=1 if alone else workers,
            mp_context=get_context("spawn"),  # JAX and forked processes deadlock
            initializer=_share_cores,
            initargs=(1 if alone else workers,),
            max_tasks_per_child=1 if fresh else None,
        )
        with pool:
            _check_starts(pool)
            running: dict[Future[_Group], _Group] = {}
            broken: list[_Job] = []
            while (queue or suspects or running) and not broken:
                while len(running) < (1 if alone else workers) and (suspects if alone else queue):
                    group = (suspects if alone else queue).pop()
                    running[pool.submit(_run_group, group)] = group
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    group = running.pop(future)
                    if isinstance(future.exception(), BrokenProcessPool):
                        broken += group
                        continue
                    yield from future.result()
                if alone:
                    break
            broken += [job for group in running.values() for job in group]
        for job in broken:
            if not alone:
                suspects.append((job,))
                continue
            run = Rows(job.task, job.seed)
            run.add_error(
                1, 0.0, ProcessDied("the run's process was killed, twice. Out of memory?")
            )
            write(job.part, job.optimizer, run)
            yield job


class ProcessDied(OptFormerError):
    """A run's process was killed."""


def _check_starts(pool: ProcessPoolExecutor) -> None:
    """Checks that worker processes start, so that later deaths are due to an optimizer.

    Raises:
      ConfigError: they do not. Describes the form of the main script.
    """
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool as error:
        raise ConfigError(
            "worker processes do not start: each imports the main script again. Call run() under "
            '`if __name__ == "__main__":` in a script file, or use workers=1.'
        ) from error


def _share_cores(workers: int) -> None:
    """Divides the cores between processes, for libraries that are loaded later."""
    threads = str(max((os.cpu_count() or 1) // workers, 1))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, threads)
