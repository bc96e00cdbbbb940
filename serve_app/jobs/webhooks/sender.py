"""Telling clients what happens to their jobs, as Standard Webhooks 1.0 says.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import logging
import random
import re
import time
from asyncio import Task
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import aiohttp
import standardwebhooks
from yarl import URL

from serve_app.errors import InvalidRequest
from serve_app.jobs.db.deliveries import Delivery, Outbox
from serve_app.jobs.dispatcher import Dispatcher
from serve_app.net.ssrf import check_url
from serve_app.schemas.job import DeliveryAttempt
from serve_app.schemas.request import Webhook
from serve_app.settings import WebhookSettings

MAX_RETRY_AFTER_S = 24 * 3600.0
"""No receiver puts a delivery off for longer."""

JITTER = 0.1
"""Tries are spread by this fraction, so that many that failed together don't come back together."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2
_VALUE = re.compile(r"[\x20-\x7e]*")
_OURS = {"content-type", "content-length", "transfer-encoding", "connection", "host"}

log = logging.getLogger(__name__)


def check_webhook(webhook: Webhook) -> None:
    """Raise InvalidRequest for a URL that can't be called, or headers that can't be sent."""
    check_url(webhook.url, "webhook.url")
    if URL(webhook.url).user is not None and "authorization" in map(str.lower, webhook.headers):
        raise InvalidRequest(
            "webhook.headers: 'Authorization' can't be set beside credentials in webhook.url",
            "webhook.headers",
            "invalid_header",
        )
    for name, value in webhook.headers.items():
        problem = _problem(name, value)
        if problem:
            raise InvalidRequest(f"webhook.headers: {name!r} {problem}", "webhook.headers", "invalid_header")


def _problem(name: str, value: str) -> str | None:
    if not _TOKEN.fullmatch(name):
        return "is no header name: letters, digits and !#$%&'*+-.^_`|~ are allowed"
    if name.lower() in _OURS or name.lower().startswith("webhook-"):
        return f"can't be set: {', '.join(sorted(_OURS))} and webhook-* are the service's"
    if not _VALUE.fullmatch(value):
        return "has a value with other characters than printable ASCII"
    return None


def retry_after(value: str | None, now: datetime) -> float:
    """Seconds that a `Retry-After` header asks to wait: a number or a date; 0 for none or nonsense."""
    if value is None:
        return 0.0
    if value.strip().isascii() and value.strip().isdigit():
        seconds = float(value)
    else:
        try:
            seconds = (parsedate_to_datetime(value).astimezone(UTC) - now).total_seconds()
        except ValueError:
            return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


@dataclass(frozen=True)
class Answer:
    """The result of a delivery attempt, and the seconds its receiver asks to wait before the next one."""

    attempt: DeliveryAttempt
    retry_after_s: float = 0.0

    @property
    def delivered(self) -> bool:
        return self.attempt.status is not None and 200 <= self.attempt.status < 300

    @property
    def gone(self) -> bool:
        """Whether the receiver asked to stop further attempts."""
        return self.attempt.status == HTTPStatus.GONE


class WebhookSender:
    """Sends the outbox's pending webhooks, each until it is taken or its schedule is over."""

    def __init__(self, settings: WebhookSettings, outbox: Outbox, session: aiohttp.ClientSession) -> None:
        self._settings = settings
        self._outbox = outbox
        self._session = session
        self._signers = [standardwebhooks.Webhook(secret.get_secret_value()) for secret in settings.secrets]
        self._in_flight: Counter[str] = Counter()  # by host
        self._dispatcher = Dispatcher(self._take, self._send, self._settle, settings.max_in_flight)

    def start(self) -> None:
        """Take up what is pending, from before a restart too."""
        self._dispatcher.start()

    async def close(self) -> None:
        """Break off what is on its way: it is sent again after the next start."""
        await self._dispatcher.close()

    def wake(self) -> None:
        """Something was put into the outbox, and need not wait to be found."""
        self._dispatcher.wake(self._settings.retry_delays_s[0])

    async def _take(self) -> Delivery | None:
        now = datetime.now(UTC)
        busy = [host for host, count in self._in_flight.items() if count >= self._settings.max_per_host]
        delivery = await self._outbox.claim(now, now + timedelta(seconds=2 * self._settings.timeout_s), busy)
        if delivery is not None:
            self._in_flight[delivery.host] += 1
        return delivery

    async def _send(self, delivery: Delivery) -> Answer:
        started, clock = datetime.now(UTC), time.monotonic()
        asked = None
        try:
            webhook = delivery.job.request.webhook
            if webhook is None:
                raise LookupError("the job's request can't be read")
            async with self._session.post(
                webhook.url,
                data=delivery.body.encode(),
                headers=webhook.headers | self._headers(delivery, started),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=self._settings.timeout_s),
            ) as response:
                if response.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
                    asked = response.headers.get("Retry-After")
                outcome: dict[str, Any] = {"status": response.status}
        except Exception as error:  # whatever goes wrong on the way, it is tried again
            outcome = {"error": repr(error)}
        attempt = DeliveryAttempt(at=started, seconds=round(time.monotonic() - clock, 3), **outcome)
        return Answer(attempt, retry_after(asked, datetime.now(UTC)))

    def _headers(self, delivery: Delivery, now: datetime) -> dict[str, str]:
        headers = {
            "content-type": "application/json",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(int(now.timestamp())),
        }
        if self._signers:
            signatures = [signer.sign(delivery.id, now, delivery.body) for signer in self._signers]
            headers["webhook-signature"] = " ".join(signatures)
        return headers

    async def _settle(self, delivery: Delivery, sending: Task[Answer]) -> None:
        self._in_flight -= Counter([delivery.host])  # and hosts with nothing on its way are forgotten
        now = datetime.now(UTC)
        if sending.cancelled():
            await self._outbox.report(delivery, "pending", None, now)
            return
        answer = sending.result()
        if answer.delivered:
            await self._outbox.report(delivery, "delivered", answer.attempt)
            return
        log.warning("webhook %s, try %d: %s", delivery.id, delivery.number, answer.attempt)
        delays = self._settings.retry_delays_s
        if delivery.number >= len(delays) or answer.gone:
            await self._outbox.report(delivery, "failed", answer.attempt)
            return
        spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311, no secret
        delay = max(delays[delivery.number] * spread, answer.retry_after_s)
        await self._outbox.report(delivery, "pending", answer.attempt, now + timedelta(seconds=delay))
        self._dispatcher.wake(delay)
