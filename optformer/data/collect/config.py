"""What to collect: which learners on which tables, and what they may cost."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from optformer.settings import check_ranges, read_config


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
        check_ranges(
            self,
            "",
            real=(0.0, 1.0),
            configurations=(10, None),
            rows=(30, None),
            folds=(2, 3),  # a part needs two rows of each class (`table.FEWEST_OF_A_CLASS`)
            seconds=(0.01, None),
            effort=(2, None),
            studies_per_shard=(1, None),
        )


def read_collect_config(
    path: Path | None = None,
    changes: Sequence[str] = (),
    *,
    tables: Sequence[str] = (),
    learners: Sequence[str] = (),
    held_out: Path | None = None,
) -> CollectConfig:
    """The settings of a TOML file and changes to them, with what a command line names.

    Args:
      tables: folders, and names of tables.

    Raises:
      ConfigError: as `read_config`.
    """
    config = read_config(CollectConfig, path, changes)
    folders = [name for name in tables if Path(name).is_dir()]
    named = [name for name in tables if name not in folders]
    return dataclasses.replace(
        config,
        tables=(*config.tables, *named),
        folders=(*config.folders, *folders),
        learners=(*config.learners, *learners),
        held_out=config.held_out if held_out is None else str(held_out),
    )
