from itertools import pairwise
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from serve_app.diarization.pyannote_campplus.frames import CHUNK_FRAMES, CHUNK_S, CHUNK_STEP_S, SPEAKERS, Activity
from serve_app.diarization.pyannote_campplus.stretches import SHORTEST_S, Stretch, find_stretches

PER_S = 50
"""Frames of the embedding."""
CHUNK = 500
"""Frames of the embedding in a chunk of the segmentation."""
MAX_PAUSE = 5
Pattern = list[tuple[tuple[int, ...], int]]
"""Who speaks for how many frames; repeated until the chunk ends."""
CENTRES_S = (495.5 + 270 * np.arange(CHUNK_FRAMES)) / 16_000
"""The centres of the segmentation's frames in a chunk."""

patterns = st.lists(
    st.tuples(st.sampled_from([(), (0,), (1,), (2,), (0, 1), (1, 2)]), st.sampled_from([1, 2, 4, 7, 17, 20, 60, 180])),
    min_size=1,
    max_size=20,
)
recordings = st.integers(1, 1600).flatmap(
    lambda frames: st.tuples(
        st.just(frames), st.lists(patterns, min_size=count_chunks(frames), max_size=count_chunks(frames))
    )
)


def count_chunks(frames: int) -> int:
    """Return the number of chunks that the segmentation makes of a recording: the last one may be incomplete."""
    return 1 + ceil(max(0, frames / PER_S - CHUNK_S) / CHUNK_STEP_S)


def make_activity(chunks: list[Pattern]) -> Activity:
    activity = np.zeros((len(chunks), CHUNK_FRAMES, SPEAKERS), bool)
    for chunk, pattern in zip(activity, chunks, strict=True):
        at = 0
        while at < CHUNK_FRAMES:
            for speakers, length in pattern:
                chunk[at : at + length, list(speakers)] = True
                at += length
    return activity


def make_timed_activity(seconds: float, *spoken: tuple[float, float, int]) -> Activity:
    """Return what the segmentation says if it hears (start, end, speaker), alike in all chunks."""
    activity = np.zeros((count_chunks(round(seconds * PER_S)), CHUNK_FRAMES, SPEAKERS), bool)
    for number, chunk in enumerate(activity):
        times = CENTRES_S + number * CHUNK_STEP_S
        for start, end, speaker in spoken:
            chunk[(start <= times) & (times < end), speaker] = True
    return activity


def find(seconds: float, *spoken: tuple[float, float, int]) -> list[tuple[float, float]]:
    stretches = find_stretches(make_timed_activity(seconds, *spoken), round(seconds * PER_S))
    return [(stretch.start / PER_S, stretch.end / PER_S) for stretch in stretches]


