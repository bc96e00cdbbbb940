"""Measure the running service against its engine alone: throughput, latency of short requests under load, start time.

    python -m benchmarks.service [--model whisper-nano] [--save]

Starts `python -m deployments` on loopback with a data folder of its own, and stops it. The engine alone is the same
model in another process, which gets the windows that the service would cut; the two take turns. For random weights (see
benchmarks.layouts) limit the text with --max-new-tokens 100; short requests are not measured then.
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
from serve_app.audio.decode import AudioDecoder
from serve_app.audio.vad import SpeechDetector
from serve_app.audio.windows import cut_into_blocks
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
_RESTART = "Whisper's process start to its first response, other processes running"
_RAY_WORKER_NICENESS = 15
"""Ray's default: on a busy machine the engine alone must not have priority over the service."""


def bare_engine(pipe: Connection, files: Sequence[Path], model: str, threads: int, options: dict[str, Any]) -> None:
    """Run in a process of its own: send the seconds of loading and of one window, then of every requested round."""
    os.nice(_RAY_WORKER_NICENESS)
    torch.set_num_threads(threads)
    settings = AppSettings(model=model)
    whisper = next(d for d in load(CONFIG).applications[0].deployments if d.name == "Whisper")
    start = time.perf_counter()
    engine = Engine(WhisperModel.load(model, settings.whisper), Batching.model_validate(whisper.user_config))
    loaded = time.perf_counter()
    chosen, windows = TranscriptionOptions(**options), []
    for number, file in enumerate(files):
        sound = AudioDecoder(file, settings.limits)
        for block in cut_into_blocks(
            sound, SpeechDetector(), settings.vad, longest_window_s(model), settings.windows.block_s
        ):
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
    """Measure audio seconds a second: 16 jobs of the service at once, and the engine alone, in turns."""
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
    """Measure the latency of a short clip, when idle and while a long recording is transcribed."""
    idle = [await service.transcribe(clip) for _ in range(clips)]
    print(f"idle: {percentiles(idle)}", flush=True)
    job_id = await service.submit(long, options)
    job = await service.wait_while(job_id, "queued")
    await asyncio.sleep(10)  # until the engine has all its blocks in flight
    loaded: list[float] = []
    while len(loaded) < clips and (job := await service.job(job_id))["status"] == "running":
        loaded.append(await service.transcribe(clip))
    print(f"during a long recording: {percentiles(loaded)}", flush=True)
    if job["status"] == "running":
        async with service.http.delete(f"/v1/jobs/{job_id}", raise_for_status=True):
            pass
    figures = {"idle": percentiles(idle), "loaded": percentiles(loaded)}
    return {**figures, "slowdown": round(figures["loaded"]["p95"] / figures["idle"]["p95"], 2)}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return the median and the 95th percentile. Raises RuntimeError for fewer than two values."""
    if len(seconds) < 2:
        raise RuntimeError(f"the long recording ended after {len(seconds)} clips: set a larger --hours")
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"clips": len(seconds), "p50": round(cuts[49], 3), "p95": round(cuts[94], 3)}


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run all three measurements."""
    options: dict[str, Any] = {}
    if arguments.max_new_tokens is not None:
        bound = {"max_new_tokens": arguments.max_new_tokens, "timestamps": "none"}
        options = {**bound, "language": "en", "temperature_increment_on_fallback": None}
    print("making the recordings …", flush=True)
    # Each starts at another place, so that all are different.
    pcm = speech(60 * arguments.minutes + JOBS)
    bounds = range(0, (JOBS + 1) * SAMPLE_RATE, SAMPLE_RATE)
    length = round(60 * arguments.minutes) * SAMPLE_RATE
    files = [write(folder / f"{i}.mp3", pcm[a : a + length], _KIND) for i, (a, _) in enumerate(pairwise(bounds))]
    clip = write(folder / "clip.mp3", pcm[: round(_CLIP_S * SAMPLE_RATE)], _KIND).read_bytes()
    hour = write(folder / "hour.mp3", speech(3600), _KIND).read_bytes()
    spawn = multiprocessing.get_context("spawn")
    parent_pipe, child_pipe = spawn.Pipe()
    given = (child_pipe, files, arguments.model, arguments.threads, options)
    print("starting the service …", flush=True)
    settings = {"MODEL": arguments.model, "WHISPER__THREADS": str(arguments.threads), "JOBS__MAX_RUNNING": str(JOBS)}
    async with run_service(folder / "data", settings) as service:
        await service.wait_for_first_response(clip, options)
        start = {name: round(seconds, 2) for name, seconds in service.milestones.items()}
        if not options:  # with random weights a clip is decoded at every temperature
            start[_RESTART] = round(await service.restart_replica(clip), 2)
        print("\n".join(f"{seconds:7.2f} s  {name}" for name, seconds in start.items()), flush=True)
        bare = spawn.Process(target=bare_engine, args=given, daemon=True)
        bare.start()
        try:
            parts = await asyncio.to_thread(parent_pipe.recv)
            parts |= {f"import {module}": import_seconds(module) for module in _MODULES}
            parts = {name: round(seconds, 2) for name, seconds in parts.items()}
            print(f"a process alone: {parts}", flush=True)
            audio_s = JOBS * length / SAMPLE_RATE
            efficient = await efficiency(service, parent_pipe, files, audio_s, options, arguments.rounds)
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
    parser.add_argument("--max-new-tokens", type=int, help="limit every window's text, and decode it without fallback")
    parser.add_argument(
        "--minutes", type=float, default=2, help=f"length of each of the {JOBS} recordings in minutes (2)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the service and the engine in turns (3)")
    parser.add_argument("--hours", type=int, default=3, help="length of the long recording in hours (3)")
    parser.add_argument("--clips", type=int, default=30, help="number of short requests, when idle and under load (30)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of the engine (all cores)")
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results/")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # stops the service, like Ctrl-C
    with TemporaryDirectory(prefix="stt-", dir="/tmp") as folder:
        figures = asyncio.run(measure(arguments, Path(folder)))
    start = figures["start_s"]
    started = start["the first response"] - start["Whisper's process starts"]
    print(f"efficiency {figures['efficiency']['share']:.0%} (target: at least {MIN_EFFICIENCY:.0%})")
    if figures["fairness"]:
        slowdown = figures["fairness"]["slowdown"]
        print(f"a clip's p95 during a long recording: {slowdown} x idle (at most {MAX_SLOWDOWN:g})")
    if _RESTART in start:
        print(f"{_RESTART}: {start[_RESTART]:.1f} s (at most {MAX_START_S:g})")
    print(f"the same while all other processes start on these cores: {started:.1f} s")
    if arguments.save:
        save_result("service", _PACKAGES, {"arguments": vars(arguments), **figures})


if __name__ == "__main__":
    main()
