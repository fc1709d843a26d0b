"""Study logs from wherever people keep them, read one study at a time and written as shards.

`read` detects the format of a source and yields its studies; `import_studies` also writes them,
resumes after an interruption, removes text, and reports the result. A bad trial is left out and
counted, its study stays; so is a bad study among good ones. A source that cannot be read at all is
a `SourceError`. Every format has its module, whose docstring describes it (`describe`).
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import get_args

from optformer.data import store
from optformer.data.importers import (
    ax_csv,
    hyperopt,
    mlflow_csv,
    optuna_csv,
    ray_tune,
    smac,
    syne_tune,
    wandb_csv,
)
from optformer.data.importers.describe import describe, page
from optformer.data.importers.detect import FORMATS, Format, detect, paths_of
from optformer.data.importers.privacy import Privacy, key_beside
from optformer.data.importers.record import Fate, Options, OutOfRange, Record, Remark
from optformer.errors import SourceError, did_you_mean
from optformer.study import Goal, Study

__all__ = [
    "FORMATS",
    "Format",
    "ImportReport",
    "Progress",
    "Remark",
    "describe",
    "detect",
    "import_studies",
    "page",
    "read",
]

# The tools that write files of their own, which need no library to be read.
_TOOLS = {
    "optuna-csv": optuna_csv.studies,
    "wandb": wandb_csv.studies,
    "mlflow": mlflow_csv.studies,
    "ray-tune": ray_tune.studies,
    "syne-tune": syne_tune.studies,
    "smac": smac.studies,
    "hyperopt": hyperopt.studies,
    "ax": ax_csv.studies,
}
_EXAMPLES = 3  # of each kind of remark, in a report


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """How far an import is: share of the source read, and counts so far."""

    done: float
    studies: int
    trials: int
    skipped: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What an import did.

    Attributes:
      studies, trials: how many were written by this run.
      parameters: how many different parameter names they have.
      algorithms: name -> studies.
      skipped: kind of fault -> studies that were not imported for it.
      left_out: kind of fault -> trials that were left out of imported studies.
      infeasible: kind of fault -> trials that count as infeasible for it.
      assumed: what a log does not say -> studies for which it was assumed.
      examples: the first few of each kind.
      resumed_at: how many studies of the source an earlier run had dealt with.
      shards: the files written.
    """

    source: str
    format: Format
    studies: int
    trials: int
    parameters: int
    algorithms: Mapping[str, int]
    skipped: Mapping[str, int]
    left_out: Mapping[str, int]
    infeasible: Mapping[str, int]
    assumed: Mapping[str, int]
    examples: tuple[Remark, ...]
    resumed_at: int
    shards: tuple[Path, ...]
    seconds: float


def read(
    source: str,
    *,
    format: str | None = None,
    out_of_range: OutOfRange = "drop",
    algorithm: str = "",
    spec: Path | None = None,
    metric: str = "",
    goal: Goal | None = None,
) -> Iterator[Study | Remark]:
    """The studies of a log, and why others could not be read, one at a time.

    Args:
      source: a file, a folder, or a database URL.
      format: one of `FORMATS`; detected if not given.
      out_of_range: "drop" leaves out a trial with a number outside its parameter's bounds, "clip"
        moves the number to the nearest allowed one.
      algorithm: who chose the trials, where the log does not say.
      spec: the search space of a CSV file; by default the .toml or .json file beside it.
      metric, goal: the objective and which way it improves, where the log does not say.

    Raises:
      SourceError: the source is missing, damaged, of an unknown format or without studies.
    """
    options = Options(
        out_of_range=out_of_range, algorithm=algorithm, spec=spec, metric=metric, goal=goal
    )
    chosen = _checked(source, format, spec)
    empty = True
    for record, _ in _records(source, chosen, options, start=0):
        empty = False
        yield record
    if empty:
        raise _no_studies(source, chosen)


