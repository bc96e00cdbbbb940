"""Subtitles of a transcript: ordered cues that never overlap, each with a text and a duration."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import NamedTuple

from pydantic import Field

from serve_app.errors import InvalidRequest
from serve_app.rendering.speaker_labels import with_speaker_label
from serve_app.rendering.subtitle_cues import Cue, columns, readable_cues, split_segment
from serve_app.schemas.request import StrictModel
from serve_app.schemas.transcript import Segment, Transcript, Word

LONG_PAUSE_MS = 3000
"""With `max_line_count`, a cue ends before a pause this long (as in openai-whisper's writers)."""

# A line break or control character in a text would end its cue, or the file.
_UNPRINTABLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


class Layout(StrictModel):
    """The layout of subtitles, with openai-whisper's option names. Every option needs word timestamps.

    Without any option, cues are made to be read (`subtitle_cues`).
    """

    max_line_width: int | None = Field(
        None, ge=1, le=250, description="Maximum characters in a line; a longer word gets a line of its own."
    )
    max_line_count: int | None = Field(
        None,
        ge=1,
        le=10,
        description="Maximum lines in a cue; cues then follow lines instead of segments. Needs max_line_width.",
    )
    highlight_words: bool = Field(False, description="Show a cue for every word, with the word underlined.")

    @property
    def asked(self) -> tuple[str, ...]:
        """The names of the options that are set."""
        return tuple(name for name in Layout.model_fields if getattr(self, name))


PLAIN = Layout()


_Pieces = list[Cue]
"""The content of a cue: words, or a segment without words. Times never decrease; a piece may have no duration."""


class _Syntax(NamedTuple):
    """The escaping and speaker syntax of a format; `visible`: speaker labels count towards a line's width."""

    escape: Callable[[str], str]
    label_speaker: Callable[[str | None, str], str]
    visible: bool


def srt(transcript: Transcript, layout: Layout = PLAIN) -> str:
    """Return SubRip. Raises InvalidRequest for a layout that this transcript does not support."""
    cues = enumerate(_cues(transcript, layout, _SRT), 1)
    return "".join(
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{cue.text.replace('-->', '->')}\n\n"
        for number, cue in cues
    )


def vtt(transcript: Transcript, layout: Layout = PLAIN) -> str:
    """Return WebVTT. Raises InvalidRequest for a layout that this transcript does not support."""
    cues = _cues(transcript, layout, _VTT)
    # Hours are left out where there are none, as openai-whisper does.
    return "WEBVTT\n\n" + "".join(
        f"{_time(cue.start, '.').removeprefix('00:')} --> {_time(cue.end, '.').removeprefix('00:')}\n{cue.text}\n\n"
        for cue in cues
    )


def tsv(transcript: Transcript) -> str:
    """Return a tab-separated line for each segment: start and end in milliseconds, text, and the speaker if known."""
    with_speakers = transcript.turns is not None
    lines = ["start\tend\ttext" + ("\tspeaker" if with_speakers else "")]
    for cue in _with_time(([piece] for piece in _in_order(transcript.segments, transcript)), transcript):
        text = _cue_text(cue).replace("\n", " ")
        speakers = ", ".join(dict.fromkeys(piece.speaker or "" for piece in cue))
        lines.append(f"{cue[0].start}\t{cue[-1].end}\t{text}" + (f"\t{speakers}" if with_speakers else ""))
    return "\n".join(lines) + "\n"


def _cues(transcript: Transcript, layout: Layout, syntax: _Syntax) -> Iterator[Cue]:
    _check(transcript, layout)
    if layout.asked:
        cues = _openai_whisper_cues(_segments(transcript), layout, syntax)
    else:
        cues = _readable_cues(transcript, syntax)
    for pieces in _with_time(cues, transcript):
        escaped = [piece._replace(text=syntax.escape(piece.text)) for piece in pieces]
        if layout.highlight_words:
            yield from _highlighted(escaped, syntax)
        else:
            yield Cue(pieces[0].start, pieces[-1].end, _cue_text(escaped, syntax))


def _check(transcript: Transcript, layout: Layout) -> None:
    if layout.max_line_count is not None and layout.max_line_width is None:
        raise InvalidRequest("max_line_count needs max_line_width", "max_line_count")
    if layout.asked and any(segment.words is None for segment in transcript.segments):
        name = layout.asked[0]
        raise InvalidRequest(f"{name} needs word timestamps: submit the job with timestamps 'word'", name)


def _segments(transcript: Transcript) -> Iterator[_Pieces]:
    """Yield the words of each segment, or the segment itself."""
    texts: list[Sequence[Word | Segment]] = [segment.words or (segment,) for segment in transcript.segments]
    ordered = iter(_in_order(chain.from_iterable(texts), transcript))
    return ([next(ordered) for _ in segment] for segment in texts)


def _readable_cues(transcript: Transcript, syntax: _Syntax) -> Iterator[_Pieces]:
    """Yield the cues of a transcript without layout options; segments without word timestamps are split."""

    def label(speaker: str | None) -> int:
        return columns(syntax.label_speaker(speaker, "")) if syntax.visible else 0

    texts = zip(transcript.segments, _segments(transcript), strict=True)
    words = (pieces if segment.words else split_segment(pieces[0]) for segment, pieces in texts)
    return ([cue] for cue in readable_cues(words, _milliseconds(transcript.duration), label))


def _in_order(texts: Iterable[Word | Segment], transcript: Transcript) -> _Pieces:
    """Convert seconds to milliseconds that never decrease and lie within the recording."""
    pieces: _Pieces = []
    at, total = 0, _milliseconds(transcript.duration)
    for text in texts:
        begin = max(at, min(_milliseconds(text.start), total))
        at = max(begin, min(_milliseconds(text.end), total))
        pieces.append(Cue(begin, at, _UNPRINTABLE.sub(" ", text.text), text.speaker))
    return pieces


def _openai_whisper_cues(segments: Iterable[_Pieces], layout: Layout, syntax: _Syntax) -> Iterator[_Pieces]:
    """Arrange words in cues and lines as openai-whisper's writers do, with line breaks in the texts.

    A cue has one speaker.
    """
    width, count = layout.max_line_width or math.inf, layout.max_line_count
    cue: _Pieces = []
    length, lines, last = 0, 1, 0
    for segment in segments:
        for place, piece in enumerate(segment):
            paused = count is not None and bool(cue) and piece.start - last > LONG_PAUSE_MS
            new_segment = count is None and place == 0 and bool(cue)
            new_speaker = bool(cue) and piece.speaker != cue[-1].speaker
            separate = paused or new_segment or new_speaker
            if 0 < length <= width - len(piece.text) and not separate:
                length += len(piece.text)
                cue.append(piece)
            else:
                text = piece.text.strip()
                if separate or (cue and count is not None and lines >= count):
                    yield cue
                    cue, lines = [], 1
                elif length > 0:
                    lines += 1
                    text = "\n" + text
                label = 0 if cue or not syntax.visible else len(syntax.label_speaker(piece.speaker, ""))
                cue.append(piece._replace(text=text))
                length = label + len(text.strip())
            last = piece.start
    if cue:
        yield cue


def _with_time(cues: Iterable[_Pieces], transcript: Transcript) -> Iterator[_Pieces]:
    """Drop cues without text; merge a cue without a duration into the one before it, or else after it."""
    timed: list[_Pieces] = []
    for cue in cues:
        if not _cue_text(cue):
            continue
        if timed and (_has_no_time(cue) or _has_no_time(timed[-1])):
            timed[-1] = [*timed[-1], cue[0]._replace(text="\n" + cue[0].text), *cue[1:]]
        else:
            timed.append(cue)
    total = _milliseconds(transcript.duration)
    if len(timed) == 1 and _has_no_time(timed[0]) and total:
        first, *others = timed[0]  # no cue has a duration: show it throughout
        timed = [[first._replace(start=0, end=total), *(piece._replace(start=total, end=total) for piece in others)]]
    return (cue for cue in timed if not _has_no_time(cue))


def _has_no_time(cue: _Pieces) -> bool:
    return cue[0].start == cue[-1].end


def _highlighted(cue: _Pieces, syntax: _Syntax) -> Iterator[Cue]:
    at = cue[0].start
    for place, piece in enumerate(cue):
        if piece.start > at:
            yield Cue(at, piece.start, _cue_text(cue, syntax))
        if piece.end > piece.start:
            underlined = [*cue[:place], _underlined(piece), *cue[place + 1 :]]
            yield Cue(piece.start, piece.end, _cue_text(underlined, syntax))
        at = piece.end


def _underlined(piece: Cue) -> Cue:
    word = piece.text.strip()
    return piece._replace(text=piece.text.replace(word, f"<u>{word}</u>", 1)) if word else piece


def _cue_text(cue: _Pieces, syntax: _Syntax | None = None) -> str:
    """Return the lines of a cue; with a `syntax`, labelled where the speaker changes."""
    lines: list[str] = []
    for speaker, pieces in groupby(cue, key=lambda piece: piece.speaker):
        text = "".join(piece.text for piece in pieces)
        spoken = "\n".join(stripped for line in text.split("\n") if (stripped := line.strip()))
        if spoken:
            lines.append(syntax.label_speaker(speaker, spoken) if syntax else spoken)
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _voice(speaker: str | None, text: str) -> str:
    return f"<v {_escaped(speaker)}>{text}</v>" if speaker else text


_SRT = _Syntax(escape=lambda text: text, label_speaker=with_speaker_label, visible=True)
_VTT = _Syntax(escape=_escaped, label_speaker=_voice, visible=False)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _time(milliseconds: int, point: str) -> str:
    seconds, thousandths = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{thousandths:03d}"
