"""Selection of fronts, and the methods of their paths."""

import httpx
import pytest

from serve_app.fronts.registry import FRONTS, select_fronts

PATHS = {
    "openai": "/v1/audio/transcriptions",
    "insanely_fast": "/",
    "verda": "/generate",
    "octoai": "/infer",
    "tiyaro": "/v1/input/upload-url",
}


def test_all_optional_fronts_are_listed() -> None:
    assert {front.name for front in FRONTS if front.is_optional} == set(PATHS)


def test_unknown_front() -> None:
    with pytest.raises(ValueError, match=r"unknown \['native', 'nobody'\]; allowed are .*openai"):
        select_fronts(FRONTS, ["openai", "nobody", "native"])


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/jobs", "GET, POST"),
        ("/v1/jobs/x", "GET, DELETE"),
        ("/v1/jobs/x/deliveries", "GET, POST"),
        ("/v1/uploads", "POST"),
        ("/v1/uploads/x", "PUT"),
    ],
)
async def test_allow_header_of_a_path(client: httpx.AsyncClient, path: str, methods: str) -> None:
    answer = await client.patch(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, methods)


@pytest.mark.parametrize("args", [{"fronts": [front]} for front in PATHS], ids=list(PATHS))
async def test_disabled_front_has_no_paths(client: httpx.AsyncClient, args: dict[str, list[str]]) -> None:
    for front, path in PATHS.items():
        status = (await client.post(path, content=b"")).status_code
        assert (status in (404, 405)) == (front not in args["fronts"]), front
    assert (await client.get("/v1/jobs")).status_code == 200
