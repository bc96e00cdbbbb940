"""Measure the engine side by side with others on CPU cores (`make bench`; about 25 minutes on 2 cores).

    python -m benchmarks.speed                              everything; writes results, plot and docs/performance.md
    python -m benchmarks.speed --repeats 1 --parts nano     a short run
    python -m benchmarks.speed --parts base --engines ours faster-batched

Every engine has a process of its own, with the same weights, the same audio and the same windows of at most 30 s. They
take turns, one pass each, until each has had its repeats. Parts:

  base     whisper-base's layout with random weights; every window yields exactly 97 tokens
  nano     whisper-nano on spoken digits by unknown voices, until the model ends a window (needs espeak-ng)
  slots    ours: windows of mixed lengths all at once, against static batches, computed until their longest text ends
  batches  ours at batch sizes 1, 4, 16 and 32, on both layouts
  real     whisper-base's weights on real English speech until the model ends a window, greedily and with 5 beams,
           with fallback in engines that have it (needs --real-weights, and recordings as benchmarks.real_speech)

Nothing else should run on the machine meanwhile.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import layouts, report
from benchmarks.engines import RunConfig
from benchmarks.real_speech import recordings
from benchmarks.real_speech.metrics import normalise, word_errors
from benchmarks.results import processor_name
from benchmarks.worker import ENGINES, PassResult, Worker
from benchmarks.workloads import Workload, make_workload
from serve_app.models.resolve import resolve_checkpoint
from testing.scoring import word_error_rate

PARTS = ("base", "nano", "slots", "batches", "real")
BATCH_SIZES = (1, 4, 16, 32)
MAX_REPEATS = {"batches base": 3, "real": 3, "real beam 5": 1}
"""For parts that would take too long."""
WARM_UPS = 1
PAUSE_S = 0.3
"""Between passes, because thread pools spin for a while after their last work."""
_REPOSITORY = Path(__file__).parents[1]
_RESULTS = _REPOSITORY / "benchmarks" / "results"
_BENCH = _REPOSITORY / "data" / "bench"
_REAL_WEIGHTS = _REPOSITORY / "data" / "models" / "whisper-base"
"""Downloaded if they do not exist."""
_NANO = _REPOSITORY / "serve_app" / "models" / "whisper-nano"
_PACKAGES = ("torch", "transformers", "ctranslate2", "faster-whisper", "openai-whisper", "numpy")


@dataclass
class Case:
    """An engine with a workload, and its passes so far. `windows`: only the first so many; None: all."""

    label: str
    engine: str
    layout: str
    workload: str
    windows: int | None = None
    config: RunConfig = field(default_factory=RunConfig)
    runs: list[PassResult] = field(default_factory=list)


def build_cases(names: Iterable[str], engines: Iterable[str]) -> dict[str, list[Case]]:
    """Return the cases of each part."""
    cases: dict[str, list[Case]] = {}
    for part in names:
        if part == "slots":
            cases[part] = [
                Case("slots", "ours", "base", "mixed"),
                Case("static batches", "ours", "base", "mixed", config=RunConfig(static=True)),
            ]
        elif part == "real":
            cases |= {"real": build_real_speech_cases(1, engines), "real beam 5": build_real_speech_cases(5, engines)}
        elif part == "batches":
            for layout in ("base", "nano"):
                cases[f"{part} {layout}"] = [
                    Case(f"batches of {size}", "ours", layout, f"{layout}-long", config=RunConfig(size))
                    for size in BATCH_SIZES
                ]
        else:
            cases[part] = [
                Case(
                    ENGINES[engine].label,
                    engine,
                    part,
                    part,
                    windows=4 if part == "base" and ENGINES[engine].slow else None,
                    config=RunConfig(ENGINES[engine].batch_size),
                )
                for engine in engines
            ]
    return cases


def build_real_speech_cases(beam_size: int, engines: Iterable[str]) -> list[Case]:
    """Return a case of real speech for every engine; slow ones get the first windows only."""
    return [
        Case(
            ENGINES[engine].label,
            engine,
            "real",
            "real",
            windows=6 if ENGINES[engine].slow else None,
            config=RunConfig(ENGINES[engine].batch_size, beam_size=beam_size, fallback=True),
        )
        for engine in engines
    ]


def workload_file(name: str) -> Path:
    """Return the file of a workload, which is made when it is first needed."""
    path = _BENCH / "work" / f"{name}.npz"
    if not path.exists():
        print(f"making the audio of {name} …", flush=True)
        make_workload(name).save(path)
    return path


def checkpoint(layout: str, real: Path) -> Path:
    """Return the folder of a layout's weights; random ones are made when first needed. `real`: that of real weights."""
    if layout == "nano":
        return _NANO
    if layout == "real":
        return real
    folder = _BENCH / layout
    return folder if (folder / "config.json").exists() else layouts.write(layout, folder)


def interleave(labels: Iterable[str], passes: int) -> list[str]:
    """Return labels in turns, A B C A B C …, each `passes` times: a slow phase of the machine affects all alike."""
    return list(labels) * passes


