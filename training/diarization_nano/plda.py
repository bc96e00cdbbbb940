"""Estimate how much embeddings vary within a speaker of a recording, and between speakers.

    python -m training.diarization_nano.plda data/training/diarization-nano serve_app/models/diarization-nano

A probabilistic linear discriminant analysis in the format of pyannote.audio's VBx clustering, from conversations of the
speakers that the networks were trained on. Writes the folder's plda/.
"""

import argparse
import os
from pathlib import Path

os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import numpy.typing as npt
import torch
from pyannote.audio import Model
from scipy.linalg import eigh

from serve_app.audio import SAMPLE_RATE
from serve_app.diarization.nano import NanoEmbedding
from serve_app.diarization.nets import CHUNK_S, FRAME, frames
from training.diarization_nano.conversations import conversations
from training.diarization_nano.cpu_settings import flush_denormals
from training.diarization_nano.dataset import SpeechDataset

Floats = npt.NDArray[np.float64]

DIMENSION = 64
"""The number of directions kept: those with the largest variance between speakers relative to that within one."""
MIN_SHARE = 0.2
"""Minimum share of a chunk in which only one speaker speaks, as in VBx clustering."""
STEP_S = 2.0
_FLOOR = 1e-3


def chunk_embeddings(
    dataset: SpeechDataset, net: NanoEmbedding, count: int, seed: int
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return embeddings (n, dimension) of the chunks of `count` conversations, and the speaker of each: a number for
    every speaker of every conversation.
    """
    chunk, step = round(CHUNK_S * SAMPLE_RATE), round(STEP_S * SAMPLE_RATE)
    vectors, speaker_ids, speakers = [], [], 0
    for batch in conversations(dataset, count, seed, longest=120.0):
        starts = range(0, batch.samples.shape[1] - chunk, step)
        sound = batch.samples[0].unfold(0, chunk, step)
        edges = [start // FRAME for start in starts]
        speaking = torch.stack([batch.speaking[0, :, edge : edge + frames(chunk)] for edge in edges])
        masks = speaking & (speaking.sum(1, keepdim=True) == 1)
        for batch_indices in torch.arange(len(starts)).split(16):
            embeddings = net(sound[batch_indices].unsqueeze(1), masks[batch_indices].float())
            long_enough = masks[batch_indices].float().mean(2) >= MIN_SHARE
            vectors.append(embeddings[long_enough].double().numpy())
            speaker_ids.append((speakers + torch.arange(masks.shape[1]).expand_as(long_enough)[long_enough]).numpy())
        speakers += masks.shape[1]
    return np.concatenate(vectors), np.concatenate(speaker_ids)


def covariances(vectors: Floats, speaker_ids: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return (within, between): the covariances of a speaker's vectors about their mean, and of the means."""
    _, place, count = np.unique(speaker_ids, return_inverse=True, return_counts=True)
    means = np.zeros((len(count), vectors.shape[1]))
    np.add.at(means, place, vectors)
    means /= count[:, None]
    inside = vectors - means[place]
    within = inside.T @ inside / (len(vectors) - len(count))
    # The mean of few vectors itself varies about the speaker's true mean.
    between = np.cov(means.T) - within * np.mean(1 / count)
    return within, between


def directions(within: Floats, between: Floats) -> tuple[Floats, Floats]:
    """Return (variances, directions as columns) between speakers, largest first, where the variance within one is 1."""
    ridge = _FLOOR * np.trace(within) / len(within) * np.eye(len(within))
    variances, columns = eigh(between, within + ridge)
    return np.maximum(variances[::-1], _FLOOR), columns[:, ::-1]


def unit(vectors: Floats) -> Floats:
    """Normalise vectors to length one."""
    units: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units


def write(folder: Path, vectors: Floats, speaker_ids: npt.NDArray[np.int64], dimension: int = DIMENSION) -> Floats:
    """Write both files; return the variances between speakers in the directions kept, relative to those within one."""
    mean1 = vectors.mean(0)
    centred = np.sqrt(vectors.shape[1]) * unit(vectors - mean1)
    lda = directions(*covariances(centred, speaker_ids))[1][:, :dimension]
    mean2 = (centred @ lda).mean(0)
    projected = np.sqrt(dimension) * unit(centred @ lda - mean2)
    mu = projected.mean(0)
    psi, columns = directions(*covariances(projected, speaker_ids))
    folder.mkdir(parents=True, exist_ok=True)
    single = [array.astype(np.float32) for array in (mean1, mean2, lda, mu, columns.T, psi)]
    np.savez_compressed(folder / "xvec_transform.npz", mean1=single[0], mean2=single[1], lda=single[2])
    np.savez_compressed(folder / "plda.npz", mu=single[3], tr=single[4], psi=single[5])
    return psi


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="written by training.diarization_nano.synthesise")
    parser.add_argument("folder", type=Path, help="written by training.diarization_nano.export")
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    flush_denormals()
    net = Model.from_pretrained(arguments.folder / "embedding").eval()
    with torch.inference_mode():
        dataset = SpeechDataset(arguments.data, torch.device("cpu"))
        vectors, speaker_ids = chunk_embeddings(dataset, net, arguments.conversations, arguments.seed)
    psi = write(arguments.folder / "plda", vectors, speaker_ids)
    speakers = len(set(speaker_ids.tolist()))
    print(f"{len(vectors)} embeddings of {speakers} speakers: variances between them {psi[0]:.0f} to {psi[-1]:.2g}")


if __name__ == "__main__":
    main()
