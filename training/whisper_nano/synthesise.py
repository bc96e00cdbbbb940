"""Synthesise the training data: 23,200 spoken digit sequences (11 hours) and twelve kinds of noise, in minutes.

    python -m training.whisper_nano.synthesise data/training/whisper-nano

No reserved voice or sequence is among them. Needs espeak-ng and flite (apt-get install espeak-ng flite).
"""

import argparse
import multiprocessing
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from serve_app.audio import SAMPLE_RATE
from testing import noise
from training.whisper_nano import dataset
from training.whisper_nano.speech import UnusableSpeechError, espeak_clip, flite_clip

CLIPS = {"en": 9500, "de": 3700, "fr": 3700, "es": 3700, "flite": 2600}
SHARD = 100
_NOISE_S = 60
_MIN_CLIP_S = 0.1

Part = tuple[str, int, int]


def synthesise(part: Part) -> tuple[list[npt.NDArray[np.float16]], list[dataset.ClipEntry]]:
    """Synthesise a shard (a language or "flite", number of clips, seed), the same in any fresh process."""
    torch.set_num_threads(1)
    kind, count, seed = part
    rng = random.Random(seed)
    mels: list[npt.NDArray[np.float16]] = []
    clips: list[dataset.ClipEntry] = []
    while len(clips) < count:
        try:
            clip = flite_clip(rng, reserved=False) if kind == "flite" else espeak_clip(rng, kind, reserved=False)
        except UnusableSpeechError:
            continue
        if len(clip.samples) >= _MIN_CLIP_S * SAMPLE_RATE:
            mels.append(dataset.clip_mel(clip))
            clips.append(dataset.entry(clip, 0, len(mels[-1])))
    return mels, clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output folder; created if it does not exist")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the clips to make, for a test (1)")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    arguments = parser.parse_args()
    start = time.perf_counter()
    kinds = [kind for kind, count in CLIPS.items() for _ in range(max(1, round(count * arguments.scale / SHARD)))]
    parts = [(kind, SHARD, arguments.seed * 100_003 + index) for index, kind in enumerate(kinds)]
    mels: list[npt.NDArray[np.float16]] = []
    clips: list[dataset.ClipEntry] = []
    frames = 0
    # A new process for every shard, because espeak-ng has state that affects later utterances.
    with multiprocessing.get_context("fork").Pool(arguments.processes, maxtasksperchild=1) as pool:
        for done, (shard_mels, shard_clips) in enumerate(pool.imap(synthesise, parts), 1):
            for mel, clip in zip(shard_mels, shard_clips, strict=True):
                clips.append(replace(clip, first=frames))
                frames += len(mel)
            mels += shard_mels
            if done % 10 == 0 or done == len(parts):
                hours, seconds = frames / dataset.FRAMES_A_SECOND / 3600, time.perf_counter() - start
                print(f"{done}/{len(parts)} shards, {hours:.1f} h of speech in {seconds:.0f} s", flush=True)
    rng = np.random.default_rng(arguments.seed)
    noises = {kind: dataset.mel_power(noise.make(rng, kind, _NOISE_S * SAMPLE_RATE)) for kind in noise.KINDS}
    dataset.write(arguments.folder, mels, clips, noises)
    print(f"wrote {len(clips)} clips and {len(noises)} noises to {arguments.folder}")


if __name__ == "__main__":
    main()
