"""Plans of conversations: events with speakers and times, without audio."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve_app.audio import SAMPLE_RATE
from serve_app.diarization.nets import SPEAKERS
from training.diarization_nano.dataset import DatasetSpeaker
from training.diarization_nano.speech import FRAME

SPEEDS = (0.86, 0.93, 1.0, 1.07, 1.15)
"""Playback speeds; each makes another speaker, with a different pitch and size."""
COLUMNS = ("slot", "start", "length", "source")
_SHARES = (0.10, 0.36, 0.30, 0.24)  # of conversations with one to four speakers


@dataclass(frozen=True)
class Plan:
    """A window of a conversation.

    `events` (n, 4): the speaker's slot, the first sample in the window, the number of samples, the first sample in the
    dataset; those of one slot do not overlap. `identities`, `speeds` (SPEAKERS,): the speaker of each slot, -1 for none
    (a speaker at each speed is a separate identity), and the speed.
    """

    events: npt.NDArray[np.int64]
    identities: npt.NDArray[np.int64]
    speeds: npt.NDArray[np.float32]


@dataclass(frozen=True)
class ConversationStyle:
    """Lengths of turns and pauses, and probabilities of overlaps, short remarks and speaker changes."""

    shortest: float
    longest: float
    gap: float
    overlap: float
    backchannel: float
    speaker_change: float

    @staticmethod
    def of(rng: random.Random) -> "ConversationStyle":
        shortest, longest = rng.choice([(0.4, 1.5), (0.5, 2.5), (0.5, 4), (0.8, 6), (1.5, 6), (0.5, 15), (3, 15)])
        return ConversationStyle(
            shortest,
            longest,
            gap=rng.choice([0.05, 0.15, 0.3, 0.5, 0.8, 1.5]),
            overlap=rng.choice([0.0, 0.1, 0.25, 0.5]),
            backchannel=rng.choice([0.0, 0.05, 0.2]),
            speaker_change=rng.choice([0.6, 0.85, 1.0]),
        )


class Planner:
    """Plans windows of conversations among a dataset's speakers; the same seed makes the same plans."""

    def __init__(self, speakers: list[DatasetSpeaker], seconds: float) -> None:
        self._speakers, self._seconds = speakers, seconds
        self._by_family: dict[str, list[int]] = {}
        self._by_language: dict[str, list[int]] = {}
        for number, speaker in enumerate(speakers):
            self._by_family.setdefault(speaker.family, []).append(number)
            self._by_language.setdefault(speaker.language, []).append(number)

    def _choose(self, rng: random.Random, numbers: Sequence[int]) -> int:
        return rng.choices(numbers, [self._speakers[number].weight for number in numbers])[0]

    def speaker_pool(self, rng: random.Random, size: int) -> list[tuple[int, float]]:
        """Choose speakers and speeds for a batch, so that each appears several times.

        Most of them speak one of two languages, and half are relatives of another, at the same speed.
        """
        everyone = range(len(self._speakers))
        languages = [self._speakers[self._choose(rng, everyone)].language for _ in range(2)]
        chosen: list[tuple[int, float]] = []
        while len(chosen) < size:
            candidates = self._by_language[rng.choice(languages)] if rng.random() < 0.8 else everyone
            speaker, speed = self._choose(rng, candidates), rng.choice(SPEEDS)
            chosen.append((speaker, speed))
            relatives = [other for other in self._by_family[self._speakers[speaker].family] if other != speaker]
            if relatives and rng.random() < 0.6:
                chosen += [(other, speed) for other in rng.sample(relatives, min(len(relatives), rng.choice([1, 2])))]
        return chosen

    def choose_speakers(self, rng: random.Random, pool: list[tuple[int, float]]) -> list[tuple[int, float]]:
        """Choose one to four speakers of the pool, often relatives or speakers of one language.

        Of one timbre there is only one speaker, at speeds that differ clearly.
        """
        count = rng.choices(range(1, SPEAKERS + 1), _SHARES)[0]
        chosen = [rng.choice(pool)]
        first = self._speakers[chosen[0][0]]
        relatives_of_first = [one for one in pool if self._speakers[one[0]].family == first.family]
        same_language = [one for one in pool if self._speakers[one[0]].language == first.language]
        for _ in range(100):
            if len(chosen) == count:
                break
            speaker, speed = rng.choice(rng.choices((relatives_of_first, same_language, pool), (0.4, 0.4, 0.2))[0])
            timbre = self._speakers[speaker].timbre
            same = [(other, pace) for other, pace in chosen if self._speakers[other].timbre == timbre]
            if all(other == speaker and abs(pace - speed) > 0.13 for other, pace in same):
                chosen.append((speaker, speed))
        return chosen

    def plan_window(self, rng: random.Random, pool: list[tuple[int, float]]) -> Plan:
        """Plan a window at a random place of a conversation."""
        speakers, style = self.choose_speakers(rng, pool), ConversationStyle.of(rng)
        events: list[tuple[int, int, int, int]] = []
        free = [-1e9] * len(speakers)  # the end of each speaker's last utterance
        time = -rng.uniform(0, min(12.0, 2 * style.longest))
        if rng.random() < 0.04:
            time = rng.uniform(0, 15)  # starts late: some chunks have no speech
        slot = rng.randrange(len(speakers))
        while time < self._seconds:
            turn = float(np.exp(rng.uniform(np.log(style.shortest), np.log(style.longest))))
            start = max(time, free[slot] + 0.05)
            end = self._add_utterances(rng, events, speakers[slot], slot, start, turn)
            free[slot] = end
            if len(speakers) > 1 and rng.random() < style.backchannel and end - start > 1.5:
                other = rng.choice([index for index in range(len(speakers)) if index != slot])
                place = max(rng.uniform(start + 0.2, end - 0.5), free[other] + 0.05)
                free[other] = self._add_utterances(rng, events, speakers[other], other, place, rng.uniform(0.25, 0.9))
            if len(speakers) > 1 and rng.random() < style.speaker_change:
                slot = rng.choice([index for index in range(len(speakers)) if index != slot])
                if rng.random() < style.overlap:
                    time = end - rng.uniform(0.1, min(2.5, 0.7 * (end - start)) + 0.11)
                else:
                    time = end + rng.expovariate(1 / style.gap)
            else:
                time = end + 0.2 + rng.expovariate(1 / style.gap)
            if rng.random() < 0.05:
                time += rng.uniform(1, 5)
        inside = [event for event in events if event[1] + event[2] > 0 and event[1] < self._seconds * SAMPLE_RATE]
        identities, speeds = np.full(SPEAKERS, -1, np.int64), np.ones(SPEAKERS, np.float32)
        for slot, (speaker, speed) in enumerate(speakers):
            identities[slot], speeds[slot] = speaker * len(SPEEDS) + SPEEDS.index(speed), speed
        return Plan(np.array(inside, np.int64).reshape(-1, len(COLUMNS)), identities, speeds)

    def _add_utterances(
        self,
        rng: random.Random,
        events: list[tuple[int, int, int, int]],
        person: tuple[int, float],
        slot: int,
        start: float,
        turn: float,
    ) -> float:
        """Add utterances until the turn is full; the last one is cut. Return the end."""
        speaker, speed = person
        time = start
        while True:
            first, count = rng.choice(self._speakers[speaker].utterances)
            remaining = start + turn - time
            frames = min(count, max(20, int(remaining * 100 * speed)))
            skipped = rng.randrange(0, count - frames + 1) if frames < count and rng.random() < 0.5 else 0
            length = int(frames * FRAME / speed)
            if time + length / SAMPLE_RATE > 0 and time < self._seconds:
                events.append((slot, round(time * SAMPLE_RATE), length, (first + skipped) * FRAME))
            time += length / SAMPLE_RATE
            pause = rng.uniform(0.03, 0.35)
            if start + turn - time - pause < 0.3:
                return time
            time += pause
