"""Storage of the audio in a request body."""

from collections.abc import AsyncIterator

from starlette.datastructures import UploadFile

from serve_app.audio.inline import decode_base64
from serve_app.schemas.request import BlobSource
from serve_app.storage.blobs import BlobStore

CHUNK_BYTES = 2**20


async def store_upload(blobs: BlobStore, file: UploadFile) -> BlobSource:
    """Store an uploaded file as a blob."""

    async def chunks() -> AsyncIterator[bytes]:
        while chunk := await file.read(CHUNK_BYTES):
            yield chunk

    return await blobs.write(chunks())


async def store_base64(blobs: BlobStore, text: str, param: str) -> BlobSource:
    """Store base64 audio, which may be a data URL, as a blob. Raises InvalidRequest that names the field `param`."""
    data = decode_base64(text, param)

    async def chunks() -> AsyncIterator[bytes]:
        yield data

    return chunks()
