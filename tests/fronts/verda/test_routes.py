"""Verda's API: synchronous and asynchronous inferences, webhooks, health and the OpenAPI document."""

import asyncio
import time

import httpx
import pytest

from serve_app.services.transcription import Service
from tests.fronts.helpers import EN
from tests.fronts.verda.helpers import ID, Site, get_result, get_status, wait_until_done
from tests.server import ARGS


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "/whisper-example-mp3", "/v1-large"])
@pytest.mark.parametrize("prefer", [None, "respond-async-container", "handling=lenient", "wait=5"])
async def test_synchronous_inference(client: httpx.AsyncClient, site: Site, prefix: str, prefer: str | None) -> None:
    headers = {} if prefer is None else {"Prefer": prefer}
    answer = await client.post(f"{prefix}/generate", json={"url": site.url("/audio")}, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"result": EN})
    expected = "respond-async-container" if prefer == "respond-async-container" else None
    assert answer.headers.get("preference-applied") == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "deployment"), [("/generate", "whisper"), ("/mine/generate", "mine"), ("/mine/generate_webhook", "mine")]
)
async def test_asynchronous_inference(client: httpx.AsyncClient, site: Site, path: str, deployment: str) -> None:
    answer = await client.post(path, json={"url": site.url("/slow")}, headers={"Prefer": "Respond-Async"})
    accepted = answer.json()
    assert answer.status_code == 202
    assert accepted == {
        "Id": answer.headers[ID],
        "StatusPath": f"/status/{deployment}",
        "ResultPath": f"/result/{deployment}",
    }
    assert answer.headers["location"] == accepted["ResultPath"]
    assert answer.headers["preference-applied"] == "respond-async"
    id_header = {ID: accepted["Id"]}

    state = (await client.get(accepted["StatusPath"], headers=id_header)).json()
    assert (state["Error"], state["Status"] in (1, 2)) == (None, True)
    not_ready = await client.get(accepted["ResultPath"], headers=id_header)
    assert not_ready.status_code == 404
    assert "no result yet" in not_ready.json()["detail"]
    assert accepted["StatusPath"] in not_ready.json()["detail"]

    site.released.set()
    assert (await wait_until_done(client, accepted["Id"]))["Error"] is None
    ready = await client.get(accepted["ResultPath"], headers=id_header)
    assert (ready.status_code, ready.json()) == (202, {"result": EN})
    if path.endswith("_webhook"):
        assert await asyncio.wait_for(site.received.get(), 20) == {"result": EN}


@pytest.mark.slow
async def test_status_numbers(client: httpx.AsyncClient, site: Site) -> None:
    """Eight jobs run at a time, and the ninth is queued."""
    body, headers = {"url": site.url("/slow")}, {"Prefer": "respond-async"}
    ids = [(await client.post("/generate", json=body, headers=headers)).headers[ID] for _ in range(9)]
    async with asyncio.timeout(20):
        while [(await get_status(client, job_id))["Status"] for job_id in ids] != [2] * 8 + [1]:
            await asyncio.sleep(0.02)
    site.released.set()
    for job_id in ids:
        assert (await wait_until_done(client, job_id))["Status"] == 3


@pytest.mark.slow
async def test_inference_id_chosen_by_the_client(client: httpx.AsyncClient, site: Site) -> None:
    headers, body = {"Prefer": "respond-async", ID: "call-17.a"}, {"url": site.url("/audio")}
    for _ in range(2):
        answer = await client.post("/x/generate", json=body, headers=headers)
        assert (answer.status_code, answer.json()["Id"], answer.headers[ID]) == (202, "call-17.a", "call-17.a")
    other = await client.post("/x/generate", json=body | {"language": "en"}, headers=headers)
    assert other.status_code == 422
    assert f"{ID}: 'call-17.a'" in other.json()["detail"]
    await wait_until_done(client, "call-17.a")
    assert [job["id"] for job in (await client.get("/v1/jobs")).json()["data"]] == ["call-17.a"]


async def test_failed_inference_has_an_error(client: httpx.AsyncClient, site: Site) -> None:
    body = {"url": site.url("/none")}
    at_once = await client.post("/generate", json=body)
    assert at_once.status_code == 400
    assert "404 Not Found" in at_once.json()["detail"]
    submitted = await client.post("/generate", json=body, headers={"Prefer": "respond-async"})
    state = await wait_until_done(client, submitted.json()["Id"])
    assert (state["Status"], state["Error"]) == (3, at_once.json()["detail"])
    for late in (
        await get_result(client, state["Id"]),
        await client.post("/generate", json=body, headers={"Prefer": "respond-async, wait=30"}),
    ):
        assert (late.status_code, late.json()) == (400, at_once.json())


async def test_cancelled_inference_has_no_result(client: httpx.AsyncClient, site: Site) -> None:
    body, headers = {"url": site.url("/slow")}, {"Prefer": "respond-async", ID: "c"}
    await client.post("/generate", json=body, headers=headers)
    await client.delete("/v1/jobs/c")
    assert await get_status(client, "c") == {"Id": "c", "Error": "the inference was cancelled", "Status": 3}
    answer = await get_result(client, "c")
    assert (answer.status_code, answer.json()) == (409, {"detail": "the inference was cancelled"})


