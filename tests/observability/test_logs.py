import asyncio
import json
import logging
import subprocess
import sys
import threading

import pytest

from serve_app.observability.logs import add_context, log_context, log_fields
from serve_app.settings import LogSettings

PROGRAM = """
import logging
from serve_app.observability.logs import configure_logging, log_context
from serve_app.settings import LogSettings

configure_logging(LogSettings(format={format!r}, level={level!r}))
configure_logging(LogSettings(format={format!r}, level={level!r}))  # a second time in a process: no line twice
logger = logging.getLogger("serve_app.example")
logger.debug("too detailed")
with log_context(request_id="r1"):
    logger.info("accepted %s", "it", extra={{"job_id": "j1"}})
    with log_context(job_id="j2"):
        try:
            1 / 0
        except ZeroDivisionError:
            logger.exception("failed")
logging.getLogger("library").info("not shown")
logging.getLogger("library").warning("line\\nbreak")
"""


def run(format: str, level: str = "info") -> list[str]:
    program = PROGRAM.format(format=format, level=level)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout.splitlines()


def test_json_logs_have_the_ids_as_fields_and_one_line_a_record() -> None:
    accepted, failed, library = map(json.loads, run("json"))
    assert accepted.pop("time")
    assert accepted == {
        "level": "INFO",
        "logger": "serve_app.example",
        "message": "accepted it",
        "request_id": "r1",
        "job_id": "j1",
    }
    assert (failed["request_id"], failed["job_id"]) == ("r1", "j2")
    assert "ZeroDivisionError" in failed["exc_info"]
    assert library["message"] == "line\nbreak"
    assert "job_id" not in library


def test_text_logs_have_the_ids_before_the_message() -> None:
    accepted, failed, *rest = run("text", "debug")[1:]
    assert accepted.endswith("INFO serve_app.example: [request_id=r1 job_id=j1] accepted it")
    assert failed.endswith("ERROR serve_app.example: [request_id=r1 job_id=j2] failed")
    assert rest[0].startswith("Traceback")


@pytest.mark.parametrize("fields", [{"level": "loud"}, {"format": "xml"}])
def test_unknown_settings_are_refused(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        LogSettings.model_validate(fields)


async def test_the_context_reaches_tasks_and_threads_and_ends() -> None:
    seen = []

    async def task() -> None:
        seen.append(log_fields())
        await asyncio.to_thread(lambda: seen.append(log_fields()))

    with log_context(job_id="j1"):
        started = asyncio.create_task(task())
    await started
    assert seen == [{"job_id": "j1"}] * 2
    assert log_fields() == {}


async def test_a_generator_with_a_context_may_be_closed_by_another_task() -> None:
    async def stream():  # type: ignore[no-untyped-def]
        with log_context(job_id="j1"):
            yield 1
            yield 2

    items = stream()
    assert await asyncio.create_task(anext(items)) == 1
    await asyncio.create_task(items.aclose())
    assert log_fields() == {}


def test_a_line_s_own_field_wins_over_the_context() -> None:
    record = logging.makeLogRecord({"msg": "", "job_id": "own"})
    with log_context(job_id="context", model="m"):
        assert add_context(record)
    assert (record.job_id, record.model) == ("own", "m")  # type: ignore[attr-defined]


def test_a_thread_that_was_there_before_has_no_context() -> None:
    seen, go = [], threading.Event()
    thread = threading.Thread(target=lambda: (go.wait(), seen.append(log_fields())))
    thread.start()
    with log_context(job_id="j1"):
        go.set()
        thread.join()
    assert seen == [{}]
