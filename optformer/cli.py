"""The command line. Each command calls one function of the package and shows what it returns.

Everything heavy is imported where it is used, so that `optformer --help` answers at once.
"""

import enum
import sys
from pathlib import Path
from typing import Annotated

import typer

from optformer.errors import OptFormerError

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
    JSONL = "jsonl"
    CSV = "csv"
    HPOB = "hpob"


class OutOfRange(enum.StrEnum):
    """What to do with a trial outside its bounds."""

    ERROR = "error"
    CLIP = "clip"


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
    train_seconds: Annotated[float, typer.Option(help="How long to train.")] = 110.0,
    seed: Seed = 0,
) -> None:
    """The whole loop on real input in a few minutes: logs, import, training, tuning, report."""
    from optformer.demo import Settings, run

    run(Settings(out=out, train_seconds=train_seconds, seed=seed))


@app.command()
def generate(
    out: Annotated[Path, typer.Argument(help="The folder for the shards.")],
    studies: Annotated[int, typer.Option(min=1, help="How many studies to make.")] = 10_000,
    config: ConfigFile = None,
    changes: Changes = [],
    workers: Workers = 2,
    seed: Seed = 0,
) -> None:
    """Make studies: many algorithms search many kinds of functions."""
    from optformer import show
    from optformer.data import generate as generating
    from optformer.settings import read_config

    settings = read_config(generating.GenerateConfig, config, changes)
    with show.bar("Generating") as progress:
        manifest = generating.generate(
            settings, out, seed=seed, studies=studies, workers=workers, progress=progress
        )
    show.generated(manifest, out)


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="A file, a folder or a database URL.")],
    out: Annotated[Path, typer.Argument(help="The folder for the shards.")],
    format: Annotated[
        Format | None, typer.Option(help="The log's format. Found out by looking if not given.")
    ] = None,
    out_of_range: Annotated[
        OutOfRange,
        typer.Option(help="A value outside its bounds: leave its study out, or move the value."),
    ] = OutOfRange.ERROR,
    algorithm: Annotated[
        str, typer.Option(help="Who chose the trials, where the log does not say.")
    ] = "",
    spec: Annotated[
        Path | None, typer.Option(help="The search space of a CSV file.", show_default=False)
    ] = None,
    drop_text: Annotated[
        bool, typer.Option("--drop-text", help="Keep no titles, names or metadata.")
    ] = False,
    hash_names: Annotated[
        bool, typer.Option("--hash-names", help="Replace all names by hashes.")
    ] = False,
) -> None:
    """Read a study log (Vizier, Optuna, JSON Lines, CSV, HPO-B) into study shards."""
    from optformer import show
    from optformer.data.importers import import_studies

    with show.bar("Importing") as progress:
        report = import_studies(
            source,
            out,
            format=None if format is None else format.value,
            out_of_range=out_of_range.value,
            algorithm=algorithm,
            spec=spec,
            drop_text=drop_text,
            hash_names=hash_names,
            progress=show.import_progress(progress),
        )
    show.imported(report, out)


@app.command()
def train(
    out: Annotated[Path, typer.Argument(help="The run's folder. If it is there, it goes on.")],
    studies: Annotated[
        list[Path], typer.Option(help="A folder of study shards. Can be repeated.")
    ] = [],
    config: ConfigFile = None,
    changes: Changes = [],
    init: Annotated[
        Path | None,
        typer.Option(help="Start from this checkpoint (fine-tuning).", show_default=False),
    ] = None,
) -> None:
    """Train a model on study shards."""
    import dataclasses

    from optformer import checkpoint, show
    from optformer.config import load_config
    from optformer.data import store
    from optformer.model import train as training

    run = load_config(config, changes)
    if studies:
        shards = (*run.data.shards, *map(str, studies))
        run = dataclasses.replace(run, data=dataclasses.replace(run.data, shards=shards))
    with show.bar("Training") as progress:
        result = training.train(
            run,
            out,
            list(store.scan([Path(folder) for folder in run.data.shards])),
            init=None if init is None else checkpoint.load(init),
            report=show.training_progress(progress),
        )
    show.trained(result)


