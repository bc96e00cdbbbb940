"""Measure who said which words, through the running service with whisper-base.

    python -m benchmarks.diarization.words --save

Starts the service on loopback, with pyannote-3.0-campplus. Two measures, with the number of speakers unknown:

  right speaker   of the words at whose middle one person speaks, those with that speaker: conversations with turns
                  (see benchmarks.diarization), in any language
  cpWER           the word error rate of each speaker's words in order, for the best assignment of speakers; beside it
                  the word error rate without regard to speakers: English recordings with texts, joined to conversations

Requirements: 95 % of words with the right speaker for two, 90 % for more. Exit status 1 if they are not met.
"""

import argparse
import asyncio
import itertools
import json
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jiwer
import numpy as np
from scipy.optimize import linear_sum_assignment

from benchmarks.diarization.engines import MODELS, PIPELINE
from benchmarks.diarization.recordings import REAL, Conversation, read_conversations, write_wav
from benchmarks.results import processor_name, save_result
from benchmarks.speaker_attribution import MIN_OF_MORE, MIN_OF_TWO, SpokenWord, transcribe_words
from serve_app.audio import SAMPLE_RATE
from testing.recordings import decode_recording
from testing.scoring import normalise
from testing.service_process import run_service

SPEECH = REAL.parent / "speech"
"""The expected location of recordings with texts: a truth.json beside them."""
_SPEAKER = re.compile(r"spk\d+|LJ|corpus|common_voice")
"""The part of a file's name that several recordings of one speaker share."""
_PAUSES_S = (0.3, 1.5)
_CASTS = (2, 2, 3, 3, 4, 4)
"""The numbers of speakers in the joined conversations."""


@dataclass(frozen=True)
class JoinedConversation:
    """Recordings of several speakers one after the other, with the texts of the turns."""

    path: Path
    turns: tuple[tuple[str, str], ...]
    """The speaker and the text of each."""


