"""`optformer evaluate`: one command a protocol (`optformer.eval.suite`)."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from optformer.eval.contestants import Contestants
    from optformer.eval.suite import Evaluated

# ruff: noqa: B006 (Typer reads the defaults of lists and never changes them)

app = typer.Typer(
    help="Judge a model beside other optimizers, by the field's own protocols.",
    no_args_is_help=True,
)

Out = Annotated[Path, typer.Argument(help="The folder for results and report. It goes on.")]
Model = Annotated[
    Path | None, typer.Option("--checkpoint", help="The model to evaluate.", show_default=False)
]
Models = Annotated[
    list[Path],
    typer.Option("--checkpoint", help="A model to evaluate. Can be repeated.", show_default=False),
]
Acquisitions = Annotated[
    list[str],
    typer.Option("--acquisition", help="How the model suggests: ei, ts, prior ... Repeatable."),
]
Prompts = Annotated[
    list[str],
    typer.Option(
        "--prompt", help="Whom the model imitates. Repeatable; the best it knows if none."
    ),
]
Settings = Annotated[
    list[str],
    typer.Option("--set", help="How the model suggests, as in candidates=200. Repeatable."),
]
Optimizers = Annotated[
    list[str],
    typer.Option(
        "--optimizer",
        help="Whom to compare with: a teacher, vizier_..., optuna_... (all: see the message for "
        "an unknown name). Repeatable.",
    ),
]
Functions = Annotated[
    list[str],
    typer.Option("--function", help="A BBOB function. Repeatable; all held-out ones if none."),
]
Parameters = Annotated[
    list[int], typer.Option("--parameters", help="How many parameters. Repeatable.")
]
Trials = Annotated[int, typer.Option(min=1, help="How many trials a run has.")]
Seeds = Annotated[int, typer.Option(min=1, help="How many paired runs on each task.")]
Workers = Annotated[int, typer.Option(min=1, help="How many processes work at the same time.")]
Together = Annotated[
    int, typer.Option(min=1, help="How many studies share one pass through the model.")
]


@app.command()
def bbob(
    out: Out,
    checkpoints: Models = [],
    acquisitions: Acquisitions = ["ei", "prior"],
    prompts: Prompts = [],
    settings: Settings = [],
    optimizers: Optimizers = ["random_search", "vizier_eagle"],
    functions: Functions = [],
    parameters: Parameters = [2, 4],
    instances: Annotated[
        int, typer.Option(min=1, help="Functions of each kind and number of parameters.")
    ] = 1,
    trials: Trials = 100,
    seeds: Seeds = 5,
    workers: Workers = 2,
    together: Together = 32,
) -> None:
    """How soon optimizers find good values of randomized BBOB functions that nobody trained on."""
    from optformer.eval import suite
    from optformer.terminal import show

    with show.bar("Evaluating") as progress:
        done = suite.bbob(
            out,
            _who(checkpoints, acquisitions, prompts, settings, optimizers, together),
            suite.How(trials=trials, workers=workers, command=_command(), progress=progress),
            families=functions,
            parameters=parameters,
            instances=instances,
            seeds=seeds,
        )
    _end(done)


@app.command()
def coco(
    out: Out,
    checkpoints: Models = [],
    acquisitions: Acquisitions = ["ei"],
    prompts: Prompts = [],
    settings: Settings = [],
    optimizers: Optimizers = ["random_search", "vizier_eagle"],
    functions: Annotated[
        list[int], typer.Option("--function", help="1 to 24. Repeatable; all if none.")
    ] = [],
    dimensions: Annotated[
        list[int], typer.Option("--dimension", help="Repeatable; 2, 3, 5 and 10 if none.")
    ] = [],
    instances: Annotated[int, typer.Option(min=1, help="Instances of each function.")] = 5,
    trials: Trials = 100,
    workers: Workers = 2,
    together: Together = 32,
    postprocess: Annotated[
        bool, typer.Option(help="Have cocopp write its report, in OUT/ppdata.")
    ] = True,
) -> None:
    """COCO's official bbob suite: the observer's files, cocopp's report, and ours."""
    from optformer.eval import suite
    from optformer.terminal import show

    with show.bar("Evaluating") as progress:
        done = suite.coco(
            out,
            _who(checkpoints, acquisitions, prompts, settings, optimizers, together),
            suite.How(trials=trials, workers=workers, command=_command(), progress=progress),
            functions=functions,
            dimensions=dimensions,
            instances=instances,
            postprocess=postprocess,
        )
    if postprocess:
        show.line(f"COCO's report: {out / 'ppdata' / 'index.html'}")
    _end(done)