@app.command()
def tune(
    problem: Annotated[
        str, typer.Option(help="A scikit-learn model on a data set, such as svc/wine.")
    ] = "",
    command: Annotated[
        str,
        typer.Option(
            help="A program to tune, with {name} where a parameter goes. The last number that it "
            "prints is the metric; if it fails, the trial is infeasible."
        ),
    ] = "",
    space: Annotated[
        Path | None,
        typer.Option(
            help="The search space and metric of --command: a study of the JSON Lines format.",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="How many trials to run.")] = 30,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Suggest with this model, in this process.", show_default=False),
    ] = None,
    server: Annotated[
        str, typer.Option(help="Suggest with the Vizier service at this host:port.")
    ] = "",
    algorithm: Annotated[
        str,
        typer.Option(
            help="Who suggests: OPTFORMER_EI, OPTFORMER_TS or OPTFORMER_PRIOR with a model; any "
            "of Vizier's, such as RANDOM_SEARCH. OPTFORMER_EI if there is a model.",
            show_default=False,
        ),
    ] = "",
    name: Annotated[
        str,
        typer.Option(help="The study's name. One that is there goes on.", show_default=False),
    ] = "",
    settings: Annotated[
        list[str],
        typer.Option(
            "--set", help="How the model suggests, as in candidates=200. Can be repeated."
        ),
    ] = [],
    database: Annotated[
        Path | None,
        typer.Option(
            help="Keep the study in this SQLite file, without --server.", show_default=False
        ),
    ] = None,
) -> None:
    """Tune a program or a scikit-learn model, with a model of ours or through a server."""
    from optformer import services, show, targets, tuning

    target = targets.target(problem=problem, command=command, space=space)
    algorithm = algorithm or services.default_algorithm(server, checkpoint)
    name = name or tuning.new_name(target.problem)
    with services.service(server=server, checkpoint=checkpoint, database=database) as endpoint:
        study = tuning.open_study(
            endpoint,
            target.problem,
            algorithm=algorithm,
            name=name,
            policy=services.policy_settings(settings),
        )
        show.tuning(target.problem, algorithm, name, endpoint)
        tried = tuning.tune(
            study, target.problem, target.evaluate, trials=trials, report=show.trial
        )
    show.tuned(target.problem, tried)


@app.command()
def serve(
    checkpoint: Annotated[Path, typer.Argument(help="The model's checkpoint folder.")],
    host: Annotated[str, typer.Option(help="Where to listen.")] = "localhost",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to listen.")] = 28080,
    database: Annotated[
        str, typer.Option(help="Where studies are kept: an SQLite file or a database URL.")
    ] = "studies.db",
) -> None:
    """Serve a model as a Vizier service, beside Vizier's own algorithms."""
    from optformer.policies.server import serve as serving
    from optformer.services import database_url

    serving(checkpoint, host=host, port=port, database_url=database_url(database))


@app.command()
def evaluate(
    out: Annotated[Path, typer.Argument(help="The folder for results and report. It goes on.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A model to evaluate beside the optimizers.", show_default=False),
    ] = None,
    acquisition: Annotated[
        list[str], typer.Option(help="How the model suggests: ei, ts, prior ... Can be repeated.")
    ] = ["ei", "prior"],
    optimizer: Annotated[list[str], typer.Option(help="Whom to compare with. Can be repeated.")] = [
        "random_search",
        "vizier_eagle",
    ],
    function: Annotated[
        list[str], typer.Option(help="A BBOB function. Can be repeated. All held-out ones if none.")
    ] = [],
    parameters: Annotated[list[int], typer.Option(help="How many parameters. Can be repeated.")] = [
        2,
        4,
    ],
    trials: Annotated[int, typer.Option(min=1, help="How many trials a run has.")] = 100,
    seeds: Annotated[int, typer.Option(min=1, help="How many runs of each, all paired.")] = 5,
    workers: Workers = 2,
) -> None:
    """Compare a model with other optimizers on BBOB functions, and write a report."""
    import shlex

    from optformer import show
    from optformer.eval import suite

    with show.bar("Evaluating") as progress:
        report = suite.bbob(
            out,
            checkpoint=checkpoint,
            acquisitions=acquisition,
            optimizers=optimizer,
            families=function,
            parameters=parameters,
            trials=trials,
            seeds=seeds,
            workers=workers,
            command=shlex.join(["optformer", *sys.argv[1:]]),
            progress=progress,
        )
    show.evaluated(report)


@app.command()
def inspect(
    path: Annotated[
        str, typer.Argument(help="A checkpoint, run, results, shard folder or study log.")
    ],
    study: Annotated[
        str | None, typer.Option(help="The study to show; the first if none.", show_default=False)
    ] = None,
    trials: Annotated[int, typer.Option(min=0, help="How many of its trials to show.")] = 8,
) -> None:
    """Say what is in a checkpoint, a training run, results, study shards or a study log."""
    from optformer import inspection, show

    found = inspection.inspect(path)
    if found is not None:
        show.line(f"{path}: {found[0]}")
        show.fields(found[1])
        return
    from optformer.data.inspect import describe

    show.out.print(describe(path, study=study, trials=trials), soft_wrap=False)


def main() -> None:
    """The `optformer` command: errors that are meant for users are shown without a traceback."""
    try:
        app()
    except OptFormerError as error:
        if "--debug" in sys.argv:
            raise
        from optformer import show

        show.error(error)
        sys.exit(1)
