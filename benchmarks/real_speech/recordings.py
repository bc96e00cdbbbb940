"""Recordings with their texts: real ones if a folder of them exists, else synthesised ones."""

import json
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.vad import FRAME_SAMPLES, SpeechDetector, SpeechSegmenter, certain_speech_settings
from serve_app.settings import VadSettings
from testing.non_speech import Sound
from testing.recordings import decode_recording

REAL = Path(__file__).parents[3] / "shared" / "data" / "speech"
"""The expected location of real recordings."""

_EXTRA_FILES = {
    "jfk.flac": (
        "en",
        "And so, my fellow Americans: ask not what your country can do for you, ask what you can do for your country.",
    ),
    "multilingual.mp3": (None, None),
}
"""Files beside that folder, with their language and text; None if unknown."""

_SENTENCES = {
    "en": ("The ship left the harbour before the sun had risen.", "Nobody knew where the old road would lead them."),
    "de": ("Das Schiff verließ den Hafen noch vor Sonnenaufgang.", "Niemand wusste, wohin der alte Weg führen würde."),
    "fr": ("Le bateau a quitté le port avant le lever du soleil.", "Personne ne savait où menait cette vieille route."),
    "es": ("El barco salió del puerto antes de la salida del sol.", "Nadie sabía adónde llevaba el viejo camino."),
}
_DETECTED = 2000 * FRAME_SAMPLES
"""Samples in which speech is detected at a time: about a minute."""

MIN_PAUSE_S, MAX_PAUSE_S = 0.5, 2.0
"""Between recordings that are joined."""


@dataclass(frozen=True)
class Recording:
    """A file and its text. `language` and `text` are None if unknown."""

    path: Path
    language: str | None
    text: str | None

    @cached_property
    def pcm(self) -> NDArray[np.int16]:
        """The whole audio at 16 kHz, mono."""
        return decode_recording(self.path)

    @property
    def duration(self) -> float:
        """Seconds of audio."""
        return len(self.pcm) / SAMPLE_RATE

    @cached_property
    def speech(self) -> tuple[tuple[float, float], ...]:
        """Start and end in seconds of each segment of certain speech: silero-vad's own threshold."""
        padded = np.pad(self.pcm, (0, -len(self.pcm) % FRAME_SAMPLES))
        stretches = SpeechSegmenter(certain_speech_settings(VadSettings()), max_frames=len(padded))
        detector = SpeechDetector()
        # An hour at once would need gigabytes of memory.
        pieces = (padded[start : start + _DETECTED] for start in range(0, len(padded), _DETECTED))
        found = [stretch for piece in pieces for stretch in stretches.feed(detector(piece))]
        found += stretches.finish()
        second = SAMPLE_RATE / FRAME_SAMPLES
        return tuple((stretch.start / second, min(stretch.end / second, self.duration)) for stretch in found)


def load(folder: Path) -> list[Recording]:
    """Return the recordings of a folder's truth.json: a list of `file`, `language` and `text`.

    Raises FileNotFoundError if it does not exist.
    """
    truths = json.loads((folder / "truth.json").read_text())
    return [Recording(folder / truth["file"], truth["language"], truth["text"]) for truth in truths]


def load_extra(folder: Path) -> list[Recording]:
    """Return the known recordings beside a folder of real speech."""
    found = ((folder.parent / name, known) for name, known in _EXTRA_FILES.items())
    return [Recording(path, *known) for path, known in found if path.exists()]


def synthesise_sentences(folder: Path) -> list[Recording]:
    """Write a few sentences in four languages by espeak-ng to `folder`.

    Raises FileNotFoundError if espeak-ng is not installed.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise FileNotFoundError("no speech to synthesise without espeak-ng (apt-get install espeak-ng)")
    folder.mkdir(parents=True, exist_ok=True)
    recordings = []
    for language, sentences in _SENTENCES.items():
        for number, sentence in enumerate(sentences):
            path = folder / f"{language}{number}.wav"
            subprocess.run([program, "-v", language, "-s", "150", "-w", str(path), sentence], check=True)  # noqa: S603
            recordings.append(Recording(path, language, sentence))
    return recordings


def shuffle_repeatedly(
    recordings: Sequence[Recording], seconds: float, seed: int = 0
) -> Iterator[tuple[Recording, float]]:
    """Yield recordings in random orders, each with the seconds of the pause after it, up to a total duration."""
    rng = random.Random(seed)  # noqa: S311 (not for security)
    while seconds > 0:
        for recording in rng.sample(recordings, len(recordings)):
            pause = rng.uniform(MIN_PAUSE_S, MAX_PAUSE_S)
            yield recording, pause
            seconds -= recording.duration + pause
            if seconds <= 0:
                return


def join_recordings(recordings: Sequence[Recording], minutes: float, path: Path, seed: int = 0) -> Recording:
    """Join recordings of one language in random orders, with pauses, to a long one at 16 kHz."""
    (language,) = {recording.language for recording in recordings}
    sound: list[NDArray[np.int16]] = []
    texts: list[str] = []
    for recording, pause_s in shuffle_repeatedly(recordings, minutes * 60, seed):
        sound += [recording.pcm, np.zeros(round(pause_s * SAMPLE_RATE), np.int16)]
        texts.append(recording.text or "")
    path.parent.mkdir(parents=True, exist_ok=True)
    Sound(path.name, np.concatenate(sound)).write(path)
    return Recording(path, language, " ".join(texts))
