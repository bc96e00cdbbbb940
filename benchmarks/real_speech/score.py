"""Scores of an engine's transcripts: a row for each recording, and summaries of rows."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from statistics import fmean, median, quantiles
from typing import Any

from benchmarks.real_speech.metrics import (
    WITHOUT_SPACES,
    Errors,
    boundary_errors,
    character_errors,
    lost_s,
    normalise,
    repeated_words,
    time_differences,
    word_errors,
)
from benchmarks.real_speech.recordings import Recording
from benchmarks.real_speech.transcript import EngineTranscript

LOST_S = 1.0
"""Seconds of lost speech above which a recording is reported."""

Row = dict[str, Any]


def row(recording: Recording, transcript: EngineTranscript) -> Row:
    """Return the figures of a transcript without its text, which may be copyrighted. None: no reference."""
    truth = None if recording.text is None else normalise(recording.text, recording.language)
    words = normalise(transcript.text, recording.language or transcript.language)
    word_counts = None if truth is None else word_errors(truth, words)
    character_counts = None if truth is None else character_errors(truth, words)
    boundaries = boundary_errors(recording.speech, transcript.segments)
    return {
        "file": recording.path.name,
        "language": recording.language,
        "audio_s": round(recording.duration, 2),
        "words": None if word_counts is None else [word_counts.wrong, word_counts.of],
        "characters": None if character_counts is None else [character_counts.wrong, character_counts.of],
        "lost_s": round(lost_s(recording.speech, transcript.segments), 2)
        if transcript.segments or not transcript.text
        else None,
        "repeated_words": repeated_words(truth or (), words),
        "detected_language": transcript.language,
        "boundaries_s": None if boundaries is None else [round(error, 3) for error in boundaries],
        "seconds": round(transcript.seconds, 3),
    }


def _rate(rows: Sequence[Row], name: str) -> float | None:
    known = [Errors(*row[name]) for row in rows if row[name] is not None]
    return reduce(add, known).rate if known else None


def _mean(numbers: Sequence[float]) -> float | None:
    return fmean(numbers) if numbers else None


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Summarise several recordings. Shares are from 0 to 1; None: no reference."""
    languages = [
        row["language"] == row["detected_language"] for row in rows if row["language"] and row["detected_language"]
    ]
    boundaries = [row["boundaries_s"] for row in rows if row["boundaries_s"] is not None]
    lost = [row["lost_s"] for row in rows if row["lost_s"] is not None]
    return {
        "recordings": len(rows),
        "wer": _rate(rows, "words"),
        "cer": _rate(rows, "characters"),
        "lost_s": round(sum(lost), 2) if lost else None,
        "with_uncovered_speech": [row["file"] for row in rows if (row["lost_s"] or 0) > LOST_S],
        "repeated_words": sum(row["repeated_words"] for row in rows),
        "language_right": _mean(languages),
        "start_error_s": _mean([start for start, _ in boundaries]),
        "end_error_s": _mean([end for _, end in boundaries]),
        "speed": sum(row["audio_s"] for row in rows) / max(1e-9, sum(row["seconds"] for row in rows)),
    }


def by_language(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Summarise the recordings of each language."""
    languages = sorted({row["language"] for row in rows if row["language"]})
    return {language: summary([row for row in rows if row["language"] == language]) for language in languages}


def hallucinations(transcripts: Mapping[str, EngineTranscript]) -> dict[str, int]:
    """Return the number of words in sounds without speech, by name; sounds without text are absent."""
    counts = {name: len(normalise(answer.text, answer.language)) for name, answer in transcripts.items() if answer.text}
    return {name: count for name, count in counts.items() if count}


def has_word_times(recording: Recording) -> bool:
    """Return whether word timestamps are comparable: engines disagree on words in languages without spaces."""
    return recording.text is not None and recording.language not in WITHOUT_SPACES


def word_times(
    reference: Mapping[str, EngineTranscript], transcripts: Mapping[str, EngineTranscript]
) -> dict[str, Any] | None:
    """Return statistics of the differences of word timestamps in seconds; None if no word is the same."""
    differences = [
        pair for name, answer in reference.items() for pair in time_differences(answer.words, transcripts[name].words)
    ]
    if len(differences) < 2:
        return None
    starts, ends = zip(*differences, strict=True)
    return {
        "words": len(differences),
        **{
            f"{side}_{name}_s": round(value, 3)
            for side, values in (("start", starts), ("end", ends))
            for name, value in (("median", median(values)), ("p90", quantiles(values, n=10)[-1]))
        },
    }


def worse_than_baselines(
    rows: Mapping[str, Sequence[Row]], ours: str, points: float = 0.05
) -> list[tuple[str, float, float]]:
    """Return file, our word error rate and the best other one, where ours is worse by more than `points`."""
    others = [engine for engine in rows if not engine.startswith("ours")]
    found = []
    for number, row in enumerate(rows[ours]):
        if row["words"] is None or not others:
            continue
        own, best = Errors(*row["words"]).rate, min(Errors(*rows[other][number]["words"]).rate for other in others)
        if own - best > points:
            found.append((str(row["file"]), own, best))
    return found
