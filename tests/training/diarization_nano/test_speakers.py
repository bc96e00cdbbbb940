"""Speakers and sentences of the training data; some of these tests need espeak-ng."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from training.diarization_nano import speakers, synthesise
from training.diarization_nano.speech import FRAME, LEVEL, speak, trim
from training.diarization_nano.texts import sentence
from training.whisper_nano.speech import RESERVED_ESPEAK_VARIANTS

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


def test_training_excludes_reserved_and_dev_voices() -> None:
    rng = random.Random(1)
    made, dev_made = (
        list(speakers.made_up_families(rng, 40, [speakers.made_up(rng)], name)) for name in ("made", "dev")
    )
    parts = [*synthesise.espeak_parts(rng, made, 200, dev_made, 60, 1), *synthesise.recorded_parts(rng, 1)]
    trained = {speaker.timbre for speaker, kind, *_ in parts if kind == "train"}
    dev = {speaker.timbre for speaker, kind, *_ in parts if kind == "dev"}
    assert len(trained) > 100
    assert len(dev) > 10
    assert not trained & dev
    assert not (trained | dev) & {*RESERVED_ESPEAK_VARIANTS, "kal", "kal16", "kal_diphone"}


def test_siblings_share_a_language() -> None:
    rng = random.Random(2)
    files = speakers.made_up_families(rng, 40, [speakers.made_up(rng)])
    assert list(files)[:5] == ["made0.0", "made0.1", "made0.2", "made0.3", "made1.0"]
    assert len(set(files.values())) == 40
    families: dict[str, list[speakers.Speaker]] = {}
    for speaker in synthesise.siblings(rng, list(files)):
        families.setdefault(speaker.family, []).append(speaker)
    assert len(families) == 10
    for family in families.values():
        assert len({(speaker.language, speaker.pitch_range) for speaker in family}) == 1
    assert len({family[0].language for family in families.values()}) > 2


def test_variant_file() -> None:
    file = """language variant
name female9
pitch 140 240 // high
formant 0 105 80 150
formant 2 135 70 150 -250
#echo 1 2
//breath 0 1
stressAmp 18 18 20
"""
    variant = speakers.Variant.read(file)
    assert variant.pitch == (140, 240)
    assert variant.formants[:3] == ((105, 80, 150, 0), (100, 100, 100, 0), (135, 70, 150, -250))
    assert variant.extras == ("stressAmp 18 18 20",)
    assert speakers.Variant.read(variant.text()) == variant


@needs_espeak
def test_shipped_variants() -> None:
    for name, variant in zip(
        speakers.DEV_VARIANTS, speakers.shipped_variants(synthesise.SYSTEM_DATA, speakers.DEV_VARIANTS), strict=True
    ):
        assert variant != speakers.Variant.read(""), name


@pytest.mark.parametrize("alphabet", ["latin", "cyrillic", "devanagari", "telugu"])
def test_sentences_have_words(alphabet: str) -> None:
    rng = random.Random(3)
    assert all(0 < len(sentence(rng, "de", alphabet).split()) <= 16 for _ in range(50))


def test_trim() -> None:
    sound = np.zeros(200 * FRAME, np.float32)
    for first, last in ((20, 60), (80, 100), (150, 180)):  # pauses of 0.2 and 0.5 s
        sound[first * FRAME : last * FRAME] = 0.3 * np.sin(np.arange((last - first) * FRAME) / 5)
    utterance = trim(sound)
    assert utterance is not None
    assert len(utterance.speech) == 160
    assert len(utterance.samples) == 160 * FRAME
    assert utterance.speech[:80].all()
    assert not utterance.speech[80:130].any()
    assert utterance.speech[130:].all()
    loud = utterance.samples[: 40 * FRAME].astype(float) / 32767
    assert np.sqrt(np.square(loud).mean()) == pytest.approx(LEVEL, rel=0.02)
    assert trim(np.zeros(8000, np.float32)) is None


@pytest.mark.slow
@needs_espeak
def test_synthetic_voices_speak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a process of its own, because the library keeps its first data folder."""
    import multiprocessing

    monkeypatch.delenv("ESPEAK_DATA_PATH", raising=False)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        lengths = pool.apply(spoken_lengths, (tmp_path,))
    assert all(4 < length < 25 for length in lengths)


def spoken_lengths(folder: Path) -> list[float]:
    rng = random.Random(5)
    variants = speakers.made_up_families(
        rng, 3, speakers.shipped_variants(synthesise.SYSTEM_DATA, speakers.TRAINING_VARIANTS)
    )
    speakers.espeak_data(folder, variants, synthesise.SYSTEM_DATA)
    spoken = [speak(rng, speakers.espeak_speaker(rng, variant), 4.0) for variant in variants]
    return [sum(len(utterance.speech) for utterance in one) / 100 for one in spoken]
