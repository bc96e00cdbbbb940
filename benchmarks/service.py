"""The running service against its bare engine: throughput, a short request's wait under load, seconds to start.

    python -m benchmarks.service [--model whisper-nano] [--save]

Starts `python -m deployments` on loopback with a data folder of its own, and stops it. The bare engine is the same
model in another process, given the windows that the service cuts; the two take turns. For random weights (see
benchmarks.layouts) bound the text: --max-new-tokens 100; the short request's wait is not measured then.
"""

import argparse
import asyncio
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import wait
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.audio_path import KINDS, speech, write
from benchmarks.results import save_result
from deployments.config import load
from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import Decoding
from serve_app.audio.vad import SpeechDetector
from serve_app.audio.windows import cut
from serve_app.models import longest_window_s
from serve_app.schemas.request import TranscriptionOptions
from serve_app.settings import AppSettings
from serve_app.whisper.engine.engine import Engine
from serve_app.whisper.engine.scheduler import Batching
from serve_app.whisper.model.whisper_model import WhisperModel
from testing.service_process import CONFIG, ServiceProcess, run_service

MIN_EFFICIENCY, MAX_SLOWDOWN, MAX_START_S = 0.85, 3.0, 5.0
JOBS = 16
_KIND = KINDS["mp3 16 kHz 32 kbit/s"]
_PACKAGES = ("ray", "torch", "transformers", "av")
_CLIP_S = 3.0
_MODULES = (
    "torch",
    "serve_app.whisper.engine.engine",
    "deployments.whisper",
    "deployments.transcriber",
    "deployments.app",
)
_AGAIN = "Whisper's process to its first answer, the others running"
_RAY_WORKER_NICENESS = 15
"""Ray's default: on a busy machine the engine alone must not run before the service."""


def bare_engine(pipe: Connection, files: Sequence[Path], model: str, threads: int, options: dict[str, Any]) -> None:
    """In a process of its own: the seconds of loading and of one window, then those of every round asked for."""
    os.nice(_RAY_WORKER_NICENESS)
    torch.set_num_threads(threads)
    settings = AppSettings(model=model)
    whisper = next(d for d in load(CONFIG).applications[0].deployments if d.name == "Whisper")
    start = time.perf_counter()
    engine = Engine(WhisperModel.load(model, settings.whisper), Batching.model_validate(whisper.user_config))
    loaded = time.perf_counter()
    chosen, windows = TranscriptionOptions(**options), []
    for number, file in enumerate(files):
        sound = Decoding(file, settings.limits)
        for block in cut(sound, SpeechDetector(), settings.vad, longest_window_s(model), settings.windows.block_s):
            pieces = [block.pcm[w.start - block.start : w.end - block.start] for w in block.windows]
            windows += [(pcm, str(number)) for pcm in pieces]
    cut_up = time.perf_counter()
    engine.submit(windows[0][0], chosen, "0").result()
    pipe.send({"load the model": loaded - start, "the first window": time.perf_counter() - cut_up})
    while pipe.recv():
        start = time.perf_counter()
        futures = [engine.submit(pcm, chosen, job) for pcm, job in windows]
        wait(futures)
        failed = [future.exception() for future in futures if future.exception()]
        pipe.send(failed[0] if failed else time.perf_counter() - start)


def import_seconds(module: str) -> float:
    """Return the seconds a new Python takes to import a module, on the second run."""
    for _ in range(2):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)  # noqa: S603
    return time.perf_counter() - start


async def efficiency(
    service: ServiceProcess,
    bare: Connection,
    files: Sequence[Path],
    audio_s: float,
    options: dict[str, Any],
    rounds: int,
) -> dict[str, Any]:
    """Audio seconds a second: the service's 16 jobs at once, and the engine's, in turns."""
    speeds: dict[str, list[float]] = {"service": [], "engine": []}
    audios = [file.read_bytes() for file in files]
    for number in range(rounds):
        start = time.perf_counter()
        await service.run_jobs(audios, options)
        speeds["service"].append(audio_s / (time.perf_counter() - start))
        bare.send(True)
        seconds = await asyncio.to_thread(bare.recv)
        if isinstance(seconds, BaseException):
            raise seconds
        speeds["engine"].append(audio_s / seconds)
        print(f"round {number + 1}: " + ", ".join(f"{name} {of[-1]:.1f} x" for name, of in speeds.items()), flush=True)
    share = statistics.median(speeds["service"]) / statistics.median(speeds["engine"])
    return {"audio_s": audio_s, "times_real_time": speeds, "share": round(share, 3)}


