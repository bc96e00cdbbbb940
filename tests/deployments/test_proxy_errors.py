"""Serve's own errors as clients see them."""

import httpx
import pytest
from ray.serve._private.http_util import RequestIdMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.proxy_errors import ProxyErrorMiddleware


async def asked(app: ASGIApp, path: str = "/v1/jobs/a") -> httpx.Response:
    transport = httpx.ASGITransport(ProxyErrorMiddleware(RequestIdMiddleware(app)))  # the order Serve puts them in
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        return await client.get(path)


async def dies(scope: Scope, receive: Receive, send: Send) -> None:
    """What Serve does when the replica is lost."""


@pytest.mark.parametrize(
    ("app", "code"),
    [
        (PlainTextResponse("Path '/v1/jobs/a' not found.", 404), "starting"),
        (PlainTextResponse("Deployment is unavailable.", 503), "unavailable"),
        (dies, "unavailable"),
    ],
)
async def test_what_serve_answers_itself_is_to_be_tried_again(app: ASGIApp, code: str) -> None:
    found = await asked(app)
    assert found.status_code == 503
    error = found.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("server_error", None, code)
    assert found.headers["x-request-id"]
    assert int(found.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    "response",
    [
        PlainTextResponse("one two", 200),
        PlainTextResponse("took too long", 408),
        JSONResponse({"error": {"code": "not_found"}}, 404),
        JSONResponse({"error": {"code": "internal_error"}}, 500),
    ],
)
async def test_every_other_answer_is_left_as_it_is(response: Response) -> None:
    found = await asked(response)
    assert (found.status_code, found.content) == (response.status_code, response.body)


async def test_serves_own_paths_are_left_as_they_are() -> None:
    assert (await asked(PlainTextResponse("no routes", 503), "/-/healthz")).text == "no routes"
