"""HPO-B's two protocols [arXiv 2106.06257 and its official handler].

Continuous: objectives are the released XGBoost surrogates on [0, 1]^d. Values are normalized by the
surrogate's y_min and y_max and clipped to [0, 1], for the optimizer as for the score. The official
handler evaluates the 100th suggestion but repeats the 99th's best; here it counts.

Discrete: an optimizer chooses among a test dataset's recorded rows. Values are normalized by the
smallest and largest recorded one.

In both, each of five initialisations gives 5 recorded points with their values; trials 1 to 100
exclude them. The release is two folders beside each other, `hpob-data` and `saved-surrogates`.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from jaxtyping import Float64, Int64

from optformer.data.problems import ObjectiveBlock
from optformer.errors import ConfigError, SourceError
from optformer.eval import hpob_curves
from optformer.eval.benchmark import Benchmark, Option, Protocol
from optformer.eval.task import ExactFunction, Pool, Start, Task, nearest
from optformer.study import Metric, Parameter, ParameterType, Problem, Scale

if TYPE_CHECKING:
    import xgboost

    from optformer.eval.report.page import Section
    from optformer.eval.report.view import View
    from optformer.eval.results import Results

SEEDS = (0, 1, 2, 3, 4)  # the release's test0 to test4
_HOME = "https://github.com/machinelearningnuremberg/HPO-B"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SurrogateBlock(ExactFunction):
    """One HPO-B surrogate; an `ObjectiveBlock` of one function."""

    problem: Problem
    model: Path
    y_min: float
    y_max: float

    @property
    def optimum_B(self) -> Float64[np.ndarray, " 1"]:
        """The largest value after clipping; not every surrogate attains it."""
        return np.array([1.0])

    @property
    def optimum_BP(self) -> Float64[np.ndarray, "1 P"]:
        """Unknown."""
        return np.full((1, len(self.problem.parameters)), np.nan)

    def evaluate_exact(self, units_BNP: Float64[np.ndarray, "1 N P"]) -> Float64[np.ndarray, "1 N"]:
        """Normalized and clipped predictions of the surrogate."""
        raw_N = _booster(self.model).inplace_predict(units_BNP[0])
        return _normalized(raw_N.astype(np.float64), self.y_min, self.y_max)[None]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RecordedBlock(ExactFunction):
    """A dataset's recorded rows as a function: the value of the nearest; an `ObjectiveBlock`."""

    problem: Problem
    values_NP: Float64[np.ndarray, "N P"]
    exact_N: Float64[np.ndarray, " N"]

    @property
    def optimum_B(self) -> Float64[np.ndarray, " 1"]:
        """The best recorded value."""
        return np.array([self.exact_N.max()])

    def evaluate_exact(self, units_BNP: Float64[np.ndarray, "1 N P"]) -> Float64[np.ndarray, "1 N"]:
        """Values of the nearest recorded rows."""
        return self.exact_N[[nearest(self.values_NP, to_P) for to_P in units_BNP[0]]][None]


def tasks(folder: Path, *, trials: int = 100, spaces: Sequence[str] = ()) -> list[Task]:
    """A task for each test dataset of the release in `folder` whose surrogate is there.

    Its seeds are `SEEDS`. Families are search spaces.

    Args:
      spaces: only these search spaces; all if empty.

    Raises:
      SourceError: a file or search space is missing; says where to get it.
    """
    surrogates = folder / "saved-surrogates"
    statistics = _load(surrogates / "summary-stats.json")
    found = []
    for recorded in _recorded(folder / "hpob-data", spaces):
        stem = f"surrogate-{recorded.space}-{recorded.dataset}"
        model = surrogates / f"{stem}.json"
        if not model.exists() or stem not in statistics:
            raise SourceError(
                f"{model} or its entry in summary-stats.json is missing. Get the saved "
                f"surrogates of {_HOME} again, or name other search spaces."
            )
        y_min, y_max = statistics[stem]["y_min"], statistics[stem]["y_max"]
        block = SurrogateBlock(problem=recorded.problem, model=model, y_min=y_min, y_max=y_max)
        found.append(recorded.task(block, _normalized(recorded.y_N, y_min, y_max), trials))
    return found


