"""Recordings brought by a signed URL, over the ASGI application."""

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
from tests.fronts.native.test_jobs import DATA, EN, ended

MP3 = (DATA / "en.mp3").read_bytes()


async def create(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.post("/v1/uploads")
    assert answer.status_code == 201, answer.text
    upload: dict[str, Any] = answer.json()
    return upload


async def put(client: httpx.AsyncClient, content: bytes = MP3) -> dict[str, Any]:
    upload = await create(client)
    answer = await client.put(upload["url"], content=content)
    assert answer.status_code == 200, answer.text
    return upload


async def job_of(client: httpx.AsyncClient, upload: dict[str, Any], **fields: Any) -> httpx.Response:
    return await client.post("/v1/jobs", json={"upload_id": upload["id"], **fields})


def stored(service: Service) -> list[Path]:
    return [path for folder in ("blobs", "tmp") for path in service.settings.data_dir.glob(f"{folder}/*")]


def error(answer: httpx.Response) -> tuple[int, str, str]:
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    return answer.status_code, answer.json()["error"]["param"], answer.json()["error"]["code"]


async def test_an_upload_becomes_a_job_and_goes_with_it(client: httpx.AsyncClient, service: Service) -> None:
    upload = await create(client)
    assert (upload["object"], upload["method"], upload["max_bytes"]) == ("upload", "PUT", 512 * 2**20)
    assert upload["url"].startswith(f"http://service/v1/uploads/{upload['id']}?")
    left = datetime.fromisoformat(upload["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(minutes=60, seconds=1)

    answer = await client.put(upload["url"], content=MP3)
    assert (answer.status_code, answer.json()["sha256"]) == (200, hashlib.sha256(MP3).hexdigest())
    answer = await job_of(client, upload, language="en")
    assert answer.status_code == 202, answer.text
    job = await ended(client, answer.json()["id"])
    assert (job["status"], job["url"]) == ("succeeded", None), job["error"]
    assert (await client.get(job["transcript_url"])).json()["text"] == EN
    async with asyncio.timeout(30):  # it goes right after its job's end is known
        while stored(service):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("content", [b"", b"{}", b"null"])
async def test_an_upload_asks_for_nothing(client: httpx.AsyncClient, content: bytes) -> None:
    answer = await client.post("/v1/uploads", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 201, answer.text
    form = {"content-type": "application/x-www-form-urlencoded"}  # what `curl -d ''` says
    assert (await client.post("/v1/uploads", headers=form)).status_code == 201


@pytest.mark.parametrize(("content", "param"), [(b'{"name": "a.mp3"}', "name"), (b"[]", None), (b'"x"', None)])
async def test_what_an_upload_cannot_be_asked_for(client: httpx.AsyncClient, content: bytes, param: str | None) -> None:
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
async def test_a_url_that_was_changed_is_refused(
    client: httpx.AsyncClient, service: Service, change: dict[str, str], expected: tuple[int, str, str]
) -> None:
    url = httpx.URL((await create(client))["url"])
    assert error(await client.put(url.copy_merge_params(change), content=MP3)) == expected
    assert stored(service) == []


async def test_a_signature_is_one_uploads_only(client: httpx.AsyncClient) -> None:
    ours, other = await create(client), await create(client)
    url = ours["url"].replace(ours["id"], other["id"])
    assert error(await client.put(url, content=MP3)) == (403, "signature", "invalid_signature")


async def test_a_url_without_a_signature_names_what_is_missing(client: httpx.AsyncClient) -> None:
    upload = await create(client)
    assert error(await client.put(f"/v1/uploads/{upload['id']}?expires=1", content=MP3)) == (
        400,
        "signature",
        "missing",
    )


async def test_the_last_put_wins(client: httpx.AsyncClient, service: Service) -> None:
    upload = await put(client, b"no sound at all")
    assert (await client.put(upload["url"], content=MP3)).status_code == 200
    assert len(stored(service)) == 2, "the recording, and the record that it waits"
    job = await ended(client, (await job_of(client, upload)).json()["id"])
    assert job["status"] == "succeeded", job["error"]


async def test_a_put_that_breaks_off_leaves_what_was_there(client: httpx.AsyncClient, service: Service) -> None:
    upload = await put(client)
    before = set(stored(service))
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
    assert set(stored(service)) == before
    job = await ended(client, (await job_of(client, upload)).json()["id"])
    assert job["status"] == "succeeded", job["error"]


@pytest.mark.parametrize("upload_id", ["0" * 32, "../jobs.db", "", "ö", "a" * 100_000])
async def test_an_unknown_upload_is_named(client: httpx.AsyncClient, upload_id: str) -> None:
    assert error(await job_of(client, {"id": upload_id})) == (404, "upload_id", "upload_not_found")


async def test_an_upload_that_nothing_was_put_to(client: httpx.AsyncClient) -> None:
    assert error(await job_of(client, await create(client))) == (404, "upload_id", "upload_not_found")


@pytest.mark.parametrize("other", [{"url": "http://x/a"}, {"audio": "aaaa"}])
async def test_one_source_only(client: httpx.AsyncClient, other: dict[str, str]) -> None:
    answer = await job_of(client, await put(client), **other)
    assert (answer.status_code, "exactly one" in answer.json()["error"]["message"]) == (400, True)


async def test_two_jobs_cannot_use_one_upload(client: httpx.AsyncClient) -> None:
    upload = await put(client)
    answers = await asyncio.gather(*(job_of(client, upload) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [202, 404, 404, 404, 404]
    (accepted,) = [answer for answer in answers if answer.status_code == 202]
    assert (await ended(client, accepted.json()["id"]))["status"] == "succeeded"


async def test_a_submit_that_is_sent_again_is_the_job_that_has_the_upload(client: httpx.AsyncClient) -> None:
    """With a key, or an id of one's own; another request is told that the key is used."""
    for headers, chosen in (({"Idempotency-Key": "k"}, {}), ({}, {"id": "mine"})):
        body = {"upload_id": (await put(client))["id"], **chosen}
        first, again = [await client.post("/v1/jobs", json=body, headers=headers) for _ in range(2)]
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json()["id"] == again.json()["id"]
        other = await client.post("/v1/jobs", json=body | {"language": "en"}, headers=headers)
        assert other.status_code == 422
        assert (await ended(client, first.json()["id"]))["status"] == "succeeded"


async def test_what_a_job_has_taken_no_later_put_changes(client: httpx.AsyncClient) -> None:
    upload = await put(client)
    first = (await job_of(client, upload)).json()["id"]
    assert (await client.put(upload["url"], content=(DATA / "de.opus").read_bytes())).status_code == 200
    second = (await job_of(client, upload)).json()["id"]
    texts = []
    for job_id in (first, second):
        job = await ended(client, job_id)
        texts.append((await client.get(job["transcript_url"], params={"format": "text"})).text)
    assert texts == [EN + "\n", "zwei sieben eins acht zwei acht\n"]


async def test_a_refused_job_leaves_its_upload_for_the_next(client: httpx.AsyncClient) -> None:
    upload = await put(client)
    for fields, param in [({"model": "gpt-9"}, "model"), ({"webhook": {"url": "nowhere"}}, "webhook.url")]:
        assert (await job_of(client, upload, **fields)).json()["error"]["param"] == param
    job = await ended(client, (await job_of(client, upload)).json()["id"])
    assert job["status"] == "succeeded", job["error"]


async def test_the_openapi_document_tells_of_uploads(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert set(paths["/v1/uploads"]["post"]["responses"]) >= {"201", "400", "401"}
    assert set(paths["/v1/uploads/{upload_id}"]["put"]["responses"]) >= {"200", "400", "403", "413"}


class TestOnS3:
    @pytest.fixture
    def args(self, bucket: str) -> dict[str, Any]:
        return {"blobs": f"{bucket}/stt"}

    async def test_an_upload_becomes_a_job(self, client: httpx.AsyncClient, service: Service) -> None:
        upload = await put(client)
        answers = [await job_of(client, upload) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 404]
        job = await ended(client, answers[0].json()["id"])
        assert job["status"] == "succeeded", job["error"]
        async with asyncio.timeout(30):
            while fsspec.filesystem("s3").find(service.settings.blob_root):
                await asyncio.sleep(0.01)
        assert stored(service) == [], "nothing was kept on this machine"


class TestKeys:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return {"api_keys": ["one"], "public_url": "https://stt.example.com/whisper/"}

    async def test_the_signature_is_the_key_of_a_put_and_of_nothing_else(self, client: httpx.AsyncClient) -> None:
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

    async def test_a_url_that_has_expired_is_refused(self, client: httpx.AsyncClient, service: Service) -> None:
        upload = await create(client)
        async with asyncio.timeout(30):  # whole seconds: it works up to one longer
            while (answer := await client.put(upload["url"], content=MP3)).status_code == 200:
                await asyncio.sleep(0.1)
        assert error(answer) == (403, "expires", "url_expired")
        assert int(parse_qs(urlsplit(upload["url"]).query)["expires"][0]) <= datetime.now(UTC).timestamp()

    async def test_an_upload_that_has_expired_is_refused_and_gone(
        self, client: httpx.AsyncClient, service: Service
    ) -> None:
        upload = await put(client)
        await asyncio.sleep(1.1)
        assert error(await job_of(client, upload)) == (404, "upload_id", "upload_expired")
        assert stored(service) == []


class TestLimits:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return {"limits": {"max_upload_bytes": 30_000, "max_queued_jobs": 1}, "jobs": {"max_running": 1}} | {
            "network": {"allow_private_addresses": True}
        }

    async def test_an_upload_over_the_limit_is_a_413(self, client: httpx.AsyncClient, service: Service) -> None:
        async def undeclared() -> AsyncIterator[bytes]:
            for _ in range(31):
                yield b"0" * 1000

        upload = await create(client)
        assert upload["max_bytes"] == 30_000
        for content in (b"0" * 30_001, undeclared()):
            answer = await client.put(upload["url"], content=content)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large"), answer.text
        assert stored(service) == []
        assert (await client.put(upload["url"], content=b"0" * 30_000)).status_code == 200

    async def test_an_upload_outlives_a_full_queue(self, client: httpx.AsyncClient) -> None:
        released = asyncio.Event()

        async def slow(_: web.Request) -> web.Response:
            await released.wait()
            return web.Response()

        app = web.Application()
        app.router.add_get("/slow", slow)
        server = TestServer(app, host="127.0.0.1")
        await server.start_server()
        upload = await put(client, (DATA / "de.opus").read_bytes())
        url = str(server.make_url("/slow"))
        first = (await client.post("/v1/jobs", json={"url": url})).json()["id"]
        async with asyncio.timeout(10):
            while (await client.get(f"/v1/jobs/{first}")).json()["status"] == "queued":
                await asyncio.sleep(0.01)
        assert (await client.post("/v1/jobs", json={"url": url})).status_code == 202
        assert (await job_of(client, upload)).status_code == 429
        released.set()
        async with asyncio.timeout(20):
            while (answer := await job_of(client, upload)).status_code == 429:
                await asyncio.sleep(0.02)
        job = await ended(client, answer.json()["id"])
        assert job["status"] == "succeeded", job["error"]
        await server.close()
