"""Sounds without speech, each with a root mean square of 0.1 (-20 dBFS)."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from serve_app.audio import SAMPLE_RATE

Samples = npt.NDArray[np.float32]

_SPECTRA: dict[str, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = {
    "white": lambda hz: np.ones_like(hz),
    "pink": lambda hz: hz**-0.5,
    "brown": lambda hz: 1 / hz,
    "blue": lambda hz: hz**0.5,
    "middle": lambda hz: np.exp(-((np.log(hz / 1000) / 0.7) ** 2)),
    "low": lambda hz: (hz < 400) + 1e-3,
}
COLOURS = tuple(_SPECTRA)
KINDS = (*COLOURS, "hum50", "hum60", "tones", "clicks", "waves", "sweep")


def normalise_level(samples: npt.NDArray[np.floating]) -> Samples:
    """Scale samples to a root mean square of 0.1."""
    rms = np.sqrt(np.mean(np.square(samples, dtype=np.float64)))
    return (samples * (0.1 / rms)).astype(np.float32)


def coloured_noise(rng: np.random.Generator, colour: str, count: int) -> npt.NDArray[np.float64]:
    """Return Gaussian noise with the spectrum of a colour."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    hz = np.maximum(np.fft.rfftfreq(count, 1 / SAMPLE_RATE), 20)
    shaped: npt.NDArray[np.float64] = np.fft.irfft(spectrum * _SPECTRA[colour](hz), count)
    return shaped


def make(rng: np.random.Generator, kind: str, count: int) -> Samples:
    """Return `count` samples of one of KINDS."""
    if kind in COLOURS:
        return normalise_level(coloured_noise(rng, kind, count))
    return normalise_level(
        {"tones": tones, "clicks": clicks, "waves": waves, "sweep": sweep}.get(kind, hum)(rng, kind, count)
    )


def hum(rng: np.random.Generator, kind: str, count: int) -> npt.NDArray[np.float64]:
    """Mains hum: harmonics of 50 or 60 Hz."""
    base, seconds = int(kind.removeprefix("hum")), np.arange(count) / SAMPLE_RATE
    harmonics = sum(np.sin(2 * np.pi * base * k * seconds + rng.uniform(0, 6)) / k for k in range(1, 15))
    return harmonics + 0.02 * rng.standard_normal(count)


def tones(rng: np.random.Generator, kind: str, count: int) -> npt.NDArray[np.float64]:
    """Fading notes with harmonics, one after another: simple music."""
    sound = 1e-4 * rng.standard_normal(count)
    start = 0
    while start < count:
        length = int(SAMPLE_RATE * rng.uniform(0.05, 1.2))
        seconds = np.arange(min(length, count - start)) / SAMPLE_RATE
        hz, tilt = np.exp(rng.uniform(np.log(80), np.log(3500))), rng.uniform(0.5, 2)
        if rng.random() < 0.8:
            harmonics = [k for k in range(1, rng.integers(3, 9)) if hz * k < 7900]
            note = sum(np.sin(2 * np.pi * hz * k * seconds + rng.uniform(0, 6)) / k**tilt for k in harmonics)
            sound[start : start + len(seconds)] += note * np.exp(-seconds * rng.uniform(0, 6))
        start += int(length * rng.uniform(0.5, 1.2))
    return sound


def clicks(rng: np.random.Generator, kind: str, count: int) -> npt.NDArray[np.float64]:
    """About three bursts a second, sharp to dull."""
    sound = 1e-3 * rng.standard_normal(count)
    for _ in range(max(1, round(3.3 * count / SAMPLE_RATE))):
        burst = np.arange(min(count, rng.integers(20, 3000)))
        start = rng.integers(0, count - len(burst) + 1)
        shape = np.exp(-burst / rng.uniform(5, 800)) * rng.uniform(0.1, 1)
        sound[start : start + len(burst)] += rng.standard_normal(len(burst)) * shape
    return sound


def waves(rng: np.random.Generator, kind: str, count: int) -> npt.NDArray[np.float64]:
    """Pink noise that swells and fades, like wind or traffic."""
    step = SAMPLE_RATE // 10
    swell = np.convolve(np.abs(rng.standard_normal(count // step + 4)), np.ones(3) / 3, "same")
    return coloured_noise(rng, "pink", count) * np.interp(np.arange(count) / step, np.arange(len(swell)), swell) ** 2


def sweep(rng: np.random.Generator, kind: str, count: int) -> npt.NDArray[np.float64]:
    """A siren: one tone between 300 and 4,800 Hz."""
    hz = 300 * 2 ** (2 + 2 * np.sin(2 * np.pi * 0.31 * np.arange(count) / SAMPLE_RATE + rng.uniform(0, 6)))
    return np.sin(2 * np.pi * np.cumsum(hz) / SAMPLE_RATE) + 1e-3 * rng.standard_normal(count)
