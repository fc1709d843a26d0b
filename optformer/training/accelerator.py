"""Pretraining in the minutes that an accelerator is lent, by one command that needs no decisions.

On any machine, everything that is needed goes into one folder (`training/prepared.py`):

    scripts/pretrain-accelerator PREPARED --prepare --task prior --studies SHARDS --init CHECKPOINT

On the machine with the accelerator, from a checkout with that folder:

    scripts/pretrain-accelerator PREPARED --out OUT --seconds 540

This process only supervises: it imports neither JAX nor numpy. Another one trains
(`training/minutes.py`). If that has not made its first step in time, it is replaced by one that
leaves XLA's autotuning off.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

FIRST_STEP = "first-step"
"""The file in the run's folder that says that the first step is made."""

CAREFUL = "--xla_gpu_autotune_level=0"

GRACE = 15.0
"""Seconds after the end before a process that has not ended is killed."""

# Read by numpy's libraries as a process loads them.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(
        prog="pretrain-accelerator", description=(__doc__ or "").splitlines()[0]
    )
    options.add_argument("prepared", type=Path, help="the prepared folder")
    making = options.add_argument_group("preparing the folder, on any machine")
    making.add_argument("--prepare", action="store_true", help="make the folder")
    making.add_argument("--task", choices=("trajectories", "prior"), default="trajectories")
    making.add_argument("--config", type=Path, help="the run, as for optformer train, train-prior")
    making.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    making.add_argument("--studies", type=Path, action="append", default=[], metavar="SHARDS")
    making.add_argument("--validation", type=Path, action="append", default=[], metavar="SHARDS")
    making.add_argument("--init", type=Path, help="a checkpoint to start from, or a model's name")
    making.add_argument("--most-mib", type=float, default=40.0, help="of the folder (%(default)s)")
    running = options.add_argument_group("training, on the accelerator")
    running.add_argument("--out", type=Path, help="for the models best/ and last/, and the reports")
    running.add_argument("--run", type=Path, default=Path("runs/accelerator"), metavar="FOLDER")
    running.add_argument("--seconds", type=float, default=540.0, help="in all (%(default)s)")
    running.add_argument("--steps", type=int, default=1 << 30, help="at most, for a trial run")
    running.add_argument("--first-step", type=float, default=90.0, metavar="SECONDS")
    running.add_argument("--compute", choices=("float32", "bfloat16"), default="float32")
    running.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 1))
    running.add_argument("--table", type=float, default=0.0, metavar="SECONDS")
    running.add_argument("--file-mib", type=float, default=16.0, help="of a file (%(default)s)")
    running.add_argument("--save-every", type=float, default=30.0, metavar="SECONDS")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parser().parse_args(arguments)
    os.environ.update({key: os.environ.get(key, value) for key, value in ONE_THREAD.items()})
    if options.prepare:
        return subprocess.call(_command("prepare", arguments))
    if options.out is None:
        parser().error("--out is needed: a folder for the models and the reports")
    return supervise(
        _command("train", arguments),
        seconds=options.seconds,
        first_step=options.first_step,
        marker=options.run / FIRST_STEP,
    )


def supervise(command: Sequence[str], *, seconds: float, first_step: float, marker: Path) -> int:
    """Runs the command until it ends or its time is over; returns its exit status.

    Args:
      seconds: from now on; the command is told when they end, and is stopped soon after.
      first_step: if the marker does not appear within so many seconds, or the command fails before
        it does, it is started again without autotuning.
    """
    end = time.time() + seconds
    environment = os.environ | {"OPTFORMER_END": repr(end)}
    marker.unlink(missing_ok=True)
    with _started(command, environment) as process:
        _wait_for(process, marker, min(end, time.time() + first_step))
        if marker.exists() or process.poll() == 0 or time.time() >= end:
            return _wait_to_end(process, end)
        what = "failed before" if process.poll() else f"{first_step:.0f} s without"
        print(f"{what} the first step: starting again with {CAREFUL}", flush=True)
    flags = f"{os.environ.get('XLA_FLAGS', '')} {CAREFUL}".strip()
    with _started(command, environment | {"XLA_FLAGS": flags}) as process:
        return _wait_to_end(process, end)


@contextlib.contextmanager
def _started(
    command: Sequence[str], environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """The process within the block, which gets this one's signals and does not outlive it."""
    process = subprocess.Popen(list(command), env=dict(environment))

    def pass_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    before = {each: signal.signal(each, pass_on) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield process
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], marker: Path, limit: float) -> None:
    while process.poll() is None and not marker.exists() and time.time() < limit:
        time.sleep(0.2)


def _wait_to_end(process: subprocess.Popen[bytes], end: float) -> int:
    try:
        return process.wait(max(0.0, end - time.time()) + GRACE)
    except subprocess.TimeoutExpired:
        print(f"the training did not end in time, and is stopped {GRACE:.0f} s later", flush=True)
        return 1


def _command(action: str, arguments: Sequence[str] | None) -> list[str]:
    given = sys.argv[1:] if arguments is None else list(arguments)
    return [sys.executable, "-m", "optformer.training.minutes", action, *given]
