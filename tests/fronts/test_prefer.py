"""The effect of `Prefer` headers in every front."""

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

pytestmark = pytest.mark.slow  # several transcriptions in each front

DATA = Path(__file__).parents[1] / "data"
EN = "three one four one five nine"


@dataclass(frozen=True)
class Endpoint:
    """A path that transcribes a recording, and the status and `Location` of its asynchronous answer."""

    path: str
    accepted: int
    location: str
    always: bool = False
    """Whether it is asynchronous without `respond-async`."""
    key: str = "url"

    async def post(self, client: httpx.AsyncClient, url: str, prefer: str, **fields: Any) -> httpx.Response:
        if self.key == "file":
            async with httpx.AsyncClient() as http:
                file = (await http.get(url)).content
            request: dict[str, Any] = {"files": {"file": file}, "data": {"model": "whisper-1"} | fields}
        elif self.key == "audio":
            async with httpx.AsyncClient() as http:
                audio = (await http.get(url)).content
            request = {"json": {"audio": base64.b64encode(audio).decode()} | fields}
        else:
            request = {"json": {self.key: url} | fields}
        return await client.post(self.path, headers={"Prefer": prefer}, **request)


ENDPOINTS = [
    Endpoint("/v1/jobs", 202, "/v1/jobs/", always=True),
    Endpoint("/v1/audio/transcriptions", 202, "/v1/jobs/", key="file"),
    Endpoint("/v1/audio/translations", 202, "/v1/jobs/", key="file"),
    Endpoint("/", 202, "/status/"),
    Endpoint("/generate", 202, "/result/whisper"),
    Endpoint("/mine/generate", 202, "/result/mine"),
    Endpoint("/infer", 201, "http://service/v1/requests/", key="audio"),
    Endpoint(
        "/v1/async/ent/tiyarofs/1/openai/whisper-tiny",
        202,
        "http://service/v1/async/requests/",
        always=True,
        key="URL",
    ),
]
all_endpoints = pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
synchronous_endpoints = pytest.mark.parametrize(
    "endpoint", [f for f in ENDPOINTS if not f.always], ids=lambda endpoint: endpoint.path
)


@pytest.fixture
async def site_url() -> AsyncIterator[str]:
    """Run a web server with a recording and a text file; return its URL."""

    async def audio(_: web.Request) -> web.FileResponse:
        return web.FileResponse(DATA / "en.mp3")

    async def noise(_: web.Request) -> web.Response:
        return web.Response(text="no sound at all")

    app = web.Application()
    app.router.add_get("/audio", audio)
    app.router.add_get("/noise", noise)
    async with TestServer(app, host="127.0.0.1") as server:
        yield str(server.make_url("")).rstrip("/")


async def wait_for_job(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (job := (await client.get(f"/v1/jobs/{job_id}")).json())["status"] in ("queued", "running"):
            await asyncio.sleep(0.02)
    return dict(job)


async def newest_job_id(client: httpx.AsyncClient) -> str:
    return str((await client.get("/v1/jobs", params={"limit": 1})).json()["data"][0]["id"])


@all_endpoints
async def test_respond_async(client: httpx.AsyncClient, site_url: str, endpoint: Endpoint) -> None:
    answer = await endpoint.post(client, f"{site_url}/audio", "respond-async")
    assert (answer.status_code, answer.headers["preference-applied"]) == (endpoint.accepted, "respond-async"), (
        answer.text
    )
    assert answer.headers["location"].startswith(endpoint.location)
    job_id = await newest_job_id(client)
    assert job_id in answer.text + answer.headers["location"]
    assert (await wait_for_job(client, job_id))["mode"] == "async"
    found = await client.get(
        answer.headers["location"], headers={"X-Inference-Id": job_id} if "result" in endpoint.location else {}
    )
    assert found.status_code in (200, 202), found.text


@all_endpoints
async def test_wait(client: httpx.AsyncClient, site_url: str, endpoint: Endpoint) -> None:
    prefer = "wait=60" if endpoint.always else "respond-async, wait=60"
    answer = await endpoint.post(client, f"{site_url}/audio", prefer)
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=60"), answer.text
    assert (await client.get(f"/v1/jobs/{await newest_job_id(client)}")).json()["status"] == "succeeded"
    if not endpoint.always:
        assert set(answer.json()) == set((await endpoint.post(client, f"{site_url}/audio", "")).json())
        assert EN in answer.text


@synchronous_endpoints
async def test_error_during_the_wait(client: httpx.AsyncClient, site_url: str, endpoint: Endpoint) -> None:
    with_wait = await endpoint.post(client, f"{site_url}/noise", "respond-async, wait=60")
    at_once = await endpoint.post(client, f"{site_url}/noise", "")
    assert (with_wait.status_code, with_wait.json()) == (at_once.status_code, at_once.json())
    assert with_wait.status_code == 400


@all_endpoints
async def test_other_preferences_are_ignored(client: httpx.AsyncClient, site_url: str, endpoint: Endpoint) -> None:
    answer = await endpoint.post(client, f"{site_url}/audio", "handling=lenient, respond-asynchronously, wait=soon,")
    assert answer.status_code == (endpoint.accepted if endpoint.always else 200), answer.text
    assert "preference-applied" not in answer.headers


@synchronous_endpoints
async def test_wait_without_respond_async(client: httpx.AsyncClient, site_url: str, endpoint: Endpoint) -> None:
    answer = await endpoint.post(client, f"{site_url}/audio", "wait=0")
    assert (answer.status_code, answer.headers.get("preference-applied")) == (200, None)


async def test_wait_returns_the_requested_format(client: httpx.AsyncClient, site_url: str) -> None:
    answer = await ENDPOINTS[1].post(client, f"{site_url}/audio", "respond-async, wait=60", response_format="srt")
    assert answer.text.startswith("1\n00:00:0")
    streamed = await ENDPOINTS[1].post(client, f"{site_url}/audio", "respond-async", stream="true")
    assert (streamed.status_code, "preference-applied" in streamed.headers) == (200, False)
    assert "transcript.text.done" in streamed.text


async def test_wait_for_a_tiyaro_request(client: httpx.AsyncClient, site_url: str) -> None:
    found = (await ENDPOINTS[-1].post(client, f"{site_url}/audio", "wait=60")).json()["response"]
    assert (found["status"], found["result"]["text"]) == ("success", EN)
    assert found["urls"]["GET"].endswith(found["id"])
    failed = (await ENDPOINTS[-1].post(client, f"{site_url}/noise", "wait=60")).json()["response"]
    assert (failed["status"], failed["error"]["code"]) == ("failed", 400)


async def test_wait_for_a_task_with_a_webhook(client: httpx.AsyncClient, site_url: str) -> None:
    body = {"url": f"{site_url}/audio", "is_async": True, "webhook": {"url": f"{site_url}/hook"}}
    answer = await client.post("/", json=body, headers={"Prefer": "wait=60"})
    assert (answer.status_code, answer.json()["output"]["text"]) == (200, EN)
    at_once = await client.post("/", json=body)
    assert (at_once.status_code, at_once.json()["status"]) == (200, "processing")
    failed = await client.post("/", json=body | {"url": f"{site_url}/noise"}, headers={"Prefer": "wait=60"})
    assert (failed.status_code, failed.json()["status"]) == (200, "error")