def discrete_tasks(folder: Path, *, trials: int = 100, spaces: Sequence[str] = ()) -> list[Task]:
    """The discrete protocol: an optimizer chooses among a test dataset's recorded rows.

    Values are normalized by the smallest and largest recorded one. A row is tried once at most;
    a run that has found the best ends there, as in the official handler.

    Raises:
      SourceError: a file or search space is missing, or it holds the initial points only.
    """
    data = folder / "hpob-data"
    found = []
    for recorded in _recorded(data, spaces):
        x_NP, y_N, started = recorded.x_NP, recorded.y_N, recorded.started
        if len(y_N) <= len(np.unique(np.concatenate(list(started.values())))):
            raise SourceError(
                f"{data / 'meta-test-dataset.json'} holds only the {len(y_N)} initial points "
                f"of {recorded.space}/{recorded.dataset}: there is nothing to choose among. The "
                f"discrete protocol needs the whole file, which is released at {_HOME}."
            )
        score_N = _normalized(y_N, float(y_N.min()), float(y_N.max()))
        block = RecordedBlock(problem=recorded.problem, values_NP=x_NP, exact_N=score_N)
        pool = Pool(values_NP=x_NP, exact_N=score_N, started=started)
        found.append(recorded.task(block, score_N, trials, pool))
    return found


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Recorded:
    """A test dataset's rows as released; `started` are the rows of each initialisation."""

    space: str
    dataset: str
    problem: Problem
    x_NP: Float64[np.ndarray, "N P"]
    y_N: Float64[np.ndarray, " N"]
    started: Mapping[int, Int64[np.ndarray, " S"]]

    def task(
        self,
        block: ObjectiveBlock,
        score_N: Float64[np.ndarray, " N"],
        trials: int,
        pool: Pool | None = None,
    ) -> Task:
        """The task of optimizing `block`, on which the rows score so much."""
        return Task(
            name=self.problem.name,
            family=self.space,
            block=block,
            trials=trials,
            starts={
                seed: Start(
                    values_NP=self.x_NP[rows], metric_N=score_N[rows], exact_N=score_N[rows]
                )
                for seed, rows in self.started.items()
            },
            low=0.0,
            high=1.0,
            pool=pool,
        )


def _recorded(data: Path, spaces: Sequence[str]) -> Iterator[_Recorded]:
    """The test datasets of these search spaces, or of all.

    Raises:
      SourceError: a file or search space is missing.
    """
    meta_test = _load(data / "meta-test-dataset.json")
    initial = _load(data / "bo-initializations.json")
    descriptors = _descriptors(data)
    for space in spaces:
        if space not in meta_test:
            raise SourceError(
                f"{data} has no search space {space!r}. It has {', '.join(sorted(meta_test))}."
            )
    for space in spaces or sorted(meta_test):
        for dataset in sorted(meta_test[space]):
            x_NP = np.array(meta_test[space][dataset]["X"], dtype=np.float64)
            yield _Recorded(
                space=space,
                dataset=dataset,
                problem=_problem(space, dataset, descriptors, x_NP.shape[1]),
                x_NP=x_NP,
                y_N=np.array(meta_test[space][dataset]["y"], dtype=np.float64).reshape(-1),
                started={
                    seed: np.array(initial[space][dataset][f"test{seed}"], dtype=np.int64)
                    for seed in SEEDS
                },
            )


def _descriptors(data: Path) -> dict:
    path = data / "meta-dataset-descriptors.json"
    return _load(path) if path.exists() else {}


def _problem(space: str, dataset: str, descriptors: dict, size: int) -> Problem:
    names = descriptors.get(space, {}).get("variables_order", [])
    names = names if len(names) == size else [f"x{index}" for index in range(size)]
    return Problem(
        name=f"hpob/{space}/{dataset}",
        parameters=tuple(
            Parameter(name=name, type=ParameterType.DOUBLE, scale=Scale.LINEAR, bounds=(0.0, 1.0))
            for name in names
        ),
        metrics=(Metric(name="normalized_accuracy"),),
    )


