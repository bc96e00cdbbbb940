import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.errors import Unavailable
from serve_app.jobs.db import engine as database_module
from serve_app.jobs.db.engine import MAX_GROUP, Database
from serve_app.jobs.db.events import EventLog
from serve_app.jobs.db.jobs import JobStore
from serve_app.jobs.db.runs import RunStore
from serve_app.jobs.db.tables import metadata
from tests.cluster import ROOT
from tests.jobs.helpers import LATER, NOW, queued_job
from tests.jobs.postgres import server

pytestmark = pytest.mark.slow  # waits for locks and restarts


async def test_jobs_persist(database_url: str) -> None:
    stored = queued_job()
    for number in range(2):
        database = await Database.open(database_url)
        added = await JobStore(database, EventLog({})).add(stored)
        assert added is not None
        assert (added.job, added.is_new) == (stored, number == 0)
        await database.close()


async def test_sqlite_pragmas(sqlite_url: str) -> None:
    database = await Database.open(sqlite_url)
    for engine in (database._reading, database._writing):
        async with engine.connect() as connection:
            for pragma, value in (("journal_mode", "wal"), ("busy_timeout", 30_000), ("synchronous", 2)):
                assert (await connection.execute(text(f"PRAGMA {pragma}"))).scalar_one() == value
    await database.close()


async def test_waiting_writes_share_a_commit(database: Database, store: JobStore) -> None:
    commits: list[None] = []
    event.listen(database._writing.sync_engine, "commit", lambda _: commits.append(None))
    await asyncio.gather(*(store.add(queued_job()) for _ in range(4 * MAX_GROUP)))
    print(f"{4 * MAX_GROUP} jobs, {len(commits)} commits")
    assert len(commits) <= 5
    assert len(await store.list("", None, 1000, None)) == 4 * MAX_GROUP


async def test_failed_write_does_not_affect_its_group(database: Database, store: JobStore, runs: RunStore) -> None:
    await store.add(existing := queued_job())

    def writing(statement: str, error: Exception | None = None) -> Callable[[AsyncConnection], Awaitable[Any]]:
        async def apply(connection: AsyncConnection) -> int:
            result = await connection.execute(text(statement))
            if error is not None:
                raise error
            return result.rowcount

        return apply

    valid = queued_job()
    failing = f"UPDATE jobs SET state = 'failed' WHERE id = '{existing.id}'"
    duplicate = f"INSERT INTO jobs SELECT * FROM jobs WHERE id = '{existing.id}'"
    added, *errors, updated = await asyncio.gather(
        store.add(valid),
        database.write(writing(failing, ValueError("mine"))),
        database.write(writing(duplicate)),
        database.write(writing("UPDATE nothing SET x = 1")),
        database.write(writing("UPDATE jobs SET webhook = 'failed'")),
        return_exceptions=True,
    )
    assert getattr(added, "is_new", None)
    assert [isinstance(error, Exception) for error in errors] == [True] * 3
    assert str(errors[0]) == "mine"
    assert isinstance(errors[1], IntegrityError)
    assert updated == 2
    assert await runs.get(existing.id) == existing.model_copy(update={"webhook": "failed"})
    assert await runs.get(valid.id) == valid.model_copy(update={"webhook": "failed"})


async def test_close_completes_waiting_writes(database_url: str) -> None:
    database = await Database.open(database_url)
    jobs = [queued_job() for _ in range(2 * MAX_GROUP)]
    adding = [asyncio.create_task(JobStore(database, EventLog({})).add(job)) for job in jobs]
    await asyncio.sleep(0)
    await database.close()
    assert all(task.done() for task in adding)
    reopened = await Database.open(database_url)
    assert len(await JobStore(reopened, EventLog({})).list("", None, 1000, None)) == len(jobs)
    await reopened.close()


async def test_cancelled_write_does_not_affect_its_group(database: Database, store: JobStore) -> None:
    jobs = [queued_job() for _ in range(20)]
    adding = [asyncio.create_task(store.add(job)) for job in jobs]
    await asyncio.sleep(0.001)
    for task in adding[::2]:
        task.cancel()
    await asyncio.wait(adding)
    stored = {job.id for job in await store.list("", None, 100, None)}
    assert {job.id for job in jobs[1::2]} <= stored


@asynccontextmanager
async def lock_jobs_table(url: str) -> AsyncIterator[None]:
    """Hold a write lock, as a process whose transaction does not end."""
    if url.startswith("sqlite"):
        sqlite = sqlite3.connect(make_url(url).database or "", isolation_level=None)
        sqlite.execute("BEGIN IMMEDIATE")
        yield
        sqlite.close()
    else:
        connection = await asyncpg.connect(make_url(url).set(drivername="postgresql").render_as_string(False))
        async with connection.transaction():
            await connection.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
            yield
        await connection.close()


