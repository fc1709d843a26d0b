"""Predictions of many studies in a folder, where a stopped run resumes.

    <folder>/predictions/plan.json     predictors with their settings, sources, studies
    <folder>/predictions/parts/*.npz   all predictors' predictions of one study, written in one step

Predictions do not depend on the number of processes.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from optformer.data.processes import run_tasks
from optformer.errors import ConfigError, SourceError, make_folder
from optformer.eval.prediction import (
    Predictions,
    Predictor,
    evaluate,
    fingerprint,
    join,
    load,
    save,
)
from optformer.eval.prediction_sources import Source
from optformer.eval.task import file_name
from optformer.files import atomic_write
from optformer.model import checkpoint as checkpoints
from optformer.model.config import Temperature
from optformer.progress import Progress, silent
from optformer.study import Study

_FORMAT = 1

BySource = Mapping[str, Mapping[str, Predictions]]
"""source -> predictor -> its predictions; all predictors of a source have the same ones."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """The predictions in a folder.

    Attributes:
      predictions: of the sources of which any study is done.
      about: a description of each source's studies.
      settings: of each predictor.
      missing: how many planned studies are not predicted yet.
    """

    predictions: BySource
    about: Mapping[str, str]
    settings: Mapping[str, str]
    missing: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointPredictor:
    """The model of a checkpoint as a `Predictor` that can be sent to processes, which load it once.

    Attributes:
      checkpoint: its folder, or the name of a model of this package. It is not
        part of the predictor's identity.
      weights, value_temperature: the checkpoint's, so that predictions of other weights are
        not reused.
    """

    checkpoint: Path = dataclasses.field(repr=False)
    weights: str = dataclasses.field(init=False)
    value_temperature: Temperature = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", checkpoints.fingerprint(self.checkpoint))
        said = checkpoints.value_temperature(self.checkpoint)
        object.__setattr__(self, "value_temperature", said)

    def predict(
        self, study: Study, y_range: tuple[float, float], rows_N: Int64[np.ndarray, " N"]
    ) -> Float[np.ndarray, "N Q"]:
        """See `Predictor.predict`."""
        from optformer.eval.ours import ModelPredictor, loaded

        model = loaded(self.checkpoint, self.weights, self.value_temperature)
        return ModelPredictor(model=model).predict(study, y_range, rows_N)

    def predict_first(self, study: Study, y_range: tuple[float, float]) -> Float[np.ndarray, "N Q"]:
        """See `ours.ModelPredictor.predict_first`."""
        from optformer.eval.ours import ModelPredictor, loaded

        model = loaded(self.checkpoint, self.weights, self.value_temperature)
        return ModelPredictor(model=model).predict_first(study, y_range)


def run(
    predictors: Mapping[str, Predictor],
    sources: Sequence[Source],
    out: Path,
    *,
    every: int = 1,
    workers: int = 1,
    progress: Progress = silent,
) -> Found:
    """Predicts what is missing in `out` and returns all that is there, of other sources too.

    Args:
      every: predict each `every`-th trial only.
      workers: processes; 1 works in this one. Predictors and studies are pickled for others.

    Raises:
      ConfigError: the folder holds predictions of other predictors, of the same ones with other
        settings, or another study under the same name.
      StudyError: a study without two different values.
    """
    settings = {name: repr(predictor) for name, predictor in predictors.items()}
    studies = _named(sources)
    _write_plan(out, settings | {"every": str(every)}, sources, studies)
    jobs = [
        _Job(predictors=predictors, study=study, every=every, part=_part(out, key))
        for key, (_, study) in studies.items()
    ]
    waiting = [job for job in jobs if not job.part.exists()]
    done = len(jobs) - len(waiting)
    progress(done, len(jobs))
    for job, _ in run_tasks(_run_one, waiting, workers=min(workers, max(1, len(waiting)))):
        done += 1
        progress(done, len(jobs), job.study.name)
    return read(out)


def is_there(out: Path) -> bool:
    """Whether a results folder holds predictions."""
    return _plan_path(out).exists()


def read(out: Path) -> Found:
    """The predictions in a results folder.

    Raises:
      SourceError: there are none, or they have another format.
    """
    plan = _read_plan(out)
    if not plan:
        raise SourceError(f"{out} holds no predictions. Make some: optformer evaluate prediction.")
    parts: dict[str, list[dict[str, Predictions]]] = {}
    missing = 0
    for key, known in plan["studies"].items():
        path = _part(out, key)
        if path.exists():
            parts.setdefault(known["source"], []).append(load(path))
        else:
            missing += 1
    predictions = {
        source: {name: join([part[name] for part in parts[source]]) for name in parts[source][0]}
        for source in plan["sources"]
        if source in parts
    }
    return Found(
        predictions=predictions,
        about=plan["sources"],
        settings={name: of for name, of in plan["settings"].items() if name != "every"},
        missing=missing,
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    predictors: Mapping[str, Predictor]
    study: Study
    every: int
    part: Path


def _run_one(job: _Job) -> None:
    save(evaluate(job.predictors, [job.study], every=job.every), job.part)


def _named(sources: Sequence[Source]) -> dict[str, tuple[str, Study]]:
    """Each study with its source, by both names; the second of a name has a number, too.

    Raises:
      ConfigError: two sources of one name.
    """
    names = [source.name for source in sources]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"two sources are named {repeated[0]!r}. Rename the folder of one.")
    named: dict[str, tuple[str, Study]] = {}
    for source in sources:
        seen: Counter[str] = Counter()
        for study in source.studies:
            seen[study.name] += 1
            number = f"#{seen[study.name]}" if seen[study.name] > 1 else ""
            named[f"{source.name}/{study.name}{number}"] = source.name, study
    return named


def _write_plan(
    out: Path,
    settings: Mapping[str, str],
    sources: Sequence[Source],
    studies: Mapping[str, tuple[str, Study]],
) -> None:
    plan = _read_plan(out)
    if plan and plan["settings"] != dict(settings):
        raise ConfigError(
            f"{out} holds predictions with other settings: {plan['settings']}, now "
            f"{dict(settings)}. Write to another folder."
        )
    known = dict(plan.get("studies", {}))
    for key, (source, study) in studies.items():
        new = {"source": source, "fingerprint": fingerprint(study)}
        if known.setdefault(key, new) != new:
            raise ConfigError(
                f"{out} holds predictions of another study named {key!r}, of other trials. Write "
                "to another folder."
            )
    plan = {
        "format": _FORMAT,
        "settings": dict(settings),
        "sources": {**plan.get("sources", {}), **{s.name: s.about for s in sources}},
        "studies": known,
    }
    path = _plan_path(out)
    make_folder(path.parent)
    with atomic_write(path, shared=True) as place:
        place.write_text(json.dumps(plan, indent=1), "utf-8")


def _read_plan(out: Path) -> dict:
    path = _plan_path(out)
    if not path.exists():
        return {}
    plan = json.loads(path.read_text("utf-8"))
    if plan.get("format") != _FORMAT:
        raise SourceError(
            f"{path} has format {plan.get('format')}, this version reads {_FORMAT}. Write to "
            "another folder."
        )
    return plan


def _plan_path(out: Path) -> Path:
    return out / "predictions" / "plan.json"


def _part(out: Path, key: str) -> Path:
    return out / "predictions" / "parts" / f"{file_name(key)}.npz"
