"""Score a running service on held-out recordings (see benchmarks.heldout_set).

    python -m benchmarks.accuracy --url http://127.0.0.1:8000 data/heldout

Requirements: a word error rate of at most 3 %, nine of ten utterance boundaries within 0.3 s and of word starts within
0.25 s, no text for silence and noise, the right language always. Exit status 1 if they are not met.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import jiwer

from benchmarks.results import processor_name, save_result
from serve_app.schemas.languages import language_code
from testing.scoring import match_boundaries, normalise, word_error_rate

START_TOLERANCE_S = 0.25
MAX_WER, MIN_BOUNDARIES, MIN_STARTS = 0.03, 0.9, 0.9
_PACKAGES = ("ray", "torch", "transformers", "av", "silero-vad")


def start_errors(reference: Sequence[tuple[str, float]], recognised: Sequence[tuple[str, float]]) -> list[float]:
    """Return the error in seconds of the start of each correctly recognised word; words with their starts, in order."""
    if not reference or not recognised:
        return []
    truth, text = (" ".join(normalise(word) for word, _ in words) for words in (reference, recognised))
    chunks = jiwer.process_words(truth, text).alignments[0]
    return [
        abs(recognised[chunk.hyp_start_idx + place][1] - reference[chunk.ref_start_idx + place][1])
        for chunk in chunks
        if chunk.type == "equal"
        for place in range(chunk.ref_end_idx - chunk.ref_start_idx)
    ]


@dataclass(frozen=True)
class Answer:
    """The truth of a recording and the service's transcript."""

    truth: dict[str, Any]
    transcript: dict[str, Any]
    seconds: float

    @property
    def texts(self) -> tuple[str, str]:
        return " ".join(u["text"] for u in self.truth["utterances"]), self.transcript["text"]

    @property
    def boundaries(self) -> list[bool]:
        return match_boundaries(
            [(u["start"], u["end"]) for u in self.truth["utterances"]],
            [(s["start"], s["end"]) for s in self.transcript["segments"]],
        )

    @property
    def start_errors(self) -> list[float]:
        words = [word for utterance in self.truth["utterances"] for word in utterance.get("words", [])]
        return start_errors(
            [(word["word"], word["start"]) for word in words],
            [(word["word"], word["start"]) for word in self.transcript.get("words", [])],
        )

    @property
    def language_right(self) -> bool:
        try:
            return language_code(self.transcript["language"]) == str(self.truth["language"])
        except ValueError:
            return False


