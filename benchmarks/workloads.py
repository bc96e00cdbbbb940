"""The workloads of benchmarks.speed: audio, the windows it is cut into, and the lengths of their texts."""

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
from benchmarks.real_speech.recordings import MAX_PAUSE_S, Recording, shuffle_repeatedly
from serve_app.audio import SAMPLE_RATE
from testing.recordings import decode_recording, recording_paths

WINDOW_S = 30.0
TOKENS = 97
"""The average text of a window packed with speech; its length is forced if the weights are random."""
SYNTHESISERS = {"espeak-ng": "espeak-ng", "flite": "flite", "text2wave": "festival festvox-kallpc16k"}
"""Speech synthesisers, and the Debian packages that contain them."""


@dataclass(frozen=True)
class Workload:
    """Audio of one language and its windows.

    `pcm`: mono int16 at 16 kHz. `ends`: the end of each window in seconds; the first starts at 0, each other one at the
    end of the one before it. `lengths`: the exact number of tokens of each window; empty: until the model ends.
    `truth`: the text of each window; empty if the weights are random.
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
        """Seconds of audio."""
        return self.ends[-1]

    @property
    def windows(self) -> list[NDArray[np.int16]]:
        """The audio of each window."""
        return [self.pcm[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)] for start, end in self.window_bounds]

    def first(self, count: int | None) -> Self:
        """Return the workload of the first windows; None: of all."""
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
    """Return a full window of repeated speech for each text length."""
    clips = [decode_recording(path) for path in recording_paths()]
    samples = round(len(lengths) * WINDOW_S * SAMPLE_RATE)
    ends = tuple(WINDOW_S * (index + 1) for index in range(len(lengths)))
    return Workload(np.resize(np.concatenate(clips), samples), ends, lengths)


def mixed_traffic_lengths(count: int, seed: int = 0) -> tuple[int, ...]:
    """Return text lengths: half clips (28 ± 25 tokens, at least 4), half packed speech (97 ± 22)."""
    rng = random.Random(seed)  # noqa: S311 (not for security)
    shapes = [rng.choice(((28, 25), (97, 22))) for _ in range(count)]
    return tuple(max(4, round(rng.gauss(mean, deviation))) for mean, deviation in shapes)


def pack_windows(starts_and_ends: list[tuple[float, float]], duration: float) -> tuple[list[float], list[int]]:
    """Cut windows of at most 30 s in the middle of pauses between utterances.

    Returns the end of each window and the number of utterances up to there. Raises ValueError if an utterance and half
    the pauses around it do not fit into a window.
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
    """Return real speech of one language: recordings repeated with pauses, each whole in one window.

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
    # Rounded down: no window may end after the audio.
    return Workload(np.concatenate(sound), tuple(int(100 * end) / 100 for end in ends), (), truth, str(language))


def digits_workload(minutes: float, seed: int = 5) -> Workload:
    """Return clean English digits by voices that whisper-nano was not trained on (see benchmarks.heldout_set).

    Raises FileNotFoundError that names the synthesisers that are not installed.
    """
    missing = [package for program, package in SYNTHESISERS.items() if shutil.which(program) is None]
    if missing:
        raise FileNotFoundError(f"no spoken digits without {' '.join(missing)} (apt-get install {' '.join(missing)})")
    rng = random.Random(seed)  # noqa: S311 (not for security)
    samples, _, utterances = speak(rng, "en", minutes * 60)
    pcm = np.clip(np.round(at_random_level(rng, samples) * 32767), -32768, 32767).astype(np.int16)
    ends, counts = pack_windows([(utterance.start, utterance.end) for utterance in utterances], minutes * 60)
    texts = [utterance.text for utterance in utterances]
    truth = tuple(" ".join(texts[left:right]) for left, right in pairwise((0, *counts)))
    return Workload(pcm, tuple(round(end, 2) for end in ends), (), truth)


def real_recordings() -> list[Recording]:
    """Return real English recordings with texts that fit into a window. Raises FileNotFoundError if there are none."""
    found = [*sources.load(sources.REAL), *sources.load_extra(sources.REAL)]
    english = [one for one in found if one.language == "en" and one.text]
    return [one for one in english if one.duration < WINDOW_S - MAX_PAUSE_S]


def make_workload(name: str) -> Workload:
    """Return a workload by its name."""
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
    raise ValueError(f"unknown workload {name}")
