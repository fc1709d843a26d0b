"""The command line. Each command calls one function of the package and shows what it returns.

Everything heavy is imported where it is used, so that `optformer --help` answers at once.
"""

import dataclasses
import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optformer.errors import ConfigError, OptFormerError
from optformer.service.space_format import EPILOG
from optformer.terminal import evaluate

if TYPE_CHECKING:
    from collections.abc import Callable

    from optformer.service import targets

# ruff: noqa: B006 (Typer reads the defaults of lists and never changes them)

app = typer.Typer(
    name="optformer",
    help="Learned black-box optimization: import study logs, train a model on them, serve it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Format(enum.StrEnum):
    """The formats of study logs (`optformer.data.importers.Format`)."""

    VIZIER = "vizier"
    VIZIER_PROTOS = "vizier-protos"
    OPTUNA = "optuna"
    OPTUNA_JOURNAL = "optuna-journal"
    OPTUNA_CSV = "optuna-csv"
    JSONL = "jsonl"
    CSV = "csv"
    HPOB = "hpob"
    WANDB = "wandb"
    MLFLOW = "mlflow"
    RAY_TUNE = "ray-tune"
    SYNE_TUNE = "syne-tune"
    SMAC = "smac"
    HYPEROPT = "hyperopt"
    AX = "ax"


class OutOfRange(enum.StrEnum):
    """What to do with a value outside its bounds."""

    DROP = "drop"
    CLIP = "clip"


class Goal(enum.StrEnum):
    """Which way a metric improves (`optformer.study.Goal`)."""

    MAXIMIZE = "MAXIMIZE"
    MINIMIZE = "MINIMIZE"


class Tokens(enum.StrEnum):
    """The tokenizer's presets, or none of them."""

    DEFAULT = "default"
    RELEASED = "released"
    NONE = "none"


Changes = Annotated[
    list[str],
    typer.Option("--set", help="Change a setting: section.field=value. Can be repeated."),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="A TOML file with the settings.", show_default=False)
]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
Workers = Annotated[int, typer.Option(min=1, help="How many processes work at the same time.")]


def _version(wanted: bool) -> bool:
    if wanted:
        import importlib.metadata

        typer.echo(f"optformer {importlib.metadata.version('optformer')}")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where in the code an error arose.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("runs/demo"),
    train_seconds: Annotated[
        float,
        typer.Option(min=1, help="How long to train; how far it gets depends on the machine."),
    ] = 150.0,
    seed: Annotated[
        int, typer.Option(help="For the generated studies and the start of the training.")
    ] = 0,
) -> None:
    """The whole loop on real input in a few minutes: logs, import, training, tuning, report."""
    from optformer.demo.run import Settings, run

    run(Settings(out=out, train_seconds=train_seconds, seed=seed))


@app.command()
def logs(
    out: Annotated[Path, typer.Argument(help="The SQLite file to make.")],
    problem: Annotated[
        list[str],
        typer.Option(
            help="A scikit-learn model on a data set, such as svc/wine. Can be repeated. All but "
            "those that the demo keeps for its comparison if none."
        ),
    ] = [],
    trials: Annotated[int, typer.Option(min=1, help="How many trials each study has.")] = 25,
    workers: Workers = 2,
) -> None:
    """Make a real study log: a Vizier service tunes scikit-learn models with its algorithms."""
    from optformer.demo import problems
    from optformer.demo.logs import write_logs
    from optformer.terminal import show

    with show.bar("Tuning") as progress:
        made = write_logs(
            out,
            [problems.find(name) for name in problem],
            trials=trials,
            workers=workers,
            progress=progress,
        )
    show.logged(studies=made.studies, trials=made.trials, infeasible=made.infeasible, database=out)