def score(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the figures of recordings of speech."""
    boundaries = [found for answer in answers for found in answer.boundaries]
    errors_s = [error for answer in answers for error in answer.start_errors]
    return {
        "recordings": len(answers),
        "words": sum(len(normalise(answer.texts[0]).split()) for answer in answers),
        "wer": round(word_error_rate([answer.texts for answer in answers]), 4),
        "boundaries": round(sum(boundaries) / max(1, len(boundaries)), 4),
        "starts": round(sum(error <= START_TOLERANCE_S for error in errors_s) / max(1, len(errors_s)), 4),
        "start_median_s": round(median(errors_s), 3) if errors_s else None,
        "language": round(sum(answer.language_right for answer in answers) / max(1, len(answers)), 4),
    }


def length_class(truth: dict[str, Any]) -> str:
    """Return the length of a recording as the table shows it."""
    classes = ((10, "3-10 s"), (30, "10-30 s"), (100, "30-100 s"))
    return next((name for limit, name in classes if truth["duration"] <= limit), "10 min")


GROUPS: dict[str, Callable[[dict[str, Any]], str]] = {
    "language": lambda truth: str(truth["language"]),
    "format": lambda truth: str(truth["format"]),
    "sample rate": lambda truth: f"{truth['sample_rate']} Hz",
    "noise": lambda truth: "clean" if truth["snr_db"] is None else "8-15 dB" if truth["snr_db"] < 15 else "15-30 dB",
    "length": length_class,
}


def table(answers: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    """Return the figures for all speech, and for each group of recordings."""
    speech = [answer for answer in answers if answer.truth["kind"] == "speech"]
    rows = {"all": score(speech)}
    for group, name_of in GROUPS.items():
        for name in sorted({name_of(answer.truth) for answer in speech}):
            rows[f"{group} {name}"] = score([answer for answer in speech if name_of(answer.truth) == name])
    return rows


async def transcribe(
    session: aiohttp.ClientSession, url: str, name: str, content: bytes, api_key: str | None
) -> dict[str, Any]:
    """Return the service's verbose_json for a file. Raises RuntimeError with its response if it fails."""
    form = aiohttp.FormData({"model": "whisper-1", "response_format": "verbose_json"})
    form.add_field("timestamp_granularities[]", "word")
    form.add_field("file", content, filename=name)
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    async with session.post(f"{url}/v1/audio/transcriptions", data=form, headers=headers) as response:
        if response.status != 200:
            raise RuntimeError(f"{name}: {response.status} {await response.text()}")
        transcript: dict[str, Any] = await response.json()
        return transcript


async def transcribe_folder(url: str, folder: Path, concurrency: int, api_key: str | None) -> list[Answer]:
    """Transcribe every recording of the folder, `concurrency` at a time."""
    truths = json.loads((folder / "truth.json").read_text())["recordings"]
    gate, done = asyncio.Semaphore(concurrency), 0

    async def transcribe_one(truth: dict[str, Any]) -> Answer:
        nonlocal done
        async with gate:
            content = await asyncio.to_thread((folder / truth["file"]).read_bytes)
            start = time.perf_counter()
            transcript = await transcribe(session, url, truth["file"], content, api_key)
            answer = Answer(truth, transcript, time.perf_counter() - start)
        done += 1
        print(f"{done}/{len(truths)} {truth['file']} {truth['duration']:.1f} s in {answer.seconds:.1f} s", flush=True)
        return answer

    timeout = aiohttp.ClientTimeout(total=3600)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
        tasks = [group.create_task(transcribe_one(truth)) for truth in truths]
    return [task.result() for task in tasks]


def print_table(rows: dict[str, dict[str, Any]]) -> None:
    """Print one line for each group."""
    print(f"\n{'':24}{'files':>6}{'words':>7}{'WER':>8}{'boundaries':>12}{'starts':>8}{'median':>9}{'language':>10}")
    for name, row in rows.items():
        counts = f"{name:24}{row['recordings']:6}{row['words']:7}"
        print(
            f"{counts}{row['wer']:8.2%}{row['boundaries']:12.1%}{row['starts']:8.1%}"
            f"{row['start_median_s'] or 0:7.3f} s{row['language']:10.1%}"
        )


def worst(answers: Iterable[Answer]) -> list[Answer]:
    """Return the recordings with the highest word error rates, at most five."""
    wrong = [answer for answer in answers if answer.truth["utterances"] and word_error_rate([answer.texts]) > 0]
    return sorted(wrong, key=lambda answer: -word_error_rate([answer.texts]))[:5]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="made by benchmarks.heldout_set")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--api-key", default=os.environ.get("OPENAI_API_KEY"), help="default: $OPENAI_API_KEY")
    parser.add_argument("--concurrency", type=int, default=4, help="parallel requests (4)")
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results/")
    arguments = parser.parse_args()
    start = time.perf_counter()
    try:
        url = arguments.url.rstrip("/")
        answers = asyncio.run(transcribe_folder(url, arguments.folder, arguments.concurrency, arguments.api_key))
    except* (aiohttp.ClientError, RuntimeError) as errors:
        sys.exit(f"error: {errors.exceptions[0]}")
    seconds = time.perf_counter() - start
    rows = table(answers)
    print_table(rows)
    for answer in worst(answers):
        print(f"{answer.truth['file']}: {word_error_rate([answer.texts]):.1%}")
    hallucinated = [a.truth["file"] for a in answers if a.truth["kind"] != "speech" and normalise(a.transcript["text"])]
    quiet = sum(answer.truth["kind"] != "speech" for answer in answers)
    audio = sum(answer.truth["duration"] for answer in answers)
    print(f"silence and noise with text: {len(hallucinated)} of {quiet} {' '.join(hallucinated)}")
    print(f"{audio / 60:.1f} minutes of audio in {seconds:.1f} s: {audio / seconds:.1f} times real time")
    if arguments.save:
        figures = {
            "processor": processor_name(),
            "concurrency": arguments.concurrency,
            "audio_s": round(audio, 1),
            "wall_s": round(seconds, 1),
            "silent_with_text": hallucinated,
            "figures": rows,
        }
        save_result("accuracy", _PACKAGES, figures)
    total = rows["all"]
    least = {"boundaries": MIN_BOUNDARIES, "starts": MIN_STARTS, "language": 1}
    if total["wer"] > MAX_WER or hallucinated or any(total[name] < share for name, share in least.items()):
        sys.exit("requirements not met: WER <= 3 %, boundaries and starts >= 90 %, language 100 %, no text for silence")


if __name__ == "__main__":
    main()
