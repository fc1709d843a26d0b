"""Vizier's SQL database, and studies saved as protos.

    optformer import vizier.db shards/
    optformer import mysql://USER@HOST/vizier shards/
    optformer import protos/ shards/

A folder of protos has for each study a NAME.study.pb (a serialized `vizier.Study`) beside a
NAME.trials.pb (a `vizier.ListTrialsResponse`), as Vizier's service returns them. The endings
.textproto and .json, for protobuf's text and JSON forms, work too.

A completed trial without a finite metric counts as infeasible. A trial with a value outside the
search space, or whose proto is damaged, is left out.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import sqlalchemy
from google.protobuf import json_format, message, text_format
from vizier._src.pyvizier.oss.proto_converters import TrialConverter
from vizier._src.service import study_pb2, vizier_service_pb2
from vizier.service import pyvizier as vz

from optformer.convert import vizier as convert
from optformer.data.importers.record import Options, Record, Remark, records, skipped
from optformer.data.importers.sql import connect, shown
from optformer.errors import StudyError
from optformer.study import Study, Trial

_STUDIES = sqlalchemy.table(
    "studies", *(sqlalchemy.column(c) for c in ("owner_id", "study_id", "serialized_study"))
)
_TRIALS = sqlalchemy.table(
    "trials",
    *(sqlalchemy.column(c) for c in ("owner_id", "study_id", "trial_id", "serialized_trial")),
)
# Vizier's enum names in lower case are our names for its algorithms, but for these: the first two
# say only "the default", the third is the teacher's other name.
_ALGORITHMS = {
    "ALGORITHM_UNSPECIFIED": "vizier_default",
    "DEFAULT": "vizier_default",
    "QUASI_RANDOM_SEARCH": "quasi_random",
}
_ENDINGS = ("pb", "textproto", "json")

_Message = TypeVar("_Message", bound=message.Message)


def database_studies(source: str, options: Options, *, start: int = 0) -> Iterator[Record]:
    """The studies of a Vizier datastore by owner and name, one study in memory at a time.

    Args:
      source: an SQLite file or an SQLAlchemy URL. It is only read.
      start: how many studies to pass over without reading them.
    """
    with connect(source) as connection:
        keys = connection.execute(
            sqlalchemy.select(_STUDIES.c.owner_id, _STUDIES.c.study_id).order_by(
                _STUDIES.c.owner_id, _STUDIES.c.study_id
            )
        ).all()
        for index, (owner, identity) in list(enumerate(keys, start=1))[start:]:
            of_study = [
                (table.c.owner_id == owner) & (table.c.study_id == identity)
                for table in (_STUDIES, _TRIALS)
            ]
            serialized = connection.execute(
                sqlalchemy.select(_STUDIES.c.serialized_study).where(of_study[0])
            ).scalar_one()
            rows = connection.execute(
                sqlalchemy.select(_TRIALS.c.serialized_trial)
                .where(of_study[1])
                .order_by(_TRIALS.c.trial_id)
            ).scalars()
            where = f"{shown(source)}, owner {owner!r}"
            try:
                study = _decode(study_pb2.Study(), serialized, f"study {identity!r}")
            except StudyError as error:
                yield skipped(error, where=where, study=identity), index / len(keys)
                continue
            trials = (_proto_of(row) for row in rows)
            for record in _study(identity, study, trials, options, where):
                yield record, index / len(keys)


def proto_studies(source: str, options: Options, *, start: int = 0) -> Iterator[Record]:
    """The studies of a folder of protos by name; see this module's docstring."""
    paths = study_files(Path(source))
    for index, path in list(enumerate(paths, start=1))[start:]:
        name, _, ending = path.name.rpartition(".study.")
        trials_path = path.with_name(f"{name}.trials.{ending}")
        try:
            study = _read(study_pb2.Study(), path, f"study {name!r}")
            if not trials_path.is_file():
                raise StudyError(
                    f"study {name!r}: its trials are missing. Save them as {trials_path.name}."
                )
            answer = _read(vizier_service_pb2.ListTrialsResponse(), trials_path, f"study {name!r}")
        except StudyError as error:
            yield skipped(error, where=str(path), study=name), index / len(paths)
            continue
        for record in _study(name, study, answer.trials, options, str(path)):
            yield record, index / len(paths)


def study_files(folder: Path) -> list[Path]:
    """The study protos of a folder, in order of their names."""
    return sorted(path for ending in _ENDINGS for path in folder.glob(f"*.study.{ending}"))


def _study(
    name: str,
    proto: study_pb2.Study,
    trials: Iterable[study_pb2.Trial | StudyError],
    options: Options,
    where: str,
) -> Iterator[Study | Remark]:
    try:
        config = vz.StudyConfig.from_proto(proto.study_spec)
        problem = convert.problem_from_vizier(config, name=name)
    except StudyError as error:
        yield skipped(error, where=where, study=name)
        return
    except (ValueError, TypeError, KeyError) as error:  # what Vizier raises for broken protos
        reason = f"Vizier cannot read its search space ({error}). Repair or delete it."
        yield skipped(f"study {name!r}: {reason}", where=where, study=name)
        return
    rows: list[Trial | StudyError] = []
    for trial in trials:
        if isinstance(trial, StudyError):
            rows.append(trial)
            continue
        try:
            rows.append(convert.trial_from_vizier(problem, TrialConverter.from_proto(trial)))
        except StudyError as error:
            rows.append(error)
        except (ValueError, TypeError) as error:
            rows.append(StudyError(f"Vizier cannot read the trial ({error})."))
    algorithm = _ALGORITHMS.get(config.algorithm, config.algorithm.lower())
    yield from records(problem, rows, algorithm=algorithm, options=options, where=where)


def _proto_of(row: bytes | str) -> study_pb2.Trial | StudyError:
    try:
        return _decode(study_pb2.Trial(), row, "the row")
    except StudyError as error:
        return error


def _decode(proto: _Message, serialized: bytes | str, where: str) -> _Message:
    try:
        # The columns are declared as strings; SQLite returns the bytes that were put in.
        proto.ParseFromString(
            serialized if isinstance(serialized, bytes) else serialized.encode("latin-1")
        )
    except (message.DecodeError, UnicodeEncodeError) as error:
        raise StudyError(
            f"{where}: not a proto of Vizier's ({error}). It is damaged; delete it."
        ) from error
    return proto


def _read(proto: _Message, path: Path, where: str) -> _Message:
    try:
        if path.suffix == ".textproto":
            return text_format.Parse(path.read_text(encoding="utf-8"), proto)
        if path.suffix == ".json":
            return json_format.Parse(path.read_text(encoding="utf-8"), proto)
    except (text_format.ParseError, json_format.ParseError, UnicodeDecodeError) as error:
        raise StudyError(
            f"{where}: {path.name} is not a proto of Vizier's ({error}). Export it again."
        ) from error
    return _decode(proto, path.read_bytes(), f"{where}: {path.name}")
