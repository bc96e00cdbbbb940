"""Score a running service on the speakers of words in held-out conversations (see benchmarks.conversations).

    STT_DIARIZATION__PIPELINE=diarization-nano make serve
    python -m benchmarks.speaker_attribution --url http://127.0.0.1:8000 data/conversations

Of the words that are recognised correctly, counts those with the right speaker. Detected speakers are matched one to
one with true speakers so that most words agree. Requirements: 95 % for two speakers, 90 % for more. Exit status 1 if
they are not met.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import jiwer
import numpy as np
from scipy.optimize import linear_sum_assignment

from benchmarks.results import save_result
from testing.scoring import normalise

MIN_OF_TWO, MIN_OF_MORE = 0.95, 0.90
_WAIT_S = 600


@dataclass(frozen=True)
class SpokenWord:
    """A word and its speaker; times in seconds."""

    word: str
    speaker: str
    start: float
    end: float


@dataclass(frozen=True)
class Score:
    """The numbers of speakers and words, of words recognised correctly, and of these with the right speaker."""

    speakers: int
    spoken: int
    recognised: int
    right: int


def score(truth: Sequence[SpokenWord], hypothesis: Sequence[SpokenWord]) -> Score:
    """Score the words found in a conversation, in order of their starts."""
    pairs: Counter[tuple[str, str]] = Counter()
    texts = [" ".join(normalise(word.word) for word in words) for words in (truth, hypothesis)]
    if all(texts):
        for chunk in jiwer.process_words(*texts).alignments[0]:
            if chunk.type == "equal":
                for place in range(chunk.ref_end_idx - chunk.ref_start_idx):
                    true_word = truth[chunk.ref_start_idx + place]
                    pairs[true_word.speaker, hypothesis[chunk.hyp_start_idx + place].speaker] += 1
    here, there = (sorted({pair[side] for pair in pairs}) for side in (0, 1))
    shared = np.array([[pairs[one, other] for other in there] for one in here]).reshape(len(here), len(there))
    right = int(shared[linear_sum_assignment(shared, maximize=True)].sum())
    return Score(len({word.speaker for word in truth}), len(truth), pairs.total(), right)


def true_words(conversation: dict[str, Any]) -> list[SpokenWord]:
    """Return the words of an entry of truth.json."""
    words = [
        SpokenWord(word["word"], turn["speaker"], word["start"], word["end"])
        for turn in conversation["turns"]
        for word in turn["words"]
    ]
    return sorted(words, key=lambda word: word.start)


async def transcribe_words(session: aiohttp.ClientSession, path: Path) -> list[SpokenWord]:
    """Return the words of a recording from the service."""
    form = aiohttp.FormData({"diarization": "{}", "timestamps": "word"})
    form.add_field("file", await asyncio.to_thread(path.read_bytes), filename=path.name)
    async with session.post("v1/jobs", data=form, headers={"Prefer": f"wait={_WAIT_S}"}) as response:
        job = await response.json()
    if response.status != 200 or job["status"] != "succeeded":
        raise RuntimeError(f"{path.name}: {response.status} {json.dumps(job)[:500]}")
    async with session.get(f"v1/jobs/{job['id']}/transcript", params={"format": "verbose_json"}) as response:
        transcript = await response.json()
    if failed := [warning for warning in transcript.get("warnings", ()) if warning.startswith("diarization")]:
        raise RuntimeError(f"{path.name}: {failed}")
    words = transcript["words"]
    return [
        SpokenWord(word["word"], word.get("speaker", ""), word["start"], word["end"])
        for word in words
        if normalise(word["word"])
    ]


def shares(scores: Sequence[Score]) -> dict[str, Any]:
    """Return the number of conversations and words, the share recognised, and of these with the right speaker."""
    words, recognised = sum(one.spoken for one in scores), sum(one.recognised for one in scores)
    right = sum(one.right for one in scores) / max(1, recognised)
    return {
        **{"conversations": len(scores), "words": words},
        **{"heard_right": round(recognised / max(1, words), 4), "speaker_right": round(right, 4)},
    }


async def score_conversations(url: str, folder: Path, conversations: Sequence[dict[str, Any]]) -> list[Score]:
    """Score conversations one after the other."""
    scores = []
    timeout = aiohttp.ClientTimeout(total=_WAIT_S + 30)
    async with aiohttp.ClientSession(url.rstrip("/") + "/", timeout=timeout) as session:
        for conversation in conversations:
            scores.append(
                score(true_words(conversation), await transcribe_words(session, folder / conversation["file"]))
            )
            one = shares(scores[-1:])
            print(f"{conversation['file']} {scores[-1].speakers} speakers: {one['speaker_right']:.1%}", flush=True)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder written by benchmarks.conversations")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results/")
    arguments = parser.parse_args()
    made = json.loads((arguments.folder / "truth.json").read_text())
    try:
        scores = asyncio.run(score_conversations(arguments.url, arguments.folder, made["conversations"]))
    except (aiohttp.ClientError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    two, more = ([one for one in scores if (one.speakers == 2) is pair] for pair in (True, False))
    rows = {"2 speakers": shares(two), "more": shares(more)}
    for name, row in rows.items():
        print(
            f"{name:12}{row['conversations']:5} conversations {row['words']:7} words, recognised "
            f"{row['heard_right']:6.1%}, of these with the right speaker {row['speaker_right']:6.1%}"
        )
    if arguments.save:
        save_result("who-said-what", ("torch", "pyannote.audio"), {"seed": made["seed"], "figures": rows})
    if (two and rows["2 speakers"]["speaker_right"] < MIN_OF_TWO) or (
        more and rows["more"]["speaker_right"] < MIN_OF_MORE
    ):
        sys.exit("requirements not met: 95 % of words with the right speaker for two, 90 % for more")


if __name__ == "__main__":
    main()
