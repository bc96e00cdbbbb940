"""pyannote's diarization with identical results in less time and memory.

Chunks overlap and have several speakers. The library runs the embedding network once for each speaker of each chunk,
and keeps an array over chunks, frames and all speakers of the recording. Here each chunk goes through the network once,
with the masks of all its speakers, and only if it contains speech.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyannote.audio.pipelines import SpeakerDiarization
from pyannote.audio.pipelines.speaker_verification import PyannoteAudioPretrainedSpeakerEmbedding as SpeakerEmbedding
from pyannote.core import SlidingWindow, SlidingWindowFeature

_Numbers = NDArray[np.int64]
_Floats = NDArray[np.float32]

_NOT_SPEAKING = -2
"""The library's cluster number of a speaker who is silent in a chunk."""


class BatchedSpeakerDiarization(SpeakerDiarization):
    """A faster `SpeakerDiarization`: set a loaded pipeline's `__class__` to it. Methods override the library's."""

    @classmethod
    def is_supported(cls, pipeline: SpeakerDiarization) -> bool:
        """Return whether the embedding network takes several masks of a chunk, with the same result as one by one."""
        embedding = pipeline._embedding
        if type(pipeline) is not SpeakerDiarization or not isinstance(embedding, SpeakerEmbedding):
            return False
        generator = torch.Generator().manual_seed(0)
        samples = round(pipeline._segmentation.duration * embedding.sample_rate)
        frames = pipeline._segmentation.model.num_frames(samples)
        waves = torch.randn(2, 1, samples, generator=generator)
        masks = (torch.rand(2, 3, frames, generator=generator) < 0.5).float()
        try:
            together = embedding(waves, masks=masks)
        except (RuntimeError, ValueError, IndexError):
            return False
        alone = np.stack([embedding(waves, masks=masks[:, speaker]) for speaker in range(3)], axis=1)
        return together.shape == alone.shape and np.allclose(together, alone, rtol=1e-4, atol=1e-5)

    def get_embeddings(
        self,
        file: dict[str, Any],
        binary_segmentations: SlidingWindowFeature,
        exclude_overlap: bool = False,
        hook: Callable[..., None] | None = None,
    ) -> _Floats:
        """Return (chunks, speakers, dimension); silent speakers get the embedding of an empty mask."""
        chunks, speech = binary_segmentations.sliding_window, binary_segmentations.data
        least = self._least_frames(speech.shape[1], chunks.duration) if exclude_overlap else None
        wave, rate = file["waveform"], file["sample_rate"]
        samples = round(chunks.duration * rate)
        starts = [round(chunks[number].start * rate) for number in range(len(speech))]
        wave = torch.nn.functional.pad(wave, (0, max(0, starts[-1] + samples - wave.shape[1])))
        silent_embedding = self._embedding(wave[None, :, :samples], masks=torch.zeros(1, 1, speech.shape[1]))[0]
        embeddings: _Floats = np.tile(silent_embedding, (len(speech), speech.shape[2], 1))
        batches = list(_batches(speech, self.embedding_batch_size))
        for done, numbers in enumerate(batches):
            if hook is not None:
                hook("embeddings", None, total=len(batches), completed=done)
            masks = _masks(speech[numbers], least)
            waves = torch.stack([wave[:, starts[number] : starts[number] + samples] for number in numbers])
            found = self._embedding(waves, masks=torch.from_numpy(masks))
            embeddings[numbers] = np.where(masks.any(axis=2, keepdims=True), found, silent_embedding)
        return embeddings

    def _least_frames(self, frames: int, duration: float) -> int:
        """Return the number of frames that a mask without overlaps must exceed; otherwise overlaps are included."""
        samples: float = duration * self._embedding.sample_rate
        return math.ceil(frames * int(self._embedding.min_num_samples) / samples)

    def reconstruct(
        self, segmentations: SlidingWindowFeature, hard_clusters: _Numbers, count: SlidingWindowFeature
    ) -> SlidingWindowFeature:
        """Return (frames, speakers) of 0 and 1: the likeliest speakers of each frame, as many as were counted."""
        chunks, speech = segmentations.sliding_window, segmentations.data
        frames = SlidingWindow(
            start=chunks.start, duration=count.sliding_window.duration, step=count.sliding_window.step
        )
        half = 0.5 * frames.duration
        length = frames.closest_frame(chunks[len(speech) - 1].end + half) + 1
        speakers = max(int(hard_clusters.max()) + 1, int(count.data.max()))
        votes = np.zeros((length, speakers), np.float32)
        for number, clusters in enumerate(hard_clusters):
            first = frames.closest_frame(chunks[number].start + half)
            for cluster in set(clusters.tolist()) - {_NOT_SPEAKING}:
                activity = np.nan_to_num(speech[number][:, clusters == cluster].max(axis=1))
                votes[first : first + len(activity), cluster] += activity
        activations = SlidingWindowFeature(votes, frames)
        extent = activations.extent & count.extent
        activations = activations.crop(extent, return_data=False)
        counted = count.crop(extent)[: len(activations.data)]
        ranked = np.argsort(-activations.data, axis=-1)
        speaking = np.zeros_like(activations.data)
        np.put_along_axis(speaking, ranked, (np.arange(speakers) < counted).astype(np.float32), axis=-1)
        return SlidingWindowFeature(speaking, activations.sliding_window)


def _batches(speech: _Floats, size: int) -> Iterator[_Numbers]:
    """Yield the indices of chunks that contain speech, `size` at a time."""
    spoken = np.flatnonzero((np.nan_to_num(speech) != 0).any(axis=(1, 2)))
    for first in range(0, len(spoken), size):
        yield spoken[first : first + size]


def _masks(speech: _Floats, least: int | None) -> _Floats:
    """Convert speech (chunks, frames, speakers) to the embedding's masks (chunks, speakers, frames).

    Overlaps are excluded from masks with more than `least` other frames; None: from no mask.
    """
    masks = np.nan_to_num(speech).astype(np.float32)
    if least is not None:
        alone = np.nan_to_num(speech * (speech.sum(axis=2, keepdims=True) < 2)).astype(np.float32)
        masks = np.where(alone.sum(axis=1, keepdims=True) > least, alone, masks)
    return np.ascontiguousarray(masks.transpose(0, 2, 1))