@app.command()
def generate(
    out: Annotated[Path, typer.Argument(help="The folder for the shards.")],
    studies: Annotated[int, typer.Option(min=1, help="How many studies to make.")] = 10_000,
    config: ConfigFile = None,
    changes: Changes = [],
    workers: Workers = 2,
    ray: Annotated[
        str | None,
        typer.Option(
            help="The address of a Ray cluster (host:6379, ray://host:10001, auto) whose CPUs do "
            "the work instead.",
            show_default=False,
        ),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Make studies: many algorithms search many kinds of functions."""
    from optformer.data import generate as generating
    from optformer.data.mixture import GenerateConfig
    from optformer.settings import read_config
    from optformer.terminal import show

    settings = read_config(GenerateConfig, config, changes)
    with show.bar("Generating") as progress:
        manifest = generating.generate(
            settings,
            out,
            seed=seed,
            studies=studies,
            workers=workers,
            cluster=ray,
            progress=progress,
        )
    show.generated(manifest, out)


@app.command()
def collect(
    out: Annotated[Path, typer.Argument(help="The folder for the shards.")],
    tables: Annotated[
        list[str],
        typer.Option(
            "--tables",
            help="A folder of CSV or TSV files, or one table by name: sklearn/wine, pmlb/NAME, "
            "openml/NUMBER. Can be repeated. Only synthetic tables if none.",
        ),
    ] = [],
    learner: Annotated[
        list[str],
        typer.Option(
            help="A learner to tune, such as random_forest. Can be repeated. All whose packages "
            "are installed if none."
        ),
    ] = [],
    studies: Annotated[
        int, typer.Option(min=1, help="How many studies to try; some may not count.")
    ] = 100,
    held_out: Annotated[
        Path | None,
        typer.Option(
            help='Tables that some learners must not see: {"TABLE": ["LEARNER or FAMILY", ...]} '
            'as JSON, "*" for all.',
            show_default=False,
        ),
    ] = None,
    config: ConfigFile = None,
    changes: Changes = [],
    workers: Workers = 2,
    ray: Annotated[
        str | None,
        typer.Option(
            help="The address of a Ray cluster (host:6379, ray://host:10001, auto) whose CPUs do "
            "the work instead.",
            show_default=False,
        ),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Make real tuning studies: train learners on data tables, your own or others.

    Each study is a random search over a learner's hyperparameters on one table, with
    cross-validated scores, fit times and learning curves. If the folder is there, the command
    resumes. What it may cost is set by --set: configurations, rows, folds, seconds, effort.
    """
    from optformer.data.collect import collect as collecting
    from optformer.data.collect import read_collect_config
    from optformer.terminal import show

    settings = read_collect_config(
        config, changes, tables=tables, learners=learner, held_out=held_out
    )
    with show.bar("Collecting") as progress:
        manifest = collecting(
            settings,
            out,
            seed=seed,
            studies=studies,
            workers=workers,
            cluster=ray,
            progress=progress,
        )
    show.collected(manifest, out)


def _describe(format: str | None) -> str | None:
    """Prints what a format looks like, and ends."""
    if format is None:
        return None
    from optformer.data.importers import describe, page

    typer.echo(page() if format == "all" else describe(format))
    raise typer.Exit


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="A file, a folder or a database URL.")],
    out: Annotated[Path, typer.Argument(help="The folder for the shards.")],
    describe: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            callback=_describe,
            is_eager=True,
            help="Show what a format looks like, with an example, and exit; all for all of them.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        Format | None, typer.Option(help="The log's format. Detected if not given.")
    ] = None,
    out_of_range: Annotated[
        OutOfRange,
        typer.Option(help="A value outside its bounds: leave its trial out, or move the value."),
    ] = OutOfRange.DROP,
    algorithm: Annotated[
        str, typer.Option(help="Who chose the trials, where the log does not say.")
    ] = "",
    spec: Annotated[
        Path | None, typer.Option(help="The search space of a CSV file.", show_default=False)
    ] = None,
    metric: Annotated[
        str, typer.Option(help="The objective, where the log has several metrics.")
    ] = "",
    goal: Annotated[
        Goal | None,
        typer.Option(
            case_sensitive=False,
            help="Which way the objective improves, where the log does not say.",
            show_default=False,
        ),
    ] = None,
    drop_text: Annotated[
        bool, typer.Option("--drop-text", help="Keep no titles, names or metadata.")
    ] = False,
    hash_names: Annotated[
        bool, typer.Option("--hash-names", help="Replace all names by hashes.")
    ] = False,
) -> None:
    """Read a study log (Vizier, Optuna, W&B, MLflow, CSV, JSON Lines, ...) into study shards."""
    from optformer import study
    from optformer.data.importers import import_studies
    from optformer.terminal import show

    with show.bar("Importing") as progress:
        report = import_studies(
            source,
            out,
            format=None if format is None else format.value,
            out_of_range="clip" if out_of_range == OutOfRange.CLIP else "drop",
            algorithm=algorithm,
            spec=spec,
            metric=metric,
            goal=None if goal is None else study.Goal(goal.value),
            drop_text=drop_text,
            hash_names=hash_names,
            progress=show.import_progress(progress),
        )
    show.imported(report, out)


