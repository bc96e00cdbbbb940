"""Serve's own errors as clients see them."""

import httpx
import pytest
from ray.serve._private.http_util import RequestIdMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.proxy_errors import ProxyErrorMiddleware


async def get(app: ASGIApp, path: str = "/v1/jobs/a") -> httpx.Response:
    transport = httpx.ASGITransport(ProxyErrorMiddleware(RequestIdMiddleware(app)))  # the order Serve puts them in
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        return await client.get(path)


async def send_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Send nothing, as Serve does when the replica is lost."""


@pytest.mark.parametrize(
    ("app", "code"),
    [
        (PlainTextResponse("Path '/v1/jobs/a' not found.", 404), "starting"),
        (PlainTextResponse("Deployment is unavailable.", 503), "unavailable"),
        (send_nothing, "unavailable"),
    ],
)
async def test_errors_of_serve_can_be_retried(app: ASGIApp, code: str) -> None:
    answer = await get(app)
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("server_error", None, code)
    assert answer.headers["x-request-id"]
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    "response",
    [
        PlainTextResponse("one two", 200),
        PlainTextResponse("took too long", 408),
        JSONResponse({"error": {"code": "not_found"}}, 404),
        JSONResponse({"error": {"code": "internal_error"}}, 500),
    ],
)
async def test_other_answers_are_unchanged(response: Response) -> None:
    answer = await get(response)
    assert (answer.status_code, answer.content) == (response.status_code, response.body)


async def test_paths_of_serve_are_unchanged() -> None:
    assert (await get(PlainTextResponse("no routes", 503), "/-/healthz")).text == "no routes"
