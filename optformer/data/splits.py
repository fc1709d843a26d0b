"""Splits of studies into training and held-out studies, and records of a model's training studies.

A study belongs to a learner and a data set: `rpart/openml-31` is learner `rpart` on data set
`openml-31`. Data sets are split by a hash of their name, so that all learners on a data set are on
the same side. Similar learners, such as extra trees and random forests, form a family, which is
held out as a whole: studies of one contain information on the others.

A checkpoint has a `TrainingRecord` of its training studies, under `RECORD` in its `about`:

    {"format": 1, "data_sets": ["openml-31"], "families": ["tree"], "trials": ["0f3a9c17..."]}

so that an evaluation can identify studies that the model was not trained on.
"""

import dataclasses
import enum
import hashlib
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from optformer.errors import CheckpointError, ConfigError
from optformer.study import Study

RECORD = "trained_on"
"""The key of the training record in a checkpoint's `about`."""

_FORMAT = 1
_SKETCH = 16  # hashes for each study, of 8 hexadecimal digits each

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "forest": (
        "random_forest",
        "random_forest_classifier",
        "random_forest_regressor",
        "extra_trees",
        "extra_trees_classifier",
        "extra_trees_regressor",
        "ranger",
    ),
    "boosting": (
        "xgboost",
        "xgboost_tree",
        "xgboost_gc3p",
        "xgb48",
        "lightgbm",
        "lightgbm_tabrepo",
        "catboost",
        "gradient_boosting",
        "hist_gradient_boosting",
    ),
    "svm": ("svm", "svc", "svr", "linear_svc", "tst_svm"),
    "linear": ("glmnet", "elastic_net", "logistic_regression", "lasso", "ridge", "sgd"),
    "neighbors": ("aknn", "knn", "k_nearest_neighbors"),
    "tree": ("rpart", "decision_tree"),
    "network": ("lcbench", "mlp", "adam_mlp", "sgd_mlp", "jax_mlp", "network"),
}
"""Similar learners. A learner that is not listed is a family by itself."""

_FAMILY_OF = {learner: family for family, learners in FAMILIES.items() for learner in learners}


class Standing(enum.StrEnum):
    """The relation of a study to a model's training studies, from closest to most distant."""

    TRAINED_ON = "trained on"
    UNKNOWN = "unknown"
    DATA_SET_SEEN = "data set seen"
    IN_FAMILY = "held out, in-family"
    CROSS_FAMILY = "held out, cross-family"


def learner_of(study: Study) -> str:
    """The part of a study's name before the slash; "" if there is none."""
    learner, slash, _ = study.name.removeprefix("surrogate/").partition("/")
    return learner if slash else ""


def data_set_of(study: Study) -> str:
    """The study's data set; by default its name after the first slash, or the whole name."""
    if study.data_set:
        return study.data_set
    name = study.name.removeprefix("surrogate/")
    return name.partition("/")[2] or name


def family_of(learner: str) -> str:
    """The family of a learner; by default, its own name."""
    return _FAMILY_OF.get(learner, learner)


