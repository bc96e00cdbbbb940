"""Recordings uploaded to a signed URL, over the ASGI application."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import fsspec
import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from serve_app.asgi import create_app
from serve_app.services.transcription import Service
from tests.fronts.helpers import DATA, EN, wait_for_job

MP3 = (DATA / "en.mp3").read_bytes()


async def create_upload(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.post("/v1/uploads")
    assert answer.status_code == 201, answer.text
    upload: dict[str, Any] = answer.json()
    return upload


async def upload_content(client: httpx.AsyncClient, content: bytes = MP3) -> dict[str, Any]:
    upload = await create_upload(client)
    answer = await client.put(upload["url"], content=content)
    assert answer.status_code == 200, answer.text
    return upload


async def submit_upload(client: httpx.AsyncClient, upload: dict[str, Any], **fields: Any) -> httpx.Response:
    return await client.post("/v1/jobs", json={"upload_id": upload["id"], **fields})


def stored_files(service: Service) -> list[Path]:
    return [path for folder in ("blobs", "tmp") for path in service.settings.data_dir.glob(f"{folder}/*")]


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    return answer.status_code, answer.json()["error"]["param"], answer.json()["error"]["code"]


async def test_upload_is_transcribed_and_deleted(client: httpx.AsyncClient, service: Service) -> None:
    upload = await create_upload(client)
    assert (upload["object"], upload["method"], upload["max_bytes"]) == ("upload", "PUT", 512 * 2**20)
    assert upload["url"].startswith(f"http://service/v1/uploads/{upload['id']}?")
    left = datetime.fromisoformat(upload["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(minutes=60, seconds=1)

    answer = await client.put(upload["url"], content=MP3)
    assert (answer.status_code, answer.json()["sha256"]) == (200, hashlib.sha256(MP3).hexdigest())
    answer = await submit_upload(client, upload, language="en")
    assert answer.status_code == 202, answer.text
    job = await wait_for_job(client, answer.json()["id"])
    assert (job["status"], job["url"]) == ("succeeded", None), job["error"]
    assert (await client.get(job["transcript_url"])).json()["text"] == EN
    async with asyncio.timeout(30):  # the upload is deleted right after the job's end is stored
        while stored_files(service):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("content", [b"", b"{}", b"null"])
async def test_uploads_need_no_body(client: httpx.AsyncClient, content: bytes) -> None:
    answer = await client.post("/v1/uploads", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 201, answer.text
    form = {"content-type": "application/x-www-form-urlencoded"}  # as `curl -d ''` sends
    assert (await client.post("/v1/uploads", headers=form)).status_code == 201


@pytest.mark.parametrize(("content", "param"), [(b'{"name": "a.mp3"}', "name"), (b"[]", None), (b'"x"', None)])
async def test_upload_body_must_be_empty(client: httpx.AsyncClient, content: bytes, param: str | None) -> None:
    answer = await client.post("/v1/uploads", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"signature": "0" * 64}, (403, "signature", "invalid_signature")),
        ({"signature": "ä"}, (403, "signature", "invalid_signature")),
        ({"signature": ""}, (403, "signature", "invalid_signature")),
        ({"expires": "9999999999"}, (403, "signature", "invalid_signature")),
        ({"expires": "soon"}, (400, "expires", "int_parsing")),
        ({"size": "7"}, (400, "size", "extra_forbidden")),
    ],
)
async def test_modified_url_is_rejected(
    client: httpx.AsyncClient, service: Service, change: dict[str, str], expected: tuple[int, str, str]
) -> None:
    url = httpx.URL((await create_upload(client))["url"])
    assert error_of(await client.put(url.copy_merge_params(change), content=MP3)) == expected
    assert stored_files(service) == []


async def test_signature_is_valid_for_its_upload_only(client: httpx.AsyncClient) -> None:
    ours, other = await create_upload(client), await create_upload(client)
    url = ours["url"].replace(ours["id"], other["id"])
    assert error_of(await client.put(url, content=MP3)) == (403, "signature", "invalid_signature")


async def test_missing_signature_is_named(client: httpx.AsyncClient) -> None:
    upload = await create_upload(client)
    assert error_of(await client.put(f"/v1/uploads/{upload['id']}?expires=1", content=MP3)) == (
        400,
        "signature",
        "missing",
    )


async def test_last_put_wins(client: httpx.AsyncClient, service: Service) -> None:
    upload = await upload_content(client, b"no sound at all")
    assert (await client.put(upload["url"], content=MP3)).status_code == 200
    assert len(stored_files(service)) == 2, "the recording and its record"
    job = await wait_for_job(client, (await submit_upload(client, upload)).json()["id"])
    assert job["status"] == "succeeded", job["error"]


async def test_interrupted_put_keeps_the_previous_content(client: httpx.AsyncClient, service: Service) -> None:
    upload = await upload_content(client)
    before = set(stored_files(service))
    url = urlsplit(upload["url"])
    received = iter(
        [{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}],
    )
    sent: list[Any] = []

    async def receive() -> Any:
        return next(received)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "PUT",
        "path": url.path,
        "query_string": url.query.encode(),
        "headers": [(b"content-length", b"1000")],
    }
    await create_app(service)(scope, receive, send)
    assert (sent[0]["status"], b"upload_broke_off" in sent[1]["body"]) == (400, True)
    assert set(stored_files(service)) == before
    job = await wait_for_job(client, (await submit_upload(client, upload)).json()["id"])
    assert job["status"] == "succeeded", job["error"]


@pytest.mark.parametrize("upload_id", ["0" * 32, "../jobs.db", "", "ö", "a" * 100_000])
async def test_unknown_upload(client: httpx.AsyncClient, upload_id: str) -> None:
    assert error_of(await submit_upload(client, {"id": upload_id})) == (404, "upload_id", "upload_not_found")


async def test_upload_without_content(client: httpx.AsyncClient) -> None:
    assert error_of(await submit_upload(client, await create_upload(client))) == (404, "upload_id", "upload_not_found")


@pytest.mark.parametrize("other", [{"url": "http://x/a"}, {"audio": "aaaa"}])
async def test_only_one_source_is_allowed(client: httpx.AsyncClient, other: dict[str, str]) -> None:
    answer = await submit_upload(client, await upload_content(client), **other)
    assert (answer.status_code, "exactly one" in answer.json()["error"]["message"]) == (400, True)


async def test_upload_is_used_by_one_job(client: httpx.AsyncClient) -> None:
    upload = await upload_content(client)
    answers = await asyncio.gather(*(submit_upload(client, upload) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [202, 404, 404, 404, 404]
    (accepted,) = [answer for answer in answers if answer.status_code == 202]
    assert (await wait_for_job(client, accepted.json()["id"]))["status"] == "succeeded"


async def test_repeated_submit_is_the_same_job(client: httpx.AsyncClient) -> None:
    """With a key or with an id of the client's; another request with the same key or id is an error."""
    for headers, chosen in (({"Idempotency-Key": "k"}, {}), ({}, {"id": "mine"})):
        body = {"upload_id": (await upload_content(client))["id"], **chosen}
        first, again = [await client.post("/v1/jobs", json=body, headers=headers) for _ in range(2)]
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json()["id"] == again.json()["id"]
        other = await client.post("/v1/jobs", json=body | {"language": "en"}, headers=headers)
        assert other.status_code == 422
        assert (await wait_for_job(client, first.json()["id"]))["status"] == "succeeded"


