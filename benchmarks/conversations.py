"""Make conversations of voices that the embedded models were not trained on, with speakers, words and their times.

    python -m benchmarks.conversations data/conversations

Two to four speakers say the reserved digit sequences with the reserved voices, in turns of one to fifteen seconds, with
overlaps, short remarks during other turns, rooms, levels and noise. Writes the recordings and truth.json; the same seed
makes the same files. Needs espeak-ng, flite and festival
(apt-get install espeak-ng flite festival festvox-kallpc16k).
"""

import random
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.heldout_set import at_random_level
from benchmarks.synthetic_speech import FORMATS, NOISES, SpokenWord, argument_parser, encode, write_truth
from serve_app.audio import SAMPLE_RATE
from testing import noise
from training.whisper_nano.digits import LANGUAGES, SEGMENT_PAUSE_S, punctuate, random_digits, spell
from training.whisper_nano.speech import (
    ESPEAK_LANGUAGE_VOICES,
    RESERVED_ESPEAK_VARIANTS,
    Clip,
    EspeakVoice,
    Samples,
    UnusableSpeechError,
    espeak_digits,
    festival_digits,
    flite_digits,
)

SPEAKERS = (2, 2, 3, 4)
_BIT_RATES = {"mp3": (48_000, 64_000, 128_000), "opus": (16_000, 24_000, 64_000)}
_RATES = {"wav": (8000, 16000, 44100), "mp3": (16000, 44100), "opus": (16000, 48000)}
_LEVELS_DB = (-6.0, 6.0)


@dataclass(frozen=True)
class Turn:
    """Words of one speaker without a pause of more than half a second between them; times in seconds."""

    speaker: str
    start: float
    end: float
    text: str
    words: tuple[SpokenWord, ...]


@dataclass(frozen=True)
class Conversation:
    """An entry of truth.json. `voices`: the voice of each speaker; `snr_db` is null without noise."""

    file: str
    language: str
    duration: float
    format: str
    sample_rate: int
    channels: int
    snr_db: float | None
    sound: str | None
    voices: dict[str, str]
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Speaker:
    """A reserved voice with a pace and pitch, which vary slightly, and a gain."""

    voice: str
    rate: float
    pitch: float
    gain: float

    def speak(self, rng: random.Random, language: str) -> Clip:
        """Say a reserved sequence. Raises UnusableSpeechError."""
        digits = random_digits(rng, reserved=True)
        text = punctuate(rng, spell(language, digits))
        if self.voice == "festival-kal":
            return festival_digits(digits, text)
        if self.voice == "flite-kal16":
            return flite_digits(digits, text, "kal16", self.rate * rng.uniform(0.95, 1.05), self.pitch)
        pitch = round(min(99, max(0, self.pitch + rng.gauss(0, 2))))
        rate = round(self.rate * rng.uniform(0.93, 1.07))
        return espeak_digits(language, digits, text, EspeakVoice(self.voice, rate, pitch, 50))


def choose_speakers(rng: random.Random, language: str, count: int) -> list[Speaker]:
    """Choose `count` speakers with different voices; kal16 and kal are the same English speaker."""
    voices = [rng.choice(ESPEAK_LANGUAGE_VOICES[language]) + "+" + variant for variant in RESERVED_ESPEAK_VARIANTS]
    if language == "en":
        voices.append(rng.choice(("flite-kal16", "festival-kal")))
    speakers = []
    for voice in rng.sample(voices, count):
        gain = 10 ** (rng.uniform(*_LEVELS_DB) / 20)
        if voice == "flite-kal16":
            speakers.append(Speaker(voice, rng.uniform(0.85, 1.25), 105 * rng.uniform(0.85, 1.2), gain))
        else:
            speakers.append(Speaker(voice, rng.uniform(130, 200), min(90, max(10, rng.gauss(50, 15))), gain))
    return speakers


def split_at_pauses(turn: tuple[SpokenWord, ...]) -> list[tuple[SpokenWord, ...]]:
    """Split words where they are more than half a second apart."""
    places = [
        number for number, (left, right) in enumerate(pairwise(turn), 1) if right.start - left.end > SEGMENT_PAUSE_S
    ]
    return [turn[first:last] for first, last in pairwise([0, *places, len(turn)])]


