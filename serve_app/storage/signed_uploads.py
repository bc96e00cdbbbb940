"""Signed uploads: recordings uploaded before their job, to a signed URL that expires."""

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
"""Length of the key: that of an HMAC-SHA256 digest (RFC 2104, section 3)."""


class UploadToken(StrictModel):
    """Permission to upload one recording: the upload's id, expiry (Unix seconds), and the signature of both."""

    id: str
    expires: int
    signature: str


class Uploads:
    """Signs upload URLs, stores the recordings, and lets one job claim each.

    The URLs lead to the service itself with every blob store: a presigned PUT of S3 limits no size and reports no
    digest, so the service would have to read each recording again before its job could start.
    """

    def __init__(self, blobs: BlobStore, key: bytes, expires_s: float) -> None:
        self._blobs = blobs
        self._key = key
        self._lifetime = timedelta(seconds=expires_s)

    def create_token(self) -> UploadToken:
        """Create a token for a new upload."""
        upload_id = uuid4().hex
        # Rounded up, so that the URL works at least as long as promised.
        expires = math.ceil((_now() + self._lifetime).timestamp())
        return UploadToken(id=upload_id, expires=expires, signature=self._sign(upload_id, expires))

    def is_valid(self, token: UploadToken) -> bool:
        """Return whether the signature of a token is valid; it may have expired."""
        return hmac.compare_digest(self._sign(token.id, token.expires).encode(), token.signature.encode())

    async def put(self, token: UploadToken, chunks: AsyncIterator[bytes]) -> BlobSource:
        """Store a recording until a job claims it, replacing an earlier one under the same token.

        Raises Forbidden, and the errors of `BlobStore.write`. As with S3, only complete uploads count, the last one
        wins, and an upload that starts in time may finish late. A recording that a job has claimed is not replaced.
        """
        if not self.is_valid(token):
            raise Forbidden(
                "signature: the URL was changed after it was signed; use it exactly as returned",
                "signature",
                "invalid_signature",
            )
        if token.expires < _now().timestamp():
            raise Forbidden("expires: the URL has expired; create another upload", "expires", "url_expired")
        source = await self._blobs.write(chunks)
        await self._blobs.make_available(Upload(id=token.id, source=source, expires_at=_now() + self._lifetime))
        return source

    async def claim(self, upload_id: str) -> Upload:
        """Claim an uploaded recording for a job. Raises UploadNotFound."""
        upload = await self._blobs.claim(upload_id)
        if upload is None:
            raise UploadNotFound(
                "upload_id: there is no finished upload with this id, or another job has used it",
                "upload_id",
                "upload_not_found",
            )
        if upload.expires_at < _now():
            await self._blobs.delete(upload.source.key)
            raise UploadNotFound(
                "upload_id: the upload has expired; upload the recording again", "upload_id", "upload_expired"
            )
        return upload

    async def release(self, upload: Upload) -> None:
        """Make a claimed recording available again, as its job was refused."""
        await self._blobs.make_available(upload)

    def _sign(self, upload_id: str, expires: int) -> str:
        return hmac.new(self._key, f"PUT {upload_id} {expires}".encode(), hashlib.sha256).hexdigest()


def signing_key(settings: AppSettings) -> bytes:
    """Return the configured key, or the key in the data folder, which the first process creates."""
    if settings.uploads.signing_key is not None:
        return settings.uploads.signing_key.get_secret_value().encode()
    path = settings.data_dir / "upload-key"
    if not path.exists():
        _create_file(path, secrets.token_bytes(KEY_BYTES))
    return path.read_bytes()


def _create_file(path: Path, content: bytes) -> None:
    """Create a file readable by this user only, atomically: of several processes one wins, over NFS too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent) as file:  # with mode 0600
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(file.name, path)


def _now() -> datetime:
    return datetime.now(UTC)
