"""Measure diarization against pyannote's own pipeline: speed, memory, and its cost in parallel with transcription.

    python -m benchmarks.diarization.speed [--save] [--minutes 60] [--repeats 3] [--pipeline NAME] [FILE ...]

The same models and audio go to pyannote's own pipeline and to the service's, in turns, each in a process of its own
with one core and one thread; their turns must be identical. Then a job runs through the transcriber, its text on one
core and its speakers on another: alone and together. Without files, the recordings of tests/data follow each other,
with pauses and some overlaps. Every figure is the median of the repeats.
"""

import argparse
import asyncio
import io
import os
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import cycle
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydub import AudioSegment

from benchmarks.results import save_result
from serve_app.audio import SAMPLE_RATE
from serve_app.net.ssrf import guarded_session
from serve_app.pipeline.transcribe import Pipeline
from serve_app.schemas.job import Job
from serve_app.schemas.request import DiarizationOptions, JobRequest, TranscriptionOptions
from serve_app.schemas.transcript import Transcript, Turn, final_transcript
from serve_app.settings import AppSettings, DiarizationSettings, VadSettings, WhisperSettings
from serve_app.storage.blobs import BlobStore
from serve_app.whisper.protocol import WindowBatch
from serve_app.whisper.window_text import WindowText
from testing.recordings import decode_recording, recording_paths

MIN_RATIO = 2.0
MAX_PARALLEL_RATIO = 1.15
MAX_BYTES = 4 * 2**30

_PACKAGES = ("pyannote.audio", "torch", "numpy", "scipy")

Pcm = NDArray[np.int16]


class Diarizer:
    """A pipeline in a process of its own, on one core; `kind` is `pyannote` (the library's) or `ours`."""

    def __init__(self, kind: str, pipeline: str, core: int) -> None:
        context = get_context("spawn")
        self._connection, child_connection = context.Pipe()
        self._process = context.Process(target=_serve, args=(child_connection, kind, pipeline, core), daemon=True)
        self._process.start()
        self._connection.recv()

    def __call__(self, sound: Path) -> tuple[float, tuple[Turn, ...], int]:
        """Return the seconds, the turns, and the peak memory of the process in bytes."""
        self._connection.send(sound)
        found = self._connection.recv()
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]

    def close(self) -> None:
        self._connection.send(None)
        self._process.join()


def _serve(connection: Connection, kind: str, name: str, core: int) -> None:
    os.sched_setaffinity(0, {core})
    from serve_app.diarization.pipeline import SpeakerPipeline
    from serve_app.diarization.pyannote_pipeline import PyannotePipeline, load_pyannote

    settings = DiarizationSettings(pipeline=name, device="cpu", threads=1)
    if kind == "ours":
        pipeline = SpeakerPipeline.load(settings, VadSettings(), Path("data/models"))
    else:
        pipeline = SpeakerPipeline(PyannotePipeline(load_pyannote(name, None)), settings, VadSettings())
    pipeline.begin()
    pipeline.diarize(np.zeros(20 * SAMPLE_RATE, np.int16), DiarizationOptions())
    connection.send("ready")
    while (sound := connection.recv()) is not None:
        pcm = np.load(sound)
        start = time.perf_counter()
        try:
            turns = pipeline.diarize(pcm, DiarizationOptions())
        except Exception as error:
            connection.send(error)
            continue
        bytes_ = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        connection.send((time.perf_counter() - start, turns, bytes_))


def side_by_side(name: str, sound: Path, repeats: int, core: int) -> dict[str, Any]:
    """Measure pyannote's pipeline and ours, in turns."""
    seconds: dict[str, list[float]] = {"pyannote": [], "ours": []}
    turns: dict[str, tuple[Turn, ...]] = {}
    memory: dict[str, int] = {}
    diarizers = {kind: Diarizer(kind, name, core) for kind in seconds}
    for _ in range(repeats):
        for kind, diarizer in diarizers.items():
            took, turns[kind], memory[kind] = diarizer(sound)
            seconds[kind].append(took)
            print(f"  {kind:8s} {took:7.1f} s   {memory[kind] / 2**30:.2f} GiB", flush=True)
    for diarizer in diarizers.values():
        diarizer.close()
    medians = {kind: statistics.median(times) for kind, times in seconds.items()}
    return {
        "seconds": {kind: [round(time, 2) for time in times] for kind, times in seconds.items()},
        "ratio": round(medians["pyannote"] / medians["ours"], 2),
        "identical_turns": turns["pyannote"] == turns["ours"],
        "turns": len(turns["ours"]),
        "speakers": len({turn.speaker for turn in turns["ours"]}),
        "peak_bytes": memory,
    }


