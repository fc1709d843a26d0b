"""Predictions before the first trial, from a study's text alone.

Random configurations of each study are predicted without any trial, with values scaled by their
own smallest and largest, as in `eval/prediction.py`. The rank correlation of predicted means with
the truth measures the order of configurations; the log density, per unit of the scaled value, also
measures confidence: a uniform prediction scores 0.

    <folder>/first_predictions/<model>.json   study -> rank correlation, log density
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from optformer.errors import make_folder
from optformer.eval.logs.tasks import Logged, random_points
from optformer.eval.prediction_runs import CheckpointPredictor
from optformer.eval.task import file_name, without_inactive
from optformer.files import atomic_write
from optformer.model import predictive
from optformer.progress import Progress, silent
from optformer.space import to_natural
from optformer.study import State, Study

_FOLDER = "first_predictions"
_POINTS = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstPrediction:
    """How well one model predicts one study before its first trial.

    Attributes:
      rank_correlation: Spearman's, of predicted means and the truth.
    """

    rank_correlation: float
    log_density: float


def predict(
    models: Mapping[str, CheckpointPredictor],
    tasks: Sequence[Logged],
    out: Path,
    *,
    progress: Progress = silent,
) -> None:
    """Adds the predictions that are missing in the folder. Those of other weights are replaced."""
    for name, model in models.items():
        path = _path(out, name)
        known = _read(path) if path.exists() else {}
        known = known if known.get("weights") == model.weights else {}
        studies = dict(known.get("studies", {}))
        for number, logged in enumerate(tasks):
            if logged.study.name not in studies:
                made = _predict(model, logged)
                studies[logged.study.name] = dataclasses.asdict(made)
            progress(number + 1, len(tasks), f"{name}, before the first trial")
        make_folder(path.parent)
        with atomic_write(path, shared=True) as new:
            document = {"model": name, "weights": model.weights, "studies": studies}
            new.write_text(json.dumps(document, indent=1), "utf-8")


def read(out: Path) -> dict[str, dict[str, FirstPrediction]]:
    """By model and study, the predictions in a results folder."""
    documents = [_read(path) for path in sorted((out / _FOLDER).glob("*.json"))]
    return {
        document["model"]: {
            study: FirstPrediction(**made) for study, made in document["studies"].items()
        }
        for document in documents
    }


def _predict(model: CheckpointPredictor, logged: Logged) -> FirstPrediction:
    from scipy import stats

    units_1NP = random_points(logged.block, logged.study.name, _POINTS)
    truth_N = logged.block.evaluate_exact(units_1NP)[0]
    feasible_N = np.isfinite(truth_N)
    truth_N, units_NP = truth_N[feasible_N], units_1NP[0, feasible_N]
    if len(truth_N) < 3 or np.ptp(truth_N) == 0:
        return FirstPrediction(rank_correlation=float("nan"), log_density=float("nan"))
    low, high = float(truth_N.min()), float(truth_N.max())
    study = _unmeasured(logged, units_NP)
    probabilities_NQ = model.predict_first(study, (low, high))
    scaled_N = (truth_N - low) / (high - low)
    mean_N = predictive.predicted_mean(probabilities_NQ)
    known = np.ptp(mean_N) > 0
    return FirstPrediction(
        rank_correlation=float(stats.spearmanr(mean_N, truth_N).statistic) if known else 0.0,
        log_density=float(predictive.log_density(probabilities_NQ, scaled_N).mean()),
    )


def _unmeasured(logged: Logged, units_NP: Float64[np.ndarray, "N P"]) -> Study:
    """The points as trials that are still to be measured."""
    problem = logged.block.problems[0]
    return Study(
        problem=problem,
        values_RP=without_inactive(problem, to_natural(problem.parameters, units_NP)),
        metrics_RM=np.full((len(units_NP), 1), np.nan),
        states_R=np.full(len(units_NP), State.ACTIVE, dtype=np.int8),
    )


def _path(out: Path, name: str) -> Path:
    return out / _FOLDER / f"{file_name(name)}.json"


def _read(path: Path) -> dict:
    return json.loads(path.read_text("utf-8"))
