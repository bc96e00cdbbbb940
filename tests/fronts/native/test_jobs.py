import asyncio
import base64
import json
import re
from functools import reduce
from typing import Any

import httpx
import pytest
from aiohttp import web

from serve_app.services.transcription import Service
from tests.fronts.helpers import DATA, EN, serve, wait_for_job


async def test_upload_is_transcribed(client: httpx.AsyncClient, service: Service) -> None:
    answer = await client.post("/v1/jobs", files={"file": (DATA / "en.mp3").read_bytes()}, data={"language": "english"})
    submitted = answer.json()
    assert (answer.status_code, submitted["status"]) == (202, "queued")
    assert answer.headers["location"] == f"/v1/jobs/{submitted['id']}"
    job = await wait_for_job(client, submitted["id"])
    assert (job["status"], job["progress"], job["options"]["language"]) == ("succeeded", 1.0, "en")
    assert set(job["timings"]) == {"fetch", "transcribe"}
    assert (await client.get(job["transcript_url"])).json()["text"] == EN
    assert (await client.get(job["transcript_url"], params={"format": "text"})).text == EN + "\n"
    assert not list(service.settings.data_dir.glob("blobs/*"))


async def test_url_with_webhook(client: httpx.AsyncClient) -> None:
    received: asyncio.Queue[tuple[dict[str, Any], Any]] = asyncio.Queue()

    async def audio(_: web.Request) -> web.FileResponse:
        return web.FileResponse(DATA / "de.opus")

    async def hook(request: web.Request) -> web.Response:
        await received.put((dict(request.headers), await request.json()))
        return web.Response()

    server = await serve({"/a.opus": audio, "/hook": hook})
    body = {
        "url": str(server.make_url("/a.opus")),
        "webhook": {"url": str(server.make_url("/hook")), "headers": {"x-tenant": "7"}},
    }
    submitted = (await client.post("/v1/jobs", json=body)).json()
    headers, event = await asyncio.wait_for(received.get(), 60)
    assert headers["x-tenant"] == "7"
    assert headers["webhook-id"].startswith(f"msg_{submitted['id']}_")
    assert event["type"] == "job.completed"
    assert (event["data"]["id"], event["data"]["status"]) == (submitted["id"], "succeeded")
    assert event["data"]["transcript"]["text"] == "zwei sieben eins acht zwei acht"
    await server.close()


async def test_base64_audio(client: httpx.AsyncClient) -> None:
    text = base64.b64encode((DATA / "fr.flac").read_bytes()).decode()
    for audio in (text, f"data:audio/flac;base64,{text}"):
        job = await wait_for_job(client, (await client.post("/v1/jobs", json={"audio": audio})).json()["id"])
        assert job["status"] == "succeeded", job["error"]


async def test_failed_job_has_an_error(client: httpx.AsyncClient) -> None:
    server = await serve({})
    url = str(server.make_url("/none.mp3"))
    job = await wait_for_job(client, (await client.post("/v1/jobs", json={"url": url})).json()["id"])
    assert (job["status"], job["error"]["param"]) == ("failed", "url")
    assert "404" in job["error"]["message"]
    answer = await client.get(f"/v1/jobs/{job['id']}/transcript")
    assert (answer.status_code, "failed" in answer.json()["error"]["message"]) == (409, True)
    await server.close()


async def test_subtitle_layout(client: httpx.AsyncClient) -> None:
    async def submit(**fields: str) -> str:
        answer = await client.post("/v1/jobs", files={"file": (DATA / "en.mp3").read_bytes()}, data=fields)
        job = await wait_for_job(client, answer.json()["id"])
        return str(job["transcript_url"])

    url = await submit(timestamps="word", vad='{"pad_ms": 100}')
    answer = await client.get(url, params={"format": "srt", "max_line_width": 10, "max_line_count": 1})
    assert [line for line in answer.text.splitlines() if line.isascii() and line[:1].isalpha()] == [
        *("three one", "four one", "five nine")
    ]
    answer = await client.get(url, params={"format": "vtt", "highlight_words": "true"})
    assert "<u>three</u> one four" in answer.text
    bare = await submit()
    for target, query in (
        (bare, {"format": "srt", "max_line_width": 20}),
        (bare, {"format": "vtt", "highlight_words": "true"}),
        (url, {"format": "srt", "max_line_count": 2}),
        (url, {"format": "srt", "max_line_width": 0}),
        (url, {"format": "tsv", "highlight_words": "true"}),
        (url, {"max_line_width": 20}),
    ):
        refused = await client.get(target, params=query)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, list(query)[-1]), query


