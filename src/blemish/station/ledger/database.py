"""Connections: one writer at a time in a process, any number of readers; nothing is read before it is written.

A write is one transaction that begins as such (`BEGIN IMMEDIATE`): a transaction that reads first and writes then fails
at once where another one has written in between, whatever the timeout says. Where the ledger is locked, a write waits
and tries again, and gives up with `Locked`: what was to be written is the caller's, who keeps it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError

from blemish.errors import BlemishError, ConfigError
from blemish.station.config import Config
from blemish.station.place import Place

APPLICATION = 0x424C4D53  # "BLMS" in the header of the file: what it belongs to
PATIENCE = 2.0  # seconds of one attempt
BUSY_MS = 500  # that SQLite itself waits


class Locked(BlemishError):
    """Another process holds the ledger, or its server does not answer: what was to be written is kept."""


class Full(BlemishError):
    """No space is left for the ledger."""


class Ledger:
    """The database of a station.

    Args:
        url: of SQLAlchemy.
        durability: full = a commit survives a loss of power; process = a kill of the program.
    """

    def __init__(self, url: str, durability: str = "full") -> None:
        self.url = url
        self.sqlite = url.startswith("sqlite")
        self._writing = threading.Lock()
        try:
            self._writer = self._engine(durability, immediate=True)
            self._reader = self._engine(durability, immediate=False)
        except (sqlalchemy.exc.ArgumentError, ModuleNotFoundError) as error:
            hint = "docs/station/configuration.md"
            raise ConfigError(f"database '{url}' is not understood ({error})", hint=hint) from None

    @classmethod
    def of(cls, place: Place, config: Config) -> Ledger:
        """That of a station."""
        return cls(config.database or f"sqlite:///{place.root / 'ledger.db'}", config.durability)

    def _engine(self, durability: str, *, immediate: bool) -> Engine:
        if not self.sqlite:
            options = {} if durability == "full" else {"options": "-c synchronous_commit=off"}
            size = 1 if immediate else 4
            engine = create_engine(self.url, pool_size=size, pool_pre_ping=True, connect_args=options)
            if immediate:
                event.listen(engine, "begin", alone)
            return engine
        engine = create_engine(
            self.url,
            pool_size=1 if immediate else 4,
            max_overflow=0 if immediate else 16,
            connect_args={"check_same_thread": False},
        )

        @event.listens_for(engine, "connect")
        def connected(connection: Any, _: Any) -> None:
            connection.isolation_level = None  # transactions begin where we say so
            cursor = connection.cursor()
            for pragma in (
                f"busy_timeout = {BUSY_MS}",
                "journal_mode = WAL",
                f"synchronous = {'FULL' if durability == 'full' else 'NORMAL'}",
                "foreign_keys = ON",
                "journal_size_limit = 67108864",
            ):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        @event.listens_for(engine, "begin")
        def begun(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

        return engine

    @contextmanager
    def write(self, patience: float = PATIENCE) -> Iterator[Connection]:
        """One transaction; committed when the block ends, rolled back where it raises. Locked, Full."""
        with self._writing, _translated():
            connection = self._begun(patience)
            try:
                yield connection
                connection.commit()
            except BaseException:
                connection.rollback()
                raise
            finally:
                connection.close()

    def _begun(self, patience: float) -> Connection:
        until, pause = time.monotonic() + patience, 0.02
        while True:
            connection = self._writer.connect()
            try:
                connection.begin()
                return connection
            except OperationalError as error:
                connection.close()
                if not _is_locked(error) or time.monotonic() + pause > until:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 0.5)
            except BaseException:
                connection.close()
                raise

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """What stood in the ledger when the block began."""
        with _translated(), self._reader.connect() as connection:
            yield connection

    def checkpoint(self) -> None:
        """Bring what SQLite has in its log into the file."""
        if self.sqlite:
            with self._writing, self._writer.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Give all connections back."""
        self._writer.dispose()
        self._reader.dispose()


def alone(connection: Connection) -> None:
    """What BEGIN IMMEDIATE is to SQLite: one writer at a time, whatever it reads before it writes."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {BUSY_MS}")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({APPLICATION})")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if _is_gone(error):
            raise Locked("the ledger's server does not answer", hint="it is tried again") from error
        if _is_locked(error):
            raise Locked("the ledger is locked by another process", hint="it is tried again") from error
        if _is_full(error):
            raise Full(
                "no space is left for the ledger", hint="free some: blemish station verify says what is kept"
            ) from error
        raise


def _is_locked(error: DBAPIError) -> bool:
    original = error.orig
    if isinstance(original, sqlite3.OperationalError):
        return original.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return getattr(original, "sqlstate", None) in ("55P03", "40001", "40P01")


def _is_gone(error: DBAPIError) -> bool:
    """Whether the server of the database cannot be reached, is starting, or has closed the connection."""
    if isinstance(error.orig, sqlite3.Error) or not isinstance(error, OperationalError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    return state is None or state[:2] == "08" or state[:3] == "57P"


def _is_full(error: DBAPIError) -> bool:
    original = error.orig
    if isinstance(original, sqlite3.Error):
        code = getattr(original, "sqlite_errorcode", 0)
        return code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_WRITE
    return getattr(original, "sqlstate", None) in ("53100", "58030")