@app.command()
def train(
    out: Annotated[Path, typer.Argument(help="The run's folder. If it is there, it goes on.")],
    studies: Annotated[
        list[Path],
        typer.Option(
            help="A folder of study shards. Can be repeated. A run that goes on knows its own."
        ),
    ] = [],
    config: ConfigFile = None,
    changes: Changes = [],
    init: Annotated[
        Path | None,
        typer.Option(
            help="Start from the weights of this checkpoint or run (fine-tuning), at a tenth of "
            "the learning rate unless one is given.",
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        int,
        typer.Option(min=0, help="Trace so many steps with JAX's profiler, into OUT/profile."),
    ] = 0,
) -> None:
    """Train a model on study shards."""
    from optformer.data import store
    from optformer.terminal import show
    from optformer.training import train as training
    from optformer.training.config import run_config

    run = run_config(out, config, changes, shards=studies, init=init)
    with show.bar("Training") as progress:
        result = training.train(
            run,
            out,
            list(store.scan([Path(folder) for folder in run.data.shards])),
            report=show.training_progress(progress),
            say=show.training_note,
            profile=profile,
        )
    show.trained(result)


@app.command()
def train_prior(
    out: Annotated[Path, typer.Argument(help="The run's folder. If it is there, it resumes.")],
    studies: Annotated[
        list[Path],
        typer.Option(help="A folder of study shards whose names mean something. Can be repeated."),
    ],
    validation: Annotated[
        list[Path],
        typer.Option(help="Studies to measure rank correlations on. Can be repeated."),
    ] = [],
    base: Annotated[
        str, typer.Option(help="The checkpoint that gets the prior, or a model's name.")
    ] = "optformer-tiny",
    config: ConfigFile = None,
    changes: Changes = [],
) -> None:
    """Teach a model what names and scales mean, from whole studies; into OUT/checkpoint."""
    from optformer.data import store
    from optformer.data.splits import RECORD, TrainingRecord
    from optformer.model import checkpoint
    from optformer.settings import read_config
    from optformer.terminal import show
    from optformer.training import prior

    run = read_config(prior.PriorRun, config, changes)
    saved = checkpoint.load(Path(base))
    known, others = list(store.scan(studies)), list(store.scan(validation) if validation else [])
    trained = prior.train(run, out, known, others, say=show.training_note)
    record = TrainingRecord.of(known) | (TrainingRecord.from_about(saved.about) or TrainingRecord())
    about = dict(saved.about) | {RECORD: record.to_json()}
    checkpoint.save(dataclasses.replace(saved, prior=trained, about=about), out / "checkpoint")
    show.line(f"a model with a prior in {out / 'checkpoint'}")


@app.command()
def calibrate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint's folder, or optformer-tiny.")],
    studies: Annotated[
        list[Path],
        typer.Option(help="A folder of study shards not trained on. Can be repeated."),
    ],
) -> None:
    """Make a model as sure of values as it should be: set its temperature. Training does so too.

    Values are scaled by the range of each whole study, as in `optformer evaluate prediction`.
    """
    from optformer.data import store
    from optformer.terminal import show
    from optformer.training import calibration

    show.calibrated(calibration.calibrate(checkpoint, list(store.scan(studies))), checkpoint)


def _describe_space(wanted: bool) -> bool:
    """Prints what a search space looks like, and ends."""
    if wanted:
        from optformer.service.space_format import page

        typer.echo(page())
        raise typer.Exit
    return wanted


