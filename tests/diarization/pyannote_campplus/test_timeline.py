from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.diarization.pyannote_campplus import timeline
from serve_app.diarization.pyannote_campplus.frames import (
    CHUNK_FRAMES,
    CHUNK_STEP_S,
    SPEAKERS,
    Activity,
    first_frame,
    frame_time,
)
from serve_app.diarization.pyannote_campplus.stretches import Stretch, find_stretches
from serve_app.diarization.pyannote_campplus.timeline import SpeakerTurn, find_turns

Spoken = tuple[float, float, int]
"""Start, end and speaker, in seconds."""

CENTRES_S = (495.5 + 270 * np.arange(CHUNK_FRAMES)) / 16_000
PERMUTATIONS = [(0, 1, 2), (2, 0, 1), (1, 0, 2), (1, 2, 0), (0, 2, 1)]
"""The speakers of each chunk."""


def make_activity(chunks: int, *spoken: Spoken) -> Activity:
    """Return what the segmentation says if it hears this, and calls the speakers differently in every chunk."""
    activity = np.zeros((chunks, CHUNK_FRAMES, SPEAKERS), bool)
    for number, chunk in enumerate(activity):
        times = CENTRES_S + number * CHUNK_STEP_S
        for start, end, speaker in spoken:
            chunk[(start <= times) & (times < end), PERMUTATIONS[number % 5][speaker]] = True
    return activity


def find(activity: Activity, *parts: Spoken, most: int | None = None) -> list[SpeakerTurn]:
    """Return the turns in order; the parts are of people who are numbered from 0."""
    stretches = [Stretch(round(start * 50), round(end * 50)) for start, end, _ in parts]
    labels = [label for _, _, label in parts]
    return sorted(find_turns(activity, stretches, labels, len(set(labels)), most))


def turns(*expected: Spoken) -> list[object]:
    return [pytest.approx(turn, abs=0.04) for turn in expected]


def test_speech_without_a_part_is_not_lost() -> None:
    """Only one person has a part, and another says something that is too short for one."""
    activity = make_activity(1, (1, 3, 0), (7, 7.2, 2))
    assert find(activity, (1, 3, 0)) == turns((1, 3, 0), (7, 7.2, 0))


def test_speech_without_any_parts_is_not_lost() -> None:
    activity = make_activity(1, (1, 1.2, 0), (3, 3.25, 1))
    assert find(activity) == turns((1, 1.2, 0), (3, 3.25, 0))


def test_one_speaker() -> None:
    activity = make_activity(3, (1, 4, 0), (5, 14, 0))
    parts = [(1, 4, 0), (5, 6.5, 0), (6.5, 10, 0), (10, 14, 0)]
    assert find(activity, *parts) == turns((1, 4, 0), (5, 14, 0))


@pytest.mark.parametrize("chunks", [1, 2, 3, 7])
def test_two_speakers_with_an_overlap(chunks: int) -> None:
    """One label for each, whatever each chunk calls them."""
    activity = make_activity(chunks, (1, 4, 0), (3, 6, 1), (7, 9, 0))
    parts = [(1, 3, 0), (4, 6, 1), (7, 9, 0)]
    assert find(activity, *parts) == turns((1, 4, 0), (3, 6, 1), (7, 9, 0))
    others = [(start, end, 1 - label) for start, end, label in parts]
    assert find(activity, *others) == turns((1, 4, 1), (3, 6, 0), (7, 9, 1))


def test_speakers_of_a_long_recording() -> None:
    """Each chunk hears only some of five people, at most three of them."""
    spoken = [(5.0 * number, 5.0 * number + 4, number % 5) for number in range(8)]
    activity = make_activity(13, *((start, end, speaker % 3) for start, end, speaker in spoken))
    assert find(activity, *spoken) == turns(*spoken)


def test_parts_divide_the_turn_of_one_speaker_of_a_chunk() -> None:
    """The segmentation takes two people who speak one after the other for one."""
    activity = make_activity(1, (1, 4, 0), (5, 8, 1))
    assert find(activity, (1, 2, 0), (2, 3, 0), (3, 4, 1), (5, 8, 2)) == turns((1, 3, 0), (3, 4, 1), (5, 8, 2))


