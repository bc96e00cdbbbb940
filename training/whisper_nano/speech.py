"""Spoken digit sequences from three synthesisers, with the time of every word."""

import random
import subprocess
import tempfile
import wave
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torchaudio.functional import resample

from serve_app.audio import SAMPLE_RATE
from training.whisper_nano.digits import punctuate, random_digits, spell
from training.whisper_nano.espeak import espeak

Samples = npt.NDArray[np.float32]

ESPEAK_LANGUAGE_VOICES = {
    "en": ["en-us"] * 5 + ["en"] * 4 + ["en-gb-scotland", "en-029", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd"],
    "de": ["de"],
    "fr": ["fr"] * 4 + ["fr-be", "fr-ch"],
    "es": ["es", "es-419"],
}
ESPEAK_VARIANTS = ["", "m1", "m2", "m3", "m4", "m6", "m7", "m8", "f1", "f2", "f4", "f5"]
# fmt: off
ESPEAK_CHARACTERS = [
    "Alex", "Alicia", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Jacky", "Lee", "Marco", "Michael",
    "Mike", "adam", "anika", "antonio", "aunty", "belinda", "benjamin", "boris", "caleb", "david", "ed",
    "edward", "gustave", "iven", "john", "klatt", "klatt2", "klatt3", "klatt4", "max", "michel", "miguel",
    "norbert", "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph", "travis",
    "victor", "zac", "grandma", "grandpa", "croak", "whisper", "whisperf", "announcer",
]
# fmt: on
RESERVED_ESPEAK_VARIANTS = ["m5", "f3", "linda"]
FLITE_PITCH_HZ = {"kal": 105, "awb": 130, "rms": 105, "slt": 180}
RESERVED_FLITE_PITCH_HZ = {"kal16": 105}
_PHONES = dict(zip(spell("en", range(10)), (4, 3, 2, 3, 3, 3, 4, 5, 2, 3), strict=True))
_FESTIVAL_SCRIPT = """(voice_kal_diphone)
(set! spoken (utt.synth (Utterance Text "{text}")))
(utt.save.wave spoken "{path}" 'riff)
(mapcar (lambda (word) (format t "%f\\n" (item.feat word "word_start"))) (utt.relation.items spoken 'Word))"""
_FRAME = SAMPLE_RATE // 100
_SPEECH_DB = -38.0


@dataclass(frozen=True)
class Clip:
    """An utterance: 16 kHz samples without surrounding silence, and (start, end) in seconds of each digit."""

    language: str
    voice: str
    digits: tuple[int, ...]
    samples: Samples
    words: tuple[tuple[float, float], ...]


class UnusableSpeechError(Exception):
    """The synthesiser did not return the time of each word."""


def clip(language: str, voice: str, digits: tuple[int, ...], samples: Samples, starts: list[float]) -> Clip:
    """Trim the silence around an utterance; a word ends with its last frame above -38 dB of the peak."""
    if any(after <= before for before, after in pairwise(starts)):
        raise UnusableSpeechError(f"{voice}: words out of order")
    count = len(samples) // _FRAME
    power = (samples[: count * _FRAME].reshape(count, _FRAME) ** 2).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 10 ** (_SPEECH_DB / 10))
    words = []
    for left, right in pairwise([round(start * 100) for start in starts] + [count]):
        inside = loud[(loud >= left) & (loud < right)]
        if not len(inside):
            raise UnusableSpeechError(f"{voice}: a silent word")
        words.append((int(inside[0]), int(inside[-1]) + 1))
    first, last = max(0, words[0][0] - 1), min(count, words[-1][1] + 1)
    times = tuple(((start - first) / 100, (end - first) / 100) for start, end in words)
    return Clip(language, voice, digits, samples[first * _FRAME : last * _FRAME], times)


@dataclass(frozen=True)
class EspeakVoice:
    """A voice of espeak-ng: `rate` in words a minute, `pitch` and `pitch_range` 0-100, `word_gap` in 10 ms."""

    name: str
    rate: int
    pitch: int
    pitch_range: int
    word_gap: int = 0


