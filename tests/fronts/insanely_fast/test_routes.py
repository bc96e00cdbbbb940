"""The Insanely-Fast-Whisper front, with a site that serves recordings and receives webhooks."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from serve_app.whisper.engine.engine import Engine
from tests.fronts.helpers import DATA, EN
from tests.server import ARGS


class Site:
    """Serves recordings, a long one at `/long.mp3`, and a 404 at `/blocked` once `released`; receives `/hook`."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[dict[str, str], Any]] = asyncio.Queue()
        self.requested = asyncio.Event()
        self.released = asyncio.Event()

    async def hook(self, request: web.Request) -> web.Response:
        await self.received.put(({k.lower(): v for k, v in request.headers.items()}, await request.json()))
        return web.Response()

    async def withhold(self, _: web.Request) -> web.Response:
        self.requested.set()
        await self.released.wait()
        return web.Response(status=404)

    async def long(self, _: web.Request) -> web.Response:
        return web.Response(body=(DATA / "en.mp3").read_bytes() * 10)  # frames follow frames

    def url(self, path: str) -> str:
        return str(self.server.make_url(path))

    async def next_webhook(self) -> tuple[dict[str, str], Any]:
        """Return the headers and the body of the next webhook."""
        return await asyncio.wait_for(self.received.get(), 60)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/hook", self.hook)
        app.router.add_get("/blocked", self.withhold)
        app.router.add_get("/long.mp3", self.long)
        app.router.add_static("/", DATA)
        self.server = TestServer(app, host="127.0.0.1")
        await self.server.start_server()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    await site.start()
    yield site
    site.released.set()
    await site.server.close()


async def wait_for_task(client: httpx.AsyncClient, task_id: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (status := (await client.get(f"/status/{task_id}")).json())["status"] == "processing":
            await asyncio.sleep(0.02)
    return status


async def test_synchronous_task(client: httpx.AsyncClient, site: Site) -> None:
    answer = await client.post("/", json={"url": site.url("/en.mp3")})
    body = answer.json()
    assert (answer.status_code, set(body), body["status"]) == (200, {"output", "status", "task_id"}, "completed")
    assert set(body["output"]) == {"text", "chunks"}
    assert body["output"]["text"] == EN == "".join(chunk["text"] for chunk in body["output"]["chunks"]).strip()
    [start, end] = body["output"]["chunks"][0]["timestamp"]
    assert 0 <= start < end < 5
    status = (await client.get(f"/status/{body['task_id']}")).json()
    assert status == {"status": "completed", "output": body["output"]}
    job = (await client.get(f"/v1/jobs/{body['task_id']}")).json()
    assert (job["mode"], job["options"]["batch_size"], job["options"]["language"]) == ("sync", 64, None)


async def test_word_timestamps_give_one_chunk_per_word(client: httpx.AsyncClient, site: Site) -> None:
    answer = await client.post("/", json={"url": site.url("/en.mp3"), "timestamp": "word"})
    chunks = answer.json()["output"]["chunks"]
    assert [chunk["text"].strip() for chunk in chunks] == EN.split()
    times = [time for chunk in chunks for time in chunk["timestamp"]]
    assert times == sorted(times)
    assert times[0] < times[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"language": "None"}, "zwei sieben eins acht zwei acht"),
        ({"language": None}, "zwei sieben eins acht zwei acht"),
        ({"language": "german", "task": "transcribe"}, "zwei sieben eins acht zwei acht"),
        ({"language": "de", "task": "translate"}, "two seven one eight two eight"),
    ],
)
async def test_language_and_task(client: httpx.AsyncClient, site: Site, fields: dict[str, Any], text: str) -> None:
    answer = await client.post("/", json={"url": site.url("/de.opus"), **fields})
    assert answer.json()["output"]["text"] == text


async def test_asynchronous_task_calls_its_webhook(client: httpx.AsyncClient, site: Site) -> None:
    header = {"x-tenant": "7", "Authorization": "Bearer t0k", "Content-Type": "application/json; charset=utf-8"}
    body = {"url": site.url("/en.mp3"), "is_async": True, "webhook": {"url": site.url("/hook"), "header": header}}
    answer = await client.post("/", json=body)
    task_id = answer.json()["task_id"]
    assert (answer.status_code, answer.json()) == (
        200,
        {"detail": "Task is being processed in the background", "status": "processing", "task_id": task_id},
    )
    headers, payload = await site.next_webhook()
    assert (headers["x-tenant"], headers["authorization"]) == ("7", "Bearer t0k")
    assert headers["content-type"] == "application/json"
    assert (set(payload), payload["status"], payload["task_id"]) == (
        {"output", "status", "task_id"},
        "completed",
        task_id,
    )
    assert payload["output"]["text"] == EN
    assert await wait_for_task(client, task_id) == {"status": "completed", "output": payload["output"]}
    assert (await client.delete(f"/cancel/{task_id}")).json() == {"status": "completed", "output": payload["output"]}


async def test_synchronous_task_with_webhook(client: httpx.AsyncClient, site: Site) -> None:
    answer = await client.post("/", json={"url": site.url("/en.mp3"), "webhook": {"url": site.url("/hook")}})
    assert (await site.next_webhook())[1] == answer.json()


async def test_failed_task_has_an_error(client: httpx.AsyncClient, site: Site) -> None:
    body = {"url": site.url("/none.mp3"), "webhook": {"url": site.url("/hook")}, "managed_task_id": "bad"}
    synchronous = await client.post("/", json=body | {"managed_task_id": "sync"})
    assert (synchronous.status_code, set(synchronous.json())) == (400, {"detail"})
    error = synchronous.json()["detail"]
    assert "404" in error
    assert (await site.next_webhook())[1] == {"error": error, "status": "error", "task_id": "sync"}
    await client.post("/", json=body | {"is_async": True})
    assert (await site.next_webhook())[1] == {"error": error, "status": "error", "task_id": "bad"}
    assert await wait_for_task(client, "bad") == {"status": "error", "error": error}
    assert (await client.delete("/cancel/bad")).json() == {"status": "error", "error": error}


