"""A run's reports as TensorBoard's event files."""

import dataclasses
from pathlib import Path

from optformer.errors import ConfigError
from optformer.training.reports import Report

Number = float | int


class Events:
    """Writes reports to a folder that TensorBoard reads.

    Raises:
      ConfigError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.summary import Writer
        except ImportError as error:
            raise ConfigError(
                "train.tensorboard=true needs TensorBoard, which is not installed. Run: pip "
                "install 'optformer[tensorboard]'"
            ) from error
        self._writer = Writer(str(folder))

    def write(self, report: Report) -> None:
        """Every number of the report, at its step."""
        for name, number in numbers(report).items():
            self._writer.add_scalar(name, float(number), report.step)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


def numbers(report: Report) -> dict[str, Number]:
    """`training/loss`, `validation/value`, `speed/tokens_per_second` and so on."""
    tree = dataclasses.asdict(report)
    found = {f"training/{name}": tree[name] for name in ("loss", "parameter", "value")}
    found |= {f"speed/{name}": tree[name] for name in ("tokens_per_second", "waiting")}
    return found | {f"validation/{name}": each for name, each in (report.validation or {}).items()}
