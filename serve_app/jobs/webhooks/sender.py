"""The webhook sender, after Standard Webhooks 1.0.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import logging
import random
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

from serve_app.jobs.db.deliveries import Delivery, Outbox
from serve_app.jobs.dispatcher import Dispatcher
from serve_app.observability.metrics import WEBHOOK_ATTEMPTS, Metrics
from serve_app.schemas.job import DeliveryAttempt
from serve_app.settings import WebhookSettings

MAX_RETRY_AFTER_S = 24 * 3600.0
"""Maximum delay that a receiver may request, in seconds."""

JITTER = 0.1
"""Fraction by which retry delays vary, so that deliveries that failed together are not retried together."""

logger = logging.getLogger(__name__)


def retry_after(value: str | None, now: datetime) -> float:
    """Return the delay that a `Retry-After` header requests, in seconds; 0 if it is absent or invalid."""
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
class DeliveryResult:
    """The result of a delivery attempt, and the delay that its receiver requests, in seconds."""

    attempt: DeliveryAttempt
    retry_after_s: float = 0.0

    @property
    def is_delivered(self) -> bool:
        return self.attempt.status is not None and 200 <= self.attempt.status < 300

    @property
    def is_gone(self) -> bool:
        """Return whether the receiver asked to stop further attempts."""
        return self.attempt.status == HTTPStatus.GONE


class WebhookSender:
    """Sends the pending deliveries of the outbox, retrying each until it is accepted or its schedule ends."""

    def __init__(
        self, settings: WebhookSettings, outbox: Outbox, session: aiohttp.ClientSession, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._session = session
        self._metrics = metrics
        self._signers = [standardwebhooks.Webhook(secret.get_secret_value()) for secret in settings.secrets]
        self._in_flight: Counter[str] = Counter()  # by host
        self._dispatcher = Dispatcher(self._acquire, self._send, self._complete, settings.max_in_flight)

    def start(self) -> None:
        """Start sending, including deliveries from before a restart."""
        self._dispatcher.start()

    async def close(self) -> None:
        """Cancel deliveries in progress; they are sent again after the next start."""
        await self._dispatcher.close()

    def wake(self) -> None:
        """Look for new deliveries in the outbox."""
        self._dispatcher.wake(self._settings.retry_delays_s[0])

    async def _acquire(self) -> Delivery | None:
        now = datetime.now(UTC)
        busy = [host for host, count in self._in_flight.items() if count >= self._settings.max_per_host]
        delivery = await self._outbox.claim(now, now + timedelta(seconds=2 * self._settings.timeout_s), busy)
        if delivery is not None:
            self._in_flight[delivery.host] += 1
        return delivery

    async def _send(self, delivery: Delivery) -> DeliveryResult:
        started, clock = datetime.now(UTC), time.monotonic()
        requested_delay = None
        try:
            webhook = delivery.job.request.webhook
            if webhook is None:
                raise LookupError("the job's request cannot be read")
            async with self._session.post(
                webhook.url,
                data=delivery.body.encode(),
                headers=webhook.headers | self._headers(delivery, started),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=self._settings.timeout_s),
            ) as response:
                if response.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
                    requested_delay = response.headers.get("Retry-After")
                fields: dict[str, Any] = {"status": response.status}
        except Exception as error:  # whatever the error, the delivery is retried
            fields = {"error": repr(error)}
        attempt = DeliveryAttempt(at=started, seconds=round(time.monotonic() - clock, 3), **fields)
        return DeliveryResult(attempt, retry_after(requested_delay, datetime.now(UTC)))

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

    async def _complete(self, delivery: Delivery, sending: Task[DeliveryResult]) -> None:
        self._in_flight -= Counter([delivery.host])  # which drops hosts that reach 0
        now = datetime.now(UTC)
        if sending.cancelled():
            await self._outbox.report(delivery, "pending", None, now)
            return
        result = sending.result()
        delays = self._settings.retry_delays_s
        is_last = delivery.number >= len(delays) or result.is_gone
        outcome = "delivered" if result.is_delivered else "failed" if is_last else "retried"
        self._metrics.increment(WEBHOOK_ATTEMPTS, outcome=outcome)
        if result.is_delivered:
            await self._outbox.report(delivery, "delivered", result.attempt)
            return
        logger.warning(
            "webhook %s was not delivered in attempt %d: %s",
            *(delivery.id, delivery.number, result.attempt),
            extra={"job_id": delivery.job.id},
        )
        if is_last:
            await self._outbox.report(delivery, "failed", result.attempt)
            return
        jitter = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311, not a secret
        delay = max(delays[delivery.number] * jitter, result.retry_after_s)
        await self._outbox.report(delivery, "pending", result.attempt, now + timedelta(seconds=delay))
        self._dispatcher.wake(delay)