@app.command(epilog=EPILOG)
def tune(
    problem: Annotated[
        str, typer.Option(help="A scikit-learn model on a data set, such as svc/wine.")
    ] = "",
    command: Annotated[
        str,
        typer.Option(
            help="A program to tune, with {name} where a parameter goes; it runs without a shell. "
            "Its metric is a number alone on its last line, or `name: value`, `name=value` or a "
            "JSON object with the metric's name. Otherwise, or if the program fails, the trial "
            "has failed."
        ),
    ] = "",
    space: Annotated[
        Path | None,
        typer.Option(
            help="The search space and metrics of --command: a JSON file, described below.",
            show_default=False,
        ),
    ] = None,
    describe_space: Annotated[
        bool,
        typer.Option(
            "--describe-space",
            callback=_describe_space,
            is_eager=True,
            help="Show what a search space looks like, and exit.",
        ),
    ] = False,
    trials: Annotated[
        int,
        typer.Option(
            min=1, help="How many trials the study has in the end, earlier ones included."
        ),
    ] = 30,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Suggest with this model (a folder, or optformer-tiny), in this process.",
            show_default=False,
        ),
    ] = None,
    server: Annotated[
        str, typer.Option(help="Suggest with the Vizier service at this host:port.")
    ] = "",
    algorithm: Annotated[
        str,
        typer.Option(
            help="Who suggests: EI, TS, TS_JOINT, UCB, PI, MEAN or PRIOR with a model; any of "
            "Vizier's, such as RANDOM_SEARCH. EI if there is a model.",
            show_default=False,
        ),
    ] = "",
    name: Annotated[
        str,
        typer.Option(help="The study's name. An existing study resumes.", show_default=False),
    ] = "",
    settings: Annotated[
        list[str],
        typer.Option(
            "--set", help="How the model suggests, as in candidates=200. Can be repeated."
        ),
    ] = [],
    seed: Annotated[
        int | None,
        typer.Option(
            help="The same seed and trials give the same suggestions of a model.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="How many trials run at the same time.")] = 1,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Seconds that a run of --command may take.", show_default=False
        ),
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, help="How often to run --command again if it fails.")
    ] = 0,
    metric_pattern: Annotated[
        str,
        typer.Option(
            help="A regular expression that finds the metric in the output of --command: the first "
            "group of its last match, as in 'loss=(\\S+)'."
        ),
    ] = "",
    max_failures: Annotated[
        int,
        typer.Option(min=0, help="Give up if the first so many trials all fail; 0 for never."),
    ] = 5,
    database: Annotated[
        Path | None,
        typer.Option(
            help="Keep the study in this SQLite file, without --server.", show_default=False
        ),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            help="The authority (PEM) of --server's TLS certificate.",
            show_default=False,
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            help="The certificate (PEM) to show to a --server that asks.", show_default=False
        ),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="The key of --tls-cert (PEM).", show_default=False)
    ] = None,
) -> None:
    """Tune a program or a scikit-learn model, with a model of ours or through a server."""
    from optformer.service import client, targets
    from optformer.service.server import default_algorithm, endpoint_of
    from optformer.service.tls import Certificates
    from optformer.terminal import show

    # Everything that can be wrong is found before a model is loaded or a trial is run.
    target = _target(
        problem,
        command,
        space,
        lambda read: targets.command_target(
            command, read, metric_pattern=metric_pattern, timeout=timeout, retries=retries
        ),
    )
    algorithm = client.algorithm_named(
        algorithm or default_algorithm(server, checkpoint),
        has_model=bool(server or checkpoint),
    )
    policy = client.checked_settings(algorithm, target.problem, settings, seed)
    tls = None
    if tls_ca or tls_cert or tls_key:
        tls = Certificates(certificate=tls_cert, key=tls_key, authority=tls_ca)
    name = name or client.new_name(target.problem)
    tried: list[client.Tried] = []

    def report(trial: client.Tried) -> None:
        tried.append(trial)
        show.trial(trial)

    with endpoint_of(server=server, checkpoint=checkpoint, database=database) as endpoint:
        study = client.open_study(
            endpoint, target.problem, algorithm=algorithm, name=name, policy=policy, tls=tls
        )
        earlier, best = client.progress_of(study, target.problem)
        show.tuning(target.problem, algorithm, name, server=server, database=database)
        show.resumed(target.problem, earlier, best, trials)
        try:
            client.tune(
                study,
                target.problem,
                target.evaluate,
                trials=trials,
                workers=workers,
                max_failures=max_failures,
                report=report,
                stop=target.stop,
            )
        except KeyboardInterrupt:
            target.stop()
            show.interrupted(target.problem, tried, best, name, kept=bool(server or database))
            raise typer.Exit(130) from None
    show.tuned(target.problem, tried)
    if tried and all(each.metric is None for each in tried):
        raise typer.Exit(1)


def _target(
    problem: str,
    command: str,
    space: Path | None,
    of_program: "Callable[[targets.Space], targets.Target]",
) -> "targets.Target":
    """The scikit-learn problem of this name, or the program with its search space.

    Raises:
      ConfigError: neither or both are given, or one that cannot be.
    """
    from optformer.service import targets

    if bool(problem) == bool(command):
        raise ConfigError(
            "say what to tune: either --problem, as in --problem svc/wine, or --command with "
            '--space, as in --command "python train.py --lr {lr}" --space space.json.'
        )
    if command:
        if space is None:
            raise ConfigError(
                "--command needs --space: a file with the search space and the metric. "
                "`optformer tune --describe-space` shows an example."
            )
        return of_program(targets.read_space(space))
    from optformer.demo import problems

    problems.need_sklearn()
    found = problems.find(problem)
    return targets.function_target(found.problem, found.evaluate)