def right_speakers(conversation: Conversation, words: Sequence[SpokenWord]) -> tuple[int, int]:
    """Return the number of words at which one person speaks, and of these with that speaker.

    Detected speakers are matched one to one with true ones so that most words agree.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    for word in words:
        middle = (word.start + word.end) / 2
        speaking = {turn.speaker for turn in conversation.turns if turn.start <= middle < turn.end}
        if len(speaking) == 1:
            pairs[speaking.pop(), word.speaker] += 1
    true, found = (sorted({pair[side] for pair in pairs} - {""}) for side in (0, 1))
    shared = np.array([[pairs[one, other] for other in found] for one in true]).reshape(len(true), len(found))
    return pairs.total(), int(shared[linear_sum_assignment(shared, maximize=True)].sum())


def speaker_word_errors(turns: Sequence[tuple[str, str]], words: Sequence[SpokenWord]) -> tuple[int, int]:
    """Return the errors in the words of each speaker for the best assignment of speakers, and the number of words.

    Words of speakers without a counterpart are all errors.
    """
    true, found = defaultdict(list), defaultdict(list)
    for speaker, text in turns:
        true[speaker] += normalise(text).split()
    for word in words:
        found[word.speaker] += normalise(word.word).split()
    size = max(len(true), len(found))
    spoken = [*true.values(), *([[]] * (size - len(true)))]
    heard = [*found.values(), *([[]] * (size - len(found)))]
    errors = np.array([[_edits(one, other) for other in heard] for one in spoken])
    return int(errors[linear_sum_assignment(errors)].sum()), sum(map(len, spoken))


def _edits(true: Sequence[str], found: Sequence[str]) -> int:
    if not true or not found:
        return len(true) + len(found)
    counted = jiwer.process_words(" ".join(true), " ".join(found))
    return counted.substitutions + counted.deletions + counted.insertions


def join_recordings(folder: Path, language: str, out: Path) -> Iterator[JoinedConversation]:
    """Join the recordings of a language to conversations of two to four speakers, the same ones each time."""
    by_speaker: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    for entry in json.loads((folder / "truth.json").read_text(encoding="utf-8")):
        if entry["language"] == language:
            shared = _SPEAKER.search(entry["file"])
            by_speaker[shared[0] if shared else entry["file"]].append((folder / entry["file"], entry["text"]))
    rng = random.Random(1)  # noqa: S311 (not for security)
    speakers = itertools.cycle(rng.sample(sorted(by_speaker), len(by_speaker)))
    for number, cast in enumerate(_CASTS):
        chosen = [next(speakers) for _ in range(cast)]
        rounds = itertools.zip_longest(*(by_speaker[speaker] for speaker in chosen))
        said = [(chosen[place], *turn) for one in rounds for place, turn in enumerate(one) if turn is not None]
        path = out / f"joined{number:02d}.wav"
        pauses = (np.zeros(round(rng.uniform(*_PAUSES_S) * SAMPLE_RATE), np.int16) for _ in said)
        pieces = zip((decode_recording(recording) for _, recording, _ in said), pauses, strict=True)
        write_wav(path, np.concatenate([*itertools.chain.from_iterable(pieces)]))
        yield JoinedConversation(path, tuple((speaker, text) for speaker, _, text in said))


async def measure(conversations: Sequence[Conversation], speech: Path) -> dict[str, Any]:
    """Transcribe everything with a service of its own; return the figures."""
    counted: dict[str, list[tuple[int, int]]] = {"2 speakers": [], "more": []}
    joined: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        MODELS.mkdir(parents=True, exist_ok=True)
        (Path(folder) / "models").symlink_to(MODELS.absolute())
        async with run_service(Path(folder), {"DIARIZATION__PIPELINE": PIPELINE}) as service:
            await service.ready.wait()
            for conversation in conversations:
                words = await transcribe_words(service.http, conversation.path)
                right = right_speakers(conversation, words)
                counted["2 speakers" if conversation.speakers == 2 else "more"].append(right)
                print(f"  {conversation.path.stem}, {conversation.speakers} speakers: {right[1]} of {right[0]} words")
            for one in join_recordings(speech, "en", Path(folder)):
                words = await transcribe_words(service.http, one.path)
                errors, spoken = speaker_word_errors(one.turns, words)
                plain = _edits(
                    normalise(" ".join(text for _, text in one.turns)).split(),
                    normalise(" ".join(word.word for word in words)).split(),
                )
                speakers = len({speaker for speaker, _ in one.turns})
                joined.append({"speakers": speakers, "words": spoken, "errors": plain, "speaker_errors": errors})
                print(f"  {one.path.stem}, {speakers} speakers: WER {plain / spoken:.1%}, cpWER {errors / spoken:.1%}")
    return {
        "right_speaker": {name: _share(some) for name, some in counted.items() if some},
        "joined": joined,
        "wer": round(sum(one["errors"] for one in joined) / sum(one["words"] for one in joined), 4),
        "cpwer": round(sum(one["speaker_errors"] for one in joined) / sum(one["words"] for one in joined), 4),
    }


def _share(counted: Sequence[tuple[int, int]]) -> dict[str, Any]:
    words = sum(count for count, _ in counted)
    return {"words": words, "share": round(sum(right for _, right in counted) / words, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REAL, help="conversations, each with an RTTM file")
    parser.add_argument("--speech", type=Path, default=SPEECH, help="recordings of single speakers, with a truth.json")
    parser.add_argument("--only", nargs="+", default=["composed"], metavar="NAME", help="beginnings of names")
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results/")
    options = parser.parse_args()
    figures = asyncio.run(measure(read_conversations(options.data, options.only), options.speech))
    right = figures["right_speaker"]
    print("right speaker: " + ", ".join(f"{name} {row['share']:.1%} of {row['words']}" for name, row in right.items()))
    print(f"WER {figures['wer']:.1%}, cpWER {figures['cpwer']:.1%}")
    if options.save:
        save_result("who-said-what-real", ("torch", "pyannote.audio"), {"processor": processor_name(), **figures})
    least = {"2 speakers": MIN_OF_TWO, "more": MIN_OF_MORE}
    if any(row["share"] < least[name] for name, row in right.items()):
        sys.exit("requirements not met: 95 % of words with the right speaker for two, 90 % for more")


if __name__ == "__main__":
    main()
