"""How a run is doing: what is summed between reports, and the file that keeps them."""

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from optformer.files import atomic_write


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """How a run is doing.

    Attributes:
      done: the share of the run that is over, in [0, 1].
      loss: mean training loss since the last report, in nats per token.
      parameter, value: mean one-hot cross entropy of the parameter and metric tokens, in nats.
      validation: the same two for studies that are never trained on; None if not evaluated now.
      tokens_per_second: decoder tokens that count.
      waiting: share of the time spent waiting for data.
    """

    step: int
    done: float
    seconds: float
    loss: float
    parameter: float
    value: float
    validation: dict[str, float] | None
    tokens_per_second: float
    waiting: float


class Totals:
    """Sums since the last report."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._losses: list[float] = []
        self._waited = 0.0
        self._worked = 0.0

    def add(self, measured: dict[str, np.ndarray]) -> None:
        self._losses.append(float(measured["loss"]))
        for name, value in measured.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)

    def waited(self, seconds: float) -> None:
        self._waited += seconds

    def worked(self, seconds: float) -> None:
        self._worked += seconds

    @property
    def last_loss(self) -> float:
        return self._losses[-1]

    @property
    def seconds(self) -> float:
        return self._waited + self._worked

    def means(self) -> dict[str, float]:
        """Nats a token, by role."""
        return {
            name: self._sums[f"{name}_nats"] / max(self._sums[f"{name}_tokens"], 1.0)
            for name in ("parameter", "value")
        }

    def report(
        self, step: int, done: float, seconds: float, validation: dict[str, float] | None
    ) -> Report:
        tokens = self._sums["parameter_tokens"] + self._sums["value_tokens"]
        return Report(
            step=step,
            done=done,
            seconds=seconds,
            loss=float(np.mean(self._losses)),
            validation=validation,
            tokens_per_second=tokens / max(self.seconds, 1e-9),
            waiting=self._waited / max(self.seconds, 1e-9),
            **self.means(),
        )


class Clock:
    """Seconds of a run, going on from those before it was interrupted."""

    def __init__(self, before: float) -> None:
        self._began = time.perf_counter() - before
        self._lap = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def lap(self) -> float:
        """Seconds since the last call."""
        now = time.perf_counter()
        lap, self._lap = now - self._lap, now
        return lap


class Log:
    """metrics.jsonl; lines past the step that a run resumes from are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        kept = [line for line in lines if _step_of(line) <= step]
        with atomic_write(path) as new:
            new.write_text("".join(f"{line}\n" for line in kept), "utf-8")

    def write(self, report: Report) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(report)) + "\n")


def read_log(folder: Path) -> Iterator[Report]:
    """The reports of a run so far."""
    for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines():
        yield Report(**json.loads(line))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # the line that was being written when the run was killed
        return np.inf
