"""Cut a recording into windows of speech at silences, streaming, in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.spans import Span, clip_spans
from serve_app.audio.vad import FRAME_SAMPLES, SpeechSegment, SpeechSegmenter, certain_speech_settings
from serve_app.settings import VadSettings

Pcm = NDArray[np.int16]
SpeechProbability = Callable[[Pcm], NDArray[np.float32]]
"""Returns the speech probabilities (frames,) of the next samples, int16 (frames * 512,): a `SpeechDetector`."""

# Windows begin and end at multiples of Whisper's feature frames (10 ms), so that times in a window map exactly.
_GRID_SAMPLES = SAMPLE_RATE // 100
# The detector always gets chunks of this size, so that windows do not depend on the chunks of the input.
_CHUNK_SAMPLES = 256 * FRAME_SAMPLES
_MIN_WINDOW_S = 1.0
# The engine gets the first windows early, while the rest of the file is still being decoded: this is the maximum
# length of the first block; each next block may be twice as long, up to `block_s`.
_FIRST_BLOCK_S = 20.0


@dataclass(frozen=True)
class Window:
    """The samples from `start` to `end` (exclusive) of a recording, which Whisper decodes together.

    `speech`: the spans of certain speech within it, in order, in samples of the recording; null if not known.
    """

    start: int
    end: int
    speech: tuple[Span, ...] | None = None

    def moved(self, samples: int) -> "Window":
        """Return the window, and its speech, shifted by a number of samples."""
        speech = None if self.speech is None else tuple(span.moved(samples) for span in self.speech)
        return Window(self.start + samples, self.end + samples, speech)


@dataclass(frozen=True, eq=False)
class Block:
    """Windows that are transcribed in one call.

    `pcm`: the recording from sample `start` to the end of the last window, shape (samples,). `windows` are in samples
    of the recording.
    """

    start: int
    pcm: Pcm
    windows: tuple[Window, ...]

    @property
    def pcm_windows(self) -> list[Window]:
        """The windows in samples of `pcm`."""
        return [window.moved(-self.start) for window in self.windows]


def cut_into_blocks(
    pcm: Iterable[Pcm], speech_probability: SpeechProbability, vad: VadSettings, max_window_s: float, block_s: float
) -> Iterator[Block]:
    """Yield the windows of a recording in blocks of up to about `block_s` seconds, each as soon as it is complete.

    All speech lies in windows: each has as many speech segments as fit into `max_window_s`, with the silence between
    them, and `vad.pad_ms` around them as far as there is room. Windows are in order and do not overlap. They do not
    depend on how `pcm` is divided into chunks.

    Raises ValueError for a `max_window_s` below 1.
    """
    if max_window_s < _MIN_WINDOW_S:
        raise ValueError(f"max_window_s must be at least {_MIN_WINDOW_S:g}, not {max_window_s:g}")
    longest_block = int(block_s * SAMPLE_RATE)
    block_samples = min(int(_FIRST_BLOCK_S * SAMPLE_RATE), longest_block)
    buffer = _AudioBuffer()
    windows: list[Window] = []
    packer = _WindowPacker(vad, int(max_window_s * SAMPLE_RATE))
    for completed, committed_until in _find_windows(pcm, buffer, speech_probability, packer):
        for window in completed:
            if windows and window.end - windows[0].start > block_samples:
                yield buffer.block(windows)
                windows, block_samples = [], min(2 * block_samples, longest_block)
            windows.append(window)
        if windows and committed_until - windows[0].start >= block_samples:
            yield buffer.block(windows)
            windows, block_samples = [], min(2 * block_samples, longest_block)
        buffer.drop(windows[0].start if windows else committed_until)
    if windows:
        yield buffer.block(windows)


def _find_windows(
    pcm: Iterable[Pcm], buffer: "_AudioBuffer", speech_probability: SpeechProbability, packer: "_WindowPacker"
) -> Iterator[tuple[list[Window], int]]:
    """Yield, for each chunk, the windows that it completes and the sample before which no later window begins."""
    for chunk in _rechunk(pcm, _CHUNK_SAMPLES):
        buffer.append(chunk)
        probabilities = speech_probability(np.pad(chunk, (0, -len(chunk) % FRAME_SAMPLES)))
        yield packer.feed(probabilities), packer.committed_until
    yield packer.finish(buffer.end), buffer.end


class _WindowPacker:
    """Packs speech segments into windows. All positions are in samples, except frames."""

    def __init__(self, vad: VadSettings, max_samples: int) -> None:
        # Windows contain everything that may be speech; only certain speech must have a text.
        self._certain_settings = certain_speech_settings(vad)
        self._probabilities: list[float] = []  # of the frames from `_first_frame` on: those that no window has yet
        self._first_frame = 0
        self._padding = vad.pad_ms * SAMPLE_RATE // 1000
        self._max_samples = max_samples - 2 * _GRID_SAMPLES  # both ends may be moved outwards to the grid
        max_speech = max(self._max_samples - 2 * self._padding, self._max_samples // 2)
        self._segmenter = SpeechSegmenter(vad, max_speech // FRAME_SAMPLES)
        self._speech: Span | None = None  # of the current window, which may still grow
        self._last_end = 0

    @property
    def committed_until(self) -> int:
        """The sample before which no later window begins."""
        begin = self._speech.start if self._speech else self._segmenter.committed_until * FRAME_SAMPLES
        return max(_floor_to_grid(begin - self._padding), self._last_end)

    def feed(self, probabilities: Iterable[float]) -> list[Window]:
        probabilities = list(probabilities)
        self._probabilities += probabilities
        windows = [window for segment in self._segmenter.feed(probabilities) for window in self._add_segment(segment)]
        begin = self._segmenter.committed_until * FRAME_SAMPLES
        if self._speech and begin - self._speech.start >= self._max_samples:
            windows.append(self._close_window(self._speech, begin))
        self._drop_frames(self.committed_until)
        return windows

    def finish(self, end: int) -> list[Window]:
        windows = [window for segment in self._segmenter.finish() for window in self._add_segment(segment)]
        if self._speech:
            window = self._close_window(self._speech, 2 * end)
            within = Span(window.start, min(window.end, end))
            windows.append(Window(*within, clip_spans(window.speech or (), within)))
        return windows

    def _add_segment(self, segment: SpeechSegment) -> Iterator[Window]:
        start, end = segment.start * FRAME_SAMPLES, segment.end * FRAME_SAMPLES
        if self._speech and end + self._padding - (self._speech.start - self._padding) > self._max_samples:
            yield self._close_window(self._speech, start)
        self._speech = Span(self._speech.start if self._speech else start, end)

    def _close_window(self, speech: Span, next_speech: int) -> Window:
        """Return the window around the speech so far. It ends before the middle of the gap to `next_speech`."""
        self._speech = None
        room = min(self._padding, (self._max_samples - speech.length) // 2)
        start = max(_floor_to_grid(speech.start - room), self._last_end)
        end = min(-_floor_to_grid(-speech.end - room), _floor_to_grid((speech.end + next_speech) // 2))
        self._last_end = end
        return Window(start, end, self._certain_speech(Span(start, end)))

    def _certain_speech(self, window: Span) -> tuple[Span, ...]:
        """Return the certain speech within a window."""
        self._drop_frames(window.start)
        frames = -(-window.end // FRAME_SAMPLES) - self._first_frame
        segmenter = SpeechSegmenter(self._certain_settings, frames + 1)
        segments = [*segmenter.feed(self._probabilities[:frames]), *segmenter.finish()]
        spans = (Span(segment.start, segment.end).moved(self._first_frame) for segment in segments)
        return clip_spans((Span(span.start * FRAME_SAMPLES, span.end * FRAME_SAMPLES) for span in spans), window)

    def _drop_frames(self, before: int) -> None:
        """Drop the probabilities of frames that end before a sample."""
        dropped = max(0, before // FRAME_SAMPLES - self._first_frame)
        del self._probabilities[:dropped]
        self._first_frame += dropped


class _AudioBuffer:
    """Buffer of the part of a recording that later blocks need."""

    def __init__(self) -> None:
        self._chunks: deque[Pcm] = deque()
        self._start = 0
        self.end = 0

    def append(self, chunk: Pcm) -> None:
        self._chunks.append(chunk)
        self.end += len(chunk)

    def drop(self, before: int) -> None:
        """Drop chunks that end before a sample."""
        while self._chunks and self._start + len(self._chunks[0]) <= before:
            self._start += len(self._chunks.popleft())

    def block(self, windows: list[Window]) -> Block:
        start, end = windows[0].start, windows[-1].end
        pcm = np.concatenate(self._chunks)[start - self._start : end - self._start]
        return Block(start, pcm.copy(), tuple(windows))


def _rechunk(pcm: Iterable[Pcm], size: int) -> Iterator[Pcm]:
    """Yield the same samples in chunks of `size`. The last one may be shorter."""
    buffered = np.empty(0, np.int16)
    for chunk in pcm:
        buffered = np.concatenate((buffered, chunk))
        while len(buffered) >= size:
            yield buffered[:size]
            buffered = buffered[size:]
    if len(buffered):
        yield buffered


def _floor_to_grid(sample: int) -> int:
    return sample // _GRID_SAMPLES * _GRID_SAMPLES
