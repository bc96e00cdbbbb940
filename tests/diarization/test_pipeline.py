import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.audio.encode import encode_flac
from serve_app.diarization.pipeline import SpeakerPipeline
from serve_app.diarization.pyannote_pipeline import PipelineError, PyannotePipeline
from serve_app.schemas.request import DiarizationOptions, KnownSpeaker
from serve_app.settings import DiarizationSettings, LimitSettings, VadSettings
from tests.diarization.conversation import DATA, conversation, interrupt_at, restless
from tests.server import MODELS

pytestmark = pytest.mark.slow  # loads pyannote.audio

SETTINGS = DiarizationSettings(pipeline="diarization-nano", device="cpu", threads=1)
RECORDING = Path(__file__).parents[2].parent / "shared/data/stereo_diarization.wav"


@pytest.fixture(scope="module")
def nano() -> SpeakerPipeline:
    return SpeakerPipeline.load(SETTINGS, VadSettings(), MODELS)


def test_silence_has_no_turns(nano: SpeakerPipeline) -> None:
    assert nano.diarize(np.zeros(12 * SAMPLE_RATE, np.int16), DiarizationOptions()) == ()
    assert nano.diarize(np.zeros((2 * SAMPLE_RATE, 2), np.int16), DiarizationOptions(channels="separate")) == ()


@pytest.mark.parametrize("samples", [1, 2, 500, 1000, 8000])
@pytest.mark.parametrize("speakers", [None, 2])
def test_very_short_recordings(nano: SpeakerPipeline, samples: int, speakers: int | None) -> None:
    sound = conversation(3)[SAMPLE_RATE : SAMPLE_RATE + samples]
    known_speakers = (KnownSpeaker(name="Ann", reference=clip(conversation(3))),)
    options = DiarizationOptions(num_speakers=speakers, known_speakers=known_speakers)
    assert all(0 <= turn.start < turn.end <= samples / SAMPLE_RATE for turn in nano.diarize(sound, options))


def test_order_and_numbering_of_turns() -> None:
    pipeline = SpeakerPipeline(PyannotePipeline(restless()), SETTINGS, VadSettings())
    sound = conversation(61.234)
    turns = pipeline.diarize(sound, DiarizationOptions())
    assert len(turns) > 10
    assert list(turns) == sorted(turns, key=lambda turn: (turn.start, turn.end))
    assert all(0 <= turn.start < turn.end <= len(sound) / SAMPLE_RATE for turn in turns)
    speakers = list(dict.fromkeys(turn.speaker for turn in turns))
    assert speakers == [f"SPEAKER_{number:02d}" for number in range(len(speakers))]
    assert len(speakers) > 1
    one = pipeline.diarize(sound, DiarizationOptions(num_speakers=1))
    assert {turn.speaker for turn in one} == {"SPEAKER_00"}


def test_heartbeat_can_stop_the_pipeline(nano: SpeakerPipeline) -> None:
    with pytest.raises(InterruptedError):
        nano.diarize(conversation(60), DiarizationOptions(), interrupt_at(3))


def clip(sound: np.ndarray) -> str:  # type: ignore[type-arg]
    return b64encode(encode_flac(sound)).decode()


def test_channels_are_speakers(nano: SpeakerPipeline) -> None:
    recordings = [np.concatenate(list(AudioDecoder(DATA / name, LimitSettings()))) for name in ("en.mp3", "de.opus")]
    sound = np.zeros((8 * SAMPLE_RATE, 2), np.int16)
    sound[SAMPLE_RATE : SAMPLE_RATE + len(recordings[0]), 0] = recordings[0]
    sound[4 * SAMPLE_RATE :, 1][: len(recordings[1])] = recordings[1][: 4 * SAMPLE_RATE]
    turns = nano.diarize(sound, DiarizationOptions(channels="separate"))
    assert list(dict.fromkeys(turn.speaker for turn in turns)) == ["CHANNEL_0", "CHANNEL_1"]
    assert all(turn.end <= 5 for turn in turns if turn.speaker == "CHANNEL_0")
    assert all(turn.start >= 3.9 for turn in turns if turn.speaker == "CHANNEL_1")
    known_speakers = (
        KnownSpeaker(name="Dora", reference=clip(recordings[1])),
        KnownSpeaker(name="Ed", reference=clip(recordings[0])),
    )
    named = nano.diarize(sound, DiarizationOptions(channels="separate", known_speakers=known_speakers))
    assert list(dict.fromkeys(turn.speaker for turn in named)) == ["Ed", "Dora"]


@pytest.mark.skipif(not RECORDING.exists(), reason=f"{RECORDING} is not there")
def test_real_recording_of_two_channels(nano: SpeakerPipeline) -> None:
    sound = np.concatenate(list(AudioDecoder(RECORDING, LimitSettings(), separate_channels=True)))
    left, right = nano.diarize(sound, DiarizationOptions(channels="separate"))
    assert (left.speaker, right.speaker) == ("CHANNEL_0", "CHANNEL_1")
    assert (left.start, left.end) == pytest.approx((0.3, 4.9), abs=0.1)
    assert (right.start, right.end) == pytest.approx((0.3, 2.6), abs=0.1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/no/such/folder", "neither an existing folder nor a hub id"),
        ("nowhere", "neither an existing folder nor a hub id"),
        ("./nowhere/here", "neither an existing folder nor a hub id"),
    ],
)
def test_unknown_pipeline(name: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        SpeakerPipeline.load(DiarizationSettings(pipeline=name), VadSettings(), MODELS)


def test_folder_without_a_pipeline(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="can't be loaded"):
        SpeakerPipeline.load(DiarizationSettings(pipeline=str(tmp_path)), VadSettings(), MODELS)


def test_no_telemetry_is_sent() -> None:
    """pyannote sends telemetry unless it is disabled before the import."""
    code = """
import socket, sys
asked = []
def refuse(*args, **kwargs):
    asked.append(args)
    raise OSError("no network")
socket.getaddrinfo = socket.socket.connect = socket.socket.connect_ex = socket.create_connection = refuse
from pathlib import Path
import numpy as np
from serve_app.diarization.pipeline import SpeakerPipeline
from serve_app.schemas.request import DiarizationOptions
from serve_app.settings import DiarizationSettings, VadSettings
settings = DiarizationSettings(pipeline="diarization-nano", threads=1)
nano = SpeakerPipeline.load(settings, VadSettings(), Path("data/models"))
nano.diarize(np.random.default_rng(0).integers(-9999, 9999, 16000, np.int16), DiarizationOptions())
import time; time.sleep(1)  # reports are sent every half second
sys.exit(len(asked))
"""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torchcodec" not in done.stderr
