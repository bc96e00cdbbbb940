"""Errors of the Tiyaro front: invalid requests, keys and limits."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from aiohttp import web

from tests.fronts.helpers import serve
from tests.fronts.tiyaro.helpers import KEY, PATH, URL, error_message


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 400, "URL"),
        ({"url": URL}, 400, "URL"),
        ({"URL": None}, 400, "URL"),
        ({"URL": 7}, 400, "URL"),
        ({"URL": ""}, 400, "URL"),
        ({"URL": "\ud800"}, 400, "URL"),
        ({"URL": "ftp://x/a"}, 400, "URL"),
        ({"URL": "http://["}, 400, "URL"),
        ({"URL": "http://x/" + "a" * 9000}, 400, "URL"),
        ({"URL": URL, "input": None}, 400, "input"),
        ({"URL": URL, "input": "loud"}, 400, "input"),
        ({"URL": URL, "webhook": "http://x"}, 400, "webhook"),
        ({"URL": URL, "input": {"speed": 2}}, 400, "speed"),
        ({"URL": URL, "input": {"logprobs": True}}, 400, "logprobs"),
        ({"URL": URL, "input": {"task": "sing"}}, 400, "task"),
        ({"URL": URL, "input": {"language": "klingon"}}, 400, "language"),
        ({"URL": URL, "input": {"language": "ja"}}, 400, "language"),
        ({"URL": URL, "input": {"temperature": -1}}, 400, "temperature"),
        ({"URL": URL, "input": {"temperature": None}}, 400, "temperature"),
        ({"URL": URL, "input": {"temperature": []}}, 400, "temperature"),
        ({"URL": URL, "input": {"temperature": [0, 0.3]}}, 400, "temperature"),
        ({"URL": URL, "input": {"temperature": [0, "hot"]}}, 400, "temperature"),
        ({"URL": URL, "input": {"temperature": [0, 1e-300, 1]}}, 400, "temperature"),
        ({"URL": URL, "input": {"temperature": [0, 10**400]}}, 400, "temperature"),
        ({"URL": URL, "input": {"temperature": [float("nan"), 1]}}, 400, "temperature"),
        (
            {"URL": URL, "input": {"temperature": [0, 1], "temperature_increment_on_fallback": 1}},
            400,
            "temperature_increment_on_fallback",
        ),
        ({"URL": URL, "input": {"best_of": 99}}, 400, "best_of"),
        ({"URL": URL, "input": {"beam_size": 2.5}}, 400, "beam_size"),
        ({"URL": URL, "input": {"patience": 0}}, 400, "patience"),
        ({"URL": URL, "input": {"suppress_tokens": "a"}}, 400, "suppress_tokens"),
        ({"URL": URL, "input": {"suppress_tokens": [10**9]}}, 400, "suppress_tokens"),
        ({"URL": URL, "input": {"no_speech_threshold": 2}}, 400, "no_speech_threshold"),
    ],
)
async def test_invalid_fields_are_named(client: httpx.AsyncClient, body: Any, status: int, field: str) -> None:
    answer = await client.post(PATH, content=json.dumps(body), headers={"content-type": "application/json"})
    assert (answer.status_code, field in error_message(answer)) == (status, True), answer.text


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"null", b"[" * 5000, b"9" * 5000])
async def test_invalid_bodies_are_rejected(client: httpx.AsyncClient, raw: bytes) -> None:
    answer = await client.post(PATH, content=raw, headers={"content-type": "application/json"})
    assert (answer.status_code, bool(error_message(answer))) == (400, True), answer.text


@pytest.mark.parametrize(
    ("method", "path", "status", "word"),
    [
        ("POST", "/v1/async/ent/tiyarofs/1/openai/whisper-base", 404, "whisper-base"),
        ("POST", "/v1/async/ent/tiyarofs/2/openai/whisper-large", 404, "no POST"),
        ("POST", f"{PATH}?serviceTier=tpu", 400, "serviceTier"),
        ("POST", f"{PATH}?tier=gpuflex", 400, "tier"),
        ("GET", PATH, 405, ""),
        ("GET", "/v1/async/requests/none", 404, "none"),
        ("POST", "/v1/input/upload-url?extension=../mp3", 400, "extension"),
        ("POST", "/v1/input/upload-url?extension=", 400, "extension"),
        ("POST", "/v1/input/upload-url?ext=mp3", 400, "ext"),
        ("GET", "/v1/input/upload-url", 405, ""),
    ],
)
async def test_invalid_paths_and_query_parameters(
    client: httpx.AsyncClient, method: str, path: str, status: int, word: str
) -> None:
    answer = await client.request(method, path, json={"URL": URL} if "async" in path else {})
    assert (answer.status_code, word in error_message(answer)) == (status, True), answer.text


async def test_upload_request_body_must_be_empty(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/input/upload-url?extension=mp3", json={"name": "a"})
    assert (answer.status_code, "name" in error_message(answer)) == (400, True)
    assert (await client.post("/v1/input/upload-url")).status_code == 201


async def test_upload_without_content(client: httpx.AsyncClient) -> None:
    url = (await client.post("/v1/input/upload-url?extension=mp3", json={})).json()["uploadUrl"]["PUT"]
    answer = await client.post(PATH, json={"URL": url})
    assert (answer.status_code, error_message(answer).startswith("URL: there is no finished upload")) == (404, True), (
        answer.text
    )


async def test_form_body_is_rejected(client: httpx.AsyncClient) -> None:
    answer = await client.post(PATH, data={"URL": URL})
    assert (answer.status_code, "application/json" in error_message(answer)) == (415, True)


class TestLimits:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return {
            **{"api_keys": [KEY], "limits": {"max_upload_bytes": 1000, "max_queued_jobs": 1}},
            **{"jobs": {"max_running": 1}, "network": {"allow_private_addresses": True}},
        }

    async def test_api_key_body_size_and_full_queue(self, client: httpx.AsyncClient) -> None:
        for path in ("/v1/input/upload-url?extension=mp3", PATH):
            answer = await client.post(path, json={})
            assert (answer.status_code, "API key" in error_message(answer)) == (401, True)
            assert answer.headers["www-authenticate"] == "Bearer"
        client.headers["Authorization"] = f"Bearer {KEY}"
        answer = await client.post(PATH, json={"URL": "a" * 1000})
        assert (answer.status_code, "1000" in error_message(answer)) == (413, True)

        released = asyncio.Event()

        async def slow(_: web.Request) -> web.Response:
            await released.wait()
            return web.Response()

        server = await serve({"/slow": slow})
        body = {"URL": str(server.make_url("/slow"))}
        url = (await client.post(PATH, json=body)).json()["response"]["urls"]["GET"]
        async with asyncio.timeout(10):
            while (await client.get(url)).json()["status"] != "processing":
                await asyncio.sleep(0.01)
        assert (await client.post(PATH, json=body)).status_code == 202
        answer = await client.post(PATH, json=body)
        assert (answer.status_code, "the queue is full" in error_message(answer)) == (429, True)
        assert answer.headers["retry-after"]
        released.set()
        await server.close()
