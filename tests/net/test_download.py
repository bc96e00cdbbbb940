"""Downloads from servers that behave well or badly."""

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from serve_app.errors import AudioError, ServiceError, TooLarge
from serve_app.net.download import fetch
from serve_app.net.ssrf import guarded_session
from serve_app.settings import LimitSettings, NetworkSettings

LIMITS = LimitSettings(max_upload_bytes=1_000_000, fetch_timeout_s=5)
BODY = bytes(range(256)) * 1000

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def run_server(handler: Handler) -> AsyncIterator[str]:
    """Yield the URL of a server that answers every request with `handler`."""
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def run_raw_server(answer: bytes, delay_s: float = 0.0) -> AsyncIterator[str]:
    """Yield the URL of a server that sends exactly these bytes and closes the connection."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        await asyncio.sleep(delay_s)
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with guarded_session(NetworkSettings(allow_private_addresses=True)) as session:
        yield session
        assert isinstance(session.connector, aiohttp.TCPConnector)
        assert not session.connector._acquired, "a connection was left unread"


def list_files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def download_error(
    session: aiohttp.ClientSession, url: str, path: Path, limits: LimitSettings = LIMITS
) -> ServiceError:
    """Return the error of a download that fails and leaves no file."""
    with pytest.raises(ServiceError) as caught:
        await fetch(session, url, path, limits, max_redirects=2)
    assert caught.value.param == "url"
    assert list_files(path.parent) == []
    return caught.value


async def test_file_is_downloaded(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    async def serve(request: web.Request) -> web.Response:
        return web.Response(body=BODY)

    async with run_server(serve) as url:
        assert await fetch(session, url, tmp_path / "audio", LIMITS, max_redirects=0) is None
    assert (tmp_path / "audio").read_bytes() == BODY


async def test_credentials_in_the_url_are_sent(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    async def serve(request: web.Request) -> web.Response:
        return web.Response(text=request.headers["Authorization"])

    async with run_server(serve) as url:
        await fetch(session, url.replace("//", "//user:secret@"), tmp_path / "audio", LIMITS, 0)
    assert (tmp_path / "audio").read_text() == "Basic dXNlcjpzZWNyZXQ="


@pytest.mark.parametrize("status", [204, 304, 400, 401, 404, 418, 500, 503, 599])
async def test_error_statuses_are_named(session: aiohttp.ClientSession, tmp_path: Path, status: int) -> None:
    async def serve(request: web.Request) -> web.Response:
        return web.Response(status=status, body=None if status in (204, 304) else BODY)

    async with run_server(serve) as url:
        if status == 204:
            await fetch(session, url, tmp_path / "audio", LIMITS, 0)
            assert (tmp_path / "audio").read_bytes() == b""
        else:
            error = await download_error(session, url, tmp_path / "audio")
            assert isinstance(error, AudioError)
            assert str(status) in error.message


async def test_declared_size_over_the_limit(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000001\r\n\r\n"
    async with run_raw_server(head, delay_s=1) as url:
        error = await asyncio.wait_for(download_error(session, url, tmp_path / "audio"), 0.9)
    assert isinstance(error, TooLarge)
    assert "1000000 bytes" in error.message


async def test_undeclared_size_over_the_limit(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(BODY)
            sent += len(BODY)

    async with run_server(endless) as url:
        assert isinstance(await download_error(session, url, tmp_path / "audio"), TooLarge)
    assert sent < 50_000_000


async def test_decompressed_size_is_limited(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    async def bomb(request: web.Request) -> web.Response:
        size = int(request.query["size"])
        return web.Response(body=gzip.compress(bytes(size)), headers={"Content-Encoding": "gzip"})

    async with run_server(bomb) as url:
        await fetch(session, f"{url}?size=1000000", tmp_path / "audio", LIMITS, 0)
        assert (tmp_path / "audio").stat().st_size == 1_000_000
        assert isinstance(await download_error(session, f"{url}?size=1000001", tmp_path / "audio"), TooLarge)
        assert isinstance(await download_error(session, f"{url}?size=100000000", tmp_path / "audio"), TooLarge)


@pytest.mark.parametrize(("redirects", "allowed"), [(0, 0), (1, 1), (2, 2), (1, 0), (3, 2)])
async def test_redirects_are_limited(
    session: aiohttp.ClientSession, tmp_path: Path, redirects: int, allowed: int
) -> None:
    async def serve(request: web.Request) -> web.Response:
        remaining = int(request.query["remaining"])
        if remaining:
            raise web.HTTPFound(f"/?remaining={remaining - 1}")
        return web.Response(body=BODY)

    async with run_server(serve) as url:
        fetching = fetch(session, f"{url}/?remaining={redirects}", tmp_path / "audio", LIMITS, allowed)
        if redirects <= allowed:
            await fetching
            assert (tmp_path / "audio").read_bytes() == BODY
        else:
            with pytest.raises(AudioError, match=r"302 Found|redirects more than 2 times"):
                await fetching


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/", "http://", "http://[::1", f"http://{'a' * 70}.example/"]
)
async def test_redirects_to_invalid_urls(session: aiohttp.ClientSession, tmp_path: Path, target: str) -> None:
    async with run_raw_server(f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()) as url:
        assert isinstance(await download_error(session, url, tmp_path / "audio"), AudioError)


async def test_private_address_is_rejected(tmp_path: Path) -> None:
    async with guarded_session(NetworkSettings()) as session:
        error = await download_error(session, "http://127.0.0.1:1/", tmp_path / "audio")
    assert error.code == "url_refused"
    assert "public internet" in error.message


async def test_unknown_host(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    error = await download_error(session, "http://no-such-host.invalid/", tmp_path / "audio")
    assert error.code == "url_unknown_host"
    assert "no-such-host.invalid" in error.message


async def test_closed_port(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        error = await download_error(session, f"http://127.0.0.1:{unused.getsockname()[1]}/", tmp_path / "audio")
    assert error.code == "url_unreachable"


async def test_server_without_tls(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"this is not TLS\r\n" * 20)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        error = await download_error(session, url, tmp_path / "audio")
    assert error.code == "url_tls"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"])
async def test_timeout(session: aiohttp.ClientSession, tmp_path: Path, answer: bytes) -> None:
    limits = LimitSettings(fetch_timeout_s=0.3)
    async with run_raw_server(answer, delay_s=2) as url:
        error = await asyncio.wait_for(download_error(session, url, tmp_path / "audio", limits), 1.5)
    assert error.code == "url_timeout"
    assert "0.3 s" in error.message


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 2", b"\xff" * 100])
async def test_invalid_http(session: aiohttp.ClientSession, tmp_path: Path, answer: bytes) -> None:
    async with run_raw_server(answer) as url:
        assert isinstance(await download_error(session, url, tmp_path / "audio"), AudioError)


@pytest.mark.parametrize("body", [BODY, BODY[:100]], ids=["much", "little"])
@pytest.mark.parametrize(
    "head", ["Content-Length: 300000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n493E0\r\n"], ids=["length", "chunked"]
)
async def test_truncated_body_is_kept_with_a_warning(
    session: aiohttp.ClientSession, tmp_path: Path, head: str, body: bytes
) -> None:
    async with run_raw_server(f"HTTP/1.1 200 OK\r\n{head}".encode() + body) as url:
        warning = await fetch(session, url, tmp_path / "audio", LIMITS, 0)
    assert warning is not None
    assert "connection was lost" in warning
    assert (tmp_path / "audio").read_bytes() == body


async def test_missing_body(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    async with run_raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n") as url:
        error = await download_error(session, url, tmp_path / "audio")
    assert error.code == "url_broke_off"


async def test_cancelling_leaves_no_file(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    started = asyncio.Event()

    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            if list_files(tmp_path):
                started.set()
            await asyncio.sleep(0.01)

    async with run_server(trickle) as url:
        task = asyncio.create_task(fetch(session, url, tmp_path / "audio", LIMITS, 0))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert list_files(tmp_path) == []
