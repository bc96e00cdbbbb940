import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import NotFound, TooLarge
from serve_app.jobs.blobs import BlobStore
from tests.jobs.helpers import files


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", max_bytes=10)


async def test_what_was_written_is_read(blobs: BlobStore, tmp_path: Path) -> None:
    key = await blobs.write(chunks(b"abc", b"", b"defghij"))
    with await blobs.open(key) as file:
        assert file.read() == b"abcdefghij"
    await blobs.copy(key, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"abcdefghij"
    assert await blobs.write(chunks(b"abc")) != key


async def test_a_blob_over_the_limit_is_refused_and_leaves_nothing(blobs: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match="10 bytes"):
        await blobs.write(chunks(b"12345", b"678901"))
    assert files(tmp_path) == []


async def test_a_stream_that_breaks_off_leaves_nothing(blobs: BlobStore, tmp_path: Path) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield b"abc"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await blobs.write(breaking())
    assert files(tmp_path) == []


async def test_a_cancelled_upload_leaves_nothing(blobs: BlobStore, tmp_path: Path) -> None:
    started = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"abc"
        started.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(blobs.write(endless()))
    await started.wait()
    assert len(files(tmp_path)) == 1
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert files(tmp_path) == []


async def test_a_deleted_blob_is_gone_and_may_be_deleted_again(blobs: BlobStore, tmp_path: Path) -> None:
    key = await blobs.write(chunks(b"abc"))
    await blobs.delete(key)
    assert files(tmp_path) == []
    await blobs.delete(key)
    with pytest.raises(NotFound):
        await blobs.open(key)
    with pytest.raises(NotFound):
        await blobs.copy(key, tmp_path / "copy")


@given(
    key=st.text() | st.sampled_from(["../secret", "/etc/passwd", "", ".", "0" * 32 + "\n", "0" * 32 + "/../../secret"])
)
async def test_no_key_leads_out_of_the_folder(key: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("blobs", numbered=True)
    (root / "secret").write_text("secret")
    (root / "blobs" / ("0" * 32)).mkdir(parents=True)
    blobs = BlobStore(root / "blobs")
    with pytest.raises(NotFound):
        await blobs.open(key)
    await blobs.delete(key)
    assert (root / "secret").exists()