def _normalized(
    y_N: Float64[np.ndarray, " N"], y_min: float, y_max: float
) -> Float64[np.ndarray, " N"]:
    return np.clip((y_N - y_min) / (y_max - y_min), 0.0, 1.0)


@functools.lru_cache(maxsize=128)  # there are 86 test tasks
def _booster(model: Path) -> "xgboost.Booster":
    try:
        import xgboost
    except ImportError as error:
        raise SourceError(
            "HPO-B's surrogates need xgboost, which is not installed. Install the extra: "
            'pip install "optformer[hpob]"'
        ) from error
    # One row at a time: more threads only cost time.
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(model)
    return booster


def _load(path: Path) -> dict:
    if not path.exists():
        raise SourceError(
            f"{path} is missing. HPO-B is released at {_HOME} as hpob-data and saved-surrogates; "
            "unpack both into one folder and name that."
        )
    return json.loads(path.read_text())


@dataclasses.dataclass(frozen=True, kw_only=True)
class HpobOptions:
    """Which tasks of the release are optimized, and what their results are shown beside."""

    data: Annotated[Path, Option("The release: a folder with hpob-data and saved-surrogates.")]
    discrete: Annotated[
        bool, Option("Choose among recorded rows, without surrogates.", "--discrete")
    ] = False
    spaces: Annotated[
        tuple[str, ...], Option("A search space; by default all found.", flag="--space")
    ] = ()
    published: Annotated[
        Path | None, Option("A folder of published results (JSON), drawn beside ours.")
    ] = None
    seeds: Annotated[int, Option("How many initialisations.", min=1, max=5)] = 5


def _make_tasks(options: HpobOptions, trials: int) -> list[Task]:
    make = discrete_tasks if options.discrete else tasks
    return make(options.data, trials=trials, spaces=options.spaces)


def _published(options: HpobOptions) -> "Callable[[Results], Results] | None":
    """A function that adds the published results of a folder; None if there is no folder.

    Raises:
      ConfigError: for the discrete protocol.
      SourceError: the folder holds none.
    """
    folder = options.published
    if folder is None:
        return None
    if options.discrete:
        raise ConfigError(
            f"{folder}: published results are of HPO-B's continuous protocol, whose values are "
            "normalized by the surrogates' range. Those of the discrete protocol are normalized "
            "by the recorded values' and cannot be compared with them. Leave out --published, or "
            "--discrete."
        )
    files = sorted(folder.glob("*.json"))
    if not files:
        raise SourceError(
            f"{folder} holds no published results: it has no .json file. HPO-B's are in "
            "results/ of its release, OptFormer's in its repository."
        )
    # optformer__gp_ucb.json, as in a folder that keeps several sources apart
    curves = {
        f"{file.stem.partition('__')[2] or file.stem} (published)": hpob_curves.read_published(file)
        for file in files
    }
    return lambda results: hpob_curves.with_published(results, curves)


def _sections(view: "View") -> "list[Section]":
    from optformer.eval.hpob_sections import hpob_means
    from optformer.eval.report.page import Heading

    return [Heading(title="HPO-B means"), *hpob_means(view)]


HPOB = Benchmark(
    name="hpob",
    help="HPO-B's continuous or discrete protocol, beside published results.",
    protocols=(
        Protocol(
            name="hpob-continuous",
            title="HPO-B, continuous",
            score="The score is the best value so far, normalized by the surrogate's smallest "
            "and largest value and clipped to [0, 1], as HPO-B's official handler does. Trials "
            "exclude the 5 initial points; unlike in the handler, the last trial counts.",
        ),
        Protocol(
            name="hpob-discrete",
            title="HPO-B, discrete",
            score="The score is the best value so far among the recorded rows, normalized by the "
            "smallest and largest recorded value, as HPO-B's official handler does. Trials exclude "
            "the 5 initial points. Optimizers that cannot rank given points take the untried row "
            "that is nearest to their suggestion.",
        ),
    ),
    protocol=lambda options: 1 if options.discrete else 0,
    options=HpobOptions,
    tasks=_make_tasks,
    seeds=lambda options: SEEDS[: options.seeds],
    published=_published,
    about_published=hpob_curves.ABOUT_PUBLISHED,
    sections=_sections,
)
