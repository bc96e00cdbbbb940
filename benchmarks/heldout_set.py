"""Make recordings that whisper-nano was not trained on: its reserved voices saying its reserved digit sequences.

    python -m benchmarks.heldout_set data/heldout

Writes the recordings and truth.json, which describes them; the same seed makes the same files. Needs espeak-ng, flite
and festival (apt-get install espeak-ng flite festival festvox-kallpc16k).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.synthetic_speech import FORMATS, NOISES, SpokenWord, argument_parser, encode, write_truth
from serve_app.audio import SAMPLE_RATE
from testing import noise
from training.whisper_nano.digits import LANGUAGES, SEGMENT_PAUSE_S, spell
from training.whisper_nano.speech import Clip, Samples, UnusableSpeechError, espeak_clip, festival_clip, flite_clip

_RATES = {"wav": (8000, 16000, 22050, 44100, 48000), "mp3": (16000, 22050, 44100), "opus": (8000, 16000, 48000)}
_BIT_RATES = {"mp3": (32_000, 64_000, 128_000), "opus": (16_000, 24_000, 64_000)}
_PAUSE_S = (0.8, 3.0)
_LONG_S = 600.0

Kind = Literal["speech", "silence", "noise"]


@dataclass(frozen=True)
class Utterance:
    """Words without a pause of more than half a second between them."""

    start: float
    end: float
    text: str
    words: tuple[SpokenWord, ...]


@dataclass(frozen=True)
class Recording:
    """An entry of truth.json.

    `language` is null without speech, `snr_db` without noise under speech; `sound` is the kind of noise.
    """

    file: str
    kind: Kind
    language: str | None
    duration: float
    format: str
    sample_rate: int
    channels: int
    snr_db: float | None
    sound: str | None
    voices: tuple[str, ...] = ()
    utterances: tuple[Utterance, ...] = ()


def reserved_clip(rng: random.Random, language: str) -> Clip:
    """Return an utterance of one segment by a reserved voice; a quarter of the English ones are not by espeak-ng."""
    while True:
        voice = rng.random() if language == "en" else 1.0
        try:
            if voice < 0.15:
                clip = flite_clip(rng, reserved=True)
            elif voice < 0.25:
                clip = festival_clip(rng)
            else:
                clip = espeak_clip(rng, language, reserved=True)
        except UnusableSpeechError:
            continue
        if all(right - left <= SEGMENT_PAUSE_S - 0.05 for (_, left), (right, _) in pairwise(clip.words)):
            return clip


def speak(rng: random.Random, language: str, duration: float) -> tuple[Samples, list[Clip], list[Utterance]]:
    """Return `duration` seconds of at least one utterance, with pauses of 0.8-3 s, clean, at 16 kHz."""
    samples = np.zeros(round(duration * SAMPLE_RATE), np.float32)
    clips: list[Clip] = []
    utterances: list[Utterance] = []
    time, misses = rng.uniform(0.2, 1.5), 0
    while misses < (5 if utterances else 100):
        clip = reserved_clip(rng, language)
        length = len(clip.samples) / SAMPLE_RATE
        if time + length > duration - 0.15:
            time, misses = (time if utterances else 0.2), misses + 1
            continue
        start = round(time * SAMPLE_RATE)
        samples[start : start + len(clip.samples)] += noise.normalise_level(clip.samples)
        times = zip(spell(language, clip.digits), clip.words, strict=True)
        words = tuple(SpokenWord(word, round(time + left, 2), round(time + right, 2)) for word, (left, right) in times)
        utterances.append(Utterance(words[0].start, words[-1].end, " ".join(word.word for word in words), words))
        clips.append(clip)
        time += length + rng.uniform(*_PAUSE_S)
    if not utterances:
        raise ValueError(f"no utterance fits into {duration:.1f} s")
    return samples, clips, utterances


def at_random_level(rng: random.Random, samples: Samples) -> Samples:
    """Scale samples to a random level, from quiet to just below clipping."""
    return samples * np.float32(10 ** (rng.uniform(-30, -1) / 20) / max(1e-9, float(np.abs(samples).max())))


def plan(rng: random.Random, speech: int, long: int, other: int) -> Iterator[Recording]:
    """Yield recordings to make: formats, languages and noise in equal shares."""
    for index in range(speech + long + other):
        container = FORMATS[index % len(FORMATS)]
        noisy = (index + index // 12) % 2
        recording = Recording(
            file=f"{index:03d}.{container}",
            kind="speech",
            language=LANGUAGES[index // len(FORMATS) % len(LANGUAGES)],
            duration=round(_LONG_S if index < long else 10 ** rng.uniform(np.log10(3), 2), 2),
            format=container,
            sample_rate=rng.choice(_RATES[container]),
            channels=rng.choice((1, 2)),
            snr_db=round(rng.uniform(8, 30), 1) if noisy else None,
            sound=rng.choice(NOISES) if noisy else None,
        )
        if index >= speech + long:
            sound = None if index % 4 == 0 else noise.KINDS[index % len(noise.KINDS)]
            kind: Kind = "silence" if sound is None else "noise"
            recording = replace(recording, kind=kind, language=None, snr_db=None, sound=sound)
        yield recording


def make(rng: random.Random, recording: Recording, folder: Path) -> Recording:
    """Write one recording; return it with its utterances."""
    sounds = np.random.default_rng(rng.getrandbits(64))
    count = round(recording.duration * SAMPLE_RATE)
    if recording.kind == "silence":
        samples = np.zeros(count, np.float32)
    elif recording.kind == "noise":
        samples = at_random_level(rng, noise.make(sounds, str(recording.sound), count))
    else:
        samples, clips, utterances = speak(rng, str(recording.language), recording.duration)
        voices = tuple(sorted({clip.voice for clip in clips}))
        recording = replace(recording, voices=voices, utterances=tuple(utterances))
        if recording.snr_db is not None:
            samples += noise.make(sounds, str(recording.sound), count) * np.float32(10 ** (-recording.snr_db / 20))
        samples = at_random_level(rng, samples)
    encode(folder / recording.file, samples, recording, rng.choice(_BIT_RATES.get(recording.format, (None,))))
    return recording


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--speech", type=int, default=48, help="number of recordings of 3-100 s of speech (48)")
    parser.add_argument("--long", type=int, default=2, help="number of recordings of 10 minutes of speech (2)")
    parser.add_argument("--other", type=int, default=16, help="number of recordings without speech (16)")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(arguments.seed)  # noqa: S311 (not for security)
    recordings = []
    for recording in plan(rng, arguments.speech, arguments.long, arguments.other):
        recordings.append(make(rng, recording, arguments.folder))
        print(f"{recording.file} {recording.kind} {recording.language or ''} {recording.duration:.1f} s", flush=True)
    write_truth(arguments.folder, arguments.seed, "recordings", recordings)
    words = sum(len(utterance.words) for recording in recordings for utterance in recording.utterances)
    print(f"{len(recordings)} recordings, {sum(r.duration for r in recordings) / 60:.1f} minutes, {words} words")


if __name__ == "__main__":
    main()