def test_speech_between_parts_is_of_the_speaker_of_the_parts() -> None:
    activity = make_activity(4, (1, 4, 0), (4.5, 4.7, 0), (5, 8, 1), (8.5, 8.7, 1))
    assert find(activity, (1, 4, 0), (5, 8, 1)) == turns((1, 4, 0), (4.5, 4.7, 0), (5, 8, 1), (8.5, 8.7, 1))


def test_a_speaker_who_is_only_heard_in_overlap_has_a_number_of_their_own() -> None:
    activity = make_activity(1, (1, 6, 0), (3, 4, 1))
    assert find(activity, (1, 3, 0), (4, 6, 0)) == turns((1, 6, 0), (3, 4, 1))
    # If another is known, it is them.
    activity = make_activity(5, (1, 6, 0), (3, 4, 1), (16, 19, 1))
    assert find(activity, (1, 3, 0), (4, 6, 0), (16, 19, 1)) == turns((1, 6, 0), (3, 4, 1), (16, 19, 1))


def test_two_speakers_of_a_chunk_who_are_one_person_do_not_overlap() -> None:
    activity = make_activity(1, (1, 4, 0), (3, 6, 1), (7, 9, 2))
    assert find(activity, (1, 3, 0), (4, 6, 0), (7, 9, 1)) == turns((1, 6, 0), (7, 9, 1))


def test_at_most_one_speaks() -> None:
    activity = make_activity(3, (1, 5, 0), (3, 7, 1), (4, 4.5, 2))
    found = find(activity, (1, 3, 0), (5, 7, 1), most=1)
    assert all(one.end <= other.start for one, other in pairwise(found))
    assert found[0].start == pytest.approx(1, abs=0.04)
    assert found[-1].end == pytest.approx(7, abs=0.04)
    assert sum(turn.end - turn.start for turn in found) == pytest.approx(6, abs=0.08)
    assert find(make_activity(3, (1, 4, 0), (2, 3, 1)), (1, 2, 0), (3, 4, 0), most=1) == turns((1, 4, 0))


def test_at_most_two_speak() -> None:
    activity = make_activity(1, (1, 9, 0), (3, 8, 1), (4, 5, 2))
    found = find(activity, (1, 3, 0), (8, 9, 0), most=2)
    assert {turn.speaker for turn in found} == {0, 1}


def test_speech_without_any_parts_has_turns() -> None:
    assert find(make_activity(1, (1, 1.2, 0), (5, 5.2, 0))) == turns((1, 1.2, 0), (5, 5.2, 0))
    assert find(make_activity(4, (1, 1.2, 2))) == turns((1, 1.2, 0))
    assert find(make_activity(2, (1, 1.2, 1), (1, 1.2, 2))) == turns((1, 1.2, 0), (1, 1.2, 1))
    assert find(make_activity(2, (1, 1.2, 1), (1, 1.2, 2)), most=1) == turns((1, 1.2, 0))


@pytest.mark.parametrize("chunks", [1, 4])
@pytest.mark.parametrize("most", [None, 1])
def test_silence_has_no_turns(chunks: int, most: int | None) -> None:
    assert find(make_activity(chunks), most=most) == []


def test_half_of_the_chunks_are_enough_for_a_speaker() -> None:
    """Four chunks contain the times from 7.5 s to 10 s."""
    activity = make_activity(4, (8, 9, 0))
    activity[:2] = False
    assert find(activity, (8, 9, 0)) == turns((8, 9, 0))
    activity[2] = False
    assert find(activity, (8, 9, 0)) == []


def test_a_turn_continues_after_a_short_pause() -> None:
    activity = make_activity(2, (1, 3, 0), (3.25, 5, 0), (5.4, 7, 0))
    assert find(activity, (1, 3, 0), (3.25, 5, 0), (5.4, 7, 0)) == turns((1, 5, 0), (5.4, 7, 0))
    # Also while another speaks.
    activity = make_activity(2, (1, 3, 0), (3, 3.2, 1), (3.2, 5, 0), (6, 8, 1))
    assert find(activity, (1, 3, 0), (3.2, 5, 0), (6, 8, 1)) == turns((1, 5, 0), (3, 3.2, 1), (6, 8, 1))


