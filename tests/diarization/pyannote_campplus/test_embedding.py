from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from serve_app.diarization.protocol import Samples
from serve_app.diarization.pyannote_campplus.campplus import DIMENSION, CAMPPlus, compute_features
from serve_app.diarization.pyannote_campplus.embedding import embed_clip, embed_stretches
from serve_app.diarization.pyannote_campplus.stretches import Stretch
from serve_app.models.catalogue import EMBEDDING
from tests.diarization.conversation import conversation

LENGTHS = [50, 15, 130, 50, 24, 75, 61, 25, 50, 500, 17, 70, 50, 50, 50, 50, 50, 50, 50, 50, 50]
"""Several of one shortened length, more of 50 frames than a batch has; the shortest and the longest possible ones."""
STRETCHES = [Stretch(at, at + length) for at, length in zip(range(100, 900, 37), LENGTHS, strict=False)]


@pytest.fixture(scope="module")
def network(real_pipeline: Path) -> CAMPPlus:
    return CAMPPlus.from_checkpoint(load_file(real_pipeline / EMBEDDING))


@pytest.fixture(scope="module")
def samples() -> Samples:
    """Recordings without silences, because these have no pattern."""
    sound = conversation(100).astype(np.float32) / np.float32(32768)
    loud: Samples = sound[np.abs(sound) > 1e-4][: 21 * 16_000]
    return loud


@pytest.fixture(scope="module")
def embedded(network: CAMPPlus, samples: Samples) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    """The embeddings of STRETCHES, and those of their parts."""
    wholes, parts = embed_stretches(network, samples, STRETCHES, lambda: None)
    counts = [len(stretch.parts()) for stretch in STRETCHES]
    assert len(parts) == sum(counts)
    return wholes, np.split(parts, np.cumsum(counts)[:-1])


def cosines(some: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(some, axis=-1) * np.linalg.norm(others, axis=-1)
    found: NDArray[np.float32] = (some * others).sum(-1) / lengths
    return found


def test_every_stretch_and_part_has_an_embedding(
    embedded: tuple[NDArray[np.float32], list[NDArray[np.float32]]],
) -> None:
    wholes, parts = embedded
    assert wholes.shape == (len(STRETCHES), DIMENSION)
    everything = np.concatenate([wholes, *parts])
    assert np.isfinite(everything).all()
    assert everything.any(1).all()
    assert [len(its_parts) for its_parts in parts] == [max(1, round(length / 50)) for length in LENGTHS]


def test_embeddings_do_not_depend_on_the_other_stretches(
    network: CAMPPlus, samples: Samples, embedded: tuple[NDArray[np.float32], list[NDArray[np.float32]]]
) -> None:
    for stretch, whole, parts in zip(STRETCHES, *embedded, strict=True):
        (alone,), parts_alone = embed_stretches(network, samples, [stretch], lambda: None)
        assert cosines(alone, whole) > 0.9999
        assert (cosines(parts_alone, parts) > 0.9999).all()


def test_embeddings_are_in_the_order_of_the_stretches(
    network: CAMPPlus, samples: Samples, embedded: tuple[NDArray[np.float32], list[NDArray[np.float32]]]
) -> None:
    wholes, parts = embedded
    between = cosines(wholes[:, None], wholes[None]) - np.eye(len(wholes))
    assert between.max() < 0.999, "the stretches are so similar that any order is right"
    order = np.random.default_rng(0).permutation(len(STRETCHES))
    others, parts_of_others = embed_stretches(network, samples, [STRETCHES[at] for at in order], lambda: None)
    assert (cosines(others, wholes[order]) > 0.9999).all()
    assert (cosines(parts_of_others, np.concatenate([parts[at] for at in order])) > 0.9999).all()


@pytest.mark.parametrize(
    ("stretch", "first", "frames"),
    [
        (Stretch(200, 300), 200, 100),
        (Stretch(200, 265), 207, 50),  # the middle second
        (Stretch(200, 249), 212, 25),
        (Stretch(200, 224), 204, 15),
    ],
)
def test_a_stretch_is_embedded_as_a_clip_of_its_middle(
    network: CAMPPlus, samples: Samples, stretch: Stretch, first: int, frames: int
) -> None:
    (whole,), _ = embed_stretches(network, samples, [stretch], lambda: None)
    clip = samples[first * 320 : (first + frames) * 320 + 240]
    assert cosines(whole, embed_clip(network, clip)) > 0.9999
    assert cosines(whole, embed_clip(network, samples[(first + 2) * 320 :][: len(clip)])) < 0.9999


def test_parts_are_embedded_within_the_whole_stretch(network: CAMPPlus, samples: Samples) -> None:
    _, parts = embed_stretches(network, samples, [Stretch(200, 325)], lambda: None)
    features = compute_features(torch.from_numpy(samples[200 * 320 : 325 * 320 + 240]))
    frames = network.frames(features[None])[0].numpy()
    for part, (start, end) in zip(parts, pairwise([0, 62, 125]), strict=True):
        statistics = np.concatenate([frames[start:end].mean(0), frames[start:end].std(0, ddof=1)])
        assert cosines(part, network.dense(torch.from_numpy(statistics)).numpy()) > 0.9999


def test_a_clip_shorter_than_a_frame_has_no_embedding(network: CAMPPlus, samples: Samples) -> None:
    for length in (0, 1, 559):
        embedding = embed_clip(network, samples[:length])
        assert embedding.shape == (DIMENSION,)
        assert np.isnan(embedding).all()
    assert np.isfinite(embed_clip(network, samples[:560])).all()


def test_heartbeat_can_stop_it(network: CAMPPlus, samples: Samples) -> None:
    heartbeats = 0

    def heartbeat() -> None:
        nonlocal heartbeats
        heartbeats += 1
        if heartbeats == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        embed_stretches(network, samples, STRETCHES[:4], heartbeat)
    assert heartbeats == 2


def test_heartbeats_are_frequent(network: CAMPPlus, samples: Samples) -> None:
    """There is one at least every ten seconds of audio."""
    heartbeats: list[None] = []
    embed_stretches(
        network, samples, [Stretch(100 + at, 150 + at) for at in range(21)], lambda: heartbeats.append(None)
    )
    assert len(heartbeats) >= 3
