"""HPO-B's curves: published ones, ours in the same layout, and HPO-B's means of them."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from optformer.errors import ConfigError, SourceError

if TYPE_CHECKING:
    from optformer.eval.results import Results

ABOUT_PUBLISHED = (
    "Published curves were made on the official surrogates and are shown on the same tasks; on "
    "other surrogates they compare only roughly, and so do ranks and tests with them. Curves that "
    "start elsewhere than ours were made from other initial points: all five repeats of "
    "OptFormer's own start from the first initialisation. HPO-B's own FSBO2-C "
    "repeats the 99th trial at the 100th."
)

# space -> dataset -> best so far by initialisation and trial; index 0 is the best initial point
Curves = Mapping[str, Mapping[str, Float64[np.ndarray, "S T"]]]


def curves(results: "Results", optimizer: str) -> Curves:
    """One optimizer's scores in the layout of the published files; NaN where a run is missing."""
    scores_KST = results.of([optimizer]).scores()[0]
    nested: dict[str, dict[str, Float64[np.ndarray, "S T"]]] = {}
    for task, scores_ST in zip(results.tasks, scores_KST, strict=True):
        _, space, dataset = task.name.split("/")
        nested.setdefault(space, {})[dataset] = scores_ST
    return nested


def read_published(path: Path) -> Curves:
    """Curves from a published file: {space: {dataset: {test0..test4: [values]}}}.

    Raises:
      SourceError: the file is missing or has another layout.
    """
    if not path.exists():
        raise SourceError(f"{path} is missing: there are no published results to show.")
    content = json.loads(path.read_text("utf-8"))
    try:
        return {
            space: {
                dataset: np.array([runs[seed] for seed in sorted(runs)], dtype=np.float64)
                for dataset, runs in datasets.items()
            }
            for space, datasets in content.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise SourceError(
            f"{path} is not a file of published results: {error}. It must hold {{space: {{dataset: "
            "{test0: [best so far by trial], ...}}}, as the files of HPO-B and OptFormer do."
        ) from error


def with_published(results: "Results", published: Mapping[str, Curves]) -> "Results":
    """The results with published curves as further optimizers, on the same tasks and seeds.

    Raises:
      ConfigError: curves that lack a task, an initialisation or trials that the results have.
    """
    shape = results.best_OKST.shape[1:]
    low_K11 = np.array([task.low for task in results.tasks])[:, None, None]
    high_K11 = np.array([task.high for task in results.tasks])[:, None, None]
    places = [(task.name, *task.name.split("/")[1:]) for task in results.tasks]
    found = []
    for name, curves in published.items():
        best_KST = np.empty(shape)
        for row, (task, space, dataset) in enumerate(places):
            runs_ST = curves.get(space, {}).get(dataset, np.empty((0, 0)))
            if max(results.seeds) >= len(runs_ST) or runs_ST.shape[1] < shape[2]:
                raise ConfigError(
                    f"the published results {name!r} have {runs_ST.shape[0]} initialisations and "
                    f"{max(runs_ST.shape[1] - 1, 0)} trials of {task}; {max(results.seeds) + 1} "
                    f"and {shape[2] - 1} are needed. Leave them out."
                )
            best_KST[row] = runs_ST[list(results.seeds), : shape[2]]
        found.append(low_K11 + (high_K11 - low_K11) * best_KST)
    best_OKST = np.concatenate([results.best_OKST, np.reshape(found, (-1, *shape))])
    new = (len(found), *shape)
    return dataclasses.replace(
        results,
        optimizers=(*results.optimizers, *published),
        best_OKST=best_OKST,
        exact_best_OKST=np.concatenate([results.exact_best_OKST, np.reshape(found, new)]),
        seconds_OKST=np.concatenate([results.seconds_OKST, np.full(new, np.nan)]),
        together_O=np.append(results.together_O, np.ones(len(found), np.int64)),
        ended_OKS=np.concatenate([results.ended_OKS, np.ones(new[:3], dtype=bool)]),
    )


def macro_mean(curves: Curves) -> Float64[np.ndarray, " T"]:
    """The mean over initialisations, then over datasets, then over search spaces."""
    return np.mean(
        [np.mean([runs_ST.mean(0) for runs_ST in space.values()], 0) for space in curves.values()],
        axis=0,
    )


def macro_band(
    curves: Curves, rng: np.random.Generator, *, resamples: int = 1000, level: float = 0.95
) -> tuple[Float64[np.ndarray, " T"], Float64[np.ndarray, " T"], Float64[np.ndarray, " T"]]:
    """`macro_mean` with its interval when the datasets of each space are resampled.

    The interval is for these spaces, which are not resampled; NaN if a space has one dataset,
    which says nothing about others. The same random numbers give the same resamples for all
    optimizers.

    n datasets drawn from n vary by (n - 1) / n too little, in small spaces by much. Their mean's
    deviation from the space's is scaled by sqrt(n / (n - 1)): the rescaled bootstrap of strata
    [Rao and Wu 1988, JASA 83; Davison and Hinkley 1997].
    """
    if min(len(space) for space in curves.values()) < 2:
        unknown_T = np.full_like(macro_mean(curves), np.nan)
        return macro_mean(curves), unknown_T, unknown_T
    means_NT: np.ndarray | float = 0.0
    for space in curves.values():
        size = len(space)
        by_task_KT = np.stack([runs_ST.mean(0) for runs_ST in space.values()])
        mean_T = by_task_KT.mean(0)
        weights_NK = rng.multinomial(size, np.full(size, 1 / size), size=resamples)
        away_NT = weights_NK / size @ by_task_KT - mean_T
        means_NT = means_NT + (mean_T + np.sqrt(size / (size - 1)) * away_NT) / len(curves)
    low_T, high_T = np.quantile(means_NT, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return macro_mean(curves), low_T, high_T


def difference(first: Curves, second: Curves) -> Curves:
    """How much larger the first curves are, run by run; both of the same runs."""
    return {
        space: {dataset: runs_ST - second[space][dataset] for dataset, runs_ST in datasets.items()}
        for space, datasets in first.items()
    }


def flat_mean(curves: Curves) -> Float64[np.ndarray, " T"]:
    """The mean over all runs."""
    return np.concatenate([runs for space in curves.values() for runs in space.values()]).mean(0)
