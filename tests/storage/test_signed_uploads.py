import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from serve_app.settings import AppSettings
from serve_app.storage import signed_uploads as uploads_module
from serve_app.storage.signed_uploads import signing_key


def test_configured_key_is_used(tmp_path: Path) -> None:
    settings = AppSettings.model_validate({"data_dir": tmp_path, "uploads": {"signing_key": "k" * 32}})
    assert signing_key(settings) == b"k" * 32
    assert list(tmp_path.iterdir()) == []


def test_key_is_created_once_and_private(tmp_path: Path) -> None:
    settings = AppSettings(data_dir=tmp_path / "data")
    key = signing_key(settings)
    (path,) = (tmp_path / "data").iterdir()
    assert (len(key), stat.S_IMODE(path.stat().st_mode)) == (32, 0o600)
    assert signing_key(settings) == key
    assert signing_key(AppSettings(data_dir=tmp_path / "other")) != key


def test_concurrent_replicas_create_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = AppSettings(data_dir=tmp_path)
    all_replicas = Barrier(8)

    def random_bytes(count: int) -> bytes:
        all_replicas.wait(10)  # every replica has found no key
        return os.urandom(count)

    monkeypatch.setattr(uploads_module.secrets, "token_bytes", random_bytes)
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: signing_key(settings), range(8)))
    assert (len(keys), len(list(tmp_path.iterdir()))) == (1, 1)
