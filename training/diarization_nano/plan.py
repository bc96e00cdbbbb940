"""Who says what when in a conversation: events, planned without their sound."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve_app.audio import SAMPLE_RATE
from serve_app.diarization.nets import SPEAKERS
from training.diarization_nano.dataset import Voice
from training.diarization_nano.speech import FRAME

SPEEDS = (0.86, 0.93, 1.0, 1.07, 1.15)
"""How fast a voice is read; each is a speaker of its own, of another pitch and size."""
COLUMNS = ("slot", "start", "length", "source")
_SHARES = (0.10, 0.36, 0.30, 0.24)  # of conversations with one to four speakers


@dataclass(frozen=True)
class Plan:
    """A window of a conversation.

    `events` (n, 4): the speaker's slot, the first sample in the window, how many samples, the first sample in the bank;
    those of one slot do not overlap. `identities`, `speeds` (SPEAKERS,): who sits in each slot, -1 for nobody (a voice
    at each speed is somebody of its own), and how fast it is read.
    """

    events: npt.NDArray[np.int64]
    identities: npt.NDArray[np.int64]
    speeds: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Manner:
    """How the people of one conversation talk."""

    shortest: float
    longest: float
    gap: float
    overlapping: float
    nodding: float
    changing: float

    @staticmethod
    def of(rng: random.Random) -> "Manner":
        shortest, longest = rng.choice([(0.4, 1.5), (0.5, 2.5), (0.5, 4), (0.8, 6), (1.5, 6), (0.5, 15), (3, 15)])
        return Manner(
            shortest,
            longest,
            gap=rng.choice([0.05, 0.15, 0.3, 0.5, 0.8, 1.5]),
            overlapping=rng.choice([0.0, 0.1, 0.25, 0.5]),
            nodding=rng.choice([0.0, 0.05, 0.2]),
            changing=rng.choice([0.6, 0.85, 1.0]),
        )


class Planner:
    """Plans windows of conversations among a bank's voices; the same seed makes the same ones."""

    def __init__(self, voices: list[Voice], seconds: float) -> None:
        self._voices, self._seconds = voices, seconds
        self._families: dict[str, list[int]] = {}
        self._speaking: dict[str, list[int]] = {}
        for number, voice in enumerate(voices):
            self._families.setdefault(voice.family, []).append(number)
            self._speaking.setdefault(voice.language, []).append(number)

    def _one_of(self, rng: random.Random, numbers: Sequence[int]) -> int:
        return rng.choices(numbers, [self._voices[number].weight for number in numbers])[0]

    def pool(self, rng: random.Random, size: int) -> list[tuple[int, float]]:
        """Voices and speeds that a batch's conversations are held among, so that each is heard several times.

        Most of them speak one of two languages, and half are relatives of another, at its speed.
        """
        everybody = range(len(self._voices))
        languages = [self._voices[self._one_of(rng, everybody)].language for _ in range(2)]
        chosen: list[tuple[int, float]] = []
        while len(chosen) < size:
            some = self._speaking[rng.choice(languages)] if rng.random() < 0.8 else everybody
            voice, speed = self._one_of(rng, some), rng.choice(SPEEDS)
            chosen.append((voice, speed))
            relatives = [other for other in self._families[self._voices[voice].family] if other != voice]
            if relatives and rng.random() < 0.6:
                chosen += [(other, speed) for other in rng.sample(relatives, min(len(relatives), rng.choice([1, 2])))]
        return chosen

    def people(self, rng: random.Random, pool: list[tuple[int, float]]) -> list[tuple[int, float]]:
        """One to four of the pool, who often are relatives or speak one language.

        Of one timbre there is only one voice, at speeds that are far apart.
        """
        count = rng.choices(range(1, SPEAKERS + 1), _SHARES)[0]
        chosen = [rng.choice(pool)]
        first = self._voices[chosen[0][0]]
        near = [one for one in pool if self._voices[one[0]].family == first.family]
        understood = [one for one in pool if self._voices[one[0]].language == first.language]
        for _ in range(100):
            if len(chosen) == count:
                break
            voice, speed = rng.choice(rng.choices((near, understood, pool), (0.4, 0.4, 0.2))[0])
            timbre = self._voices[voice].timbre
            same = [(other, pace) for other, pace in chosen if self._voices[other].timbre == timbre]
            if all(other == voice and abs(pace - speed) > 0.13 for other, pace in same):
                chosen.append((voice, speed))
        return chosen

    def window(self, rng: random.Random, pool: list[tuple[int, float]]) -> Plan:
        """A window at a random place of a conversation."""
        people, manner = self.people(rng, pool), Manner.of(rng)
        events: list[tuple[int, int, int, int]] = []
        free = [-1e9] * len(people)  # when each has ended
        time = -rng.uniform(0, min(12.0, 2 * manner.longest))
        if rng.random() < 0.04:
            time = rng.uniform(0, 15)  # begins late: a chunk may hold no speech
        who = rng.randrange(len(people))
        while time < self._seconds:
            turn = float(np.exp(rng.uniform(np.log(manner.shortest), np.log(manner.longest))))
            start = max(time, free[who] + 0.05)
            end = self._say(rng, events, people[who], who, start, turn)
            free[who] = end
            if len(people) > 1 and rng.random() < manner.nodding and end - start > 1.5:
                other = rng.choice([index for index in range(len(people)) if index != who])
                place = max(rng.uniform(start + 0.2, end - 0.5), free[other] + 0.05)
                free[other] = self._say(rng, events, people[other], other, place, rng.uniform(0.25, 0.9))
            if len(people) > 1 and rng.random() < manner.changing:
                who = rng.choice([index for index in range(len(people)) if index != who])
                if rng.random() < manner.overlapping:
                    time = end - rng.uniform(0.1, min(2.5, 0.7 * (end - start)) + 0.11)
                else:
                    time = end + rng.expovariate(1 / manner.gap)
            else:
                time = end + 0.2 + rng.expovariate(1 / manner.gap)
            if rng.random() < 0.05:
                time += rng.uniform(1, 5)
        inside = [event for event in events if event[1] + event[2] > 0 and event[1] < self._seconds * SAMPLE_RATE]
        identities, speeds = np.full(SPEAKERS, -1, np.int64), np.ones(SPEAKERS, np.float32)
        for slot, (voice, speed) in enumerate(people):
            identities[slot], speeds[slot] = voice * len(SPEEDS) + SPEEDS.index(speed), speed
        return Plan(np.array(inside, np.int64).reshape(-1, len(COLUMNS)), identities, speeds)

    def _say(
        self,
        rng: random.Random,
        events: list[tuple[int, int, int, int]],
        person: tuple[int, float],
        slot: int,
        start: float,
        turn: float,
    ) -> float:
        """Adds utterances one after another until the turn is full; the last is cut. Returns the end."""
        voice, speed = person
        time = start
        while True:
            first, count = rng.choice(self._voices[voice].utterances)
            left = start + turn - time
            wanted = min(count, max(20, int(left * 100 * speed)))
            skipped = rng.randrange(0, count - wanted + 1) if wanted < count and rng.random() < 0.5 else 0
            length = int(wanted * FRAME / speed)
            if time + length / SAMPLE_RATE > 0 and time < self._seconds:
                events.append((slot, round(time * SAMPLE_RATE), length, (first + skipped) * FRAME))
            time += length / SAMPLE_RATE
            pause = rng.uniform(0.03, 0.35)
            if start + turn - time - pause < 0.3:
                return time
            time += pause
