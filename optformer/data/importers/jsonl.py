"""JSON Lines: one study a line, gzip or plain; a file, or a folder of *.jsonl and *.jsonl.gz.

    {"name": "boosting/wine", "algorithm": "random_search",
     "metrics": [{"name": "accuracy", "goal": "MAXIMIZE"}],
     "parameters": [{"name": "lr", "type": "DOUBLE", "scale": "LOG", "bounds": [1e-4, 0.1]},
                    {"name": "booster", "type": "CATEGORICAL", "values": ["tree", "linear"]}],
     "trials": [{"parameters": {"lr": 0.01, "booster": "tree"}, "metrics": {"accuracy": 0.8}},
                {"parameters": {"lr": 0.1, "booster": "tree"}, "state": "INFEASIBLE"}]}

(Here it takes several lines; in the file, every study has one.)

- Parameters: types DOUBLE, INTEGER (both with "bounds"), DISCRETE and CATEGORICAL (both with
  "values"); scales LINEAR, LOG and REVERSE_LOG; "default"; and "conditions", as in
  {"parent": "booster", "values": ["tree"]}, for a parameter that only some trials have.
- Metrics: goals MAXIMIZE and MINIMIZE; one with a "safety_threshold" is a constraint.
- Trials: "state" is COMPLETED (the default), INFEASIBLE or ACTIVE; "notes" holds text.
- "title", "metadata" (text by name) and "data_set" describe the study. A trial's "curve" holds its
  intermediate values: [{"step": 1, "metrics": {"accuracy": 0.6}}].

A line that is not JSON, repeats a key, nests too deeply or is longer than 64 MiB is skipped and
counted. A completed trial without a finite metric counts as infeasible. A trial with a value
outside the search space is left out.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from optformer.convert.json_text import parse
from optformer.convert.study_json import problem_from_json, readable_trials
from optformer.data.importers import text
from optformer.data.importers.record import Options, Record, Remark, records, skipped
from optformer.errors import StudyError
from optformer.study import Study


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
        if file.name.endswith(".gz") and file.with_suffix("") in paths:
            start -= 1
            if start < 0:
                same = f"{file.name} is {file.stem} once more, so it is not read."
                yield skipped(same, where=str(file), study=""), before / max(sum(sizes), 1)
            continue
        for line in text.lines(file):
            if not line.fault and not line.text.strip():
                continue
            if start > 0:
                start -= 1
                continue
            done = (before + line.done * size) / max(sum(sizes), 1)
            for record in _study(line, f"{file}, line {line.number}", options):
                yield record, done
        before += size


def files_of(folder: Path) -> list[Path]:
    """The JSON Lines files of a folder in order of their names."""
    return sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")])


def _study(line: text.Line, where: str, options: Options) -> Iterator[Study | Remark]:
    name = ""
    try:
        if line.fault:
            raise StudyError(f"{line.fault}. Every line holds one study as a JSON object.")
        document = parse(line.text)
        problem = problem_from_json(document)
        name = problem.name
        assert isinstance(document, Mapping)  # otherwise it was no problem
        said = {key: document.get(key, "") for key in ("algorithm", "data_set")}
        for key, value in said.items():
            if not isinstance(value, str):
                raise StudyError(f"study {name!r}: {key} must be text, not {value!r}.")
        trials = readable_trials(problem, document.get("trials"))
    except StudyError as error:
        yield skipped(error, where=where, study=name)
        return
    yield from records(problem, trials, options=options, where=where, **said)
