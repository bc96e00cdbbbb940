"""Verda's containers: the routes, their asynchronous layer, and the real client against a real server."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from aiohttp import web
from aiohttp.test_utils import TestServer
from verda.inference_client import AsyncStatus, InferenceClient, InferenceClientError

from serve_app.asgi import create_app
from serve_app.services.transcription import Service
from serve_app.whisper.engine.engine import Engine
from tests.server import ARGS, listening

DATA = Path(__file__).parents[2] / "data"
EN = "three one four one five nine"
ID = "X-Inference-Id"


class Outside:
    """What is on the other side of the network: audio, and the receiver of a webhook."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[Any] = asyncio.Queue()
        self.open = asyncio.Event()
        self.url: Callable[[str], str] = str

    async def audio(self, _: web.Request) -> web.FileResponse:
        return web.FileResponse(DATA / "en.mp3")

    async def slow(self, request: web.Request) -> web.FileResponse:
        await self.open.wait()
        return await self.audio(request)

    async def hook(self, request: web.Request) -> web.Response:
        await self.received.put(await request.json())
        return web.Response()


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    outside = Outside()
    app = web.Application()
    for name in ("audio", "slow", "hook"):
        app.router.add_route("*", f"/{name}", getattr(outside, name))
    async with TestServer(app, host="127.0.0.1") as server:
        outside.url = lambda path: str(server.make_url(path))
        yield outside
        outside.open.set()


@pytest.fixture
def args(outside: Outside) -> dict[str, Any]:
    return ARGS | {"verda": {"webhook": outside.url("/hook")}}


async def ended(client: httpx.AsyncClient, inference_id: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (state := await status(client, inference_id))["Status"] in (0, 1, 2):
            await asyncio.sleep(0.02)
    return state


async def status(client: httpx.AsyncClient, inference_id: str) -> dict[str, Any]:
    answer = await client.get("/status/whisper", headers={ID: inference_id})
    assert answer.status_code == 200, answer.text
    state: dict[str, Any] = answer.json()
    assert (state["Id"], set(state)) == (inference_id, {"Id", "Error", "Status"})
    return state


async def result(client: httpx.AsyncClient, inference_id: str) -> httpx.Response:
    return await client.get("/result/whisper", headers={ID: inference_id})


@pytest.mark.parametrize("prefix", ["", "/whisper-example-mp3", "/v1-large"])
@pytest.mark.parametrize("prefer", [None, "respond-async-container", "handling=lenient", "wait=5"])
async def test_the_text_of_a_url(client: httpx.AsyncClient, outside: Outside, prefix: str, prefer: str | None) -> None:
    headers = {} if prefer is None else {"Prefer": prefer}
    answer = await client.post(f"{prefix}/generate", json={"url": outside.url("/audio")}, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"result": EN})
    applied = "respond-async-container" if prefer == "respond-async-container" else None
    assert answer.headers.get("preference-applied") == applied


@pytest.mark.parametrize(
    ("path", "deployment"), [("/generate", "whisper"), ("/mine/generate", "mine"), ("/mine/generate_webhook", "mine")]
)
async def test_in_the_background(client: httpx.AsyncClient, outside: Outside, path: str, deployment: str) -> None:
    answer = await client.post(path, json={"url": outside.url("/slow")}, headers={"Prefer": "Respond-Async"})
    accepted = answer.json()
    assert answer.status_code == 202
    assert accepted == {
        "Id": answer.headers[ID],
        "StatusPath": f"/status/{deployment}",
        "ResultPath": f"/result/{deployment}",
    }
    assert answer.headers["location"] == accepted["ResultPath"]
    assert answer.headers["preference-applied"] == "respond-async"
    named = {ID: accepted["Id"]}

    state = (await client.get(accepted["StatusPath"], headers=named)).json()
    assert (state["Error"], state["Status"] in (1, 2)) == (None, True)
    unready = await client.get(accepted["ResultPath"], headers=named)
    assert unready.status_code == 404
    assert "no result yet" in unready.json()["detail"]
    assert accepted["StatusPath"] in unready.json()["detail"]

    outside.open.set()
    assert (await ended(client, accepted["Id"]))["Error"] is None
    ready = await client.get(accepted["ResultPath"], headers=named)
    assert (ready.status_code, ready.json()) == (202, {"result": EN})
    if path.endswith("_webhook"):
        assert await asyncio.wait_for(outside.received.get(), 20) == {"result": EN}


