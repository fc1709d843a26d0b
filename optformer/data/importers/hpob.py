"""HPO-B's released JSON files: every table, a search space on a data set, is a study.

    {"4796": {"3549": {"X": [[0.25, 0.5], [1.0, 0.0]], "y": [[0.75], [0.5]]}}}

A file, or a folder with meta-*-dataset*.json (https://github.com/machinelearningnuremberg/HPO-B).
Inputs are scaled to [0, 1], `y` is an accuracy. Rows are in no order of a search, so the studies
say no algorithm. Parameter names are read from meta-dataset-descriptors.json beside the file, where
it is. Of a file and its augmented twin in one folder, only the file itself is read: the twin holds
the same tables.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from json.decoder import JSONDecodeError
from pathlib import Path

import numpy as np

from optformer.data.importers.record import Options, Record, Remark, records, skipped
from optformer.errors import SourceError, StudyError
from optformer.study import Metric, Parameter, ParameterType, Problem, Scale, Study, Trial

DESCRIPTORS = "meta-dataset-descriptors.json"
_SPACING = " \t\r\n"
_TWIN = "-augmented"


def studies(source: str, options: Options, *, start: int = 0) -> Iterator[Record]:
    """The tables of a file, or of all meta-*-dataset*.json of a folder by name.

    One file's text and one table are in memory at a time.

    Args:
      start: how many studies to pass over.
    """
    path = Path(source)
    paths = files_of(path) if path.is_dir() else [path]
    sizes = [file.stat().st_size for file in paths]
    before = 0
    for file, size in zip(paths, sizes, strict=True):
        if file.stem.endswith(_TWIN) and file.with_stem(file.stem.removesuffix(_TWIN)) in paths:
            start -= 1
            if start < 0:
                same = f"{file.name} holds the tables of its twin without {_TWIN!r} once more."
                yield skipped(same, where=str(file), study=""), before / sum(sizes)
            continue
        names = _names(file.with_name(DESCRIPTORS))
        for space, dataset, table, share in _tables(file):
            if start > 0:
                start -= 1
                continue
            done = (before + share * size) / sum(sizes)
            for record in _study(file, space, dataset, table, names.get(space, ()), options):
                yield record, done
        before += size


def files_of(folder: Path) -> list[Path]:
    """The files with tables of a folder in order of their names."""
    return sorted(folder.glob("meta-*-dataset*.json"))


def _study(
    file: Path, space: str, dataset: str, table: object, names: Sequence[str], options: Options
) -> Iterator[Study | Remark]:
    name = f"hpob/{space}/{dataset}"
    if not isinstance(table, Mapping) or not {"X", "y"} <= table.keys():
        reason = f"study {name!r}: a table needs the keys 'X' and 'y'."
        yield skipped(reason, where=str(file), study=name)
        return
    inputs, outputs = table["X"], table["y"]
    is_table = isinstance(inputs, list) and isinstance(outputs, list)
    if not is_table or len(inputs) != len(outputs) or not all(isinstance(x, list) for x in inputs):
        reason = f"study {name!r}: X and y must be lists of the same length, one row a trial."
        yield skipped(reason, where=str(file), study=name)
        return
    width = len(inputs[0]) if inputs else 0
    if len(names) != width:
        names = [f"x{index}" for index in range(width)]
    try:
        problem = Problem(
            name=name,
            title=f"HPO-B search space {space} on OpenML data set {dataset}",
            parameters=tuple(
                Parameter(
                    name=parameter,
                    type=ParameterType.DOUBLE,
                    scale=Scale.LINEAR,
                    bounds=(0.0, 1.0),
                )
                for parameter in names
            ),
            metrics=(Metric(name="accuracy"),),
        )
    except StudyError as error:
        yield skipped(error, where=str(file), study=name)
        return
    trials = [_trial(names, row, value) for row, value in zip(inputs, outputs, strict=True)]
    yield from records(problem, trials, algorithm="", options=options, where=str(file))


def _trial(names: Sequence[str], row: Sequence[object], value: object) -> Trial | StudyError:
    if len(row) != len(names):
        return StudyError(f"the row has {len(row)} inputs, but the first has {len(names)}.")
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    try:
        accuracy = np.nan if value is None else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return StudyError(f"accuracy={value!r} is not a number.")
    for name, number in zip(names, row, strict=True):
        if not isinstance(number, float | int) or isinstance(number, bool):
            return StudyError(f"{name}={number!r} is not a number.")
    return Trial(parameters=dict(zip(names, row, strict=True)), metrics={"accuracy": accuracy})  # type: ignore[arg-type]


def _names(path: Path) -> Mapping[str, Sequence[str]]:
    """Search space -> the names of its inputs; empty without a descriptor file."""
    if not path.is_file():
        return {}
    try:
        spaces = json.loads(path.read_text(encoding="utf-8"))
        return {space: spaces[space]["variables_order"] for space in spaces}
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"{path} is not HPO-B's descriptor file ({error!r}). Restore it, or move it away to "
            "import without parameter names."
        ) from error


def _tables(path: Path) -> Iterator[tuple[str, str, object, float]]:
    """Space, data set, table and share of the file read; the whole file as objects is too much."""
    decoder = json.JSONDecoder()
    try:
        text = path.read_text(encoding="utf-8")
        at = _after(text, 0, "{")
        while not _is(text, at, "}"):
            space, at = decoder.raw_decode(text, _skip(text, at))
            at = _after(text, _after(text, at, ":"), "{")
            while not _is(text, at, "}"):
                dataset, at = decoder.raw_decode(text, _skip(text, at))
                at = _skip(text, _after(text, at, ":"))
                table, at = decoder.raw_decode(text, at)
                yield space, dataset, table, at / len(text)
                at = _after(text, at, ",") if _is(text, at, ",") else at
            at = _after(text, at, "}")
            at = _after(text, at, ",") if _is(text, at, ",") else at
    except (JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(
            f"{path} is not one of HPO-B's files ({error}). They hold {{space: {{data set: "
            "{X, y}}}}. Download it again, or name another --format."
        ) from error


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACING:
        at += 1
    return at


def _is(text: str, at: int, mark: str) -> bool:
    return text.startswith(mark, _skip(text, at))


def _after(text: str, at: int, mark: str) -> int:
    at = _skip(text, at)
    if not text.startswith(mark, at):
        raise JSONDecodeError(f"{mark!r} expected", text, at)
    return at + 1
