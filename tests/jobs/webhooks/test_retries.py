"""Retries of deliveries that are rejected or time out."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook as Verifier

from serve_app.jobs.webhooks.sender import retry_after
from serve_app.schemas.request import Webhook
from serve_app.settings import AppSettings
from tests.jobs.helpers import (
    ON_SQLITE,
    SECRET,
    OpenManager,
    Receiver,
    request,
    succeed,
    wait_for_webhook,
    with_webhooks,
)

pytestmark = pytest.mark.slow  # waits for retries

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


async def test_attempts_are_logged(open_manager: OpenManager, receiver: Receiver, settings: AppSettings) -> None:
    receiver.answers = [web.Response(status=500), web.Response(status=302, headers={"Location": receiver.url})]
    async with open_manager(succeed, with_webhooks(settings, timeout_s=0.3)) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await receiver.got(2)
        receiver.release = asyncio.Event()
        await wait_for_webhook(manager, job, "failed")
        [delivery] = await manager.deliveries(job.id)
    assert [(attempt.status, attempt.error) for attempt in delivery.tries] == [
        (500, None),
        (302, None),
        (None, "TimeoutError()"),
    ]
    assert delivery.tries[2].seconds >= 0.3
    assert [attempt.at for attempt in delivery.tries] == sorted(attempt.at for attempt in delivery.tries)


@ON_SQLITE
@pytest.mark.parametrize("refusal", [500, 404, 302])
async def test_rejected_delivery_is_retried(open_manager: OpenManager, receiver: Receiver, refusal: int) -> None:
    # If the redirect were followed, the first attempt would receive the second answer.
    receiver.answers = [web.Response(status=refusal, headers={"Location": "/elsewhere"}), web.Response(status=204)]
    async with open_manager(succeed) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await wait_for_webhook(manager, job, "delivered")
    (first, first_body), (second, second_body) = receiver.received
    assert first["webhook-id"] == second["webhook-id"]
    assert first_body == second_body
    assert Verifier(SECRET).verify(second_body, second)


async def test_each_attempt_has_a_new_signature(open_manager: OpenManager, receiver: Receiver) -> None:
    receiver.answers = [web.Response(status=503, headers={"Retry-After": "1"})]
    async with open_manager(succeed) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await wait_for_webhook(manager, job, "delivered")
    first, second = (headers for headers, _ in receiver.received)
    assert int(second["webhook-timestamp"]) > int(first["webhook-timestamp"])
    assert second["webhook-signature"] != first["webhook-signature"]


async def test_number_of_attempts(open_manager: OpenManager, receiver: Receiver) -> None:
    receiver.answers = [web.Response(status=500) for _ in range(9)]
    async with open_manager(succeed) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await wait_for_webhook(manager, job, "failed")
    assert len(receiver.received) == 3


async def test_status_410_is_not_retried(open_manager: OpenManager, receiver: Receiver) -> None:
    receiver.answers = [web.Response(status=410)]
    async with open_manager(succeed) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await wait_for_webhook(manager, job, "failed")
    assert len(receiver.received) == 1


async def test_timed_out_deliveries_are_retried(
    open_manager: OpenManager, receiver: Receiver, settings: AppSettings
) -> None:
    receiver.release = asyncio.Event()
    async with open_manager(succeed, with_webhooks(settings, timeout_s=0.3)) as manager:
        jobs = [await manager.submit(request(Webhook(url=receiver.url))) for _ in range(4)]
        await receiver.got(4)
        receiver.release.set()
        for job in jobs:
            await wait_for_webhook(manager, job, "delivered")


async def test_timeouts_count_as_attempts(open_manager: OpenManager, receiver: Receiver, settings: AppSettings) -> None:
    receiver.release = asyncio.Event()
    async with open_manager(succeed, with_webhooks(settings, timeout_s=0.3)) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await wait_for_webhook(manager, job, "failed")
    assert len(receiver.received) == 3


async def test_pending_delivery_survives_a_restart(
    open_manager: OpenManager, receiver: Receiver, settings: AppSettings
) -> None:
    receiver.release = asyncio.Event()
    async with open_manager(succeed) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await receiver.got(1)
    receiver.release = None
    async with open_manager(succeed) as manager:
        await wait_for_webhook(manager, job, "delivered")
    assert len(receiver.received) == 2


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0.0),
        ("120", 120.0),
        ("0", 0.0),
        (format_datetime(NOW + timedelta(minutes=3), usegmt=True), 180.0),
        (format_datetime(NOW - timedelta(minutes=3), usegmt=True), 0.0),
        ("soon", 0.0),
        ("-5", 0.0),
        ("1.5", 0.0),
        ("9" * 400, 24 * 3600.0),
    ],
)
def test_retry_after(value: str | None, seconds: float) -> None:
    assert retry_after(value, NOW) == seconds


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,6} \d\d:\d\d:\d\d (GMT|[+-]\d{4,9})"))
def test_retry_after_is_limited(value: str) -> None:
    assert 0 <= retry_after(value, NOW) <= 24 * 3600
