"""Webhooks of requests: invalid headers and URLs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import InvalidRequest
from serve_app.jobs.webhooks.validation import check_webhook
from serve_app.schemas.request import Webhook
from tests.jobs.helpers import (
    ON_SQLITE,
    OpenManager,
    request,
    succeed,
)


@ON_SQLITE
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Webhook-Id", "x"),
        ("webhook-signature", "v1,x"),
        ("CONTENT-TYPE", "text/plain"),
        ("Host", "internal"),
        ("Content-Length", "1"),
        ("X-A\r\nX-B", "x"),
        ("X A", "x"),
        ("", "x"),
        ("X-Ä", "x"),
        ("X-A", "x\r\nX-B: y"),
        ("X-A", "x\0"),
        ("X-A", "ä"),
    ],
)
async def test_invalid_headers_are_rejected(open_manager: OpenManager, name: str, value: str) -> None:
    bad = request(Webhook(url="https://example.com/done", headers={"X-Good": "g", name: value}))
    async with open_manager(succeed) as manager:
        for accept in (manager.submit, manager.register_sync):
            with pytest.raises(InvalidRequest) as refused:
                await accept(bad)
            assert refused.value.param == "webhook.headers"
            assert repr(name) in str(refused.value)
        assert (await manager.list(None, 10, None)).data == ()


@given(st.text(), st.text())
def test_accepted_headers_can_be_sent(name: str, value: str) -> None:
    try:
        check_webhook(Webhook(url="https://example.com", headers={name: value}))
    except InvalidRequest:
        return
    assert name
    assert f"{name}: {value}".isprintable()
    assert f"{name}: {value}".isascii()


@ON_SQLITE
async def test_invalid_url_is_rejected(open_manager: OpenManager) -> None:
    async with open_manager(succeed) as manager:
        with pytest.raises(InvalidRequest) as refused:
            await manager.submit(request(Webhook(url="ftp://example.com/done")))
    assert refused.value.param == "webhook.url"