class ConversationBuilder:
    """The audio and turns of a conversation while it is built."""

    def __init__(self, rng: random.Random, language: str, duration: float, speakers: list[Speaker]) -> None:
        self._rng, self._language, self._duration, self._speakers = rng, language, duration, speakers
        self.samples = np.zeros(round(duration * SAMPLE_RATE), np.float32)
        self.turns: list[Turn] = []
        self._free = [0.0] * len(speakers)

    def build(self) -> None:
        """Add turns until the duration is reached."""
        rng = self._rng
        overlapping, remarks, gap = rng.choice([0.0, 0.15, 0.4]), rng.choice([0.0, 0.1]), rng.choice([0.2, 0.6, 1.2])
        longest = rng.choice([3.0, 8.0, 15.0])
        time, who = rng.uniform(0.2, 1.0), rng.randrange(len(self._speakers))
        while time < self._duration - 1:
            start = time
            time = self._add_turn(who, max(time, self._free[who] + 0.1), rng.uniform(0.5, longest))
            others = [number for number in range(len(self._speakers)) if number != who]
            if rng.random() < remarks and time - start > 2:
                other = rng.choice(others)
                self._add_turn(other, max(rng.uniform(start + 0.5, time), self._free[other] + 0.1), 0.5)
            who = rng.choice(others)
            if rng.random() < overlapping:
                time -= rng.uniform(0.2, min(2.0, 0.6 * (time - start) + 0.2))
            else:
                time += 0.1 + rng.expovariate(1 / gap)

    def _add_turn(self, who: int, start: float, seconds: float) -> float:
        """Add at least one utterance, of about `seconds` in all; return the end."""
        rng, time = self._rng, start
        words: list[SpokenWord] = []
        while True:
            try:
                clip = self._speakers[who].speak(rng, self._language)
            except UnusableSpeechError:
                continue
            length = len(clip.samples) / SAMPLE_RATE
            if time + length > self._duration - 0.1:
                break
            first = round(time * SAMPLE_RATE)
            gain = np.float32(self._speakers[who].gain)
            self.samples[first : first + len(clip.samples)] += noise.normalise_level(clip.samples) * gain
            said = zip(spell(self._language, clip.digits), clip.words, strict=True)
            words += [SpokenWord(word, round(time + left, 2), round(time + right, 2)) for word, (left, right) in said]
            time += length
            if time - start >= seconds:
                break
            time += rng.uniform(0.1, 0.6)
        for part in split_at_pauses(tuple(words)) if words else []:
            text = " ".join(word.word for word in part)
            self.turns.append(Turn(f"speaker {who + 1}", part[0].start, part[-1].end, text, part))
        self._free[who] = time
        return time if words else self._duration


def add_reverberation(rng: random.Random, samples: Samples) -> Samples:
    """Add the reverberation of a room of 0.15-0.5 s."""
    sounds = np.random.default_rng(rng.getrandbits(64))
    count = round(rng.uniform(0.15, 0.5) * SAMPLE_RATE)
    tail = sounds.standard_normal(count) * np.exp(-6.9 * np.arange(count) / count)
    tail[:32] = 0
    tail *= 10 ** (rng.uniform(-15, -3) / 20) / np.sqrt(np.square(tail).sum())
    tail[0] = 1
    size = len(samples) + count
    echoed = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size), size)
    return echoed[: len(samples)].astype(np.float32)


def make(rng: random.Random, number: int, count: int, duration: float, folder: Path) -> Conversation:
    """Write one conversation of `count` speakers; return its entry."""
    language = "en" if count == 4 else LANGUAGES[number % len(LANGUAGES)]
    container = FORMATS[number % len(FORMATS)]
    speakers = choose_speakers(rng, language, count)
    builder = ConversationBuilder(rng, language, duration, speakers)
    while len({turn.speaker for turn in builder.turns}) < count:
        builder = ConversationBuilder(rng, language, duration, speakers)
        builder.build()
    samples = add_reverberation(rng, builder.samples) if rng.random() < 0.3 else builder.samples
    snr_db, sound = (round(rng.uniform(5, 30), 1), rng.choice(NOISES)) if number % 2 else (None, None)
    if snr_db is not None and sound is not None:
        sounds = np.random.default_rng(rng.getrandbits(64))
        samples = samples + noise.make(sounds, sound, len(samples)) * np.float32(10 ** (-snr_db / 20))
    conversation = Conversation(
        file=f"{number:03d}.{container}",
        language=language,
        duration=round(duration, 2),
        format=container,
        sample_rate=rng.choice(_RATES[container]),
        channels=1,
        snr_db=snr_db,
        sound=sound,
        voices={f"speaker {index + 1}": speaker.voice for index, speaker in enumerate(speakers)},
        turns=tuple(sorted(builder.turns, key=lambda turn: turn.start)),
    )
    bit_rate = rng.choice(_BIT_RATES.get(container, (None,)))
    encode(folder / conversation.file, at_random_level(rng, samples), conversation, bit_rate)
    return conversation


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--count", type=int, default=40, help="number of conversations (40)")
    parser.add_argument("--shortest", type=float, default=60.0, help="shortest conversation in seconds (60)")
    parser.add_argument("--longest", type=float, default=600.0, help="longest conversation in seconds (600)")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(arguments.seed)  # noqa: S311 (not for security)
    made = []
    for number in range(arguments.count):
        duration = float(np.exp(rng.uniform(np.log(arguments.shortest), np.log(arguments.longest))))
        made.append(make(rng, number, SPEAKERS[number // 2 % len(SPEAKERS)], duration, arguments.folder))
        one = made[-1]
        what = f"{len(one.voices)} speakers {one.duration:.0f} s {len(one.turns)} turns"
        print(f"{one.file} {one.language} {what}", flush=True)
    write_truth(arguments.folder, arguments.seed, "conversations", made)
    print(f"{len(made)} conversations, {sum(one.duration for one in made) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
