"""Embeddings of stretches and of their parts, computed in batches of stretches of one length."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.diarization.protocol import Embedding, Heartbeat, Samples
from serve_app.diarization.pyannote_campplus.campplus import (
    DIMENSION,
    FRAME,
    FRAME_OVERHANG,
    CAMPPlus,
    compute_features,
)
from serve_app.diarization.pyannote_campplus.clustering import Embeddings
from serve_app.diarization.pyannote_campplus.frames import EMBEDDING_FRAMES_PER_S, embedding_frames
from serve_app.diarization.pyannote_campplus.stretches import SHORTEST_S, Stretch

_LENGTH_STEP = EMBEDDING_FRAMES_PER_S // 2
"""Stretches are shortened to multiples of half a second, because a CPU's matrix kernels are compiled for each length:
for a new length that takes 45 ms, more than the computation itself.
"""
_SHORTEST = round(SHORTEST_S * EMBEDDING_FRAMES_PER_S)
_BATCH_FRAMES = 500
"""The frames of a batch: more are not faster on a CPU."""


def embed_stretches(
    network: CAMPPlus, samples: Samples, stretches: Sequence[Stretch], heartbeat: Heartbeat
) -> tuple[Embeddings, Embeddings]:
    """Return the embedding of each stretch, and those of all parts of all stretches, in order.

    A part's embedding is made of its frames, which depend on the whole stretch around it.
    """
    wholes = np.zeros((len(stretches), DIMENSION), np.float32)
    parts: list[Embeddings] = [wholes] * len(stretches)
    for numbers in _batches(stretches):
        heartbeat()
        batch = [stretches[number] for number in numbers]
        for number, (whole, *of_parts) in zip(numbers, _embed_batch(network, samples, batch), strict=True):
            wholes[number], parts[number] = whole, np.stack(of_parts)
    return wholes, np.concatenate(parts)


@torch.inference_mode()
def embed_clip(network: CAMPPlus, samples: Samples) -> Embedding:
    """Return the embedding of audio with a single speaker; NaN if it is shorter than a frame."""
    frames = embedding_frames(len(samples))
    if not frames:
        return np.full(DIMENSION, np.nan, np.float32)
    embedding: Embedding = network(_features(network, samples)[None])[0].cpu().numpy()
    return embedding


def _batches(stretches: Sequence[Stretch]) -> Iterator[list[int]]:
    """Yield the indices of stretches of one shortened length, at most `_BATCH_FRAMES` together."""

    def length(number: int) -> int:
        return _shorten(stretches[number]).frames

    for frames, group in groupby(sorted(range(len(stretches)), key=length), key=length):
        numbers, size = list(group), max(1, _BATCH_FRAMES // frames)
        for first in range(0, len(numbers), size):
            yield numbers[first : first + size]


def _shorten(stretch: Stretch) -> Stretch:
    """Return the middle of a stretch: as many half seconds as there are, or the shortest length."""
    frames = stretch.frames // _LENGTH_STEP * _LENGTH_STEP or _SHORTEST
    start = stretch.start + (stretch.frames - frames) // 2
    return Stretch(start, start + frames)


@torch.inference_mode()
def _embed_batch(network: CAMPPlus, samples: Samples, batch: Sequence[Stretch]) -> Iterator[NDArray[np.float32]]:
    """Yield the embeddings of each stretch and its parts, (1 + parts, dimension); shortened, all have one length."""
    middles = [_shorten(stretch) for stretch in batch]
    features = [
        _features(network, samples[middle.start * FRAME : middle.end * FRAME + FRAME_OVERHANG]) for middle in middles
    ]
    frames = network.frames(torch.stack(features))
    for middle, stretch, its_frames in zip(middles, batch, frames, strict=True):
        pieces = [stretch, *stretch.parts()]
        masks = np.zeros((1, len(pieces), middle.frames), np.float32)
        for mask, piece in zip(masks[0], pieces, strict=True):
            mask[max(0, piece.start - middle.start) : piece.end - middle.start] = 1
        embeddings = network.embed(its_frames[None], torch.from_numpy(masks).to(frames.device))
        yield embeddings[0].cpu().numpy()


def _features(network: CAMPPlus, samples: Samples) -> torch.Tensor:
    return compute_features(torch.from_numpy(samples).to(network.dense.weight.device))
