"""Runs a function in parallel, in processes on this machine or on a Ray cluster.

    for task, result in run_tasks(function, tasks, workers=2): ...

The results do not depend on where they are computed; their order does.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from optformer.errors import ConfigError, OptFormerError

if TYPE_CHECKING:
    import ray

Task = TypeVar("Task")
Result = TypeVar("Result")

# One thread for arithmetic in each process. Libraries read these variables when they are loaded.
_SINGLE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
_CONNECT_SECONDS = 10.0


class WorkerDied(OptFormerError):
    """A worker process ended without a result or an error."""


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    workers: int = 1,
    cluster: str | None = None,
) -> Iterator[tuple[Task, Result]]:
    """Pairs of a task and `function(task)`, in the order in which they finish.

    After an error or an interruption, no further tasks start.

    Args:
      function: defined in a module that workers can import; tasks and results are pickled.
      workers: processes on this machine; with 1, the tasks run in this process.
      cluster: the address of a Ray cluster whose CPUs are used instead. "local" starts one here,
        "auto" finds a running one. This package must be installed on its machines.

    Raises:
      ConfigError: there is no such cluster, or Ray is not installed.
      WorkerDied: a process was killed.
    """
    if cluster is not None:
        yield from _on_ray(function, tasks, cluster)
    elif workers == 1:
        for task in tasks:
            yield task, function(task)
    else:
        yield from _in_processes(function, tasks, workers)


def _in_processes(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Iterator[tuple[Task, Result]]:
    before = {key: os.environ.get(key) for key in _SINGLE_THREAD}
    os.environ.update({key: value for key, value in _SINGLE_THREAD.items() if before[key] is None})
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent
    )
    try:
        running = {pool.submit(function, task): task for task in tasks}
        for ended in concurrent.futures.as_completed(running):
            yield running.pop(ended), ended.result()
    except BrokenProcessPool as error:
        raise WorkerDied("a worker process died, perhaps because memory ran out.") from error
    finally:
        pool.shutdown(cancel_futures=True)
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)


def _end_with_parent() -> None:
    """Ends this worker when its parent process ends, even if the parent is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


# --- a Ray cluster -----------------------------------------------------------------------------


def _on_ray(
    function: Callable[[Task], Result], tasks: Iterable[Task], address: str
) -> Iterator[tuple[Task, Result]]:
    with _connected(address) as ray:
        remote = ray.remote(function)
        waiting = iter(tasks)
        running: dict[ray.ObjectRef, Task] = {}
        try:
            while True:
                # Asked again each time, because a cluster may grow. Two tasks for each CPU, so that
                # waiting results do not fill its memory.
                most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
                while len(running) < most and (task := next(waiting, None)) is not None:
                    running[remote.remote(task)] = task
                if not running:
                    return
                (ended,), _ = ray.wait(list(running), num_returns=1)
                task = running.pop(ended)
                yield task, ray.get(ended)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            # Ray has already retried three times.
            raise WorkerDied(f"a process of the Ray cluster died: {error}") from error
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


@contextlib.contextmanager
def _connected(address: str) -> "Iterator[ray]":
    """The ray module, connected to a cluster while the block runs."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "a Ray cluster needs Ray, which is not installed. Run: pip install 'optformer[ray]'"
        ) from error
    if ray.is_initialized():  # the caller has chosen the cluster
        yield ray
        return
    _check_reachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # for a cluster that starts here
    try:
        ray.init(
            address=address,
            runtime_env={"env_vars": _SINGLE_THREAD},
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _no_cluster(address, error) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Fails fast, because Ray itself retries for many minutes."""
    place = urlsplit(address if "://" in address else f"//{address}")
    try:
        if place.port is not None:
            socket.create_connection((place.hostname or "", place.port), _CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"no Ray cluster at {address!r}: {error}. Give host:port of its head node (the port is "
        '6379 by default), ray://host:10001 from outside, "auto" on one '
        'of its machines, or "local" to start one here. Where a cluster has token authentication, '
        "set RAY_AUTH_MODE=token here too."
    )
