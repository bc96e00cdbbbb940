"""Recordings that are brought before their job, to a URL that is signed and expires."""

import hashlib
import hmac
import math
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from uuid import uuid4

from serve_app.errors import Forbidden, UploadNotFound
from serve_app.schemas.request import BlobSource, StrictModel
from serve_app.settings import AppSettings
from serve_app.storage.blobs import BlobStore, Upload

KEY_BYTES = 32
"""As long as what HMAC-SHA256 makes (RFC 2104, section 3)."""


class UploadToken(StrictModel):
    """Leave to bring one recording: its upload's id, until when (Unix seconds), the service's signature of both."""

    id: str
    expires: int
    signature: str


class Uploads:
    """Signs URLs, keeps what is put there, and hands it to one job.

    The URLs are the service's own, with every blob store: what S3 signs for a PUT limits no size, and tells
    nobody the digest, so that the service would have to read a recording once more before its job could begin.
    """

    def __init__(self, blobs: BlobStore, key: bytes, expires_s: float) -> None:
        self._blobs = blobs
        self._key = key
        self._waits = timedelta(seconds=expires_s)

    def ticket(self) -> UploadToken:
        """A new one."""
        upload_id = uuid4().hex
        # Rounded up: a URL never works shorter than was promised.
        expires = math.ceil((_now() + self._waits).timestamp())
        return UploadToken(id=upload_id, expires=expires, signature=self._sign(upload_id, expires))

    def is_valid(self, ticket: UploadToken) -> bool:
        """Return whether the signature of a token is valid; it may have expired."""
        return hmac.compare_digest(self._sign(ticket.id, ticket.expires).encode(), ticket.signature.encode())

    async def put(self, ticket: UploadToken, chunks: AsyncIterator[bytes]) -> BlobSource:
        """Keep a recording until its job comes, in the place of one that was put there before.

        Raises Forbidden, and what `BlobStore.write` does. As S3 has it: only a whole recording counts, the last one
        wins, and one that began in time may end late. What a job has taken already is the job's own.
        """
        if not self.is_valid(ticket):
            raise Forbidden("signature: the URL is not as it was signed", "signature", "invalid_signature")
        if ticket.expires < _now().timestamp():
            raise Forbidden("expires: the URL has expired; ask for another", "expires", "url_expired")
        source = await self._blobs.write(chunks)
        await self._blobs.make_available(Upload(id=ticket.id, source=source, expires_at=_now() + self._waits))
        return source

    async def claim(self, upload_id: str) -> Upload:
        """Take what was put there, for a job. Raises UploadNotFound."""
        upload = await self._blobs.claim(upload_id)
        if upload is None:
            raise UploadNotFound(
                "upload_id: there is no finished upload with this id, or another job has used it",
                "upload_id",
                "upload_not_found",
            )
        if upload.expires_at < _now():
            await self._blobs.delete(upload.source.key)
            raise UploadNotFound("upload_id: the upload has expired; bring it again", "upload_id", "upload_expired")
        return upload

    async def give_back(self, upload: Upload) -> None:
        """Let what was claimed wait again: there was no job after all."""
        await self._blobs.make_available(upload)

    def _sign(self, upload_id: str, expires: int) -> str:
        return hmac.new(self._key, f"PUT {upload_id} {expires}".encode(), hashlib.sha256).hexdigest()


def signing_key(settings: AppSettings) -> bytes:
    """The configured key, or the one in the data folder, which the first process to ask makes."""
    if settings.uploads.signing_key is not None:
        return settings.uploads.signing_key.get_secret_value().encode()
    path = settings.data_dir / "upload-key"
    if not path.exists():
        _make(path, secrets.token_bytes(KEY_BYTES))
    return path.read_bytes()


def _make(path: Path, content: bytes) -> None:
    """A file for this user only. It appears whole, and once: of several processes one wins, over NFS too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent) as file:  # made with mode 0600
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(file.name, path)


def _now() -> datetime:
    return datetime.now(UTC)
