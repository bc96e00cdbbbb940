"""Measure accuracy on real speech, side by side with other engines on the same weights (`make bench-accuracy`).

    python -m benchmarks.real_speech                      the default engines (about an hour on 2 cores)
    python -m benchmarks.real_speech --engines ours-engine --parts speech --saved openai faster
    python -m benchmarks.real_speech --engines ours-engine --options '{"beam_size": 5}' --only aeneas_de.mp3

Every engine has a process of its own and its default options. Parts:

  speech   recordings with known text: word and character errors, speech lost, repeated words, language, boundaries
  quiet    sounds without speech: any text is a hallucination
  words    word timestamps, compared with openai-whisper's
  long     with --long MINUTES: the English recordings joined in random orders

Transcripts are saved in data/bench/real-speech/answers/: `--saved` uses them instead of running the engine. Settings of
the service (`STT_…`) in the environment apply to ours.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.real_speech import recordings as sources
from benchmarks.real_speech import report, score
from benchmarks.real_speech.recordings import Recording
from benchmarks.real_speech.transcript import EngineTranscript
from benchmarks.real_speech.transcript_cache import CachedTranscripts, LiveTranscripts
from benchmarks.real_speech.worker import DEFAULT, ENGINES, Worker
from benchmarks.results import processor_name, save_result
from benchmarks.speed import positive_int
from serve_app.models.resolve import resolve_checkpoint
from testing import non_speech

PARTS = ("speech", "quiet", "words")
_DATA = Path(__file__).parents[2] / "data"
WEIGHTS = _DATA / "models" / "whisper-base"
"""Downloaded if they do not exist."""

_BENCH = _DATA / "bench" / "real-speech"
_PACKAGES = ("torch", "transformers", "ctranslate2", "faster-whisper", "openai-whisper")


def find_recordings(folder: Path | None, only: Sequence[str]) -> list[Recording]:
    """Return the recordings to transcribe. Raises FileNotFoundError that says what is missing."""
    if folder is not None:
        found = sources.load(folder)
    elif (sources.REAL / "truth.json").exists():
        found = [*sources.load(sources.REAL), *sources.load_extra(sources.REAL)]
    else:
        print(f"no real speech in {sources.REAL}: using sentences synthesised by espeak-ng")
        found = sources.synthesise_sentences(_BENCH / "spoken")
    if unknown := set(only) - {recording.path.name for recording in found}:
        raise FileNotFoundError(f"unknown recording {min(unknown)}")
    return [recording for recording in found if not only or recording.path.name in only]


def measure(
    name: str,
    engine: LiveTranscripts | CachedTranscripts,
    parts: Sequence[str],
    recordings: Sequence[Recording],
    long_recording: Recording | None,
) -> tuple[report.Engine, dict[str, EngineTranscript]]:
    """Return an engine's figures, and its transcripts with word timestamps."""
    figures: report.Engine = {"engine": name, "label": ENGINES[name].label, "rows": []}
    if "speech" in parts:
        transcripts = engine.transcribe("speech", [recording.path for recording in recordings])
        figures["rows"] = [score.row(recording, transcripts[recording.path.name]) for recording in recordings]
    if "quiet" in parts:
        transcripts = engine.transcribe("quiet", non_speech.write(_BENCH / "non-speech"))
        figures |= {"hallucinations": score.hallucinations(transcripts), "sounds": len(transcripts)}
    timed: dict[str, EngineTranscript] = {}
    if "words" in parts:
        timed = engine.transcribe("words", [one.path for one in recordings if score.has_word_times(one)], words=True)
    if long_recording is not None:
        figures["long"] = score.row(
            long_recording, engine.transcribe("long", [long_recording.path])[long_recording.path.name]
        )
    return figures, timed


def versions() -> list[str]:
    """Return the packages of `_PACKAGES` that are installed."""
    found = []
    for name in _PACKAGES:
        try:
            version(name)
        except PackageNotFoundError:
            continue
        found.append(name)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=ENGINES,
        default=DEFAULT,
        metavar="ENGINE",
        help=f"of {', '.join(ENGINES)}; default: {' '.join(DEFAULT)}",
    )
    parser.add_argument(
        "--saved",
        nargs="+",
        choices=ENGINES,
        default=(),
        metavar="ENGINE",
        help="use the transcripts that these wrote in an earlier run",
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help="default: all three")
    parser.add_argument(
        "--weights",
        type=Path,
        default=WEIGHTS,
        metavar="FOLDER",
        help="a Hugging Face checkpoint (data/models/whisper-base)",
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="recordings with a truth.json (see the docs)")
    parser.add_argument("--only", nargs="+", default=(), metavar="FILE", help="use only recordings with these names")
    parser.add_argument(
        "--options", type=json.loads, default={}, metavar="JSON", help="transcription options of our engine"
    )
    parser.add_argument(
        "--long", type=float, metavar="MINUTES", help="also transcribe a joined recording of this length"
    )
    parser.add_argument(
        "--threads", type=positive_int, default=2, help="number of cores and of threads of each engine (2)"
    )
    parser.add_argument("--save", action="store_true", help="save the figures, and write them to docs/accuracy.md")
    parser.add_argument("--report", type=Path, metavar="JSON", help="measure nothing; write the tables of a result")
    arguments = parser.parse_args()
    if arguments.report is not None:
        report.publish(arguments.report)
        return
    if arguments.save and arguments.saved:
        parser.error("--save can't be combined with --saved: published figures must be from one run")
    if arguments.weights == WEIGHTS:
        resolve_checkpoint(WEIGHTS.name, WEIGHTS.parent, print)
    if not (arguments.weights / "config.json").exists():
        sys.exit(f"error: no checkpoint in {arguments.weights}: set its folder with --weights")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    try:
        recordings = find_recordings(arguments.data, arguments.only)
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    long_recording = None
    if arguments.long:
        english = [recording for recording in recordings if recording.language == "en" and recording.text]
        long_recording = sources.join_recordings(english, arguments.long, _BENCH / f"long-{arguments.long:g}.wav")
    engines: list[report.Engine] = []
    timed: dict[str, dict[str, EngineTranscript]] = {}
    weights = arguments.weights.resolve()
    for name in dict.fromkeys((*arguments.saved, *arguments.engines)):
        path = _BENCH / "answers" / weights.name / f"{name}.json"
        engine: LiveTranscripts | CachedTranscripts
        if name in arguments.saved:
            engine = CachedTranscripts(name, path)
        else:
            own = arguments.options if name.startswith("ours") else {}
            log = _BENCH / "logs" / f"{name}.log"
            engine = LiveTranscripts(name, Worker(name, weights, arguments.threads, log, own), path)
        try:
            figures, timed[name] = measure(name, engine, arguments.parts, recordings, long_recording)
        except (FileNotFoundError, RuntimeError) as error:
            sys.exit(f"error: {error}")
        finally:
            engine.close()
        engines.append(figures)
    if "words" in arguments.parts and "openai" not in timed:
        print("word timestamps are not compared, because that needs the engine openai")
    for figures in engines:
        if timed.get("openai") and figures["engine"] != "openai":
            figures["word_times"] = score.word_times(timed["openai"], timed[figures["engine"]])
    result = {
        "processor": processor_name(),
        "threads": arguments.threads,
        "checkpoint": arguments.weights.name,
        "options": arguments.options,
        "long_minutes": arguments.long,
        "engines": engines,
    }
    print(f"\n{report.text(result)}")
    if arguments.save:
        report.publish(save_result("real-speech", versions(), result))


if __name__ == "__main__":
    main()