@pytest.mark.slow
async def test_the_states_of_a_job(client: httpx.AsyncClient, outside: Outside) -> None:
    """Eight jobs run at a time: the ninth is queued."""
    body, headers = {"url": outside.url("/slow")}, {"Prefer": "respond-async"}
    ids = [(await client.post("/generate", json=body, headers=headers)).headers[ID] for _ in range(9)]
    async with asyncio.timeout(20):
        while [(await status(client, each))["Status"] for each in ids] != [2] * 8 + [1]:
            await asyncio.sleep(0.02)
    outside.open.set()
    for each in ids:
        assert (await ended(client, each))["Status"] == 3


async def test_the_id_may_be_the_clients_own(client: httpx.AsyncClient, outside: Outside) -> None:
    headers, body = {"Prefer": "respond-async", ID: "call-17.a"}, {"url": outside.url("/audio")}
    for _ in range(2):
        answer = await client.post("/x/generate", json=body, headers=headers)
        assert (answer.status_code, answer.json()["Id"], answer.headers[ID]) == (202, "call-17.a", "call-17.a")
    other = await client.post("/x/generate", json=body | {"language": "en"}, headers=headers)
    assert other.status_code == 422
    assert f"{ID}: 'call-17.a'" in other.json()["detail"]
    await ended(client, "call-17.a")
    assert [job["id"] for job in (await client.get("/v1/jobs")).json()["data"]] == ["call-17.a"]


async def test_a_failure_shows(client: httpx.AsyncClient, outside: Outside) -> None:
    body = {"url": outside.url("/none")}
    at_once = await client.post("/generate", json=body)
    assert at_once.status_code == 400
    assert "404 Not Found" in at_once.json()["detail"]
    submitted = await client.post("/generate", json=body, headers={"Prefer": "respond-async"})
    state = await ended(client, submitted.json()["Id"])
    assert (state["Status"], state["Error"]) == (3, at_once.json()["detail"])
    for late in (
        await result(client, state["Id"]),
        await client.post("/generate", json=body, headers={"Prefer": "respond-async, wait=30"}),
    ):
        assert (late.status_code, late.json()) == (400, at_once.json())


async def test_what_was_cancelled_has_no_result(client: httpx.AsyncClient, outside: Outside) -> None:
    body, headers = {"url": outside.url("/slow")}, {"Prefer": "respond-async", ID: "c"}
    await client.post("/generate", json=body, headers=headers)
    await client.delete("/v1/jobs/c")
    assert await status(client, "c") == {"Id": "c", "Error": "the inference was cancelled", "Status": 3}
    answer = await result(client, "c")
    assert (answer.status_code, answer.json()) == (409, {"detail": "the inference was cancelled"})


async def test_who_waits_long_enough_gets_the_text(client: httpx.AsyncClient, outside: Outside) -> None:
    headers = [("prefer", "foo=bar, RESPOND-ASYNC"), ("Prefer", "wait=60")]
    answer = await client.post("/generate", json={"url": outside.url("/audio")}, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"result": EN})
    assert answer.headers["preference-applied"] == "wait=60"
    assert (await result(client, answer.headers[ID])).json() == {"result": EN}


@pytest.mark.parametrize(("wait", "at_least"), [("1", 1), ("0", 0), ("soon", 0), ("-1", 0), ('"²"', 0)])
async def test_who_does_not_is_told_where_to_ask(
    client: httpx.AsyncClient, outside: Outside, wait: str, at_least: float
) -> None:
    began = time.monotonic()
    headers = [(b"Prefer", f"respond-async, wait={wait}".encode("latin-1"))]
    async with asyncio.timeout(30):  # the audio never comes
        answer = await client.post("/generate", json={"url": outside.url("/slow")}, headers=headers)
    assert time.monotonic() - began >= at_least
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "respond-async")


async def test_nobody_waits_for_ever(client: httpx.AsyncClient, outside: Outside, service: Service) -> None:
    limits = service.settings.limits.model_copy(update={"request_timeout_s": 0.2})
    service.settings = service.settings.model_copy(update={"limits": limits})
    headers = {"Prefer": f"respond-async, wait={'9' * 500}"}
    async with asyncio.timeout(30):  # the audio never comes
        answer = await client.post("/generate", json={"url": outside.url("/slow")}, headers=headers)
    assert answer.status_code == 202


