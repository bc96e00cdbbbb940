"""Measure how fast one core turns recordings into windows: download, decoding, voice activity detection, cutting.

    python -m benchmarks.audio_path [--save] [FILE ...]

Without files, half an hour of speech (the recordings of tests/data, repeated) is encoded in several formats. Figures
are seconds of audio per second of this process's CPU time, on one thread and one core, the best and the median of the
repeats. The codec alone is FFmpeg's demuxer and decoder, without conversion of the audio.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.results import save_result
from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.audio.vad import FRAME_SAMPLES, SpeechDetector
from serve_app.audio.windows import cut_into_blocks
from serve_app.net.download import fetch
from serve_app.net.ssrf import guarded_session
from serve_app.settings import AppSettings, LimitSettings, NetworkSettings
from testing.recordings import decode_recording, recording_paths

TARGET = 1000
"""Times real time that one core should reach, so that 16 cores feed one GPU."""

STAGES = ("fetch", "codec", "decode", "vad", "windows", "path", "all")
"""`path` is a file to windows through the service's own code; `all` is that and the download."""

_PACKAGES = ("av", "torch", "numpy", "silero-vad", "aiohttp")
_WINDOW_S = 30.0

Pcm = NDArray[np.int16]


@dataclass(frozen=True)
class Kind:
    """An audio format to measure, with FFmpeg's names; `bit_rate` in bits a second."""

    container: str
    codec: str
    rate: int = SAMPLE_RATE
    layout: str = "mono"
    bit_rate: int | None = None


KINDS = {
    "mp3 16 kHz 32 kbit/s": Kind("mp3", "libmp3lame", bit_rate=32_000),
    "opus 16 kHz 24 kbit/s": Kind("ogg", "libopus", bit_rate=24_000),
    "opus 16 kHz 64 kbit/s": Kind("ogg", "libopus", bit_rate=64_000),
    "mp3 44.1 kHz stereo 128 kbit/s": Kind("mp3", "libmp3lame", 44_100, "stereo", 128_000),
    "flac 16 kHz": Kind("flac", "flac"),
    "wav 16 kHz": Kind("wav", "pcm_s16le"),
}


def speech(seconds: float) -> Pcm:
    """Return the recordings of tests/data with a second of silence between them, repeated, with faint noise."""
    parts = [part for path in recording_paths() for part in (decode_recording(path), np.zeros(SAMPLE_RATE, np.int16))]
    pcm = np.resize(np.concatenate(parts), round(seconds * SAMPLE_RATE))
    noisy = pcm + np.random.default_rng(0).normal(0, 20, len(pcm))
    return np.clip(noisy, -32768, 32767).astype(np.int16)


def write(path: Path, pcm: Pcm, kind: Kind) -> Path:
    """Encode 16 kHz audio."""
    with av.open(str(path), "w", format=kind.container) as container:
        stream = container.add_stream(kind.codec, rate=kind.rate, layout=kind.layout)
        if kind.bit_rate is not None:
            stream.bit_rate = kind.bit_rate
        resampler = av.AudioResampler("s16", kind.layout, kind.rate)
        for start in range(0, len(pcm), SAMPLE_RATE):
            frame = av.AudioFrame.from_ndarray(pcm[None, start : start + SAMPLE_RATE], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
            for resampled in resampler.resample(frame):
                container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))
    return path