async def test_wait_returns_the_text(client: httpx.AsyncClient, site: Site) -> None:
    headers = [("prefer", "foo=bar, RESPOND-ASYNC"), ("Prefer", "wait=60")]
    answer = await client.post("/generate", json={"url": site.url("/audio")}, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"result": EN})
    assert answer.headers["preference-applied"] == "wait=60"
    assert (await get_result(client, answer.headers[ID])).json() == {"result": EN}


@pytest.mark.parametrize(("wait", "at_least"), [("1", 1), ("0", 0), ("soon", 0), ("-1", 0), ('"²"', 0)])
async def test_respond_async_after_the_wait(client: httpx.AsyncClient, site: Site, wait: str, at_least: float) -> None:
    began = time.monotonic()
    headers = [(b"Prefer", f"respond-async, wait={wait}".encode("latin-1"))]
    async with asyncio.timeout(30):  # the audio never comes
        answer = await client.post("/generate", json={"url": site.url("/slow")}, headers=headers)
    assert time.monotonic() - began >= at_least
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "respond-async")


async def test_wait_is_limited(client: httpx.AsyncClient, site: Site, service: Service) -> None:
    limits = service.settings.limits.model_copy(update={"request_timeout_s": 0.2})
    service.settings = service.settings.model_copy(update={"limits": limits})
    headers = {"Prefer": f"respond-async, wait={'9' * 500}"}
    async with asyncio.timeout(30):  # the audio never comes
        answer = await client.post("/generate", json={"url": site.url("/slow")}, headers=headers)
    assert answer.status_code == 202


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/generate", "/x/generate", "/generate_webhook"])
async def test_fire_and_forget(client: httpx.AsyncClient, site: Site, path: str) -> None:
    headers = {"Prefer": "respond-async-proxy"}
    answer = await client.post(path, json={"url": site.url("/audio")}, headers=headers)
    assert (answer.status_code, answer.content) == (202, b"")
    assert answer.headers["preference-applied"] == "respond-async-proxy"
    assert (await wait_until_done(client, answer.headers[ID]))["Error"] is None
    if path.endswith("_webhook"):
        assert await asyncio.wait_for(site.received.get(), 20) == {"result": EN}


@pytest.mark.parametrize("prefer", [{}, {"Prefer": "respond-async-container"}])
async def test_webhook_receives_the_text(client: httpx.AsyncClient, site: Site, prefer: dict[str, str]) -> None:
    body = {"url": site.url("/audio")}
    answer = await client.post("/x/generate_webhook", json=body, headers=prefer | {ID: "w"})
    assert (answer.status_code, answer.json(), answer.headers[ID]) == (202, {"status": "accepted"}, "w")
    assert await asyncio.wait_for(site.received.get(), 20) == {"result": EN}


async def test_failure_sends_no_webhook(client: httpx.AsyncClient, site: Site) -> None:
    answer = await client.post("/generate_webhook", json={"url": site.url("/none")})
    assert (await wait_until_done(client, answer.headers[ID]))["Error"]
    assert (await client.get(f"/v1/jobs/{answer.headers[ID]}/deliveries")).json()["data"] == []


@pytest.mark.parametrize("args", [ARGS])
async def test_no_configured_webhook(client: httpx.AsyncClient) -> None:
    answer = await client.post("/generate_webhook", json={"url": "http://127.0.0.1:1/a"})
    assert (answer.status_code, answer.json()) == (500, {"status": "error", "details": "webhook not defined"})
    assert (await client.get("/v1/jobs")).json()["data"] == []


async def test_transcription_options(client: httpx.AsyncClient, site: Site) -> None:
    body = {"url": site.url("/audio"), "language": "english", "beam_size": 2, "timestamps": "none"}
    answer = await client.post("/generate", json=body, headers={"Prefer": "respond-async", ID: "o"})
    assert answer.status_code == 202, answer.text
    options = (await client.get("/v1/jobs/o")).json()["options"]
    assert (options["language"], options["beam_size"], options["timestamps"]) == ("en", 2, "none")
    await wait_until_done(client, "o")


async def test_health(client: httpx.AsyncClient, service: Service) -> None:
    async def not_ready() -> bool:
        return False

    for path in ("/health", "/x/health"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    service.ready = not_ready
    for path in ("/health", "/x/health"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()) == (503, {"status": "loading"})


@pytest.mark.slow
@pytest.mark.parametrize("args", [ARGS | {"jobs": {"retention_s": 1}}])
async def test_result_is_deleted_after_the_retention_time(client: httpx.AsyncClient, site: Site) -> None:
    headers = {"Prefer": "respond-async, wait=30"}
    answer = await client.post("/generate", json={"url": site.url("/audio")}, headers=headers)
    assert (await get_result(client, answer.headers[ID])).status_code == 202
    async with asyncio.timeout(20):
        while (gone := await get_result(client, answer.headers[ID])).status_code == 202:
            await asyncio.sleep(0.1)
    assert (gone.status_code, "deleted after a while" in gone.json()["detail"]) == (404, True)


async def test_openapi_document(client: httpx.AsyncClient) -> None:
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
