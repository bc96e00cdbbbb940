"""The `Prefer` header (RFC 7240): whether a client waits for its transcript, and for how long."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header

from serve_app.schemas.job import Job
from serve_app.services.jobs import JobService

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)  # 5.6.4
_BLANK = " \t"


def parse_prefer(headers: Sequence[str]) -> dict[str, str]:
    """Parse `Prefer` headers into the preferences' names, in lower case, and their values, which are often empty.

    `headers` are the values of all `Prefer` headers, which form one list. If a preference is repeated, the first counts
    (section 2). Malformed elements and the parameters of preferences are ignored.
    """
    found: dict[str, str] = {}
    for header in headers:
        for element in _split(header, ","):
            # A single expression for an element would backtrack: blanks are allowed around each of its parts.
            first, *parameters = _split(element, ";")
            preference = _parse_pair(first)
            if preference and all(_parse_pair(parameter) for parameter in parameters if parameter.strip(_BLANK)):
                found.setdefault(*preference)
    return found


def _split(text: str, separator: str) -> Iterator[str]:
    """Yield the parts of a text between separators outside quoted strings. A quoted string may lack its end."""
    start, quoted, escaped = 0, False, False
    for index, character in enumerate(text):
        if escaped:
            escaped = False
        elif character == '"':
            quoted = not quoted
        elif quoted:
            escaped = character == "\\"
        elif character == separator:
            yield text[start:index]
            start = index + 1
    yield text[start:]


def _parse_pair(text: str) -> tuple[str, str] | None:
    """Return a name, in lower case, and its value, which may be empty; None for anything else."""
    name, _, value = (part.strip(_BLANK) for part in text.partition("="))
    if not _TOKEN.fullmatch(name):
        return None
    if quoted := _QUOTED.fullmatch(value):
        return name.lower(), re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL)
    return (name.lower(), value) if not value or _TOKEN.fullmatch(value) else None


@dataclass(frozen=True)
class Preferences:
    """The preferences of a client, by name; unknown ones are ignored."""

    values: dict[str, str]

    @property
    def respond_async(self) -> bool:
        """Return whether the client prefers not to wait for the transcript (section 4.1)."""
        return "respond-async" in self.values

    async def wait_for(self, service: JobService, job: Job) -> "WaitResult":
        """Wait for a submitted job as long as the client prefers (`wait`, section 4.3). Raises NotFound."""
        wait = self.values.get("wait", "")
        if not (wait.isascii() and wait.isdigit()):
            return WaitResult(job, False, preference_applied_header("respond-async" if self.respond_async else None))
        job = await service.wait(job, float(wait))
        has_ended = job.state.terminal
        applied = "respond-async" if self.respond_async and not has_ended else f"wait={wait}"
        return WaitResult(job, has_ended, preference_applied_header(applied))


@dataclass(frozen=True)
class WaitResult:
    """A job after the wait, whether it ended during the wait, and the `Preference-Applied` header."""

    job: Job
    has_ended: bool
    headers: dict[str, str]


def preference_applied_header(preference: str | None) -> dict[str, str]:
    """Return the `Preference-Applied` header; empty if no preference was applied."""
    return {} if preference is None else {"Preference-Applied": preference}


def _get_preferences(
    prefer: Annotated[
        list[str] | None,
        Header(
            alias="Prefer",
            description="`respond-async`: answer at once and run in the background. `wait=N`: wait up to N seconds for "
            "the transcript before that; also where the answer comes at once in any case. Other preferences are "
            "ignored (RFC 7240).",
        ),
    ] = None,
) -> Preferences:
    return Preferences(parse_prefer(prefer or ()))


PreferencesDep = Annotated[Preferences, Depends(_get_preferences)]