async def measure_parallel(name: str, pcm: Pcm, repeats: int, cores: Sequence[int]) -> dict[str, Any]:
    """Measure a job's wall time with its text alone, its speakers alone, and both."""
    from serve_app.whisper.engine.engine import Engine
    from serve_app.whisper.model.whisper_model import WhisperModel

    diarizer = Diarizer("ours", name, cores[1])
    os.sched_setaffinity(0, {cores[0]})
    engine = Engine(WhisperModel.load("whisper-nano", WhisperSettings(device="cpu", threads=1)))
    with TemporaryDirectory() as folder:
        settings = AppSettings(
            model="whisper-nano", data_dir=Path(folder), diarization=DiarizationSettings(pipeline=name)
        )
        blobs = BlobStore(settings.blob_root)
        sound = AudioSegment(pcm.tobytes(), sample_width=2, frame_rate=SAMPLE_RATE, channels=1)
        source = await blobs.write(_once(sound.export(io.BytesIO(), format="wav").getvalue()))

        async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
            return await engine.transcribe(batch)

        async def diarize(pcm: Pcm, options: DiarizationOptions, interactive: bool) -> tuple[Turn, ...]:
            path = Path(folder) / "sound.npy"
            np.save(path, pcm)
            return (await asyncio.to_thread(diarizer, path))[1]

        async def run(options: TranscriptionOptions) -> tuple[float, Transcript]:
            job = Job.running("job", JobRequest(source=source, options=options), mode="async")
            async with guarded_session(settings.network) as session:
                pipeline = Pipeline(settings, blobs, session, transcribe_batch, diarize)
                start = time.perf_counter()
                transcript = await final_transcript(pipeline.transcribe(job))
                return time.perf_counter() - start, transcript

        seconds: dict[str, list[float]] = {"text": [], "text with words": [], "speakers": [], "both": []}
        for _ in range(repeats):
            seconds["text"].append((await run(TranscriptionOptions()))[0])
            seconds["text with words"].append((await run(TranscriptionOptions(timestamps="word")))[0])
            np.save(Path(folder) / "alone.npy", pcm)
            seconds["speakers"].append(diarizer(Path(folder) / "alone.npy")[0])
            took, transcript = await run(TranscriptionOptions(diarization=DiarizationOptions()))
            assert transcript.turns is not None, transcript.warnings
            seconds["both"].append(took)
            print("  " + "   ".join(f"{what} {times[-1]:.1f} s" for what, times in seconds.items()), flush=True)
    engine.close()
    diarizer.close()
    medians = {what: statistics.median(times) for what, times in seconds.items()}
    return {
        "seconds": {what: [round(time, 2) for time in times] for what, times in seconds.items()},
        "both_over_the_longer": round(medians["both"] / max(medians["text"], medians["speakers"]), 3),
        "both_over_the_longer_with_words": round(
            medians["both"] / max(medians["text with words"], medians["speakers"]), 3
        ),
    }


async def _once(data: bytes):  # type: ignore[no-untyped-def]
    yield data


def conversation(seconds: float, files: Sequence[Path]) -> Pcm:
    """Join recordings with pauses and some overlaps."""
    voices = [decode_recording(file) // 2 for file in files]
    chance = np.random.default_rng(0)
    sound = np.zeros(int(seconds * SAMPLE_RATE) + max(map(len, voices)), np.int16)
    at = 0
    for voice in cycle(voices):
        if at >= seconds * SAMPLE_RATE:
            return sound[: int(seconds * SAMPLE_RATE)]
        sound[at : at + len(voice)] += voice
        at += len(voice) + int(chance.choice([-0.8, 0.2, 0.5, 1.2, 8.0], p=[0.15, 0.3, 0.3, 0.2, 0.05]) * SAMPLE_RATE)
    raise ValueError("no recordings")


def main() -> int:
    options = _parser().parse_args()
    files = options.files or recording_paths()
    pcm = conversation(60 * options.minutes, files)
    cores = sorted(os.sched_getaffinity(0))[:2]
    with TemporaryDirectory() as folder:
        np.save(sound := Path(folder) / "sound.npy", pcm)
        print(f"{options.minutes:g} minutes, {options.pipeline}, one core each:")
        speed = side_by_side(options.pipeline, sound, options.repeats, cores[0])
    print(f"  {speed['ratio']} times as fast, identical turns: {speed['identical_turns']}")
    print("text and speakers, one core each:")
    together = asyncio.run(measure_parallel(options.pipeline, pcm, options.repeats, cores))
    print(f"  both take {together['both_over_the_longer']} times as long as the longer of the two")
    if options.save:
        figures = {"minutes": options.minutes, "pipeline": options.pipeline, "speed": speed, "beside": together}
        save_result("diarization", _PACKAGES, figures)
    fast = options.any_speed or (
        speed["ratio"] >= MIN_RATIO
        and speed["peak_bytes"]["ours"] <= MAX_BYTES
        and together["both_over_the_longer"] <= MAX_PARALLEL_RATIO
    )
    return 0 if speed["identical_turns"] and fast else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="recordings with one voice each (default: tests/data)")
    parser.add_argument("--minutes", type=float, default=60.0, help="minutes of audio (60)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pipeline", default="diarization-nano", help="embedded name, or a folder")
    parser.add_argument("--any-speed", action="store_true", help="fail only if turns differ, at any speed")
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results/")
    return parser


if __name__ == "__main__":
    sys.exit(main())