class LogFormat(enum.StrEnum):
    """How a service writes its log (`optformer.service.observe.LogFormat`)."""

    TEXT = "text"
    JSON = "json"


class LogLevel(enum.StrEnum):
    """From which level on a service writes its log (`optformer.service.observe.LogLevel`)."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@app.command()
def serve(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint's folder, or optformer-tiny.")],
    host: Annotated[str, typer.Option(help="Where to listen.")] = "localhost",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to listen.")] = 28080,
    database: Annotated[
        str, typer.Option(help="Where studies are kept: an SQLite file or a database URL.")
    ] = "studies.db",
    tls_cert: Annotated[
        Path | None, typer.Option(help="The service's TLS certificate (PEM).", show_default=False)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="The key of --tls-cert (PEM).", show_default=False)
    ] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(
            help="Only take clients with a certificate of this authority (PEM).",
            show_default=False,
        ),
    ] = None,
    access: Annotated[
        Path | None,
        typer.Option(
            help="Which tokens and certificates may act as which owners of studies (TOML).",
            show_default=False,
        ),
    ] = None,
    open_to_all: Annotated[
        bool,
        typer.Option(
            "--open",
            help="Let everybody who reaches another --host than localhost use all studies.",
        ),
    ] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="Serve numbers for Prometheus here: with --tls-cert or --open at --host, "
            "otherwise on this machine only.",
            show_default=False,
        ),
    ] = None,
    log_format: Annotated[
        LogFormat, typer.Option(help="The log's lines: text, or JSON objects.")
    ] = LogFormat.TEXT,
    log_level: Annotated[
        LogLevel, typer.Option(help="What to log; debug has a line for every request.")
    ] = LogLevel.INFO,
    limits: Annotated[
        list[str],
        typer.Option(
            "--limit",
            help="The most that a client may ask for, as in trials=2000: message, name, "
            "parameters, values, metrics, trials, study, studies, count or waiting "
            "(`optformer.service.limits.Limits`). Can be repeated.",
        ),
    ] = [],
    warm_up: Annotated[
        list[int],
        typer.Option(
            min=0,
            help="Compile ahead, before listening, what studies of so many parameters take; what "
            "8 take serves fewer too. That can take a minute the first time (see --compiled). Can "
            "be repeated; 0 for nothing.",
        ),
    ] = [8],
    compiled: Annotated[
        Path | None,
        typer.Option(
            help="Keep what was compiled ahead in this folder, for the next start.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Serve a model as a Vizier service, beside Vizier's own algorithms."""
    from optformer.service import server
    from optformer.service.access import read_access
    from optformer.service.limits import Limits
    from optformer.service.tls import Certificates
    from optformer.settings import read_config

    tls = None
    if tls_cert or tls_key or client_ca:
        tls = Certificates(certificate=tls_cert, key=tls_key, authority=client_ca)
        tls.of_server()
    serving = server.Serving(
        host=host,
        port=port,
        database_url=server.database_url(database),
        limits=read_config(Limits, overrides=limits),
        tls=tls,
        access=None if access is None else read_access(access),
        open=open_to_all,
        metrics_port=metrics_port,
        log_format=log_format.value,
        log_level=log_level.value,
        warm_up=tuple(number for number in warm_up if number),
        compiled=compiled,
    )
    server.serve(checkpoint, serving)


app.add_typer(evaluate.app, name="evaluate")


@app.command()
def inspect(
    path: Annotated[
        str, typer.Argument(help="A checkpoint, run, results, shard folder or study log.")
    ],
    study: Annotated[
        str | None, typer.Option(help="The study to show; the first if none.", show_default=False)
    ] = None,
    trials: Annotated[int, typer.Option(min=0, help="How many of its trials to show.")] = 8,
    tokens: Annotated[
        Tokens, typer.Option(help="The format in which to show its tokens.")
    ] = Tokens.DEFAULT,
) -> None:
    """Say what is in a checkpoint, a training run, results, study shards or a study log."""
    from optformer.terminal import show
    from optformer.terminal.inspect import describe

    tokenizer = None
    if tokens != Tokens.NONE:
        from optformer.terminal.tokens import in_format

        tokenizer = in_format(tokens.value)
    shown = describe(path, study=study, trials=trials, tokenizer=tokenizer)
    show.out.print(shown, soft_wrap=False)


def main() -> None:
    """The `optformer` command: errors that are meant for users are shown without a traceback."""
    try:
        app()
    except OptFormerError as error:
        if "--debug" in sys.argv:
            raise
        from optformer.terminal import show

        show.error(error)
        sys.exit(1)