@pytest.mark.parametrize("path", ["/generate", "/x/generate", "/generate_webhook"])
async def test_fire_and_forget(client: httpx.AsyncClient, outside: Outside, path: str) -> None:
    headers = {"Prefer": "respond-async-proxy"}
    answer = await client.post(path, json={"url": outside.url("/audio")}, headers=headers)
    assert (answer.status_code, answer.content) == (202, b"")
    assert answer.headers["preference-applied"] == "respond-async-proxy"
    assert (await ended(client, answer.headers[ID]))["Error"] is None
    if path.endswith("_webhook"):
        assert await asyncio.wait_for(outside.received.get(), 20) == {"result": EN}


@pytest.mark.parametrize("prefer", [{}, {"Prefer": "respond-async-container"}])
async def test_the_webhook_gets_the_text(client: httpx.AsyncClient, outside: Outside, prefer: dict[str, str]) -> None:
    body = {"url": outside.url("/audio")}
    answer = await client.post("/x/generate_webhook", json=body, headers=prefer | {ID: "w"})
    assert (answer.status_code, answer.json(), answer.headers[ID]) == (202, {"status": "accepted"}, "w")
    assert await asyncio.wait_for(outside.received.get(), 20) == {"result": EN}


async def test_the_webhook_hears_of_no_failure(client: httpx.AsyncClient, outside: Outside) -> None:
    answer = await client.post("/generate_webhook", json={"url": outside.url("/none")})
    assert (await ended(client, answer.headers[ID]))["Error"]
    assert (await client.get(f"/v1/jobs/{answer.headers[ID]}/deliveries")).json()["data"] == []


@pytest.mark.parametrize("args", [ARGS])
async def test_without_a_webhook(client: httpx.AsyncClient) -> None:
    answer = await client.post("/generate_webhook", json={"url": "http://127.0.0.1:1/a"})
    assert (answer.status_code, answer.json()) == (500, {"status": "error", "details": "webhook not defined"})
    assert (await client.get("/v1/jobs")).json()["data"] == []


async def test_options_go_by_their_own_names(client: httpx.AsyncClient, outside: Outside) -> None:
    body = {"url": outside.url("/audio"), "language": "english", "beam_size": 2, "timestamps": "none"}
    answer = await client.post("/generate", json=body, headers={"Prefer": "respond-async", ID: "o"})
    assert answer.status_code == 202, answer.text
    options = (await client.get("/v1/jobs/o")).json()["options"]
    assert (options["language"], options["beam_size"], options["timestamps"]) == ("en", 2, "none")
    await ended(client, "o")


URL = '"url": "http://127.0.0.1:1/a"'


@pytest.mark.parametrize(("path", "prefer"), [("/generate", ""), ("/x/generate_webhook", "respond-async")])
@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ("", "body"),
        ("{", "JSON"),
        ("[" * 5000, "body"),
        ("\xff", "body"),
        ("null", "body"),
        ("[]", "body"),
        ('"http://x/a"', "body"),
        ("{}", "url is required"),
        ('{"url": null}', "url"),
        ('{"url": ""}', "url"),
        ('{"url": 7}', "url"),
        ('{"url": ["http://x/a"]}', "url"),
        ('{"url": "nowhere"}', "url"),
        ('{"url": "ftp://x/a"}', "url"),
        ('{"url": "http://x/\\u0000"}', "url"),
        ('{"url": "http://x/a", "webhook": {"url": "http://x/h"}}', "webhook"),
        (f'{{{URL}, "language": "klingon"}}', "language"),
        (f'{{{URL}, "task": "sing"}}', "task"),
        (f'{{{URL}, "temperature": 2}}', "temperature"),
        (f'{{{URL}, "timestamps": "word"}}', "timestamps"),
        (f'{{{URL}, "logprobs": true}}', "logprobs"),
        (f'{{{URL}, "speed": 2}}', "speed"),
        (f'{{{URL}, "model": "gpt-9"}}', "model"),
    ],
)
async def test_bad_bodies_name_their_field(
    client: httpx.AsyncClient, path: str, prefer: str, raw: str, named: str
) -> None:
    headers = {"content-type": "application/json", "prefer": prefer}
    answer = await client.post(path, content=raw.encode("latin-1"), headers=headers)
    assert answer.status_code == (404 if named == "model" else 400), answer.text
    assert set(answer.json()) == {"detail"}
    assert named in answer.json()["detail"]
    assert (await client.get("/v1/jobs")).json()["data"] == []


