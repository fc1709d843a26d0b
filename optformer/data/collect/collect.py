"""Real tuning studies -> shards, by as many processes as there are cores, or by a Ray cluster.

Each study is written as soon as it is made, so that a run that was killed goes on with the numbers
that are missing.

    OUT/collected-*.parquet   shards: of one study each at first, and merged when there are enough
    OUT/journal.jsonl         what came of each number: table, learner, and why it does not count
    OUT/manifest.json         counts by learner and table, refusals, failures, times
"""

import dataclasses
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from optformer.data import store
from optformer.data.collect.config import CollectConfig
from optformer.data.collect.plan import Assignment, Plan, make_plan
from optformer.data.collect.tuning import Made, make_study
from optformer.data.processes import WorkerDied, run_tasks
from optformer.errors import SourceError, make_folder
from optformer.files import atomic_write
from optformer.progress import Progress, silent
from optformer.study import Study

MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
_SOURCE = "collect"

Record = Mapping[str, object]


def collect(
    config: CollectConfig,
    folder: Path,
    *,
    seed: int = 0,
    studies: int,
    workers: int = 1,
    cluster: str | None = None,
    progress: Progress = silent,
) -> Mapping[str, object]:
    """Makes the studies with the numbers below `studies`, and the manifest; returns that.

    What was made before is kept, so that after a kill the same call goes on. Apart from seconds,
    and from fits that only just exceed their limit, no study depends on `workers` or `cluster`.
    Studies that do not count are missing, and the manifest says why. `progress` counts numbers.

    Args:
      workers: processes on this machine, each with one more that trains and can be stopped.
      cluster: the address of a Ray cluster, which then does the work (see `processes.run_tasks`).
        Its machines send the studies here, and need the same tables at the same places.

    Raises:
      ConfigError: unknown names, missing packages, or no cluster.
      SourceError: no tables where some should be, or the folder holds shards of another run.
    """
    make_folder(folder)
    plan = make_plan(config, seed)
    run = _Run(folder=folder, stream=_fingerprint(config, plan))
    done = run.resume()
    todo = [plan.assignment(number) for number in range(studies) if number not in done]
    ready, fits, began = studies - len(todo), 0, time.monotonic()
    progress(ready, studies)
    tasks = [_Task(config=config, seed=seed, assignment=assignment) for assignment in todo]
    try:
        for _, made in run_tasks(_make, tasks, workers=workers, cluster=cluster):
            run.keep(made)
            run.merge(at_least=config.studies_per_shard)
            ready, fits = ready + 1, fits + made.fits
            rate = fits / (time.monotonic() - began)
            progress(ready, studies, f"{rate:,.1f} fits/s")
    except WorkerDied as error:
        raise WorkerDied(
            f"{error} Try fewer workers or fewer rows. Studies that are finished stay; the same "
            "command goes on after them."
        ) from error
    run.merge(at_least=2)
    manifest = _manifest(config, seed, plan, run.records())
    with atomic_write(folder / MANIFEST) as path:
        path.write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    return manifest


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Task:
    """A study to make."""

    config: CollectConfig
    seed: int
    assignment: Assignment


