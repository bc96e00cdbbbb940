import asyncio
import json
import time
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import text
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from serve_app.errors import AudioError, Conflict, InvalidRequest, NotFound
from serve_app.jobs import lifecycle
from serve_app.jobs.db.engine import Database
from serve_app.jobs.webhooks.sender import retry_after
from serve_app.jobs.webhooks.validation import check_webhook
from serve_app.schemas.job import Job
from serve_app.schemas.request import Webhook
from serve_app.schemas.transcript import Transcript
from serve_app.settings import AppSettings, NetworkSettings
from tests.jobs.helpers import (
    ON_SQLITE,
    SECRET,
    TRANSCRIPT,
    Gate,
    Managing,
    Receiver,
    ended,
    receiving,
    reported,
    request,
    succeed,
    with_jobs,
    with_webhooks,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


async def test_a_finished_job_is_reported_signed(managing: Managing, receiver: Receiver) -> None:
    async with managing(succeed) as manager:
        job = await manager.submit(
            request(Webhook(url=receiver.url, headers={"X-Token": "t0k", "Authorization": "B x"}))
        )
        await reported(manager, job, "delivered")
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


async def test_failures_and_cancellations_are_reported(managing: Managing, receiver: Receiver) -> None:
    gate = Gate()

    async def run(job: Job) -> Transcript:
        if job.request.source.model_dump()["url"].endswith("bad"):
            raise AudioError("no sound in it", "url")
        return await gate(job)

    webhook = Webhook(url=receiver.url)
    async with managing(run) as manager:
        failed = await manager.submit(request(webhook, "https://example.com/bad"))
        held = await manager.submit(request(webhook))
        await gate.holds(1)
        await manager.cancel(held.id)
        await receiver.got(2)
    messages = {message["data"]["id"]: message for message in (json.loads(body) for _, body in receiver.received)}
    assert messages[failed.id]["type"] == "job.failed"
    assert messages[failed.id]["data"]["error"]["message"] == "no sound in it"
    assert messages[held.id]["type"] == "job.cancelled"
    assert messages[held.id]["data"]["transcript"] is None


async def test_only_the_events_asked_for_are_reported(managing: Managing, receiver: Receiver) -> None:
    async with managing(succeed) as manager:
        quiet = await manager.submit(request(Webhook(url=receiver.url, events=("failed", "cancelled"))))
        assert (await ended(manager, quiet)).webhook is None
        loud = await manager.submit(request(Webhook(url=receiver.url, events=("completed",))))
        await reported(manager, loud, "delivered")
    assert len(receiver.received) == 1


async def test_every_event_can_be_reported(
    managing: Managing, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "PROGRESS_S", 0)
    gate = Gate()
    async with managing(gate) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url, events=("started", "progress", "completed"))))
        await receiver.got(1)
        assert (await manager.get(job.id)).webhook is None, "it is that of the end"
        await manager.report_progress(job.id, 1, 0.5)
        await receiver.got(2)
        gate.opened.set()
        await reported(manager, job, "delivered")
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
async def test_several_secrets_sign_side_by_side(managing: Managing, receiver: Receiver, settings: AppSettings) -> None:
    secrets = SECRET, "whsec_" + b64encode(b"n" * 32).decode()
    async with managing(succeed, with_webhooks(settings, secrets=tuple(map(SecretStr, secrets)))) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await reported(manager, job, "delivered")
    [(headers, body)] = receiver.received
    for secret in secrets:
        assert Verifier(secret).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Verifier("whsec_" + b64encode(b"o" * 32).decode()).verify(body, headers)


async def test_what_was_sent_is_sent_again_when_asked_for(managing: Managing, receiver: Receiver) -> None:
    receiver.answers = [web.Response(status=410)]
    async with managing(succeed) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url, events=("started", "completed"))))
        await receiver.got(2)
        await reported(manager, job, "delivered")
        started, completed = await manager.deliveries(job.id)
        assert [(delivery.state, [each.status for each in delivery.tries]) for delivery in (started, completed)] == [
            ("failed", [410]),
            ("delivered", [200]),
        ]
        await manager.redeliver(job.id, started.id)
        await receiver.got(3)
        assert receiver.received[2][0]["webhook-id"] == started.id
        assert receiver.received[2][1] == receiver.received[0][1]
        await reported(manager, job, "delivered")
        again = {delivery.id for delivery in await manager.redeliver(job.id, None)}
        assert again == {started.id, completed.id}
        await receiver.got(5)
        with pytest.raises(NotFound, match="no delivery 'msg_other'") as refused:
            await manager.redeliver(job.id, "msg_other")
        assert refused.value.param == "id"
        for call in (manager.deliveries, lambda unknown: manager.redeliver(unknown, None)):
            with pytest.raises(NotFound, match="no job"):
                await call("unknown")


