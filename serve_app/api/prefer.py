"""`Prefer` headers, as RFC 7240 has them."""

import re
from collections.abc import Mapping, Sequence

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


def seconds_to_wait(preferred: Mapping[str, str]) -> float | None:
    """How long a client prefers to wait for an answer (`wait`, section 4.3); null: it does not say."""
    wait = preferred.get("wait", "")
    return float(wait) if wait.isascii() and wait.isdigit() else None
