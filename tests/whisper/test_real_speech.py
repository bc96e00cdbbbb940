"""Real weights on real speech: nothing is left out, repeated or hallucinated.

Needs whisper-base, which the fixture fetches, and a folder of recordings beside the repository; skipped without either.
"""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.audio.decode import AudioDecoder
from serve_app.audio.spans import total_length
from serve_app.audio.vad import SpeechDetector
from serve_app.audio.windows import Block, Window, cut_into_blocks
from serve_app.pipeline.coverage import speech_without_text
from serve_app.schemas.request import TranscriptionOptions
from serve_app.settings import LimitSettings, VadSettings, WhisperSettings
from serve_app.whisper.engine.engine import Engine
from serve_app.whisper.model.whisper_model import WhisperModel
from serve_app.whisper.protocol import WindowBatch
from serve_app.whisper.window_text import WindowText
from testing.non_speech import non_speech

SPEECH = Path(__file__).parents[3] / "shared" / "data" / "speech"
EARLY = "aeneas_es.mp3"  # a window of it is closed by the model with seconds of speech left

needs_speech = pytest.mark.skipif(not SPEECH.exists(), reason=f"no real recordings in {SPEECH}")


@pytest.fixture(scope="module")
def engine(whisper_base: Path) -> Iterator[Engine]:
    engine = Engine(WhisperModel.load(str(whisper_base), WhisperSettings(device="cpu", threads=1)))
    yield engine
    engine.close()


def blocks(pcm: Any) -> list[Block]:
    return list(cut_into_blocks(pcm, SpeechDetector(), VadSettings(), 30, 300))


async def decoded(engine: Engine, block: Block, **options: Any) -> list[tuple[Window, WindowText]]:
    batch = WindowBatch(block.pcm, tuple(block.pcm_windows), TranscriptionOptions(**options), "job")
    texts = await engine.transcribe(batch)
    return list(zip(block.windows, texts, strict=True))


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


@needs_speech
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beam_size": 1},
        {"beam_size": 1, "timestamps": "none"},
        {"beam_size": 1, "timestamps": "word", "logprobs": True},
        {"beam_size": 1, "condition_on_previous_text": True},
    ],
    ids=lambda options: " ".join(options) or "defaults",
)
async def test_no_speech_is_left_out_or_repeated(engine: Engine, options: dict[str, Any]) -> None:
    pairs: list[tuple[Window, WindowText]] = []
    for block in blocks(AudioDecoder(SPEECH / EARLY, LimitSettings())):
        pairs += await decoded(engine, block, **options)
    assert total_length(speech_without_text(pairs)) <= 16_000
    spoken_words = words(" ".join(segment.text for _, text in pairs for segment, _ in text.timed_segments))
    truth = {entry["file"]: entry["text"] for entry in json.loads((SPEECH / "truth.json").read_text())}
    assert len(set(spoken_words) & set(words(truth[EARLY]))) > 0.8 * len(set(words(truth[EARLY])))
    triples = [tuple(spoken_words[place : place + 3]) for place in range(len(spoken_words) - 2)]
    assert not [triple for triple, later in zip(triples, triples[3:], strict=False) if triple == later]
    for _, text in pairs:
        segments = [segment for segment, _ in text.timed_segments]
        assert all(one.start <= one.end <= other.start for one, other in pairwise(segments))
        if options.get("timestamps") == "word":
            assert all(segment.words and segment.logprobs for segment in segments)


@needs_speech
async def test_languages_of_short_clips(engine: Engine) -> None:
    truth = json.loads((SPEECH / "truth.json").read_text())
    longest_first = sorted((entry for entry in truth if entry["seconds"] < 6), key=lambda entry: -entry["seconds"])
    shortest = {entry["language"]: entry for entry in longest_first}  # in which the language is hardest to detect
    assert len(shortest) == 7
    for entry in shortest.values():
        for block in blocks(AudioDecoder(SPEECH / entry["file"], LimitSettings())):
            for _, text in await decoded(engine, block):
                assert text.language == entry["language"], entry["file"]


async def test_sounds_without_words_have_no_text(engine: Engine) -> None:
    for sound in non_speech():
        for block in blocks([sound.pcm]):
            for _, text in await decoded(engine, block):
                assert not text.timed_segments, sound.name


async def test_silence_around_speech_has_no_text(engine: Engine) -> None:
    """The demo's recording between hum and constant noise."""
    sample = Path(__file__).parents[2] / "examples" / "sample.mp3"
    speech = np.concatenate(list(AudioDecoder(sample, LimitSettings())))[: 10 * 16_000]
    rng = np.random.default_rng(0)
    seconds = np.arange(8 * 16_000) / 16_000
    around = (rng.normal(size=len(seconds)) * 150 + 300 * np.sin(100 * np.pi * seconds)).astype(np.int16)
    alone = [text for block in blocks([speech]) for _, text in await decoded(engine, block)]
    wrapped = [
        text for block in blocks([np.concatenate([around, speech, around])]) for _, text in await decoded(engine, block)
    ]
    assert words(" ".join(text.text for text in wrapped)) == words(" ".join(text.text for text in alone))