@pytest.mark.parametrize(
    ("body", "param", "status"),
    [
        ({}, None, 400),
        ({"url": "http://x/a", "audio": "aaaa"}, None, 400),
        ({"url": "ftp://x/a"}, "url", 400),
        ({"url": 7}, "url", 400),
        ({"audio": "no base64!"}, "audio", 400),
        ({"url": "http://x/a", "language": "klingon"}, "language", 400),
        ({"url": "http://x/a", "model": "gpt-9"}, "model", 404),
        ({"url": "http://x/a", "speed": 2}, "speed", 400),
        ({"url": "http://x/a", "task": "sing"}, "task", 400),
        ({"url": "http://x/a", "vad": {"threshold": 2}}, "vad.threshold", 400),
        ({"url": "http://x/a", "vad": {"pad_ms": 10**400}}, "vad.pad_ms", 400),
        ({"url": "http://x/a", "vad": "{}"}, "vad", 400),
        ({"url": "http://x/\0"}, "url", 400),
        ({"url": "http://x/a", "id": "a b"}, "id", 400),
        ({"url": "http://x/a", "priority": "urgent"}, "priority", 400),
        ({"url": "http://x/a", "batch_size": 0}, "batch_size", 400),
        ({"url": "http://x/a", "max_new_tokens": 10**30}, "max_new_tokens", 400),
        ({"url": "http://x/a", "suppress_tokens": [-2]}, "suppress_tokens", 400),
        ({"url": "http://x/a", "timestamps": ["word"]}, "timestamps", 400),
        ({"upload_id": "nobody's"}, "upload_id", 404),
        ({"url": "http://x/a", "webhook": {"url": "nowhere"}}, "webhook.url", 400),
        (
            {"url": "http://x/a", "webhook": {"url": "http://x/h", "headers": {"webhook-id": "1"}}},
            "webhook.headers",
            400,
        ),
        ({"url": "http://x/a", "webhook": {"url": "http://x/h", "events": ["born"]}}, "webhook.events.0", 400),
        ({"url": "http://x/a", "webhook": {"url": "http://x/h", "events": []}}, "webhook.events", 400),
        (
            {"url": "http://x/a", "webhook": {"url": "http://u:p@x/h", "headers": {"Authorization": "x"}}},
            "webhook.headers",
            400,
        ),
    ],
)
async def test_invalid_fields_are_named(
    client: httpx.AsyncClient, body: dict[str, Any], param: str | None, status: int
) -> None:
    answer = await client.post("/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"null", b"[" * 5000, b'{"url": "http://x/\\ud800"}']
)
async def test_invalid_bodies_are_rejected(client: httpx.AsyncClient, raw: bytes) -> None:
    answer = await client.post("/v1/jobs", content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"webhook": "{"},
        {"webhook": json.dumps({"url": "x"})},
        {"size": "1"},
        {"url": "http://x/a"},
        {"vad": "[]"},
        {"priority": "urgent"},
        {"language": "klingon"},
        {"language": ["en", "de"]},
        {"id": "a/b"},
    ],
)
async def test_invalid_form_fields_are_named(
    client: httpx.AsyncClient, service: Service, fields: dict[str, str]
) -> None:
    answer = await client.post("/v1/jobs", files={"file": b"x"}, data=fields)
    assert (answer.status_code, answer.json()["error"]["param"].split(".")[0]) == (400, next(iter(fields)))
    assert not list(service.settings.data_dir.glob("blobs/*"))