async def test_what_is_still_tried_is_not_sent_again(managing: Managing, receiver: Receiver) -> None:
    receiver.hold = asyncio.Event()
    async with managing(succeed) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await receiver.got(1)
        [delivery] = await manager.deliveries(job.id)
        for delivery_id in (delivery.id, None):
            with pytest.raises(Conflict, match="all are pending"):
                await manager.redeliver(job.id, delivery_id)
        receiver.hold.set()
        await reported(manager, job, "delivered")


async def test_every_try_is_in_the_log(managing: Managing, receiver: Receiver, settings: AppSettings) -> None:
    receiver.answers = [web.Response(status=500), web.Response(status=302, headers={"Location": receiver.url})]
    async with managing(succeed, with_webhooks(settings, timeout_s=0.3)) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await receiver.got(2)
        receiver.hold = asyncio.Event()
        await reported(manager, job, "failed")
        [delivery] = await manager.deliveries(job.id)
    assert [(each.status, each.error) for each in delivery.tries] == [
        (500, None),
        (302, None),
        (None, "TimeoutError()"),
    ]
    assert delivery.tries[2].seconds >= 0.3
    assert [each.at for each in delivery.tries] == sorted(each.at for each in delivery.tries)


async def test_a_host_that_does_not_answer_delays_no_other(
    managing: Managing, receiver: Receiver, settings: AppSettings
) -> None:
    receiver.hold = asyncio.Event()
    busy = with_webhooks(with_jobs(settings, max_running=64), timeout_s=60.0, max_in_flight=8, max_per_host=4)
    async with receiving("127.0.0.2") as live, managing(succeed, busy) as manager:
        for job in [await manager.submit(request(Webhook(url=receiver.url))) for _ in range(50)]:
            assert (await ended(manager, job)).webhook == "pending"
        await receiver.got(4)
        clock = time.monotonic()
        for job in [await manager.submit(request(Webhook(url=live.url))) for _ in range(5)]:
            await reported(manager, job, "delivered")
        seconds = time.monotonic() - clock
        print(f"5 jobs and their webhooks, beside 50 to a host that does not answer: {seconds:.2f} s")
        assert len(receiver.received) == 4
        receiver.hold.set()
        await receiver.got(50)
    assert seconds < 10


async def test_a_delivery_whose_request_can_not_be_read_is_given_up(
    managing: Managing, receiver: Receiver, database: Database
) -> None:
    receiver.answers, receiver.hold = [web.Response(status=500)], asyncio.Event()
    async with managing(succeed) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await receiver.got(1)
        await database.write(lambda connection: connection.execute(text("UPDATE jobs SET request = '{}'")))
        receiver.hold.set()
        await reported(manager, job, "failed")
        [delivery] = await manager.deliveries(job.id)
    assert len(receiver.received) == 1
    assert ["cannot be read" in str(each.error) for each in delivery.tries] == [False, True, True]


async def test_a_synchronous_job_is_reported_too(managing: Managing, receiver: Receiver) -> None:
    async with managing(succeed) as manager:
        job = await manager.register_sync(request(Webhook(url=receiver.url)))
        await manager.complete(job.id, TRANSCRIPT)
        await reported(manager, job, "delivered")
    assert json.loads(receiver.received[0][1])["data"]["mode"] == "sync"


@ON_SQLITE
@pytest.mark.parametrize("refusal", [500, 404, 302])
async def test_a_refused_delivery_is_tried_again(managing: Managing, receiver: Receiver, refusal: int) -> None:
    # Were the redirect followed, the second answer would come to the first try.
    receiver.answers = [web.Response(status=refusal, headers={"Location": "/elsewhere"}), web.Response(status=204)]
    async with managing(succeed) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await reported(manager, job, "delivered")
    (first, first_body), (second, second_body) = receiver.received
    assert first["webhook-id"] == second["webhook-id"]
    assert first_body == second_body
    assert Verifier(SECRET).verify(second_body, second)


async def test_each_try_is_stamped_and_signed_anew(managing: Managing, receiver: Receiver) -> None:
    receiver.answers = [web.Response(status=503, headers={"Retry-After": "1"})]
    async with managing(succeed) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await reported(manager, job, "delivered")
    first, second = (headers for headers, _ in receiver.received)
    assert int(second["webhook-timestamp"]) > int(first["webhook-timestamp"])
    assert second["webhook-signature"] != first["webhook-signature"]


