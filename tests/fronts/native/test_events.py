"""Events and deliveries of a job over HTTP."""

import asyncio
import json
from pathlib import Path
from typing import Any

import fastapi.routing
import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

DATA = Path(__file__).parents[2] / "data"


def parse_events(stream: str) -> list[dict[str, Any]]:
    """Parse server-sent events into `{event, id, data}`."""
    found = []
    for block in stream.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if fields:
            found.append(fields | {"data": json.loads(fields["data"])})
    return found


async def submit(client: httpx.AsyncClient, **fields: str) -> str:
    answer = await client.post("/v1/jobs", files={"file": (DATA / "en.mp3").read_bytes()}, data=fields)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def test_events_are_streamed_and_resumed(client: httpx.AsyncClient) -> None:
    job_id = await submit(client)
    stream = await client.get(f"/v1/jobs/{job_id}/events")
    assert stream.headers["content-type"].startswith("text/event-stream")
    events = parse_events(stream.text)
    assert [event["id"] for event in events] == [str(number) for number in range(1, len(events) + 1)]
    types = [event["event"] for event in events if event["event"] != "progress"]
    assert types == ["queued", "started", "completed"]
    assert (events[-1]["data"]["status"], events[-1]["data"]["progress"]) == ("succeeded", 1.0)
    rest = await client.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "1"})
    assert parse_events(rest.text) == events[1:]
    nothing = await client.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": str(len(events))})
    assert (nothing.status_code, parse_events(nothing.text)) == (200, [])


async def test_idle_stream_sends_comments(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """FastAPI sends them, so that no proxy closes the stream."""
    monkeypatch.setattr(fastapi.routing, "_PING_INTERVAL", 0.05)

    async def slow(_: web.Request) -> web.FileResponse:
        await asyncio.sleep(0.5)
        return web.FileResponse(DATA / "en.mp3")

    app = web.Application()
    app.router.add_get("/audio", slow)
    async with TestServer(app, host="127.0.0.1") as server:
        job_id = (await client.post("/v1/jobs", json={"url": str(server.make_url("/audio"))})).json()["id"]
        stream = (await client.get(f"/v1/jobs/{job_id}/events")).text
    assert stream.count(": ping\n\n") >= 3
    events = parse_events(stream)
    assert [event["id"] for event in events] == [str(number) for number in range(1, len(events) + 1)]
    assert events[-1]["event"] == "completed"


@pytest.mark.parametrize("wrong", ["-1", "x", "1159695443188421115248640"])
async def test_invalid_event_requests(client: httpx.AsyncClient, wrong: str) -> None:
    assert (await client.get("/v1/jobs/unknown/events")).status_code == 404
    job_id = await submit(client)
    refused = await client.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": wrong})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "Last-Event-ID")


async def test_deliveries_are_listed_and_redelivered(client: httpx.AsyncClient) -> None:
    received: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    answers = [410]

    async def hook(request: web.Request) -> web.Response:
        await received.put((request.headers["webhook-id"], (await request.json())["type"]))
        return web.Response(status=answers.pop() if answers else 200)

    app = web.Application()
    app.router.add_post("/hook", hook)
    async with TestServer(app, host="127.0.0.1") as server:
        webhook = {"url": str(server.make_url("/hook")), "events": ["completed"]}
        job_id = await submit(client, webhook=json.dumps(webhook))
        first = await asyncio.wait_for(received.get(), 60)
        assert first[1] == "job.completed"
        await client.get(f"/v1/jobs/{job_id}/events")
        path = f"/v1/jobs/{job_id}/deliveries"
        async with asyncio.timeout(10):
            while (delivery := (await client.get(path)).json()["data"][0])["state"] == "pending":
                await asyncio.sleep(0.02)
        assert (delivery["id"], delivery["event"], delivery["state"]) == (first[0], "completed", "failed")
        assert [attempt["status"] for attempt in delivery["tries"]] == [410]
        gone = (await client.get("/v1/jobs", params={"webhook": "failed"})).json()["data"]
        assert [job["id"] for job in gone] == [job_id]
        unknown = await client.post(path, json={"id": "msg_other"})
        assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "id")
        again = await client.post(path)
        assert (again.status_code, again.json()["data"][0]["state"]) == (202, "pending")
        assert await asyncio.wait_for(received.get(), 60) == first
        async with asyncio.timeout(10):
            while (delivery := (await client.get(path)).json()["data"][0])["state"] == "pending":
                await asyncio.sleep(0.02)
        assert [attempt["status"] for attempt in delivery["tries"]] == [410, 200]
        assert (await client.get(f"/v1/jobs/{job_id}")).json()["webhook"] == "delivered"
    assert (await client.get("/v1/jobs/unknown/deliveries")).status_code == 404
