"""The Insanely-Fast-Whisper front, with a site that has the audio and takes the webhooks."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from serve_app.services.transcription import Service
from serve_app.whisper.engine.engine import Engine

DATA = Path(__file__).parents[2] / "data"
EN = "three one four one five nine"
LOCAL = {"network": {"allow_private_addresses": True}}


class Site:
    """Audio at `/en.mp3` and its like, at `/long.mp3` much, at `/held` none until it is released; a webhook `/hook`."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[dict[str, str], Any]] = asyncio.Queue()
        self.held = asyncio.Event()
        self.released = asyncio.Event()

    async def hook(self, request: web.Request) -> web.Response:
        await self.received.put(({k.lower(): v for k, v in request.headers.items()}, await request.json()))
        return web.Response()

    async def hold(self, _: web.Request) -> web.Response:
        self.held.set()
        await self.released.wait()
        return web.Response(status=404)

    async def long(self, _: web.Request) -> web.Response:
        return web.Response(body=(DATA / "en.mp3").read_bytes() * 10)  # frames follow frames

    def url(self, path: str) -> str:
        return str(self.server.make_url(path))

    async def hooked(self) -> tuple[dict[str, str], Any]:
        """The next webhook: its headers and body."""
        return await asyncio.wait_for(self.received.get(), 60)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/hook", self.hook)
        app.router.add_get("/held", self.hold)
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