async def test_tries_end(managing: Managing, receiver: Receiver) -> None:
    receiver.answers = [web.Response(status=500) for _ in range(9)]
    async with managing(succeed) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await reported(manager, job, "failed")
    assert len(receiver.received) == 3


async def test_gone_stops_at_once(managing: Managing, receiver: Receiver) -> None:
    receiver.answers = [web.Response(status=410)]
    async with managing(succeed) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await reported(manager, job, "failed")
    assert len(receiver.received) == 1


async def test_a_receiver_that_hangs_is_timed_out_and_holds_up_nobody(
    managing: Managing, receiver: Receiver, settings: AppSettings
) -> None:
    receiver.hold = asyncio.Event()
    async with managing(succeed, with_webhooks(settings, timeout_s=0.3)) as manager:
        jobs = [await manager.submit(request(Webhook(url=receiver.url))) for _ in range(4)]
        await receiver.got(4)
        receiver.hold.set()
        for job in jobs:
            await reported(manager, job, "delivered")


async def test_a_timeout_counts_as_a_try(managing: Managing, receiver: Receiver, settings: AppSettings) -> None:
    receiver.hold = asyncio.Event()
    async with managing(succeed, with_webhooks(settings, timeout_s=0.3)) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await reported(manager, job, "failed")
    assert len(receiver.received) == 3


async def test_a_pending_delivery_survives_a_restart(
    managing: Managing, receiver: Receiver, settings: AppSettings
) -> None:
    receiver.hold = asyncio.Event()
    async with managing(succeed) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await receiver.got(1)
    receiver.hold = None
    async with managing(succeed) as manager:
        await reported(manager, job, "delivered")
    assert len(receiver.received) == 2


@ON_SQLITE
async def test_without_a_secret_deliveries_are_unsigned(
    managing: Managing, receiver: Receiver, settings: AppSettings
) -> None:
    async with managing(succeed, with_webhooks(settings, secrets=())) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await reported(manager, job, "delivered")
    assert "webhook-id" in {name.lower() for name in receiver.received[0][0]}
    assert "webhook-signature" not in {name.lower() for name in receiver.received[0][0]}


@ON_SQLITE
async def test_private_receivers_are_not_called(managing: Managing, receiver: Receiver, settings: AppSettings) -> None:
    async with managing(succeed, settings.model_copy(update={"network": NetworkSettings()})) as manager:
        job = await manager.submit(request(Webhook(url=receiver.url)))
        await reported(manager, job, "failed")
    assert receiver.received == []


@ON_SQLITE
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Webhook-Id", "x"),
        ("webhook-signature", "v1,x"),
        ("CONTENT-TYPE", "text/plain"),
        ("Host", "internal"),
        ("Content-Length", "1"),
        ("X-A\r\nX-B", "x"),
        ("X A", "x"),
        ("", "x"),
        ("X-Ä", "x"),
        ("X-A", "x\r\nX-B: y"),
        ("X-A", "x\0"),
        ("X-A", "ä"),
    ],
)
async def test_bad_headers_are_refused_on_submit(managing: Managing, name: str, value: str) -> None:
    bad = request(Webhook(url="https://example.com/done", headers={"X-Good": "g", name: value}))
    async with managing(succeed) as manager:
        for accept in (manager.submit, manager.register_sync):
            with pytest.raises(InvalidRequest) as refused:
                await accept(bad)
            assert refused.value.param == "webhook.headers"
            assert repr(name) in str(refused.value)
        assert (await manager.list(None, 10, None)).data == ()


@given(st.text(), st.text())
def test_a_header_that_is_let_through_can_be_sent(name: str, value: str) -> None:
    try:
        check_webhook(Webhook(url="https://example.com", headers={name: value}))
    except InvalidRequest:
        return
    assert name
    assert f"{name}: {value}".isprintable()
    assert f"{name}: {value}".isascii()


@ON_SQLITE
async def test_a_bad_url_is_refused_on_submit(managing: Managing) -> None:
    async with managing(succeed) as manager:
        with pytest.raises(InvalidRequest) as refused:
            await manager.submit(request(Webhook(url="ftp://example.com/done")))
    assert refused.value.param == "webhook.url"


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
def test_no_retry_after_breaks_the_sender(value: str) -> None:
    assert 0 <= retry_after(value, NOW) <= 24 * 3600
