"""Downloads of audio from user-supplied URLs."""

import asyncio
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

import aiohttp

from serve_app.errors import AudioError, TooLarge
from serve_app.net.ssrf import was_refused
from serve_app.settings import LimitSettings

_CHUNK_BYTES = 2**18

BROKE_OFF = "the connection was lost while the audio was downloaded; the transcript covers only what had arrived"


async def fetch(
    session: aiohttp.ClientSession, url: str, path: Path, limits: LimitSettings, max_redirects: int
) -> str | None:
    """Download `url` to `path`; return a warning if the connection was lost midway, else None.

    `session` is a `guarded_session`. Raises `AudioError` (with param `url` and a code for the cause) or `TooLarge`, and
    leaves no file then.
    """
    try:
        async with asyncio.timeout(limits.fetch_timeout_s):
            return await _fetch(session, url, path, limits.max_upload_bytes, max_redirects)
    except BaseException as error:
        await asyncio.to_thread(path.unlink, missing_ok=True)
        if isinstance(error, TimeoutError | aiohttp.ClientError | UnicodeError):
            raise _explain(error, limits, max_redirects) from error
        raise


async def _fetch(
    session: aiohttp.ClientSession, url: str, path: Path, max_bytes: int, max_redirects: int
) -> str | None:
    request = session.get(
        url,
        # In aiohttp 0 means no limit, and the limit is the first number that fails.
        allow_redirects=max_redirects > 0,
        max_redirects=max_redirects + 1,
        timeout=aiohttp.ClientTimeout(total=None),
    )
    async with request as response:
        if not 200 <= response.status < 300:
            raise AudioError(f"the URL answered {_status(response.status)}", "url", "url_status")
        if response.content_length is not None and response.content_length > max_bytes:
            raise _too_large(max_bytes)
        with await asyncio.to_thread(path.open, "wb") as file:
            complete = await _copy(response.content, file, max_bytes)
            size = file.tell()
    if not complete and not size:
        raise AudioError("the connection to the URL was closed before any audio arrived", "url", "url_broke_off")
    return None if complete else BROKE_OFF


async def _copy(content: aiohttp.StreamReader, file: BinaryIO, max_bytes: int) -> bool:
    """Copy the body to a file; return whether it was complete. Bytes are counted after content decoding."""
    size = 0
    try:
        async for chunk in content.iter_chunked(_CHUNK_BYTES):
            size += len(chunk)
            if size > max_bytes:
                raise _too_large(max_bytes)
            file.write(chunk)
    except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
        # While an exception is set, aiohttp does not return the data already received.
        content.set_exception(None)  # type: ignore[arg-type]
        file.write(content.read_nowait()[: max_bytes - size])
        return False
    return True


def _explain(error: Exception, limits: LimitSettings, max_redirects: int) -> AudioError:
    host = error.host if isinstance(error, aiohttp.ClientConnectorError) else "the host"
    match error:
        case TimeoutError():
            text, code = f"took longer than {limits.fetch_timeout_s:g} s", "url_timeout"
        case _ if was_refused(error):
            text, code = "points at an address that is not on the public internet", "url_refused"
        case aiohttp.ClientConnectorDNSError():
            text, code = f"can't be fetched: the host name '{host}' can't be resolved", "url_unknown_host"
        case aiohttp.ClientSSLError():
            text, code = f"can't be fetched: no trusted TLS connection to '{host}'", "url_tls"
        case aiohttp.ClientConnectorError():
            text, code = f"can't be fetched: no connection to '{host}'", "url_unreachable"
        case aiohttp.TooManyRedirects():
            text, code = f"redirects more than {max_redirects} times", "url_redirects"
        case aiohttp.RedirectClientError() | UnicodeError():
            text, code = "redirects to something that is not an http:// or https:// URL", "url_redirects"
        case aiohttp.InvalidURL():
            text, code = "is not a URL", "invalid_url"
        case _:
            text, code = f"can't be fetched: '{type(error).__name__}' instead of an HTTP response", "url_unreachable"
    return AudioError(f"the URL {text}", "url", code)


def _status(status: int) -> str:
    # The server's own reason phrase is untrusted text.
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the file behind the URL is larger than {max_bytes} bytes", "url", "file_too_large")
