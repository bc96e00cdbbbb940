import asyncio
import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from serve_app.services.transcription import Service
from tests.fronts.helpers import DATA, EN, serve, wait_for_job

SDK = Path(sys.prefix) / "octoai-sdk"
AUDIO = base64.b64encode((DATA / "en.mp3").read_bytes()).decode()
KEY = "one key"
IN_BACKGROUND = {"X-OctoAI-Async": "1"}


async def wait_until_ready(client: httpx.AsyncClient, poll_url: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (answer := await client.get(poll_url)).status_code == 202:
            assert answer.json()["status"] in ("pending", "running")
            await asyncio.sleep(0.02)
    body: dict[str, Any] = answer.json()
    assert answer.status_code == 200, body
    return body


def error_message(answer: httpx.Response) -> str:
    """Return the message of an error, after checking the error's format."""
    assert set(answer.json()) == {"detail"}, answer.text
    assert answer.headers["x-user-request-id"]
    message: str = answer.json()["detail"]
    return message


@pytest.mark.slow
@pytest.mark.parametrize(
    "audio", [AUDIO, f"data:audio/mpeg;base64,{AUDIO}", {"data": AUDIO}], ids=["base64", "data URL", "the SDK's Audio"]
)
async def test_synchronous_request(client: httpx.AsyncClient, audio: Any) -> None:
    answer = await client.post("/infer", json={"audio": audio, "language": "en", "task": "transcribe"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["transcription"], body["response"]["text"], body["response"]["language"]) == (EN, EN, "en")
    segment = body["response"]["segments"][0]
    assert segment["text"].strip() in EN
    assert 0 <= segment["start"] < segment["end"]
    assert body["prediction_time_ms"] > 0
    job = (await client.get(f"/v1/jobs/{answer.headers['x-user-request-id']}")).json()
    assert (job["mode"], job["status"]) == ("sync", "succeeded")


async def test_audio_by_url(client: httpx.AsyncClient) -> None:
    async def audio(_: web.Request) -> web.FileResponse:
        return web.FileResponse(DATA / "de.opus")

    server = await serve({"/a.opus": audio})
    url = str(server.make_url("/a.opus"))
    for body in ({"url": url}, {"audio": {"data": {"url": url}}}):
        answer = await client.post("/infer", json=body)
        assert answer.json()["response"]["language"] == "de", answer.text
    await server.close()


async def test_words_and_log_probabilities(client: httpx.AsyncClient) -> None:
    answer = await client.post("/infer", json={"audio": AUDIO, "timestamps": "word", "logprobs": True})
    response = answer.json()["response"]
    words = [word for segment in response["segments"] for word in segment["words"]]
    assert "".join(word["word"] for word in words).strip() == EN
    assert set(words[0]) == {"word", "start", "end", "probability"}
    assert "".join(token["token"] for token in response["logprobs"]).strip() == EN


async def test_asynchronous_request(client: httpx.AsyncClient) -> None:
    submitted = await client.post("/infer", json={"audio": AUDIO}, headers=IN_BACKGROUND)
    future = submitted.json()
    assert (submitted.status_code, set(future)) == (201, {"response_id", "poll_url"})
    assert future["poll_url"] == f"http://service/v1/requests/{future['response_id']}"
    assert submitted.headers["x-user-request-id"] == future["response_id"]
    progress = await wait_until_ready(client, future["poll_url"])
    assert progress["status"] == "completed"
    assert progress["response_url"] == f"http://service/v1/responses/{future['response_id']}"
    result = (await client.get(progress["response_url"])).json()
    assert result["response"]["segments"][0]["text"].strip() in EN
    at_once = (await client.post("/infer", json={"audio": AUDIO})).json()
    assert result | {"prediction_time_ms": 0} == at_once | {"prediction_time_ms": 0}


async def test_failed_request_has_an_error(client: httpx.AsyncClient) -> None:
    invalid_audio = base64.b64encode(b"no sound at all").decode()
    at_once = await client.post("/infer", json={"audio": invalid_audio})
    assert at_once.status_code == 400
    job = (await client.get(f"/v1/jobs/{at_once.headers['x-user-request-id']}")).json()
    assert (job["status"], job["error"]["message"] in error_message(at_once)) == ("failed", True)

    future = (await client.post("/infer", json={"audio": invalid_audio}, headers=IN_BACKGROUND)).json()
    progress = await wait_until_ready(client, future["poll_url"])
    assert (progress["status"], progress["detail"]) == ("failed", error_message(at_once))
    answer = await client.get(progress["response_url"])
    assert (answer.status_code, error_message(answer)) == (400, error_message(at_once))
    assert answer.headers["x-user-request-id"] == future["response_id"]


async def test_response_before_the_end(client: httpx.AsyncClient) -> None:
    released = asyncio.Event()

    async def slow(_: web.Request) -> web.FileResponse:
        await released.wait()
        return web.FileResponse(DATA / "de.opus")

    server = await serve({"/slow": slow})
    body = {"url": str(server.make_url("/slow"))}
    ids = [(await client.post("/infer", json=body, headers=IN_BACKGROUND)).json()["response_id"] for _ in range(2)]
    progress = await client.get(f"/v1/requests/{ids[0]}")
    assert (progress.status_code, progress.json()["status"] in ("pending", "running")) == (202, True)
    answer = await client.get(progress.json()["response_url"])
    assert (answer.status_code, "succeeded" in error_message(answer)) == (409, True)
    await client.delete(f"/v1/jobs/{ids[1]}")
    assert (await client.get(f"/v1/requests/{ids[1]}")).json()["status"] == "failed"
    assert (await client.get(f"/v1/responses/{ids[1]}")).status_code == 409
    released.set()
    assert (await wait_for_job(client, ids[0]))["status"] == "succeeded"
    await server.close()


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 400, "audio"),
        ({"audio": AUDIO, "url": "http://x/a"}, 400, "audio"),
        ({"audio": None}, 400, "audio"),
        ({"audio": 7}, 400, "audio"),
        ({"audio": ["a"]}, 400, "audio"),
        ({"audio": "no base64!"}, 400, "audio"),
        ({"audio": "\ud800"}, 400, "audio"),
        ({"audio": "http://x/a.mp3"}, 400, "audio"),
        ({"audio": {"data": 7}}, 400, "audio"),
        ({"audio": {"data": AUDIO, "kind": "mp3"}}, 400, "audio"),
        ({"audio": {"data": {"url": "ftp://x/a"}}}, 400, "url"),
        ({"audio": {"data": {"url": "http://x/a"}}, "url": "http://x/b"}, 400, "audio"),
        ({"url": ""}, 400, "url"),
        ({"url": "nowhere"}, 400, "url"),
        ({"url": "http://["}, 400, "url"),
        ({"url": "http://x/a", "task": "sing"}, 400, "task"),
        ({"url": "http://x/a", "language": "klingon"}, 400, "language"),
        ({"url": "http://x/a", "temperature": 1.5}, 400, "temperature"),
        ({"url": "http://x/a", "temperature": float("nan")}, 400, "temperature"),
        ({"url": "http://x/a", "temperature_increment_on_fallback": 1e-300}, 400, "temperature_increment_on_fallback"),
        ({"url": "http://x/a", "suppress_tokens": [10**9]}, 400, "suppress_tokens"),
        ({"url": "http://x/a", "beam_size": 0}, 400, "beam_size"),
        ({"url": "http://x/a", "model": "gpt-9"}, 404, "model"),
        ({"url": "http://x/a", "diarize": True}, 400, "diarize"),
        ({"url": "http://x/a", "\ud800": 1}, 400, "unicode"),
    ],
)
@pytest.mark.parametrize("headers", [{}, IN_BACKGROUND], ids=["at once", "in the background"])
async def test_invalid_fields_are_named(
    client: httpx.AsyncClient, service: Service, body: Any, status: int, field: str, headers: dict[str, str]
) -> None:
    content = json.dumps(body)
    answer = await client.post("/infer", content=content, headers={"content-type": "application/json"} | headers)
    assert (answer.status_code, field in error_message(answer)) == (status, True), answer.text
    assert not list(service.settings.data_dir.glob("blobs/*"))


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"null", b"[" * 5000, b"9" * 5000])
async def test_invalid_bodies_are_rejected(client: httpx.AsyncClient, raw: bytes) -> None:
    answer = await client.post("/infer", content=raw, headers={"content-type": "application/json"})
    assert (answer.status_code, bool(error_message(answer))) == (400, True), answer.text


