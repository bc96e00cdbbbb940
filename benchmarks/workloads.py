"""What every engine of benchmarks.speed is given: sound, the windows it is cut into, and how long their texts are."""

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from benchmarks.heldout_set import at_random_level, speak
from benchmarks.real_speech import recordings as sources
from benchmarks.real_speech.recordings import MOST_PAUSE_S, Recording, shuffle_repeatedly
from serve_app.audio import SAMPLE_RATE
from testing.recordings import decode_recording, recording_paths

WINDOW_S = 30.0
TOKENS = 97
"""Of a window packed with speech, on average: forced where the weights are random."""
SYNTHESISERS = {"espeak-ng": "espeak-ng", "flite": "flite", "text2wave": "festival festvox-kallpc16k"}
"""Programs that speak, and the Debian packages they are in."""


@dataclass(frozen=True)
class Workload:
    """Sound of one language and its windows.

    `pcm`: mono int16 at 16 kHz. `ends`: where each window ends, in seconds; the first starts at 0, each
    other where the one before it ends. `lengths`: exactly so many tokens each window must yield; empty:
    until the model ends it. `truth`: what each window says; empty where the weights are random.
    """

    pcm: NDArray[np.int16]
    ends: tuple[float, ...]
    lengths: tuple[int, ...] = ()
    truth: tuple[str, ...] = ()
    language: str = "en"

    @property
    def window_bounds(self) -> list[tuple[float, float]]:
        """Start and end of each window in seconds."""
        return list(pairwise((0.0, *self.ends)))

    @property
    def duration(self) -> float:
        """Seconds of sound."""
        return self.ends[-1]

    @property
    def windows(self) -> list[NDArray[np.int16]]:
        """The sound of each window."""
        return [self.pcm[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)] for start, end in self.window_bounds]

    def first(self, count: int | None) -> Self:
        """The same, of its first windows alone; None: of all."""
        ends = self.ends[:count]
        pcm = self.pcm[: round(ends[-1] * SAMPLE_RATE)]
        return type(self)(pcm, ends, self.lengths[:count], self.truth[:count], self.language)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fields = {"pcm": self.pcm, "ends": self.ends, "lengths": self.lengths, "truth": self.truth}
        np.savez(path, language=self.language, **{name: np.asarray(value) for name, value in fields.items()})

    @classmethod
    def load(cls, path: Path) -> Self:
        with np.load(path) as fields:
            lengths = tuple(int(length) for length in fields["lengths"])
            truth = tuple(str(text) for text in fields["truth"])
            return cls(fields["pcm"], tuple(fields["ends"].tolist()), lengths, truth, str(fields["language"]))


def fixed_length_workload(lengths: tuple[int, ...]) -> Workload:
    """A full window for each length, of recorded speech repeated: what a random model says is as long as it is told."""
    clips = [decode_recording(path) for path in recording_paths()]
    samples = round(len(lengths) * WINDOW_S * SAMPLE_RATE)
    ends = tuple(WINDOW_S * (index + 1) for index in range(len(lengths)))
    return Workload(np.resize(np.concatenate(clips), samples), ends, lengths)


def mixed_traffic_lengths(count: int, seed: int = 0) -> tuple[int, ...]:
    """Tokens of windows of mixed traffic, half of it clips (28 ± 25, at least 4), half packed with speech (97 ± 22)."""
    rng = random.Random(seed)  # noqa: S311 (lengths, no secrets)
    shapes = [rng.choice(((28, 25), (97, 22))) for _ in range(count)]
    return tuple(max(4, round(rng.gauss(mean, deviation))) for mean, deviation in shapes)


def pack_windows(starts_and_ends: list[tuple[float, float]], duration: float) -> tuple[list[float], list[int]]:
    """Windows of at most 30 s that are cut in the middle of pauses between utterances.

    Returns where each window ends and the number of utterances up to there. Raises ValueError when an
    utterance and half the pauses around it do not fit into a window.
    """
    middles = [(left[1] + right[0]) / 2 for left, right in pairwise(starts_and_ends)] + [duration]
    ends: list[float] = []
    counts: list[int] = []
    start = 0.0
    for index, end in enumerate(middles):
        if end - start > WINDOW_S and index and middles[index - 1] > start:
            start = middles[index - 1]
            ends.append(start)
            counts.append(index)
        if end - start > WINDOW_S:
            raise ValueError(f"the utterance that ends at {end:.1f} s is longer than a window of {WINDOW_S:g} s")
    return [*ends, duration], [*counts, len(middles)]


def real_speech_workload(recordings: Sequence[Recording], minutes: float, seed: int = 5) -> Workload:
    """Real speech of one language: these recordings again and again, pauses between, whole in each window.

    Raises ValueError for a recording whose speech does not fit into a window.
    """
    (language,) = {recording.language for recording in recordings}
    sound: list[NDArray[np.int16]] = []
    spans: list[tuple[float, float]] = []
    texts: list[str] = []
    now = 0.0
    for recording, pause_s in shuffle_repeatedly(recordings, minutes * 60, seed):
        spans.append((now + recording.speech[0][0], now + recording.speech[-1][1]))
        texts.append(recording.text or "")
        sound += [recording.pcm, np.zeros(round(pause_s * SAMPLE_RATE), np.int16)]
        now += sum(map(len, sound[-2:])) / SAMPLE_RATE
    ends, counts = pack_windows(spans, now)
    truth = tuple(" ".join(texts[left:right]) for left, right in pairwise((0, *counts)))
    # Rounded down: no window may end behind the sound.
    return Workload(np.concatenate(sound), tuple(int(100 * end) / 100 for end in ends), (), truth, str(language))


def digits_workload(minutes: float, seed: int = 5) -> Workload:
    """English digits by voices whisper-nano was not trained on (see benchmarks.heldout_set), clean.

    Raises FileNotFoundError that names the synthesisers that are not installed.
    """
    missing = [package for program, package in SYNTHESISERS.items() if shutil.which(program) is None]
    if missing:
        raise FileNotFoundError(f"no spoken digits without {' '.join(missing)} (apt-get install {' '.join(missing)})")
    rng = random.Random(seed)  # noqa: S311 (recordings, no secrets)
    samples, _, utterances = speak(rng, "en", minutes * 60)
    pcm = np.clip(np.round(at_random_level(rng, samples) * 32767), -32768, 32767).astype(np.int16)
    ends, counts = pack_windows([(utterance.start, utterance.end) for utterance in utterances], minutes * 60)
    texts = [utterance.text for utterance in utterances]
    truth = tuple(" ".join(texts[left:right]) for left, right in pairwise((0, *counts)))
    return Workload(pcm, tuple(round(end, 2) for end in ends), (), truth)


def real_recordings() -> list[Recording]:
    """Real English speech with its texts, what fits into a window. Raises FileNotFoundError where there is none."""
    found = [*sources.load(sources.REAL), *sources.load_extra(sources.REAL)]
    english = [one for one in found if one.language == "en" and one.text]
    return [one for one in english if one.duration < WINDOW_S - MOST_PAUSE_S]


def make_workload(name: str) -> Workload:
    """The sound of a workload by its name."""
    match name:
        case "base":
            return fixed_length_workload((TOKENS,) * 16)
        case "base-long":
            return fixed_length_workload((TOKENS,) * 32)
        case "mixed":
            return fixed_length_workload(mixed_traffic_lengths(96))
        case "nano":
            return digits_workload(minutes=10)
        case "nano-long":
            return digits_workload(minutes=20)
        case "real":
            return real_speech_workload(real_recordings(), minutes=9)
    raise ValueError(f"no workload is called {name}")
