"""From a media file to PCM: every common container, and files that mean harm."""

import random
import resource
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import CHUNK_SAMPLES, Decoding
from serve_app.errors import AudioError, TooLarge
from serve_app.settings import LimitSettings
from tests.audio.sounds import peak_hertz, tone, write

CONTAINERS = {
    "wav-8": ("wav", "pcm_u8"),
    "wav-16": ("wav", "pcm_s16le"),
    "wav-24": ("wav", "pcm_s24le"),
    "wav-32": ("wav", "pcm_s32le"),
    "wav-float": ("wav", "pcm_f32le"),
    "wav-double": ("wav", "pcm_f64le"),
    "wav-mulaw": ("wav", "pcm_mulaw"),
    "wav-adpcm": ("wav", "adpcm_ima_wav"),
    "mp3": ("mp3", "libmp3lame"),
    "m4a": ("mp4", "aac"),
    "m4a-alac": ("mp4", "alac"),
    "aac": ("adts", "aac"),
    "flac": ("flac", "flac"),
    "ogg-opus": ("ogg", "libopus"),
    "ogg-flac": ("ogg", "flac"),
    "webm": ("webm", "libopus"),
    "mkv": ("matroska", "flac"),
    "mov": ("mov", "pcm_s16le"),
    "aiff": ("aiff", "pcm_s16be"),
    "caf": ("caf", "pcm_s16le"),
    "au": ("au", "pcm_s16be"),
    "avi": ("avi", "libmp3lame"),
    "flv": ("flv", "aac"),
    "mpegts": ("mpegts", "aac"),
    "ac3": ("ac3", "ac3"),
    "wavpack": ("wv", "wavpack"),
    "tta": ("tta", "tta"),
    "w64": ("w64", "pcm_s16le"),
}


def decode(path: Path, max_audio_s: float = 3600.0) -> tuple[NDArray[np.int16], list[str]]:
    decoding = Decoding(path, LimitSettings(max_audio_s=max_audio_s))
    chunks = list(decoding)
    assert all(chunk.dtype == np.int16 and chunk.ndim == 1 and 0 < len(chunk) <= CHUNK_SAMPLES for chunk in chunks)
    pcm = np.concatenate(chunks)
    assert decoding.samples == len(pcm)
    return pcm, decoding.warnings


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


def test_sound_at_our_rate_passes_unchanged(tmp_path: Path) -> None:
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
def test_every_channel_is_heard(channels: int, tmp_path: Path) -> None:
    for speaking in range(channels):
        sound = np.zeros((SAMPLE_RATE, channels), np.int16)
        sound[:, speaking] = tone(1)
        path = tmp_path / "audio"
        path.write_bytes(wav(sound.tobytes(), channels))
        pcm, _ = decode(path)
        assert peak_hertz(pcm) == pytest.approx(440, abs=1)
        assert np.abs(pcm).max() == pytest.approx(16384 / channels, rel=0.05)


@pytest.mark.parametrize(("format_name", "codec"), [("mp4", "aac"), ("matroska", "libopus"), ("mpegts", "aac")])
def test_sound_of_a_video(format_name: str, codec: str, tmp_path: Path) -> None:
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


def test_how_much_of_the_file_was_read(tmp_path: Path) -> None:
    decoding = Decoding(write(tmp_path / "audio", "flac", "flac", tone(60)), LimitSettings())
    shares = [decoding.share_read for _ in decoding]
    assert shares == sorted(shares)
    assert shares[0] < 0.3
    assert shares[-1] == 1.0


def test_odd_metadata_does_not_matter(tmp_path: Path) -> None:
    sound = write(tmp_path / "plain.mp3", "mp3", "libmp3lame", tone(1)).read_bytes()
    path = tmp_path / "audio"
    path.write_bytes(sound + b"TAG" + b"\xff\xfe\x81" * 41 + b"\0\0")
    assert decode(path)[1] == []


def wav(data: bytes, channels: int = 1, rate: int = SAMPLE_RATE, claimed: int | None = None) -> bytes:
    """A plain 16-bit wav file; `claimed` bytes of data in its header."""
    size = len(data) if claimed is None else claimed
    head = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2, channels * 2, 16)
    riff = b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", min(size + 36, 0xFFFFFFFF)) + riff + data


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
def test_what_is_not_audio(content: bytes, code: str, tmp_path: Path) -> None:
    path = tmp_path / "audio"
    path.write_bytes(content)
    decoding = Decoding(path, LimitSettings(), param="url")
    with pytest.raises(AudioError) as caught:
        list(decoding)
    assert (caught.value.code, caught.value.param, caught.value.status) == (code, "url", 400)