def espeak_clip(rng: random.Random, language: str, *, reserved: bool) -> Clip:
    """Return an utterance by a random voice of espeak-ng; `reserved`: with voice and digits of the evaluation."""
    digits = random_digits(rng, reserved=reserved)
    text = punctuate(rng, spell(language, digits))
    if reserved:
        variant = rng.choice(RESERVED_ESPEAK_VARIANTS)
    else:
        variant = rng.choice(ESPEAK_VARIANTS if rng.random() < 0.65 else ESPEAK_CHARACTERS)
    voice = EspeakVoice(
        rng.choice(ESPEAK_LANGUAGE_VOICES[language]) + ("+" + variant if variant else ""),
        rate=round(min(300, max(90, rng.gauss(165, 40)))),
        pitch=round(min(99, max(0, rng.gauss(50, 20)))),
        pitch_range=rng.randint(20, 90),
        word_gap=rng.choice([0, 0, 0, 0, 2, 5, 10, 20]),
    )
    return espeak_digits(language, digits, text, voice)


def espeak_digits(language: str, digits: tuple[int, ...], text: str, voice: EspeakVoice) -> Clip:
    """Synthesise `text`, which spells `digits`, with one voice of espeak-ng."""
    samples, starts = espeak().synthesise(
        text,
        voice.name,
        rate=voice.rate,
        pitch=voice.pitch,
        pitch_range=voice.pitch_range,
        word_gap=voice.word_gap,
    )
    positions, position = [], 0
    for word in spell(language, digits):
        position = text.index(word, position)
        positions.append(position)
        position += len(word)
    if any(position not in starts for position in positions):
        raise UnusableSpeechError(f"{voice.name}: a word without a time")
    sound = to_16khz(samples, espeak().sample_rate)
    return clip(language, voice.name, digits, sound, [starts[p] for p in positions])


def flite_clip(rng: random.Random, *, reserved: bool) -> Clip:
    """Return an English utterance by flite, with a random voice, pace and pitch."""
    digits = random_digits(rng, reserved=reserved)
    voice, pitch = rng.choice(list((RESERVED_FLITE_PITCH_HZ if reserved else FLITE_PITCH_HZ).items()))
    stretch, hertz = rng.uniform(0.75, 1.4), pitch * rng.uniform(0.8, 1.25)
    return flite_digits(digits, punctuate(rng, spell("en", digits)), voice, stretch, hertz)


def flite_digits(digits: tuple[int, ...], text: str, voice: str, stretch: float, hertz: float) -> Clip:
    """Synthesise `text`, which spells `digits`, with a voice of flite; `stretch`: a factor for durations."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "speech.wav")
        settings = {"duration_stretch": stretch, "int_f0_target_mean": hertz}
        options = [part for name, value in settings.items() for part in ("--setf", f"{name}={value:.3f}")]
        command = ["flite", "-psdur", "-voice", voice, *options, "-t", text, "-o", str(path)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
        samples = read_wav(path)
    phones = [phone.rsplit(":", 1) for phone in output.split() if ":" in phone]
    phone_starts = [float(left[1]) for left, (name, _) in pairwise([["pau", "0"], *phones]) if name != "pau"]
    words = spell("en", digits)
    if len(phone_starts) != sum(_PHONES[word] for word in words):
        raise UnusableSpeechError(f"flite {voice}: unexpected phones")
    starts, index = [], 0
    for word in words:
        starts.append(phone_starts[index])
        index += _PHONES[word]
    return clip("en", f"flite-{voice}", digits, samples, starts)


def festival_clip(rng: random.Random) -> Clip:
    """Return an English utterance by festival's kal, which is for evaluation only."""
    digits = random_digits(rng, reserved=True)
    return festival_digits(digits, punctuate(rng, spell("en", digits)))


def festival_digits(digits: tuple[int, ...], text: str) -> Clip:
    """Synthesise `text`, which spells `digits`, with festival's kal."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "speech.wav")
        script = Path(folder, "speech.scm")
        script.write_text(_FESTIVAL_SCRIPT.format(text=text, path=path))
        command = ["festival", "-b", str(script)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
        samples = read_wav(path)
    starts = [float(line) for line in output.split()]
    if len(starts) != len(digits):
        raise UnusableSpeechError("festival: unexpected words")
    return clip("en", "festival-kal", digits, samples, starts)


def read_wav(path: Path) -> Samples:
    """Read a 16-bit mono WAV file, resampled to 16 kHz."""
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16).astype(np.float32) / np.float32(
            32768
        )
        return to_16khz(samples, file.getframerate())


def to_16khz(samples: Samples, sample_rate: int) -> Samples:
    """Resample to 16 kHz; samples at that rate are returned unchanged."""
    resampled: Samples = resample(torch.from_numpy(samples), sample_rate, SAMPLE_RATE).numpy()
    return resampled
