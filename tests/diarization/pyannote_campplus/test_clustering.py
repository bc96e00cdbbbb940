import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from serve_app.diarization.protocol import SpeakerBounds
from serve_app.diarization.pyannote_campplus.clustering import Embeddings, cluster, nearest, unit

CENTRES: Embeddings = np.eye(6, 64, dtype=np.float32)
"""People who are as different as real ones: at right angles."""


def speak(*spoken: tuple[int, float], noise: float = 0.05) -> tuple[Embeddings, NDArray[np.float64]]:
    """Return embeddings and durations of stretches of (speaker, seconds)."""
    chance = np.random.default_rng(0)
    speakers = [speaker for speaker, _ in spoken]
    embeddings = CENTRES[speakers] + chance.normal(scale=noise, size=(len(spoken), 64)).astype(np.float32)
    lengths = chance.uniform(3, 15, (len(spoken), 1)).astype(np.float32)  # as different as those of the network
    return embeddings * lengths, np.array([seconds for _, seconds in spoken])


def find(
    stretches: tuple[Embeddings, NDArray[np.float64]], least: int = 1, most: int | None = None, loosely: bool = False
) -> list[int]:
    """Return which of CENTRES each found speaker is; unless `loosely`, they must be very similar."""
    found = cluster(*stretches, SpeakerBounds(least, most))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    similarities = found @ CENTRES.T
    assert loosely or (similarities.max(1) > 0.8).all()
    return [int(speaker) for speaker in similarities.argmax(1)]


TWO = [(1, 4.0), (0, 3.0), (1, 2.0), (0, 8.0), (0, 2.0)]
FOUR = [(3, 5.0), (1, 4.0), (0, 6.0), (2, 7.0)] * 3


def test_number_of_speakers() -> None:
    assert find(speak(*TWO)) == [0, 1]
    assert find(speak(*FOUR)) == [2, 0, 3, 1]
    assert find(speak(*[(5, 2.0)] * 8)) == [5]


def test_all_stretches_contribute_by_their_length() -> None:
    embeddings = unit(np.array([[1, 0], [0.9, 0.5]], np.float32))
    (speaker,) = cluster(embeddings, np.array([4.0, 2.0]), SpeakerBounds())
    np.testing.assert_allclose(speaker, unit(embeddings[:1] * 4 + embeddings[1:] * 2)[0], rtol=1e-5)


def test_lengths_of_embeddings_do_not_matter() -> None:
    embeddings, seconds = speak(*FOUR)
    factors = np.geomspace(0.1, 100, len(embeddings), dtype=np.float32)[:, None]
    one, other = (cluster(vectors, seconds, SpeakerBounds()) for vectors in (embeddings, embeddings * factors))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_at_most_so_many_speakers() -> None:
    assert len(find(speak(*FOUR), most=2, loosely=True)) == 2
    assert len(find(speak(*FOUR), most=1, loosely=True)) == 1
    assert find(speak(*FOUR), most=4) == [2, 0, 3, 1]
    assert find(speak(*FOUR), most=9) == [2, 0, 3, 1]
    assert find(speak(*TWO), most=3) == [0, 1]


def test_at_least_so_many_speakers() -> None:
    assert sorted(find(speak(*TWO), least=3)) in ([0, 0, 1], [0, 1, 1])
    assert find(speak(*TWO), least=2) == [0, 1]
    assert find(speak(*FOUR), least=1) == [2, 0, 3, 1]


def test_a_given_number_of_speakers() -> None:
    for number in range(1, 7):
        assert len(find(speak(*FOUR), least=number, most=number, loosely=True)) == number
    assert find(speak(*FOUR), least=4, most=4) == [2, 0, 3, 1]


def test_fewer_speakers_than_requested_have_as_many_stretches() -> None:
    assert find(speak((2, 4.0), (1, 5.0)), least=5) == [1, 2]
    assert find(speak((2, 4.0), (1, 5.0)), least=5, most=9) == [1, 2]
    assert find(speak((2, 4.0)), least=2) == [2]


