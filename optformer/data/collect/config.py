"""What to collect: which learners on which tables, and what they may cost."""

import dataclasses

from optformer.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """What to collect.

    Attributes:
      learners: names of learners; all whose packages are installed if none.
      tables: names of tables, such as sklearn/wine, pmlb/wine_recognition, openml/31.
      folders: folders of CSV or TSV files.
      target: the column to predict in files that no index describes.
      real: the share of studies on these tables; the others are on synthetic ones.
      held_out: a JSON file of tables that some learners must not see (see `plan.read_held_out`).
      configurations: random configurations of each study.
      rows: at most so many of each table, drawn at random.
      folds: cross-validation folds.
      holdout_rows: tables with more rows have one hold-out set instead.
      seconds: a fit that takes longer is stopped, and its trial infeasible.
      effort: the upper bound of numbers of trees, boosting rounds and epochs.
      least_effect: a study counts if its best score is above the median by so many standard
        errors of a score.
      studies_per_shard: how many numbers, of which some may not count, make a shard.
    """

    learners: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    target: str = "target"
    real: float = 0.6
    held_out: str = ""
    configurations: int = 150
    rows: int = 10_000
    folds: int = 3
    holdout_rows: int = 2000
    seconds: float = 10.0
    effort: int = 200
    least_effect: float = 3.0
    studies_per_shard: int = 32

    def __post_init__(self) -> None:
        if not 0.0 <= self.real <= 1.0:
            raise ConfigError(f"real={self.real} is a share of the studies, from 0 to 1.")
        if self.configurations < 10:
            raise ConfigError(f"configurations={self.configurations}: a study needs at least 10.")
        if not 2 <= self.folds <= 3:
            # Every part of the rows needs two rows of each class (`FEWEST_OF_A_CLASS`).
            raise ConfigError(f"folds={self.folds}; it can be 2 or 3.")
        if self.seconds <= 0 or self.effort < 2 or self.studies_per_shard < 1:
            raise ConfigError("seconds and studies_per_shard must be positive, effort at least 2.")
