"""The addresses that audio URLs and webhooks may reach."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from serve_app.errors import InvalidRequest
from serve_app.net import ssrf
from serve_app.settings import NetworkSettings

GUARDED = NetworkSettings()
OPEN = NetworkSettings(allow_private_addresses=True)


@asynccontextmanager
async def run_server(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[int]:
    """Run a server on every IPv4 address of this machine; yield its port."""
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "0.0.0.0", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def hello(request: web.Request) -> web.Response:
    return web.Response(text="hello")


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.0.1"),
        *("169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
        *("198.18.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1"),
        *("255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fd00:ec2::254", "fc00::1", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1"),
        *(
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2001:0:7f00:1::1",
            "2001:db8::1",
        ),
        *("100::1", "5f00::1", "4000::1"),
    ],
)
def test_private_addresses_are_not_public(address: str) -> None:
    assert not ssrf.is_public(address)


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_public_addresses(address: str) -> None:
    assert ssrf.is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "2130706433", "0x7f000001", "0x7f.1", "127.1", "017700000001", "0", "0.0.0.0"),
        *("[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::]", "①②⑦.0.0.1", "127.0.0.1."),
    ],
)
async def test_all_spellings_of_localhost_are_refused(host: str) -> None:
    reached = []

    async def record_request(request: web.Request) -> web.Response:
        reached.append(request.host)
        return web.Response()

    async with run_server(record_request) as port, ssrf.guarded_session(GUARDED) as session:
        with pytest.raises(aiohttp.ClientError) as caught:
            await session.get(f"http://{host}:{port}/")
    assert reached == []
    assert ssrf.was_refused(caught.value) or isinstance(caught.value, aiohttp.InvalidURL)


async def test_private_addresses_can_be_allowed() -> None:
    async with run_server(hello) as port, ssrf.guarded_session(OPEN) as session:
        response = await session.get(f"http://127.0.0.1:{port}/")
        assert await response.text() == "hello"


async def test_redirect_to_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssrf, "is_public", lambda address: address == "127.0.0.1")
    reached = []

    async def redirect(request: web.Request) -> web.StreamResponse:
        reached.append(request.host.split(":")[0])
        raise web.HTTPFound(f"http://127.0.0.2:{request.url.port}/")

    async with run_server(redirect) as port, ssrf.guarded_session(GUARDED) as session:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await session.get(f"http://127.0.0.1:{port}/")
    assert ssrf.was_refused(caught.value)
    assert reached == ["127.0.0.1"]


async def test_cookies_are_not_stored() -> None:
    cookies = []

    async def set_cookie(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("Cookie"))
        response = web.Response()
        response.set_cookie("who", "alice")
        return response

    async with run_server(set_cookie) as port, ssrf.guarded_session(OPEN) as session:
        for _ in range(2):
            async with session.get(f"http://localhost:{port}/"):
                pass
    assert cookies == [None, None]


async def test_no_proxy_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with run_server(hello) as port, ssrf.guarded_session(OPEN) as session:
        response = await session.get(f"http://127.0.0.1:{port}/")
        assert await response.text() == "hello"


@pytest.mark.parametrize(
    "url",
    [
        *("http://example.com", "https://example.com/a%2Fb.mp3?X-Signature=a%2Bb%3D#t", "HTTP://EXAMPLE.COM:8080/"),
        *("http://user:secret@example.com/", "http://exämple.com/ü.mp3", "http://example.com/my file.mp3"),
        *("http://[2606:4700::1111]/", "http://minio_1.default.svc.cluster.local.:9000/x", "http://10.0.0.1/"),
        "https://example.com/" + "a" * 8000,
    ],
)
def test_valid_urls(url: str) -> None:
    ssrf.check_url(url, "url")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "no scheme"),
        ("None", "no scheme"),
        ("example.com/a.mp3", "no scheme"),
        ("//example.com/a.mp3", "no scheme"),
        ("/etc/passwd", "no scheme"),
        ("file:///etc/passwd", "scheme 'file'"),
        ("ftp://example.com/a.mp3", "scheme 'ftp'"),
        ("unix:///var/run/docker.sock", "scheme 'unix'"),
        ("http:///a.mp3", "no host"),
        ("http:example.com", "no host"),
        ("http://", "no host"),
        ("http://[::1", "not a URL"),
        ("http://example.com:99999/", "not a URL"),
        ("http://example.com:eighty/", "not a URL"),
        ("http://example.com:0/", "port 0"),
        ("http://example.com\\@127.0.0.1/", "not a URL"),
        ("http://a b/", "impossible host"),
        ("http://a..b/", "impossible host"),
        ("http://2130706433/", "impossible host"),
        ("http://127.1/", "impossible host"),
        ("http://256.1.1.1/", "impossible host"),
        ("http://%31/", "impossible host"),
        ("http://a%00b/", "impossible host"),
        ("http://" + "a" * 64 + ".com/", "impossible host"),
        ("http://" + "a." * 127 + "com/", "impossible host"),
        ("http://example.com/\r\nHost: evil", "control characters"),
        ("http://exam\tple.com/", "control characters"),
        ("http://example.com/\x00", "control characters"),
        (" http://example.com/", "spaces around"),
        ("http://us%3Aer:secret@example.com/", "credentials"),
        ("http://ключ:secret@example.com/", "credentials"),
        ("https://example.com/" + "a" * 8192, "longer than 8192"),
    ],
)
def test_invalid_urls(url: str, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem) as caught:
        ssrf.check_url(url, "webhook.url")
    assert caught.value.param == "webhook.url"
    assert caught.value.status == 400
