"""The processes behind `scripts/pretrain-accelerator`: one prepares the folder, one trains."""

import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from optformer.data import store
from optformer.errors import OptFormerError, make_folder, plural
from optformer.files import atomic_write
from optformer.model import checkpoint
from optformer.model.programs import cached_programs
from optformer.model.saved import Checkpoint, flatten
from optformer.training import accelerator, prepared
from optformer.training.config import Compute
from optformer.training.prepared import MEBIBYTE, Prepared
from optformer.training.reports import Report
from optformer.training.throughput import table
from optformer.training.train import train

MARGIN = 20.0
"""Seconds at the end for the last validation and for saving."""

ALIKE = 0.02
"""By so much of its value the first loss may differ between machines: accelerators round the
factors of single-precision products to fewer digits."""

REPORT, METRICS = "report.json", "metrics.jsonl"


def main(arguments: Sequence[str]) -> int:
    """Runs `prepare` or `train` with the command's options; returns the exit status."""
    action, *rest = arguments
    options = accelerator.parser().parse_args(rest)
    try:
        if action == "prepare":
            made = prepared.prepare(
                options.prepared,
                options.config,
                options.changes,
                shards=options.studies,
                init=options.init,
                most_bytes=int(options.most_mib * MEBIBYTE),
                say=say,
            )
            for reason, count in made.skipped.items():
                say(f"left out: {reason} ({plural(count, 'study')})")
            say(f"{options.prepared}: {plural(made.studies, 'study')}; first losses {made.losses}")
        else:
            _train(
                prepared.open_prepared(options.prepared),
                options.prepared,
                options.out,
                options.run,
                end=float(os.environ["OPTFORMER_END"]),
                compute=options.compute,
                workers=options.workers,
                table_seconds=options.table,
                file_bytes=int(options.file_mib * MEBIBYTE),
                save_every=options.save_every,
            )
    except OptFormerError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def say(text: str) -> None:
    """A line of the log, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _train(
    given: Prepared,
    folder: Path,
    out: Path,
    run_folder: Path,
    *,
    end: float,
    compute: Compute,
    workers: int,
    table_seconds: float,
    file_bytes: int,
    save_every: float,
) -> None:
    began = time.time()
    given = dataclasses.replace(
        given,
        config=dataclasses.replace(
            given.config, train=dataclasses.replace(given.config.train, compute=compute)
        ),
    )
    make_folder(out)
    make_folder(run_folder)
    device = jax.devices()[0]
    facts: dict[str, object] = {
        "device": device.device_kind,
        "jax": jax.__version__,
        "workers": workers,
        "compute": compute,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }

    def note(**news: object) -> None:
        facts.update(news)
        with atomic_write(out / REPORT) as path:
            path.write_text(json.dumps(facts, indent=2) + "\n", "utf-8")

    say(f"{device.device_kind} ({device.platform}), {os.cpu_count()} cores, jax {jax.__version__}")
    with cached_programs(run_folder / "programs"):
        losses = prepared.first_losses(given.config, prepared.first_batches(folder))
        (run_folder / accelerator.FIRST_STEP).touch()
        alike = bool(np.allclose(losses, given.losses, rtol=ALIKE))
        note(first_step=time.time() - began, losses=losses, expected=given.losses, alike=alike)
        say(
            f"first steps after {time.time() - began:.0f} s: losses {_short(losses)}, where the "
            f"folder was made {_short(given.losses)}: " + ("alike" if alike else "THEY DIFFER")
        )
        if table_seconds:
            rows = []
            batch = prepared.first_batches(folder)[0]
            for row in table(given.config, batch, until=min(end, time.time() + table_seconds)):
                rows.append(dataclasses.asdict(row))
                say(str(row))
                note(table=rows)

    studies = list(store.scan([Path(each) for each in given.config.data.shards]))
    before = _seconds_before(run_folder)
    settings = dataclasses.replace(
        given.config.train,
        workers=workers,
        steps=1 << 30,
        seconds=before + max(1.0, end - time.time() - MARGIN),
        checkpoint_every=1 << 30,
        evaluate_every=1 << 30,
        checkpoint_seconds=save_every,
    )

    def report(news: Report) -> None:
        (run_folder / "seconds").write_text(repr(news.seconds), "utf-8")
        note(last=dataclasses.asdict(news), seconds=time.time() - began)
        measured = "" if news.validation is None else f", validation {_short(news.validation)}"
        say(
            f"step {news.step:,}: loss {news.loss:.4f}, value {news.value:.4f}, "
            f"{news.tokens_per_second:,.0f} tokens/s, waiting {news.waiting:.1%}{measured}"
        )

    def saved(name: str, model: Checkpoint) -> None:
        size = sum(array.size for array in flatten(model.weights).values())
        target = out / ("best" if name == "best" else "last")
        checkpoint.save(model, target, half=4 * size > file_bytes)
        if name != "best" and not (out / "best").is_dir():
            # Replacing a folder leaves a moment without it: never without both.
            checkpoint.save(model, out / "best", half=4 * size > file_bytes)
        shutil.copyfile(run_folder / METRICS, out / METRICS)

    train(
        dataclasses.replace(given.config, train=settings),
        run_folder,
        studies,
        report=report,
        report_seconds=5.0,
        say=say,
        saved=saved,
    )
    say(f"ended {end - time.time():.0f} s before its time; the models are in {out}")


def _seconds_before(run_folder: Path) -> float:
    """How long the run in the folder has trained so far."""
    path = run_folder / "seconds"
    return float(path.read_text("utf-8")) if path.is_file() else 0.0


def _short(numbers: object) -> str:
    if isinstance(numbers, dict):
        return ", ".join(f"{name} {number:.4f}" for name, number in numbers.items())
    assert isinstance(numbers, list | tuple)
    return ", ".join(f"{number:.4f}" for number in numbers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
