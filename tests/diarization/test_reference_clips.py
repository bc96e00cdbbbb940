"""Reference clips of known speakers: validation and re-encoding."""

import base64
import io
from pathlib import Path

import av
import numpy as np
import pytest

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.diarization.reference_clips import normalize_clips
from serve_app.errors import InvalidRequest
from serve_app.schemas.request import KnownSpeaker
from serve_app.settings import AppSettings, LimitSettings
from tests.diarization.sounds import DATA, clip, speech


@pytest.fixture
def settings(tmp_path: Path) -> AppSettings:
    return AppSettings(data_dir=tmp_path)


def normalize(reference: str, settings: AppSettings) -> str:
    (speaker,) = normalize_clips((KnownSpeaker(name="Ann", reference=reference),), settings)
    assert speaker.name == "Ann"
    return speaker.reference


@pytest.mark.parametrize("name", ["en.mp3", "de.opus", "fr.flac", "es.wav"])
def test_clip_is_reencoded_as_16_khz_mono_flac(name: str, settings: AppSettings, tmp_path: Path) -> None:
    text = base64.b64encode((DATA / name).read_bytes()).decode()
    encoded = base64.b64decode(normalize(f"data:audio/mpeg;base64,{text}", settings))
    with av.open(io.BytesIO(encoded)) as container:
        stream = container.streams.audio[0]
        assert (container.format.name, stream.rate, stream.channels) == ("flac", SAMPLE_RATE, 1)
    (tmp_path / "found").write_bytes(encoded)
    sound, same = (
        np.concatenate(list(AudioDecoder(path, LimitSettings()))) for path in (DATA / name, tmp_path / "found")
    )
    assert np.array_equal(sound, same)
    assert not list(settings.spool_dir.iterdir())


def test_normalization_is_idempotent(settings: AppSettings) -> None:
    """Equal audio gives equal bytes with any FFmpeg version, so that duplicate requests are found."""
    normalized = normalize(clip(4), settings)
    assert normalize(normalized, settings) == normalized
    assert b"Lavf" not in base64.b64decode(normalized)


def test_ten_seconds_of_speech_are_compressed(settings: AppSettings) -> None:
    original = clip(10, speech().set_frame_rate(48_000).set_channels(2))
    encoded = normalize(original, settings)
    assert (len(original) > 2_000_000, len(encoded) < 200_000) == (True, True), (len(original), len(encoded))


@pytest.mark.parametrize("seconds", [2, 9.96, 10.04])
def test_clip_length_limits_are_rounded(seconds: float, settings: AppSettings) -> None:
    assert normalize(clip(seconds), settings)


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        ("no base64!", "invalid_base64"),
        ("data:audio/wav;base64,", "empty_file"),
        (base64.b64encode(b"no sound at all").decode(), "not_audio"),
        (clip(1.8), "clip_length"),
        (clip(10.2), "clip_length"),
        (clip(30), "clip_length"),
        (clip(9, speech().set_frame_rate(96_000).set_channels(2)), "clip_too_large"),
    ],
)
def test_invalid_clip_is_named(reference: str, code: str, tmp_path: Path) -> None:
    settings = AppSettings(data_dir=tmp_path, limits={"max_clip_bytes": 3_000_000})
    good = KnownSpeaker(name="Ann", reference=clip(3))
    with pytest.raises(InvalidRequest) as refused:
        normalize_clips((good, KnownSpeaker(name="Bob", reference=reference)), settings)
    assert (refused.value.param, refused.value.code) == ("diarization.known_speakers.1.reference", code)
    assert not list(settings.spool_dir.iterdir())
