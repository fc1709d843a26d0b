"""Logged studies as tasks: a surrogate of each, from nothing and from some given trials.

A task's score is the best value so far on the scale

    (best - level) / (known - level),  clipped to [0, 1],

of the surrogate's values, larger better: 0 is the median of one uniformly random configuration, 1
is the best known value, among the study's own trials and 4,096 random configurations.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from optformer.data import store
from optformer.data.problems.surrogate import ForestFit, Model, SurrogateBlock, of_metric
from optformer.data.splits import Standing, data_set_of, learner_of
from optformer.errors import SourceError, StudyError, plural
from optformer.eval.logs.record import LoggedRecord, task_name
from optformer.eval.task import Start, Task, random_start, rng_of
from optformer.progress import Progress, silent
from optformer.study import Study

_RANDOM = 4096  # random configurations that set the scale


Standings = Callable[[Study], Mapping[str, Standing]]
"""What each model, by its name, has seen of a study."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """Which studies become tasks.

    Attributes:
      learners: only these; all if empty.
      most: so many studies at most, in turn of each learner.
      fewest_trials: a study with fewer completed trials is left out.
      trained_on: whether to keep studies that a model was trained on.
      model: of the surrogates.
    """

    learners: tuple[str, ...] = ()
    most: int = 100
    fewest_trials: int = 40
    trained_on: bool = False
    model: Model = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Logged:
    """A logged study as a function with a scale.

    Attributes:
      low, high: values that score 0 and 1.
      standings: by model.
    """

    study: Study
    block: SurrogateBlock
    low: float
    high: float
    standings: Mapping[str, Standing]

    @property
    def learner(self) -> str:
        """The learner whose parameters were tuned."""
        return learner_of(self.study) or "other"

    @property
    def data_set(self) -> str:
        """The data set that it was tuned on."""
        return data_set_of(self.study)

    def known(self) -> LoggedRecord:
        """The part that a results folder keeps."""
        fit = self.block.fit
        return LoggedRecord(
            learner=self.learner,
            data_set=self.data_set,
            recorded=len(self.study),
            surrogate="forest" if isinstance(fit, ForestFit) else "exact table",
            r2=fit.values.r2 if isinstance(fit, ForestFit) else float("nan"),
            standings={name: str(standing) for name, standing in self.standings.items()},
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Chosen:
    """The studies that become tasks, and all that are usable.

    Attributes:
      usable: by learner, from which others' portfolios are made.
      left_out: how many studies, by the reason.
    """

    tasks: Sequence[Logged]
    usable: Mapping[str, Sequence[Study]]
    left_out: Mapping[str, int]


def choose(
    folders: Sequence[Path],
    choice: Choice,
    standings: Standings,
    *,
    accept: Callable[[Study], None] = lambda study: None,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Chosen:
    """The studies of these folders of shards that can be tasks.

    Which ones does not depend on their order, and fewer of them are some of the same.

    Args:
      accept: raises a StudyError for a study that a model cannot take.
      cache: a folder that keeps surrogates.

    Raises:
      SourceError: no shards, or no study that can be used; says why.
    """
    left_out: Counter[str] = Counter()
    usable: dict[str, list[Study]] = {}
    seen: Counter[str] = Counter()
    for study in store.scan(list(folders)):
        try:
            study = of_metric(study)
            reason = _unusable(study, choice)
            accept(study)
        except StudyError as error:
            reason = f"a model cannot take it: {error}"
        if reason:
            left_out[reason] += 1
            continue
        seen[study.name] += 1
        if seen[study.name] > 1:
            named = dataclasses.replace(study.problem, name=f"{study.name}#{seen[study.name]}")
            study = dataclasses.replace(
                study, problem=named, data_set=study.data_set or data_set_of(study)
            )
        usable.setdefault(learner_of(study) or "other", []).append(study)
    tasks: list[Logged] = []
    most = min(choice.most, sum(map(len, usable.values())))
    for study in _in_turn(usable):
        if len(tasks) >= choice.most:
            break
        known = standings(study)
        if not choice.trained_on and Standing.TRAINED_ON in known.values():
            left_out["a model was trained on it"] += 1
            continue
        block = SurrogateBlock(study, model=choice.model, cache=cache)
        low, high = scale(block, study.name)
        if not high - low > 1e-9 * max(abs(low), abs(high), 1e-300):
            left_out["its random configurations are as good as its best"] += 1
            continue
        tasks.append(Logged(study=study, block=block, low=low, high=high, standings=known))
        progress(len(tasks), most, f"surrogate of {study.name}")
    if not tasks:
        raise SourceError(
            f"{', '.join(map(str, folders))}: no study can be a task. "
            + "; ".join(f"{plural(count, 'study')}: {reason}" for reason, count in left_out.items())
        )
    return Chosen(tasks=tasks, usable=usable, left_out=left_out)


def _unusable(study: Study, choice: Choice) -> str:
    """Why a study cannot be a task; "" if it can."""
    if choice.learners and learner_of(study) not in choice.learners:
        return "another learner"
    values = study.objective()
    values = values[np.isfinite(values)]
    if len(values) < choice.fewest_trials:
        return f"fewer than {choice.fewest_trials} completed trials"
    if len(np.unique(values)) < 5:
        return "fewer than 5 different values"
    return ""


def _in_turn(usable: Mapping[str, Sequence[Study]]) -> Iterable[Study]:
    """One study of each learner, then another one of each; of a learner in random order."""
    shuffled = {
        learner: sorted(studies, key=lambda study: rng_of(study.name, 0).random())
        for learner, studies in sorted(usable.items())
    }
    for place in range(max(map(len, shuffled.values()), default=0)):
        for studies in shuffled.values():
            if place < len(studies):
                yield studies[place]


def scale(block: SurrogateBlock, name: str) -> tuple[float, float]:
    """The values that score 0 and 1."""
    random_N = block.evaluate_exact(random_points(block, name, _RANDOM))[0]
    recorded_R = block.evaluate_exact(block.recorded_points())[0]
    every = np.concatenate([random_N, recorded_R])
    if np.isnan(random_N).all():  # every random configuration fails
        return float("nan"), float("nan")
    return float(np.nanmedian(random_N)), float(np.nanmax(every))


def random_points(block: SurrogateBlock, name: str, count: int) -> Float64[np.ndarray, "1 N P"]:
    """Uniformly random legal points, the same for the same name."""
    size = len(block.problems[0].parameters)
    return block.spaces.snap(rng_of(name, 1).random((1, count, size)))


def tasks(chosen: Chosen, *, trials: int, given: Sequence[int], seeds: Sequence[int]) -> list[Task]:
    """A task for each study and each number of given trials."""
    made = []
    for logged in chosen.tasks:
        for count in given:
            name = task_name(logged.study.name, count)
            task = Task(
                name=name,
                family=logged.learner,
                block=logged.block,
                trials=trials,
                low=logged.low,
                high=logged.high,
                group=logged.data_set,
            )
            starts: dict[int, Start] = {}
            if count:
                starts = {seed: random_start(task, count, seed) for seed in seeds}
            made.append(dataclasses.replace(task, starts=starts))
    return made
