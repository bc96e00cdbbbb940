import asyncio
import json
import time
from base64 import b64encode
from datetime import datetime

import pytest
from aiohttp import web
from pydantic import SecretStr
from sqlalchemy import text
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from serve_app.errors import AudioError, Conflict, NotFound
from serve_app.jobs import lifecycle
from serve_app.jobs.db.engine import Database
from serve_app.schemas.job import Job
from serve_app.schemas.request import Webhook
from serve_app.schemas.transcript import Transcript
from serve_app.settings import AppSettings, NetworkSettings
from tests.jobs.helpers import (
    ON_SQLITE,
    SECRET,
    TRANSCRIPT,
    Gate,
    OpenManager,
    Receiver,
    receiving,
    request,
    succeed,
    wait_for_job,
    wait_for_webhook,
    with_jobs,
    with_webhooks,
)


async def test_signed_delivery(open_manager: OpenManager, receiver: Receiver) -> None:
    async with open_manager(succeed) as manager:
        job = await manager.submit(
            request(Webhook(url=receiver.url, headers={"X-Token": "t0k", "Authorization": "B x"}))
        )
        await wait_for_webhook(manager, job, "delivered")
        job = await manager.get(job.id)
    [(headers, body)] = receiver.received
    message = Verifier(SECRET).verify(body, headers)
    assert (message["type"], datetime.fromisoformat(message["timestamp"])) == ("job.completed", job.finished_at)
    assert message["data"]["id"] == job.id
    assert message["data"]["status"] == "succeeded"
    assert Transcript.model_validate(message["data"]["transcript"]) == TRANSCRIPT
    assert (headers["X-Token"], headers["Authorization"], headers["Content-Type"]) == ("t0k", "B x", "application/json")
    assert b"t0k" not in body
    with pytest.raises(WebhookVerificationError):
        Verifier(SECRET).verify(body.replace(b"drei", b"vier"), headers)


async def test_failed_and_cancelled_jobs(open_manager: OpenManager, receiver: Receiver) -> None:
    gate = Gate()

    async def run(job: Job) -> Transcript:
        if job.request.source.model_dump()["url"].endswith("bad"):
            raise AudioError("no sound in it", "url")
        return await gate(job)

    webhook = Webhook(url=receiver.url)
    async with open_manager(run) as manager:
        failed = await manager.submit(request(webhook, "https://example.com/bad"))
        cancelled = await manager.submit(request(webhook))
        await gate.wait_for_runs(1)
        await manager.cancel(cancelled.id)
        await receiver.got(2)
    messages = {message["data"]["id"]: message for message in (json.loads(body) for _, body in receiver.received)}
    assert messages[failed.id]["type"] == "job.failed"
    assert messages[failed.id]["data"]["error"]["message"] == "no sound in it"
    assert messages[cancelled.id]["type"] == "job.cancelled"
    assert messages[cancelled.id]["data"]["transcript"] is None


async def test_unsubscribed_events_are_not_sent(open_manager: OpenManager, receiver: Receiver) -> None:
    async with open_manager(succeed) as manager:
        not_subscribed = await manager.submit(request(Webhook(url=receiver.url, events=("failed", "cancelled"))))
        assert (await wait_for_job(manager, not_subscribed)).webhook is None
        subscribed = await manager.submit(request(Webhook(url=receiver.url, events=("completed",))))
        await wait_for_webhook(manager, subscribed, "delivered")
    assert len(receiver.received) == 1


async def test_all_events(open_manager: OpenManager, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "PROGRESS_S", 0)
    gate = Gate()
    async with open_manager(gate) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url, events=("started", "progress", "completed"))))
        await receiver.got(1)
        assert (await manager.get(job.id)).webhook is None, "only the final event sets it"
        await manager.report_progress(job.id, 1, 0.5)
        await receiver.got(2)
        gate.opened.set()
        await wait_for_webhook(manager, job, "delivered")
        deliveries = await manager.deliveries(job.id)
    messages = [(headers, Verifier(SECRET).verify(body, headers)) for headers, body in receiver.received]
    assert [(message["type"], message["data"]["status"], message["data"]["progress"]) for _, message in messages] == [
        ("job.started", "running", 0),
        ("job.progress", "running", 0.5),
        ("job.completed", "succeeded", 1),
    ]
    assert ["transcript" in message["data"] for _, message in messages] == [False, False, True]
    assert [headers["webhook-id"] for headers, _ in messages] == [delivery.id for delivery in deliveries]
    assert [(delivery.event, delivery.state) for delivery in deliveries] == [
        ("started", "delivered"),
        ("progress", "delivered"),
        ("completed", "delivered"),
    ]


@ON_SQLITE
async def test_several_secrets(open_manager: OpenManager, receiver: Receiver, settings: AppSettings) -> None:
    secrets = SECRET, "whsec_" + b64encode(b"n" * 32).decode()
    async with open_manager(succeed, with_webhooks(settings, secrets=tuple(map(SecretStr, secrets)))) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await wait_for_webhook(manager, job, "delivered")
    [(headers, body)] = receiver.received
    for secret in secrets:
        assert Verifier(secret).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Verifier("whsec_" + b64encode(b"o" * 32).decode()).verify(body, headers)


