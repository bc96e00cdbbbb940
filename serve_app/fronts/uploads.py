"""Audio in a request body, on its way to the blob store."""

from collections.abc import AsyncIterator

from starlette.datastructures import UploadFile

from serve_app.audio.inline import decode_base64
from serve_app.schemas.request import BlobSource
from serve_app.storage.blobs import BlobStore

CHUNK = 2**20


async def store(blobs: BlobStore, file: UploadFile) -> BlobSource:
    """Keep an uploaded file as a blob."""

    async def chunks() -> AsyncIterator[bytes]:
        while chunk := await file.read(CHUNK):
            yield chunk

    return await blobs.write(chunks())


async def store_base64(blobs: BlobStore, text: str, param: str) -> BlobSource:
    """Keep base64 audio, bare or in a data URL, as a blob."""
    data = decode_base64(text, param)

    async def chunks() -> AsyncIterator[bytes]:
        yield data

    return await blobs.write(chunks())