@app.command()
def hpob(
    out: Out,
    data: Annotated[
        Path, typer.Option(help="The release: a folder with hpob-data and saved-surrogates.")
    ],
    discrete: Annotated[
        bool, typer.Option("--discrete", help="Choose among recorded rows, without surrogates.")
    ] = False,
    checkpoints: Models = [],
    acquisitions: Acquisitions = ["ei", "prior"],
    prompts: Prompts = [],
    settings: Settings = [],
    optimizers: Optimizers = ["random_search", "vizier_eagle"],
    spaces: Annotated[
        list[str], typer.Option("--space", help="A search space. Repeatable; all found if none.")
    ] = [],
    published: Annotated[
        Path | None,
        typer.Option(
            help="A folder of published results (JSON), drawn beside ours.", show_default=False
        ),
    ] = None,
    trials: Trials = 100,
    seeds: Annotated[int, typer.Option(min=1, max=5, help="How many initialisations.")] = 5,
    workers: Workers = 2,
    together: Together = 32,
) -> None:
    """HPO-B's continuous or discrete protocol, beside published results."""
    from optformer.eval import suite
    from optformer.terminal import show

    with show.bar("Evaluating") as progress:
        done = suite.hpob(
            out,
            _who(checkpoints, acquisitions, prompts, settings, optimizers, together),
            suite.How(trials=trials, workers=workers, command=_command(), progress=progress),
            data=data,
            discrete=discrete,
            spaces=spaces,
            published=published,
            seeds=seeds,
        )
    _end(done)


@app.command()
def tables(
    out: Out,
    checkpoints: Models = [],
    acquisitions: Acquisitions = ["ei", "prior"],
    prompts: Prompts = [],
    settings: Settings = [],
    optimizers: Optimizers = ["random_search", "vizier_eagle"],
    benchmarks: Annotated[
        list[str],
        typer.Option(
            "--benchmark", help="hpobench, hpolib or nasbench201. Repeatable; all if none."
        ),
    ] = [],
    trials: Trials = 100,
    seeds: Seeds = 5,
    workers: Workers = 2,
    together: Together = 32,
) -> None:
    """Regret to the optimum of real tables: HPOBench's MLP, FCNet, NAS-Bench-201."""
    from optformer.eval import suite
    from optformer.terminal import show

    with show.bar("Evaluating") as progress:
        done = suite.tables(
            out,
            _who(checkpoints, acquisitions, prompts, settings, optimizers, together),
            suite.How(trials=trials, workers=workers, command=_command(), progress=progress),
            benchmarks=benchmarks,
            seeds=seeds,
        )
    _end(done)


@app.command()
def logs(
    out: Out,
    studies: Annotated[
        list[Path],
        typer.Option(
            help="A folder of study shards, from `optformer import` or `optformer collect`. Can "
            "be repeated."
        ),
    ],
    checkpoints: Models = [],
    acquisitions: Acquisitions = ["ei"],
    prompts: Prompts = [],
    settings: Settings = [],
    optimizers: Annotated[
        list[str],
        typer.Option(
            "--optimizer",
            help="What to compare with: portfolio (a fixed list, chosen on the learner's other "
            "data sets), a teacher, vizier_..., optuna_... Can be repeated.",
        ),
    ] = ["random_search", "optuna_tpe", "optuna_gp", "gp_ucb", "portfolio"],
    learners: Annotated[
        list[str],
        typer.Option("--learner", help="Only studies of this learner. Can be repeated."),
    ] = [],
    most_studies: Annotated[
        int, typer.Option(min=1, help="How many studies at most, in turn of each learner.")
    ] = 100,
    fewest_trials: Annotated[
        int, typer.Option(min=5, help="Studies with fewer completed trials are left out.")
    ] = 40,
    given: Annotated[
        list[int],
        typer.Option(
            min=0, help="How many random trials of a study are given at the start. Can be repeated."
        ),
    ] = [0],
    baseline: Annotated[
        str, typer.Option(help="The optimizer whose last score others are to reach sooner.")
    ] = "optuna_tpe",
    trained_on: Annotated[
        bool,
        typer.Option("--trained-on", help="Keep studies that a model was trained on, too."),
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="A folder that keeps surrogates and the runs of other optimizers for the next "
            "evaluation; by default in the user's cache folder.",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="How many trials a run has.")] = 30,
    seeds: Annotated[int, typer.Option(min=1, help="How many paired runs on each task.")] = 2,
    workers: Workers = 2,
    together: Together = 32,
) -> None:
    """How many trials a model would have saved on real studies that it was not trained on."""
    from optformer.eval import suite
    from optformer.eval.logs.tasks import Choice
    from optformer.files import cache_folder
    from optformer.terminal import show

    with show.bar("Evaluating") as progress:
        done = suite.logs(
            out,
            dataclasses.replace(
                _who(checkpoints, acquisitions, prompts, settings, optimizers, together),
                named_by_folder=True,
            ),
            suite.How(trials=trials, workers=workers, command=_command(), progress=progress),
            studies=studies,
            choice=Choice(
                learners=tuple(learners),
                most=most_studies,
                fewest_trials=fewest_trials,
                trained_on=trained_on,
            ),
            given=sorted(set(given)),
            baseline=baseline,
            seeds=seeds,
            cache=cache or cache_folder(),
        )
    _end(done)