async def test_later_put_does_not_change_a_submitted_job(client: httpx.AsyncClient) -> None:
    upload = await upload_content(client)
    first = (await submit_upload(client, upload)).json()["id"]
    assert (await client.put(upload["url"], content=(DATA / "de.opus").read_bytes())).status_code == 200
    second = (await submit_upload(client, upload)).json()["id"]
    texts = []
    for job_id in (first, second):
        job = await wait_for_job(client, job_id)
        texts.append((await client.get(job["transcript_url"], params={"format": "text"})).text)
    assert texts == [EN + "\n", "zwei sieben eins acht zwei acht\n"]


@pytest.mark.slow
async def test_rejected_job_leaves_its_upload(client: httpx.AsyncClient) -> None:
    upload = await upload_content(client)
    for fields, param in [({"model": "gpt-9"}, "model"), ({"webhook": {"url": "nowhere"}}, "webhook.url")]:
        assert (await submit_upload(client, upload, **fields)).json()["error"]["param"] == param
    job = await wait_for_job(client, (await submit_upload(client, upload)).json()["id"])
    assert job["status"] == "succeeded", job["error"]


async def test_openapi_document(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert set(paths["/v1/uploads"]["post"]["responses"]) >= {"201", "400", "401"}
    assert set(paths["/v1/uploads/{upload_id}"]["put"]["responses"]) >= {"200", "400", "403", "413"}


class TestOnS3:
    @pytest.fixture
    def args(self, bucket: str) -> dict[str, Any]:
        return {"blobs": f"{bucket}/stt"}

    @pytest.mark.slow
    async def test_upload_is_transcribed(self, client: httpx.AsyncClient, service: Service) -> None:
        upload = await upload_content(client)
        answers = [await submit_upload(client, upload) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 404]
        job = await wait_for_job(client, answers[0].json()["id"])
        assert job["status"] == "succeeded", job["error"]
        async with asyncio.timeout(30):
            while fsspec.filesystem("s3").find(service.settings.blob_root):
                await asyncio.sleep(0.01)
        assert stored_files(service) == [], "files were left on this machine"


class TestKeys:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return {"api_keys": ["one"], "public_url": "https://stt.example.com/whisper/"}

    @pytest.mark.slow
    async def test_signature_replaces_the_api_key_for_a_put_only(self, client: httpx.AsyncClient) -> None:
        assert (await client.post("/v1/uploads")).status_code == 401
        answer = await client.post("/v1/uploads", headers={"Authorization": "Bearer one"})
        url = answer.json()["url"]
        assert url.startswith("https://stt.example.com/whisper/v1/uploads/")
        path = url.removeprefix("https://stt.example.com/whisper")
        assert (await client.put(path, content=MP3)).status_code == 200
        assert (await client.put(path.split("?")[0], content=MP3)).status_code == 400
        assert (await client.get(path)).status_code == 405
        for unsigned in ("/v1/uploads", "/v1/uploads/", "/v1/uploads/../jobs", "/v1/uploads/a/b"):
            answer = await client.post(unsigned, follow_redirects=True)
            assert answer.status_code in (401, 404, 405), unsigned


class TestExpiry:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return {"uploads": {"expires_s": 1}}

    @pytest.mark.slow
    async def test_expired_url_is_rejected(self, client: httpx.AsyncClient, service: Service) -> None:
        upload = await create_upload(client)
        async with asyncio.timeout(30):  # expiry is in whole seconds, so the URL may be valid for one more
            while (answer := await client.put(upload["url"], content=MP3)).status_code == 200:
                await asyncio.sleep(0.1)
        assert error_of(answer) == (403, "expires", "url_expired")
        assert int(parse_qs(urlsplit(upload["url"]).query)["expires"][0]) <= datetime.now(UTC).timestamp()

    @pytest.mark.slow
    async def test_expired_upload_is_rejected_and_deleted(self, client: httpx.AsyncClient, service: Service) -> None:
        upload = await upload_content(client)
        await asyncio.sleep(1.1)
        assert error_of(await submit_upload(client, upload)) == (404, "upload_id", "upload_expired")
        assert stored_files(service) == []


class TestLimits:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return {"limits": {"max_upload_bytes": 30_000, "max_queued_jobs": 1}, "jobs": {"max_running": 1}} | {
            "network": {"allow_private_addresses": True}
        }

    async def test_upload_over_the_limit(self, client: httpx.AsyncClient, service: Service) -> None:
        async def undeclared() -> AsyncIterator[bytes]:
            for _ in range(31):
                yield b"0" * 1000

        upload = await create_upload(client)
        assert upload["max_bytes"] == 30_000
        for content in (b"0" * 30_001, undeclared()):
            answer = await client.put(upload["url"], content=content)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large"), answer.text
        assert stored_files(service) == []
        assert (await client.put(upload["url"], content=b"0" * 30_000)).status_code == 200

    async def test_upload_can_be_used_after_the_queue_was_full(self, client: httpx.AsyncClient) -> None:
        released = asyncio.Event()

        async def slow(_: web.Request) -> web.Response:
            await released.wait()
            return web.Response()

        app = web.Application()
        app.router.add_get("/slow", slow)
        server = TestServer(app, host="127.0.0.1")
        await server.start_server()
        upload = await upload_content(client, (DATA / "de.opus").read_bytes())
        url = str(server.make_url("/slow"))
        first = (await client.post("/v1/jobs", json={"url": url})).json()["id"]
        async with asyncio.timeout(10):
            while (await client.get(f"/v1/jobs/{first}")).json()["status"] == "queued":
                await asyncio.sleep(0.01)
        assert (await client.post("/v1/jobs", json={"url": url})).status_code == 202
        assert (await submit_upload(client, upload)).status_code == 429
        released.set()
        async with asyncio.timeout(20):
            while (answer := await submit_upload(client, upload)).status_code == 429:
                await asyncio.sleep(0.02)
        job = await wait_for_job(client, answer.json()["id"])
        assert job["status"] == "succeeded", job["error"]
        await server.close()
