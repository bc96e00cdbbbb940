"""Measure diarization of real conversations, side by side with other diarizers (`make bench-diarization`).

    python -m benchmarks.diarization                                   all engines (about 15 minutes)
    python -m benchmarks.diarization --engines ours --only ami
    python -m benchmarks.diarization --engines ours --only composed --long 120 --passes 1

Every engine has a process of its own with one core and one thread, and its default options; the number of speakers is
unknown. Diarization error rates with overlaps scored, with a collar of a quarter of a second on each side of a boundary
and without one; Jaccard error rates with the collar; how often the number of speakers is right; speed in CPU seconds,
the median of the passes; peak memory.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.diarization.engines import ENGINES
from benchmarks.diarization.recordings import (
    REAL,
    Conversation,
    join_conversations,
    read_conversations,
    write_wav,
)
from benchmarks.diarization.report import overview, write_docs
from benchmarks.diarization.scoring import Diarized, error_rates
from benchmarks.diarization.worker import Diarization, Worker
from benchmarks.results import processor_name, save_result
from testing.recordings import decode_recording

_PACKAGES = ("torch", "pyannote.audio", "pyannote.metrics", "scipy")
_LOGS = Path("data/bench/diarization")


def measure(
    engines: Sequence[str], conversations: Sequence[Conversation], passes: int
) -> dict[str, list[list[Diarization]]]:
    """Return what each engine found: for each conversation a list of its passes. Engines take turns."""
    found: dict[str, list[list[Diarization]]] = {engine: [] for engine in engines}
    workers = {engine: Worker(engine, _LOGS / f"{engine}.log") for engine in engines}
    try:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "sound.wav"
            write_wav(path, decode_recording(conversations[0].path))
            for worker in workers.values():
                worker.diarize(path)  # loads and compiles what is needed first
            for conversation in conversations:
                write_wav(path, decode_recording(conversation.path))
                runs: dict[str, list[Diarization]] = {engine: [] for engine in engines}
                for _ in range(passes):
                    for engine, worker in workers.items():
                        runs[engine].append(worker.diarize(path))
                for engine, of_engine in runs.items():
                    found[engine].append(of_engine)
                print(_line(conversation, runs), flush=True)
    finally:
        for worker in workers.values():
            worker.close()
    return found


def figures(conversations: Sequence[Conversation], found: Sequence[Sequence[Diarization]]) -> dict[str, Any]:
    """Return the scores of one engine: of each kind of recordings, its speed, memory, and every recording."""
    results = [
        Diarized(runs[0].turns, conversation.turns, conversation.seconds)
        for conversation, runs in zip(conversations, found, strict=True)
    ]
    groups = list(dict.fromkeys(conversation.group for conversation in conversations))
    cpu_s = sum(statistics.median(run.cpu_s for run in runs) for runs in found)
    return {
        "groups": {
            group: _scores([result for result, one in zip(results, conversations, strict=True) if one.group == group])
            for group in groups
        },
        "times_real_time": round(sum(one.seconds for one in conversations) / cpu_s, 1),
        "peak_bytes": max(run.peak_bytes for runs in found for run in runs),
        "recordings": {
            conversation.path.stem: {"error": error_rates([result])["error"], "speakers": result.counts}
            for conversation, result in zip(conversations, results, strict=True)
        },
    }


def _scores(results: Sequence[Diarized]) -> dict[str, Any]:
    return {
        "recordings": len(results),
        "seconds": round(sum(result.seconds for result in results), 1),
        **error_rates(results),
        "error_without_collar": error_rates(results, collar=0.0)["error"],
        "counts_right": sum(found == true for found, true in (result.counts for result in results)),
    }


def _line(conversation: Conversation, runs: dict[str, list[Diarization]]) -> str:
    errors = (
        f"{engine} {error_rates([Diarized(of_engine[0].turns, conversation.turns, conversation.seconds)])['error']:.1%}"
        for engine, of_engine in runs.items()
    )
    return f"  {conversation.path.stem}, {conversation.speakers} speakers: " + ", ".join(errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=[*ENGINES], metavar="ENGINE")
    parser.add_argument("--data", type=Path, default=REAL, help="recordings, each with an RTTM file (see the docs)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="beginnings of names of recordings")
    parser.add_argument("--passes", type=int, default=1, help="the median of their CPU seconds counts (1)")
    parser.add_argument("--long", type=float, metavar="MINUTES", help="join them to one recording that lasts so long")
    parser.add_argument("--save", action="store_true", help="save the figures, and write them to docs/diarization.md")
    options = parser.parse_args()
    try:
        conversations = read_conversations(options.data, options.only)
    except FileNotFoundError as error:
        parser.error(str(error))
    with TemporaryDirectory() as folder:
        if options.long:
            conversations = [join_conversations(conversations, options.long, Path(folder) / "joined.wav")]
        minutes = sum(conversation.seconds for conversation in conversations) / 60
        print(f"{len(conversations)} conversations, {minutes:.1f} minutes, {', '.join(options.engines)}", flush=True)
        found = measure(options.engines, conversations, options.passes)
    result = {
        "processor": processor_name(),
        "engines": {
            engine: {"label": ENGINES[engine].label} | figures(conversations, runs) for engine, runs in found.items()
        },
    }
    print(overview(result))
    if options.save:
        packages = (*_PACKAGES, "senko") if "senko" in options.engines else _PACKAGES
        write_docs(result, save_result("diarization-real", packages, result))


if __name__ == "__main__":
    main()
