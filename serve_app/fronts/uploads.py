"""The audio in a request body, as chunks of bytes."""

from collections.abc import AsyncIterator

from starlette.datastructures import UploadFile

from serve_app.audio.inline import from_base64

CHUNK = 2**20


async def file_chunks(file: UploadFile) -> AsyncIterator[bytes]:
    """Yield the bytes of an uploaded file."""
    while chunk := await file.read(CHUNK):
        yield chunk


def base64_chunks(text: str, param: str) -> AsyncIterator[bytes]:
    """Return the bytes of base64 audio, which may be a data URL. Raises InvalidRequest that names the field `param`."""
    data = from_base64(text, param)

    async def chunks() -> AsyncIterator[bytes]:
        yield data

    return chunks()