async def fairness(
    service: ServiceProcess, clip: bytes, long: bytes, options: dict[str, Any], clips: int
) -> dict[str, Any]:
    """A short clip's seconds, alone and while one long recording is transcribed."""
    idle = [await service.transcribe(clip) for _ in range(clips)]
    print(f"idle: {percentiles(idle)}", flush=True)
    job_id = await service.submit(long, options)
    job = await service.wait_while(job_id, "queued")
    await asyncio.sleep(10)  # until all its blocks in flight are at the engine
    loaded: list[float] = []
    while len(loaded) < clips and (job := await service.job(job_id))["status"] == "running":
        loaded.append(await service.transcribe(clip))
    print(f"beside a long recording: {percentiles(loaded)}", flush=True)
    if job["status"] == "running":
        async with service.http.delete(f"/v1/jobs/{job_id}", raise_for_status=True):
            pass
    figures = {"idle": percentiles(idle), "loaded": percentiles(loaded)}
    return {**figures, "slowdown": round(figures["loaded"]["p95"] / figures["idle"]["p95"], 2)}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return the median and the 95th percentile. Raises RuntimeError for fewer than two."""
    if len(seconds) < 2:
        raise RuntimeError(f"the long recording ended after {len(seconds)} clips: make it longer with --hours")
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"clips": len(seconds), "p50": round(cuts[49], 3), "p95": round(cuts[94], 3)}


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All three figures."""
    options: dict[str, Any] = {}
    if arguments.max_new_tokens is not None:
        bound = {"max_new_tokens": arguments.max_new_tokens, "timestamps": "none"}
        options = {**bound, "language": "en", "temperature_increment_on_fallback": None}
    print("making the recordings …", flush=True)
    # Each begins elsewhere, so that no two are the same.
    pcm = speech(60 * arguments.minutes + JOBS)
    bounds = range(0, (JOBS + 1) * SAMPLE_RATE, SAMPLE_RATE)
    length = round(60 * arguments.minutes) * SAMPLE_RATE
    files = [write(folder / f"{i}.mp3", pcm[a : a + length], _KIND) for i, (a, _) in enumerate(pairwise(bounds))]
    clip = write(folder / "clip.mp3", pcm[: round(_CLIP_S * SAMPLE_RATE)], _KIND).read_bytes()
    hour = write(folder / "hour.mp3", speech(3600), _KIND).read_bytes()
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    given = (theirs, files, arguments.model, arguments.threads, options)
    print("starting the service …", flush=True)
    settings = {"MODEL": arguments.model, "WHISPER__THREADS": str(arguments.threads), "JOBS__MAX_RUNNING": str(JOBS)}
    async with run_service(folder / "data", settings) as service:
        await service.wait_for_first_response(clip, options)
        start = {name: round(seconds, 2) for name, seconds in service.milestones.items()}
        if not options:  # random weights try a clip at every temperature
            start[_AGAIN] = round(await service.restart_replica(clip), 2)
        print("\n".join(f"{seconds:7.2f} s  {name}" for name, seconds in start.items()), flush=True)
        bare = spawn.Process(target=bare_engine, args=given, daemon=True)
        bare.start()
        try:
            parts = await asyncio.to_thread(ours.recv)
            parts |= {f"import {module}": import_seconds(module) for module in _MODULES}
            parts = {name: round(seconds, 2) for name, seconds in parts.items()}
            print(f"a process alone: {parts}", flush=True)
            audio_s = JOBS * length / SAMPLE_RATE
            efficient = await efficiency(service, ours, files, audio_s, options, arguments.rounds)
        finally:
            bare.terminate()
            bare.join()
        fair = None
        if not options:
            fair = await fairness(service, clip, hour * arguments.hours, options, arguments.clips)
    return {"start_s": start, "process_start_s": parts, "efficiency": efficient, "fairness": fair}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="whisper-nano", help="embedded name or folder (whisper-nano)")
    parser.add_argument("--max-new-tokens", type=int, help="bound every window's text, and decode it only once")
    parser.add_argument("--minutes", type=float, default=2, help=f"of each of the {JOBS} recordings (2)")
    parser.add_argument("--rounds", type=int, default=3, help="of the service and the engine in turns (3)")
    parser.add_argument("--hours", type=int, default=3, help="of the long recording (3)")
    parser.add_argument("--clips", type=int, default=30, help="short requests, idle and under load (30)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the engine (every core)")
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results/")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # and stop the service, as Ctrl-C does
    with TemporaryDirectory(prefix="stt-", dir="/tmp") as folder:
        figures = asyncio.run(measure(arguments, Path(folder)))
    start = figures["start_s"]
    started = start["the first answer"] - start["Whisper's process starts"]
    print(f"efficiency {figures['efficiency']['share']:.0%} (at least {MIN_EFFICIENCY:.0%} wanted)")
    if figures["fairness"]:
        slowdown = figures["fairness"]["slowdown"]
        print(f"a clip's p95 beside a long recording: {slowdown} x idle (at most {MAX_SLOWDOWN:g})")
    if _AGAIN in start:
        print(f"{_AGAIN}: {start[_AGAIN]:.1f} s (at most {MAX_START_S:g})")
    print(f"the same while every other process starts on these cores: {started:.1f} s")
    if arguments.save:
        save_result("service", _PACKAGES, {"arguments": vars(arguments), **figures})


if __name__ == "__main__":
    main()
