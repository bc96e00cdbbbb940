"""A front in one file: everything that the service needs of it comes from its `Front`."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import uvicorn
from aiohttp import web
from aiohttp.test_utils import TestServer
from fastapi import APIRouter, WebSocket
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from serve_app.asgi import create_app
from serve_app.errors import Conflict
from serve_app.fronts.common.front import Front
from serve_app.fronts.registry import FRONTS
from serve_app.http.body_limits import MAX_HEAD_BYTES
from serve_app.http.dependencies import OWNER, ServiceDep
from serve_app.http.error_format import ErrorFormat
from serve_app.schemas.request import JobRequest, StrictModel, UrlSource, Webhook
from serve_app.services.transcription import Service
from serve_app.whisper.engine.engine import Engine
from tests.server import ARGS, opened

DATA = Path(__file__).parents[1] / "data"
KEY = {"Authorization": "Bearer one"}
MAX_BYTES = 100_000


class ToyError(BaseModel):
    broken: str


class ToyBody(StrictModel):
    url: str
    notify: str


ERROR_FORMAT = ErrorFormat(
    re.compile(r"/toy/.*"), lambda error: JSONResponse({"broken": error.message}, error.status), ToyError
)
router = APIRouter(prefix="/toy", tags=["toy"], route_class=ERROR_FORMAT.route)


@router.get("/about", responses=ERROR_FORMAT.responses())
async def about() -> str:
    return "a toy"


@router.post("/jobs", responses=ERROR_FORMAT.responses(409))
async def submit(service: ServiceDep, body: ToyBody) -> str:
    webhook = Webhook(url=body.notify, events=("completed",))
    request = JobRequest(source=UrlSource(url=body.url), webhook=webhook, webhook_format="toy")
    return (await service.submit(request)).id


@router.websocket("/live")
async def live(websocket: WebSocket, service: ServiceDep) -> None:
    if "refuse" in websocket.query_params:
        raise Conflict("no more sockets")
    await websocket.accept()
    await websocket.send_json({"owner": websocket.scope[OWNER], "model": service.settings.model})
    while (text := await websocket.receive_text()) != "break":
        await websocket.send_text(text)
    raise Conflict("it is broken")


TOY = Front(
    "toy",
    (router,),
    error_formats=(ERROR_FORMAT,),
    webhook_payload=lambda job, event, at, transcript: {"toy": job.id, "text": transcript and transcript.text},
    public_paths=("/toy/about",),
    path_prefixes=("toy",),
)


@pytest.fixture
def args() -> dict[str, Any]:
    return ARGS | {"api_keys": ["one"], "limits": {"max_upload_bytes": MAX_BYTES}}


@pytest.fixture
async def service(tmp_path: Path, engine: Engine, args: dict[str, Any]) -> AsyncIterator[Service]:
    async with opened(tmp_path, {"whisper-nano": engine}, args, [*FRONTS, TOY]) as service:
        yield service


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(service, [*FRONTS, TOY]), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service", headers=KEY, timeout=60) as client:
        yield client


@pytest.fixture
async def socket_url(service: Service) -> AsyncIterator[str]:
    app = create_app(service, [*FRONTS, TOY])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done(), "the server could not start"
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/toy/live"
    server.should_exit = True
    await running


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/toy/none", KEY, 404),
        ("PUT", "/toy/jobs", KEY, 405),
        ("POST", "/toy/jobs", KEY, 400),
        ("POST", "/toy/jobs?x=1", KEY, 400),
        ("POST", "/toy/jobs", {}, 401),
        ("POST", "/toy/jobs", KEY | {"content-length": "200000"}, 413),
        ("POST", "/toy/jobs", KEY | {"content-type": "text/plain; charset=latin-1"}, 415),
        ("GET", "/toy/about", KEY | {"x": "a" * MAX_HEAD_BYTES}, 431),
    ],
)
async def test_error_format(
    client: httpx.AsyncClient, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    client.headers.pop("authorization")
    answer = await client.request(method, path, headers=headers)
    assert (answer.status_code, set(answer.json())) == (status, {"broken"})


async def test_public_path(client: httpx.AsyncClient) -> None:
    client.headers.pop("authorization")
    assert (await client.get("/toy/about")).json() == "a toy"
    assert (await client.get("/toy/about/more")).status_code == 401


async def test_path_prefix(client: httpx.AsyncClient, service: Service) -> None:
    body = {"url": "http://127.0.0.1:1/a"}
    answer = await client.post("/toy/generate", json=body)
    assert (answer.status_code, set(answer.json())) == (404, {"broken"})
    # Without the prefix the path is a deployment of Verda's API, which rejects the URL.
    fronts = [*FRONTS, replace(TOY, path_prefixes=())]
    transport = httpx.ASGITransport(create_app(service, fronts), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service", headers=KEY, timeout=60) as other:
        assert "detail" in (await other.post("/toy/generate", json=body)).json()


async def test_webhook_payload(client: httpx.AsyncClient) -> None:
    received: asyncio.Queue[Any] = asyncio.Queue()

    async def audio(_: web.Request) -> web.FileResponse:
        return web.FileResponse(DATA / "en.mp3")

    async def hook(request: web.Request) -> web.Response:
        await received.put(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_get("/audio", audio)
    app.router.add_post("/hook", hook)
    async with TestServer(app, host="127.0.0.1") as server:
        body = {"url": str(server.make_url("/audio")), "notify": str(server.make_url("/hook"))}
        job_id = (await client.post("/toy/jobs", json=body)).json()
        async with asyncio.timeout(60):
            assert await received.get() == {"toy": job_id, "text": "three one four one five nine"}


async def test_openapi_document(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    operation = document["paths"]["/toy/jobs"]["post"]
    assert {"401", "409", "413"} <= set(operation["responses"])
    schema = operation["responses"]["409"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/ToyError"}
    assert operation["security"] == [{"HTTPBearer": []}, {"APIKeyHeader": []}]


@pytest.mark.parametrize("args", [ARGS | {"fronts": ["toy"]}])
async def test_selected(client: httpx.AsyncClient) -> None:
    assert (await client.get("/toy/about")).status_code == 200
    assert (await client.get("/v1/models")).status_code == 404


@pytest.mark.parametrize("args", [ARGS | {"fronts": ["openai"]}])
async def test_not_selected(client: httpx.AsyncClient) -> None:
    assert (await client.get("/toy/about")).status_code == 404


async def test_websocket(socket_url: str, service: Service) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(socket_url, headers=KEY) as socket:
            hello = await socket.receive_json()
            assert (len(hello["owner"]), hello["model"]) == (32, "whisper-nano")
            await socket.send_str("a" * MAX_BYTES)
            assert await socket.receive_str() == "a" * MAX_BYTES
            await socket.send_str("a" * (MAX_BYTES + 1))
            await socket.receive()
            assert socket.close_code == 1009
        async with session.ws_connect(socket_url, headers=KEY) as socket:
            await socket.receive_json()
            await socket.send_str("break")
            await socket.receive()
            assert socket.close_code == 1008


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("", {}, 401),
        ("", {"Authorization": "Bearer two"}, 401),
        ("", KEY | dict.fromkeys("abcdefghij", "a" * 7000), 431),
        ("?refuse", KEY, 409),
    ],
)
async def test_websocket_denial(socket_url: str, query: str, headers: dict[str, str], status: int) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(socket_url + query, headers=headers)
    assert refused.value.status == status


async def test_websocket_denial_without_the_extension(service: Service) -> None:
    """A server that can't send a response to a WebSocket is asked to close it."""
    sent = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/toy/live", "query_string": b"", "headers": [], "extensions": {}}
    await create_app(service, [*FRONTS, TOY])(scope, receive, send)
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1008)]
