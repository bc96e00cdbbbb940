"""Truncated, damaged and invalid files are decoded as far as possible or rejected with a clear error."""

import random
from pathlib import Path

import av
import numpy as np
import pytest

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.errors import AudioError
from serve_app.settings import LimitSettings
from tests.audio.files import CONTAINERS, decode, wav
from tests.audio.sounds import tone, write


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"x", "not_audio"),
        (b"Hello, this is a text file.\n" * 100, "not_audio"),
        (b"<!doctype html><html><body>404</body></html>", "not_audio"),
        (bytes(100_000), "not_audio"),
        (random.Random(1).randbytes(100_000), "not_audio"),
        (wav(b""), "undecodable_audio"),
        (wav(b"\0" * 100, rate=0), "not_audio"),
        (wav(b"\0" * 100, rate=1), "undecodable_audio"),
        (wav(b"\0" * 100, rate=2_000_000_000), "undecodable_audio"),
    ],
)
def test_files_that_are_not_audio(content: bytes, code: str, tmp_path: Path) -> None:
    path = tmp_path / "audio"
    path.write_bytes(content)
    decoding = AudioDecoder(path, LimitSettings(), param="url")
    with pytest.raises(AudioError) as caught:
        list(decoding)
    assert (caught.value.code, caught.value.param, caught.value.status) == (code, "url", 400)


def test_a_video_without_audio(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "film"), "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=25, width=64, height=64, pix_fmt="yuv420p")
        container.mux(video.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(video.encode(None))
    with pytest.raises(AudioError, match="no audio stream") as caught:
        list(AudioDecoder(tmp_path / "film", LimitSettings()))
    assert caught.value.code == "no_audio_stream"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *(("wav-16", {}), ("mp3", {}), ("flac", {}), ("aac", {}), ("webm", {}), ("aiff", {}), ("flv", {}), ("tta", {})),
        ("m4a", {"movflags": "faststart"}),
    ],
)
def test_a_truncated_file_is_decoded_with_a_warning(kind: str, options: dict[str, str], tmp_path: Path) -> None:
    format_name, codec = CONTAINERS[kind]
    noise = np.random.default_rng(1).integers(-9000, 9000, 48000 * 20).astype(np.int16)
    whole = write(tmp_path / "whole", format_name, codec, noise, 48000, **options).read_bytes()
    path = tmp_path / "part"
    path.write_bytes(whole[: len(whole) // 2 + 1])
    pcm, warnings = decode(path)
    assert len(pcm) == pytest.approx(10 * SAMPLE_RATE, abs=1 * SAMPLE_RATE)
    assert len(warnings) == 1
    assert "truncated: it ends after" in warnings[0]


def test_damage_midway_is_a_warning(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(-9000, 9000, 48000 * 20).astype(np.int16)
    content = bytearray(write(tmp_path / "whole", "mp4", "aac", noise, 48000).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = b"\xff" * 2000
    path = tmp_path / "audio"
    path.write_bytes(content)
    pcm, warnings = decode(path)
    assert len(pcm) > 19 * SAMPLE_RATE
    assert len(warnings) == 1
    assert "damaged" in warnings[0]


@pytest.mark.parametrize("header_bytes", [0xFFFFFFFF, 0x7FFFFFFF, 0])
def test_a_wav_written_to_a_pipe_is_complete(header_bytes: int, tmp_path: Path) -> None:
    """ffmpeg and speech synthesizers that write a stream do not know its length and write one of these."""
    path = tmp_path / "audio"
    path.write_bytes(wav(tone(3).tobytes(), header_bytes=header_bytes))
    pcm, warnings = decode(path)
    assert len(pcm) == 3 * SAMPLE_RATE
    assert warnings == []