class TestOneRunningTask:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return ARGS | {"jobs": {"max_running": 1}, "limits": {"max_queued_jobs": 1}}

    async def test_running_and_queued_tasks_are_cancelled(self, client: httpx.AsyncClient, site: Site) -> None:
        body = {"url": site.url("/blocked"), "is_async": True, "webhook": {"url": site.url("/hook")}}
        await client.post("/", json=body | {"managed_task_id": "running"})
        await asyncio.wait_for(site.requested.wait(), 10)
        await client.post("/", json=body | {"managed_task_id": "queued"})
        full = await client.post("/", json=body)
        assert (full.status_code, set(full.json()), full.headers["retry-after"]) == (429, {"detail"}, "5")
        assert (await client.get("/tasks")).json() == {"tasks": ["running", "queued"]}
        for task_id in ("queued", "running"):
            assert (await client.get(f"/status/{task_id}")).json() == {"status": "processing"}
            assert (await client.delete(f"/cancel/{task_id}")).json() == {"status": "cancelled"}
            payload = {"error": "Task Cancelled", "status": "error", "task_id": task_id}
            assert (await site.next_webhook())[1] == payload
            assert (await client.get(f"/status/{task_id}")).json() == {"status": "cancelled"}
            assert (await client.delete(f"/cancel/{task_id}")).json() == {"status": "cancelled"}
        assert (await client.get("/tasks")).json() == {"tasks": []}
        again = await client.post("/", json=body | {"managed_task_id": "queued"})
        assert again.json() == {"status": "cancelled", "task_id": "queued"}


async def test_disconnect_cancels_a_synchronous_task(client: httpx.AsyncClient, site: Site) -> None:
    waiting = asyncio.create_task(client.post("/", json={"url": site.url("/blocked"), "managed_task_id": "sync"}))
    await asyncio.wait_for(site.requested.wait(), 10)
    assert (await client.get("/tasks")).json() == {"tasks": ["sync"]}
    refused = await client.delete("/cancel/sync")
    assert (refused.status_code, refused.json()["detail"].split(":")[0]) == (400, "Not a background task")
    assert (await client.get("/status/sync")).json() == {"status": "processing"}
    waiting.cancel()
    await asyncio.wait({waiting})
    assert await wait_for_task(client, "sync") == {"status": "cancelled"}
    assert (await client.get("/tasks")).json() == {"tasks": []}


async def test_same_id_is_same_task(client: httpx.AsyncClient, site: Site) -> None:
    body = {"url": site.url("/en.mp3"), "managed_task_id": "call-17"}
    first = await client.post("/", json=body)
    assert (first.status_code, first.json()["task_id"]) == (200, "call-17")
    assert (await client.post("/", json=body)).json() == first.json()
    assert len((await client.get("/v1/jobs")).json()["data"]) == 1
    webhook = {"is_async": True, "webhook": {"url": site.url("/hook")}}
    for other in (body | {"batch_size": 3}, body | webhook):
        refused = await client.post("/", json=other)
        assert (refused.status_code, refused.json()["detail"].split(":")[0]) == (422, "managed_task_id")
    background = body | webhook | {"managed_task_id": "call-18"}
    await client.post("/", json=background)
    output = (await wait_for_task(client, "call-18"))["output"]
    again = await client.post("/", json=background)
    assert again.json() == {"status": "completed", "output": output, "task_id": "call-18"}


async def test_id_of_a_task_without_output_is_rejected(client: httpx.AsyncClient, site: Site) -> None:
    body = {"url": site.url("/blocked"), "managed_task_id": "twice"}
    first = asyncio.create_task(client.post("/", json=body))
    await asyncio.wait_for(site.requested.wait(), 10)
    for state in ("running", "failed"):
        refused = await client.post("/", json=body)
        assert refused.status_code == 409
        assert refused.json()["detail"].startswith(f"managed_task_id: the job is {state}")
        site.released.set()
        assert (await first).status_code == 400


@pytest.mark.slow
async def test_batch_size_limits_concurrent_windows(client: httpx.AsyncClient, site: Site, engine: Engine) -> None:
    async def mean_batch_size(**fields: int) -> float:
        before = engine.stats()
        answer = await client.post("/", json={"url": site.url("/long.mp3"), "language": "en", **fields})
        assert answer.status_code == 200
        after = engine.stats()
        assert after.windows - before.windows > 3
        return (after.rows - before.rows) / (after.steps - before.steps)

    assert await mean_batch_size(batch_size=1) == 1
    assert 1 < await mean_batch_size(batch_size=2) <= 2
    assert await mean_batch_size() > 2


async def test_status_with_inference_id_belongs_to_verda(client: httpx.AsyncClient) -> None:
    assert (await client.get("/status/whisper")).json() == {"detail": "Task not found"}
    verda = await client.get("/status/whisper", headers={"X-Inference-Id": "7"})
    assert verda.status_code == 404
    assert "'7'" in verda.json()["detail"]


async def test_openapi_document(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    post = document["paths"]["/"]["post"]
    assert set(post["requestBody"]["content"]["application/json"]["examples"]) == {"wait", "webhook"}
    for path, method in {
        "/": "post",
        "/tasks": "get",
        "/status/{task_id}": "get",
        "/cancel/{task_id}": "delete",
    }.items():
        operation = document["paths"][path][method]
        assert operation["summary"]
        schema = operation["responses"]["401"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/Detail"}
