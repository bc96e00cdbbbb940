"""A SQL database: SQLite in a file, or PostgreSQL by its URL. Reads at will; writes one group after another.

What waits to be written when a transaction ends is written together in the next: a commit waits for the disk, and
a hundred clients should not wait for a hundred commits.
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
"""Seconds that a statement waits for a lock, or for an unresponsive server."""

MAX_GROUP = 64
"""Changes in one transaction at most."""

_AWAY = ("08", "53", "57P")
"""SQLSTATEs that begin so speak of PostgreSQL itself: no connection, no resources, shutting down or starting.
https://www.postgresql.org/docs/current/errcodes-appendix.html"""

_DEADLOCK = "40P01"

_MIGRATION_LOCK = 0x5717
"""Of PostgreSQL's advisory locks: one process migrates at a time."""

T = TypeVar("T")


@dataclass(eq=False)
class _Change:
    apply: Callable[[AsyncConnection], Awaitable[Any]]
    done: "asyncio.Future[Any]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Database:
    """A connected database with every table in its newest shape."""

    def __init__(self, reading: AsyncEngine, writing: AsyncEngine) -> None:
        self._reading = reading
        self._writing = writing
        self._waiting: deque[_Change] = deque()
        self._writer: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect and migrate; a SQLite file is created, and its folder. OSError or SQLAlchemy's errors if it can't."""
        if make_url(url).get_backend_name() == "sqlite":
            folder = Path(make_url(url).database or "").parent
            await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
            reading, writing = create_async_engine(url), create_async_engine(url, pool_size=1, max_overflow=0)
            event.listen(reading.sync_engine, "connect", _configure_sqlite)
            event.listen(writing.sync_engine, "connect", _configure_sqlite)
            event.listen(writing.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        else:
            patience = {"timeout": WAIT_S, "command_timeout": WAIT_S}
            reading = writing = create_async_engine(url, pool_pre_ping=True, connect_args=patience)
        # Into WAL, SQLite lets one process go at a time, and the others don't wait.
        locked = retry_if_exception_message(match=".*database is locked")
        async for attempt in AsyncRetrying(
            retry=locked, stop=stop_after_delay(WAIT_S), wait=wait_random(0, 0.1), reraise=True
        ):
            with attempt:
                async with writing.begin() as connection:
                    await connection.run_sync(_migrate)
        return cls(reading, writing)

    async def close(self) -> None:
        """Write what waits, and give the connections back."""
        while self._writer is not None and not self._writer.done():
            await self._writer
        await self._writing.dispose()
        await self._reading.dispose()

    async def read(self, query: Select[Any]) -> list[RowMapping]:
        """The rows of a query. Raises Unavailable when the database is."""
        with _here():
            async with self._reading.connect() as connection:
                return list((await connection.execute(query)).mappings())

    async def write(self, apply: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Have a change committed: what `apply` returns, or raises, which undoes this change alone.

        A caller that is cancelled may find its change made all the same. Raises Unavailable when the database is:
        then the change may have been made or not.
        """
        change = _Change(apply)
        self._waiting.append(change)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())
        with _here():
            result: T = await change.done
        return result

    async def _write_all(self) -> None:
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(MAX_GROUP, len(self._waiting)))]
            answers: list[tuple[_Change, Any, BaseException | None]] = []
            try:
                async with self._writing.begin() as connection:
                    for change in group:
                        answers.append(await _applied(change, connection))
            except Exception as error:  # nothing of the group is in the database
                answers = [(change, None, error) for change in group]
            for change, result, failure in answers:
                if change.done.done():  # cancelled
                    continue
                if _code(failure) == _DEADLOCK:  # of two managers' groups this was the one to give way
                    self._waiting.append(change)
                    continue
                if failure is None:
                    change.done.set_result(result)
                else:
                    change.done.set_exception(failure)


async def _applied(change: _Change, connection: AsyncConnection) -> tuple[_Change, Any, Exception | None]:
    try:
        async with connection.begin_nested():
            return change, await change.apply(connection), None
    except Exception as error:
        if connection.closed or connection.invalidated:
            raise
        return change, None, error


@contextmanager
def _here() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not _is_away(error):
            raise
        raise Unavailable("the database is unavailable at the moment: try again", None, "unavailable") from error


def _is_away(error: Exception) -> bool:
    known = isinstance(error, OperationalError | InterfaceError | PoolTimeout | OSError)
    return known or _code(error).startswith(_AWAY)


def _code(error: BaseException | None) -> str:
    """PostgreSQL's SQLSTATE of an error, or nothing. While connecting its errors come without SQLAlchemy's around."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None) or ""


def _configure_sqlite(connection: Any, _: object) -> None:
    # The driver would begin transactions by its own rules: SQLAlchemy begins them here.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={1000 * WAIT_S:.0f}")  # first: the others may have to wait
    # WAL: readers and the writer don't wait for each other. `synchronous` stays FULL, so that a
    # job that was accepted survives a power cut.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
    names = inspect(connection).get_table_names()
    if "jobs" in names and "alembic_version" not in names:
        raise RuntimeError(
            f"{connection.engine.url} was made by a version that had no migrations: "
            "move it away, or let `database` name another one"
        )
    config = Config()
    config.set_main_option("script_location", "serve_app.jobs.db:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
