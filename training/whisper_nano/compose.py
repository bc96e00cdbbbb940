"""Windows of speech, composed on the fly from the clips and noises of a dataset."""

import random
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from training.whisper_nano import augment
from training.whisper_nano.dataset import FRAMES_A_SECOND, ClipEntry, Mel, SpeechDataset
from training.whisper_nano.digits import LANGUAGES, SEGMENT_PAUSE_S
from training.whisper_nano.tokenizer import MELS

_LANGUAGE_SHARES = (0.34, 0.22, 0.22, 0.22)
_SILENT_SHARE = 0.07


@dataclass(frozen=True)
class Word:
    """A spoken digit; start and end in frames of 10 ms."""

    digit: int
    start: float
    end: float


@dataclass(frozen=True)
class Shape:
    """The shape of a window: `frames` of features, empty after `sound` frames."""

    frames: int
    sound: int
    most_utterances: int
    hardness: float


@dataclass(frozen=True)
class Window:
    """(80, frames) features of one language, and their words by segment."""

    features: Mel
    language: str
    segments: tuple[tuple[Word, ...], ...]

    @property
    def words(self) -> list[Word]:
        return [word for segment in self.segments for word in segment]


def segments(words: list[Word]) -> tuple[tuple[Word, ...], ...]:
    """Split words into segments where the pause is longer than half a second."""
    cuts = [
        index
        for index, (left, right) in enumerate(pairwise(words), 1)
        if right.start - left.end > SEGMENT_PAUSE_S * FRAMES_A_SECOND
    ]
    return tuple(tuple(words[left:right]) for left, right in pairwise([0, *cuts, len(words)]) if right > left)


class Composer:
    """Composes windows; the same seed makes the same windows."""

    def __init__(self, dataset: SpeechDataset, seed: int) -> None:
        self._dataset = dataset
        self.rng = random.Random(seed)

    def language(self) -> str:
        return self.rng.choices(LANGUAGES, _LANGUAGE_SHARES)[0]

    def window(self, shape: Shape) -> Window:
        """Return a window with utterances of one language, or without any."""
        rng, language = self.rng, self.language()
        power = np.zeros((shape.frames, MELS), np.float32)
        sound = power[: shape.sound]
        words = [] if rng.random() < _SILENT_SHARE else self._add_utterances(sound, language, shape)
        if words:
            if rng.random() < 0.12 * shape.hardness:
                augment.reverberate(rng, sound)
            if rng.random() < 0.7 * shape.hardness:
                sound *= augment.equaliser(rng, rng.choice([2, 4, 6]))
        augment.add_noise(rng, sound, self._dataset.noises, silent=not words, hardness=shape.hardness)
        augment.limit_band(rng, sound, shape.hardness)
        power *= np.float32(10 ** (rng.uniform(-35 * shape.hardness, 12 * shape.hardness) / 10))
        features = augment.whisper_features(power)
        if words and rng.random() < 0.25 * shape.hardness:
            width = rng.randint(1, 6)
            low = rng.randint(0, MELS - width)
            features[:, low : low + width] = features[:, low : low + width].mean()
        if shape.sound < shape.frames and rng.random() < 0.3:
            features[shape.sound :] = 0.0  # some implementations pad the features, not the sound
        return Window(np.ascontiguousarray(features.T), language, segments(words))

    def preceding(self, language: str) -> tuple[tuple[Word, ...], ...]:
        """Return words of a preceding window: segments with their times in that window, without audio."""
        rng, time = self.rng, 0.0
        words: list[Word] = []
        gap, longest = rng.choice([40, 80, 150, 300]), rng.choice([500, 1000, 1000, 2000, 3000])
        while True:
            clip = rng.choice(self._dataset.by_language[language])
            time += rng.expovariate(1 / gap) + rng.randint(8, 45)
            if time + clip.frames > longest:
                return segments(words)
            words += [
                Word(digit, time + start, time + end)
                for digit, (start, end) in zip(clip.digits, clip.words, strict=True)
            ]
            time += clip.frames

    def _add_utterances(self, power: Mel, language: str, shape: Shape) -> list[Word]:
        """Add utterances with random pauses to `power`; the first or last may be cut off by the window."""
        rng, frames = self.rng, len(power)
        words: list[Word] = []
        most = 1 if rng.random() < 0.25 else shape.most_utterances
        gap = rng.choice([40, 80, 150, 300])
        time = int(rng.expovariate(1 / gap)) if rng.random() < 0.7 else rng.randint(0, max(1, frames - 60))
        if rng.random() < 0.15:
            time = 0
        spoken = misses = 0
        while spoken < most and misses < 4 and frames - time >= 30:
            log_mel, times, digits = self._augmented_clip(rng.choice(self._dataset.by_language[language]))
            skipped = rng.randint(0, max(0, len(log_mel) - 30)) if not spoken and rng.random() < 0.12 else 0
            time = 0 if skipped else time
            audible = min(len(log_mel) - skipped, frames - time)
            if skipped + audible < len(log_mel) and (rng.random() < 0.75 or audible < 25):
                misses += 1
                continue
            level = rng.gauss(0, 2.5)
            power[time : time + audible] += np.power(
                10.0, log_mel[skipped : skipped + audible] + level / 10, dtype=np.float32
            )
            for digit, (start, end) in zip(digits, times, strict=True):
                left, right = max(start - skipped, 0.0), min(end - skipped, float(audible))
                if right - left >= 0.6 * (end - start):
                    words.append(Word(digit, time + left, time + right))
            time += audible + int(rng.expovariate(1 / gap)) + rng.randint(8, 45)
            spoken += 1
        return words

    def _augmented_clip(self, clip: ClipEntry) -> tuple[Mel, list[tuple[float, float]], tuple[int, ...]]:
        """Return a clip's log10 power and word times, sometimes warped and stretched, and its digits."""
        log_mel = self._dataset.mel(clip)
        if self.rng.random() < 0.4:
            log_mel = augment.warp_frequency(self.rng, log_mel)
        if self.rng.random() < 0.35:
            log_mel = augment.stretch_time(self.rng, log_mel)
        scale = len(log_mel) / clip.frames
        return log_mel, [(start * scale, end * scale) for start, end in clip.words], clip.digits
