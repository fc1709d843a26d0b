"""Optuna's databases (SQLite or any URL) and journal files, read through Optuna itself.

    optformer import optuna.db shards/
    optformer import postgresql://USER@HOST/optuna shards/

- Distributions become parameters: float is DOUBLE (DISCRETE with a step), int is INTEGER,
  categorical is CATEGORICAL with the choices as text. `log=True` is the scale LOG.
- A parameter whose range changed between trials gets the smallest range that holds them all.
- A parameter that some trials lack is conditional: its parent is a parameter whose value separates
  the trials with it from those without. Without such a parent, trials that differ from most others
  are left out.
- COMPLETE is COMPLETED; FAIL and PRUNED are INFEASIBLE; RUNNING and WAITING are ACTIVE. A complete
  trial whose value is infinite counts as infeasible.
- Each direction is a metric. Constraints are metrics that must not exceed 0.
- The user attribute "algorithm" of a study says who chose the trials, because Optuna does not
  store its sampler; other texts and numbers there are metadata.
"""

import contextlib
from collections.abc import Iterator, Sequence

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import exc

from optformer.convert import conditions
from optformer.convert import optuna as optuna_studies
from optformer.data.importers.record import Options, Record, records, skipped
from optformer.data.importers.sql import read_only_url, shown
from optformer.errors import SourceError, StudyError
from optformer.study import Problem, Trial


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
            algorithm = str(study.user_attrs.get("algorithm", ""))
            try:
                problem = _problem(study, trials)
            except StudyError as error:
                yield skipped(error, where=where, study=name), done
                continue
            rows = [_trial(problem, trial) for trial in trials]
            for record in records(problem, rows, algorithm=algorithm, options=options, where=where):
                yield record, done


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
        parameters = conditions.explained(flat, drawn)
    except StudyError as error:
        raise StudyError(f"study {study.study_name!r}: {error}") from error
    return optuna_studies.problem(study, tuple(parameters.values()), decided)


def _trial(problem: Problem, trial: FrozenTrial) -> Trial | StudyError:
    """The trial, or why it does not fit the problem."""
    known = {parameter.name: parameter for parameter in problem.parameters}
    if trial.state != TrialState.WAITING and trial.params.keys() <= known.keys():
        values = optuna_studies.values_of(known, trial.params)
        if conditions.is_complete(problem, values):
            return optuna_studies.trial(problem, trial, values)
    drew = f"it has the parameters {sorted(trial.params)}"
    if trial.state == TrialState.COMPLETE:
        return StudyError(
            f"left out: {drew}, unlike most other trials, and no parameter decides when."
        )
    return StudyError(
        f"left out: {drew}, because it is {trial.state.name} and ended before all its parameters "
        "were drawn."
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
        # Optuna's own text for an old schema holds whole SQL statements.
        raise SourceError(
            f"{where}: this Optuna ({optuna.__version__}) cannot read it. If an older one wrote "
            f"it, upgrade a copy with `optuna storage upgrade --storage URL`. {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    """What went wrong, without the SQL statement in which it did."""
    text = str(getattr(error, "orig", None) or error)
    return f"(The reason: {text.splitlines()[0][:200]})" if "SELECT" not in text else ""


def _replayed(source: str) -> BaseStorage:
    try:
        return JournalStorage(JournalFileBackend(source))
    except (KeyError, ValueError, TypeError, AssertionError, RecursionError) as error:
        raise SourceError(
            f"{source} is damaged: Optuna cannot replay this journal ({type(error).__name__}). "
            "Cut it after its last whole line, or restore it from a copy."
        ) from error