@app.command()
def imitation(
    out: Out,
    checkpoint: Model = None,
    teachers: Annotated[
        list[str],
        typer.Option("--teacher", help="Repeatable; all that the model has learned from if none."),
    ] = [],
    functions: Functions = [],
    parameters: Parameters = [2, 4],
    trials: Trials = 100,
    seeds: Seeds = 5,
    workers: Workers = 2,
    together: Together = 32,
) -> None:
    """Does the model do what its prompt says? Each teacher beside the model that imitates it."""
    from optformer.eval import suite
    from optformer.terminal import show

    with show.bar("Evaluating") as progress:
        done = suite.imitation(
            out,
            suite.How(trials=trials, workers=workers, command=_command(), progress=progress),
            checkpoint=checkpoint,
            teachers=teachers,
            families=functions,
            parameters=parameters,
            seeds=seeds,
            together=together,
        )
    _end(done)


@app.command()
def prediction(
    out: Out,
    checkpoint: Model = None,
    sources: Annotated[
        list[str],
        typer.Option(
            "--source",
            help="bbob (held-out functions) or gp (Gaussian-process draws). Repeatable; bbob if "
            "there is no --source, --hpob or --studies.",
        ),
    ] = [],
    hpob: Annotated[
        Path | None,
        typer.Option(
            help="HPO-B's release, for random trials on its surrogates: a folder with hpob-data "
            "and saved-surrogates.",
            show_default=False,
        ),
    ] = None,
    studies: Annotated[
        list[Path],
        typer.Option(help="A folder of study shards: its studies as they are. Repeatable."),
    ] = [],
    functions: Functions = [],
    spaces: Annotated[
        list[str], typer.Option("--space", help="A search space of HPO-B. Repeatable; all if none.")
    ] = [],
    parameters: Parameters = [2, 4],
    trials: Annotated[int, typer.Option(min=2, help="How many trials a study has at most.")] = 100,
    instances: Annotated[int, typer.Option(min=1, help="Functions of each kind and size.")] = 5,
    most_studies: Annotated[
        int, typer.Option(min=1, help="Of a folder with more studies, so many at random.")
    ] = 100,
    workers: Workers = 2,
) -> None:
    """How well the model predicts values, beside a Gaussian process: by source of the studies,
    trials seen and number of parameters."""
    from optformer.eval import suite
    from optformer.terminal import show

    with show.bar("Evaluating") as progress:
        done = suite.prediction(
            out,
            suite.How(trials=trials, workers=workers, command=_command(), progress=progress),
            checkpoint=checkpoint,
            sources=sources,
            families=functions,
            parameters=parameters,
            instances=instances,
            hpob_data=hpob,
            spaces=spaces,
            studies=studies,
            most_studies=most_studies,
        )
    _end(done)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A results folder.")],
    second: Annotated[Path, typer.Argument(help="Another one of the same protocol.")],
    out: Annotated[Path, typer.Option(help="The folder for the report.")] = Path("comparison"),
) -> None:
    """Two results folders in one report, paired by task and seed where they have both."""
    from optformer.eval import suite
    from optformer.terminal import show

    show.evaluated(suite.compare(first, second, out, command=_command()))


def _who(
    checkpoints: list[Path],
    acquisitions: list[str],
    prompts: list[str],
    settings: list[str],
    optimizers: list[str],
    together: int,
) -> "Contestants":
    from optformer.eval.contestants import Contestants

    return Contestants(
        checkpoints=checkpoints,
        acquisitions=acquisitions,
        prompts=prompts,
        settings=settings,
        optimizers=optimizers,
        together=together,
    )


def _command() -> str:
    return shlex.join(["optformer", *sys.argv[1:]])


def _end(done: "Evaluated") -> None:
    """Shows what was found; an optimizer that failed makes the command fail, after all."""
    from optformer.terminal import show

    show.evaluated(done)
    if done.failed:
        raise typer.Exit(1)
