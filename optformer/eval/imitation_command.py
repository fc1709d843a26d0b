"""`optformer evaluate imitation`: each teacher beside the model that imitates it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from optformer.data.problems.bbob import TEST_FAMILIES
from optformer.errors import ConfigError
from optformer.eval import bbob as bbob_tasks
from optformer.eval import imitation, imitation_sections, pages
from optformer.eval.benchmark import Evaluated, Running
from optformer.eval.report.page import Heading, Interval, Page, Section, Text, named, share
from optformer.eval.report.report import reproduce
from optformer.eval.report.sections import cost, failures, interval
from optformer.eval.report.view import View
from optformer.eval.results import read
from optformer.eval.runner import run
from optformer.policies.model import load

LIKELIHOODS = "likelihoods.npz"
TITLE = "Imitation on BBOB"


def evaluate(
    out: Path,
    running: Running,
    *,
    checkpoint: Path | None,
    teachers: Sequence[str] = (),
    families: Sequence[str] = (),
    parameters: Sequence[int] = (2, 4),
    seeds: int = 5,
    together: int = 32,
) -> Evaluated:
    """Each teacher beside the model prompted with its name, on held-out families.

    Raises:
      ConfigError: no model, or a teacher that it has not learned from. Otherwise as `bbob`.
    """
    if checkpoint is None:
        raise ConfigError("needs a model to evaluate: pass --checkpoint.")
    names = imitation.choose_teachers(checkpoint, teachers)
    tasks = bbob_tasks.tasks(
        families=families or TEST_FAMILIES, parameters=parameters, trials=running.trials
    )
    results = run(
        imitation.factories(checkpoint, names, trials=running.trials, together=together),
        tasks,
        range(seeds),
        out,
        protocol=imitation.PROTOCOL,
        workers=running.workers,
        progress=running.progress,
    )
    by_teacher = {name: imitation.studies(out, tasks, name) for name in names}
    likely = imitation.likelihoods(load(checkpoint), by_teacher, progress=running.progress)
    imitation.save(likely, out / LIKELIHOODS)
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
        for teacher, model in imitation.pairs(view.names)
        if teacher == name
    ]
    return Evaluated(
        counted=f"{pages.counted(results)} Right − wrong prompts: nats a parameter.",
        header=(
            "teacher",
            f"its score after {view.last}",
            "the model's",
            "right − wrong prompts",
            "told right",
        ),
        rows=pages.words(rows),
        page=pages.write(out, running, [checkpoint]),
        failed=len(results.failures),
    )


def page(out: Path, extra: Sequence[Section]) -> Page:
    """The page about a folder's imitations, with these sections before the last one."""
    view = View(read(out))
    noted = out / LIKELIHOODS
    lead, sections = imitation_sections.page_parts(
        view, imitation.load(noted) if noted.exists() else None
    )
    return Page(
        title=TITLE,
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
