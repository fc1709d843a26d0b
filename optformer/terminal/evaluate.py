"""`optformer evaluate`: a command for each benchmark, made from its record, and a few others.

A benchmark's options are the fields of its own dataclass and those of `Contestants` and `Running`
(`optformer/eval/benchmark.py`). What is heavy is imported when a command runs.
"""

import dataclasses
import inspect
import shlex
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from optformer.eval.benchmark import Benchmark, Evaluated, Option, Running, evaluate
from optformer.eval.benchmarks import BENCHMARKS
from optformer.eval.contestants import Contestants

# ruff: noqa: B006 (Typer reads the defaults of lists and never changes them)


app = typer.Typer(
    help="Compare a model with other optimizers, by the field's own protocols.",
    no_args_is_help=True,
)

Out = Annotated[
    Path, typer.Argument(help="The folder for results and report. A stopped run resumes there.")
]
Model = Annotated[
    Path | None, typer.Option("--checkpoint", help="The model to evaluate.", show_default=False)
]
Functions = Annotated[
    list[str],
    typer.Option(
        "--function", help="A BBOB function; by default all held-out ones. Can be repeated."
    ),
]
Parameters = Annotated[
    list[int], typer.Option("--parameters", help="How many parameters. Can be repeated.")
]
Trials = Annotated[int, typer.Option(min=1, help="How many trials a run has.")]
Seeds = Annotated[int, typer.Option(min=1, help="How many paired runs on each task.")]
Workers = Annotated[int, typer.Option(min=1, help="How many processes work at the same time.")]
Together = Annotated[
    int, typer.Option(min=1, help="How many studies share one pass through the model.")
]


def _command_of(benchmark: Benchmark[Any]) -> Callable[..., None]:
    """The command that runs a benchmark."""
    kinds: tuple[type, ...] = (Contestants, benchmark.options, Running)
    parameters = [inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, annotation=Out)]
    parameters += [
        parameter for kind in kinds for parameter in _parameters(kind, benchmark.defaults)
    ]
    # An option that must be given has no default, which Python wants first.
    parameters.sort(key=lambda parameter: parameter.default is not inspect.Parameter.empty)

    def command(**given: object) -> None:
        from optformer.terminal import show

        out = given.pop("out")
        assert isinstance(out, Path)
        values = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in given.items()
        }
        contestants, options, running = (
            kind(**{name: value for name, value in values.items() if name in _names(kind)})
            for kind in kinds
        )
        with show.bar("Evaluating") as progress:
            running = dataclasses.replace(running, command=_typed(), progress=progress)
            done = evaluate(benchmark, out, contestants, running, options)
        _end(done)

    command.__doc__ = benchmark.help
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _names(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _parameters(kind: type, defaults: Mapping[str, object]) -> Iterator[inspect.Parameter]:
    """The options of a dataclass whose fields say what they are (`benchmark.Option`)."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        annotation, *extras = typing.get_args(hints[field.name]) or (hints[field.name],)
        words = [extra for extra in extras if isinstance(extra, Option)]
        if not words:
            continue
        (option,) = words
        help = option.help
        origin = typing.get_origin(annotation)
        if isinstance(origin, type) and issubclass(origin, Sequence):
            annotation = list[typing.get_args(annotation)[0]]  # type: ignore[misc]
            help += " Can be repeated."
        default = defaults.get(field.name, field.default)
        if default is dataclasses.MISSING:
            default = inspect.Parameter.empty
        flags = (option.flag,) if option.flag else ()
        shown: dict[str, Any] = {} if default not in (None, ()) else {"show_default": False}
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=list(default) if isinstance(default, tuple) else default,
            annotation=Annotated[
                annotation,
                typer.Option(*flags, help=help, min=option.min, max=option.max, **shown),
            ],
        )


for _benchmark in BENCHMARKS:
    app.command(_benchmark.name)(_command_of(_benchmark))


@app.command()
def imitation(
    out: Out,
    checkpoint: Model = None,
    teachers: Annotated[
        list[str],
        typer.Option(
            "--teacher", help="By default all that the model has learned from. Can be repeated."
        ),
    ] = [],
    functions: Functions = [],
    parameters: Parameters = [2, 4],
    trials: Trials = 100,
    seeds: Seeds = 5,
    workers: Workers = 2,
    together: Together = 32,
) -> None:
    """Whether the model does what its prompt says: each teacher beside its imitation."""
    from optformer.eval import imitation_command
    from optformer.terminal import show

    with show.bar("Evaluating") as progress:
        done = imitation_command.evaluate(
            out,
            Running(trials=trials, workers=workers, command=_typed(), progress=progress),
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
            help="bbob (held-out functions) or gp (Gaussian-process draws); by default bbob, "
            "unless --hpob or --studies is given. Can be repeated.",
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
        typer.Option(help="A folder of study shards: its studies as they are. Can be repeated."),
    ] = [],
    functions: Functions = [],
    spaces: Annotated[
        list[str],
        typer.Option("--space", help="A search space of HPO-B; by default all. Can be repeated."),
    ] = [],
    parameters: Parameters = [2, 4],
    trials: Annotated[int, typer.Option(min=2, help="How many trials a study has at most.")] = 100,
    instances: Annotated[int, typer.Option(min=1, help="Functions of each kind and size.")] = 5,
    most_studies: Annotated[
        int, typer.Option(min=1, help="A random sample of this size of a folder with more studies.")
    ] = 100,
    workers: Workers = 2,
) -> None:
    """How well the model predicts values, beside a Gaussian process: by source of the studies,
    trials seen and number of parameters."""
    from optformer.eval import prediction_command
    from optformer.terminal import show

    with show.bar("Evaluating") as progress:
        done = prediction_command.evaluate(
            out,
            Running(trials=trials, workers=workers, command=_typed(), progress=progress),
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
    from optformer.eval import pages
    from optformer.terminal import show

    show.evaluated(pages.compare(first, second, out, command=_typed()))


def _typed() -> str:
    """The command line."""
    return shlex.join(["optformer", *sys.argv[1:]])


def _end(done: Evaluated) -> None:
    """Shows the result. A run that failed makes the command fail, once all others have ended."""
    from optformer.terminal import show

    show.evaluated(done)
    if done.failed:
        raise typer.Exit(1)
