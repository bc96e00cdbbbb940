"""The blob store: uploaded audio, stored until its job has ended."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from serve_app.errors import NotFound, TooLarge
from serve_app.schemas.request import BlobSource, StrictModel

PART_BYTES = 8 * 2**20
"""Part size of writes to an object store, held in memory. S3 allows 10,000 parts, which is 80 GB."""

_KEY = re.compile(r"[0-9a-f]{32}")
_FILE_NAME = re.compile(rf"({_KEY.pattern})(\.upload|\.claimed)?")
"""Names of the store's files: blobs, and records of uploads that are available or being claimed."""


class Upload(StrictModel):
    """A blob that one job may claim by `id` until `expires_at`."""

    id: str
    source: BlobSource
    expires_at: datetime


class BlobStore:
    """Blobs under generated keys, in a local folder or behind an fsspec URL.

    File systems block, so every operation runs in a thread. `max_bytes`: maximum size of a blob.

    An upload is a blob and a record `ID.upload` with its key. Records are renamed into and out of place, so that a
    blob is claimed only once where renaming is atomic. An object store copies and deletes instead: there, two jobs
    that claim an upload at the same instant may both get it.
    """

    def __init__(self, root: str, max_bytes: int | None = None) -> None:
        # No cache of listings: other processes write too.
        self._fs, self._root = url_to_fs(root, use_listings_cache=False)
        self._max_bytes = max_bytes

    async def write(self, chunks: AsyncIterator[bytes]) -> BlobSource:
        """Store a stream of bytes. Raises TooLarge. An incomplete blob is deleted."""
        key, digest, size = uuid4().hex, hashlib.sha256(), 0
        file = await asyncio.to_thread(self._create, key)

        def add(chunk: bytes) -> None:
            digest.update(chunk)
            file.write(chunk)

        try:
            async for chunk in chunks:
                size += len(chunk)
                if self._max_bytes is not None and size > self._max_bytes:
                    raise TooLarge(
                        f"the upload is larger than the limit of {self._max_bytes} bytes", "file", "file_too_large"
                    )
                await asyncio.to_thread(add, chunk)
            await asyncio.to_thread(file.close)
        except BaseException:
            await asyncio.to_thread(self._discard, file, key)
            raise
        return BlobSource(key=key, digest=digest.hexdigest())

    async def copy(self, key: str, path: Path) -> None:
        """Copy a blob to a local file. Raises NotFound."""
        try:
            await asyncio.to_thread(self._fs.get_file, self._path(key), str(path))
        except FileNotFoundError:
            raise _not_found() from None

    async def delete(self, key: str) -> None:
        """Delete a blob if it exists."""
        with suppress(NotFound):
            await asyncio.to_thread(self._remove, self._path(key))

    async def make_available(self, upload: Upload) -> None:
        """Let a job claim a blob. Of two blobs under one id, the one that expires first is deleted."""
        await asyncio.to_thread(self._make_available, upload)

    async def claim(self, upload_id: str) -> Upload | None:
        """Claim the blob that is available under an id, for one job; None if there is none."""
        return await asyncio.to_thread(self._claim, upload_id) if _KEY.fullmatch(upload_id) else None

    async def sweep(self, before: datetime, in_use: Collection[str]) -> int:
        """Delete files last modified before a time, except the blobs `in_use`, and return their count.

        `in_use`: keys of the blobs of jobs that have not ended. It lacks blobs that no job has claimed yet, so
        `before` must be `uploads.sweep_after_s` ago, when all of those have expired. Files of others are not deleted.
        """
        return await asyncio.to_thread(self._sweep, before, frozenset(in_use))

    def _path(self, key: str, suffix: str = "") -> str:
        # Keys come back in requests: only keys of this store's form may reach the file system.
        if not _KEY.fullmatch(key):
            raise _not_found()
        return f"{self._root}/{key}{suffix}"

    def _create(self, key: str) -> Any:
        if isinstance(self._fs, LocalFileSystem):  # an object store has no folders, and its bucket must exist
            self._fs.makedirs(self._root, exist_ok=True)
        return self._fs.open(self._path(key), "wb", block_size=PART_BYTES)

    def _discard(self, file: Any, key: str) -> None:
        try:
            file.close()
        finally:
            self._remove(self._path(key))

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def _make_available(self, upload: Upload) -> None:
        available = self._claim(upload.id)
        stored, deleted = upload, available
        if available is not None and available.expires_at > upload.expires_at:
            stored, deleted = available, upload
        record = self._path(uuid4().hex, ".claimed")
        self._fs.pipe_file(record, stored.model_dump_json().encode())
        self._fs.mv(record, self._path(upload.id, ".upload"))
        if deleted is not None:
            self._remove(self._path(deleted.source.key))

    def _claim(self, upload_id: str) -> Upload | None:
        record = self._path(uuid4().hex, ".claimed")
        try:
            self._fs.mv(self._path(upload_id, ".upload"), record)
        except FileNotFoundError:
            return None
        upload = Upload.model_validate_json(self._fs.cat_file(record))
        self._remove(record)
        return upload

    def _sweep(self, before: datetime, in_use: frozenset[str]) -> int:
        try:
            paths: list[str] = self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return 0  # nothing was written yet
        swept = 0
        for path in paths:
            name = _FILE_NAME.fullmatch(path.rsplit("/", 1)[-1])
            if name is None or name[1] in in_use:
                continue
            with suppress(FileNotFoundError):  # its job ended meanwhile
                if self._fs.modified(path) < before:
                    self._fs.rm_file(path)
                    swept += 1
        return swept


def _not_found() -> NotFound:
    return NotFound("the upload does not exist, or its job has ended", "source", "upload_not_found")
