"""Utterances of a speaker without surrounding silence, and the speech within them."""

import random
import subprocess
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serve_app.audio import SAMPLE_RATE
from training.diarization_nano.speakers import Speaker
from training.diarization_nano.texts import sentence
from training.whisper_nano.espeak import espeak
from training.whisper_nano.speech import Samples, read_wav, to_16khz

FRAME = SAMPLE_RATE // 100
PAUSE_FRAMES = 30
"""Shorter pauses within an utterance count as speech (0.3 s)."""
LEVEL = 0.06
"""Root mean square of every utterance's speech."""
_SPEECH_DB = -38.0
_SHORTEST_S = 0.15


@dataclass(frozen=True)
class Utterance:
    """16-bit samples, in whole frames of 10 ms, and for each frame whether it is speech."""

    samples: npt.NDArray[np.int16]
    speech: npt.NDArray[np.bool_]


def trim(samples: Samples) -> Utterance | None:
    """Trim to the frames within 38 dB of the loudest one; None if too few remain."""
    count = len(samples) // FRAME
    power = (samples[: count * FRAME].reshape(count, FRAME) ** 2).mean(axis=1) if count else np.zeros(1)
    loud = np.flatnonzero(power > max(1e-9, power.max() * 10 ** (_SPEECH_DB / 10)))
    if len(loud) == 0 or loud[-1] - loud[0] < _SHORTEST_S * 100:
        return None
    first, last = int(loud[0]), int(loud[-1]) + 1
    speech = np.zeros(last - first, bool)
    for left, right in pairwise(loud):
        if right - left <= PAUSE_FRAMES:
            speech[left - first : right - first + 1] = True
    speech[loud - first] = True
    scale = LEVEL / np.sqrt(power[loud].mean())
    sound = np.clip(samples[first * FRAME : last * FRAME] * scale, -1, 1)
    return Utterance((sound * 32767).astype(np.int16), speech)


def espeak_utterance(rng: random.Random, speaker: Speaker) -> Samples:
    """Synthesise a sentence with espeak-ng."""
    voice = speaker.language + ("+" + speaker.timbre if speaker.timbre else "")
    samples, _ = espeak().synthesise(
        sentence(rng, speaker.language),
        voice,
        rate=round(speaker.rate * rng.uniform(0.9, 1.1)),
        pitch=round(min(99, max(0, speaker.pitch + rng.gauss(0, speaker.wander)))),
        pitch_range=speaker.pitch_range,
        word_gap=rng.choice([0, 0, 0, 2, 5]),
    )
    return to_16khz(samples, espeak().sample_rate)


def flite_utterance(rng: random.Random, speaker: Speaker) -> Samples:
    """Synthesise a sentence with flite."""
    settings = {"duration_stretch": speaker.rate, "int_f0_target_mean": speaker.pitch * rng.uniform(0.97, 1.03)}
    options = [part for name, value in settings.items() for part in ("--setf", f"{name}={value:.3f}")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "speech.wav")
        text = sentence(rng, "en")
        command = ["flite", "-voice", speaker.timbre, *options, "-t", text, "-o", str(path)]
        subprocess.run(command, capture_output=True, check=True)  # noqa: S603
        return read_wav(path)


def festival_utterances(rng: random.Random, speaker: Speaker, alphabet: str, count: int) -> list[Samples]:
    """Synthesise `count` sentences with one voice of festival."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [f"(voice_{speaker.timbre})", f"(Parameter.set 'Duration_Stretch {speaker.rate:.2f})"]
        paths = [Path(folder, f"{index}.wav") for index in range(count)]
        for path in paths:
            text = sentence(rng, speaker.language, alphabet)
            lines.append(f'(utt.save.wave (utt.synth (Utterance Text "{text}")) "{path}" \'riff)')
        script = Path(folder, "speech.scm")
        script.write_text("\n".join(lines))
        subprocess.run(["festival", "-b", str(script)], capture_output=True, check=False)  # noqa: S603, S607
        return [read_wav(path) for path in paths if path.exists()]


def speak(rng: random.Random, speaker: Speaker, seconds: float, alphabet: str = "latin") -> list[Utterance]:
    """Return utterances of at least `seconds` in all; fewer if a synthesiser fails."""
    utterances: list[Utterance] = []
    spoken, tries = 0.0, 0
    while spoken < seconds and tries < 20 + seconds * 3:
        if speaker.engine == "espeak":
            sounds = [espeak_utterance(rng, speaker)]
        elif speaker.engine == "flite":
            sounds = [flite_utterance(rng, speaker)]
        else:
            sounds = festival_utterances(rng, speaker, alphabet, 20)
        tries += max(1, len(sounds))
        for sound in sounds:
            utterance = trim(sound)
            if utterance is not None:
                utterances.append(utterance)
                spoken += len(utterance.speech) / 100
    return utterances
