"""Validation of webhooks when a job is submitted."""

import re

from yarl import URL

from serve_app.errors import InvalidRequest
from serve_app.net.ssrf import check_url
from serve_app.schemas.request import Webhook

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2
_VALUE = re.compile(r"[\x20-\x7e]*")
_RESERVED = {"content-type", "content-length", "transfer-encoding", "connection", "host"}


def check_webhook(webhook: Webhook) -> None:
    """Raise InvalidRequest for a URL that cannot be called, or headers that cannot be sent."""
    check_url(webhook.url, "webhook.url")
    if URL(webhook.url).user is not None and "authorization" in map(str.lower, webhook.headers):
        raise InvalidRequest(
            "webhook.headers: 'Authorization' cannot be combined with credentials in webhook.url",
            "webhook.headers",
            "invalid_header",
        )
    for name, value in webhook.headers.items():
        problem = _problem(name, value)
        if problem:
            raise InvalidRequest(f"webhook.headers: {name!r} {problem}", "webhook.headers", "invalid_header")


def _problem(name: str, value: str) -> str | None:
    if not _TOKEN.fullmatch(name):
        return "is not a valid header name: letters, digits and !#$%&'*+-.^_`|~ are allowed"
    if name.lower() in _RESERVED or name.lower().startswith("webhook-"):
        return f"cannot be set: {', '.join(sorted(_RESERVED))} and webhook-* are reserved"
    if not _VALUE.fullmatch(value):
        return "must have a value of printable ASCII characters"
    return None