async def test_errors_outside_the_route(client: httpx.AsyncClient) -> None:
    answer = await client.post("/infer", json={"url": "http://x/a"}, headers={"X-OctoAI-Async": "later"})
    assert (answer.status_code, "X-OctoAI-Async" in error_message(answer)) == (400, True)
    answer = await client.post("/infer", content=b"x", headers={"content-type": "audio/mpeg"})
    assert (answer.status_code, "application/json" in error_message(answer)) == (415, True)
    answer = await client.post("/infer", data={"url": "http://x/a"})
    assert (answer.status_code, "application/json" in error_message(answer)) == (415, True)
    answer = await client.get("/infer")
    assert (answer.status_code, bool(error_message(answer)), answer.headers["allow"]) == (405, True, "POST")
    for path in ("/v1/requests/none", "/v1/responses/none"):
        assert ((answer := await client.get(path)).status_code, bool(error_message(answer))) == (404, True), path


async def test_openapi_document(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    infer = paths["/infer"]["post"]
    assert set(infer["responses"]) >= {"200", "201", "400", "401", "404", "408", "413", "415", "429"}
    assert infer["responses"]["400"]["content"]["application/json"]["schema"]["$ref"].endswith("/Detail")
    assert {"/v1/requests/{response_id}", "/v1/responses/{response_id}", "/healthcheck"} <= set(paths)


class TestLimits:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return {"api_keys": [KEY], "limits": {"max_upload_bytes": 50_000}, "public_url": "https://stt.example.com/w"}

    async def test_api_key_and_size_limit(self, client: httpx.AsyncClient) -> None:
        answer = await client.post("/infer", json={})
        assert (answer.status_code, "API key" in error_message(answer)) == (401, True)
        assert (await client.get("/healthcheck")).status_code == 200
        client.headers["Authorization"] = f"Bearer {KEY}"
        answer = await client.post("/infer", json={"audio": "A" * 50_000})
        assert (answer.status_code, "50000" in error_message(answer)) == (413, True)

        async def undeclared() -> Any:
            for _ in range(51):
                yield b'"' + b"A" * 1000

        json_type = {"content-type": "application/json"}
        answer = await client.post("/infer", content=undeclared(), headers=json_type)
        assert (answer.status_code, "50000" in error_message(answer)) == (413, True)
        answer = await client.post("/infer", json={"audio": AUDIO}, headers=IN_BACKGROUND)
        assert answer.json()["poll_url"].startswith("https://stt.example.com/w/v1/requests/")


class TestSdk:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return {"api_keys": [KEY]}

    @pytest.mark.slow
    async def test_sdk_works_unchanged(self, server_url: str) -> None:
        assert SDK.is_dir(), "`make install` brings octoai-sdk"
        user = await asyncio.create_subprocess_exec(
            *(sys.executable, Path(__file__).with_name("octoai_user.py"), server_url, DATA / "en.mp3", KEY),
            env=os.environ | {"PYTHONPATH": str(SDK)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, errors = await user.communicate()
        assert user.returncode == 0, errors.decode()
        output = json.loads(out)
        assert output["health"] == 200
        assert output["outputs"]["transcription"] == output["of_model"]["transcription"] == EN
        assert output["before"] is None
        assert output["result"]["response"] == output["outputs"]["response"]
        assert output["result"]["response"]["segments"][0]["text"].strip() in EN
        assert "400" in output["refused"]
        assert "task" in output["refused"]
        assert "(request_id: " in output["refused"]
