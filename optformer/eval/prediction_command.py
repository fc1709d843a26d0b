"""`optformer evaluate prediction`: how well a model predicts, beside a Gaussian process."""

from collections.abc import Callable, Sequence
from pathlib import Path

from optformer.errors import ConfigError, did_you_mean
from optformer.eval import pages, prediction_measures, prediction_runs, prediction_sections
from optformer.eval import prediction_sources as sources_of
from optformer.eval.benchmark import Evaluated, Running
from optformer.eval.prediction import GaussianProcess
from optformer.model import checkpoint as checkpoints
from optformer.model.config import most_parameters
from optformer.policies.session import check_problem
from optformer.study import Study


def evaluate(
    out: Path,
    running: Running,
    *,
    checkpoint: Path | None,
    sources: Sequence[str] = (),
    families: Sequence[str] = (),
    parameters: Sequence[int] = (2, 4),
    instances: int = 5,
    hpob_data: Path | None = None,
    spaces: Sequence[str] = (),
    studies: Sequence[Path] = (),
    most_studies: int = 100,
) -> Evaluated:
    """How well a model predicts trials of these sources, beside a Gaussian process that is fitted
    to the same trials (`prediction.GaussianProcess`).

    Args:
      sources: "bbob" and "gp"; "bbob" if no source of any kind is named.
      families: BBOB functions; those held out if none.
      parameters, instances: how large BBOB functions and draws are, and how many of each.
      hpob_data: HPO-B's release, which is then a source, too.
      studies: folders of study shards, each a source.
      most_studies: of each such folder.

    Raises:
      ConfigError: no model, an unknown source, function or space, or a folder of other settings.
      SourceError: a folder is missing or empty; says what to do.
      CheckpointError: the model cannot be loaded.
    """
    if checkpoint is None:
        raise ConfigError("needs a model to evaluate: pass --checkpoint.")
    if not (sources or hpob_data or studies):
        sources = (sources_of.BBOB,)
    for name in sources:
        if name not in sources_of.GENERATED:
            known = sources_of.GENERATED
            raise ConfigError(
                f"there is no source {name!r}. Known: {', '.join(known)}, and the folders of "
                f"--hpob and --studies.{did_you_mean(name, known)}"
            )
    if families and sources_of.BBOB not in sources:
        raise ConfigError("--function is for BBOB: give --source bbob, too.")
    if spaces and hpob_data is None:
        raise ConfigError("--space is for HPO-B: give --hpob, too.")
    accept = accepts(checkpoint)
    drawn: list[sources_of.Source] = []
    if sources_of.BBOB in sources:
        drawn.append(
            sources_of.bbob_functions(
                families=families, parameters=parameters, instances=instances, trials=running.trials
            )
        )
    if sources_of.GP in sources:
        drawn.append(
            sources_of.gaussian_process_draws(
                parameters=parameters, instances=instances, trials=running.trials
            )
        )
    if hpob_data is not None:
        drawn.append(sources_of.hpob_surrogates(hpob_data, spaces=spaces, trials=running.trials))
    drawn += [
        sources_of.logs(folder, trials=running.trials, most_studies=most_studies, accept=accept)
        for folder in studies
    ]
    found = prediction_runs.run(
        {
            "optformer": prediction_runs.CheckpointPredictor(checkpoint=checkpoint),
            prediction_measures.REFERENCE: GaussianProcess(),
        },
        drawn,
        out,
        workers=running.workers,
        progress=running.progress,
    )
    table = prediction_sections.summary(found.predictions)
    return Evaluated(
        counted=table.caption,
        header=tuple(table.header),
        rows=pages.words(table.rows),
        page=pages.write(out, running, [checkpoint]),
    )


def accepts(checkpoint: Path) -> Callable[[Study], None]:
    """A function that raises a StudyError for a study that the model cannot take.

    Raises:
      CheckpointError: the model cannot be loaded; says so before anything runs.
    """
    most = most_parameters(checkpoints.load(checkpoint).config)
    return lambda study: check_problem(study.problem, most)