async def test_unsupported_content_type(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/jobs", content=b"x", headers={"content-type": "audio/mpeg"})
    assert answer.status_code == 415


async def test_list_cancel_and_delete(client: httpx.AsyncClient) -> None:
    release = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    server = await serve({"/slow": slow})
    first, second = [
        (await client.post("/v1/jobs", json={"url": str(server.make_url("/slow"))})).json()["id"] for _ in range(2)
    ]
    page = (await client.get("/v1/jobs", params={"limit": 1})).json()
    assert [job["id"] for job in page["data"]] == [second]
    page = (await client.get("/v1/jobs", params={"limit": 1, "cursor": page["next_cursor"]})).json()
    assert ([job["id"] for job in page["data"]], page["next_cursor"]) == ([first], None)

    assert (await client.delete(f"/v1/jobs/{first}")).json()["status"] == "cancelled"
    assert [j["id"] for j in (await client.get("/v1/jobs", params={"status": "cancelled"})).json()["data"]] == [first]
    assert (await client.delete(f"/v1/jobs/{first}")).json()["deleted"] is True
    assert (await client.get(f"/v1/jobs/{first}")).status_code == 404
    release.set()
    await client.delete(f"/v1/jobs/{second}")
    await server.close()


async def test_repeated_form_field_is_named(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/jobs", files={"file": b"x"}, data={"language": ["en", "de"]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "language")


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "x"}, {"cursor": "%%%"}, {"status": "asleep"}, {"state": "queued"}]
)
async def test_invalid_query_parameters_are_named(client: httpx.AsyncClient, query: dict[str, str]) -> None:
    answer = await client.get("/v1/jobs", params=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(query)))


@pytest.mark.parametrize("path", ["/v1/jobs/nope", "/v1/jobs/nope/transcript", "/nowhere", "/v1/nowhere"])
async def test_not_found(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, set(answer.json()["error"])) == (404, {"message", "type", "param", "code"})


async def test_openapi_document(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    paths = document["paths"]
    assert set(paths["/v1/jobs"]["post"]["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    for speech in ("/v1/audio/transcriptions", "/v1/audio/translations"):
        assert set(paths[speech]["post"]["requestBody"]["content"]) == {"multipart/form-data"}
    for reference in set(re.findall(r'"\$ref": "#/([^"]*)"', json.dumps(document))):
        reduce(lambda part, name: part[name], reference.split("/"), document)  # raises KeyError for a broken reference
    assert (await client.get("/docs")).status_code == 200


async def test_same_idempotency_key_is_same_job(client: httpx.AsyncClient) -> None:
    key, body = {"Idempotency-Key": "order 7"}, {"audio": base64.b64encode((DATA / "en.mp3").read_bytes()).decode()}
    first = await client.post("/v1/jobs", json=body, headers=key)
    again = await client.post("/v1/jobs", json=body, headers=key)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    other = await client.post("/v1/jobs", json=body | {"language": "en"}, headers=key)
    assert other.status_code == 422
    assert (other.json()["error"]["param"], other.json()["error"]["code"]) == (
        "Idempotency-Key",
        "idempotency_key_reused",
    )
    too_long = await client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k" * 256})
    assert (too_long.status_code, too_long.json()["error"]["param"]) == (400, "Idempotency-Key")
    assert (await wait_for_job(client, first.json()["id"]))["status"] == "succeeded"


async def test_id_chosen_by_the_client(client: httpx.AsyncClient) -> None:
    file = {"file": (DATA / "en.mp3").read_bytes()}
    first = await client.post("/v1/jobs", files=file, data={"id": "call-17.a", "priority": "high"})
    assert (first.status_code, first.json()["id"], first.json()["priority"]) == (202, "call-17.a", "high")
    other = await client.post("/v1/jobs", files=file, data={"id": "call-17.a", "task": "translate"})
    assert (other.status_code, other.json()["error"]["param"]) == (422, "id")
    for wrong in ("", "a/b", "-a", "x" * 129, "ä"):
        refused = await client.post("/v1/jobs", files=file, data={"id": wrong})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "id"), wrong
    assert (await wait_for_job(client, "call-17.a"))["status"] == "succeeded"
    listed = (await client.get("/v1/jobs", params={"limit": 1})).json()["data"]
    assert [job["id"] for job in listed] == ["call-17.a"]


async def test_prefer_wait(client: httpx.AsyncClient) -> None:
    file = {"file": (DATA / "en.mp3").read_bytes()}
    answer = await client.post("/v1/jobs", files=file, headers={"Prefer": "wait=60"})
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert answer.headers["preference-applied"] == "wait=60"
    at_once = await client.post("/v1/jobs", files=file, headers={"Prefer": "wait=0, respond-async"})
    assert (at_once.status_code, at_once.headers["preference-applied"]) == (202, "respond-async")
    for none in ("wait=x", "wait=-1", "wait", "foo"):
        plain = await client.post("/v1/jobs", files=file, headers={"Prefer": none})
        assert plain.status_code == 202
        assert "preference-applied" not in plain.headers
