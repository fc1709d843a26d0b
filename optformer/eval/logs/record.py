"""The studies of a results folder: where each is from, and what models have seen of it.

<folder>/studies.json   the tasks' studies, and how many others were left out
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from optformer.data.splits import Standing, worst
from optformer.errors import SourceError
from optformer.files import atomic_write

FILE = "studies.json"
_GIVEN = ", given trials: "


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggedRecord:
    """The part of a `Logged` that a results folder keeps.

    Attributes:
      recorded: how many trials it has.
      r2: of a forest, for trials that a tree was not grown from.
      standings: what each model has seen of it.
    """

    learner: str
    data_set: str
    recorded: int
    surrogate: str
    r2: float
    standings: Mapping[str, str]

    @property
    def standing(self) -> Standing:
        """For all models together; without models, the study is unseen."""
        if not self.standings:
            return Standing.CROSS_FAMILY
        return worst([Standing(text) for text in self.standings.values()])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
    """What `studies.json` holds.

    Attributes:
      given: the numbers of given trials.
      left_out: how many studies, by the reason.
      baseline: the optimizer whose last score others are to reach.
      random_trials: by optimizer, how many of its first trials are random; None for all.
      absent: by optimizer that could not run, why.
    """

    studies: Mapping[str, LoggedRecord]
    given: Sequence[int]
    left_out: Mapping[str, int]
    baseline: str
    random_trials: Mapping[str, int | None]
    absent: Mapping[str, str]

    def of_task(self, task: str) -> LoggedRecord:
        """The study of a task."""
        return self.studies[task.partition(_GIVEN)[0]]


def task_name(study: str, given: int) -> str:
    """The name of a study's task with so many given trials."""
    return study + (f"{_GIVEN}{given}" if given else "")


def write(
    out: Path,
    studies: Mapping[str, LoggedRecord],
    *,
    left_out: Mapping[str, int],
    given: Sequence[int],
    baseline: str,
    random_trials: Mapping[str, int | None],
    absent: Mapping[str, str],
) -> None:
    """Adds what is known of the studies and optimizers to `studies.json`; see `Known`."""
    path = out / FILE
    known = json.loads(path.read_text("utf-8")) if path.exists() else {"tasks": {}}
    for name, study in studies.items():
        record = dataclasses.asdict(study)
        before = known["tasks"].get(name, {"standings": {}})
        record["standings"] = before["standings"] | record["standings"]
        known["tasks"][name] = record
    known["given"] = sorted({*known.get("given", []), *given})
    known["left_out"] = dict(left_out)
    known["baseline"] = baseline
    known["random_trials"] = known.get("random_trials", {}) | dict(random_trials)
    known["absent"] = dict(absent)
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, shared=True) as new:
        new.write_text(json.dumps(known, indent=1), "utf-8")


def read(out: Path) -> Known:
    """What a results folder knows of its studies.

    Raises:
      SourceError: it holds no logged studies.
    """
    path = out / FILE
    if not path.exists():
        raise SourceError(f"{path} is missing. Run `optformer evaluate logs {out}` again.")
    known = json.loads(path.read_text("utf-8"))
    return Known(
        studies={name: LoggedRecord(**record) for name, record in known["tasks"].items()},
        given=known["given"],
        left_out=known["left_out"],
        baseline=known["baseline"],
        random_trials=known["random_trials"],
        absent=known["absent"],
    )
