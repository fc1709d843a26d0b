"""Study logs as JSON Lines: one study a line in the form of `study_json`, gzip or plain."""

import json
from collections.abc import Iterator
from pathlib import Path

from optformer.convert.study_json import problem_from_json, trials_from_json
from optformer.data.importers.record import Options, Record, build, open_text, skipped
from optformer.errors import StudyError


def studies(source: str, options: Options, *, start: int = 0) -> Iterator[Record]:
    """The studies of a file, or of all .jsonl and .jsonl.gz files of a folder by name.

    Args:
      start: how many studies to pass over without reading them.
    """
    path = Path(source)
    paths = files_of(path) if path.is_dir() else [path]
    sizes = [file.stat().st_size for file in paths]
    before = 0
    for file, size in zip(paths, sizes, strict=True):
        for number, line, done in open_text(file):
            if not line.strip():
                continue
            if start > 0:
                start -= 1
                continue
            yield _study(
                line, f"{file}, line {number}", options, (before + done * size) / sum(sizes)
            )
        before += size


def files_of(folder: Path) -> list[Path]:
    """The JSON Lines files of a folder in order of their names."""
    return sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")])


def _study(line: str, where: str, options: Options, done: float) -> Record:
    name = ""
    try:
        try:
            document = json.loads(line)
        except ValueError as error:
            raise StudyError(
                f"the line is not JSON ({error}). Every line holds one study as a JSON object."
            ) from error
        problem = problem_from_json(document)
        name = problem.name
        said = {key: document.get(key, "") for key in ("algorithm", "data_set")}
        for key, text in said.items():
            if not isinstance(text, str):
                raise StudyError(f"study {name!r}: {key} must be text, not {text!r}.")
        trials = trials_from_json(problem, document.get("trials"))
        return build(problem, trials, options=options, **said), done
    except StudyError as error:
        return skipped(error, where=where, study=name), done