async def ended(client: httpx.AsyncClient, task_id: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (status := (await client.get(f"/status/{task_id}")).json())["status"] == "processing":
            await asyncio.sleep(0.02)
    return status


async def test_a_client_that_waits_gets_text_and_chunks(client: httpx.AsyncClient, site: Site) -> None:
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


async def test_with_word_timestamps_every_word_is_a_chunk(client: httpx.AsyncClient, site: Site) -> None:
    answer = await client.post("/", json={"url": site.url("/en.mp3"), "timestamp": "word"})
    chunks = answer.json()["output"]["chunks"]
    assert [chunk["text"].strip() for chunk in chunks] == EN.split()
    times = [time for chunk in chunks for time in chunk["timestamp"]]
    assert times == sorted(times)
    assert times[0] < times[-1]


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


async def test_an_async_task_is_told_to_its_webhook(client: httpx.AsyncClient, site: Site) -> None:
    header = {"x-tenant": "7", "Authorization": "Bearer t0k", "Content-Type": "application/json; charset=utf-8"}
    body = {"url": site.url("/en.mp3"), "is_async": True, "webhook": {"url": site.url("/hook"), "header": header}}
    answer = await client.post("/", json=body)
    task_id = answer.json()["task_id"]
    assert (answer.status_code, answer.json()) == (
        200,
        {"detail": "Task is being processed in the background", "status": "processing", "task_id": task_id},
    )
    headers, told = await site.hooked()
    assert (headers["x-tenant"], headers["authorization"]) == ("7", "Bearer t0k")
    assert headers["content-type"] == "application/json"
    assert (set(told), told["status"], told["task_id"]) == ({"output", "status", "task_id"}, "completed", task_id)
    assert told["output"]["text"] == EN
    assert await ended(client, task_id) == {"status": "completed", "output": told["output"]}
    assert (await client.delete(f"/cancel/{task_id}")).json() == {"status": "completed", "output": told["output"]}


async def test_a_client_that_waits_may_have_a_webhook_too(client: httpx.AsyncClient, site: Site) -> None:
    answer = await client.post("/", json={"url": site.url("/en.mp3"), "webhook": {"url": site.url("/hook")}})
    assert (await site.hooked())[1] == answer.json()


async def test_a_task_that_fails_says_why(client: httpx.AsyncClient, site: Site) -> None:
    body = {"url": site.url("/none.mp3"), "webhook": {"url": site.url("/hook")}, "managed_task_id": "bad"}
    waited = await client.post("/", json=body | {"managed_task_id": "waited"})
    assert (waited.status_code, set(waited.json())) == (400, {"detail"})
    error = waited.json()["detail"]
    assert "404" in error
    assert (await site.hooked())[1] == {"error": error, "status": "error", "task_id": "waited"}
    await client.post("/", json=body | {"is_async": True})
    assert (await site.hooked())[1] == {"error": error, "status": "error", "task_id": "bad"}
    assert await ended(client, "bad") == {"status": "error", "error": error}
    assert (await client.delete("/cancel/bad")).json() == {"status": "error", "error": error}


class TestOneAtATime:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return LOCAL | {"jobs": {"max_running": 1}, "limits": {"max_queued_jobs": 1}}

    async def test_running_and_queued_tasks_are_cancelled(self, client: httpx.AsyncClient, site: Site) -> None:
        body = {"url": site.url("/held"), "is_async": True, "webhook": {"url": site.url("/hook")}}
        await client.post("/", json=body | {"managed_task_id": "running"})
        await asyncio.wait_for(site.held.wait(), 10)
        await client.post("/", json=body | {"managed_task_id": "queued"})
        full = await client.post("/", json=body)
        assert (full.status_code, set(full.json()), full.headers["retry-after"]) == (429, {"detail"}, "5")
        assert (await client.get("/tasks")).json() == {"tasks": ["running", "queued"]}
        for task_id in ("queued", "running"):
            assert (await client.get(f"/status/{task_id}")).json() == {"status": "processing"}
            assert (await client.delete(f"/cancel/{task_id}")).json() == {"status": "cancelled"}
            told = {"error": "Task Cancelled", "status": "error", "task_id": task_id}
            assert (await site.hooked())[1] == told
            assert (await client.get(f"/status/{task_id}")).json() == {"status": "cancelled"}
            assert (await client.delete(f"/cancel/{task_id}")).json() == {"status": "cancelled"}
        assert (await client.get("/tasks")).json() == {"tasks": []}
        again = await client.post("/", json=body | {"managed_task_id": "queued"})
        assert again.json() == {"status": "cancelled", "task_id": "queued"}


async def test_a_task_whose_client_waits_ends_when_it_goes_away(client: httpx.AsyncClient, site: Site) -> None:
    waiting = asyncio.create_task(client.post("/", json={"url": site.url("/held"), "managed_task_id": "waited"}))
    await asyncio.wait_for(site.held.wait(), 10)
    assert (await client.get("/tasks")).json() == {"tasks": ["waited"]}
    refused = await client.delete("/cancel/waited")
    assert (refused.status_code, refused.json()["detail"].split(":")[0]) == (400, "Not a background task")
    assert (await client.get("/status/waited")).json() == {"status": "processing"}
    waiting.cancel()
    await asyncio.wait({waiting})
    assert await ended(client, "waited") == {"status": "cancelled"}
    assert (await client.get("/tasks")).json() == {"tasks": []}


async def test_an_id_of_ones_own_is_one_task(client: httpx.AsyncClient, site: Site) -> None:
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
    output = (await ended(client, "call-18"))["output"]
    again = await client.post("/", json=background)
    assert again.json() == {"status": "completed", "output": output, "task_id": "call-18"}


async def test_an_id_whose_task_has_no_output_is_refused(client: httpx.AsyncClient, site: Site) -> None:
    body = {"url": site.url("/held"), "managed_task_id": "twice"}
    first = asyncio.create_task(client.post("/", json=body))
    await asyncio.wait_for(site.held.wait(), 10)
    for state in ("running", "failed"):
        refused = await client.post("/", json=body)
        assert refused.status_code == 409
        assert refused.json()["detail"].startswith(f"managed_task_id: the job is {state}")
        site.released.set()
        assert (await first).status_code == 400


@pytest.mark.slow
async def test_batch_size_is_the_most_windows_at_a_time(client: httpx.AsyncClient, site: Site, engine: Engine) -> None:
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


URL = "http://127.0.0.1:9/a.mp3"
HOOK = {"url": "http://127.0.0.1:9/hook"}


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({}, "url"),
        ({"url": None}, "url"),
        ({"url": 7}, "url"),
        ({"url": ""}, "Invalid URL"),
        ({"url": "ftp://x/a"}, "Invalid URL"),
        ({"url": "file:///etc/passwd"}, "Invalid URL"),
        ({"url": "httpx"}, "Invalid URL"),
        ({"url": URL, "task": "sing"}, "task"),
        ({"url": URL, "language": "klingon"}, "language"),
        ({"url": URL, "language": "ru"}, "language: whisper-nano does not support russian"),
        ({"url": URL, "language": 7}, "language"),
        ({"url": URL, "batch_size": 0}, "batch_size"),
        ({"url": URL, "batch_size": "many"}, "batch_size"),
        ({"url": URL, "batch_size": None}, "batch_size"),
        ({"url": URL, "timestamp": "work"}, "timestamp"),
        ({"url": URL, "diarise_audio": True}, "`diarise_audio`"),
        ({"url": URL, "is_async": True}, "Webhook is required for async tasks"),
        ({"url": URL, "is_async": "soon"}, "is_async"),
        ({"url": URL, "webhook": "http://x/h"}, "webhook"),
        ({"url": URL, "webhook": {}}, "webhook.url"),
        ({"url": URL, "webhook": {"url": "nowhere"}}, "'webhook.url' has no scheme"),
        ({"url": URL, "webhook": HOOK | {"headers": {}}}, "unknown field 'webhook.headers'"),
        ({"url": URL, "webhook": HOOK | {"header": {"x": 7}}}, "webhook.header.x"),
        ({"url": URL, "webhook": HOOK | {"header": {"webhook-id": "1"}}}, "webhook.header: 'webhook-id'"),
        ({"url": URL, "webhook": HOOK | {"header": {"Content-Type": "text/plain"}}}, "webhook.header: 'Content-Type'"),
        ({"url": URL, "managed_task_id": "a/b"}, "managed_task_id"),
        ({"url": URL, "managed_task_id": ""}, "managed_task_id"),
        ({"url": URL, "speed": 2}, "unknown field 'speed'"),
    ],
)
async def test_bad_bodies_name_their_field(client: httpx.AsyncClient, body: dict[str, Any], detail: str) -> None:
    answer = await client.post("/", json=body)
    assert (answer.status_code, set(answer.json())) == (400, {"detail"}), answer.text
    assert answer.json()["detail"].startswith(detail)
    assert (await client.get("/v1/jobs")).json()["data"] == []


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"null", b"7", b"[" * 5000])
async def test_bodies_that_are_no_task_at_all(client: httpx.AsyncClient, raw: bytes) -> None:
    answer = await client.post("/", content=raw, headers={"content-type": "application/json"})
    assert (answer.status_code, set(answer.json())) == (400, {"detail"}), answer.text
    assert "body" in answer.json()["detail"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/status/nope"), ("DELETE", "/cancel/nope")])
async def test_an_unknown_task_is_a_404(client: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.json()) == (404, {"detail": "Task not found"})


async def test_a_status_with_an_inference_id_is_verdas(client: httpx.AsyncClient) -> None:
    assert (await client.get("/status/whisper")).json() == {"detail": "Task not found"}
    verdas = await client.get("/status/whisper", headers={"X-Inference-Id": "7"})
    assert verdas.status_code == 404
    assert "'7'" in verdas.json()["detail"]


async def test_errors_outside_the_routes_have_the_same_shape(
    client: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    charset = await client.post("/", content=b"{}", headers={"content-type": "application/json; charset=latin-1"})
    assert (charset.status_code, set(charset.json())) == (415, {"detail"})
    method = await client.put("/")
    assert (method.status_code, method.json(), method.headers["allow"]) == (
        405,
        {"detail": "Method Not Allowed"},
        "POST",
    )

    async def broken() -> tuple[str, ...]:
        raise RuntimeError("secret")

    monkeypatch.setattr(service.jobs, "list_active", broken)
    internal = await client.get("/tasks")
    assert (internal.status_code, internal.json()) == (500, {"detail": "internal error; it has been logged"})


async def test_the_openapi_document_shows_bodies_and_errors(client: httpx.AsyncClient) -> None:
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


class TestKeysAndLimits:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return LOCAL | {"api_keys": ["one"], "limits": {"max_upload_bytes": 1000}}

    @pytest.mark.parametrize(
        ("method", "path"), [("POST", "/"), ("GET", "/tasks"), ("GET", "/status/x"), ("DELETE", "/cancel/x")]
    )
    async def test_a_key_is_required(self, client: httpx.AsyncClient, method: str, path: str) -> None:
        refused = await client.request(method, path, headers={"x-admin-api-key": "two"})
        assert (refused.status_code, refused.json()) == (401, {"detail": "Unauthorized"})
        admitted = await client.request(method, path, headers={"x-admin-api-key": "one"})
        assert admitted.status_code in (200, 400, 404)

    @pytest.mark.parametrize("declared", [True, False])
    async def test_a_body_over_the_limit_is_a_413(self, client: httpx.AsyncClient, declared: bool) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b" " * 2000

        headers = {"content-type": "application/json", "x-admin-api-key": "one"}
        answer = await client.post("/", content=b" " * 2000 if declared else chunks(), headers=headers)
        assert (answer.status_code, set(answer.json())) == (413, {"detail"})
        assert "1000 bytes" in answer.json()["detail"]
