"""Uploaded audio, kept until its job has ended."""

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
"""Bytes sent to an object store at a time, and held in memory by a write. S3 allows 10,000 parts: 80 GB."""

_KEY = re.compile(r"[0-9a-f]{32}")
_OURS = re.compile(rf"({_KEY.pattern})(\.upload|\.taken)?")
"""Every name this store gives: blobs, and records of uploads, waiting or just taken."""


class Upload(StrictModel):
    """A blob that waits for its job under `id`, until `expires_at`."""

    id: str
    source: BlobSource
    expires_at: datetime


class BlobStore:
    """Bytes under keys that the store makes up, in a local folder or behind an fsspec URL.

    File systems block, so everything runs in threads. `max_bytes`: the largest blob.

    An upload is a blob and a record `ID.upload` that says which. Records are only ever renamed into and out of
    their place: a blob is handed out once where renaming is atomic. An object store copies and deletes
    instead, so there two jobs that ask in the same instant may both get it.
    """

    def __init__(self, root: str, max_bytes: int | None = None) -> None:
        # Several processes write: a listing kept in this one would soon be wrong.
        self._fs, self._root = url_to_fs(root, use_listings_cache=False)
        self._max_bytes = max_bytes

    async def write(self, chunks: AsyncIterator[bytes]) -> BlobSource:
        """Keep a stream of bytes. Raises TooLarge; a broken-off blob leaves nothing behind."""
        key, digest, size = uuid4().hex, hashlib.sha256(), 0
        file = await asyncio.to_thread(self._create, key)

        def add(chunk: bytes) -> None:
            digest.update(chunk)
            file.write(chunk)

        try:
            async for chunk in chunks:
                size += len(chunk)
                if self._max_bytes is not None and size > self._max_bytes:
                    raise TooLarge(f"the upload exceeds the limit of {self._max_bytes} bytes", "file", "file_too_large")
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
            raise _no_blob() from None

    async def delete(self, key: str) -> None:
        """Forget a blob; one that is gone already is fine."""
        with suppress(NotFound):
            await asyncio.to_thread(self._remove, self._path(key))

    async def make_available(self, upload: Upload) -> None:
        """Let a blob wait for its job. Of two under one id the one that expires later stays, the other goes."""
        await asyncio.to_thread(self._offer, upload)

    async def claim(self, upload_id: str) -> Upload | None:
        """Take the blob that waits under an id: nobody else gets it, unless it is offered again."""
        return await asyncio.to_thread(self._claim, upload_id) if _KEY.fullmatch(upload_id) else None

    async def sweep(self, before: datetime, keep: Collection[str]) -> int:
        """Delete what was last written before a time, but no blob in `keep`; how many files.

        `keep`: the keys of jobs that have not ended. A blob that no job has yet is never in it, so `before` must be
        `uploads.sweep_after_s` ago, when nothing can wait any more. Other files than this store's are left alone.
        """
        return await asyncio.to_thread(self._sweep, before, frozenset(keep))

    def _path(self, key: str, suffix: str = "") -> str:
        # Keys come back in requests: what this store can't have made never reaches the file system.
        if not _KEY.fullmatch(key):
            raise _no_blob()
        return f"{self._root}/{key}{suffix}"

    def _create(self, key: str) -> Any:
        if isinstance(self._fs, LocalFileSystem):  # an object store has no folders, and a bucket is its owner's to make
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

    def _offer(self, upload: Upload) -> None:
        waiting = self._claim(upload.id)
        stays, goes = (waiting, upload) if waiting and waiting.expires_at > upload.expires_at else (upload, waiting)
        record = self._path(uuid4().hex, ".taken")
        self._fs.pipe_file(record, stays.model_dump_json().encode())
        self._fs.mv(record, self._path(upload.id, ".upload"))
        if goes is not None:
            self._remove(self._path(goes.source.key))

    def _claim(self, upload_id: str) -> Upload | None:
        record = self._path(uuid4().hex, ".taken")
        try:
            self._fs.mv(self._path(upload_id, ".upload"), record)
        except FileNotFoundError:
            return None
        upload = Upload.model_validate_json(self._fs.cat_file(record))
        self._remove(record)
        return upload

    def _sweep(self, before: datetime, keep: frozenset[str]) -> int:
        try:
            paths: list[str] = self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return 0  # nothing was ever written
        swept = 0
        for path in paths:
            name = _OURS.fullmatch(path.rsplit("/", 1)[-1])
            if name is None or name[1] in keep:
                continue
            with suppress(FileNotFoundError):  # its job ended meanwhile
                if self._fs.modified(path) < before:
                    self._fs.rm_file(path)
                    swept += 1
        return swept


def _no_blob() -> NotFound:
    return NotFound("there is no such upload, or its job has ended", "source", "upload_not_found")
