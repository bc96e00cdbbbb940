"""Windows and blocks: properties for any recording, probabilities and settings."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.vad import FRAME_SAMPLES, SpeechSegmenter
from serve_app.audio.windows import Block, Window, cut_into_blocks
from serve_app.settings import VadSettings

VAD = VadSettings(threshold=0.5, min_speech_ms=100, min_silence_ms=200, pad_ms=250)
NOT_CUT = 2**40


class Scripted:
    """A detector that returns given probabilities, frame by frame."""

    def __init__(self, probabilities: NDArray[np.float32]) -> None:
        self._left = probabilities

    def __call__(self, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
        frames, rest = divmod(len(pcm), FRAME_SAMPLES)
        assert rest == 0
        given, self._left = self._left[:frames], self._left[frames:]
        return given


def recording(samples: int) -> NDArray[np.int16]:
    """Return a recording in which each sample encodes its position."""
    return (np.arange(samples) % 65521).astype(np.uint16).view(np.int16)


def blocks_of(
    probabilities: NDArray[np.float32],
    samples: int,
    vad: VadSettings = VAD,
    max_window_s: float = 10.0,
    block_s: float = 60.0,
    chunk: int = 80_000,
) -> list[Block]:
    pcm = recording(samples)
    pieces = (pcm[start : start + chunk] for start in range(0, samples, chunk))
    return list(cut_into_blocks(pieces, Scripted(probabilities), vad, max_window_s, block_s))


def windows_of(blocks: list[Block]) -> list[Window]:
    return [window for block in blocks for window in block.windows]


def from_parts(*parts: tuple[float, float]) -> tuple[NDArray[np.float32], int]:
    """Return the frames for (seconds, probability) parts, and the samples of the recording."""
    frames = np.concatenate([np.full(round(s * SAMPLE_RATE / FRAME_SAMPLES), p, np.float32) for s, p in parts])
    return frames, len(frames) * FRAME_SAMPLES


@st.composite
def speech(draw: st.DrawFn) -> tuple[NDArray[np.float32], int]:
    """Alternating spans of likely and unlikely speech, with noise. The last frame may be incomplete."""
    parts = draw(st.lists(st.tuples(st.integers(1, 200), st.sampled_from([0.0, 0.2, 0.45, 0.6, 1.0])), max_size=15))
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    level = draw(st.sampled_from([0.0, 0.1, 0.5]))
    frames = np.concatenate([np.empty(0), *(np.full(n, p) for n, p in parts)])
    frames = np.clip(frames + noise.normal(0, level, len(frames)), 0, 1).astype(np.float32)
    samples = max(0, len(frames) * FRAME_SAMPLES - draw(st.integers(0, FRAME_SAMPLES - 1)))
    return frames, samples


vads = st.builds(
    VadSettings,
    threshold=st.sampled_from([0.1, 0.3, 0.5, 0.9]),
    min_speech_ms=st.sampled_from([0, 100, 500]),
    min_silence_ms=st.sampled_from([0, 30, 200, 2000]),
    pad_ms=st.sampled_from([0, 5, 30, 250, 1000, 8000]),
)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(speech(), vads, st.sampled_from([1.0, 1.7, 10.0, 30.0]), st.sampled_from([0.5, 20.0, 300.0]))
def test_invariants_of_windows(
    spoken: tuple[NDArray[np.float32], int], vad: VadSettings, max_window_s: float, block_s: float
) -> None:
    frames, samples = spoken
    blocks = blocks_of(frames, samples, vad, max_window_s, block_s)
    windows = windows_of(blocks)

    # Inside the recording, not empty, not too long, in order, apart.
    assert all(0 <= w.start < w.end <= samples for w in windows)
    assert all(w.end - w.start <= max_window_s * SAMPLE_RATE for w in windows)
    assert all(before.end <= after.start for before, after in pairwise(windows))

    # All speech is covered, and a window without speech does not exist.
    covered = np.zeros(samples, bool)
    for window in windows:
        covered[window.start : window.end] = True
    uncut = SpeechSegmenter(vad, NOT_CUT)
    speech_segments = [*uncut.feed(frames.tolist()), *uncut.finish()]
    for segment in speech_segments:
        assert covered[segment.start * FRAME_SAMPLES : segment.end * FRAME_SAMPLES].all()
    min_segment_s = max_window_s / 2 - 0.1  # the least length of a split segment, with any padding
    if max(vad.min_speech_ms, vad.min_silence_ms) < 1000 * min_segment_s / 2:
        for window in windows:
            assert any(
                s.start * FRAME_SAMPLES < window.end and window.start < s.end * FRAME_SAMPLES for s in speech_segments
            )

    # A time in a window is a time of the recording.
    assert all(window.start % (SAMPLE_RATE // 100) == 0 for window in windows)

    # Blocks hold the recording's own samples, cover their windows and nothing else, and are not too long.
    for block in blocks:
        assert (block.start, block.start + len(block.pcm)) == (block.windows[0].start, block.windows[-1].end)
        assert len(block.pcm) <= block_s * SAMPLE_RATE or len(block.windows) == 1
        np.testing.assert_array_equal(block.pcm, recording(samples)[block.start : block.start + len(block.pcm)])


@settings(deadline=None, max_examples=20)
@given(speech(), st.sampled_from([777, 512, 4000, 65_536, 10**9]))
def test_windows_do_not_depend_on_chunks(spoken: tuple[NDArray[np.float32], int], chunk: int) -> None:
    frames, samples = spoken
    one = blocks_of(frames, samples, chunk=chunk)
    other = blocks_of(frames, samples, chunk=16_000)
    assert [(b.start, b.windows) for b in one] == [(b.start, b.windows) for b in other]
    assert all(np.array_equal(a.pcm, b.pcm) for a, b in zip(one, other, strict=True))


def test_silence_has_no_windows() -> None:
    assert blocks_of(*from_parts((60, 0.0))) == []
    assert blocks_of(np.empty(0, np.float32), 0) == []


def test_windows_contain_padding_and_inner_pauses() -> None:
    frames, samples = from_parts((3, 0), (2, 1), (1, 0), (2, 1), (3, 0))
    (window,) = windows_of(blocks_of(frames, samples))
    assert window.start == pytest.approx((3 - 0.25) * SAMPLE_RATE, abs=FRAME_SAMPLES)
    assert window.end == pytest.approx((8 + 0.25) * SAMPLE_RATE, abs=FRAME_SAMPLES)


def test_windows_end_in_silence_as_late_as_possible() -> None:
    frames, samples = from_parts(*[(2, 1), (0.5, 0)] * 12)
    windows = windows_of(blocks_of(frames, samples))
    assert len(windows) == 3  # four segments of 2 s and their pauses in 10 s
    middles = [round((before.end + after.start) / 2 / SAMPLE_RATE, 1) for before, after in pairwise(windows)]
    assert middles == pytest.approx([9.75, 19.75], abs=0.1)


@pytest.mark.parametrize("frames", range(40, 60))
def test_the_maximum_length_applies_wherever_a_window_begins(frames: int) -> None:
    vad = VAD.model_copy(update={"pad_ms": 8000})
    (window,) = windows_of(blocks_of(*from_parts((frames * 0.032, 0), (0.2, 1), (5, 0)), vad, max_window_s=1.0))
    assert 0.95 * SAMPLE_RATE < window.end - window.start <= SAMPLE_RATE


def test_neighbouring_windows_share_a_short_pause() -> None:
    frames, samples = from_parts((7, 1), (0.3, 0), (7, 1))
    first, second = windows_of(blocks_of(frames, samples))
    assert first.end == second.start == pytest.approx(7.15 * SAMPLE_RATE, abs=2 * FRAME_SAMPLES)


def test_long_speech_is_split_at_its_lowest_probability() -> None:
    frames, samples = from_parts((7, 1), (0.064, 0.6), (20, 1))
    windows = windows_of(blocks_of(frames, samples))
    assert windows[0].end == windows[1].start == pytest.approx(7.05 * SAMPLE_RATE, abs=2 * FRAME_SAMPLES)
    assert all(a.end == b.start for a, b in pairwise(windows))


def test_minimum_length_of_speech() -> None:
    assert blocks_of(*from_parts((3, 0), (0.064, 1), (3, 0))) == []
    frames, samples = from_parts((9.5, 1), (3, 0))
    assert sum(w.end - w.start for w in windows_of(blocks_of(frames, samples))) >= 9.5 * SAMPLE_RATE


def test_blocks_are_yielded_while_the_recording_is_read() -> None:
    """A block is yielded as soon as no window can join it, and old audio is dropped."""
    frames, samples = from_parts(*[(5, 1), (1, 0)] * 20, (600, 0))
    pcm, read = recording(samples), 0

    def reading() -> Iterator[NDArray[np.int16]]:
        nonlocal read
        for start in range(0, samples, SAMPLE_RATE):
            read = start + SAMPLE_RATE
            yield pcm[start:read]

    delays = [
        (read - block.windows[-1].end) / SAMPLE_RATE
        for block in cut_into_blocks(reading(), Scripted(frames), VAD, 10.0, 30.0)
    ]
    assert len(delays) >= 4
    assert max(delays) < 10 + 30 + 5


def test_a_too_small_maximum_length_is_rejected() -> None:
    with pytest.raises(ValueError, match="max_window_s"):
        blocks_of(*from_parts((3, 1)), max_window_s=0.5)
