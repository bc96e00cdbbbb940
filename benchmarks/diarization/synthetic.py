"""Score a diarization pipeline on held-out conversations (see benchmarks.conversations).

    python -m benchmarks.diarization.synthetic data/conversations --save

Diarization error rates with a collar of a quarter of a second on each side of a boundary, overlaps scored, with the
number of speakers unknown and given, by number of speakers and by length. Requirements for diarization-nano: at most
10 % with the number of speakers unknown, 6 % for two speakers. Exit status 1 if they are not met.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.diarization.recordings import SpokenTurn
from benchmarks.diarization.scoring import Diarized, error_rates
from benchmarks.results import save_result
from serve_app.diarization.pipeline import SpeakerPipeline
from serve_app.schemas.request import DiarizationOptions
from serve_app.schemas.transcript import Turn
from serve_app.settings import DiarizationSettings, VadSettings
from testing.recordings import decode_recording

MAX_ERROR, MAX_ERROR_OF_TWO = 0.10, 0.06
_LENGTHS = ((120, "1-2 min"), (300, "2-5 min"), (601, "5-10 min"))


@dataclass(frozen=True)
class Result:
    """A conversation, and the turns found with the number of speakers unknown and given."""

    truth: dict[str, Any]
    unknown: tuple[Turn, ...]
    given: tuple[Turn, ...]
    seconds: float

    @property
    def speakers(self) -> int:
        return len(self.truth["voices"])

    @property
    def true(self) -> list[SpokenTurn]:
        return [SpokenTurn(turn["start"], turn["end"], turn["speaker"]) for turn in self.truth["turns"]]


def error(results: Sequence[Result], found: Callable[[Result], Sequence[Turn]]) -> dict[str, float]:
    """Return the error rates of conversations."""
    return error_rates([Diarized(found(result), result.true, result.truth["duration"]) for result in results])


def figures(results: Sequence[Result]) -> dict[str, Any]:
    """Return the error rates of conversations, and how often the number of speakers was right."""
    right = sum(len({turn.speaker for turn in result.unknown}) == result.speakers for result in results)
    return {
        "conversations": len(results),
        "unknown": error(results, lambda result: result.unknown),
        "given": error(results, lambda result: result.given),
        "number_found": round(right / len(results), 4),
    }


def table(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Return the figures of all conversations, by number of speakers, by length, clean and noisy."""
    groups: dict[str, Callable[[Result], bool]] = {"all": lambda result: True}
    for count in sorted({result.speakers for result in results}):
        groups[f"{count} speakers"] = lambda result, count=count: result.speakers == count
    for shortest, (longest, name) in zip((0, *(length for length, _ in _LENGTHS)), _LENGTHS, strict=False):
        groups[name] = lambda result, a=shortest, b=longest: a <= result.truth["duration"] < b
    groups["clean"] = lambda result: result.truth["snr_db"] is None
    groups["noisy"] = lambda result: result.truth["snr_db"] is not None
    chosen = {name: [result for result in results if belongs(result)] for name, belongs in groups.items()}
    return {name: figures(some) for name, some in chosen.items() if some}


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Print the table."""
    print(f"{'':12}{'files':>6}{'unknown':>9}{'missed':>8}{'false':>7}{'mixed up':>9}{'given':>8}{'number found':>14}")
    for name, row in rows.items():
        parts = row["unknown"]
        given, number = row["given"]["error"], row["number_found"]
        print(
            f"{name:12}{row['conversations']:6}{parts['error']:9.1%}{parts['missed detection']:8.1%}"
            f"{parts['false alarm']:7.1%}{parts['confusion']:9.1%}{given:8.1%}{number:14.0%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="written by benchmarks.conversations")
    parser.add_argument("--pipeline", default="diarization-nano", help="embedded, a folder or a hub id")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results/")
    arguments = parser.parse_args()
    settings = DiarizationSettings(pipeline=arguments.pipeline, device="cpu", threads=arguments.threads)
    pipeline = SpeakerPipeline.load(settings, VadSettings(), Path("data/models"))
    pipeline.begin()
    results: list[Result] = []
    made = json.loads((arguments.folder / "truth.json").read_text())
    for truth in made["conversations"]:
        pcm = decode_recording(arguments.folder / truth["file"])
        start = time.perf_counter()
        unknown = pipeline.diarize(pcm, DiarizationOptions())
        seconds = time.perf_counter() - start
        given = pipeline.diarize(pcm, DiarizationOptions(num_speakers=len(truth["voices"])))
        results.append(Result(truth, unknown, given, seconds))
        wrong = error(results[-1:], lambda result: result.unknown)["error"]
        print(f"{truth['file']} {len(truth['voices'])} speakers {truth['duration']:.0f} s: {wrong:.1%}", flush=True)
    rows = table(results)
    show(rows)
    speed = sum(result.truth["duration"] for result in results) / sum(result.seconds for result in results)
    print(f"{speed:.0f} times real time on {arguments.threads} thread(s)")
    if arguments.save:
        about = {"pipeline": arguments.pipeline, "seed": made["seed"], "threads": arguments.threads}
        figures = {"times_real_time": round(speed, 1), "figures": rows}
        save_result("diarization", ("torch", "pyannote.audio", "pyannote.metrics"), about | figures)
    two_speaker_error = rows.get("2 speakers", rows["all"])["unknown"]["error"]
    sys.exit(rows["all"]["unknown"]["error"] > MAX_ERROR or two_speaker_error > MAX_ERROR_OF_TWO)


if __name__ == "__main__":
    main()
