"""Synthesise the training data: utterances of about two thousand speakers (20 hours), in minutes.

    python -m training.diarization_nano.synthesise data/training/diarization-nano

No reserved voice is among them. Needs espeak-ng, flite and festival with these voices:

    apt-get install espeak-ng flite festival festvox-us-slt-hts festvox-kdlpc16k festvox-ca-ona-hts festival-ca \\
        festvox-suopuhe-lj festvox-suopuhe-mv festvox-italp16k festvox-itapc16k festival-czech festvox-czech-dita \\
        festvox-czech-krb festvox-czech-machac festvox-czech-ph festvox-ru festival-hi festvox-hi-nsk \\
        festival-te festvox-te-nsk
"""

import argparse
import multiprocessing
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from serve_app.audio import SAMPLE_RATE
from testing import noise
from training.diarization_nano import dataset
from training.diarization_nano.speakers import (
    DEV_FESTIVAL_ALPHABETS,
    DEV_VARIANTS,
    ENGLISH_FESTIVAL,
    FESTIVAL_ALPHABETS,
    FLITE_PITCH_HZ,
    TRAINING_VARIANTS,
    Speaker,
    espeak_data,
    espeak_speaker,
    made_up_families,
    shipped_variants,
)
from training.diarization_nano.speech import speak

SYSTEM_DATA = Path("/usr/lib/x86_64-linux-gnu/espeak-ng-data")
NOISE_S = 40
RECORDED_WEIGHT = 12.0
"""Synthesisers made of recordings have few voices: each is chosen as often as this many of espeak-ng's."""

Part = tuple[Speaker, str, float, float, int]


def siblings(rng: random.Random, variants: Sequence[str]) -> list[Speaker]:
    """Return a speaker for each made-up variant; a family has one language and similar pitch and intonation."""
    leaders: dict[str, Speaker] = {}
    speakers = []
    for variant in variants:
        speaker = espeak_speaker(rng, variant)
        leader = leaders.setdefault(speaker.family, speaker)
        pitch = min(75, max(25, rng.gauss(50, 5)))
        speakers.append(replace(speaker, pitch=pitch, language=leader.language, pitch_range=leader.pitch_range))
    return speakers


def espeak_parts(
    rng: random.Random, made_up: Sequence[str], shipped: int, dev_made_up: Sequence[str], dev: int, seconds: float
) -> list[Part]:
    """Return speakers of made-up variants, several of each shipped variant, and others for tuning only."""
    parts: list[Part] = []
    for speaker in siblings(rng, made_up):
        parts.append((speaker, "train", 1.0, seconds, rng.getrandbits(32)))
    for index in range(shipped):
        speaker = espeak_speaker(rng, TRAINING_VARIANTS[index % len(TRAINING_VARIANTS)])
        parts.append((speaker, "train", 1.0, seconds, rng.getrandbits(32)))
    for speaker in siblings(rng, dev_made_up):
        parts.append((speaker, "dev", 1.0, 2 * seconds, rng.getrandbits(32)))
    for index in range(dev):
        speaker = espeak_speaker(rng, DEV_VARIANTS[index % len(DEV_VARIANTS)])
        language = ("en-us", "en", "de", "fr", "es")[index % 5]
        parts.append((replace(speaker, language=language), "dev", 1.0, 2 * seconds, rng.getrandbits(32)))
    return parts


def recorded_parts(rng: random.Random, seconds: float) -> list[Part]:
    """Return speakers of flite and festival: three of each flite voice, with different pitches."""
    parts: list[Part] = []
    for voice, hertz in FLITE_PITCH_HZ.items():
        for shift in (0.85, 1.0, 1.18):
            speaker = Speaker("flite", voice, "en", hertz * shift, 0, rng.uniform(0.85, 1.25), 0)
            parts.append((speaker, "train", RECORDED_WEIGHT / 2, seconds, rng.getrandbits(32)))
    for kind, voices in (("train", FESTIVAL_ALPHABETS), ("dev", DEV_FESTIVAL_ALPHABETS)):
        for voice in voices:
            rate = rng.uniform(0.9, 1.2)
            language = "en" if voice in ENGLISH_FESTIVAL else "other"
            speaker = Speaker("festival", voice, language, 0, 0, rate, 0)
            parts.append((speaker, kind, RECORDED_WEIGHT, seconds, rng.getrandbits(32)))
    return parts


def synthesise(part: Part) -> dataset.SpeakerUtterances:
    """Synthesise one speaker's utterances. The result is the same in every fresh process."""
    torch.set_num_threads(1)
    speaker, kind, weight, seconds, seed = part
    alphabet = {**FESTIVAL_ALPHABETS, **DEV_FESTIVAL_ALPHABETS}.get(speaker.timbre, "latin")
    return dataset.SpeakerUtterances(speaker, kind, weight, speak(random.Random(seed), speaker, seconds, alphabet))


def noises(seed: int) -> npt.NDArray[np.int16]:
    """Return NOISE_S seconds of every kind of noise, three times."""
    rng = np.random.default_rng(seed)
    kinds = [noise.make(rng, kind, NOISE_S * SAMPLE_RATE) for kind in noise.KINDS for _ in range(3)]
    return (np.clip(np.stack(kinds) / 4, -1, 1) * 32767).astype(np.int16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output folder; created if it does not exist")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--made-up", type=int, default=1500, help="number of made-up voices of espeak-ng (1500)")
    parser.add_argument(
        "--shipped", type=int, default=600, help="number of speakers with a variant that espeak-ng ships (600)"
    )
    parser.add_argument("--dev", type=int, default=60, help="number of espeak-ng speakers for tuning only (60)")
    parser.add_argument("--dev-made-up", type=int, default=40, help="number of made-up voices for tuning only (40)")
    parser.add_argument("--seconds", type=float, default=35.0, help="speech of each speaker (35)")
    parser.add_argument(
        "--recorded-seconds", type=float, default=240.0, help="speech of each flite and festival voice (240)"
    )
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    arguments = parser.parse_args()
    start = time.perf_counter()
    rng = random.Random(arguments.seed)
    made_up = made_up_families(rng, arguments.made_up, shipped_variants(SYSTEM_DATA, TRAINING_VARIANTS))
    dev_made_up = made_up_families(rng, arguments.dev_made_up, shipped_variants(SYSTEM_DATA, DEV_VARIANTS), "dev")
    espeak_data(arguments.folder, made_up | dev_made_up, SYSTEM_DATA)
    parts = espeak_parts(rng, list(made_up), arguments.shipped, list(dev_made_up), arguments.dev, arguments.seconds)
    if arguments.recorded_seconds:  # 0 skips them
        parts += recorded_parts(rng, arguments.recorded_seconds)
    spoken: list[dataset.SpeakerUtterances] = []
    # A new process for every few speakers, because espeak-ng has state that affects later utterances.
    with multiprocessing.get_context("fork").Pool(arguments.processes, maxtasksperchild=20) as pool:
        for done, one in enumerate(pool.imap(synthesise, reversed(parts)), 1):
            spoken.append(one)
            if done % 100 == 0 or done == len(parts):
                print(f"{done}/{len(parts)} speakers in {time.perf_counter() - start:.0f} s", flush=True)
    hours = dataset.write(arguments.folder, spoken, noises(arguments.seed))
    print(f"wrote {hours:.1f} h of {len(spoken)} speakers to {arguments.folder}")


if __name__ == "__main__":
    main()
