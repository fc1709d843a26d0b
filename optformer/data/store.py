"""Studies on disk: a folder of Parquet shards with one row for each study.

Columns: `name`, `title`, `algorithm`, `source` (where the study came from), `trials` and
`parameters` (their numbers), `metadata` and `space` (search space and metrics) as JSON (see
`study_json`), `values[trial][parameter]` (a category's index for CATEGORICAL; null where a
conditional parameter is inactive), `metrics[trial][metric]` (null where not measured),
`states[trial]` (0 completed, 1 infeasible, 2 active), `predictive[trial]` (mean and standard
deviation of the first metric if the generator provides them, otherwise null), `notes[trial]`
(texts of the trial as JSON; null if no trial has any), `data_set` (of the objective, if known), and
learning curves with one item for each measurement: `curve_trials` (the trial, from 0),
`curve_steps` and `curve_metrics[measurement][metric]`; null if there are none. For example

    duckdb -c "SELECT algorithm, count(*), sum(trials) FROM 'shards/*.parquet' GROUP BY 1"

A shard gets its name only when it is complete, so an interrupted write leaves no partial shard.
Processes that write to the same folder at the same time need different prefixes.
"""

import contextlib
import dataclasses
import functools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float64

from optformer.convert.study_json import problem_from_json, space_to_json
from optformer.errors import SourceError, make_folder
from optformer.files import atomic_write
from optformer.study import Curves, Problem, State, Study

FORMAT = "optformer-studies"
VERSION = 1

