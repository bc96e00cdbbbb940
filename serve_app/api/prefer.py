"""`Prefer` headers, as RFC 7240 has them: whether a client waits for its text, and for how long."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header

from serve_app.jobs.models import Job
from serve_app.service import Service

_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_WORD = rf"({_NAME})(?:\s*=\s*({_NAME}|{_QUOTED})?)?"
_PREFERENCE = re.compile(rf"\s*{_WORD}((?:\s*;\s*(?:{_WORD})?)*)\s*(?:,|$)")


def preferences(headers: Sequence[str]) -> dict[str, str]:
    """What a client prefers: each preference's name, in lower case, and its value, which is often empty.

    `headers` are the values of every `Prefer` header: together one list. Of a preference that is given twice the
    first counts; what is no preference is passed over, and parameters are, for we know none (section 2).
    """
    found: dict[str, str] = {}
    for header in headers:
        position = 0
        while position < len(header):
            match = _PREFERENCE.match(header, position)
            if match is None:  # to the next comma
                position = header.find(",", position) + 1 or len(header)
                continue
            value = match[2] or ""
            found.setdefault(match[1].lower(), re.sub(r"\\(.)", r"\1", value[1:-1]) if value[:1] == '"' else value)
            position = match.end()
    return found


@dataclass(frozen=True)
class Preferred:
    """What a client prefers, by name; names that mean nothing here are passed over."""

    given: dict[str, str]

    @property
    def in_background(self) -> bool:
        """It would not wait for the text (`respond-async`, section 4.1)."""
        return "respond-async" in self.given

    async def waited(self, service: Service, job: Job) -> "Waited":
        """A submitted job after the seconds that its client would wait (`wait`, section 4.3). Raises NotFound."""
        wait = self.given.get("wait", "")
        if not (wait.isascii() and wait.isdigit()):
            return Waited(job, False, applied("respond-async" if self.in_background else None))
        job = await service.wait(job, float(wait))
        ended = job.state.terminal
        return Waited(job, ended, applied("respond-async" if self.in_background and not ended else f"wait={wait}"))


@dataclass(frozen=True)
class Waited:
    """A job that was waited for: whether it has `ended` in that time, and the header that says what was followed."""

    job: Job
    ended: bool
    headers: dict[str, str]


def applied(preference: str | None) -> dict[str, str]:
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
) -> Preferred:
    return Preferred(preferences(prefer or ()))


PreferredDep = Annotated[Preferred, Depends(_preferred)]
