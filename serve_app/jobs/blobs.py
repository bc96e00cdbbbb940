"""Uploaded audio, kept until its job has ended."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast
from uuid import uuid4

from fsspec.core import url_to_fs

from serve_app.errors import NotFound, TooLarge

_KEY = re.compile(r"[0-9a-f]{32}")


class BlobStore:
    """Bytes under keys that the store makes up, in a local folder or behind an fsspec URL.

    File systems block, so everything runs in threads. `max_bytes`: the largest blob.
    """

    def __init__(self, root: Path | str, max_bytes: int | None = None) -> None:
        self._fs, self._root = url_to_fs(str(root))
        self._max_bytes = max_bytes

    async def write(self, chunks: AsyncIterator[bytes]) -> str:
        """Keep a stream of bytes; its key. Raises TooLarge; a broken-off blob leaves nothing behind."""
        key = uuid4().hex
        file = await asyncio.to_thread(self._create, key)
        try:
            size = 0
            async for chunk in chunks:
                size += len(chunk)
                if self._max_bytes is not None and size > self._max_bytes:
                    raise TooLarge(f"the upload is over the limit of {self._max_bytes} bytes", "file", "file_too_large")
                await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(file.close)
        except BaseException:
            await asyncio.to_thread(self._discard, file, key)
            raise
        return key

    async def open(self, key: str) -> BinaryIO:
        """A blob, open for reading (from a thread, for it may block). Raises NotFound."""
        return await asyncio.to_thread(self._open, key)

    async def copy(self, key: str, path: Path) -> None:
        """Copy a blob to a local file. Raises NotFound."""
        await asyncio.to_thread(self._copy, key, path)

    async def delete(self, key: str) -> None:
        """Forget a blob; one that is gone already is fine."""
        await asyncio.to_thread(self._remove, key)

    def _path(self, key: str) -> str:
        # Keys come back in requests: what this store can't have made never reaches the file system.
        if not _KEY.fullmatch(key):
            raise _no_blob()
        return f"{self._root}/{key}"

    def _create(self, key: str) -> BinaryIO:
        self._fs.makedirs(self._root, exist_ok=True)
        return cast(BinaryIO, self._fs.open(self._path(key), "wb"))

    def _open(self, key: str) -> BinaryIO:
        try:
            return cast(BinaryIO, self._fs.open(self._path(key), "rb"))
        except FileNotFoundError:
            raise _no_blob() from None

    def _copy(self, key: str, path: Path) -> None:
        with self._open(key) as blob, path.open("wb") as file:
            shutil.copyfileobj(blob, file, 2**20)

    def _discard(self, file: BinaryIO, key: str) -> None:
        try:
            file.close()
        finally:
            self._remove(key)

    def _remove(self, key: str) -> None:
        with suppress(FileNotFoundError, NotFound):
            self._fs.rm_file(self._path(key))


def _no_blob() -> NotFound:
    return NotFound("there is no such upload, or its job has ended", "source", "upload_not_found")
