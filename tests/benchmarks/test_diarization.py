"""Scores and recordings of the diarization benchmark."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.diarization.recordings import (
    Conversation,
    SpokenTurn,
    join_conversations,
    read_conversations,
    write_wav,
)
from benchmarks.diarization.report import overview
from benchmarks.diarization.scoring import Diarized, error_rates
from benchmarks.diarization.words import right_speakers, speaker_word_errors
from benchmarks.speaker_attribution import SpokenWord
from serve_app.audio import SAMPLE_RATE

TRUE = (SpokenTurn(0, 4, "Ann"), SpokenTurn(5, 9, "Ben"))


def conversation(path: Path = Path("talk07.wav")) -> Conversation:
    return Conversation(path, TRUE, 10.0)


def spoken(text: str, speakers: str, starts: tuple[float, ...]) -> list[SpokenWord]:
    return [
        SpokenWord(word, speaker, start, start + 0.4)
        for word, speaker, start in zip(text.split(), speakers, starts, strict=True)
    ]


def test_labels_do_not_matter() -> None:
    found = (SpokenTurn(0, 4, "0"), SpokenTurn(5, 9, "1"))
    rates = error_rates([Diarized(found, TRUE, 10.0)])
    assert (rates["error"], rates["jaccard"]) == (0, 0)


def test_parts_of_the_error() -> None:
    """Without a collar: 1 s of 8 s missed, 1 s of 8 s false, 1 s of 8 s of the other speaker."""
    found = (SpokenTurn(1, 5, "0"), SpokenTurn(5, 6, "0"), SpokenTurn(6, 9, "1"))
    rates = error_rates([Diarized(found, TRUE, 10.0)], collar=0.0)
    assert [rates[part] for part in ("missed detection", "false alarm", "confusion")] == [0.125] * 3
    assert rates["error"] == 0.375
    assert error_rates([Diarized(found, TRUE, 10.0)])["error"] < 0.375


def test_number_of_speakers() -> None:
    assert Diarized((SpokenTurn(0, 1, "a"),), TRUE, 10.0).counts == (1, 2)


def test_conversations_are_read(tmp_path: Path) -> None:
    for name, seconds in (("talk01", 2.0), ("other", 1.0)):
        write_wav(tmp_path / f"{name}.wav", np.zeros(round(seconds * SAMPLE_RATE), np.int16))
        (tmp_path / f"{name}.rttm").write_text(f"SPEAKER {name} 1 0.500 0.250 <NA> <NA> Ann <NA> <NA>\n")
    (one,) = read_conversations(tmp_path, ["talk"])
    assert (one.path.name, one.seconds, one.group, one.speakers) == ("talk01.wav", 2.0, "talk", 1)
    assert one.turns == (SpokenTurn(0.5, 0.75, "Ann"),)
    joined = join_conversations(read_conversations(tmp_path), 0.1, tmp_path / "joined.wav")
    assert joined.seconds == 6.0
    assert len(joined.turns) == 4
    assert all(turn.end <= 6 for turn in joined.turns)
    with pytest.raises(FileNotFoundError, match="no recordings with turns"):
        read_conversations(tmp_path, ["nothing"])


def test_words_where_one_person_speaks() -> None:
    words = spoken("one two three four", "xxyy", (0.5, 5.5, 6.0, 9.5))
    assert right_speakers(conversation(), words) == (3, 2)  # the last word is in no turn
    assert right_speakers(conversation(), []) == (0, 0)


def test_errors_of_words_count_for_their_speakers() -> None:
    turns = [("Ann", "One two."), ("Ben", "Three four."), ("Ann", "Five.")]
    assert speaker_word_errors(turns, spoken("one two three four five", "xxyyx", (0, 1, 2, 3, 4))) == (0, 5)
    assert speaker_word_errors(turns, spoken("one two three four five", "xxxyx", (0, 1, 2, 3, 4))) == (2, 5)
    assert speaker_word_errors(turns, spoken("one two three four five", "xxyyz", (0, 1, 2, 3, 4))) == (2, 5)
    assert speaker_word_errors(turns, []) == (5, 5)


def test_table_has_a_line_for_each_engine() -> None:
    scores = {"recordings": 2, "error": 0.046, "error_without_collar": 0.11, "jaccard": 0.09, "counts_right": 1}
    engine = {"label": "ours", "groups": {"composed": scores}, "times_real_time": 49.7, "peak_bytes": 2**30}
    *_, line = overview({"engines": {"ours": engine}}).splitlines()
    assert line == "| ours | 4.6 | 11.0 | 9.0 | 1 of 2 | 49.7 | 1.00 |"