@pytest.mark.parametrize("seconds", [0.3, 1.4, 2.0, 9.0])
def test_one_stretch_is_a_speaker_of_whatever_length(seconds: float) -> None:
    assert find(speak((2, seconds))) == [2]


def test_short_stretches_only() -> None:
    """They are clustered, and without a speaker of enough speech there is one; or as many as requested."""
    assert find(speak((1, 0.5), (2, 0.6), (1, 0.4))) == [1]
    assert find(speak((1, 0.5), (2, 0.6), (1, 1.3))) == [1]
    assert find(speak(*[(1, 0.6), (2, 0.7)] * 2)) == [2]
    assert find(speak(*[(1, 0.6), (2, 0.7)] * 2), least=2, most=2) == [2, 1]
    assert find(speak(*[(1, 0.6), (2, 0.7)] * 3)) == [2, 1]


def test_very_short_stretches_are_not_clustered() -> None:
    assert find(speak(*TWO, *[(2, 1.0)] * 20)) == [0, 1]


def test_a_short_stranger_is_a_speaker() -> None:
    assert find(speak(*TWO, (2, 2.0))) == [0, 1, 2]
    assert find(speak(*TWO, (2, 1.4))) == [0, 1]
    assert find(speak(*TWO, (2, 1.4)), least=3) != [0, 1]


def test_a_short_mixture_of_two_speakers_is_no_speaker() -> None:
    embeddings, seconds = speak(*TWO)
    rest = np.eye(64, dtype=np.float32)[63] * np.sqrt(1 - 2 * 0.4**2)
    mixture = 0.4 * CENTRES[0] + 0.4 * CENTRES[1] + rest
    for duration, speakers in ((2.0, 2), (2.9, 2), (3.1, 3)):
        stretches = np.vstack([embeddings, mixture]), np.append(seconds, duration)
        assert len(find(stretches, loosely=True)) == speakers


def test_speakers_are_in_the_order_of_their_speech() -> None:
    chance = np.random.default_rng(1)
    for _ in range(10):
        totals = {speaker: float(total) for speaker, total in enumerate(chance.permutation([4, 6, 8, 10, 12]))}
        stretches = [(speaker, total / 2) for speaker, total in totals.items() for _ in range(2)]
        assert find(speak(*stretches)) == sorted(totals, key=lambda speaker: -totals[speaker])


def test_nearest_speaker() -> None:
    embeddings, _ = speak(*FOUR, noise=0.1)
    assert nearest(embeddings, CENTRES).tolist() == [speaker for speaker, _ in FOUR]
    assert nearest(embeddings, CENTRES[[3, 2, 1, 0]]).tolist() == [3 - speaker for speaker, _ in FOUR]


@given(st.data())
def test_number_of_speakers_is_within_bounds(data: st.DataObject) -> None:
    """Or that of the stretches, if there are fewer."""
    count = data.draw(st.integers(1, 12), "stretches")
    seconds = np.array(data.draw(st.lists(st.sampled_from([0.3, 1.0, 1.5, 2.5, 6.0]), min_size=count, max_size=count)))
    axes = data.draw(st.lists(st.integers(0, 5), min_size=count, max_size=count), "people")
    noise = data.draw(st.sampled_from([0.0, 0.01, 0.1, 0.2, 0.5]), "noise")
    bounds = SpeakerBounds(
        least := data.draw(st.integers(1, 8), "least"), data.draw(st.none() | st.integers(least, 9), "most")
    )
    embeddings, _ = speak(*[(axis, 1.0) for axis in axes], noise=noise)
    speakers = cluster(embeddings, seconds, bounds)
    long_enough = int((seconds >= 1.25).sum())
    usable = long_enough if long_enough >= bounds.least else count
    assert min(bounds.least, usable) <= len(speakers) <= min(bounds.most or usable, usable)
    np.testing.assert_allclose(np.linalg.norm(speakers, axis=1), 1, rtol=1e-5)
