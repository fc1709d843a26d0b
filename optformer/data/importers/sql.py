"""Databases of study logs, opened read-only: which schema they have, and their errors."""

import contextlib
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import sqlalchemy
from sqlalchemy import exc

from optformer.errors import SourceError


@contextlib.contextmanager
def connect(source: str) -> Iterator[sqlalchemy.Connection]:
    """A connection to an SQLite file or an SQLAlchemy URL; SQLite files are not written to.

    Raises:
      SourceError: it does not exist, is not a database, or a query in the block failed.
    """
    try:
        engine = sqlalchemy.create_engine(read_only_url(source))
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()
    except exc.NoSuchModuleError as error:
        raise SourceError(
            f"{shown(source)}: SQLAlchemy knows no such kind of database ({error}). "
            "Write the URL as DIALECT://USER@HOST/DATABASE."
        ) from error
    except ModuleNotFoundError as error:
        raise SourceError(
            f"{shown(source)} needs the driver {error.name!r}. Install it: pip install {error.name}"
        ) from error
    except exc.SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise SourceError(
            f"{shown(source)} cannot be read as a database ({cause}). "
            "Check the path or URL, and that it is a Vizier or Optuna database."
        ) from error


def schema(source: str) -> Literal["vizier", "optuna"]:
    """Whose tables the database has.

    Raises:
      SourceError: neither Vizier's nor Optuna's; names the tables that are there.
    """
    with connect(source) as connection:
        inspector = sqlalchemy.inspect(connection)
        tables = inspector.get_table_names()
        if "studies" in tables and "trials" in tables:
            columns = {column["name"] for column in inspector.get_columns("studies")}
            if "serialized_study" in columns:
                return "vizier"
            if "version_info" in tables and "trial_params" in tables:
                return "optuna"
    found = f"the tables {', '.join(sorted(tables)[:8])}" if tables else "no tables"
    raise SourceError(
        f"{shown(source)} has {found}, which is neither Vizier's schema nor Optuna's. "
        "Export its trials as CSV or JSON Lines and import those."
    )


def read_only_url(source: str) -> sqlalchemy.URL:
    """The URL to open, with SQLite files in read-only mode.

    Raises:
      SourceError: an SQLite file that does not exist, or text that is not a URL.
    """
    try:
        url = sqlalchemy.make_url(source if "://" in source else "sqlite:///" + source)
    except exc.ArgumentError as error:
        raise SourceError(
            f"{source} is not a database URL. Write it as DIALECT://USER@HOST/DATABASE."
        ) from error
    if url.get_backend_name() != "sqlite" or not url.database or url.database.startswith("file:"):
        return url
    if not Path(url.database).is_file():
        raise SourceError(f"{url.database} does not exist. Check the path of the database file.")
    path = urllib.parse.quote(str(Path(url.database).absolute()))
    return url.set(database=f"file:{path}", query={**url.query, "mode": "ro", "uri": "true"})


def shown(source: str) -> str:
    """The source as messages and shards name it: without a password."""
    if "://" not in source:
        return source
    try:
        return sqlalchemy.make_url(source).render_as_string(hide_password=True)
    except exc.ArgumentError:
        return source.partition("://")[0] + "://…"
