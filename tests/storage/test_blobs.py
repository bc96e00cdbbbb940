"""Blobs in a local folder and on S3."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import NotFound, TooLarge
from serve_app.schemas.request import BlobSource
from serve_app.storage import blobs as blobs_module
from serve_app.storage.blobs import BlobStore, Upload

HOUR = timedelta(hours=1)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def now() -> datetime:
    return datetime.now(UTC)


def new_upload(source: BlobSource, upload_id: str | None = None, expires_at: datetime | None = None) -> Upload:
    return Upload(id=upload_id or uuid4().hex, source=source, expires_at=expires_at or now() + HOUR)


class Storage:
    """Direct access to the files of a blob store."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._root = fsspec.url_to_fs(url, use_listings_cache=False)

    def names(self) -> set[str]:
        return {path.rsplit("/", 1)[-1] for path in self._fs.find(self._root)}

    def put(self, name: str) -> None:
        self._fs.pipe_file(f"{self._root}/{name}", b"x")

    def unfinished(self) -> list[object]:
        """Return unfinished multipart uploads, which S3 charges for until they are aborted."""
        return self._fs.list_multipart_uploads(self._root) if hasattr(self._fs, "list_multipart_uploads") else []


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(f"{tmp_path}/blobs" if request.param == "local" else request.getfixturevalue("bucket"))


@pytest.fixture
def blobs(storage: Storage) -> BlobStore:
    return BlobStore(storage.url, max_bytes=10)


async def read(blobs: BlobStore, key: str, folder: Path) -> bytes:
    await blobs.copy(key, folder / "copy")
    return (folder / "copy").read_bytes()


async def test_write_and_read(blobs: BlobStore, tmp_path: Path) -> None:
    source = await blobs.write(chunks(b"abc", b"", b"defghij"))
    assert source.digest == hashlib.sha256(b"abcdefghij").hexdigest()
    assert await read(blobs, source.key, tmp_path) == b"abcdefghij"
    again = await blobs.write(chunks(b"abcdefghij"))
    assert (again.key != source.key, again.digest) == (True, source.digest)


@pytest.mark.slow
async def test_blob_of_many_parts(storage: Storage, tmp_path: Path) -> None:
    content = b"0123456789abcdef" * (2 * blobs_module.PART_BYTES // 16) + b"end"
    parts = [content[start : start + 2**20] for start in range(0, len(content), 2**20)]
    blobs = BlobStore(storage.url)
    source = await blobs.write(chunks(*parts))
    assert await read(blobs, source.key, tmp_path) == content


async def test_empty_blob(blobs: BlobStore, tmp_path: Path) -> None:
    assert await read(blobs, (await blobs.write(chunks())).key, tmp_path) == b""


async def test_blob_over_the_limit_leaves_no_files(blobs: BlobStore, storage: Storage) -> None:
    with pytest.raises(TooLarge, match="10 bytes"):
        await blobs.write(chunks(b"12345", b"678901"))
    assert storage.names() == set()


async def test_interrupted_stream_leaves_no_files(storage: Storage) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * (blobs_module.PART_BYTES // 2)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await BlobStore(storage.url).write(breaking())
    assert (storage.names(), storage.unfinished()) == (set(), [])


async def test_cancelled_write_leaves_no_files(blobs: BlobStore, storage: Storage) -> None:
    started = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"abc"
        started.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(blobs.write(endless()))
    await started.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert (storage.names(), storage.unfinished()) == (set(), [])


async def test_delete(blobs: BlobStore, storage: Storage, tmp_path: Path) -> None:
    source = await blobs.write(chunks(b"abc"))
    await blobs.delete(source.key)
    assert storage.names() == set()
    await blobs.delete(source.key)
    with pytest.raises(NotFound):
        await blobs.copy(source.key, tmp_path / "copy")


@given(
    key=st.text() | st.sampled_from(["../secret", "/etc/passwd", "", ".", "0" * 32 + "\n", "0" * 32 + "/../../secret"])
)
async def test_keys_cannot_leave_the_folder(key: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("blobs", numbered=True)
    (root / "secret").write_text("secret")
    (root / "secret.upload").write_text("{}")
    (root / "blobs" / ("0" * 32)).mkdir(parents=True)
    blobs = BlobStore(f"{root}/blobs")
    with pytest.raises(NotFound):
        await blobs.copy(key, root / "copy")
    await blobs.delete(key)
    assert await blobs.claim(key) is None
    assert sorted(path.name for path in root.iterdir()) == ["blobs", "secret", "secret.upload"]


async def test_upload_is_claimed_once(blobs: BlobStore, storage: Storage, tmp_path: Path) -> None:
    upload = new_upload(await blobs.write(chunks(b"abc")))
    assert await blobs.claim(upload.id) is None
    await blobs.make_available(upload)
    assert await blobs.claim(upload.id) == upload
    assert await blobs.claim(upload.id) is None
    assert await read(blobs, upload.source.key, tmp_path) == b"abc"
    assert storage.names() == {upload.source.key}


async def test_concurrent_claims(tmp_path: Path) -> None:
    stores = [BlobStore(f"{tmp_path}/blobs") for _ in range(8)]
    for _ in range(25):
        upload = new_upload(await stores[0].write(chunks(b"abc")))
        await stores[0].make_available(upload)
        results = await asyncio.gather(*(store.claim(upload.id) for store in stores))
        assert [one for one in results if one] == [upload]


@pytest.mark.parametrize("later", [0, 1])
async def test_upload_that_expires_later_replaces_the_other(blobs: BlobStore, storage: Storage, later: int) -> None:
    ends = [now() + HOUR, now() + 2 * HOUR]
    first = new_upload(await blobs.write(chunks(b"1")), expires_at=ends[1 - later])
    second = new_upload(await blobs.write(chunks(b"2")), first.id, expires_at=ends[later])
    await blobs.make_available(first)
    await blobs.make_available(second)
    expected = (first, second)[later]
    assert storage.names() == {expected.source.key, f"{first.id}.upload"}
    assert await blobs.claim(first.id) == expected


@pytest.mark.slow
async def test_sweep(blobs: BlobStore, storage: Storage) -> None:
    old = [await blobs.write(chunks(b"old")) for _ in range(3)]
    await blobs.make_available(new_upload(old[0]))
    storage.put(f"{uuid4().hex}.claimed")
    storage.put("somebody-elses")
    await asyncio.sleep(1.1)  # S3 has times in whole seconds
    before = now()
    await asyncio.sleep(1.1)
    young = new_upload(await blobs.write(chunks(b"young")))
    await blobs.make_available(young)
    assert await blobs.sweep(before, [old[1].key]) == 4
    assert storage.names() == {old[1].key, young.source.key, f"{young.id}.upload", "somebody-elses"}
    assert await blobs.sweep(before, [old[1].key]) == 0
    storage.put(f"{uuid4().hex}.claimed")  # by another process, after this one has listed the files
    assert await blobs.sweep(now() + HOUR, [old[1].key, young.source.key, young.id]) == 1


async def test_sweep_of_an_empty_store(blobs: BlobStore) -> None:
    assert await blobs.sweep(now(), []) == 0
