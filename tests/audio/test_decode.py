"""Decode every common container, sample rate and channel layout to PCM."""

import struct
from pathlib import Path

import numpy as np
import pytest

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.errors import TooLarge
from serve_app.settings import LimitSettings
from tests.audio.files import CONTAINERS, decode, wav
from tests.audio.sounds import peak_hertz, tone, write


@pytest.mark.parametrize("kind", CONTAINERS)
def test_containers(kind: str, tmp_path: Path) -> None:
    format_name, codec = CONTAINERS[kind]
    pcm, warnings = decode(write(tmp_path / "audio", format_name, codec, tone(3, 48000), 48000))
    assert len(pcm) == pytest.approx(3 * SAMPLE_RATE, abs=0.06 * SAMPLE_RATE)
    assert peak_hertz(pcm) == pytest.approx(440, abs=1)
    assert np.abs(pcm[8000:40000]).max() == pytest.approx(16384, rel=0.15)
    assert warnings == []


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000])
def test_rates(rate: int, tmp_path: Path) -> None:
    pcm, _ = decode(write(tmp_path / "audio", "wav", "pcm_s16le", tone(2, rate), rate))
    assert len(pcm) == pytest.approx(2 * SAMPLE_RATE, abs=2)
    assert peak_hertz(pcm) == pytest.approx(440, abs=1)


def test_16_khz_audio_is_unchanged(tmp_path: Path) -> None:
    sound = np.random.default_rng(1).integers(-32768, 32768, 200_001).astype(np.int16)
    pcm, _ = decode(write(tmp_path / "audio", "wav", "pcm_s16le", sound))
    np.testing.assert_array_equal(pcm, sound)


@pytest.mark.parametrize("layout", ["stereo", "2.1", "quad", "5.1", "7.1", "hexadecagonal"])
def test_channels_are_mixed_down(layout: str, tmp_path: Path) -> None:
    pcm, _ = decode(write(tmp_path / "audio", "wav", "pcm_s16le", tone(2), layout=layout))
    assert len(pcm) == 2 * SAMPLE_RATE
    assert peak_hertz(pcm) == pytest.approx(440, abs=1)


@pytest.mark.parametrize("channels", [1, 3, 5, 9, 11, 24])
def test_channels_without_a_layout(channels: int, tmp_path: Path) -> None:
    path = tmp_path / "audio"
    path.write_bytes(wav(np.repeat(tone(2), channels).tobytes(), channels))
    pcm, _ = decode(path)
    assert len(pcm) == 2 * SAMPLE_RATE
    assert peak_hertz(pcm) == pytest.approx(440, abs=1)
    assert np.abs(pcm).max() == pytest.approx(16384, rel=0.05)


@pytest.mark.parametrize("channels", [2, 3, 4, 6, 10])
def test_every_channel_contributes_equally(channels: int, tmp_path: Path) -> None:
    for speaking in range(channels):
        sound = np.zeros((SAMPLE_RATE, channels), np.int16)
        sound[:, speaking] = tone(1)
        path = tmp_path / "audio"
        path.write_bytes(wav(sound.tobytes(), channels))
        pcm, _ = decode(path)
        assert peak_hertz(pcm) == pytest.approx(440, abs=1)
        assert np.abs(pcm).max() == pytest.approx(16384 / channels, rel=0.05)


@pytest.mark.parametrize(("format_name", "codec"), [("mp4", "aac"), ("matroska", "libopus"), ("mpegts", "aac")])
def test_audio_of_a_video(format_name: str, codec: str, tmp_path: Path) -> None:
    path = write(tmp_path / "film", format_name, codec, tone(3, 48000), 48000, picture="mpeg4")
    pcm, warnings = decode(path)
    assert len(pcm) == pytest.approx(3 * SAMPLE_RATE, abs=0.06 * SAMPLE_RATE)
    assert warnings == []


def test_cover_art(tmp_path: Path) -> None:
    sound = write(tmp_path / "plain.mp3", "mp3", "libmp3lame", tone(3)).read_bytes()
    picture = b"\0image/png\0\3\0" + b"\x89PNG\r\n\x1a\n" + bytes(5000)
    frame = b"APIC" + struct.pack(">I", len(picture)) + b"\0\0" + picture
    size = bytes((len(frame) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    path = tmp_path / "audio"
    path.write_bytes(b"ID3\3\0\0" + size + frame + sound)
    assert len(decode(path)[0]) == pytest.approx(3 * SAMPLE_RATE, abs=2000)


def test_a_change_of_rate_and_channels_midway(tmp_path: Path) -> None:
    first = write(tmp_path / "1", "adts", "aac", tone(2, 44100, 440), 44100, "stereo").read_bytes()
    second = write(tmp_path / "2", "adts", "aac", tone(2, 24000, 880), 24000, "mono").read_bytes()
    path = tmp_path / "audio"
    path.write_bytes(first + second)
    pcm, _ = decode(path)
    assert len(pcm) == pytest.approx(4 * SAMPLE_RATE, abs=3000)
    assert peak_hertz(pcm[:30000]) == pytest.approx(440, abs=1)
    assert peak_hertz(pcm[-28000:]) == pytest.approx(880, abs=2)


def test_a_stream_that_begins_midway(tmp_path: Path) -> None:
    plain = write(tmp_path / "1", "mpegts", "aac", tone(2, 48000), 48000).read_bytes()
    film = write(tmp_path / "2", "mpegts", "aac", tone(2, 48000), 48000, picture="mpeg4").read_bytes()
    path = tmp_path / "audio"
    path.write_bytes(plain + film)
    pcm, _ = decode(path)
    assert len(pcm) == pytest.approx(4 * SAMPLE_RATE, abs=3000)


def test_fraction_read(tmp_path: Path) -> None:
    decoding = AudioDecoder(write(tmp_path / "audio", "flac", "flac", tone(60)), LimitSettings())
    shares = [decoding.fraction_read for _ in decoding]
    assert shares == sorted(shares)
    assert shares[0] < 0.3
    assert shares[-1] == 1.0


def test_invalid_metadata_is_ignored(tmp_path: Path) -> None:
    sound = write(tmp_path / "plain.mp3", "mp3", "libmp3lame", tone(1)).read_bytes()
    path = tmp_path / "audio"
    path.write_bytes(sound + b"TAG" + b"\xff\xfe\x81" * 41 + b"\0\0")
    assert decode(path)[1] == []


def test_a_recording_that_is_too_long(tmp_path: Path) -> None:
    path = write(tmp_path / "audio", "flac", "flac", tone(60))
    assert len(decode(path, 60.0)[0]) == 60 * SAMPLE_RATE
    decoding = AudioDecoder(path, LimitSettings(max_audio_s=20), param="upload_id")
    with pytest.raises(TooLarge, match="longer than 20 s") as caught:
        list(decoding)
    assert caught.value.param == "upload_id"
    assert decoding.samples_read <= 25 * SAMPLE_RATE