def test_a_film_without_sound(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "film"), "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=25, width=64, height=64, pix_fmt="yuv420p")
        container.mux(video.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(video.encode(None))
    with pytest.raises(AudioError, match="no audio stream") as caught:
        list(Decoding(tmp_path / "film", LimitSettings()))
    assert caught.value.code == "no_audio_stream"


def test_a_recording_that_is_too_long(tmp_path: Path) -> None:
    path = write(tmp_path / "audio", "flac", "flac", tone(60))
    assert len(decode(path, 60.0)[0]) == 60 * SAMPLE_RATE
    decoding = Decoding(path, LimitSettings(max_audio_s=20), param="upload_id")
    with pytest.raises(TooLarge, match="longer than 20 s") as caught:
        list(decoding)
    assert caught.value.param == "upload_id"
    assert decoding.samples <= 25 * SAMPLE_RATE


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *(("wav-16", {}), ("mp3", {}), ("flac", {}), ("aac", {}), ("webm", {}), ("aiff", {}), ("flv", {}), ("tta", {})),
        ("m4a", {"movflags": "faststart"}),
    ],
)
def test_a_file_that_breaks_off_gives_what_is_there(kind: str, options: dict[str, str], tmp_path: Path) -> None:
    format_name, codec = CONTAINERS[kind]
    noise = np.random.default_rng(1).integers(-9000, 9000, 48000 * 20).astype(np.int16)
    whole = write(tmp_path / "whole", format_name, codec, noise, 48000, **options).read_bytes()
    path = tmp_path / "part"
    path.write_bytes(whole[: len(whole) // 2 + 1])
    pcm, warnings = decode(path)
    assert len(pcm) == pytest.approx(10 * SAMPLE_RATE, abs=1 * SAMPLE_RATE)
    assert len(warnings) == 1
    assert "breaks off after" in warnings[0]


def test_damage_midway_is_told(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("claimed", [0xFFFFFFFF, 0x7FFFFFFF, 0])
def test_a_wav_written_to_a_pipe_is_complete(claimed: int, tmp_path: Path) -> None:
    """ffmpeg and speech synthesisers that stream don't know the length and write one of these."""
    path = tmp_path / "audio"
    path.write_bytes(wav(tone(3).tobytes(), claimed=claimed))
    pcm, warnings = decode(path)
    assert len(pcm) == 3 * SAMPLE_RATE
    assert warnings == []


PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{path}\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile '{path}'\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_playlists_open_nothing(name: str, tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.ts", "mpegts", "aac", tone(3))
    playlist = tmp_path / name
    playlist.write_text(PLAYLISTS[name].format(path=secret))
    with av.open(str(playlist), options={"safe": "0", "allowed_extensions": "ALL"}) as container:
        assert next(container.decode(audio=0)).samples  # FFmpeg by itself does open it
    with pytest.raises(AudioError) as caught:
        list(Decoding(playlist, LimitSettings()))
    assert caught.value.code == "not_audio"


@pytest.mark.parametrize("barrier", ["format_whitelist", "protocol_whitelist"])
def test_either_barrier_holds_alone(barrier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = write(tmp_path / "secret.ts", "mpegts", "aac", tone(3))
    opened = av.open
    used: list[dict[str, str]] = []

    def weakened(*args: object, **options: object) -> object:
        kept = options["container_options"]
        assert isinstance(kept, dict)
        used.append(kept)
        weak = {barrier: kept[barrier], "safe": "0", "allowed_extensions": "ALL"}
        return opened(*args, **{**options, "container_options": weak})

    monkeypatch.setattr(av, "open", weakened)
    for name, text in PLAYLISTS.items():
        playlist = tmp_path / name
        playlist.write_text(text.format(path=secret))
        with pytest.raises(AudioError):
            list(Decoding(playlist, LimitSettings()))
    assert len(used) == 2


FUZZ = """
import random, sys
from pathlib import Path
from serve_app.audio.decode import Decoding
from serve_app.errors import ServiceError
from serve_app.settings import LimitSettings
rng, work = random.Random(7), Path(sys.argv[1])
for whole in sorted(work.glob("whole-*")):
    content = whole.read_bytes()
    cuts = [content[: rng.randrange(len(content))] for _ in range(8)]
    for reach in (64, 512, len(content), len(content)):
        flipped = bytearray(content)
        for _ in range(20):
            flipped[rng.randrange(min(reach, len(content)))] = rng.randrange(256)
        cuts.append(bytes(flipped))
    for cut in cuts:
        (work / "hostile").write_bytes(cut)
        try:
            for chunk in Decoding(work / "hostile", LimitSettings(max_audio_s=60)):
                pass
        except ServiceError:
            pass
print("survived")
"""


@pytest.mark.slow
def test_hostile_files_do_no_harm(tmp_path: Path) -> None:
    """Cut and damaged files of every kind end in sound or a clear error: no crash, no hang, no great memory."""
    for kind, (format_name, codec) in CONTAINERS.items():
        write(tmp_path / f"whole-{kind}", format_name, codec, tone(2, 48000), 48000)
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31)),
    )
    assert done.stdout == "survived\n", done.stderr


MEASURE = """
import resource, sys
from pathlib import Path
from serve_app.audio.decode import Decoding
from serve_app.settings import LimitSettings
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for chunk in (decoding := Decoding(Path(sys.argv[1]), LimitSettings())):
    pass
assert not any("breaks off" in warning for warning in decoding.warnings), decoding.warnings
print(decoding.samples, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wav-16", "mp3"])
def test_memory_does_not_grow_with_the_recording(kind: str, tmp_path: Path) -> None:
    format_name, codec = CONTAINERS[kind]
    minute = write(tmp_path / "minute", format_name, codec, tone(60)).read_bytes()
    (tmp_path / "audio").write_bytes(wav(tone(60).tobytes() * 20) if kind == "wav-16" else minute * 20)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "audio")], capture_output=True, text=True, timeout=120
    )
    assert not done.returncode, done.stderr
    samples, mebibytes = map(int, done.stdout.split())
    assert samples == pytest.approx(1200 * SAMPLE_RATE, abs=40_000)
    assert mebibytes < 30  # the whole PCM is 37
