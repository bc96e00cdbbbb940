"""`Prefer` headers, as RFC 7240 has them: whether a client waits for its text, and for how long."""

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


def preferences(headers: Sequence[str]) -> dict[str, str]:
    """Parse a `Prefer` header: each preference's name in lower case and its value, which is often empty.

    `headers` are the values of every `Prefer` header: together one list. Of a preference that is given twice the
    first counts; what is no preference is passed over, and parameters are, for we know none (section 2).
    """
    found: dict[str, str] = {}
    for header in headers:
        for element in _split(header, ","):
            # One expression for a whole element would backtrack: blanks may stand before and after each of its parts.
            first, *parameters = _split(element, ";")
            preference = _pair(first)
            if preference and all(_pair(parameter) for parameter in parameters if parameter.strip(_BLANK)):
                found.setdefault(*preference)
    return found


def _split(text: str, separator: str) -> Iterator[str]:
    """The parts of a text between separators; in a quoted string, which may lack its end, there are none."""
    start, quoted, escaped = 0, False, False
    for place, character in enumerate(text):
        if escaped:
            escaped = False
        elif character == '"':
            quoted = not quoted
        elif quoted:
            escaped = character == "\\"
        elif character == separator:
            yield text[start:place]
            start = place + 1
    yield text[start:]


def _pair(text: str) -> tuple[str, str] | None:
    """A name, in lower case, and its value, which may be empty; null for anything else."""
    name, _, value = (part.strip(_BLANK) for part in text.partition("="))
    if not _TOKEN.fullmatch(name):
        return None
    if quoted := _QUOTED.fullmatch(value):
        return name.lower(), re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL)
    return (name.lower(), value) if not value or _TOKEN.fullmatch(value) else None


@dataclass(frozen=True)
class Preferences:
    """The preferences of a client, by name; unknown ones are ignored."""

    given: dict[str, str]

    @property
    def in_background(self) -> bool:
        """It would not wait for the text (`respond-async`, section 4.1)."""
        return "respond-async" in self.given

    async def waited(self, service: JobService, job: Job) -> "WaitResult":
        """A submitted job after the seconds that its client would wait (`wait`, section 4.3). Raises NotFound."""
        wait = self.given.get("wait", "")
        if not (wait.isascii() and wait.isdigit()):
            return WaitResult(job, False, preference_applied_header("respond-async" if self.in_background else None))
        job = await service.wait(job, float(wait))
        ended = job.state.terminal
        return WaitResult(
            job,
            ended,
            preference_applied_header("respond-async" if self.in_background and not ended else f"wait={wait}"),
        )


@dataclass(frozen=True)
class WaitResult:
    """A job that was waited for: whether it has `ended` in that time, and the header that says what was followed."""

    job: Job
    ended: bool
    headers: dict[str, str]


def preference_applied_header(preference: str | None) -> dict[str, str]:
    """The header that says which preference was followed; null: none."""
    return {} if preference is None else {"Preference-Applied": preference}


def _preferred(
    prefer: Annotated[
        list[str] | None,
        Header(
            alias="Prefer",
            description="`respond-async`: answer at once, the text comes later; `wait=N`, beside it or where that is "
            "so in any case: unless it is there within N seconds. Anything else is passed over (RFC 7240).",
        ),
    ] = None,
) -> Preferences:
    return Preferences(preferences(prefer or ()))


PreferredDep = Annotated[Preferences, Depends(_preferred)]