async def test_redelivery(open_manager: OpenManager, receiver: Receiver) -> None:
    receiver.answers = [web.Response(status=410)]
    async with open_manager(succeed) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url, events=("started", "completed"))))
        await receiver.got(2)
        await wait_for_webhook(manager, job, "delivered")
        started, completed = await manager.deliveries(job.id)
        assert [
            (delivery.state, [attempt.status for attempt in delivery.tries]) for delivery in (started, completed)
        ] == [
            ("failed", [410]),
            ("delivered", [200]),
        ]
        await manager.redeliver(job.id, started.id)
        await receiver.got(3)
        assert receiver.received[2][0]["webhook-id"] == started.id
        assert receiver.received[2][1] == receiver.received[0][1]
        await wait_for_webhook(manager, job, "delivered")
        again = {delivery.id for delivery in await manager.redeliver(job.id, None)}
        assert again == {started.id, completed.id}
        await receiver.got(5)
        with pytest.raises(NotFound, match="no delivery 'msg_other'") as refused:
            await manager.redeliver(job.id, "msg_other")
        assert refused.value.param == "id"
        for call in (manager.deliveries, lambda unknown: manager.redeliver(unknown, None)):
            with pytest.raises(NotFound, match="no job"):
                await call("unknown")


async def test_pending_delivery_is_not_redelivered(open_manager: OpenManager, receiver: Receiver) -> None:
    receiver.release = asyncio.Event()
    async with open_manager(succeed) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await receiver.got(1)
        [delivery] = await manager.deliveries(job.id)
        for delivery_id in (delivery.id, None):
            with pytest.raises(Conflict, match="all are pending"):
                await manager.redeliver(job.id, delivery_id)
        receiver.release.set()
        await wait_for_webhook(manager, job, "delivered")


@pytest.mark.slow
async def test_unresponsive_host_does_not_delay_others(
    open_manager: OpenManager, receiver: Receiver, settings: AppSettings
) -> None:
    receiver.release = asyncio.Event()
    busy = with_webhooks(with_jobs(settings, max_running=64), timeout_s=60.0, max_in_flight=8, max_per_host=4)
    async with receiving("127.0.0.2") as other, open_manager(succeed, busy) as manager:
        for job in [await manager.submit(request(Webhook(url=receiver.url))) for _ in range(50)]:
            assert (await wait_for_job(manager, job)).webhook == "pending"
        await receiver.got(4)
        clock = time.monotonic()
        for job in [await manager.submit(request(Webhook(url=other.url))) for _ in range(5)]:
            await wait_for_webhook(manager, job, "delivered")
        seconds = time.monotonic() - clock
        print(f"5 jobs and their webhooks, beside 50 to a host that does not answer: {seconds:.2f} s")
        assert len(receiver.received) == 4
        receiver.release.set()
        await receiver.got(50)
    assert seconds < 10


async def test_unreadable_request_fails_the_delivery(
    open_manager: OpenManager, receiver: Receiver, database: Database
) -> None:
    receiver.answers, receiver.release = [web.Response(status=500)], asyncio.Event()
    async with open_manager(succeed) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await receiver.got(1)
        await database.write(lambda connection: connection.execute(text("UPDATE jobs SET request = '{}'")))
        receiver.release.set()
        await wait_for_webhook(manager, job, "failed")
        [delivery] = await manager.deliveries(job.id)
    assert len(receiver.received) == 1
    assert ["cannot be read" in str(attempt.error) for attempt in delivery.tries] == [False, True, True]


async def test_synchronous_job(open_manager: OpenManager, receiver: Receiver) -> None:
    async with open_manager(succeed) as manager:
        job = await manager.register_sync(request(Webhook(url=receiver.url)))
        await manager.complete(job.id, TRANSCRIPT)
        await wait_for_webhook(manager, job, "delivered")
    assert json.loads(receiver.received[0][1])["data"]["mode"] == "sync"


@ON_SQLITE
async def test_deliveries_without_a_secret_are_unsigned(
    open_manager: OpenManager, receiver: Receiver, settings: AppSettings
) -> None:
    async with open_manager(succeed, with_webhooks(settings, secrets=())) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await wait_for_webhook(manager, job, "delivered")
    assert "webhook-id" in {name.lower() for name in receiver.received[0][0]}
    assert "webhook-signature" not in {name.lower() for name in receiver.received[0][0]}


@ON_SQLITE
async def test_private_addresses_are_not_called(
    open_manager: OpenManager, receiver: Receiver, settings: AppSettings
) -> None:
    async with open_manager(succeed, settings.model_copy(update={"network": NetworkSettings()})) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await wait_for_webhook(manager, job, "failed")
    assert receiver.received == []