def stages(path: Path, server: str) -> tuple[float, dict[str, Callable[[], object]]]:
    """Return the seconds of audio in a file, and the functions to time."""
    settings = AppSettings()
    chunks = list(_sound(path))
    samples = sum(map(len, chunks))
    probabilities: list[NDArray[np.float32]] = []
    detector = SpeechDetector()

    def detect_and_record(pcm: Pcm) -> NDArray[np.float32]:
        probabilities.append(detector(pcm))
        return probabilities[-1]

    def windows(sound: Iterable[Pcm], detect: Callable[[Pcm], NDArray[np.float32]]) -> int:
        return sum(
            len(b.windows) for b in cut_into_blocks(sound, detect, settings.vad, _WINDOW_S, settings.windows.block_s)
        )

    windows(chunks, detect_and_record)

    def vad() -> None:
        detector = SpeechDetector()
        pcm, start = np.concatenate(chunks), 0
        for frames in map(len, probabilities):
            piece = pcm[start : start + frames * FRAME_SAMPLES]
            detector(np.pad(piece, (0, -len(piece) % FRAME_SAMPLES)))
            start += len(piece)

    def replay_probabilities() -> Callable[[Pcm], NDArray[np.float32]]:
        left = iter(probabilities)
        return lambda pcm: next(left)

    return samples / SAMPLE_RATE, {
        "fetch": lambda: asyncio.run(_fetch(f"{server}/{path.name}", path.with_suffix(".fetched"))),
        "codec": lambda: _decode_only(path),
        "decode": lambda: sum(map(len, _sound(path))),
        "vad": vad,
        "windows": lambda: windows(chunks, replay_probabilities()),
        "path": lambda: windows(_sound(path), SpeechDetector()),
    }


def _sound(path: Path) -> Iterator[Pcm]:
    return iter(AudioDecoder(path, LimitSettings()))


def _decode_only(path: Path) -> None:
    with av.open(str(path)) as container:
        for packet in container.demux(audio=0):
            packet.decode()


async def _fetch(url: str, path: Path) -> None:
    async with guarded_session(NetworkSettings(allow_private_addresses=True)) as session:
        await fetch(session, url, path, LimitSettings(), max_redirects=0)


def measure(name: str, path: Path, server: str, repeats: int) -> dict[str, Any]:
    """Return the speed of every stage, as a multiple of real time."""
    seconds, timed = stages(path, server)
    taken: dict[str, list[float]] = {stage: [] for stage in timed}
    for _ in range(repeats):
        for stage, run in timed.items():
            start = time.process_time()
            run()
            taken[stage].append(time.process_time() - start)
    best = {stage: min(times) for stage, times in taken.items()}
    row = {stage: {"best": seconds / min(t), "median": seconds / statistics.median(t)} for stage, t in taken.items()}
    row["all"] = {"best": seconds / (best["fetch"] + best["path"])}
    print(f"{name:32}" + "".join(f"{speeds['best']:>9,.0f}" for speeds in row.values()), flush=True)
    return {"audio_s": seconds, "bytes": path.stat().st_size, "times_real_time": _rounded(row)}


def _rounded(row: dict[str, dict[str, float]]) -> dict[str, dict[str, int]]:
    return {stage: {name: round(speed) for name, speed in speeds.items()} for stage, speeds in row.items()}


def serve(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Start a file server on loopback in a process of its own; return it and its URL."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # noqa: S603
    assert process.stdout is not None
    port = process.stdout.readline().split(" port ")[1].split()[0]
    return process, f"http://127.0.0.1:{port}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE", help="recordings to use instead")
    parser.add_argument("--minutes", type=float, default=30, help="minutes of speech to make (30)")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of every measurement (5)")
    parser.add_argument("--core", type=int, default=0, help="the CPU core to run on (0)")
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results/")
    arguments = parser.parse_args()
    rows: dict[str, Any] = {}
    with TemporaryDirectory(prefix="audio-path-") as name:
        folder = Path(name)
        server, address = serve(folder)
        os.sched_setaffinity(0, {arguments.core})
        torch.set_num_threads(1)
        try:
            print(f"{'times real time, best':32}" + "".join(f"{stage:>9}" for stage in STAGES), flush=True)
            for label, path in _recordings(arguments.files, arguments.minutes, folder):
                rows[label] = measure(label, path, address, arguments.repeats)
        finally:
            server.terminate()
            server.wait()
    if arguments.save:
        save_result("audio-path", _PACKAGES, {"repeats": arguments.repeats, "formats": rows})


def _recordings(files: list[Path], minutes: float, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield names and paths of the recordings; files are linked into `folder`."""
    for number, file in enumerate(files):
        path = folder / f"{number}{file.suffix}"
        path.symlink_to(file.absolute())
        yield file.name, path
    if not files:
        pcm = speech(60 * minutes)
        for number, (label, kind) in enumerate(KINDS.items()):
            yield label, write(folder / str(number), pcm, kind)


if __name__ == "__main__":
    main()
