"""A SQL database, SQLite or PostgreSQL, with concurrent reads and group commit.

Changes that arrive during a transaction are committed together in the next one: a commit waits for the disk, and a
hundred clients must not wait for a hundred commits.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Select, event, inspect, make_url, text
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from tenacity import AsyncRetrying, retry_if_exception_message, stop_after_delay, wait_random

from serve_app.errors import Unavailable

WAIT_S = 30.0
"""Maximum time that a statement waits for a lock or for the server, in seconds."""

MAX_GROUP = 64
"""Maximum number of changes in one transaction."""

_UNAVAILABLE = ("08", "53", "57P")
"""Prefixes of SQLSTATEs of an unavailable server: no connection, no resources, shutting down or starting.
https://www.postgresql.org/docs/current/errcodes-appendix.html"""

_DEADLOCK = "40P01"

_MIGRATION_LOCK = 0x5717
"""Key of the PostgreSQL advisory lock that lets one process migrate at a time."""

T = TypeVar("T")


@dataclass(eq=False)
class _Change:
    apply: Callable[[AsyncConnection], Awaitable[Any]]
    done: "asyncio.Future[Any]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Database:
    """A connected database, migrated to the newest schema."""

    def __init__(self, reading: AsyncEngine, writing: AsyncEngine) -> None:
        self._reading = reading
        self._writing = writing
        self._waiting: deque[_Change] = deque()
        self._writer: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect and migrate; a SQLite file and its folder are created. Raises OSError or SQLAlchemy's errors."""
        if make_url(url).get_backend_name() == "sqlite":
            folder = Path(make_url(url).database or "").parent
            await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
            reading, writing = create_async_engine(url), create_async_engine(url, pool_size=1, max_overflow=0)
            event.listen(reading.sync_engine, "connect", _configure_sqlite)
            event.listen(writing.sync_engine, "connect", _configure_sqlite)
            event.listen(writing.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        else:
            timeouts = {"timeout": WAIT_S, "command_timeout": WAIT_S}
            reading = writing = create_async_engine(url, pool_pre_ping=True, connect_args=timeouts)
        # SQLite lets one process at a time switch to WAL, and fails the others without waiting.
        is_locked = retry_if_exception_message(match=".*database is locked")
        async for attempt in AsyncRetrying(
            retry=is_locked, stop=stop_after_delay(WAIT_S), wait=wait_random(0, 0.1), reraise=True
        ):
            with attempt:
                async with writing.begin() as connection:
                    await connection.run_sync(_migrate)
        return cls(reading, writing)

    async def close(self) -> None:
        """Commit pending changes and close the connections."""
        while self._writer is not None and not self._writer.done():
            await self._writer
        await self._writing.dispose()
        await self._reading.dispose()

    async def read(self, query: Select[Any]) -> list[RowMapping]:
        """Return the rows of a query. Raises Unavailable if the database is unavailable."""
        with _unavailable_errors():
            async with self._reading.connect() as connection:
                return list((await connection.execute(query)).mappings())

    async def write(self, apply: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Commit a change and return the result of `apply`. An error of `apply` rolls back this change only.

        The change of a cancelled caller may still be committed. Raises Unavailable if the database is unavailable:
        the change may have been committed or not.
        """
        change = _Change(apply)
        self._waiting.append(change)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())
        with _unavailable_errors():
            result: T = await change.done
        return result

    async def _write_all(self) -> None:
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(MAX_GROUP, len(self._waiting)))]
            outcomes: list[tuple[_Change, Any, BaseException | None]] = []
            try:
                async with self._writing.begin() as connection:
                    for change in group:
                        outcomes.append(await _apply(change, connection))
            except Exception as error:  # the whole group was rolled back
                outcomes = [(change, None, error) for change in group]
            for change, result, failure in outcomes:
                if change.done.done():  # cancelled
                    continue
                if _code(failure) == _DEADLOCK:  # another manager's group was chosen to succeed: retry
                    self._waiting.append(change)
                    continue
                if failure is None:
                    change.done.set_result(result)
                else:
                    change.done.set_exception(failure)


async def _apply(change: _Change, connection: AsyncConnection) -> tuple[_Change, Any, Exception | None]:
    try:
        async with connection.begin_nested():
            return change, await change.apply(connection), None
    except Exception as error:
        if connection.closed or connection.invalidated:
            raise
        return change, None, error


@contextmanager
def _unavailable_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not _is_unavailable(error):
            raise
        raise Unavailable("the database is temporarily unavailable; try again", None, "unavailable") from error


def _is_unavailable(error: Exception) -> bool:
    is_connection_error = isinstance(error, OperationalError | InterfaceError | PoolTimeout | OSError)
    return is_connection_error or _code(error).startswith(_UNAVAILABLE)


def _code(error: BaseException | None) -> str:
    """Return the SQLSTATE of a PostgreSQL error, or an empty string. While connecting, SQLAlchemy does not wrap it."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None) or ""


def _configure_sqlite(connection: Any, _: object) -> None:
    # SQLAlchemy begins transactions, not the driver.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={1000 * WAIT_S:.0f}")  # first: the other pragmas may have to wait
    # WAL: readers and the writer do not block each other. `synchronous` stays FULL, so that an accepted job
    # survives a power failure.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
    names = inspect(connection).get_table_names()
    if "jobs" in names and "alembic_version" not in names:
        raise RuntimeError(
            f"{connection.engine.url} was created by a version without migrations: "
            "move it away, or set `database` to another one"
        )
    config = Config()
    config.set_main_option("script_location", "serve_app.jobs.db:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
