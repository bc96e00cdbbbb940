"""The PLDA for pyannote's clustering."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pyannote.audio.core.plda import PLDA

from serve_app.diarization.nano import NanoEmbedding
from training.diarization_nano.conversations import conversations
from training.diarization_nano.dataset import SpeechDataset
from training.diarization_nano.plda import chunk_embeddings, covariances, write

PEOPLE, EACH, DIMENSION = 800, 12, 8


def sample_embeddings(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw vectors of speakers about their means; return them, their speakers, and the true covariances."""
    within, between = (shape @ shape.T for shape in rng.normal(size=(2, DIMENSION, DIMENSION)))
    means = rng.multivariate_normal(np.ones(DIMENSION), 4 * between, PEOPLE)
    speaker_ids = np.arange(PEOPLE).repeat(EACH)
    vectors = means[speaker_ids] + rng.multivariate_normal(np.zeros(DIMENSION), within, len(speaker_ids))
    return vectors, speaker_ids, within, 4 * between


def test_covariances() -> None:
    vectors, speaker_ids, within, between = sample_embeddings(np.random.default_rng(1))
    for found, true in zip(covariances(vectors, speaker_ids), (within, between), strict=True):
        assert np.abs(found - true).max() < 0.15 * np.abs(true).max()


def test_pyannote_loads_the_plda(tmp_path: Path) -> None:
    vectors, speaker_ids, *_ = sample_embeddings(np.random.default_rng(2))
    psi = write(tmp_path, vectors, speaker_ids, dimension=5)
    plda = PLDA(tmp_path / "xvec_transform.npz", tmp_path / "plda.npz", lda_dimension=5)
    assert np.allclose(plda.phi, psi, rtol=1e-3)
    assert (np.diff(psi) <= 0).all()
    within, between = covariances(plda(vectors), speaker_ids)
    assert np.allclose(within, np.eye(5), atol=0.02)
    assert np.allclose(between, np.diag(psi), atol=0.02 * psi[0])


@pytest.mark.slow
def test_chunk_embeddings(tones: SpeechDataset) -> None:
    torch.manual_seed(1)
    with torch.inference_mode():
        vectors, speaker_ids = chunk_embeddings(tones, NanoEmbedding().eval(), count=2, seed=3)
    assert len(vectors) == len(speaker_ids) > 20
    assert 2 <= len(set(speaker_ids.tolist())) <= 8


def test_conversations_have_several_speakers(tones: SpeechDataset) -> None:
    for batch in conversations(tones, 3, seed=5, longest=70):
        assert batch.speaking.any(2).sum() >= 2
        assert 60 * 16_000 <= batch.samples.shape[1] <= 70 * 16_000
