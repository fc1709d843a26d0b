"""HPO-B's continuous protocol [arXiv 2106.06257 and its official handler].

Objectives are the released XGBoost surrogates on [0, 1]^d. Values are normalized by the surrogate's
y_min and y_max and clipped to [0, 1], for the optimizer as for the score. Each of five
initialisations gives 5 recorded points with their recorded values; trials 1 to 100 exclude them.
The official handler evaluates the 100th suggestion but repeats the 99th's best; here it counts.

The release is two folders beside each other, `hpob-data` and `saved-surrogates`.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from optformer.data.spaces import Spaces
from optformer.errors import SourceError
from optformer.eval.results import Results
from optformer.eval.task import Start, Task
from optformer.study import Metric, Parameter, ParameterType, Problem, Scale

if TYPE_CHECKING:
    import xgboost

PROTOCOL = "hpob-continuous"
SEEDS = (0, 1, 2, 3, 4)  # the release's test0 to test4
_HOME = "https://github.com/machinelearningnuremberg/HPO-B"

# space -> dataset -> best so far by initialisation and trial; index 0 is the best initial point
Curves = Mapping[str, Mapping[str, Float64[np.ndarray, "S T"]]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SurrogateBlock:
    """One HPO-B surrogate; an `ObjectiveBlock` of one function."""

    problem: Problem
    model: Path
    y_min: float
    y_max: float

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The one problem."""
        return (self.problem,)

    @property
    def spaces(self) -> Spaces:
        """The unit cube."""
        return Spaces.of(self.problem.parameters)

    @property
    def optimum_B(self) -> Float64[np.ndarray, " 1"]:
        """The largest value after clipping; not every surrogate attains it."""
        return np.array([1.0])

    @property
    def optimum_BP(self) -> Float64[np.ndarray, "1 P"]:
        """Not known."""
        return np.full((1, len(self.problem.parameters)), np.nan)

    def evaluate(
        self, units_BNP: Float64[np.ndarray, "1 N P"], rng: np.random.Generator
    ) -> Float64[np.ndarray, "1 N"]:
        """The exact values: surrogates have no noise."""
        del rng
        return self.evaluate_exact(units_BNP)

    def evaluate_exact(self, units_BNP: Float64[np.ndarray, "1 N P"]) -> Float64[np.ndarray, "1 N"]:
        """Normalized and clipped predictions of the surrogate."""
        raw_N = _booster(self.model).inplace_predict(units_BNP[0])
        return _normalized(raw_N.astype(np.float64), self.y_min, self.y_max)[None]


def tasks(folder: Path, *, trials: int = 100, spaces: Sequence[str] = ()) -> list[Task]:
    """A task for each test dataset of the release in `folder` whose surrogate is there.

    Its seeds are `SEEDS`. Families are search spaces.

    Args:
      spaces: only these search spaces; all if empty.

    Raises:
      SourceError: a file or search space is missing; says where to get it.
    """
    data, surrogates = folder / "hpob-data", folder / "saved-surrogates"
    meta_test = _load(data / "meta-test-dataset.json")
    initial = _load(data / "bo-initializations.json")
    statistics = _load(surrogates / "summary-stats.json")
    described = data / "meta-dataset-descriptors.json"
    descriptors = _load(described) if described.exists() else {}
    absent = [space for space in spaces if space not in meta_test]
    if absent:
        raise SourceError(
            f"{data} has no search space {absent[0]!r}. It has {', '.join(sorted(meta_test))}."
        )
    found = []
    for space in spaces or sorted(meta_test):
        for dataset in sorted(meta_test[space]):
            stem = f"surrogate-{space}-{dataset}"
            model = surrogates / f"{stem}.json"
            if not model.exists() or stem not in statistics:
                raise SourceError(
                    f"{model} or its entry in summary-stats.json is missing. Get the saved "
                    f"surrogates of {_HOME} again, or name other search spaces."
                )
            y_min, y_max = statistics[stem]["y_min"], statistics[stem]["y_max"]
            x_NP = np.array(meta_test[space][dataset]["X"], dtype=np.float64)
            y_N = np.array(meta_test[space][dataset]["y"], dtype=np.float64).reshape(-1)
            score_N = _normalized(y_N, y_min, y_max)
            starts = {}
            for seed in SEEDS:
                rows = np.array(initial[space][dataset][f"test{seed}"], dtype=np.int64)
                starts[seed] = Start(
                    values_NP=x_NP[rows], metric_N=score_N[rows], exact_N=score_N[rows]
                )
            names = descriptors.get(space, {}).get("variables_order", [])
            block = SurrogateBlock(
                problem=_problem(space, dataset, names, x_NP.shape[1]),
                model=model,
                y_min=y_min,
                y_max=y_max,
            )
            found.append(
                Task(
                    name=f"hpob/{space}/{dataset}",
                    family=space,
                    block=block,
                    trials=trials,
                    starts=starts,
                    low=0.0,
                    high=1.0,
                )
            )
    return found


def curves(results: Results, optimizer: str) -> Curves:
    """One optimizer's scores in the layout of the published files; NaN where a run is missing."""
    scores_KST = results.of([optimizer]).scores()[0]
    nested: dict[str, dict[str, Float64[np.ndarray, "S T"]]] = {}
    for task, scores_ST in zip(results.tasks, scores_KST, strict=True):
        _, space, dataset = task.name.split("/")
        nested.setdefault(space, {})[dataset] = scores_ST
    return nested


def read_published(path: Path) -> Curves:
    """Curves from a published file: {space: {dataset: {test0..test4: [values]}}}."""
    return {
        space: {
            dataset: np.array([runs[seed] for seed in sorted(runs)], dtype=np.float64)
            for dataset, runs in datasets.items()
        }
        for space, datasets in _load(path).items()
    }


def macro_mean(curves: Curves) -> Float64[np.ndarray, " T"]:
    """The mean over initialisations, then over datasets, then over search spaces."""
    return np.mean(
        [np.mean([runs_ST.mean(0) for runs_ST in space.values()], 0) for space in curves.values()],
        axis=0,
    )


def flat_mean(curves: Curves) -> Float64[np.ndarray, " T"]:
    """The mean over all runs."""
    return np.concatenate([runs for space in curves.values() for runs in space.values()]).mean(0)


def restrict(curves: Curves, like: Curves) -> Curves:
    """The curves of those tasks that are also in `like`: published curves on the tasks we ran."""
    return {
        space: {dataset: runs for dataset, runs in datasets.items() if dataset in like[space]}
        for space, datasets in curves.items()
        if space in like
    }


def _problem(space: str, dataset: str, names: Sequence[str], size: int) -> Problem:
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