@pytest.mark.parametrize("wrong", ["", "a/b", "-a", "x" * 129, "a b"])
async def test_bad_ids_are_named(client: httpx.AsyncClient, wrong: str) -> None:
    for headers in ({ID: wrong}, {ID: wrong, "Prefer": "respond-async"}):
        answer = await client.post("/generate", json={"url": "http://127.0.0.1:1/a"}, headers=headers)
        assert (answer.status_code, ID in answer.json()["detail"]) == (400, True)
    assert (await result(client, wrong)).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/result/whisper", {}, 400),
        ("GET", "/result/whisper", {ID: "nobody"}, 404),
        ("GET", "/status/whisper", {ID: "nobody"}, 404),
        ("GET", "/generate", {}, 405),
        ("PUT", "/x/generate_webhook", {}, 405),
        ("POST", "/result/whisper", {ID: "x"}, 405),
        ("POST", "/generate", {"content-type": "text/plain; charset=latin-1"}, 415),
        ("POST", "/generate", {"content-length": str(2**40)}, 413),
        ("GET", "/status/whisper", {ID: "x", "content-length": str(2**40)}, 413),
        ("GET", "/status/whisper", {ID: "x", "content-type": "text/plain; charset=latin-1"}, 415),
        ("POST", "/status/whisper", {ID: "x"}, 405),
        ("GET", "/result/-a", {ID: "x"}, 404),
        ("POST", "/-a/generate", {}, 404),
    ],
)
async def test_other_errors_have_the_same_shape(
    client: httpx.AsyncClient, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = await client.request(method, path, headers=headers)
    assert (answer.status_code, set(answer.json())) == (status, {"detail"}), answer.text


@pytest.mark.parametrize("args", [ARGS | {"limits": {"max_upload_bytes": 100}}])
async def test_a_body_of_unknown_length_is_cut_off(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 60

    answer = await client.post("/generate", content=endless(), headers={"content-type": "application/json"})
    assert (answer.status_code, set(answer.json())) == (413, {"detail"})


async def test_a_deployment_is_no_folder_of_anything_else(client: httpx.AsyncClient, service: Service) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    folders = {path.split("/")[1] for path in paths if path.count("/") > 1} - {"{deployment}"}
    reserved = create_app(service).state.path_prefixes
    assert folders <= reserved
    for folder in (*reserved, "-", ".hidden", "a b", "a/b"):
        for path in (f"/{folder}/generate", f"/{folder}/generate_webhook"):
            answer = await client.post(path, json={"url": "http://127.0.0.1:1/a"})
            assert answer.status_code in (404, 405), path
        if folder not in ("status", "result"):  # of a deployment called health
            assert (await client.get(f"/{folder}/health")).status_code in (404, 405), folder
    answer = await client.post("/v1/generate", json={"url": "http://127.0.0.1:1/a"})
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_health(client: httpx.AsyncClient, service: Service) -> None:
    async def unready() -> bool:
        return False

    for path in ("/health", "/x/health"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    service.ready = unready
    for path in ("/health", "/x/health"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()) == (503, {"status": "loading"})


@pytest.mark.parametrize("args", [ARGS | {"api_keys": ["k"]}])
async def test_keys(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).status_code == 200
    for method, path in (("GET", "/x/health"), ("POST", "/x/generate"), ("GET", "/status/x"), ("GET", "/result/x")):
        answer = await client.request(method, path)
        assert (answer.status_code, set(answer.json())) == (401, {"detail"}), path
        assert answer.headers["www-authenticate"] == "Bearer"
        answer = await client.request(method, path, headers={ID: "i"})
        assert (answer.status_code, answer.json()["detail"].startswith("a valid API key")) == (401, True), path
        answer = await client.request(method, path, headers={"Authorization": "Bearer k", ID: "i"})
        assert answer.status_code in (200, 400, 404), path


@pytest.mark.parametrize("args", [ARGS | {"jobs": {"retention_s": 1}}])
async def test_a_result_lives_for_the_retention_time(client: httpx.AsyncClient, outside: Outside) -> None:
    headers = {"Prefer": "respond-async, wait=30"}
    answer = await client.post("/generate", json={"url": outside.url("/audio")}, headers=headers)
    assert (await result(client, answer.headers[ID])).status_code == 202
    async with asyncio.timeout(20):
        while (gone := await result(client, answer.headers[ID])).status_code == 202:
            await asyncio.sleep(0.1)
    assert (gone.status_code, "deleted after a while" in gone.json()["detail"]) == (404, True)


async def test_the_openapi_document(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    paths = document["paths"]
    for path in ("/generate", "/generate_webhook", "/{deployment}/generate", "/{deployment}/generate_webhook"):
        operation = paths[path]["post"]
        names = {parameter["name"].lower() for parameter in operation["parameters"]}
        assert names == {"prefer", "x-inference-id"} | ({"deployment"} if "{" in path else set())
        assert {"202", "400", "401", "404", "422", "429"} <= set(operation["responses"])
        schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].split("/")[-1]
        assert document["components"]["schemas"][schema]["example"]["url"]
    assert {"/{deployment}/health", "/status/{deployment}", "/result/{deployment}"} <= set(paths)


@pytest.fixture(scope="module")
def audio_url() -> Iterator[str]:
    """A web server with the recordings, for clients that block."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(DATA))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def names_url(tmp_path_factory: pytest.TempPathFactory, engines: Mapping[str, Engine]) -> Iterator[str]:
    """The service with names of states, as Verda's client wants them."""
    args = ARGS | {"verda": {"status_names": True}, "api_keys": ["secret"]}
    with listening(tmp_path_factory.mktemp("names"), engines, args) as url:
        yield url


def test_verdas_own_client(names_url: str, audio_url: str) -> None:
    with InferenceClient("secret", f"{names_url}/my-whisper", timeout_seconds=60) as client:
        assert client.health().json() == {"status": "ok"}
        data = {"url": f"{audio_url}/en.mp3"}
        assert client.run_sync(data, path="/generate").output() == {"result": EN}

        execution = client.run(data, path="generate", headers={ID: "mine"})
        assert (execution.id, execution.status()) == ("mine", AsyncStatus.Initialized)
        until = time.monotonic() + 60
        while execution.status() is not AsyncStatus.Completed:
            assert execution.status_json()["Error"] is None
            assert time.monotonic() < until
        assert execution.result() == {"result": EN}

        assert client.run(data, path="generate", no_response=True) is None
        with pytest.raises(InferenceClientError, match="400"):
            client.run_sync({"url": f"{audio_url}/none.mp3"}, path="generate")
        failed = client.run({"url": f"{audio_url}/none.mp3"}, path="generate")
        while failed.status_json()["Status"] != "Completed":
            assert time.monotonic() < until
        assert "404" in failed.status_json()["Error"]
        assert "404" in failed.result()["detail"]


def test_verdas_tutorial(threaded_url: str, audio_url: str) -> None:
    """By a deployment's name, with numbers for states."""
    payload = {"url": f"{audio_url}/en.mp3"}
    headers = {"Authorization": "Bearer any", "Content-Type": "application/json"}
    prefer = {"Prefer": "respond-async"}
    url = f"{threaded_url}/whisper-example-mp3/generate"
    accepted = requests.post(url, json=payload, headers=headers | prefer, timeout=60)
    assert accepted.status_code == 202
    named = headers | {ID: accepted.json()["Id"]}
    until = time.monotonic() + 60
    while True:
        answer = requests.get(f"{threaded_url}/status/whisper-example-mp3", headers=named, timeout=60)
        assert answer.status_code == 200
        if answer.json()["Status"] == 3:
            break
        assert time.monotonic() < until
    assert answer.json() == {"Id": accepted.headers[ID], "Error": None, "Status": 3}
    text = requests.get(f"{threaded_url}/result/whisper-example-mp3", headers=named, timeout=60)
    assert (text.status_code, text.json()) == (202, {"result": EN})
