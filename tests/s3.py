"""A local S3: moto's server in a thread."""

from collections.abc import Iterator
from uuid import uuid4

import fsspec
import pytest
from fsspec.config import conf


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Run the server; yield its URL."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Create an empty bucket; return its URL, which works in this process."""
    # As FSSPEC_S3_ENDPOINT_URL and similar variables do when fsspec is imported.
    monkeypatch.setitem(conf, "s3", {"endpoint_url": s3, "key": "testing", "secret": "testing"})
    name = f"bucket-{uuid4().hex}"
    fsspec.filesystem("s3").mkdir(name)
    return f"s3://{name}"