def measure(cases: list[Case], repeats: int, threads: int, real: Path) -> None:
    """Run the cases in turns, in worker processes that live throughout."""
    workers: dict[tuple[str, str], Worker] = {}
    try:
        for case in cases:
            key = (case.engine, case.layout)
            if key not in workers:
                log = _BENCH / "logs" / f"{case.engine}-{case.layout}.log"
                workers[key] = Worker(case.engine, checkpoint(case.layout, real), threads, log)
        by_label = {case.label: case for case in cases}
        passes = interleave(by_label, WARM_UPS + repeats)
        for index, label in enumerate(passes):
            case = by_label[label]
            run = workers[case.engine, case.layout].run(workload_file(case.workload), case.windows, case.config)
            warm = index < WARM_UPS * len(cases)
            case.runs.append(run)
            ahead = passes[index + 1 :]
            left = sum(by_label[name].runs[-1].seconds + PAUSE_S for name in ahead if by_label[name].runs)
            print(
                f"  {label:48} {run.seconds:7.2f} s {'(warm-up)' if warm else '':9}"
                f" {f'about {left / 60:.1f} min left' if index + 1 >= len(cases) else ''}",
                flush=True,
            )
            time.sleep(PAUSE_S)
    finally:
        for worker in workers.values():
            worker.close()


def error_rate(workload: str, truth: str, text: str) -> float:
    """Return the word error rate; for real English speech after the normalisation of Whisper's paper."""
    if workload != "real":
        return word_error_rate([(truth, text)])
    return word_errors(normalise(truth, "en"), normalise(text, "en")).rate


def figures(case: Case) -> dict[str, Any]:
    """Return the part of a case that is saved."""
    workload = Workload.load(workload_file(case.workload)).first(case.windows)
    timed = case.runs[WARM_UPS:]
    wer = error_rate(case.workload, " ".join(workload.truth), timed[0].text) if workload.truth else None
    return {
        "label": case.label,
        "engine": case.engine,
        "batch_size": case.config.batch_size,
        "audio_s": round(workload.duration, 2),
        "windows": len(workload.ends),
        "tokens": list(timed[0].tokens),
        "wer": None if wer is None else round(wer, 4),
        "seconds": [round(run.seconds, 4) for run in timed],
    }


def machine(threads: int) -> dict[str, Any]:
    """Describe the machine."""
    return {
        "processor": processor_name(),
        "cores": threads,
        "platform": platform.platform(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Return the versions of the measured packages that are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def positive_int(number: str) -> int:
    """Parse a positive number from the command line."""
    if not number.isdecimal() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"{number!r} is not a positive number")
    return int(number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help="default: all")
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=ENGINES,
        default=list(ENGINES),
        metavar="ENGINE",
        help=f"default: all, which are {', '.join(ENGINES)}",
    )
    parser.add_argument("--repeats", type=positive_int, default=5, help="passes of each engine after its warm-up (5)")
    parser.add_argument(
        "--threads", type=positive_int, default=2, help="number of cores and of threads of each engine (2)"
    )
    parser.add_argument(
        "--results", type=Path, default=_RESULTS, metavar="FOLDER", help="output folder (benchmarks/results)"
    )
    parser.add_argument(
        "--real-weights",
        type=Path,
        default=_REAL_WEIGHTS,
        metavar="FOLDER",
        help="weights for the part real (data/models/whisper-base)",
    )
    parser.add_argument(
        "--report", type=Path, metavar="JSON", help="measure nothing; write the table and plot of a result"
    )
    arguments = parser.parse_args()
    if arguments.report is not None:
        report.publish(arguments.report)
        return
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    where = machine(arguments.threads)
    if where["load_average"] > 0.5:
        print(f"warning: the machine is busy (load average {where['load_average']}): figures will be low and vary")
    if "real" in arguments.parts and arguments.real_weights == _REAL_WEIGHTS:
        resolve_checkpoint(_REAL_WEIGHTS.name, _REAL_WEIGHTS.parent, print)
    missing = [
        str(p) for p in (arguments.real_weights / "config.json", recordings.REAL / "truth.json") if not p.exists()
    ]
    if "real" in arguments.parts and missing:
        print(f"skipping the part real: {' and '.join(missing)} not found")
        arguments.parts = [part for part in arguments.parts if part != "real"]
    cases = build_cases(arguments.parts, arguments.engines)
    try:
        for case in (case for members in cases.values() for case in members):
            workload_file(case.workload)
    except FileNotFoundError as error:
        sys.exit(f"error: {error}; or run without nano: --parts base slots")
    for name, members in cases.items():
        print(f"\n{name}", flush=True)
        try:
            repeats = min(arguments.repeats, MAX_REPEATS.get(name, sys.maxsize))
            measure(members, repeats, arguments.threads, arguments.real_weights.resolve())
        except RuntimeError as error:
            sys.exit(f"error: {error}")
    result = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": where,
        "versions": versions(),
        "repeats": arguments.repeats,
        "parts": {name: [figures(case) for case in members] for name, members in cases.items()},
    }
    arguments.results.mkdir(exist_ok=True)
    path = arguments.results / f"speed-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nsaved {path}\n\n{report.text(result)}")
    if set(arguments.parts) == set(PARTS) and set(arguments.engines) == set(ENGINES):
        report.publish(path)


if __name__ == "__main__":
    main()
