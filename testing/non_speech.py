"""Sounds without speech: any text that a recogniser returns for them is a hallucination.

    python -m testing.non_speech data/non-speech

writes them as WAV files.
"""

import argparse
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE
from testing import noise

Samples = NDArray[np.floating]
Make = Callable[[np.random.Generator, int], Samples]

LENGTHS_S = (10.0, 35.0)
"""Shorter than one window of Whisper's, and longer."""


@dataclass(frozen=True)
class Sound:
    """16 kHz mono int16 samples and a description of them."""

    name: str
    pcm: NDArray[np.int16]

    def write(self, path: Path) -> None:
        """Write a WAV file."""
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes(self.pcm.tobytes())


def _of_kind(kind: str) -> Make:
    return lambda rng, count: noise.make(rng, kind, count)


def chords(rng: np.random.Generator, count: int) -> Samples:
    """Return slow music: chords of four struck notes with harmonics, a bass note and a beat of noise."""
    sound = np.zeros(count)
    step = SAMPLE_RATE // 2
    for place, start in enumerate(range(0, count, step)):
        seconds = np.arange(min(2 * step, count - start)) / SAMPLE_RATE
        root = 110 * 2 ** ((0, 5, 7, 3)[place // 4 % 4] / 12)
        for interval in (0, 12, 16, 19, 24):
            hz = root * 2 ** (interval / 12)
            note = sum(np.sin(2 * np.pi * hz * k * seconds) / k**2 for k in range(1, 6))
            sound[start : start + len(seconds)] += note * np.exp(-3 * seconds)
        beat = rng.standard_normal(len(seconds)) * np.exp(-60 * seconds)
        sound[start : start + len(seconds)] += 0.5 * beat
    return noise.normalise_level(sound)


def breath(rng: np.random.Generator, count: int) -> Samples:
    """Return noise between 300 and 2,500 Hz that swells and fades every four seconds."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    hz = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    spectrum *= np.exp(-((np.log(np.maximum(hz, 1) / 870) / 0.75) ** 2))
    swell = np.maximum(0, np.sin(2 * np.pi * np.arange(count) / (4 * SAMPLE_RATE))) ** 2
    return noise.normalise_level(np.fft.irfft(spectrum, count) * swell)


_SOUNDS: dict[str, tuple[Make, tuple[float, ...]]] = {
    "silence": (lambda rng, count: np.zeros(count), (0.0,)),
    "white noise": (_of_kind("white"), (-50.0, -30.0, -15.0)),
    "pink noise": (_of_kind("pink"), (-50.0, -30.0, -15.0)),
    "brown noise": (_of_kind("brown"), (-50.0, -30.0, -15.0)),
    "hum 50 Hz": (_of_kind("hum50"), (-30.0,)),
    "hum 60 Hz": (_of_kind("hum60"), (-30.0,)),
    "tones": (_of_kind("tones"), (-20.0,)),
    "clicks": (_of_kind("clicks"), (-20.0,)),
    "chords": (chords, (-20.0,)),
    "breath": (breath, (-35.0,)),
}
"""How each sound is made, and its levels: root mean square in dB of full scale."""


def non_speech(seed: int = 0) -> Iterator[Sound]:
    """Yield every sound at each of its levels and both lengths; the same seed makes the same sounds."""
    for name, (make, levels) in _SOUNDS.items():
        for level in levels:
            for seconds in LENGTHS_S:
                count = round(seconds * SAMPLE_RATE)
                samples = (
                    make(np.random.default_rng(seed), count) * 10 ** (level / 20) / 0.1
                )  # all sounds are generated at 0.1
                shown = f" {level:g} dB" if len(levels) > 1 else ""
                pcm = np.clip(np.round(samples * 32767), -32768, 32767).astype(np.int16)
                yield Sound(f"{name}{shown}, {seconds:g} s", pcm)


def write(folder: Path, seed: int = 0) -> list[Path]:
    """Write all sounds to a folder, in files named after them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for sound in non_speech(seed):
        paths.append(folder / f"{sound.name}.wav")
        sound.write(paths[-1])
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output folder; created if it does not exist")
    arguments = parser.parse_args()
    print(f"wrote {len(write(arguments.folder))} sounds to {arguments.folder}")


if __name__ == "__main__":
    main()
