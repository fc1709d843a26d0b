"""The processes behind `scripts/pretrain-accelerator`: one prepares the folder, one trains.

What a training leaves in its folder OUT is at most eight files:

    last/, best/    checkpoints: the latest, and the one with the best validation so far
    report.json     the device, the first steps, the table, the last report
    metrics.jsonl   one line for each report

A checkpoint with a prior network has a file more: then the last two stay in the run's folder.
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np

from optformer.errors import OptFormerError, make_folder, plural
from optformer.files import atomic_write
from optformer.model import checkpoint
from optformer.model.programs import cached_programs
from optformer.model.saved import Checkpoint, SavedPrior, flatten
from optformer.training import accelerator, prior
from optformer.training.batches import Batch
from optformer.training.prepared import (
    MEBIBYTE,
    Prior,
    Trajectories,
    open_prepared,
    prepare,
)
from optformer.training.reports import Report
from optformer.training.throughput import table
from optformer.training.train import train

MARGIN = 20.0
"""Seconds at the end for the last validation and for saving."""

ALIKE = 0.02
"""By so much of its value a first loss may differ between machines: accelerators round the factors
of single-precision products to fewer digits."""

REPORT, METRICS, SECONDS = "report.json", "metrics.jsonl", "seconds"


def main(arguments: Sequence[str]) -> int:
    """Runs `prepare` or `train` with the command's options; returns the exit status."""
    action, *rest = arguments
    options = accelerator.parser().parse_args(rest)
    try:
        if action == "prepare":
            made = prepare(
                options.prepared,
                options.task,
                options.config,
                options.changes,
                shards=options.studies,
                validation=options.validation,
                init=options.init,
                most_bytes=int(options.most_mib * MEBIBYTE),
                say=say,
            )
            for reason, count in made.skipped.items():
                say(f"left out: {reason} ({plural(count, 'study')})")
            say(f"{options.prepared} is ready; first losses {_short(made.losses)}")
        else:
            Run(options, float(os.environ["OPTFORMER_END"])).train()
    except OptFormerError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def say(text: str) -> None:
    """A line of the log, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class Run:
    """A training that ends at a time of `time.time`, with the command's options."""

    def __init__(self, options: argparse.Namespace, end: float) -> None:
        self._options, self._end, self._began = options, end, time.time()
        self._out, self._folder = options.out, options.run
        self._prepared = open_prepared(options.prepared, options.compute)
        self._facts: dict[str, object] = {}

    def train(self) -> None:
        """Checks the device, then trains for the rest of the time."""
        make_folder(self._out)
        make_folder(self._folder)
        task, studies = self._prepared.task, self._prepared.studies()
        device, cores = jax.devices()[0], os.cpu_count()
        say(f"{device.device_kind} ({device.platform}), {cores} cores, jax {jax.__version__}")
        self._note(
            device=device.device_kind,
            jax=jax.__version__,
            workers=self._options.workers,
            compute=self._options.compute,
            xla_flags=os.environ.get("XLA_FLAGS", ""),
        )
        with cached_programs(self._folder / "programs"):
            first = self._prepared.first_batches(task.batches(studies)[0])
            self._check(task.losses(first))
            if isinstance(task, Trajectories) and self._options.table:
                self._table(task, first[0])
            if isinstance(task, Prior):
                self._train_prior(task)
        if isinstance(task, Trajectories):
            self._train_trajectories(task)
        say(f"ended {self._end - time.time():.0f} s before its time; models are in {self._out}")

    def _check(self, losses: list[float]) -> None:
        """Compares the first losses with those of the machine where the folder was made."""
        (self._folder / accelerator.FIRST_STEP).touch()
        alike = bool(np.allclose(losses, self._prepared.losses, rtol=ALIKE))
        seconds = time.time() - self._began
        self._note(
            first_step=seconds, losses=losses, expected=list(self._prepared.losses), alike=alike
        )
        say(
            f"first steps after {seconds:.0f} s: losses {_short(losses)}, where the folder was "
            f"made {_short(self._prepared.losses)}: " + ("alike" if alike else "THEY DIFFER")
        )

    def _table(self, task: Trajectories, batch: Batch) -> None:
        rows = []
        until = min(self._end, time.time() + self._options.table)
        for row in table(task.config, batch, until=until):
            rows.append(dataclasses.asdict(row))
            say(str(row))
            self._note(table=rows)

    def _train_trajectories(self, task: Trajectories) -> None:
        settings = dataclasses.replace(
            task.config.train,
            workers=self._options.workers,
            steps=self._options.steps,
            seconds=self._seconds(),
            checkpoint_every=1 << 30,
            evaluate_every=1 << 30,
            checkpoint_seconds=self._options.save_every,
        )

        def report(news: Report) -> None:
            self._keep_seconds(news.seconds)
            self._note(last=dataclasses.asdict(news))
            measured = "" if news.validation is None else f", validation {_short(news.validation)}"
            say(
                f"step {news.step:,}: loss {news.loss:.4f}, value {news.value:.4f}, "
                f"{news.tokens_per_second:,.0f} tokens/s, waiting {news.waiting:.1%}{measured}"
            )

        def saved(name: str, model: Checkpoint) -> None:
            self._save(model, best=name == "best")
            for file in (REPORT, METRICS) if model.prior is None else ():
                shutil.copyfile(self._folder / file, self._out / file)

        train(
            dataclasses.replace(task.config, train=settings),
            self._folder,
            self._prepared.studies(),
            report=report,
            report_seconds=5.0,
            say=say,
            saved=saved,
        )

    def _train_prior(self, task: Prior) -> None:
        run = dataclasses.replace(
            task.config, seconds=self._seconds(), save_every=self._options.save_every
        )
        base = checkpoint.load(self._prepared.init or checkpoint.find("optformer-tiny"))
        best = -np.inf

        def saved(network: SavedPrior) -> None:
            nonlocal best
            about = dict(network.about) | {"accelerator": self._facts}
            network = dataclasses.replace(network, about=about)
            measured = network.about["rank_correlation"]
            assert isinstance(measured, dict)
            mean = float(np.mean(list(measured.values()))) if measured else best
            self._save(dataclasses.replace(base, prior=network), best=False)
            if mean > best:
                best = mean
                self._save(dataclasses.replace(base, prior=network), best=True)
            self._keep_seconds(run.seconds - max(0.0, self._end - time.time() - MARGIN))

        prior.train(
            run,
            self._folder,
            self._prepared.studies(),
            self._prepared.validation(),
            say,
            workers=self._options.workers,
            steps=self._options.steps,
            saved=saved,
        )

    def _save(self, model: Checkpoint, *, best: bool) -> None:
        weights = sum(array.size for array in flatten(model.weights).values())
        half = 4 * weights > self._options.file_mib * MEBIBYTE
        checkpoint.save(model, self._out / ("best" if best else "last"), half=half)
        if not (self._out / "best").is_dir():
            # Replacing a folder leaves a moment without it: never without both.
            checkpoint.save(model, self._out / "best", half=half)

    def _seconds(self) -> float:
        """How long the run trains in all: before, and in the rest of the time."""
        path = self._folder / SECONDS
        before = float(path.read_text("utf-8")) if path.is_file() else 0.0
        return before + max(1.0, self._end - time.time() - MARGIN)

    def _keep_seconds(self, seconds: float) -> None:
        with atomic_write(self._folder / SECONDS) as path:
            path.write_text(repr(seconds), "utf-8")

    def _note(self, **news: object) -> None:
        self._facts |= news
        with atomic_write(self._folder / REPORT) as path:
            path.write_text(json.dumps(self._facts, indent=2) + "\n", "utf-8")


def _short(numbers: object) -> str:
    if isinstance(numbers, dict):
        return ", ".join(f"{name} {number:.4f}" for name, number in numbers.items())
    assert isinstance(numbers, list | tuple)
    return ", ".join(f"{number:.4f}" for number in numbers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
