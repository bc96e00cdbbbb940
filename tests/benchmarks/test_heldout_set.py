"""Held-out recordings, and the scores of transcripts of them."""

import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks import heldout_set
from benchmarks.accuracy import Answer, score
from benchmarks.synthetic_speech import FORMATS
from training.whisper_nano.digits import is_reserved, spell
from training.whisper_nano.espeak import espeak
from training.whisper_nano.evaluate import read

TRUTH = {
    "kind": "speech",
    "language": "de",
    "duration": 5.0,
    "utterances": [{"start": 0.5, "end": 2.0, "text": "fünf acht"}, {"start": 3.0, "end": 4.0, "text": "eins"}],
}


@pytest.mark.parametrize(("language", "right"), [("german", 1), ("de", 1), ("english", 0), ("klingon", 0)])
def test_score(language: str, right: int) -> None:
    segments = [{"start": 0.5, "end": 2.0}, {"start": 3.5, "end": 4.0}]
    answer = Answer(TRUTH, {"text": "Fünf acht", "language": language, "segments": segments}, 1.0)
    assert score([answer]) == {
        **{"recordings": 1, "words": 3, "wer": 0.3333, "boundaries": 0.75},
        **{"starts": 0.0, "start_median_s": None, "language": right},
    }


@pytest.mark.parametrize("container", FORMATS)
def test_recordings_match_their_truth(container: str, tmp_path: Path) -> None:
    """The sound is loud inside the true words and quiet between utterances, in each format."""
    try:
        espeak()
    except OSError as error:
        pytest.skip(str(error))
    rng = random.Random(4)
    plan = heldout_set.plan(rng, 12, 0, 0)
    chosen = next(p for p in plan if p.format == container and p.snr_db is None and p.language != "en")
    recording = heldout_set.make(rng, chosen, tmp_path)
    samples = read(tmp_path / recording.file)
    assert len(samples) / 16000 == pytest.approx(recording.duration, abs=0.1)
    power = np.cumsum(np.concatenate([[0], samples.astype(np.float64) ** 2]))

    def level(start: float, end: float) -> float:
        first, last = int(start * 16000), int(end * 16000)
        return float((power[last] - power[first]) / (last - first))

    for utterance in recording.utterances:
        assert utterance.text.split() == [word.word for word in utterance.words]
        assert is_reserved([spell(str(recording.language), range(10)).index(w.word) for w in utterance.words])
        assert level(utterance.start - 0.15, utterance.start - 0.05) < 0.01 * level(utterance.start, utterance.end)


def test_plan_covers_all_combinations() -> None:
    plan = list(heldout_set.plan(random.Random(1), 48, 0, 0))
    cells = {(p.language, p.format, p.snr_db is None) for p in plan}
    assert len(cells) == 24
    assert asdict(plan[0])["kind"] == "speech"
