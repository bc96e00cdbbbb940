"""The speech detector, compared with silero-vad's, and on recorded and synthesized sounds."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.audio.vad import FRAME_SAMPLES, SpeechDetector, SpeechSegment, SpeechSegmenter
from serve_app.audio.windows import cut_into_blocks
from serve_app.settings import LimitSettings, VadSettings
from tests.audio.sounds import tone

DATA = Path(__file__).parent.parent / "data"


def read(path: Path) -> NDArray[np.int16]:
    return np.concatenate(list(AudioDecoder(path, LimitSettings())))


@pytest.fixture(scope="module", params=["en.mp3", "de.opus"])
def speech(request: pytest.FixtureRequest) -> NDArray[np.int16]:
    """A recording of spoken words, a whole number of frames."""
    pcm = read(DATA / request.param)
    return pcm[: len(pcm) // FRAME_SAMPLES * FRAME_SAMPLES]


def test_probabilities_equal_silero_vads(speech: NDArray[np.int16]) -> None:
    package = importlib.util.find_spec("silero_vad")
    assert package is not None
    assert package.origin is not None
    silero = torch.jit.load(Path(package.origin).parent / "data" / "silero_vad.jit")
    frames = torch.from_numpy(speech.astype(np.float32) / 32768).reshape(-1, 1, FRAME_SAMPLES)
    frames = frames[:300]
    theirs = np.array([silero(frame, SAMPLE_RATE).item() for frame in frames])
    ours = SpeechDetector()(speech)[:300]
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_state_is_carried_across_chunks(speech: NDArray[np.int16]) -> None:
    whole = SpeechDetector()(speech)
    for frames in (3, 7):
        detector = SpeechDetector()
        pieces = [speech[i : i + frames * FRAME_SAMPLES] for i in range(0, len(speech), frames * FRAME_SAMPLES)]
        np.testing.assert_allclose(np.concatenate([detector(piece) for piece in pieces]), whole, atol=1e-4)


def test_recordings_do_not_share_state(speech: NDArray[np.int16]) -> None:
    first, second = SpeechDetector(), SpeechDetector()
    first(speech)
    np.testing.assert_array_equal(second(speech), SpeechDetector()(speech))


@pytest.mark.slow
def test_the_number_of_torch_threads_is_not_changed() -> None:
    script = (
        "import torch; torch.set_num_threads(2)\n"
        "from serve_app.audio.vad import SpeechDetector; SpeechDetector()\n"
        "print(torch.get_num_threads())"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "2\n"


def speech_segments(probabilities: list[float], vad: VadSettings, longest: int = 1000) -> list[SpeechSegment]:
    segmenter = SpeechSegmenter(vad, longest)
    return [*segmenter.feed(probabilities), *segmenter.finish()]


VAD = VadSettings(threshold=0.5, min_speech_ms=96, min_silence_ms=96, pad_ms=0)  # three frames each


def test_hysteresis() -> None:
    assert speech_segments([0.4] * 9, VAD) == []  # speech does not begin below the threshold
    assert speech_segments([0.6, *[0.4] * 8], VAD) == [(0, 9)]  # but it continues
    assert speech_segments([0.6] * 4 + [0.3] * 9, VAD) == [(0, 4)]
    assert speech_segments([0.6] * 4 + [0.3] * 2 + [0.6] * 4 + [0.3] * 9, VAD) == [(0, 10)]  # too short a pause
    assert speech_segments([0.6] * 4 + [0.3] * 3 + [0.6] * 4, VAD) == [(0, 4), (7, 11)]
    assert speech_segments([0.6] * 2 + [0.3] * 9, VAD) == []  # too short a burst
    assert speech_segments([0.6] * 4 + [0.3] * 2, VAD) == [(0, 4)]  # the recording's end


def test_a_long_segment_is_split_in_its_second_half() -> None:
    probabilities = [0.9] * 25
    probabilities[3], probabilities[7] = 0.5, 0.6
    assert speech_segments(probabilities, VAD, longest=10) == [(0, 7), (7, 16), (16, 25)]


def noise(colour: float, seconds: float, level: float) -> NDArray[np.int16]:
    """Noise whose power falls with frequency to the power of `colour`; `level` is its loudness (RMS)."""
    spectrum = np.fft.rfft(np.random.default_rng(1).normal(size=round(seconds * SAMPLE_RATE)))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** (colour / 2)
    spectrum[:20] = 0
    sound = np.fft.irfft(spectrum)
    return np.clip(sound / sound.std() * level * 32767, -32768, 32767).astype(np.int16)


def clicks() -> NDArray[np.int16]:
    sound = np.zeros(20 * SAMPLE_RATE, np.int16)
    sound[:: SAMPLE_RATE // 2] = 30_000
    return sound


NOT_SPEECH = {
    "silence": np.zeros(20 * SAMPLE_RATE, np.int16),
    "hum": tone(20, hertz=50),
    "tone": tone(20, hertz=1000),
    "clicks": clicks(),
    "white noise": noise(0, 20, 0.1),
    "quiet white noise": noise(0, 20, 0.003),
    "pink noise": noise(1, 20, 0.1),
    "brown noise": noise(2, 20, 0.1),
}


@pytest.mark.parametrize("kind", NOT_SPEECH)
def test_other_sounds_have_no_windows(kind: str) -> None:
    assert list(cut_into_blocks([NOT_SPEECH[kind]], SpeechDetector(), VadSettings(), 10, 300)) == []


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
@pytest.mark.parametrize(("voice", "text"), [("en+m5", "one two three"), ("de+f2", "sieben acht neun")])
@pytest.mark.parametrize("gain", [1.0, 0.03])
def test_words_between_pauses_are_in_windows(voice: str, text: str, gain: float, tmp_path: Path) -> None:
    subprocess.run(["espeak-ng", "-v", voice, "-w", tmp_path / "words.wav", text], check=True)
    words = (gain * read(tmp_path / "words.wav")).astype(np.int16)
    loud = np.flatnonzero(np.abs(words) > 0.05 * np.abs(words).max())
    words = words[loud[0] : loud[-1]]
    pause = noise(0, 4, 0.0003)
    windows = [
        w
        for block in cut_into_blocks([pause, words, pause], SpeechDetector(), VadSettings(), 10, 300)
        for w in block.windows
    ]
    covered = sum(min(w.end, len(pause) + len(words)) - max(w.start, len(pause)) for w in windows)
    assert covered >= 0.99 * len(words)
    assert sum(w.end - w.start for w in windows) < len(words) + 3 * SAMPLE_RATE
