"""The same tests on a local folder and on S3."""

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


def waiting(source: BlobSource, upload_id: str | None = None, expires_at: datetime | None = None) -> Upload:
    return Upload(id=upload_id or uuid4().hex, source=source, expires_at=expires_at or now() + HOUR)


class Place:
    """Where blobs are kept, looked at from outside."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._root = fsspec.url_to_fs(url, use_listings_cache=False)

    def names(self) -> set[str]:
        return {path.rsplit("/", 1)[-1] for path in self._fs.find(self._root)}

    def put(self, name: str) -> None:
        self._fs.pipe_file(f"{self._root}/{name}", b"x")

    def unfinished(self) -> list[object]:
        """Parts of objects that are not whole yet: S3 charges for them until someone sees to it."""
        return self._fs.list_multipart_uploads(self._root) if hasattr(self._fs, "list_multipart_uploads") else []


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(f"{tmp_path}/blobs" if request.param == "local" else request.getfixturevalue("bucket"))


@pytest.fixture
def blobs(place: Place) -> BlobStore:
    return BlobStore(place.url, max_bytes=10)


async def read(blobs: BlobStore, key: str, folder: Path) -> bytes:
    await blobs.copy(key, folder / "copy")
    return (folder / "copy").read_bytes()


async def test_what_was_written_is_read(blobs: BlobStore, tmp_path: Path) -> None:
    source = await blobs.write(chunks(b"abc", b"", b"defghij"))
    assert source.digest == hashlib.sha256(b"abcdefghij").hexdigest()
    assert await read(blobs, source.key, tmp_path) == b"abcdefghij"
    again = await blobs.write(chunks(b"abcdefghij"))
    assert (again.key != source.key, again.digest) == (True, source.digest)


async def test_one_of_many_parts(place: Place, tmp_path: Path) -> None:
    content = b"0123456789abcdef" * (2 * blobs_module.PART_BYTES // 16) + b"end"
    parts = [content[start : start + 2**20] for start in range(0, len(content), 2**20)]
    blobs = BlobStore(place.url)
    source = await blobs.write(chunks(*parts))
    assert await read(blobs, source.key, tmp_path) == content


async def test_an_empty_one(blobs: BlobStore, tmp_path: Path) -> None:
    assert await read(blobs, (await blobs.write(chunks())).key, tmp_path) == b""


async def test_a_blob_over_the_limit_is_refused_and_leaves_nothing(blobs: BlobStore, place: Place) -> None:
    with pytest.raises(TooLarge, match="10 bytes"):
        await blobs.write(chunks(b"12345", b"678901"))
    assert place.names() == set()


async def test_a_stream_that_breaks_off_leaves_nothing(place: Place) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * (blobs_module.PART_BYTES // 2)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await BlobStore(place.url).write(breaking())
    assert (place.names(), place.unfinished()) == (set(), [])


async def test_a_cancelled_upload_leaves_nothing(blobs: BlobStore, place: Place) -> None:
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
    assert (place.names(), place.unfinished()) == (set(), [])


async def test_a_deleted_blob_is_gone_and_may_be_deleted_again(blobs: BlobStore, place: Place, tmp_path: Path) -> None:
    source = await blobs.write(chunks(b"abc"))
    await blobs.delete(source.key)
    assert place.names() == set()
    await blobs.delete(source.key)
    with pytest.raises(NotFound):
        await blobs.copy(source.key, tmp_path / "copy")


@given(
    key=st.text() | st.sampled_from(["../secret", "/etc/passwd", "", ".", "0" * 32 + "\n", "0" * 32 + "/../../secret"])
)
async def test_no_key_leads_out_of_the_folder(key: str, tmp_path_factory: pytest.TempPathFactory) -> None:
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


async def test_an_upload_is_claimed_once(blobs: BlobStore, place: Place, tmp_path: Path) -> None:
    upload = waiting(await blobs.write(chunks(b"abc")))
    assert await blobs.claim(upload.id) is None
    await blobs.make_available(upload)
    assert await blobs.claim(upload.id) == upload
    assert await blobs.claim(upload.id) is None
    assert await read(blobs, upload.source.key, tmp_path) == b"abc"
    assert place.names() == {upload.source.key}


async def test_of_many_that_claim_at_once_one_gets_it(tmp_path: Path) -> None:
    stores = [BlobStore(f"{tmp_path}/blobs") for _ in range(8)]
    for _ in range(25):
        upload = waiting(await stores[0].write(chunks(b"abc")))
        await stores[0].make_available(upload)
        claimed = await asyncio.gather(*(store.claim(upload.id) for store in stores))
        assert [one for one in claimed if one] == [upload]


@pytest.mark.parametrize("later", [0, 1])
async def test_of_two_offered_the_one_that_expires_later_stays(blobs: BlobStore, place: Place, later: int) -> None:
    ends = [now() + HOUR, now() + 2 * HOUR]
    first = waiting(await blobs.write(chunks(b"1")), expires_at=ends[1 - later])
    second = waiting(await blobs.write(chunks(b"2")), first.id, expires_at=ends[later])
    await blobs.make_available(first)
    await blobs.make_available(second)
    stays = (first, second)[later]
    assert place.names() == {stays.source.key, f"{first.id}.upload"}
    assert await blobs.claim(first.id) == stays


async def test_the_old_that_no_job_needs_is_swept(blobs: BlobStore, place: Place) -> None:
    old = [await blobs.write(chunks(b"old")) for _ in range(3)]
    await blobs.make_available(waiting(old[0]))
    place.put(f"{uuid4().hex}.claimed")
    place.put("somebody-elses")
    await asyncio.sleep(1.1)  # S3 tells time in seconds
    before = now()
    await asyncio.sleep(1.1)
    young = waiting(await blobs.write(chunks(b"young")))
    await blobs.make_available(young)
    assert await blobs.sweep(before, [old[1].key]) == 4
    assert place.names() == {old[1].key, young.source.key, f"{young.id}.upload", "somebody-elses"}
    assert await blobs.sweep(before, [old[1].key]) == 0
    place.put(f"{uuid4().hex}.claimed")  # by another process, after this one has listed what is there
    assert await blobs.sweep(now() + HOUR, [old[1].key, young.source.key, young.id]) == 1


async def test_nothing_to_sweep_where_nothing_was_written(blobs: BlobStore) -> None:
    assert await blobs.sweep(now(), []) == 0
