"""Speaker labels in rendered formats."""

import re
from collections.abc import Mapping, Sequence
from itertools import count, groupby, product
from string import ascii_uppercase
from typing import Any

from serve_app.schemas.request import ANONYMOUS_SPEAKER
from serve_app.schemas.transcript import Transcript, Turn

UNKNOWN = "unknown"
"""The speaker of what nobody is known to have said, where there must be one: typed clients read a string."""


def with_speaker_label(speaker: str | None, text: str) -> str:
    """A text with its speaker before it, as WhisperX writes subtitles and texts."""
    return f"[{speaker}]: {text}" if speaker else text


def speaker_text(transcript: Transcript) -> str:
    """The text; where speakers were told apart, a line for whatever one says without a break."""
    if transcript.turns is None:
        return transcript.text
    runs = groupby(transcript.segments, key=lambda segment: segment.speaker)
    lines = ((speaker, " ".join("".join(segment.text for segment in run).split())) for speaker, run in runs)
    return "\n".join(with_speaker_label(speaker, line) for speaker, line in lines if line)


def diarized_segments(transcript: Transcript) -> list[dict[str, Any]]:
    """Segments as OpenAI's `diarized_json` has them, which are also the events of its streams."""
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
    """Return OpenAI's labels of the speakers of `turns`: names of known ones, else `A`, `B`, … in order of appearance.

    After `Z` comes `AA`; a letter that is somebody's name is passed over.
    """
    speakers = dict.fromkeys(turn.speaker for turn in turns)
    alphabet = ("".join(letter) for length in count(1) for letter in product(ascii_uppercase, repeat=length))
    free = (letter for letter in alphabet if letter not in speakers)
    return {speaker: next(free) if re.fullmatch(ANONYMOUS_SPEAKER, speaker) else speaker for speaker in speakers}


def rttm(turns: Sequence[Turn], name: str) -> str:
    """The turns of the recording `name` in NIST's Rich Transcription Time Marked format, spaces in names as `_`."""
    return "".join(
        f"SPEAKER {name} 1 {turn.start:.3f} {turn.end - turn.start:.3f} <NA> <NA> {_word(turn.speaker)} <NA> <NA>\n"
        for turn in turns
    )


def _word(name: str) -> str:
    return re.sub(r"\s", "_", name)
