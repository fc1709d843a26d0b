"""A benchmark as one record, from which its command, its page and its score's text come.

Adding one takes a module with its tasks and a `Benchmark`, and a line in `benchmarks.py`:

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class BbobOptions:
        functions: Annotated[tuple[str, ...], Option("A BBOB function.", flag="--function")] = ()
        seeds: Annotated[int, Option("How many paired runs on each task.", min=1)] = 5


    BBOB = Benchmark(
        name="bbob",
        help="How soon optimizers find good values of randomized BBOB functions.",
        protocols=(Protocol(name="bbob", title="BBOB", score="The score is ..."),),
        options=BbobOptions,
        tasks=lambda options, trials: tasks(families=options.functions, trials=trials),
        seeds=lambda options: range(options.seeds),
    )

Options of all benchmarks are the fields of `Contestants` and `Running`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Generic, TypeVar

from optformer.progress import Progress, silent

if TYPE_CHECKING:
    from optformer.eval.contestants import Contestants
    from optformer.eval.report.page import Page, Section
    from optformer.eval.report.view import View
    from optformer.eval.results import Results
    from optformer.eval.task import Task

Options = TypeVar("Options")

REPORT = "report.html"


@dataclasses.dataclass(frozen=True)
class Option:
    """What the command line says of a field of an options dataclass, in its `Annotated` type.

    A tuple can be given several times: each time adds a value. A field without a default must be
    given.

    Attributes:
      flag: its name, as in `--function`; made of the field's name if empty.
      min, max: of a number.
    """

    help: str
    flag: str = ""
    min: int | None = None
    max: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Running:
    """How an evaluation runs.

    Attributes:
      command: the command line, for the report.
    """

    trials: Annotated[int, Option("How many trials a run has.", min=1)] = 100
    workers: Annotated[int, Option("How many processes work at the same time.", min=1)] = 2
    command: str = ""
    progress: Progress = silent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """What makes results comparable; a results folder holds those of one.

    Attributes:
      name: in the folder's plan.
      title: of the page.
      score: what a score means.
    """

    name: str
    title: str
    score: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark(Generic[Options]):
    """A benchmark. What it is made of is imported when it is used, so that `--help` is quick.

    Attributes:
      name: of the command.
      help: of the command.
      protocols: usually one.
      options: a dataclass whose fields are `Annotated` with an `Option`.
      tasks: from the options and the number of trials.
      seeds: of the paired runs on each task.
      protocol: which of the protocols these options ask for; the first by default.
      defaults: of the options that all benchmarks have, where they are others here.
      run: runs all that is missing in a folder, in place of `tasks` and `seeds`: for benchmarks
        whose tasks depend on what is evaluated.
      after: what else to do with the results of a run.
      published: adds others' published results; a function of the options, or None.
      about_published: what to know of them.
      sections: the benchmark's own, after the curves.
      page: the whole page, where the usual one does not fit.
      summary: the header and rows for the terminal, and what they are.
    """

    name: str
    help: str
    protocols: tuple[Protocol, ...]
    options: type[Options]
    tasks: "Callable[[Options, int], Sequence[Task]] | None" = None
    seeds: Callable[[Options], Sequence[int]] = lambda options: range(1)
    protocol: Callable[[Options], int] = lambda options: 0
    defaults: Mapping[str, object] = dataclasses.field(default_factory=dict)
    run: "Callable[[Path, Contestants, Running, Options], Results] | None" = None
    after: Callable[[Options, Path], None] | None = None
    published: "Callable[[Options], Callable[[Results], Results] | None]" = lambda options: None
    about_published: str = ""
    sections: "Callable[[View], list[Section]] | None" = None
    page: "Callable[[Path, Results], Page] | None" = None
    summary: "Callable[[Path, Results], Evaluated] | None" = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What an evaluation found: counts in words, a table, its page, and failed runs."""

    counted: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    page: Path
    failed: int = 0


def evaluate(
    benchmark: Benchmark[Options],
    out: Path,
    contestants: "Contestants",
    running: Running,
    options: Options,
) -> Evaluated:
    """Runs what is missing in a results folder, and writes the page about all that it holds.

    Raises:
      ConfigError: an option that does not fit, or nothing to evaluate.
      SourceError: data that the benchmark needs is missing; says where to get it.
      CheckpointError: a model cannot be loaded.
    """
    from optformer.eval import pages, runner

    published = benchmark.published(options)
    if benchmark.run is not None:
        results = benchmark.run(out, contestants, running, options)
    else:
        assert benchmark.tasks is not None
        tasks = benchmark.tasks(options, running.trials)
        results = runner.run(
            contestants.factories(running.trials),
            tasks,
            benchmark.seeds(options),
            out,
            protocol=benchmark.protocols[benchmark.protocol(options)].name,
            workers=running.workers,
            progress=running.progress,
        )
    page = pages.write(out, running, contestants.checkpoints, published=published)
    if benchmark.after is not None:
        benchmark.after(options, out)
    if benchmark.summary is not None:
        return dataclasses.replace(benchmark.summary(out, results), page=page)
    return pages.summary(results, page)
