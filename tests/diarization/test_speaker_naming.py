import numpy as np

from serve_app.diarization.speaker_naming import Match, match_speakers, relabelled
from serve_app.schemas.transcript import Turn


def embedding(*numbers: float) -> np.ndarray:  # type: ignore[type-arg]
    return np.array(numbers, np.float32)


def test_known_speakers_are_matched_once() -> None:
    embeddings = {"a": embedding(1, 0.1), "b": embedding(1, 0.6), "c": embedding(-1, 0)}
    references = {"Ann": embedding(2, 0.5), "Ben": embedding(0.5, 1)}
    assert match_speakers(embeddings, references, 0.5) == {"a": Match("Ann", 0.989), "b": Match("Ben", 0.844)}
    assert match_speakers({"c": embeddings["c"]}, references, 0.5) == {}


def test_unlikely_match_does_not_prevent_a_likely_one() -> None:
    """Maximising the total similarity would match b with Ann, and c with Ben below the limit."""
    embeddings = {"b": embedding(1, 0.0), "c": embedding(0.94, 0.34)}
    references = {"Ann": embedding(1, 0.05), "Ben": embedding(0.3, 0.95)}
    assert match_speakers(embeddings, references, 0.97) == {"b": Match("Ann", 0.999)}


def test_embedding_without_speech_matches_nobody() -> None:
    nothing = {"a": embedding(np.nan, np.nan), "b": embedding(0, 0)}
    assert match_speakers(nothing, {"Ann": embedding(1, 0)}, 0.1) == {}
    assert match_speakers({}, {"Ann": embedding(1, 0)}, 0.1) == match_speakers(nothing, {}, 0.1) == {}


def test_unmatched_speakers_are_numbered_in_order() -> None:
    turns = [Turn(start=start, end=start + 2, speaker=speaker) for start, speaker in ((3, "x"), (1, "y"), (2, "z"))]
    assert [(turn.start, turn.speaker) for turn in relabelled(turns, {"z": Match("Zoe", 0.7)})] == [
        (1, "SPEAKER_00"),
        (2, "Zoe"),
        (3, "SPEAKER_01"),
    ]
