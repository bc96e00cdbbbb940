"""Metrics and log lines of the whole service for a request and a job."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from fastapi import APIRouter

from serve_app.asgi import create_app
from serve_app.fronts.common.front import Front
from serve_app.fronts.registry import FRONTS
from serve_app.http.request_context import RequestContextMiddleware
from serve_app.observability.logs import add_context
from serve_app.observability.metrics import (
    AUDIO_SECONDS,
    HTTP_REQUEST_SECONDS,
    HTTP_REQUESTS,
    JOBS_ENDED,
    STAGE_SECONDS,
    WEBHOOK_ATTEMPTS,
    WINDOWS,
)
from serve_app.whisper.engine.engine import Engine
from serve_app.whisper.engine_metrics import record_engine_stats
from testing.metrics import RecordedMetrics
from tests.jobs.helpers import receiving
from tests.server import ARGS, opened

AUDIO = (Path(__file__).parents[1] / "data" / "en.mp3").read_bytes()
router = APIRouter()


@router.get("/broken")
async def broken() -> None:
    raise RuntimeError("a fault")


BROKEN = Front("broken", (router,))


@pytest.fixture
def metrics() -> RecordedMetrics:
    return RecordedMetrics()


@pytest.fixture
async def client(tmp_path: Path, engine: Engine, metrics: RecordedMetrics) -> AsyncIterator[httpx.AsyncClient]:
    fronts = [*FRONTS, BROKEN]
    args = ARGS | {"webhooks": {"retry_delays_s": [0, 0.01]}}
    async with opened(tmp_path, {"whisper-nano": engine}, args, fronts, metrics) as service:
        transport = httpx.ASGITransport(create_app(service, fronts, metrics), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service", timeout=60) as client:
            yield client


@pytest.fixture
def logs(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.handler.addFilter(add_context)
    caplog.set_level("INFO", "serve_app")
    return caplog


async def test_a_waiting_client(
    client: httpx.AsyncClient, metrics: RecordedMetrics, engine: Engine, logs: pytest.LogCaptureFixture
) -> None:
    before = engine.stats()
    headers = {"x-request-id": "r" * 200}
    path = "/v1/audio/transcriptions"
    answer = await client.post(path, data={"model": "whisper-1"}, files={"file": ("a.mp3", AUDIO)}, headers=headers)
    assert answer.status_code == 200
    assert metrics.total(HTTP_REQUESTS, front="openai", route=path, method="POST", status="200") == 1
    assert metrics.count(HTTP_REQUEST_SECONDS, front="openai", route=path) == 1
    assert metrics.total(AUDIO_SECONDS, model="whisper-nano") == pytest.approx(3.8, abs=1)
    assert metrics.count(STAGE_SECONDS, stage="transcribe") == 1
    assert metrics.total(JOBS_ENDED, mode="sync", state="succeeded") == 1
    record_engine_stats(metrics, "whisper-nano", before, engine.stats())
    assert metrics.total(WINDOWS, model="whisper-nano", outcome="done") == 1
    assert set(metrics.values.values()) == {0}
    assert metrics.total(WINDOWS, outcome="failed") == 0

    started, ended = logs.records
    assert started.request_id == ended.request_id == "r" * 128  # type: ignore[attr-defined]
    assert started.job_id == ended.job_id  # type: ignore[attr-defined]


async def test_a_job_with_a_webhook(
    client: httpx.AsyncClient, metrics: RecordedMetrics, logs: pytest.LogCaptureFixture
) -> None:
    async with receiving() as receiver:
        receiver.answers = [web.Response(status=500)]
        webhook = {"url": receiver.url, "events": ["completed"]}
        form = {"webhook": json.dumps(webhook)}
        answer = await client.post("/v1/jobs", files={"file": ("a.mp3", AUDIO)}, data=form)
        assert answer.status_code == 202
        await receiver.got(2)
    assert metrics.total(JOBS_ENDED, mode="async", state="succeeded") == 1
    assert metrics.total(WEBHOOK_ATTEMPTS, outcome="retried") == 1
    assert {record.job_id for record in logs.records} == {answer.json()["id"]}  # type: ignore[attr-defined]


async def test_paths_and_routes(client: httpx.AsyncClient, metrics: RecordedMetrics) -> None:
    await client.get("/v1/jobs/none")
    await client.get("/v1/jobs/other")
    await client.get("/v1/none")
    await client.delete("/v1/models")
    assert metrics.total(HTTP_REQUESTS, front="native", route="/v1/jobs/{job_id}", status="404") == 2
    assert metrics.total(HTTP_REQUESTS, front="", route="", status="404") == 1
    assert metrics.total(HTTP_REQUESTS, method="DELETE", status="405") == 1


async def test_labels_do_not_grow_with_methods_that_clients_invent(
    client: httpx.AsyncClient, metrics: RecordedMetrics
) -> None:
    for number in range(3):
        assert (await client.request(f"METHOD{number}", "/v1/models")).status_code == 405
    assert metrics.total(HTTP_REQUESTS, method="other", status="405") == 3


async def test_a_client_that_leaves_is_no_server_error(metrics: RecordedMetrics) -> None:
    async def cancelled(*_: object) -> None:
        raise asyncio.CancelledError

    middleware = RequestContextMiddleware(cancelled, metrics, {})
    with pytest.raises(asyncio.CancelledError):
        await middleware({"type": "http", "method": "GET", "headers": []}, cancelled, cancelled)
    assert metrics.total(HTTP_REQUESTS, status="499") == 1


async def test_a_fault_is_logged_with_its_request(
    client: httpx.AsyncClient, metrics: RecordedMetrics, logs: pytest.LogCaptureFixture
) -> None:
    assert (await client.get("/broken", headers={"x-request-id": "r1"})).status_code == 500
    (record,) = logs.records
    assert record.exc_info
    assert record.request_id == "r1"  # type: ignore[attr-defined]
    assert metrics.total(HTTP_REQUESTS, front="broken", route="/broken", status="500") == 1
