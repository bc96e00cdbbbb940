"""Score a running service on who says which word of held-out conversations (see benchmarks.conversations).

    STT_DIARIZATION__PIPELINE=diarization-nano make serve
    python -m benchmarks.speaker_attribution --url http://127.0.0.1:8000 data/conversations

A word counts where it is heard right: in how many of those does the speaker agree, when each of the speakers that
were found stands for the one they share most words with, and no two for the same? The line it must hold: 95 % for two
speakers, 90 % for more. Exit status 1 below it.
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
class Spoken:
    """A word, who says it, and when it begins, in seconds."""

    word: str
    speaker: str
    start: float


@dataclass(frozen=True)
class Score:
    """Words that were spoken, of these heard right, and of these given to the right speaker."""

    speakers: int
    spoken: int
    heard: int
    right: int


def score(truth: Sequence[Spoken], found: Sequence[Spoken]) -> Score:
    """What was found of a conversation, words in order of their starts."""
    pairs: Counter[tuple[str, str]] = Counter()
    texts = [" ".join(normalise(word.word) for word in words) for words in (truth, found)]
    if all(texts):
        for chunk in jiwer.process_words(*texts).alignments[0]:
            if chunk.type == "equal":
                for place in range(chunk.ref_end_idx - chunk.ref_start_idx):
                    said, heard = truth[chunk.ref_start_idx + place], found[chunk.hyp_start_idx + place]
                    pairs[said.speaker, heard.speaker] += 1
    here, there = (sorted({pair[side] for pair in pairs}) for side in (0, 1))
    shared = np.array([[pairs[one, other] for other in there] for one in here]).reshape(len(here), len(there))
    right = int(shared[linear_sum_assignment(shared, maximize=True)].sum())
    return Score(len({word.speaker for word in truth}), len(truth), pairs.total(), right)


def spoken(conversation: dict[str, Any]) -> list[Spoken]:
    """The words of a line of truth.json."""
    words = [
        Spoken(word["word"], turn["speaker"], word["start"]) for turn in conversation["turns"] for word in turn["words"]
    ]
    return sorted(words, key=lambda word: word.start)


async def heard(session: aiohttp.ClientSession, path: Path) -> list[Spoken]:
    """The words of a recording as the service has them."""
    form = aiohttp.FormData({"diarization": "{}", "timestamps": "word"})
    form.add_field("file", await asyncio.to_thread(path.read_bytes), filename=path.name)
    async with session.post("v1/jobs", data=form, headers={"Prefer": f"wait={_WAIT_S}"}) as response:
        job = await response.json()
    if response.status != 200 or job["status"] != "succeeded":
        raise RuntimeError(f"{path.name}: {response.status} {json.dumps(job)[:500]}")
    async with session.get(f"v1/jobs/{job['id']}/transcript", params={"format": "verbose_json"}) as response:
        transcript = await response.json()
    if transcript.get("warnings"):
        raise RuntimeError(f"{path.name}: {transcript['warnings']}")
    words = transcript["words"]
    return [Spoken(word["word"], word.get("speaker", ""), word["start"]) for word in words if normalise(word["word"])]


def shares(scores: Sequence[Score]) -> dict[str, Any]:
    """Of some conversations: their number, words, the share heard right, and of these with the right speaker."""
    words, found = sum(one.spoken for one in scores), sum(one.heard for one in scores)
    right = sum(one.right for one in scores) / max(1, found)
    return {
        **{"conversations": len(scores), "words": words},
        **{"heard_right": round(found / max(1, words), 4), "speaker_right": round(right, 4)},
    }


async def ask(url: str, folder: Path, conversations: Sequence[dict[str, Any]]) -> list[Score]:
    """The scores of conversations in the folder, one after the other."""
    scores = []
    timeout = aiohttp.ClientTimeout(total=_WAIT_S + 30)
    async with aiohttp.ClientSession(url.rstrip("/") + "/", timeout=timeout) as session:
        for conversation in conversations:
            scores.append(score(spoken(conversation), await heard(session, folder / conversation["file"])))
            one = shares(scores[-1:])
            print(f"{conversation['file']} {scores[-1].speakers} speakers: {one['speaker_right']:.1%}", flush=True)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="made by benchmarks.conversations")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results/")
    arguments = parser.parse_args()
    made = json.loads((arguments.folder / "truth.json").read_text())
    try:
        scores = asyncio.run(ask(arguments.url, arguments.folder, made["conversations"]))
    except (aiohttp.ClientError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    two, more = ([one for one in scores if (one.speakers == 2) is pair] for pair in (True, False))
    rows = {"2 speakers": shares(two), "more": shares(more)}
    for name, row in rows.items():
        print(
            f"{name:12}{row['conversations']:5} conversations {row['words']:7} words, heard right "
            f"{row['heard_right']:6.1%}, of these with the right speaker {row['speaker_right']:6.1%}"
        )
    if arguments.save:
        save_result("who-said-what", ("torch", "pyannote.audio"), {"seed": made["seed"], "figures": rows})
    if (two and rows["2 speakers"]["speaker_right"] < MIN_OF_TWO) or (
        more and rows["more"]["speaker_right"] < MIN_OF_MORE
    ):
        sys.exit("below the line: 95 % of words with the right speaker for two, 90 % for more")


if __name__ == "__main__":
    main()
