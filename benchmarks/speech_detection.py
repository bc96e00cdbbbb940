"""Measure how much speech the detector misses, and how much it detects in non-speech, at several thresholds.

    python -m benchmarks.speech_detection             a table
    python -m benchmarks.speech_detection --save      and a file in benchmarks/results

Uses real recordings, clean and degraded, and the sounds of testing.non_speech. A frame of 32 ms counts as speech if the
clean recording is within 30 dB of its loud frames, independently of any detector. The detected frames are those that
Whisper receives: speech segments with the audio before and after them (`vad.pad_ms`).
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.real_speech.recordings import REAL, load
from benchmarks.results import save_result
from serve_app.audio import SAMPLE_RATE
from serve_app.audio.vad import FRAME_SAMPLES, SpeechDetector, SpeechSegmenter
from serve_app.settings import VadSettings
from testing import noise
from testing.non_speech import non_speech

Samples = NDArray[np.floating]
THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.35, 0.5)
LOUD_DB = 30
FRAMES_PER_S = SAMPLE_RATE / FRAME_SAMPLES


def _with_noise(kind: str, snr_db: float) -> Callable[[np.random.Generator, Samples], Samples]:
    def add(rng: np.random.Generator, speech: Samples) -> Samples:
        level = np.sqrt(np.mean(speech[np.abs(speech) > np.abs(speech).max() / 100] ** 2))
        return speech + noise.make(rng, kind, len(speech)) / 0.1 * level * 10 ** (-snr_db / 20)

    return add


def _telephone(rng: np.random.Generator, speech: Samples) -> Samples:
    spectrum = np.fft.rfft(speech)
    hz = np.fft.rfftfreq(len(speech), 1 / SAMPLE_RATE)
    return np.fft.irfft(np.where((hz > 300) & (hz < 3400), spectrum, 0), len(speech))


def _far(rng: np.random.Generator, speech: Samples) -> Samples:
    """Add half a second of reverberation, louder than the voice itself."""
    tail = rng.standard_normal(SAMPLE_RATE // 2) * np.exp(-np.arange(SAMPLE_RATE // 2) / (0.08 * SAMPLE_RATE))
    tail /= np.sqrt(np.sum(tail**2))
    size = len(speech) + len(tail)
    wet = np.fft.irfft(np.fft.rfft(speech, size) * np.fft.rfft(tail, size), size)[: len(speech)]
    return 0.4 * speech + wet


CONDITIONS: Mapping[str, Callable[[np.random.Generator, Samples], Samples]] = {
    "clean": lambda rng, speech: speech,
    "quiet, -30 dB": lambda rng, speech: speech * 10 ** (-30 / 20),
    "telephone": _telephone,
    "far": _far,
    **{f"{kind} noise, {snr} dB": _with_noise(kind, snr) for kind in ("white", "pink") for snr in (10, 5, 0)},
    "hum, 5 dB": _with_noise("hum50", 5),
    "over notes, 5 dB": _with_noise("tones", 5),
}


def loud_frames(speech: Samples) -> NDArray[np.bool_]:
    """Return which frames of a clean recording contain speech."""
    frames = speech[: len(speech) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    level = 10 * np.log10(np.mean(frames**2, axis=1) + 1e-12)
    loud: NDArray[np.bool_] = level > np.percentile(level, 95) - LOUD_DB
    return loud


def probabilities(sound: Samples) -> NDArray[np.float32]:
    """Return the detector's probabilities for audio between -1 and 1."""
    pcm = np.clip(np.round(sound * 32767), -32768, 32767).astype(np.int16)
    return SpeechDetector()(np.pad(pcm, (0, -len(pcm) % FRAME_SAMPLES)))


def detected_frames(likely: NDArray[np.float32], vad: VadSettings) -> NDArray[np.bool_]:
    """Return which frames are in speech segments or in the padding around them."""
    segmenter = SpeechSegmenter(vad, max_frames=len(likely) + 1)
    pad = round(vad.pad_ms / 1000 * FRAMES_PER_S)
    detected = np.zeros(len(likely), bool)
    for segment in [*segmenter.feed(likely), *segmenter.finish()]:
        detected[max(0, segment.start - pad) : segment.end + pad] = True
    return detected


def measure() -> dict[str, dict[str, float]]:
    """Return, by threshold, the share of speech missed in each condition, and of non-speech detected as speech."""
    recordings = [recording.pcm.astype(np.float32) / 32768 for recording in load(REAL)]
    figures: dict[str, dict[str, float]] = {}
    for name, change in CONDITIONS.items():
        rng = np.random.default_rng(0)
        pairs = [(loud_frames(speech), probabilities(change(rng, speech))) for speech in recordings]
        figures[name] = {
            f"{threshold:g}": sum(
                np.sum(loud & ~detected_frames(likely, VadSettings(threshold=threshold))[: len(loud)])
                for loud, likely in pairs
            )
            / sum(np.sum(loud) for loud, _ in pairs)
            for threshold in THRESHOLDS
        }
        print(row(name, figures[name]), flush=True)
    sounds = [probabilities(sound.pcm / 32768) for seed in range(3) for sound in non_speech(seed)]
    figures["non-speech detected"] = {
        f"{threshold:g}": sum(np.sum(detected_frames(likely, VadSettings(threshold=threshold))) for likely in sounds)
        / sum(len(likely) for likely in sounds)
        for threshold in THRESHOLDS
    }
    print(row("non-speech detected", figures["non-speech detected"]))
    return figures


def row(name: str, shares: Mapping[str, float]) -> str:
    """Format a line of the table."""
    return f"| {name:26} | " + " | ".join(f"{share:7.2%}" for share in shares.values()) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results/")
    arguments = parser.parse_args()
    if not Path(REAL, "truth.json").exists():
        sys.exit(f"no real speech: {REAL} does not exist")
    print(f"| {'speech that is missed':26} | " + " | ".join(f"{threshold:7g}" for threshold in THRESHOLDS) + " |")
    print("|" + "---|" * (1 + len(THRESHOLDS)))
    figures = measure()
    if arguments.save:
        save_result("speech-detection", ("torch", "silero-vad", "numpy"), {"shares": figures})


if __name__ == "__main__":
    main()
