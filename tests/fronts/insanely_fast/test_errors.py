"""Errors of the Insanely-Fast-Whisper front: invalid requests, unknown tasks, keys and limits."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serve_app.services.transcription import Service
from tests.server import ARGS

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
async def test_invalid_fields_are_named(client: httpx.AsyncClient, body: dict[str, Any], detail: str) -> None:
    answer = await client.post("/", json=body)
    assert (answer.status_code, set(answer.json())) == (400, {"detail"}), answer.text
    assert answer.json()["detail"].startswith(detail)
    assert (await client.get("/v1/jobs")).json()["data"] == []


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"null", b"7", b"[" * 5000])
async def test_invalid_bodies_are_rejected(client: httpx.AsyncClient, raw: bytes) -> None:
    answer = await client.post("/", content=raw, headers={"content-type": "application/json"})
    assert (answer.status_code, set(answer.json())) == (400, {"detail"}), answer.text
    assert "body" in answer.json()["detail"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/status/nope"), ("DELETE", "/cancel/nope")])
async def test_unknown_task(client: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.json()) == (404, {"detail": "Task not found"})


async def test_error_format_outside_the_routes(
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


class TestKeysAndLimits:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return ARGS | {"api_keys": ["one"], "limits": {"max_upload_bytes": 1000}}

    @pytest.mark.parametrize(
        ("method", "path"), [("POST", "/"), ("GET", "/tasks"), ("GET", "/status/x"), ("DELETE", "/cancel/x")]
    )
    async def test_api_key_is_required(self, client: httpx.AsyncClient, method: str, path: str) -> None:
        refused = await client.request(method, path, headers={"x-admin-api-key": "two"})
        assert (refused.status_code, refused.json()) == (401, {"detail": "Unauthorized"})
        accepted = await client.request(method, path, headers={"x-admin-api-key": "one"})
        assert accepted.status_code in (200, 400, 404)

    @pytest.mark.parametrize("declared", [True, False])
    async def test_body_over_the_limit(self, client: httpx.AsyncClient, declared: bool) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b" " * 2000

        headers = {"content-type": "application/json", "x-admin-api-key": "one"}
        answer = await client.post("/", content=b" " * 2000 if declared else chunks(), headers=headers)
        assert (answer.status_code, set(answer.json())) == (413, {"detail"})
        assert "1000 bytes" in answer.json()["detail"]