def same_name(data_set: str) -> str:
    """A data set's name in lower case without punctuation, for comparisons."""
    return re.sub(r"[^a-z0-9]+", "", data_set.lower())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """A split into training and held-out studies.

    Attributes:
      held_out: the share of data sets that are held out.
      families: families of learners (`FAMILIES`), or learners of them, that are held out on every
        data set.
      data_sets: data sets that are held out regardless of their hash.
    """

    held_out: float = 0.2
    families: tuple[str, ...] = ()
    data_sets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out={self.held_out} must be at least 0 and below 1.")

    def trains_on(self, study: Study) -> bool:
        """Whether the study is a training study."""
        family = family_of(learner_of(study))
        if family in {family_of(name) for name in self.families}:
            return False
        data_set = same_name(data_set_of(study))
        if data_set in {same_name(name) for name in self.data_sets}:
            return False
        return zlib.crc32(data_set.encode()) / 2**32 >= self.held_out


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """A compact record of a model's training studies.

    Attributes:
      data_sets: the data sets of its studies (`same_name`).
      families: the families of their learners.
      trials: the smallest hashes of each study's trials (`sketch`).
    """

    data_sets: frozenset[str] = frozenset()
    families: frozenset[str] = frozenset()
    trials: frozenset[str] = frozenset()

    @classmethod
    def of(cls, studies: Iterable[Study]) -> "TrainingRecord":
        """The record of these studies."""
        data_sets, families, trials = set(), set(), set()
        for study in studies:
            data_sets.add(same_name(data_set_of(study)))
            families.add(family_of(learner_of(study)))
            trials.update(sketch(study))
        return cls(
            data_sets=frozenset(data_sets),
            families=frozenset(families),
            trials=frozenset(trials),
        )

    def __or__(self, other: "TrainingRecord") -> "TrainingRecord":
        """The record of both trainings, for a fine-tuned model."""
        return TrainingRecord(
            data_sets=self.data_sets | other.data_sets,
            families=self.families | other.families,
            trials=self.trials | other.trials,
        )

    def to_json(self) -> dict[str, object]:
        """The record as a JSON object."""
        return {
            "format": _FORMAT,
            "data_sets": sorted(self.data_sets),
            "families": sorted(self.families),
            "trials": sorted(self.trials),
        }

    @classmethod
    def from_about(cls, about: Mapping[str, object]) -> "TrainingRecord | None":
        """The record in a checkpoint's `about`; None if it has none.

        Raises:
          CheckpointError: the record has another format.
        """
        document = about.get(RECORD)
        if document is None:
            return None
        if not isinstance(document, Mapping) or document.get("format") != _FORMAT:
            raise CheckpointError(
                f"the checkpoint's training record does not have format {_FORMAT}, which this "
                "version of optformer reads. Install the version that wrote it."
            )
        return cls(
            data_sets=frozenset(document["data_sets"]),
            families=frozenset(document["families"]),
            trials=frozenset(document["trials"]),
        )

    def standing(self, study: Study) -> Standing:
        """The relation of the study to the training studies of this record."""
        hashes = sketch(study)
        # A single hash can be equal by chance, or because two studies measured the same value.
        if len(self.trials.intersection(hashes)) >= min(2, max(len(hashes), 1)):
            return Standing.TRAINED_ON
        if same_name(data_set_of(study)) in self.data_sets:
            return Standing.DATA_SET_SEEN
        if family_of(learner_of(study)) in self.families:
            return Standing.IN_FAMILY
        return Standing.CROSS_FAMILY


def standing_for(record: TrainingRecord | None, study: Study) -> Standing:
    """The standing of a study; unknown for a model without record."""
    return Standing.UNKNOWN if record is None else record.standing(study)


def worst(standings: Sequence[Standing]) -> Standing:
    """The closest of several models' standings."""
    order = list(Standing)
    return min(standings, key=order.index)


def sketch(study: Study) -> list[str]:
    """The smallest hashes of the study's trials.

    A trial's hash depends on its values and metric, and not on the names and order of parameters.
    Two studies with many trials in common have some of the smallest hashes in common, even if one
    study has only some of the other's trials. Trials with a metric value that occurs several times
    in the study identify it poorly, and are left out.
    """
    metric_R = study.objective()
    measured_R = np.isfinite(metric_R)
    values, counts = np.unique(metric_R[measured_R], return_counts=True)
    single_R = measured_R & np.isin(metric_R, values[counts == 1])
    hashes = set()
    for row in np.flatnonzero(single_R if single_R.any() else measured_R):
        numbers = sorted(f"{value:.5g}" for value in study.values_RP[row] if not np.isnan(value))
        words = f"{'|'.join(numbers)}={abs(metric_R[row]):.6g}"
        hashes.add(hashlib.blake2b(words.encode(), digest_size=4).hexdigest())
    return sorted(hashes)[:_SKETCH]
