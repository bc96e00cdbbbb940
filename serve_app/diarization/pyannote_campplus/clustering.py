"""Clustering of stretches by their embeddings: how many speakers there are, and the embedding of each. Pure."""

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from serve_app.diarization.protocol import SpeakerBounds

THRESHOLD = 0.57
"""The mean cosine distance above which two clusters are different speakers."""
MIN_SPEAKER_S = 2.0
"""A cluster with less speech is not a speaker, unless so many are requested."""
MIN_STRETCH_S = 1.25
"""Shorter stretches are not clustered, only assigned."""

Embeddings = NDArray[np.float32]
"""Vectors of shape (n, dimension)."""


def cluster(embeddings: Embeddings, seconds: NDArray[np.float64], bounds: SpeakerBounds) -> Embeddings:
    """Return the speakers' embeddings of length 1, (speakers, dimension), the one with most speech first.

    Agglomerative clustering of unit vectors with average linkage. `seconds`: the durations of the stretches. There may
    be fewer speakers than `bounds.least`, if there are fewer stretches.
    """
    units: Embeddings = unit(embeddings)
    usable = seconds >= min(MIN_STRETCH_S, seconds.max())
    units, seconds = units[usable], seconds[usable]
    if len(units) == 1:
        return unit(embeddings[usable])
    merges = linkage(units, method="average", metric="cosine")
    labels = fcluster(merges, THRESHOLD, criterion="distance") - 1
    speech = np.bincount(labels, weights=seconds)
    count = max(1, int((speech >= MIN_SPEAKER_S).sum()))
    wanted = min(max(count, bounds.least), bounds.most or count, len(units))
    if wanted != count:
        labels = _cut(merges, seconds, wanted)
        speech = np.bincount(labels, weights=seconds)
    largest = np.argsort(-speech, kind="stable")[:wanted]
    return unit(np.stack([(units * seconds[:, None])[labels == label].sum(0) for label in largest]).astype(np.float32))


def nearest(embeddings: Embeddings, speakers: Embeddings) -> NDArray[np.int64]:
    """Return the index of the most similar speaker for each embedding."""
    indices: NDArray[np.int64] = (unit(embeddings) @ speakers.T).argmax(1)
    return indices


def unit(vectors: Embeddings) -> Embeddings:
    """Normalise vectors to length 1."""
    units: Embeddings = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units


def _cut(merges: NDArray[np.float64], seconds: NDArray[np.float64], wanted: int) -> NDArray[np.int64]:
    """Return labels of the fewest clusters of which `wanted` have enough speech, or of exactly `wanted` if none do."""
    for count in range(wanted, len(seconds) + 1):
        labels = fcluster(merges, count, criterion="maxclust") - 1
        if (np.bincount(labels, weights=seconds) >= MIN_SPEAKER_S).sum() >= wanted:
            return labels  # type: ignore[no-any-return]
    return fcluster(merges, wanted, criterion="maxclust") - 1  # type: ignore[no-any-return]
