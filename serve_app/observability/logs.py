"""Structured logs: one line for each record, with the ids of the request and the job that it is about."""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from pythonjsonlogger.json import JsonFormatter

from serve_app.settings import LogSettings

FIELDS = ("request_id", "job_id", "model")
"""Fields of a log line beside its time, level, logger and message. Each is there if it is known."""

PACKAGES = ("serve_app", "deployments")
"""The packages that log from `logs.level` on; all others log warnings and errors."""

_context: ContextVar[Mapping[str, str]] = ContextVar("log_context", default={})  # noqa: B039 (never changed in place)


@contextmanager
def log_context(**fields: str) -> Iterator[None]:
    """Add fields to every log line of this task, and of the tasks and threads that it starts.

    A line's own fields, passed as `extra`, win.
    """
    outer = _context.get()
    _context.set({**outer, **fields})
    try:
        yield
    finally:
        # Not by the variable's token: an asynchronous generator may be closed in another task than it was started in.
        _context.set(outer)


def log_fields() -> Mapping[str, str]:
    """Return the fields of the log context, to pass them on to another process."""
    return _context.get()


def configure_logging(settings: LogSettings) -> None:
    """Write the logs of this process to its standard output, by a handler of the root logger."""
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(add_context)
    handler.setFormatter(_json_formatter() if settings.format == "json" else _TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(settings.level.upper())


def add_context(record: logging.LogRecord) -> bool:
    """Add the fields of the log context to a record: a logging filter that drops nothing."""
    for name, value in _context.get().items():
        record.__dict__.setdefault(name, value)
    return True


def _json_formatter() -> logging.Formatter:
    # Fields that are no attributes of every log record are added by themselves.
    return JsonFormatter(
        ["levelname", "name", "message"], rename_fields={"levelname": "level", "name": "logger"}, timestamp="time"
    )


class _TextFormatter(logging.Formatter):
    """Puts the fields in brackets before the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(fields)s%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        fields = [f"{name}={value}" for name in FIELDS if (value := record.__dict__.get(name)) is not None]
        record.fields = f"[{' '.join(fields)}] " if fields else ""
        return super().format(record)