async def test_lock_timeout(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "WAIT_S", 0.3)
    database = await Database.open(database_url)
    store, jobs = JobStore(database, EventLog({})), [queued_job() for _ in range(3)]
    async with lock_jobs_table(database_url):
        for outcome in await asyncio.gather(*map(store.add, jobs), return_exceptions=True):
            assert isinstance(outcome, Unavailable), outcome
    assert await store.add(jobs[0])
    assert len(await store.list("", None, 10, None)) == 1
    await database.close()


async def test_postgresql_restart(postgres_binaries: Path) -> None:
    with server(postgres_binaries) as running:
        database = await Database.open(running.url.replace("postgresql:", "postgresql+asyncpg:"))
        store, runs, job = JobStore(database, EventLog({})), RunStore(database, EventLog({})), queued_job()
        await asyncio.gather(store.add(job), *(runs.get(job.id) for _ in range(5)))
        await asyncio.to_thread(running.stop)
        for _ in range(3):
            outcomes = await asyncio.gather(runs.get(job.id), store.add(queued_job()), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [Unavailable] * 2, outcomes
        await asyncio.to_thread(running.start)
        assert await runs.get(job.id) == job
        assert await store.add(queued_job())
        await database.close()
        await asyncio.to_thread(running.stop)
        with pytest.raises(OSError, match="Connect call failed"):
            await Database.open(running.url.replace("postgresql:", "postgresql+asyncpg:"))


async def test_broken_connection_fails_its_group_only(postgres_url: str) -> None:
    database = await Database.open(postgres_url)
    store, jobs = JobStore(database, EventLog({})), [queued_job() for _ in range(3)]

    async def terminate(connection: AsyncConnection) -> None:
        await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    outcomes = await asyncio.gather(
        store.add(jobs[0]), database.write(terminate), store.add(jobs[1]), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3, outcomes
    assert await store.list("", None, 10, None) == ()
    assert await store.add(jobs[2])
    await database.close()


async def test_deadlocked_groups_are_retried(postgres_url: str) -> None:
    first, second = [await Database.open(postgres_url) for _ in range(2)]
    for database in (first, second):
        await JobStore(database, EventLog({})).add(queued_job(id=f"job{database is first:d}"))
    both_locked = asyncio.Barrier(2)

    def touch(job_id: str, wait: bool) -> Callable[[AsyncConnection], Awaitable[int]]:
        async def apply(connection: AsyncConnection) -> int:
            update = text("UPDATE jobs SET losses = losses + 1 WHERE id = :id")
            result = await connection.execute(update, {"id": job_id})
            if wait and not both_locked.broken:
                await both_locked.wait()
            return result.rowcount

        return apply

    done = await asyncio.gather(
        first.write(touch("job0", True)),
        first.write(touch("job1", False)),
        second.write(touch("job1", True)),
        second.write(touch("job0", False)),
    )
    assert done == [1, 1, 1, 1]
    assert [job.lost_runs for job in await JobStore(first, EventLog({})).list("", None, 10, None)] == [2, 2]
    for database in (first, second):
        await database.close()


async def test_migrations_create_the_tables(database: Database) -> None:
    def differences(connection: Connection) -> list[Any]:
        return compare_metadata(MigrationContext.configure(connection), metadata)

    async with database._reading.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_database_without_migrations_is_rejected(sqlite_url: str) -> None:
    path = Path(make_url(sqlite_url).database or "")
    path.parent.mkdir()
    old = sqlite3.connect(path)
    old.execute("CREATE TABLE jobs (id TEXT)")
    old.close()
    with pytest.raises(RuntimeError, match=f"{path} was created by a version without migrations"):
        await Database.open(sqlite_url)


async def test_concurrent_migrations(database_url: str) -> None:
    for database in await asyncio.gather(*(Database.open(database_url) for _ in range(8))):
        assert await RunStore(database, EventLog({})).claim("here", NOW, LATER) is None
        await database.close()


OPEN = """
import asyncio, sys
from serve_app.jobs.db.engine import Database

async def main(url):
    database = await Database.open(url)
    await database.close()

print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main(sys.argv[1]))
"""


async def test_concurrent_migrations_in_processes(database_url: str) -> None:
    pipe = asyncio.subprocess.PIPE
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", OPEN, database_url, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    database = await Database.open(database_url)
    assert await RunStore(database, EventLog({})).claim("here", NOW, LATER) is None
    await database.close()
