"""The studies to predict: random trials of held-out problems, and study logs.

Each function creates one `Source`. A study depends only on its own name and `seed`, so that adding
studies does not change the others.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from optformer.data import store
from optformer.data.problems import gaussian_process
from optformer.data.problems.bbob import TEST_FAMILIES
from optformer.data.problems.kernels import KERNELS
from optformer.errors import ConfigError, SourceError, StudyError, plural
from optformer.eval import bbob, hpob
from optformer.eval.prediction import random_studies, value_range
from optformer.eval.task import rng_of
from optformer.study import Study

BBOB, GP, HPOB, LOGS = "bbob", "gp", "hpob", "studies"
GENERATED = (BBOB, GP)
"""Sources that need no data."""

_TITLES = {BBOB: "BBOB", GP: "GP draws", HPOB: "HPO-B"}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Studies to predict.

    Attributes:
      name: unique: "bbob", "gp", "hpob", or "studies/" and a folder's name.
      about: a description of the studies.
    """

    name: str
    about: str
    studies: Sequence[Study]


def title(source: str) -> str:
    """A source's name for people: "gp" -> "GP draws", "studies/xgb" -> "logs xgb"."""
    if source.startswith(f"{LOGS}/"):
        return f"logs {source.removeprefix(f'{LOGS}/')}"
    return _TITLES.get(source, source)


def bbob_functions(
    *, families: Sequence[str], parameters: Sequence[int], instances: int, trials: int
) -> Source:
    """Random trials of held-out BBOB functions, those of `evaluate bbob`.

    Raises:
      ConfigError: an unknown family, or one that needs more parameters.
    """
    families = families or TEST_FAMILIES
    return Source(
        name=BBOB,
        about=f"{trials} random trials of randomized functions of {', '.join(families)} with "
        f"{_listed(parameters)} parameters, {instances} of each.",
        studies=bbob.random_studies(
            families=families, parameters=parameters, instances=instances, trials=trials
        ),
    )


def gaussian_process_draws(
    *, parameters: Sequence[int], instances: int, trials: int, seed: int = 0
) -> Source:
    """Random trials of functions that are drawn as `optformer generate` draws them by default.

    Kernels have equal shares. Their random numbers are not those of any generated study.

    Raises:
      ConfigError: nothing to draw.
    """
    if instances < 1 or not parameters or min(parameters) < 1:
        raise ConfigError(
            f"{instances} draws with {_listed(parameters)} parameters: give at least one of each."
        )
    studies = []
    for kernel in KERNELS:
        config = gaussian_process.GaussianProcessConfig(kernels=(kernel,))
        for size in parameters:
            for instance in range(instances):
                rng = rng_of(f"gp/{kernel}/{size}d/{instance}", seed)
                block = gaussian_process.random_block(config, rng, 1, size)
                studies += random_studies(block, trials, rng)
    return Source(
        name=GP,
        about=f"{trials} random trials of draws from Gaussian-process priors as the generator has "
        f"them (kernels {', '.join(KERNELS)}) with {_listed(parameters)} parameters, {instances} "
        "of each. A model that was trained on such draws meets new ones of a known kind.",
        studies=studies,
    )


def hpob_surrogates(
    folder: Path, *, spaces: Sequence[str] = (), trials: int = 100, seed: int = 0
) -> Source:
    """Random trials of HPO-B's surrogates, those of `evaluate hpob`; one study a test dataset.

    Raises:
      SourceError: a file or search space is missing, or xgboost; says where to get it.
    """
    tasks = hpob.tasks(folder, trials=trials, spaces=spaces)
    studies = []
    for task in tasks:
        studies += random_studies(task.block, trials, rng_of(task.name, seed))
    return Source(
        name=HPOB,
        about=f"{trials} random trials on the surrogate of each of "
        f"{plural(len(tasks), 'test dataset')} in {plural(len({t.family for t in tasks}), 'space')}"
        ": HPO-B's continuous functions, normalized and clipped.",
        studies=studies,
    )


def logs(
    folder: Path,
    *,
    trials: int = 100,
    most_studies: int = 100,
    accept: Callable[[Study], None],
    seed: int = 0,
) -> Source:
    """The first trials of the studies in a folder of shards, as they are.

    Args:
      most_studies: of more studies, so many are drawn at random.
      accept: raises a StudyError for a study that a predictor cannot take. Such studies and those
        without two different values are left out, which `about` counts.

    Raises:
      SourceError: no shards are there, or none of their studies can be predicted.
    """
    if not folder.exists():
        raise SourceError(
            f"{folder} does not exist. --studies takes a folder of study shards: make one of a "
            f"study log with 'optformer import LOG {folder}', or of generated studies with "
            f"'optformer generate {folder}'."
        )
    every = list(store.scan(folder))
    name = f"{LOGS}/{(folder if folder.is_dir() else folder.with_suffix('')).resolve().name}"
    count = min(len(every), most_studies)
    drawn = sorted(rng_of(name, seed).choice(len(every), count, replace=False))
    kept, refused = [], []
    for study in (every[place].rows(slice(trials)) for place in drawn):
        try:
            accept(study)
            value_range(study)
            kept.append(study)
        except StudyError as error:
            refused.append(str(error))
    if not kept:
        raise SourceError(
            f"{folder}: none of its {plural(count, 'study')} can be predicted: {refused[0]}"
        )
    part = f"{count:,} at random of its" if count < len(every) else "All of its"
    about = (
        f"{part} {plural(len(every), 'study')}, the first {trials} trials of each. They are held "
        "out only if the model was not trained on them."
    )
    if refused:
        about += f" Left out: {plural(len(refused), 'study')}, the first because {refused[0]}"
    return Source(name=name, about=about, studies=kept)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "no"
