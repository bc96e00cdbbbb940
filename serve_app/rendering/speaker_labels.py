"""Speaker labels in rendered formats."""

import re
from collections.abc import Mapping, Sequence
from itertools import count, groupby, product
from string import ascii_uppercase
from typing import Any

from serve_app.schemas.request import ANONYMOUS_SPEAKER
from serve_app.schemas.transcript import Transcript, Turn

UNKNOWN = "unknown"
"""The label of text without a speaker, in formats whose typed clients require a string."""


def with_speaker_label(speaker: str | None, text: str) -> str:
    """Prefix a text with its speaker, as WhisperX does in subtitles and texts."""
    return f"[{speaker}]: {text}" if speaker else text


def speaker_text(transcript: Transcript) -> str:
    """Return the text; if the transcript has speakers, with a line for each run of segments of one speaker."""
    if transcript.turns is None:
        return transcript.text
    runs = groupby(transcript.segments, key=lambda segment: segment.speaker)
    lines = ((speaker, " ".join("".join(segment.text for segment in run).split())) for speaker, run in runs)
    return "\n".join(with_speaker_label(speaker, line) for speaker, line in lines if line)


def diarized_segments(transcript: Transcript) -> list[dict[str, Any]]:
    """Return segments as in OpenAI's `diarized_json`; they are also the events of its streams."""
    names = openai_speaker_labels(transcript.turns or ())
    return [
        {
            "type": "transcript.text.segment",
            "id": f"seg_{number:03d}",
            "start": segment.start,
            "end": segment.end,
            "text": segment.text.strip(),
            "speaker": names.get(segment.speaker or "", UNKNOWN),
        }
        for number, segment in enumerate(transcript.segments, 1)
    ]


def openai_speaker_labels(turns: Sequence[Turn]) -> Mapping[str, str]:
    """Return OpenAI's labels of speakers: the names of known ones, else `A`, `B`, … in order of appearance.

    `Z` is followed by `AA`; a letter that is a known speaker's name is skipped.
    """
    speakers = dict.fromkeys(turn.speaker for turn in turns)
    alphabet = ("".join(letter) for length in count(1) for letter in product(ascii_uppercase, repeat=length))
    free = (letter for letter in alphabet if letter not in speakers)
    return {speaker: next(free) if re.fullmatch(ANONYMOUS_SPEAKER, speaker) else speaker for speaker in speakers}


def rttm(turns: Sequence[Turn], name: str) -> str:
    """Return turns in NIST's Rich Transcription Time Marked format; spaces in names become `_`."""
    return "".join(
        f"SPEAKER {name} 1 {turn.start:.3f} {turn.end - turn.start:.3f} <NA> <NA> {_word(turn.speaker)} <NA> <NA>\n"
        for turn in turns
    )


def _word(name: str) -> str:
    return re.sub(r"\s", "_", name)
