"""Checkpoint conversions for other engines: complete, and repeated when the checkpoint changes."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import convert
from serve_app.models import model_source

pytest.importorskip("ctranslate2", reason="no conversion without ctranslate2 (the extra bench)")

NANO = Path(model_source("whisper-nano"))


def test_conversion_to_ctranslate2(tmp_path: Path) -> None:
    folder = convert.to_ctranslate2(NANO, tmp_path / "new" / "ctranslate2")
    names = {file.name for file in folder.iterdir()}
    assert {"model.bin", "config.json", "tokenizer.json"} <= names
    assert json.loads((folder / "tokenizer.json").read_text()) == json.loads((NANO / "tokenizer.json").read_text())
    assert [file.name for file in folder.parent.iterdir()] == ["ctranslate2"], "temporary files were left"


def test_older_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ctranslate2.converters import TransformersConverter

    def old_convert(self: TransformersConverter, folder: str) -> None:
        Path(folder).mkdir()
        (Path(folder) / "model.bin").touch()

    monkeypatch.setattr(TransformersConverter, "convert", old_convert)
    folder = convert.to_ctranslate2(NANO, tmp_path / "ctranslate2")
    assert (folder / "tokenizer.json").read_bytes() == (NANO / "tokenizer.json").read_bytes()


def test_complete_conversions_are_reused(tmp_path: Path) -> None:
    checkpoint, written = tmp_path / "checkpoint", []
    shutil.copytree(NANO, checkpoint)
    folder = tmp_path / "converted"

    def write(source: Path, to: Path) -> None:
        to.mkdir()
        (to / "weights").write_text("half")
        if not written:
            written.append("broken off")
            raise RuntimeError("broken off")
        written.append("whole")

    folder.mkdir()
    (folder / "left over").touch()
    with pytest.raises(RuntimeError, match="broken off"):
        convert._convert(checkpoint, folder, write)
    for _ in range(2):
        convert._convert(checkpoint, folder, write)
    assert written == ["broken off", "whole"]
    assert not (folder / "left over").exists()
    (checkpoint / "config.json").write_text((checkpoint / "config.json").read_text() + "\n")
    convert._convert(checkpoint, folder, write)
    assert written == ["broken off", "whole", "whole"]


def test_conversion_to_openai(tmp_path: Path) -> None:
    whisper = pytest.importorskip("whisper", reason="no openai-whisper (the extra bench)")
    file = convert.to_openai(NANO, tmp_path / "openai")
    assert whisper.load_model(str(file), device="cpu").dims.n_text_layer > 0
