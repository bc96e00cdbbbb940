"""Hostile files: playlists, fuzzed files, and memory."""

import resource
import subprocess
import sys
from pathlib import Path

import av
import pytest

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.errors import AudioError
from serve_app.settings import LimitSettings
from tests.audio.files import CONTAINERS, wav
from tests.audio.sounds import tone, write

PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{path}\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile '{path}'\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_playlists_are_rejected(name: str, tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.ts", "mpegts", "aac", tone(3))
    playlist = tmp_path / name
    playlist.write_text(PLAYLISTS[name].format(path=secret))
    with av.open(str(playlist), options={"safe": "0", "allowed_extensions": "ALL"}) as container:
        assert next(container.decode(audio=0)).samples  # FFmpeg by itself does open it
    with pytest.raises(AudioError) as caught:
        list(AudioDecoder(playlist, LimitSettings()))
    assert caught.value.code == "not_audio"


@pytest.mark.parametrize("barrier", ["format_whitelist", "protocol_whitelist"])
def test_each_whitelist_suffices_alone(barrier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = write(tmp_path / "secret.ts", "mpegts", "aac", tone(3))
    opened = av.open
    used: list[dict[str, str]] = []

    def weakened(*args: object, **options: object) -> object:
        container_options = options["container_options"]
        assert isinstance(container_options, dict)
        used.append(container_options)
        weak = {barrier: container_options[barrier], "safe": "0", "allowed_extensions": "ALL"}
        return opened(*args, **{**options, "container_options": weak})

    monkeypatch.setattr(av, "open", weakened)
    for name, text in PLAYLISTS.items():
        playlist = tmp_path / name
        playlist.write_text(text.format(path=secret))
        with pytest.raises(AudioError):
            list(AudioDecoder(playlist, LimitSettings()))
    assert len(used) == 2


FUZZ = """
import random, sys
from pathlib import Path
from serve_app.audio.decode import AudioDecoder
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
            for chunk in AudioDecoder(work / "hostile", LimitSettings(max_audio_s=60)):
                pass
        except ServiceError:
            pass
print("survived")
"""


@pytest.mark.slow
def test_damaged_files_neither_crash_nor_use_much_memory(tmp_path: Path) -> None:
    """Truncated and damaged files of all formats give audio or a clear error: no crash, no hang, little memory."""
    for kind, (format_name, codec) in CONTAINERS.items():
        write(tmp_path / f"whole-{kind}", format_name, codec, tone(2, 48000), 48000)
    process = subprocess.run(
        [sys.executable, "-c", FUZZ, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31)),
    )
    assert process.stdout == "survived\n", process.stderr


MEASURE = """
import resource, sys
from pathlib import Path
from serve_app.audio.decode import AudioDecoder
from serve_app.settings import LimitSettings
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for chunk in (decoding := AudioDecoder(Path(sys.argv[1]), LimitSettings())):
    pass
assert not any("truncated" in warning for warning in decoding.warnings), decoding.warnings
print(decoding.samples_read, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wav-16", "mp3"])
def test_memory_does_not_grow_with_the_recording(kind: str, tmp_path: Path) -> None:
    format_name, codec = CONTAINERS[kind]
    minute = write(tmp_path / "minute", format_name, codec, tone(60)).read_bytes()
    (tmp_path / "audio").write_bytes(wav(tone(60).tobytes() * 20) if kind == "wav-16" else minute * 20)
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "audio")], capture_output=True, text=True, timeout=120
    )
    assert not process.returncode, process.stderr
    samples, mebibytes = map(int, process.stdout.split())
    assert samples == pytest.approx(1200 * SAMPLE_RATE, abs=40_000)
    assert mebibytes < 30  # the whole PCM is 37
