"""Errors of Verda's API: invalid requests, paths of other routes, and keys."""

from collections.abc import AsyncIterator

import httpx
import pytest

from serve_app.asgi import create_app
from serve_app.services.transcription import Service
from tests.fronts.verda.helpers import ID, get_result
from tests.server import ARGS

URL = '"url": "http://127.0.0.1:1/a"'


@pytest.mark.parametrize(("path", "prefer"), [("/generate", ""), ("/x/generate_webhook", "respond-async")])
@pytest.mark.parametrize(
    ("raw", "field"),
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
async def test_invalid_bodies_are_rejected(
    client: httpx.AsyncClient, path: str, prefer: str, raw: str, field: str
) -> None:
    headers = {"content-type": "application/json", "prefer": prefer}
    answer = await client.post(path, content=raw.encode("latin-1"), headers=headers)
    assert answer.status_code == (404 if field == "model" else 400), answer.text
    assert set(answer.json()) == {"detail"}
    assert field in answer.json()["detail"]
    assert (await client.get("/v1/jobs")).json()["data"] == []


@pytest.mark.parametrize("wrong", ["", "a/b", "-a", "x" * 129, "a b"])
async def test_invalid_inference_ids(client: httpx.AsyncClient, wrong: str) -> None:
    for headers in ({ID: wrong}, {ID: wrong, "Prefer": "respond-async"}):
        answer = await client.post("/generate", json={"url": "http://127.0.0.1:1/a"}, headers=headers)
        assert (answer.status_code, ID in answer.json()["detail"]) == (400, True)
    assert (await get_result(client, wrong)).status_code == 404


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
async def test_error_format(
    client: httpx.AsyncClient, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = await client.request(method, path, headers=headers)
    assert (answer.status_code, set(answer.json())) == (status, {"detail"}), answer.text


@pytest.mark.parametrize("args", [ARGS | {"limits": {"max_upload_bytes": 100}}])
async def test_body_of_undeclared_length_over_the_limit(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 60

    answer = await client.post("/generate", content=endless(), headers={"content-type": "application/json"})
    assert (answer.status_code, set(answer.json())) == (413, {"detail"})


async def test_path_prefixes_of_other_routes_are_no_deployments(client: httpx.AsyncClient, service: Service) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    folders = {path.split("/")[1] for path in paths if path.count("/") > 1} - {"{deployment}"}
    reserved = create_app(service).state.path_prefixes
    assert folders <= reserved
    for folder in (*reserved, "-", ".hidden", "a b", "a/b"):
        for path in (f"/{folder}/generate", f"/{folder}/generate_webhook"):
            answer = await client.post(path, json={"url": "http://127.0.0.1:1/a"})
            assert answer.status_code in (404, 405), path
        if folder not in ("status", "result"):  # `/status/health` is the status of a deployment called health
            assert (await client.get(f"/{folder}/health")).status_code in (404, 405), folder
    answer = await client.post("/v1/generate", json={"url": "http://127.0.0.1:1/a"})
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("args", [ARGS | {"api_keys": ["k"]}])
async def test_api_key_is_required(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).status_code == 200
    for method, path in (("GET", "/x/health"), ("POST", "/x/generate"), ("GET", "/status/x"), ("GET", "/result/x")):
        answer = await client.request(method, path)
        assert (answer.status_code, set(answer.json())) == (401, {"detail"}), path
        assert answer.headers["www-authenticate"] == "Bearer"
        answer = await client.request(method, path, headers={ID: "i"})
        assert (answer.status_code, answer.json()["detail"].startswith("a valid API key")) == (401, True), path
        answer = await client.request(method, path, headers={"Authorization": "Bearer k", ID: "i"})
        assert answer.status_code in (200, 400, 404), path
