"""Telling a client that its job has ended, as Standard Webhooks 1.0 says.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import json
import logging
import random
import re
from asyncio import Task
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import aiohttp
import standardwebhooks
from yarl import URL

from serve_app.errors import InvalidRequest
from serve_app.guard import check_url
from serve_app.jobs.dispatch import Dispatcher
from serve_app.jobs.models import Job, JobState
from serve_app.jobs.store import Delivery, JobStore
from serve_app.jobs.view import view
from serve_app.options import Webhook, WebhookEvent
from serve_app.settings import WebhookSettings
from serve_app.transcript import Transcript

EVENTS: dict[JobState, WebhookEvent] = {
    JobState.SUCCEEDED: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}

MAX_IN_FLIGHT = 16
"""Deliveries on their way at a time."""

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


def wanted(job: Job, state: JobState) -> bool:
    """Whether a job's client asked to hear of this end."""
    webhook = job.request.webhook
    return webhook is not None and EVENTS.get(state) in webhook.events


def body(job: Job, transcript: Transcript | None) -> bytes:
    """`{type, timestamp, data}`: the end, when it came, the job as clients see it and its transcript.

    The same bytes on every try.
    """
    assert job.finished_at is not None
    data = view(job).model_dump(mode="json", exclude={"webhook"})
    data["transcript"] = None if transcript is None else transcript.model_dump(mode="json")
    message = {"type": f"job.{EVENTS[job.state]}", "timestamp": job.finished_at.isoformat(), "data": data}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


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
    """What a receiver said: the status, and how many seconds to wait before the next try."""

    status: int
    retry_after_s: float = 0.0

    @property
    def delivered(self) -> bool:
        return 200 <= self.status < 300

    @property
    def final(self) -> bool:
        """Whether another try is pointless: taken, or gone for ever."""
        return self.delivered or self.status == HTTPStatus.GONE


class WebhookSender:
    """Sends the store's pending webhooks, each until it is taken or its tries are used up."""

    def __init__(self, settings: WebhookSettings, store: JobStore, session: aiohttp.ClientSession) -> None:
        self._settings = settings
        self._store = store
        self._session = session
        secret = settings.secret
        self._signer = None if secret is None else standardwebhooks.Webhook(secret.get_secret_value())
        self._dispatcher = Dispatcher(self._take, self._send, self._settle, MAX_IN_FLIGHT)

    def start(self) -> None:
        """Take up what is pending, from before a restart too."""
        self._dispatcher.start()

    async def close(self) -> None:
        """Break off what is on its way: it is sent again after the next start."""
        await self._dispatcher.close()

    def first_due_at(self, job: Job, state: JobState, now: datetime) -> datetime | None:
        """When to report that a job ends in `state`; None if nobody asked."""
        return now + timedelta(seconds=self._settings.retry_delays_s[0]) if wanted(job, state) else None

    def announce(self, job: Job) -> None:
        """A job has ended: its webhook, if it has one, need not wait to be found."""
        if job.webhook == "pending":
            self._dispatcher.wake(self._settings.retry_delays_s[0])

    async def _take(self) -> Delivery | None:
        now = datetime.now(UTC)
        return await self._store.claim_delivery(now, now + timedelta(seconds=2 * self._settings.timeout_s))

    async def _send(self, delivery: Delivery) -> Answer:
        job, webhook = delivery.job, delivery.job.request.webhook
        assert webhook is not None
        content = body(job, await self._store.transcript(job.id))
        async with self._session.post(
            webhook.url,
            data=content,
            headers=webhook.headers | self._headers(job, content),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=self._settings.timeout_s),
        ) as response:
            asked = response.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
            header = response.headers.get("Retry-After") if asked else None
            return Answer(response.status, retry_after(header, datetime.now(UTC)))

    def _headers(self, job: Job, content: bytes) -> dict[str, str]:
        now = datetime.now(UTC)
        message_id = f"msg_{job.id}"
        headers = {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
        }
        if self._signer is not None:
            headers["webhook-signature"] = self._signer.sign(message_id, now, content.decode())
        return headers

    async def _settle(self, delivery: Delivery, sending: Task[Answer]) -> None:
        if sending.cancelled():
            await self._store.report_delivery(delivery.job.id, "pending", datetime.now(UTC))
            return
        error = sending.exception()
        answer = None if error else sending.result()
        if answer is not None and answer.delivered:
            await self._store.report_delivery(delivery.job.id, "delivered")
            return
        log.warning("webhook of job %s, try %d: %s", delivery.job.id, delivery.number, repr(error or answer))
        delays = self._settings.retry_delays_s
        if delivery.number >= len(delays) or (answer is not None and answer.final):
            await self._store.report_delivery(delivery.job.id, "failed")
            return
        spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311, no secret
        delay = max(delays[delivery.number] * spread, answer.retry_after_s if answer else 0.0)
        due_at = datetime.now(UTC) + timedelta(seconds=delay)
        await self._store.report_delivery(delivery.job.id, "pending", due_at)
        self._dispatcher.wake(delay)