def import_studies(
    source: str,
    out: Path,
    *,
    format: str | None = None,
    out_of_range: OutOfRange = "drop",
    algorithm: str = "",
    spec: Path | None = None,
    metric: str = "",
    goal: Goal | None = None,
    drop_text: bool = False,
    hash_names: bool = False,
    studies_per_shard: int = 4096,
    trials_per_shard: int = 262_144,
    progress: Callable[[Progress], None] | None = None,
) -> ImportReport:
    """Writes the studies of a log as shards into the folder `out`.

    Shards that are there stay. An interrupted import resumes after its last shard when it is
    started again; a finished one has nothing more to do.

    Args:
      drop_text: number the studies; keep no titles, metadata or name of the source.
      hash_names: replace the names of studies, parameters, metrics and categories by hashes,
        whose key is kept beside the folder and not in it.
      progress: called after every study.

    Raises:
      SourceError: as `read`; also if no study at all can be used, or if the source or the
        options changed since an earlier import of it into this folder.
    """
    began = time.monotonic()
    options = Options(
        out_of_range=out_of_range, algorithm=algorithm, spec=spec, metric=metric, goal=goal
    )
    chosen = _checked(source, format, spec)
    private = drop_text or hash_names
    privacy = Privacy(
        drop_text=drop_text, hash_names=hash_names, key=key_beside(out) if private else b""
    )
    place = source if "://" in source else str(Path(source).resolve())
    identity = privacy.hash(place)
    state = privacy.hash(repr((options, drop_text, hash_names, _stamp(source))))
    start = _resume(source, out, identity, state)

    consumed, studies, trials, skips = start, 0, 0, 0
    names: set[str] = set()
    algorithms: Counter[str] = Counter()
    counts: dict[Fate, Counter[str]] = {fate: Counter() for fate in get_args(Fate)}
    examples: dict[str, list[Remark]] = {}

    def good() -> Iterator[Study]:
        nonlocal consumed, studies, trials, skips
        for record, done in _records(source, chosen, options, start=start):
            if isinstance(record, Remark):
                counts[record.fate][record.kind] += record.trials or 1
                seen = examples.setdefault(record.kind, [])
                if len(seen) < _EXAMPLES:
                    seen.append(record)
                if record.fate != "skipped":
                    continue
                consumed, skips = consumed + 1, skips + 1
            else:
                consumed, studies, trials = consumed + 1, studies + 1, trials + len(record)
                names.update(parameter.name for parameter in record.problem.parameters)
                algorithms[record.algorithm] += 1
                yield privacy.apply(record, consumed) if private else record
            if progress is not None:
                progress(Progress(done=done, studies=studies, trials=trials, skipped=skips))

    shards = store.write(
        good(),
        out,
        source=chosen if drop_text else privacy.hash(place) if hash_names else _label(source),
        studies_per_shard=studies_per_shard,
        trials_per_shard=trials_per_shard,
        position=lambda: {"identity": identity, "state": state, "consumed": consumed},
    )
    flat = tuple(example for kind in examples.values() for example in kind)
    if consumed == 0:
        raise _no_studies(source, chosen)
    if studies == start == 0:
        raise SourceError(
            f"{source}: none of its {consumed} studies can be used. The first: {flat[0]}"
        )
    return ImportReport(
        source=_label(source),
        format=chosen,
        studies=studies,
        trials=trials,
        parameters=len(names),
        algorithms=dict(algorithms.most_common()),
        skipped=dict(counts["skipped"].most_common()),
        left_out=dict(counts["left out"].most_common()),
        infeasible=dict(counts["infeasible"].most_common()),
        assumed=dict(counts["assumed"].most_common()),
        examples=flat,
        resumed_at=start,
        shards=tuple(shards),
        seconds=time.monotonic() - began,
    )


def _records(source: str, chosen: Format, options: Options, *, start: int) -> Iterator[Record]:
    # Each importer brings its own library, and only the one at work is loaded.
    match chosen:
        case "jsonl":
            from optformer.data.importers import jsonl

            return jsonl.studies(source, options, start=start)
        case "csv":
            from optformer.data.importers import csv

            return csv.studies(source, options, start=start)
        case "hpob":
            from optformer.data.importers import hpob

            return hpob.studies(source, options, start=start)
        case "vizier":
            from optformer.data.importers import vizier

            return vizier.database_studies(source, options, start=start)
        case "vizier-protos":
            from optformer.data.importers import vizier

            return vizier.proto_studies(source, options, start=start)
        case "optuna" | "optuna-journal":
            try:
                from optformer.data.importers import optuna
            except ModuleNotFoundError as error:
                raise SourceError(
                    f"{source} is Optuna's, and {error.name} is not installed. "
                    "Install it: pip install 'optformer[optuna]'"
                ) from error
            return optuna.studies(source, options, start=start, journal=chosen == "optuna-journal")
    return _TOOLS[chosen](paths_of(source, chosen), options, start=start)


def _checked(source: str, format: str | None, spec: Path | None) -> Format:
    """The format to use: the one that is named, or else the one that is detected."""
    if format is None:
        return detect(source, spec=spec)
    for known in FORMATS:
        if format == known:
            if "://" not in source and not Path(source).exists():
                raise SourceError(f"{source} does not exist. Check the path.")
            return known
    raise SourceError(
        f"format {format!r} is not one of {', '.join(FORMATS)}.{did_you_mean(format, FORMATS)}"
    )


def _resume(source: str, out: Path, identity: str, state: str) -> int:
    earlier = [p for p in store.positions(out) if p.get("identity") == identity]
    if not earlier:
        return 0
    if any(position.get("state") != state for position in earlier):
        raise SourceError(
            f"{source} was imported into {out} before, and it or the options have changed since. "
            "Import it into a new folder, or delete this one first."
        )
    return max(int(str(position["consumed"])) for position in earlier)


def _stamp(source: str) -> tuple[tuple[str, int, int], ...]:
    """What changes when the files of a source do; empty for a database behind a URL."""
    path = Path(source)
    if "://" in source or not path.exists():
        return ()
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file.name, file.stat()) for file in files]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def _label(source: str) -> str:
    """How shards name the source: a file's own name, or a URL without its password."""
    if "://" in source:
        from optformer.data.importers.sql import shown

        return shown(source)
    return Path(source).name


def _no_studies(source: str, chosen: Format) -> SourceError:
    return SourceError(
        f"{source} holds no studies (read as {chosen}). Check that the export is complete, or "
        "name another format."
    )