def read_speakers(activity: Activity, stretch: Stretch) -> NDArray[np.bool_]:
    """Return who speaks at the centre of each frame of a stretch, (frames, SPEAKERS)."""
    chunk = min(stretch.start // CHUNK * 4, len(activity) - 1)
    centres_s = (np.arange(stretch.start, stretch.end) * 320 + 280) / 16_000 - chunk * CHUNK_STEP_S
    nearest = np.abs(centres_s[:, None] - CENTRES_S).argmin(1)
    found: NDArray[np.bool_] = activity[chunk, nearest]
    return found


@given(recordings)
def test_stretches_are_in_order_within_chunks_and_long_enough(recording: tuple[int, list[Pattern]]) -> None:
    frames, chunks = recording
    stretches = list(find_stretches(make_activity(chunks), frames))
    assert all(0 <= stretch.start < stretch.end <= frames for stretch in stretches)
    assert all(one.end <= other.start for one, other in pairwise(stretches))
    assert all(stretch.seconds >= SHORTEST_S for stretch in stretches)
    assert all(stretch.start // CHUNK == (stretch.end - 1) // CHUNK for stretch in stretches)


@given(recordings)
def test_stretches_have_one_speaker_and_short_pauses(recording: tuple[int, list[Pattern]]) -> None:
    frames, chunks = recording
    activity = make_activity(chunks)
    for stretch in find_stretches(activity, frames):
        speaking = read_speakers(activity, stretch)
        speaker = speaking[0].argmax()
        assert not np.delete(speaking, speaker, axis=1).any()
        heard = np.flatnonzero(speaking[:, speaker])
        assert (heard[0], heard[-1]) == (0, stretch.frames - 1)
        assert np.diff(heard).max(initial=1) <= 1 + MAX_PAUSE


@given(recordings)
def test_all_long_runs_of_one_speaker_are_in_stretches(recording: tuple[int, list[Pattern]]) -> None:
    frames, chunks = recording
    activity = make_activity(chunks)
    covered = np.zeros(frames, bool)
    for stretch in find_stretches(activity, frames):
        covered[stretch.start : stretch.end] = True
    for start in range(0, frames, CHUNK):
        speaking = read_speakers(activity, Stretch(start, min(start + CHUNK, frames)))
        for speaker in range(SPEAKERS):
            alone = speaking[:, speaker] & (speaking.sum(1) == 1)
            edges = np.flatnonzero(np.diff(alone, prepend=False, append=False))
            for first, end in zip(edges[::2], edges[1::2], strict=True):
                assert end - first < SHORTEST_S * PER_S or covered[start + first : start + end].all()


@given(st.integers(0, 10_000), st.integers(15, CHUNK))
def test_parts_divide_a_stretch(start: int, frames: int) -> None:
    stretch = Stretch(start, start + frames)
    parts = stretch.parts()
    assert (parts[0].start, parts[-1].end) == stretch
    assert all(one.end == other.start for one, other in pairwise(parts))
    assert all(0.3 <= part.seconds <= 1.5 for part in parts)
    assert max(part.frames for part in parts) - min(part.frames for part in parts) <= 1


def test_one_speaker() -> None:
    assert find(9, (1, 4, 0)) == [pytest.approx((1, 4), abs=0.03)]
    assert find(9, (1, 4, 2), (5, 5.2, 2)) == [pytest.approx((1, 4), abs=0.03)]
    assert find(9) == []


def test_speakers_who_follow_each_other_have_stretches_of_their_own() -> None:
    assert find(9, (1, 3, 0), (3, 5, 1), (5, 6, 0)) == [
        pytest.approx(times, abs=0.03) for times in [(1, 3), (3, 5), (5, 6)]
    ]


def test_a_short_pause_does_not_end_a_stretch() -> None:
    assert find(9, (1, 3, 0), (3.09, 5, 0)) == [pytest.approx((1, 5), abs=0.03)]
    assert find(9, (1, 3, 0), (3.09, 5, 1)) == [pytest.approx(times, abs=0.03) for times in [(1, 3), (3.09, 5)]]


def test_a_long_pause_ends_a_stretch() -> None:
    assert find(9, (1, 3, 0), (3.15, 5, 0)) == [pytest.approx(times, abs=0.03) for times in [(1, 3), (3.15, 5)]]


def test_overlap_ends_a_stretch() -> None:
    assert find(9, (1, 5, 0), (2, 3, 1)) == [pytest.approx(times, abs=0.03) for times in [(1, 2), (3, 5)]]
    assert find(9, (1, 3, 0), (2, 5, 1)) == [pytest.approx(times, abs=0.03) for times in [(1, 2), (3, 5)]]
    assert find(9, (1, 5, 0), (2.96, 3, 1)) == [pytest.approx(times, abs=0.03) for times in [(1, 2.96), (3, 5)]]


@pytest.mark.parametrize("seconds", [12.0, 13.3, 21.0, 24.9, 25.0, 26.0])
def test_the_last_chunk_may_be_shorter(seconds: float) -> None:
    boundaries = [*np.arange(0, seconds, CHUNK_S).tolist(), seconds - 0.02]
    expected = [pytest.approx(times, abs=0.03) for times in pairwise(boundaries)]
    assert find(seconds, (0, seconds + 5, 1)) == expected
    late = seconds - 0.9
    assert find(seconds, (late, late + 0.5, 0)) == [pytest.approx((late, late + 0.5), abs=0.03)]


def test_a_recording_shorter_than_a_frame_has_none() -> None:
    assert list(find_stretches(make_timed_activity(0, (0, 9, 0)), 0)) == []
