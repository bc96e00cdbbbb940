import numpy as np

from serve_app.diarization.speaker_naming import match_speakers, relabelled
from serve_app.schemas.transcript import Turn


def voice(*numbers: float) -> np.ndarray:  # type: ignore[type-arg]
    return np.array(numbers, np.float32)


def test_every_known_speaker_is_one_at_most_and_the_best_together() -> None:
    voices = {"a": voice(1, 0.1), "b": voice(1, 0.6), "c": voice(-1, 0)}
    known = {"Ann": voice(2, 0.5), "Ben": voice(0.5, 1)}
    assert match_speakers(voices, known, 0.5) == {"a": "Ann", "b": "Ben"}
    assert match_speakers({"c": voices["c"]}, known, 0.5) == {}


def test_an_unlikely_match_spoils_no_likely_one() -> None:
    """Maximising the total similarity would match b with Ann and c with Ben, which is below the limit."""
    voices = {"b": voice(1, 0.0), "c": voice(0.94, 0.34)}
    known = {"Ann": voice(1, 0.05), "Ben": voice(0.3, 0.95)}
    assert match_speakers(voices, known, 0.97) == {"b": "Ann"}


def test_a_voice_of_too_little_speech_is_like_nobodys() -> None:
    nothing = {"a": voice(np.nan, np.nan), "b": voice(0, 0)}
    assert match_speakers(nothing, {"Ann": voice(1, 0)}, 0.1) == {}
    assert match_speakers({}, {"Ann": voice(1, 0)}, 0.1) == match_speakers(nothing, {}, 0.1) == {}


def test_the_nameless_are_numbered_as_they_appear() -> None:
    turns = [Turn(start=start, end=start + 2, speaker=speaker) for start, speaker in ((3, "x"), (1, "y"), (2, "z"))]
    assert [(turn.start, turn.speaker) for turn in relabelled(turns, {"z": "Zoe"})] == [
        (1, "SPEAKER_00"),
        (2, "Zoe"),
        (3, "SPEAKER_01"),
    ]