_FORMAT_KEY = b"optformer.format"
_VERSION_KEY = b"optformer.version"
_POSITION_KEY = b"optformer.position"
_LISTS = pa.list_(pa.list_(pa.float64()))
_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("algorithm", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("trials", pa.int32(), nullable=False),
        pa.field("parameters", pa.int32(), nullable=False),
        pa.field("metadata", pa.string(), nullable=False),
        pa.field("space", pa.string(), nullable=False),
        pa.field("values", _LISTS, nullable=False),
        pa.field("metrics", _LISTS, nullable=False),
        pa.field("states", pa.list_(pa.int8()), nullable=False),
        pa.field("predictive", _LISTS),
        pa.field("notes", pa.list_(pa.string())),
        pa.field("data_set", pa.string()),
        pa.field("curve_trials", pa.list_(pa.int32())),
        pa.field("curve_steps", pa.list_(pa.float64())),
        pa.field("curve_metrics", _LISTS),
    ]
)
# Older shards do not have these columns, which then read as null.
_ADDED = ("notes", "data_set", "curve_trials", "curve_steps", "curve_metrics")
_TEXT_COLUMNS = ["name", "title", "algorithm", "source", "metadata", "space"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """Counts of a shard folder: in total, and by dimension, algorithm and source."""

    shards: int
    bytes: int
    studies: int
    trials: int
    dimensions: Mapping[int, int]  # number of parameters -> studies
    algorithms: Mapping[str, int]  # -> studies
    sources: Mapping[str, int]  # -> studies
    states: Mapping[str, int]  # -> trials
    spaces: int  # different search spaces


def write(
    studies: Iterable[Study],
    folder: Path,
    *,
    source: str,
    studies_per_shard: int = 4096,
    trials_per_shard: int = 262_144,
    prefix: str = "shard",
    position: Callable[[], Mapping[str, object]] | None = None,
) -> list[Path]:
    """Adds the studies to the folder as new shards; returns their paths.

    Only the studies of one shard are in memory. `position` is called when a shard is closed,
    before the next study is drawn from `studies`, and its result is stored in the shard. An
    interrupted writer can read it with `positions` to resume.
    """
    make_folder(folder)
    used = [path.stem.rpartition("-")[2] for path in folder.glob(f"{prefix}-*.parquet")]
    number = 1 + max((int(digits) for digits in used if digits.isdigit()), default=-1)
    written: list[Path] = []
    batch: list[Study] = []
    trials = 0

    def close() -> None:
        nonlocal trials
        path = folder / f"{prefix}-{number + len(written):05d}.parquet"
        _write_shard(batch, path, source=source, position=position() if position else {})
        written.append(path)
        batch.clear()
        trials = 0

    for study in studies:
        batch.append(study)
        trials += len(study)
        if len(batch) >= studies_per_shard or trials >= trials_per_shard:
            close()
    if batch:
        close()
    return written


def shard_paths(source: Path | Sequence[Path]) -> list[Path]:
    """The shards of a folder, or of several folders and files, in order of their names.

    Raises:
      SourceError: a path does not exist, or a folder has no shards.
    """
    paths = [source] if isinstance(source, Path) else source
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            shards = sorted(p for p in path.glob("*.parquet") if not p.name.startswith("."))
            if not shards:
                raise SourceError(
                    f"{path} has no study shards (*.parquet). "
                    "Make some with 'optformer import' or 'optformer generate'."
                )
            found += shards
        elif path.is_file():
            found.append(path)
        else:
            raise SourceError(f"{path} does not exist. Give a folder of study shards or a shard.")
    return found


def scan(source: Path | Sequence[Path]) -> Iterator[Study]:
    """All studies, one shard in memory at a time."""
    for path in shard_paths(source):
        yield from read_shard(path)


def read_shard(path: Path) -> list[Study]:
    """The studies of one shard. Their arrays are read-only views of one block of memory.

    Raises:
      SourceError: the file is damaged, of another version, or not a shard.
    """
    with _reading(path):
        file = _open(path)
        # Threads would compete with other readers, and one core reads 1M trials per second.
        table = file.read(use_threads=False).combine_chunks()
        values_of = _matrices(table["values"])
        metrics_of = _matrices(table["metrics"])
        predictive_of = _matrices(table["predictive"])
        has_predictive = table["predictive"].is_valid().to_numpy()
        ends = np.cumsum(table["trials"].to_numpy())
        states = pc.list_flatten(table["states"]).to_numpy().astype(np.int8, copy=False)
        text = {column: table[column].to_pylist() for column in _TEXT_COLUMNS}
        for column in _ADDED:
            if column not in table.column_names:
                field = _SCHEMA.field(column)
                table = table.append_column(field, pa.nulls(len(table), field.type))
        notes = table["notes"].to_pylist()
        data_sets = table["data_set"].to_pylist()
        curves_of = _curves(table)
        studies = []
        start = 0
        for index, end in enumerate(ends):
            problem = dataclasses.replace(
                _space(text["space"][index]),
                name=text["name"][index],
                title=text["title"][index],
                metadata=tuple(json.loads(text["metadata"][index]).items()),
            )
            studies.append(
                Study(
                    problem=problem,
                    algorithm=text["algorithm"][index],
                    values_RP=values_of(index, len(problem.parameters)),
                    metrics_RM=metrics_of(index, len(problem.metrics)),
                    states_R=states[start:end],
                    predictive_R2=predictive_of(index, 2) if has_predictive[index] else None,
                    notes=_notes(notes[index]),
                    curves=curves_of(index, len(problem.metrics)),
                    data_set=data_sets[index] or "",
                )
            )
            start = end
    return studies


def positions(folder: Path) -> list[Mapping[str, object]]:
    """The positions that `write` stored in the folder's shards, in order; empty by default."""
    if not folder.is_dir():
        return []
    return [_position(path) for path in sorted(folder.glob("[!.]*.parquet"))]


def summarize(source: Path | Sequence[Path]) -> Summary:
    """Counts of the shards, without reading the trials' values.

    Raises:
      SourceError: as `read_shard`.
    """
    paths = shard_paths(source)
    dimensions: Counter[int] = Counter()
    algorithms: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    states: Counter[str] = Counter()
    spaces: set[int] = set()
    trials = 0
    for path in paths:
        with _reading(path):
            table = _open(path).read(
                columns=["algorithm", "source", "trials", "parameters", "space", "states"],
                use_threads=False,
            )
            for column, counter in (
                ("parameters", dimensions),
                ("algorithm", algorithms),
                ("source", sources),
            ):
                for item in table[column].value_counts().to_pylist():
                    counter[item["values"]] += item["counts"]
            for item in pc.list_flatten(table["states"]).value_counts().to_pylist():
                states[State(item["values"]).name] += item["counts"]
            spaces.update(hash(text) for text in table["space"].unique().to_pylist())
            trials += pc.sum(table["trials"]).as_py()
    return Summary(
        shards=len(paths),
        bytes=sum(path.stat().st_size for path in paths),
        studies=dimensions.total(),
        trials=trials,
        dimensions=dict(sorted(dimensions.items())),
        algorithms=dict(algorithms.most_common()),
        sources=dict(sources.most_common()),
        states=dict(states.most_common()),
        spaces=len(spaces),
    )


def _write_shard(
    studies: Sequence[Study], path: Path, *, source: str, position: Mapping[str, object]
) -> None:
    trials = np.array([len(study) for study in studies], dtype=np.int32)
    curves = [study.curves or None for study in studies]  # none of them is empty
    columns = [
        pa.array([study.problem.name for study in studies]),
        pa.array([study.problem.title for study in studies]),
        pa.array([study.algorithm for study in studies]),
        pa.array([source] * len(studies)),
        pa.array(trials),
        pa.array([len(study.problem.parameters) for study in studies], pa.int32()),
        pa.array([_dumps(dict(study.problem.metadata)) for study in studies]),
        pa.array([_dumps(space_to_json(study.problem)) for study in studies]),
        _nested([study.values_RP for study in studies]),
        _nested([study.metrics_RM for study in studies]),
        pa.ListArray.from_arrays(
            _offsets(trials), pa.array(np.concatenate([study.states_R for study in studies]))
        ),
        _nested([study.predictive_R2 for study in studies]),
        pa.array(
            [study.notes and [_dumps(note) for note in study.notes] for study in studies],
            pa.list_(pa.string()),
        ),
        pa.array([study.data_set or None for study in studies], pa.string()),
        pa.array([c and c.trial_C.tolist() for c in curves], pa.list_(pa.int32())),
        pa.array([c and c.step_C.tolist() for c in curves], pa.list_(pa.float64())),
        _nested([c and c.values_CM for c in curves]),
    ]
    metadata = {
        _FORMAT_KEY: FORMAT.encode(),
        _VERSION_KEY: str(VERSION).encode(),
        _POSITION_KEY: json.dumps(position).encode(),
    }
    table = pa.Table.from_arrays(columns, schema=_SCHEMA.with_metadata(metadata))
    with atomic_write(path) as place, place.open("wb") as file:
        pq.write_table(table, file, compression="zstd", use_dictionary=_TEXT_COLUMNS)
        file.flush()
        os.fsync(file.fileno())


def _nested(matrices: Sequence[Float64[np.ndarray, "_ _"] | None]) -> pa.ListArray:
    """A column with one matrix in each row; NaN and missing matrices become null."""
    given = [matrix for matrix in matrices if matrix is not None]
    lengths = np.array([0 if matrix is None else len(matrix) for matrix in matrices])
    widths = np.repeat([matrix.shape[1] for matrix in given], [len(matrix) for matrix in given])
    flat = np.concatenate([np.empty(0), *(matrix.ravel() for matrix in given)])
    rows = pa.ListArray.from_arrays(_offsets(widths), pa.array(flat, mask=np.isnan(flat)))
    missing = np.array([matrix is None for matrix in matrices])
    return pa.ListArray.from_arrays(
        _offsets(lengths), rows, mask=pa.array(missing) if missing.any() else None
    )


def _curves(table: pa.Table) -> Callable[[int, int], Curves | None]:
    """A function from a row's index and a number of metrics to that row's curves."""
    trials, steps = table["curve_trials"].to_pylist(), table["curve_steps"].to_pylist()
    values_of = _matrices(table["curve_metrics"])

    def curves(index: int, metrics: int) -> Curves | None:
        if trials[index] is None:
            return None
        return Curves(
            trial_C=np.array(trials[index], dtype=np.int32),
            step_C=np.array(steps[index], dtype=np.float64),
            values_CM=values_of(index, metrics),
        )

    return curves


def _notes(texts: Sequence[str] | None) -> tuple[Mapping[str, str], ...] | None:
    return None if texts is None else tuple(json.loads(text) for text in texts)


def _dumps(document: Mapping[str, object]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _offsets(lengths: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _matrices(
    column: pa.ChunkedArray,
) -> Callable[[int, int], Float64[np.ndarray, "R C"]]:
    """A function that returns the matrix of a row, given its index and number of columns."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # an empty column
        array = pa.concat_arrays(array.chunks)
    offsets = array.offsets.to_numpy()
    rows = array.values
    starts = rows.offsets.to_numpy()
    # Null reads as NaN.
    flat = pc.fill_null(rows.values, np.nan).to_numpy()

    def matrix(index: int, width: int) -> Float64[np.ndarray, "R C"]:
        first, last = starts[offsets[index]], starts[offsets[index + 1]]
        return flat[first:last].reshape(-1, width)

    return matrix


@functools.lru_cache(maxsize=1024)
def _space(space: str) -> Problem:
    """The problem of a `space`, without name; studies of one search space share its parameters."""
    return problem_from_json(json.loads(space))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        if path.suffix != ".parquet":
            raise SourceError(
                f"{path} is not a study shard. If it is a study log, import it first: optformer "
                f"import {path} FOLDER."
            ) from error
        raise SourceError(
            f"{path} is damaged and cannot be read ({str(error).splitlines()[0][:200]}). "
            "Restore it from a copy, or delete it and import its studies again."
        ) from error


def _open(path: Path) -> pq.ParquetFile:
    file = pq.ParquetFile(path)
    metadata = file.schema_arrow.metadata or {}
    if metadata.get(_FORMAT_KEY) != FORMAT.encode():
        raise SourceError(
            f"{path} is a Parquet file, but does not contain optformer studies. "
            "Move it out of the shard folder, or import its trials from CSV or JSON Lines."
        )
    version = metadata.get(_VERSION_KEY, b"").decode()
    if version != str(VERSION):
        raise SourceError(
            f"{path} has version {version} of the shard format, but this version of optformer "
            f"reads version {VERSION}. Import its source again, or use the version that wrote it."
        )
    return file


def _position(path: Path) -> Mapping[str, object]:
    with _reading(path):
        return json.loads(_open(path).schema_arrow.metadata.get(_POSITION_KEY, b"{}"))
