import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from serve_app.storage import temp_files


def set_age(path: Path, hours: float) -> Path:
    at = (datetime.now(UTC) - timedelta(hours=hours)).timestamp()
    os.utime(path, (at, at))
    return path


def test_sweep_deletes_old_files_only(tmp_path: Path) -> None:
    for name, hours in (("left", 30), ("in-work", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "audio").write_bytes(b"x")
        set_age(tmp_path / name / "audio", hours)
        set_age(tmp_path / name, 30)
    for name, hours in (("old", 30), ("new", 1)):
        (tmp_path / name).write_bytes(b"x")
        set_age(tmp_path / name, hours)
    assert temp_files.sweep(tmp_path, datetime.now(UTC) - timedelta(hours=24)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in-work", "new"]


def test_sweep_of_a_missing_folder(tmp_path: Path) -> None:
    assert temp_files.sweep(tmp_path / "tmp", datetime.now(UTC)) == 0
