"""The network of real weights, compared with 3D-Speaker's implementation of it.

`campplus_reference.json` has the embeddings that 3D-Speaker's own code computes of `chirp`, by the number of feature
frames.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from serve_app.diarization.pyannote_campplus.campplus import CHANNELS, DIMENSION, MELS, CAMPPlus
from serve_app.models.catalogue import EMBEDDING

REFERENCE: dict[int, list[float]] = {
    int(frames): embedding
    for frames, embedding in json.loads(Path(__file__).with_name("campplus_reference.json").read_text()).items()
}


@pytest.fixture(scope="module")
def network(real_pipeline: Path) -> CAMPPlus:
    return CAMPPlus.from_checkpoint(load_file(real_pipeline / EMBEDDING))


@pytest.fixture(scope="module")
def bfloat16_network(real_pipeline: Path) -> CAMPPlus:
    network = CAMPPlus.from_checkpoint(load_file(real_pipeline / EMBEDDING))
    network.set_dtype(torch.bfloat16)
    return network


def chirp(frames: int) -> torch.Tensor:
    """Return features (frames, MELS)."""
    t, m = np.arange(frames)[:, None] / 100, np.arange(MELS)[None]
    features = 4 * np.sin(2 * np.pi * (1.3 * t + m / 20)) * np.cos(0.7 * t * (1 + m / 40))
    return torch.from_numpy(features.astype(np.float32))


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("frames", REFERENCE)
def test_embeddings_equal_those_of_3d_speaker(network: CAMPPlus, frames: int) -> None:
    embedding = network(chirp(frames)[None])[0].numpy()
    assert embedding.shape == (DIMENSION,)
    np.testing.assert_allclose(embedding, REFERENCE[frames], rtol=0, atol=1e-3)


@pytest.mark.parametrize("frames", REFERENCE)
def test_embeddings_in_bfloat16_are_similar(bfloat16_network: CAMPPlus, frames: int) -> None:
    embedding = bfloat16_network(chirp(frames)[None])[0]
    assert embedding.dtype == torch.float32
    assert cosine(embedding.numpy(), np.array(REFERENCE[frames], np.float32)) > 0.998


def test_embeddings_do_not_depend_on_the_batch(network: CAMPPlus) -> None:
    features = torch.stack([chirp(300), chirp(600)[300:], -chirp(300)])
    for one, embedding in zip(features, network(features), strict=True):
        np.testing.assert_allclose(embedding.numpy(), network(one[None])[0].numpy(), rtol=0, atol=1e-3)


def test_embeddings_do_not_depend_on_loudness(network: CAMPPlus) -> None:
    """A factor of the sound is a summand of all log energies."""
    np.testing.assert_allclose(network(chirp(300)[None] + 7)[0].numpy(), REFERENCE[300], rtol=0, atol=1e-3)


@pytest.mark.parametrize("offset", [0, 30])
def test_masked_embeddings_are_of_the_statistics_of_their_frames(network: CAMPPlus, offset: int) -> None:
    frames = network.frames(torch.stack([chirp(400), chirp(800)[400:]])) + offset
    assert frames.shape == (2, 200, CHANNELS)
    chance = np.random.default_rng(0)
    masks = np.stack([chance.random((2, 200)) < share for share in (0.1, 0.5, 0.9)], axis=1)
    masks[0, 0] = np.arange(200) < 15  # as short as any stretch
    embeddings = network.embed(frames, torch.from_numpy(masks.astype(np.float32))).numpy()
    assert embeddings.shape == (2, 3, DIMENSION)
    for recording, speaker in np.ndindex(2, 3):
        chosen = frames[recording].numpy().astype(np.float64)[masks[recording, speaker]]
        statistics = np.concatenate([chosen.mean(0), chosen.std(0, ddof=1)])
        expected = network.dense(torch.from_numpy(statistics.astype(np.float32))).numpy()
        np.testing.assert_allclose(embeddings[recording, speaker], expected, rtol=0, atol=1e-3)


def test_last_layer_is_exact_whatever_the_type(real_pipeline: Path) -> None:
    exact, fast = (CAMPPlus.from_checkpoint(load_file(real_pipeline / EMBEDDING)) for _ in range(2))
    fast.set_dtype(torch.bfloat16)
    assert torch.equal(exact.dense.weight, fast.dense.weight)
    assert {layer.dtype for layer in fast.blocks.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("selected", [0, 1])
def test_masks_of_hardly_any_frame_have_finite_embeddings(network: CAMPPlus, selected: int) -> None:
    mask = torch.zeros(1, 1, 100)
    mask[:, :, :selected] = 1
    assert network.embed(network.frames(chirp(200)[None]), mask).isfinite().all()
