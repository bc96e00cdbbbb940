"""A recording cut in silence into windows of speech, as a stream in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.spans import Span, clip
from serve_app.audio.vad import FRAME_SAMPLES, SpeechSegment, SpeechSegmenter, certain
from serve_app.settings import VadSettings

Pcm = NDArray[np.int16]
SpeechProbability = Callable[[Pcm], NDArray[np.float32]]
"""(n · 512,) samples that follow the last ones → (n,) probabilities; a `SpeechDetector` is one."""

# Windows begin and end on Whisper's feature frames (10 ms), so that times in a window map exactly.
_GRID = SAMPLE_RATE // 100
# Always the same chunks to the detector, so that cuts do not depend on how the sound arrives.
_CHUNK_SAMPLES = 256 * FRAME_SAMPLES
_LEAST_WINDOW_S = 1.0
# The engine gets its first windows early, while the rest is still being decoded: the first block is so long at
# most, and each twice as long as the one before, up to the longest.
_FIRST_BLOCK_S = 20.0


@dataclass(frozen=True)
class Window:
    """Samples `start` up to `end`, without it, of the recording: what Whisper hears at once.

    `speech`: the stretches within it that are speech beyond doubt, in order, in samples of the recording; null: not
    known.
    """

    start: int
    end: int
    speech: tuple[Span, ...] | None = None

    def moved(self, samples: int) -> "Window":
        """Return the window so many samples later, its speech too."""
        speech = None if self.speech is None else tuple(span.moved(samples) for span in self.speech)
        return Window(self.start + samples, self.end + samples, speech)


@dataclass(frozen=True, eq=False)
class Block:
    """Windows that are transcribed in one call.

    `pcm`: the recording from sample `start`, shape (n,), as far as the last window reaches. `windows` are in samples
    of the recording.
    """

    start: int
    pcm: Pcm
    windows: tuple[Window, ...]

    @property
    def pcm_windows(self) -> list[Window]:
        """The windows in samples of `pcm`."""
        return [window.moved(-self.start) for window in self.windows]


def cut(
    pcm: Iterable[Pcm], speech_probability: SpeechProbability, vad: VadSettings, max_window_s: float, block_s: float
) -> Iterator[Block]:
    """The windows of a recording, in blocks of up to about `block_s` seconds, each as soon as it is known.

    Every stretch of speech lies in windows: as many stretches in one as fit `max_window_s`, with
    the silence between them, and `vad.pad_ms` around them as far as there is room. Windows are in
    order and do not overlap. Where `pcm` is cut into chunks makes no difference.

    Raises ValueError for a `max_window_s` below 1.
    """
    if max_window_s < _LEAST_WINDOW_S:
        raise ValueError(f"max_window_s is {max_window_s:g}; windows of less than {_LEAST_WINDOW_S:g} s make no sense")
    longest_block = int(block_s * SAMPLE_RATE)
    block_samples = min(int(_FIRST_BLOCK_S * SAMPLE_RATE), longest_block)
    sound = _AudioBuffer()
    windows: list[Window] = []
    for found, settled in _windows(pcm, sound, speech_probability, _WindowPacker(vad, int(max_window_s * SAMPLE_RATE))):
        for window in found:
            if windows and window.end - windows[0].start > block_samples:
                yield sound.block(windows)
                windows, block_samples = [], min(2 * block_samples, longest_block)
            windows.append(window)
        if windows and settled - windows[0].start >= block_samples:
            yield sound.block(windows)
            windows, block_samples = [], min(2 * block_samples, longest_block)
        sound.drop(windows[0].start if windows else settled)
    if windows:
        yield sound.block(windows)


def _windows(
    pcm: Iterable[Pcm], sound: "_AudioBuffer", speech_probability: SpeechProbability, packer: "_WindowPacker"
) -> Iterator[tuple[list[Window], int]]:
    """The windows that each piece of sound brings, and a sample before which no later one begins."""
    for chunk in _even(pcm, _CHUNK_SAMPLES):
        sound.append(chunk)
        probabilities = speech_probability(np.pad(chunk, (0, -len(chunk) % FRAME_SAMPLES)))
        yield packer.feed(probabilities), packer.committed_until
    yield packer.finish(sound.end), sound.end


class _WindowPacker:
    """Speech probabilities in, windows out; everything but the frames in samples."""

    def __init__(self, vad: VadSettings, longest: int) -> None:
        # What may be speech is in a window, so that Whisper hears it; what must have a text is speech beyond doubt.
        self._certain = certain(vad)
        self._likelihoods: list[float] = []  # of the frames from `_first_frame` on, which no window has had yet
        self._first_frame = 0
        self._pad = vad.pad_ms * SAMPLE_RATE // 1000
        self._longest = longest - 2 * _GRID  # both ends may be moved outwards to the grid
        room_for_speech = max(self._longest - 2 * self._pad, self._longest // 2)
        self._stretches = SpeechSegmenter(vad, room_for_speech // FRAME_SAMPLES)
        self._speech: Span | None = None  # of the window that may still grow
        self._last_end = 0

    @property
    def committed_until(self) -> int:
        """No later window begins before this sample."""
        begin = self._speech.start if self._speech else self._stretches.committed_until * FRAME_SAMPLES
        return max(_floor(begin - self._pad), self._last_end)

    def feed(self, probabilities: Iterable[float]) -> list[Window]:
        probabilities = list(probabilities)
        self._likelihoods += probabilities
        windows = [window for stretch in self._stretches.feed(probabilities) for window in self._add(stretch)]
        begin = self._stretches.committed_until * FRAME_SAMPLES
        if self._speech and begin - self._speech.start >= self._longest:
            windows.append(self._close(self._speech, begin))
        self._forget(self.committed_until)
        return windows

    def finish(self, end: int) -> list[Window]:
        windows = [window for stretch in self._stretches.finish() for window in self._add(stretch)]
        if self._speech:
            window = self._close(self._speech, 2 * end)
            within = Span(window.start, min(window.end, end))
            windows.append(Window(*within, clip(window.speech or (), within)))
        return windows

    def _add(self, stretch: SpeechSegment) -> Iterator[Window]:
        start, end = stretch.start * FRAME_SAMPLES, stretch.end * FRAME_SAMPLES
        if self._speech and end + self._pad - (self._speech.start - self._pad) > self._longest:
            yield self._close(self._speech, start)
        self._speech = Span(self._speech.start if self._speech else start, end)

    def _close(self, speech: Span, next_speech: int) -> Window:
        """The window around the speech so far; the gap to what comes next is shared in its middle."""
        self._speech = None
        room = min(self._pad, (self._longest - speech.length) // 2)
        start = max(_floor(speech.start - room), self._last_end)
        end = min(-_floor(-speech.end - room), _floor((speech.end + next_speech) // 2))
        self._last_end = end
        return Window(start, end, self._speech_in(Span(start, end)))

    def _speech_in(self, window: Span) -> tuple[Span, ...]:
        """The certain speech of a window."""
        self._forget(window.start)
        frames = -(-window.end // FRAME_SAMPLES) - self._first_frame
        stretches = SpeechSegmenter(self._certain, frames + 1)
        found = [*stretches.feed(self._likelihoods[:frames]), *stretches.finish()]
        spans = (Span(stretch.start, stretch.end).moved(self._first_frame) for stretch in found)
        return clip((Span(span.start * FRAME_SAMPLES, span.end * FRAME_SAMPLES) for span in spans), window)

    def _forget(self, before: int) -> None:
        """Drop the frames that end before a sample."""
        gone = max(0, before // FRAME_SAMPLES - self._first_frame)
        del self._likelihoods[:gone]
        self._first_frame += gone


class _AudioBuffer:
    """The part of the recording that later blocks need."""

    def __init__(self) -> None:
        self._chunks: deque[Pcm] = deque()
        self._start = 0
        self.end = 0

    def append(self, chunk: Pcm) -> None:
        self._chunks.append(chunk)
        self.end += len(chunk)

    def drop(self, before: int) -> None:
        """Forget chunks that end before a sample."""
        while self._chunks and self._start + len(self._chunks[0]) <= before:
            self._start += len(self._chunks.popleft())

    def block(self, windows: list[Window]) -> Block:
        start, end = windows[0].start, windows[-1].end
        pcm = np.concatenate(self._chunks)[start - self._start : end - self._start]
        return Block(start, pcm.copy(), tuple(windows))


def _even(pcm: Iterable[Pcm], size: int) -> Iterator[Pcm]:
    """The same samples in chunks of `size`; the last one may be shorter."""
    left = np.empty(0, np.int16)
    for piece in pcm:
        left = np.concatenate((left, piece))
        while len(left) >= size:
            yield left[:size]
            left = left[size:]
    if len(left):
        yield left


def _floor(sample: int) -> int:
    return sample // _GRID * _GRID
