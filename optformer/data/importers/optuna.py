"""Optuna's logs: a storage database or a journal file, read through Optuna itself.

How Optuna's words become ours is told in `data.optuna_studies`. Besides, of a log:

- A parameter whose range changed between trials gets the smallest range that holds them all.
- A parameter that some trials lack must have a parent that says when. If none does, the study is
  skipped.
- WAITING trials, and failed or running ones that ended before all their parameters were drawn, are
  left out and counted.
- The user attribute "algorithm" says who chose the trials, because Optuna does not store its
  sampler.
"""

import contextlib
from collections.abc import Iterator, Sequence

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import exc

from optformer.convert import optuna as optuna_studies
from optformer.data.importers.record import Options, Record, Skipped, build, skipped
from optformer.data.importers.sql import read_only_url, shown
from optformer.errors import SourceError, StudyError
from optformer.study import Problem, Value


def studies(
    source: str, options: Options, *, start: int = 0, journal: bool = False
) -> Iterator[Record]:
    """The studies of a storage in its own order.

    A database is read one study at a time; a journal has to be replayed into memory as a whole.

    Args:
      source: an SQLite file or SQLAlchemy URL, or with `journal` a journal file.
      start: how many studies to pass over without reading them.
    """
    where = shown(source)
    with _opened(source, journal) as storage:
        names = optuna.get_all_study_names(storage)
        for index, name in list(enumerate(names, start=1))[start:]:
            done = index / len(names)
            study = optuna.load_study(study_name=name, storage=storage)
            trials = study.get_trials(deepcopy=False)
            try:
                problem = _problem(study, trials)
                kept = [
                    optuna_studies.trial(problem, trial, values)
                    for trial in trials
                    if (values := _whole_values(problem, trial)) is not None
                ]
                ours = build(
                    problem,
                    kept,
                    algorithm=str(study.user_attrs.get("algorithm", "")),
                    options=options,
                )
            except StudyError as error:
                yield skipped(error, where=where, study=name), done
                continue
            if len(kept) < len(trials):
                yield _left_out(where, problem, trials), done
            yield ours, done


def _problem(study: optuna.Study, trials: Sequence[FrozenTrial]) -> Problem:
    started = [trial for trial in trials if trial.params and trial.state != TrialState.WAITING]
    # A trial that failed may lack parameters only because it never got to them.
    decided = [trial for trial in started if trial.state == TrialState.COMPLETE] or started
    if not decided:
        raise StudyError(f"study {study.study_name!r} has no trials that drew any parameters.")
    try:
        flat = {
            name: optuna_studies.parameter(name, seen)
            for name, seen in optuna_studies.distributions(decided).items()
        }
        drawn = [optuna_studies.values_of(flat, trial.params) for trial in decided]
        parameters = optuna_studies.with_conditions(flat, drawn)
        for name in flat:
            if name not in parameters:
                row = next(row for row, trial in enumerate(drawn, start=1) if name not in trial)
                raise StudyError(
                    f"parameter {name!r} is missing from trial {row}, and no parameter decides "
                    "when. Give every trial of the study the same parameters, or a choice that "
                    "selects them."
                )
    except StudyError as error:
        raise StudyError(f"study {study.study_name!r}: {error}") from error
    return optuna_studies.problem(study, tuple(parameters.values()), decided)


def _whole_values(problem: Problem, trial: FrozenTrial) -> dict[str, Value] | None:
    """The trial's values; None if it is waiting, or has other parameters than they call for."""
    known = {parameter.name: parameter for parameter in problem.parameters}
    if trial.state == TrialState.WAITING or not trial.params.keys() <= known.keys():
        return None
    values = optuna_studies.values_of(known, trial.params)
    return values if optuna_studies.is_complete(problem, values) else None


def _left_out(where: str, problem: Problem, trials: Sequence[FrozenTrial]) -> Skipped:
    left = [n for n, trial in enumerate(trials, start=1) if _whole_values(problem, trial) is None]
    first = trials[left[0] - 1]
    return Skipped(
        where=where,
        study=problem.name,
        trial=left[0],
        kind="trials that ended before all their parameters were drawn",
        reason=(
            f"study {problem.name!r}, trial {left[0]}: left out, because it is "
            f"{first.state.name} with the parameters {sorted(first.params)}."
        ),
        trials=len(left),
    )


@contextlib.contextmanager
def _opened(source: str, journal: bool) -> Iterator[BaseStorage]:
    if journal:
        yield _replayed(source)
        return
    where = shown(source)
    url = read_only_url(source).render_as_string(hide_password=False)
    try:
        storage = RDBStorage(url, skip_table_creation=True)
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()
    except (RuntimeError, StorageInternalError, exc.SQLAlchemyError) as error:
        raise SourceError(
            f"{where}: Optuna cannot read it ({error}). Check the database with 'optuna studies'."
        ) from error


def _replayed(source: str) -> BaseStorage:
    try:
        return JournalStorage(JournalFileBackend(source))
    except (KeyError, ValueError, TypeError, AssertionError) as error:
        raise SourceError(
            f"{source} is damaged: Optuna cannot replay this journal ({error!r}). "
            "Cut it after its last whole line, or restore it from a copy."
        ) from error