def test_very_short_turns_are_noise() -> None:
    activity = make_activity(2, (1, 3, 0), (4, 4.06, 0), (5, 7, 1), (8, 8.2, 1))
    assert find(activity, (1, 3, 0), (5, 7, 1)) == turns((1, 3, 0), (5, 7, 1), (8, 8.2, 1))


runs = st.lists(
    st.tuples(st.sets(st.integers(0, 2), max_size=3), st.sampled_from([1, 5, 20, 60, 200])), min_size=1, max_size=12
)


def make_random_activity(patterns: list[list[tuple[set[int], int]]]) -> Activity:
    """Return chunks in each of which a pattern, speakers and numbers of frames, is repeated."""
    activity = np.zeros((len(patterns), CHUNK_FRAMES, SPEAKERS), bool)
    for chunk, pattern in zip(activity, patterns, strict=True):
        at = 0
        while at < CHUNK_FRAMES:
            for speakers, length in pattern:
                chunk[at : at + length, sorted(speakers)] = True
                at += length
    return activity


@given(st.lists(runs, min_size=1, max_size=6), st.integers(1, 5), st.none() | st.integers(1, 4), st.integers(0, 99))
def test_turns_are_possible(
    patterns: list[list[tuple[set[int], int]]], count: int, most: int | None, seed: int
) -> None:
    """Nobody has two turns at once; without joining, no more speak than in a chunk around, and parts have a speaker."""
    activity = make_random_activity(patterns)
    count = min(count, most or count)
    stretches = find_stretches(activity, round((10 + 2.5 * (len(activity) - 1)) * 50))
    parts = [part for stretch in stretches for part in stretch.parts()]
    labels = np.random.default_rng(seed).integers(0, count, len(parts)).tolist()
    joined = list(find_turns(activity, parts, labels, count, most))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timeline, "_MAX_PAUSE_S", 0)
        patch.setattr(timeline, "_MIN_TURN_S", 1e-6)
        found = list(find_turns(activity, parts, labels, count, most))

    for speaker in range(max(count, SPEAKERS)):
        single, of_one = (sorted(turn for turn in some if turn.speaker == speaker) for some in (found, joined))
        assert all(turn.start < turn.end for turn in single)
        assert all(one.end < other.start for one, other in pairwise(single))
        assert all(turn.end - turn.start >= 0.1 for turn in of_one)
        assert all(other.start - one.end > 0.3 for one, other in pairwise(of_one))
        for turn in of_one:
            inside = [one for one in single if turn.start <= one.start and one.end <= turn.end]
            assert (inside[0].start, inside[-1].end) == (turn.start, turn.end)
            assert all(other.start - one.end <= 0.3 for one, other in pairwise(inside))
        for one in single:
            assert one.end - one.start < 0.1 or any(turn.start <= one.start < turn.end for turn in of_one)

    frames = first_frame(len(activity) - 1) + CHUNK_FRAMES
    middles = np.array([(frame_time(frame) + frame_time(frame + 1)) / 2 for frame in range(frames)])
    together = sum((turn.start < middles) & (middles < turn.end) for turn in found) + np.zeros(frames, int)
    least, highest = np.full(frames, SPEAKERS), np.zeros(frames, int)
    for number, chunk in enumerate(activity):
        here = slice(first_frame(number), first_frame(number) + CHUNK_FRAMES)
        least[here] = np.minimum(least[here], chunk.sum(1))
        highest[here] = np.maximum(highest[here], chunk.sum(1))
    assert (together <= np.minimum(highest, SPEAKERS if most is None else most)).all()
    for part in parts:
        within = (part.start / 50 + 0.02 < middles) & (middles < part.end / 50 - 0.02)
        assert (together[within & (least > 0)] > 0).all()