def _make(task: _Task) -> Made:
    return make_study(task.config, task.seed, task.assignment)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """What a folder holds of a run."""

    folder: Path
    stream: str

    def resume(self) -> set[int]:
        """The numbers that need not be made again; tidies what a kill left.

        Raises:
          SourceError: the folder holds anything else.
        """
        positions = store.positions(self.folder)
        if any(position.get("stream") != self.stream for position in positions):
            raise SourceError(
                f"{self.folder} holds shards of another config, seed or set of tables, or that "
                "were imported. Collect into an empty folder; training can read several."
            )
        records = self.records()
        done = {int(str(record["number"])) for record in records}
        merged = {
            number for path, numbers in self._shards() if len(numbers) > 1 for number in numbers
        }
        for path, numbers in self._shards():
            # Written before the journal's line, or merged just before the kill.
            if len(numbers) == 1 and (numbers[0] not in done or numbers[0] in merged):
                path.unlink()
        if (self.folder / JOURNAL).exists():  # without half a line at its end
            with atomic_write(self.folder / JOURNAL) as path:
                path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
        return done

    def records(self) -> list[Record]:
        """The journal, by number."""
        path = self.folder / JOURNAL
        lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        return sorted(records, key=lambda record: record["number"])

    def keep(self, made: Made) -> None:
        """Writes the study, if it counts, and then that its number is done."""
        number = made.assignment.number
        if made.study is not None:
            self._write([made.study], [number])
        record = {
            "number": number,
            "learner": made.assignment.learner,
            "table": made.assignment.table,
            "refused": made.refused,
            "failures": dict(made.failures),
            "fits": made.fits,
            "fit_seconds": round(made.fit_seconds, 3),
            "seconds": round(made.seconds, 3),
        }
        with (self.folder / JOURNAL).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def merge(self, *, at_least: int) -> None:
        """Makes one shard of all that hold one study, if there are so many."""
        single = [(numbers[0], path) for path, numbers in self._shards() if len(numbers) == 1]
        if len(single) < at_least:
            return
        single.sort()
        studies = [study for _, path in single for study in store.read_shard(path)]
        self._write(studies, [number for number, _ in single])
        for _, path in single:
            path.unlink()

    def _write(self, studies: Sequence[Study], numbers: Sequence[int]) -> None:
        kind = "" if len(numbers) == 1 else "s"
        store.write(
            studies,
            self.folder,
            source=_SOURCE,
            studies_per_shard=len(studies) + 1,
            trials_per_shard=2**62,
            prefix=f"collected{kind}-{numbers[0]:06d}",
            position=lambda: {"stream": self.stream, "numbers": list(numbers)},
        )

    def _shards(self) -> list[tuple[Path, list[int]]]:
        """Every shard with the numbers of its studies."""
        paths = sorted(self.folder.glob("[!.]*.parquet"))
        found = []
        for path, position in zip(paths, store.positions(self.folder), strict=True):
            numbers = position["numbers"]
            assert isinstance(numbers, list)
            found.append((path, [int(number) for number in numbers]))
        return found


def _fingerprint(config: CollectConfig, plan: Plan) -> str:
    """Tells runs apart: what is made, and from which tables."""
    tables = {name: [table.name for table in tables] for name, tables in plan.allowed.items()}
    settings = dataclasses.asdict(config)
    for key in ("folders", "held_out", "studies_per_shard"):  # what they lead to is in `tables`
        del settings[key]
    text = json.dumps({"config": settings, "seed": plan.seed, "tables": tables}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _manifest(
    config: CollectConfig, seed: int, plan: Plan, records: Sequence[Record]
) -> Mapping[str, object]:
    kept = [record for record in records if not record["refused"]]
    failures: Counter[str] = Counter()
    for record in records:
        counts = record["failures"]
        assert isinstance(counts, Mapping)
        failures.update(counts)
    seconds = sum(float(str(record["seconds"])) for record in records)
    fits = sum(int(str(record["fits"])) for record in records)
    return {
        "studies": len(kept),
        "trials": len(kept) * config.configurations,
        "fits": fits,
        "seconds": round(seconds, 1),
        "fits_per_second": round(fits / seconds, 2) if seconds else 0.0,
        "seed": seed,
        "studies_by_learner": _counts(str(record["learner"]) for record in kept),
        "studies_by_table": _counts(
            str(record["table"]).partition("/")[0]
            if "synthetic/" in str(record["table"])
            else str(record["table"])
            for record in kept
        ),
        "studies_refused": _counts(
            str(record["refused"]) for record in records if record["refused"]
        ),
        "failures": dict(failures.most_common()),
        "tables_refused": dict(plan.refused),
        "config": dataclasses.asdict(config),
    }


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())
