"""HPO-B's released JSON files: every table, a search space on a data set, is a study.

The files hold {space: {data set: {"X": [[...]], "y": [[...]]}}} with inputs scaled to [0, 1] and
accuracies (https://github.com/machinelearningnuremberg/HPO-B). Rows are a table's, in no order of
a search, so the studies say no algorithm. Parameter names are read from
meta-dataset-descriptors.json beside the file, where it is.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from json.decoder import JSONDecodeError
from pathlib import Path

import numpy as np

from optformer.data.importers.record import Options, Record, Skipped, build, skipped
from optformer.errors import SourceError, StudyError
from optformer.study import Metric, Parameter, ParameterType, Problem, Scale, Study, Trial

DESCRIPTORS = "meta-dataset-descriptors.json"
_SPACING = " \t\r\n"


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
        names = _names(file.with_name(DESCRIPTORS))
        for space, dataset, table, share in _tables(file):
            if start > 0:
                start -= 1
                continue
            study = _study(file, space, dataset, table, names.get(space, ()), options)
            yield study, (before + share * size) / sum(sizes)
        before += size


def files_of(folder: Path) -> list[Path]:
    """The files with tables of a folder in order of their names."""
    return sorted(folder.glob("meta-*-dataset*.json"))


def _study(
    file: Path, space: str, dataset: str, table: object, names: Sequence[str], options: Options
) -> Study | Skipped:
    name = f"hpob/{space}/{dataset}"
    try:
        if not isinstance(table, Mapping) or not {"X", "y"} <= table.keys():
            raise StudyError(f"study {name!r}: a table needs the keys 'X' and 'y'.")
        try:
            inputs_RP = np.array(table["X"], dtype=np.float64)
            outputs_R = np.array(table["y"], dtype=np.float64).ravel()
        except (TypeError, ValueError) as error:
            raise StudyError(f"study {name!r}: X and y must hold numbers ({error}).") from error
        if inputs_RP.ndim != 2 or len(inputs_RP) != len(outputs_R):
            raise StudyError(
                f"study {name!r}: X has shape {inputs_RP.shape} and y {len(outputs_R)} values; "
                "one row of X and one value of y belong to each trial."
            )
        if len(names) != inputs_RP.shape[1]:
            names = [f"x{index}" for index in range(inputs_RP.shape[1])]
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
        trials = [
            Trial(parameters=dict(zip(names, row, strict=True)), metrics={"accuracy": value})
            for row, value in zip(inputs_RP.tolist(), outputs_R.tolist(), strict=True)
        ]
        return build(problem, trials, algorithm="", options=options)
    except StudyError as error:
        return skipped(error, where=str(file), study=name)


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
    except (JSONDecodeError, UnicodeDecodeError) as error:
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
