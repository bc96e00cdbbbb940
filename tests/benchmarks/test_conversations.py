"""Held-out conversations, and scores of the turns detected in them."""

import random
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.conversations import ConversationBuilder, Speaker, choose_speakers, make, split_at_pauses
from benchmarks.diarization.synthetic import Result, figures, table
from benchmarks.synthetic_speech import SpokenWord
from serve_app.schemas.transcript import Turn
from testing.recordings import decode_recording
from training.whisper_nano.digits import LANGUAGES
from training.whisper_nano.speech import RESERVED_ESPEAK_VARIANTS

needs_synthesisers = pytest.mark.skipif(
    any(shutil.which(program) is None for program in ("espeak-ng", "flite", "festival")),
    reason="espeak-ng, flite and festival are not all installed",
)


def test_speakers_have_different_reserved_voices() -> None:
    rng = random.Random(1)
    for language in LANGUAGES:
        for count in (2, 3, 4) if language == "en" else (2, 3):
            timbres = [speaker.voice.split("+")[-1] for speaker in choose_speakers(rng, language, count)]
            assert len(set(timbres)) == count
            assert {*timbres} <= {*RESERVED_ESPEAK_VARIANTS, "flite-kal16", "festival-kal"}
            assert not {"flite-kal16", "festival-kal"} <= {*timbres}  # one person


def test_split_at_pauses() -> None:
    words = tuple(SpokenWord(str(at), at, at + 0.6) for at in (0.0, 1.0, 2.2, 3.0))  # pauses of 0.4, 0.6, 0.2 s
    assert [[word.word for word in part] for part in split_at_pauses(words)] == [["0.0", "1.0"], ["2.2", "3.0"]]


@needs_synthesisers
def test_conversation_matches_its_truth(tmp_path: Path) -> None:
    conversation = make(random.Random(3), 0, 3, 40.0, tmp_path)
    assert conversation.language == "en"
    pcm = decode_recording(tmp_path / conversation.file)
    assert abs(len(pcm) / 16000 - 40) < 0.05
    assert (
        {turn.speaker for turn in conversation.turns}
        == {"speaker 1", "speaker 2", "speaker 3"}
        == set(conversation.voices)
    )
    spoken = np.zeros(len(pcm), bool)
    for turn in conversation.turns:
        assert turn.text.split() == [word.word for word in turn.words]
        spoken[int(turn.start * 16000) : int(turn.end * 16000)] = True
    level = np.square(pcm.astype(float))
    assert level[spoken].mean() > 30 * level[~spoken].mean()


@needs_synthesisers
def test_turns_of_one_speaker_do_not_overlap() -> None:
    speakers = [Speaker("en-us+m5", 170, 50, 1.0), Speaker("en-us+linda", 170, 50, 1.0)]
    builder = ConversationBuilder(random.Random(5), "en", 60.0, speakers)
    builder.build()
    for name in ("speaker 1", "speaker 2"):
        turns = [turn for turn in builder.turns if turn.speaker == name]
        assert all(left.end <= right.start for left, right in pairwise(turns))


@pytest.mark.slow
@needs_synthesisers
def test_same_seed_same_conversation(tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:  # each in a fresh process: espeak-ng carries state from one utterance to the next
        lengths = ["--shortest", "15", "--longest", "16"]
        command = [sys.executable, "-m", "benchmarks.conversations", str(folder), "--count", "1", *lengths]
        subprocess.run(command, check=True, capture_output=True)
    assert sorted(path.name for path in folders[0].iterdir()) == ["000.wav", "truth.json"]
    for path in folders[0].iterdir():
        assert path.read_bytes() == (folders[1] / path.name).read_bytes()


def result(unknown: list[Turn], snr_db: float | None = None) -> Result:
    """Return a result with two speakers, ten seconds each."""
    turns = [{"speaker": "a", "start": 0.0, "end": 10.0}, {"speaker": "b", "start": 10.0, "end": 20.0}]
    truth = {"voices": {"a": "", "b": ""}, "duration": 100.0, "snr_db": snr_db, "turns": turns}
    return Result(truth, tuple(unknown), (turn(0, 10, "x"), turn(10, 20, "y")), 1.0)


def turn(start: float, end: float, speaker: str) -> Turn:
    return Turn(start=start, end=end, speaker=speaker)


def test_quarter_second_tolerance() -> None:
    shifted = result([turn(0.2, 10.2, "x"), turn(10.2, 19.8, "y")])
    assert figures([shifted])["unknown"]["error"] == 0
    assert figures([shifted])["number_found"] == 1


def test_error_shares() -> None:
    one_speaker = result([turn(0, 20, "x")])
    parts = figures([one_speaker])
    assert parts["unknown"]["confusion"] == pytest.approx(0.5)
    assert parts["unknown"]["missed detection"] == 0
    assert parts["given"]["error"] == 0
    assert parts["number_found"] == 0


def test_overlap_is_scored() -> None:
    overlapping = result([turn(0, 10, "x"), turn(5, 20, "y")])
    assert figures([overlapping])["unknown"]["false alarm"] == pytest.approx((5 - 0.25) / 19, abs=1e-3)


def test_table_groups() -> None:
    rows = table([result([turn(0, 20, "x")]), result([turn(0, 10, "x"), turn(10, 20, "y")], 12.0)])
    assert list(rows) == ["all", "2 speakers", "1-2 min", "clean", "noisy"]
    assert rows["noisy"]["unknown"]["error"] == 0 < rows["clean"]["unknown"]["error"]
