"""The database of the feedback store: which one a place names, and its tables brought up to date."""

import sqlite3
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from llmrec.errors import UserError

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 6_405_107  # key of PostgreSQL's advisory lock while the tables are created
BUSY_SECONDS = 10  # that an SQLite store waits for other processes
EXPECTED = "postgresql://USER@HOST/DATABASE, or the path of an SQLite file"


def store_url(place: str) -> sa.URL:
    """The database that a user names: a URL of SQLite or PostgreSQL, or the path of an SQLite file.

    Raises:
        UserError: it is another database.
    """
    if "://" not in place:
        return sa.URL.create("sqlite", database=str(Path(place).expanduser()))
    try:
        url = sa.make_url(place)
    except ArgumentError:
        raise UserError(
            f"{place.split('://', maxsplit=1)[0]}://...: this is not a database URL. Expected {EXPECTED}."
        ) from None
    if url.get_backend_name() == "postgresql" and url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise UserError(f"The store is a database of {url.get_backend_name()}. Expected {EXPECTED}.")
    return url


def connect(url: sa.URL) -> sa.Engine:
    """Opens a database and brings its tables up to date."""
    shown = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    try:
        engine = sa.create_engine(url, hide_parameters=True, pool_pre_ping=url.get_backend_name() != "sqlite")
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise UserError(
            f"{shown}: {error}. Install the driver, for instance `pip install 'psycopg[binary]'`."
        ) from None
    if url.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
    try:
        with engine.connect() as connection:
            _migrate(connection)
    except CommandError as error:
        raise UserError(f"{shown}: a newer llmrec has written this store ({error}). Update llmrec.") from None
    except SQLAlchemyError as error:
        raise UserError(
            f"{shown}: the store cannot be opened ({reason_of(error)}). Check that the place exists and is writable, "
            "and for PostgreSQL host, database, user and PGPASSWORD."
        ) from None
    return engine


def _set_up_sqlite(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"pragma busy_timeout={1000 * BUSY_SECONDS}")  # waits for other processes
    _change_journal(cursor)
    cursor.execute("pragma synchronous=full")  # a commit is on the disk, also after a power cut
    cursor.close()


def _change_journal(cursor: sqlite3.Cursor) -> None:
    """Sets the write-ahead log, with which readers do not wait for the writer.

    SQLite does not wait for other processes here, so servers that start together on a new store meet.
    """
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("pragma journal_mode=wal")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _migrate(connection: sa.Connection) -> None:
    """Creates or updates the tables, one process at a time."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("begin immediate")
    else:
        connection.execute(sa.text("select pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    connection.commit()


def reason_of(error: Exception) -> str:
    """What the database reported, without the statement and its values, which may name people."""
    original = getattr(error, "orig", None) or error
    return f"{type(original).__name__}: {str(original).splitlines()[0] if str(original) else 'no message'}"
