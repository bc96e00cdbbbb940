import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from serve_app.storage import temp_files


def aged(path: Path, hours: float) -> Path:
    at = (datetime.now(UTC) - timedelta(hours=hours)).timestamp()
    os.utime(path, (at, at))
    return path


def test_what_was_left_is_swept_and_what_is_written_stays(tmp_path: Path) -> None:
    for name, hours in (("left", 30), ("in-work", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "audio").write_bytes(b"x")
        aged(tmp_path / name / "audio", hours)
        aged(tmp_path / name, 30)
    for name, hours in (("old", 30), ("new", 1)):
        (tmp_path / name).write_bytes(b"x")
        aged(tmp_path / name, hours)
    assert temp_files.sweep(tmp_path, datetime.now(UTC) - timedelta(hours=24)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in-work", "new"]


def test_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert temp_files.sweep(tmp_path / "tmp", datetime.now(UTC)) == 0
