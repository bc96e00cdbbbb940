"""The whole pipeline, with its real networks; on real conversations where they are there."""

from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.audio.encode import encode_flac
from serve_app.diarization.pipeline import SpeakerPipeline
from serve_app.diarization.pyannote_campplus.pipeline import CampplusPipeline
from serve_app.schemas.request import DiarizationOptions, KnownSpeaker
from serve_app.schemas.transcript import Turn
from serve_app.settings import DiarizationSettings, LimitSettings, VadSettings
from tests.diarization.conversation import conversation, interrupt_at

pytestmark = pytest.mark.slow

CONVERSATIONS = Path(__file__).parents[3].parent / "shared" / "data" / "conversations"
needs_conversations = pytest.mark.skipif(not CONVERSATIONS.exists(), reason=f"{CONVERSATIONS} is not there")

TWO, FOUR = "composed06", "composed02"
"""Conversations of so many real readers."""


@pytest.fixture(scope="module")
def pipeline(real_pipeline: Path) -> SpeakerPipeline:
    loaded = CampplusPipeline.load(real_pipeline, "cpu", None)
    return SpeakerPipeline(loaded, DiarizationSettings(threads=1), VadSettings())


def read(name: str) -> NDArray[np.int16]:
    return np.concatenate(list(AudioDecoder(CONVERSATIONS / f"{name}.flac", LimitSettings())))


def true_turns(name: str) -> list[Turn]:
    fields = (line.split() for line in (CONVERSATIONS / f"{name}.rttm").read_text().splitlines())
    return [Turn(start=float(at), end=float(at) + float(s), speaker=who) for _, _, _, at, s, _, _, who, *_ in fields]


def share_right(found: tuple[Turn, ...], true: list[Turn]) -> float:
    """Return the share of the time of true turns in which exactly the right speakers speak, by frames of 10 ms.

    Each found speaker counts as the one with whom they share most time.
    """
    count = round(100 * max(turn.end for turn in [*found, *true]))
    frames = {}
    for turns in (found, true):
        for turn in turns:
            active = frames.setdefault((turns is found, turn.speaker), np.zeros(count, bool))
            active[round(100 * turn.start) : round(100 * turn.end)] = True
    names = sorted({turn.speaker for turn in true})
    reference = np.stack([frames[False, name] for name in names])
    heard = np.zeros_like(reference)
    for (is_found, _), active in frames.items():
        if is_found:
            heard[(reference & active).sum(1).argmax()] |= active
    return float((reference == heard).all(0)[reference.any(0)].mean())


@needs_conversations
@pytest.mark.parametrize(("name", "speakers"), [(TWO, 2), (FOUR, 4)])
def test_real_people_are_told_apart(pipeline: SpeakerPipeline, name: str, speakers: int) -> None:
    turns = pipeline.diarize(read(name), DiarizationOptions())
    assert len({turn.speaker for turn in turns}) == speakers
    assert share_right(turns, true_turns(name)) > 0.85  # 0.90 and 0.91, of which most is at the edges of turns
    assert pipeline.diarize(read(name), DiarizationOptions()) == turns


@needs_conversations
def test_requested_numbers_of_speakers(pipeline: SpeakerPipeline) -> None:
    sound = read(FOUR)[: 60 * SAMPLE_RATE]
    for number in (1, 2, 3):
        turns = pipeline.diarize(sound, DiarizationOptions(num_speakers=number))
        assert len({turn.speaker for turn in turns}) == number
    assert len({turn.speaker for turn in pipeline.diarize(sound, DiarizationOptions(max_speakers=2))}) == 2


@needs_conversations
def test_known_speakers_from_another_recording(pipeline: SpeakerPipeline) -> None:
    """Three seconds of one of the two people, in another room with other noise, and of a stranger."""
    clips = {"Ann": ("composed00", 98.8), "Ben": ("composed02", 89.9), "stranger": ("composed04", 41.6)}
    known_speakers = tuple(
        KnownSpeaker(name=name, reference=clip(read(recording)[round(at * SAMPLE_RATE) :][: 3 * SAMPLE_RATE]))
        for name, (recording, at) in clips.items()
    )
    turns = pipeline.diarize(read(TWO), DiarizationOptions(known_speakers=known_speakers))
    assert {turn.speaker for turn in turns} == {"Ann", "Ben"}
    for name, reader in (("Ann", "ls3331"), ("Ben", "ls2609")):
        spoken = sum(turn.end - turn.start for turn in true_turns(TWO) if turn.speaker == reader)
        found = sum(turn.end - turn.start for turn in turns if turn.speaker == name)
        assert found == pytest.approx(spoken, rel=0.2)
    assert all(0.5 <= (turn.similarity or 0) <= 1 for turn in turns)


def clip(sound: NDArray[np.int16]) -> str:
    return b64encode(encode_flac(sound)).decode()


def test_silence_has_no_turns(pipeline: SpeakerPipeline) -> None:
    assert pipeline.diarize(np.zeros(12 * SAMPLE_RATE, np.int16), DiarizationOptions()) == ()


@pytest.mark.parametrize("samples", [1, 399, 640, 8000, 16_001, 160_000])
def test_short_recordings(pipeline: SpeakerPipeline, samples: int) -> None:
    sound = conversation(12)[SAMPLE_RATE : SAMPLE_RATE + samples]
    options = DiarizationOptions(
        num_speakers=2, known_speakers=(KnownSpeaker(name="Ann", reference=clip(conversation(3))),)
    )
    turns = pipeline.diarize(sound, options)
    assert all(0 <= turn.start < turn.end <= samples / SAMPLE_RATE for turn in turns)


def test_heartbeat_can_stop_it(pipeline: SpeakerPipeline) -> None:
    with pytest.raises(InterruptedError):
        pipeline.diarize(conversation(60), DiarizationOptions(), interrupt_at(3))
