"""The service with a web server that serves recordings and receives the configured webhook."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.fronts.verda.helpers import Site
from tests.server import ARGS


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    app = web.Application()
    for name in ("audio", "slow", "hook"):
        app.router.add_route("*", f"/{name}", getattr(site, name))
    async with TestServer(app, host="127.0.0.1") as server:
        site.url = lambda path: str(server.make_url(path))
        yield site
        site.released.set()


@pytest.fixture
def args(site: Site) -> dict[str, Any]:
    return ARGS | {"verda": {"webhook": site.url("/hook")}}
