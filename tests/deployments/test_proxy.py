"""Serve's own errors as clients see them."""

import httpx
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from deployments.proxy import OurErrors


async def asked(response: Response, path: str = "/v1/jobs/a") -> httpx.Response:
    transport = httpx.ASGITransport(OurErrors(response))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        return await client.get(path)


@pytest.mark.parametrize(("status", "code"), [(404, "starting"), (500, "unavailable"), (503, "unavailable")])
async def test_an_error_of_serves_own_is_one_to_try_again(status: int, code: str) -> None:
    found = await asked(PlainTextResponse("Path '/v1/jobs/a' not found.", status))
    assert found.status_code == 503
    error = found.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("server_error", None, code)


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
