"""Measure real speech on a CUDA device against transformers' pipeline: speed and word error rate.

    python -m benchmarks.gpu_speech                                     whisper-base, greedy and 5 beams
    python -m benchmarks.gpu_speech --device cpu --copies 1 --repeats 1 --beams 1     a test of the code

Every recording is transcribed several times, many at once: by our engine through the transcriber's whole pipeline
(file, speech detection, windows, engine, merging), by transformers from decoded audio. Float16 on the device, the same
weights.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.engines import to_float
from benchmarks.real_speech import score
from benchmarks.real_speech.__main__ import WEIGHTS
from benchmarks.real_speech.recordings import REAL, Recording, load
from benchmarks.real_speech.transcript import EngineTranscript
from benchmarks.real_speech.whisper_serve import in_process
from benchmarks.results import save_result
from benchmarks.speed import positive_int
from serve_app.whisper.engine.scheduler import Batching

Pass = Callable[[Sequence[Recording]], Awaitable[list[EngineTranscript]]]
"""Transcribes recordings, and returns the transcripts in order."""


async def measure(transcribe: Pass, recordings: Sequence[Recording], copies: int, repeats: int) -> dict[str, Any]:
    """Return the seconds of each pass after a warm-up, the speed, and the word error rate of the last pass."""
    work, seconds = [*recordings] * copies, []
    await transcribe(work)
    for _ in range(repeats):
        start = time.perf_counter()
        transcripts = await transcribe(work)
        seconds.append(round(time.perf_counter() - start, 3))
    summary = score.summary(
        [score.row(recording, transcript) for recording, transcript in zip(work, transcripts, strict=True)]
    )
    audio = sum(recording.duration for recording in work)
    return {"seconds": seconds, "real_time": round(audio / median(seconds), 1), "wer": round(summary["wer"], 4)}


async def ours(recordings: Sequence[Recording], beams: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure this project's pipeline with a number of beams."""
    batching = Batching(max_batch_size=arguments.rows)
    async with in_process(arguments.weights, arguments.threads, {"beam_size": beams}, batching) as transcribe_file:
        limit = asyncio.Semaphore(arguments.at_once)

        async def transcribe_one(recording: Recording) -> EngineTranscript:
            async with limit:
                return await transcribe_file(recording.path, False)

        async def transcribe(work: Sequence[Recording]) -> list[EngineTranscript]:
            return await asyncio.gather(*map(transcribe_one, work))

        return await measure(transcribe, recordings, arguments.copies, arguments.repeats)


async def transformers(recordings: Sequence[Recording], beams: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure transformers' pipeline over chunks of 30 s, 24 at a time."""
    from transformers import pipeline

    recogniser = pipeline(
        "automatic-speech-recognition",
        model=str(arguments.weights),
        device=arguments.device,
        dtype="float16" if arguments.device == "cuda" else "float32",
    )
    options = {"task": "transcribe", "num_beams": beams}

    async def transcribe(work: Sequence[Recording]) -> list[EngineTranscript]:
        sounds = [to_float(recording.pcm) for recording in work]
        answers = recogniser(sounds, chunk_length_s=30, batch_size=24, return_timestamps=True, generate_kwargs=options)
        return [EngineTranscript(answer["text"], None, (), ()) for answer in answers]

    return await measure(transcribe, recordings, arguments.copies, arguments.repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="a checkpoint (data/models/whisper-base)")
    parser.add_argument("--data", type=Path, default=REAL, help="a folder of recordings with a truth.json")
    parser.add_argument("--copies", type=positive_int, default=8, help="copies of each recording (8)")
    parser.add_argument("--at-once", type=positive_int, default=64, help="recordings that our engine gets at once (64)")
    parser.add_argument("--rows", type=positive_int, default=128, help="our batch size (128)")
    parser.add_argument("--beams", type=positive_int, nargs="+", default=[1, 5])
    parser.add_argument("--repeats", type=positive_int, default=2)
    parser.add_argument("--threads", type=positive_int, default=8)
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results/")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device found; test the code with --device cpu --copies 1")
    recordings = [recording for recording in load(arguments.data) if recording.text]
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    result: dict[str, Any] = {"device": device, "checkpoint": arguments.weights.name, "rows": arguments.rows}
    result |= {
        "copies": arguments.copies,
        "audio_s": round(sum(recording.duration for recording in recordings), 1),
        "engines": {},
    }
    for beams in arguments.beams:
        for run in (ours, transformers):
            name = f"{run.__name__}, {beams} beams"
            result["engines"][name] = found = asyncio.run(run(recordings, beams, arguments))
            print(f"{name:24} {found['real_time']:8.1f} × real time, WER {found['wer']:.2%}", flush=True)
    if arguments.save:
        save_result("gpu-speech", ("torch", "transformers"), result)


if __name__ == "__main__":
    main()
