"""pyannote/segmentation-3.0: who of up to three speakers speaks in each frame of a chunk."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from serve_app.diarization.channels import detect_speech
from serve_app.diarization.protocol import Heartbeat, Samples
from serve_app.diarization.pyannote_campplus.campplus import SAMPLE_RATE
from serve_app.diarization.pyannote_campplus.frames import (
    CHUNK_FRAMES,
    CHUNK_S,
    CHUNK_STEP_S,
    SPEAKERS,
    Activity,
    segmentation_frame_at,
)
from serve_app.diarization.pyannote_library import import_pyannote
from serve_app.diarization.pyannote_pipeline import BATCH_SIZE
from serve_app.settings import VadSettings

_CLASSES = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], bool)
"""The speakers of each of the network's classes."""
_UNSURE, _UNSURE_SHARE = (0.2, 0.98), 0.9
"""A chunk is unsure if the probability of silence is between these in more than this share of its frames."""
_VAD = VadSettings(threshold=0.5, min_silence_ms=100, pad_ms=30)


class _LowPrecisionLSTM(nn.Module):
    """An LSTM whose weights and states have another type than its input and output."""

    def __init__(self, lstm: nn.LSTM, dtype: torch.dtype) -> None:
        super().__init__()
        self._lstm, self._dtype = lstm.to(dtype), dtype

    def forward(self, frames: Tensor) -> tuple[Tensor, None]:
        states, _ = self._lstm(frames.to(self._dtype))
        return states.to(frames.dtype), None


def load_segmentation(weights: Path, device: str, dtype: torch.dtype, batch_size: int | None) -> Any:
    """Return pyannote's `Inference` of the network, which maps a recording to chunks; `dtype` is that of its LSTM."""
    network = load_network(weights)
    network.lstm = _LowPrecisionLSTM(network.lstm, dtype)
    from pyannote.audio import Inference  # after `load_network`, which imports the library quietly

    return Inference(
        network,
        duration=CHUNK_S,
        step=CHUNK_STEP_S,
        skip_aggregation=True,
        skip_conversion=True,
        batch_size=batch_size or BATCH_SIZE[device],
        device=torch.device(device),
    )


def load_network(weights: Path) -> Any:
    """Return pyannote's model."""
    import_pyannote(offline=True)
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.segmentation import PyanNet

    network = PyanNet(lstm={"num_layers": 4}, sample_rate=SAMPLE_RATE)
    network.specifications = Specifications(
        problem=Problem.MONO_LABEL_CLASSIFICATION,
        resolution=Resolution.FRAME,
        duration=CHUNK_S,
        classes=[f"speaker#{number + 1}" for number in range(SPEAKERS)],
        powerset_max_classes=2,
        permutation_invariant=True,
    )
    network.build()
    network.load_state_dict(load_file(weights))
    return network.eval()


def segment(inference: Any, samples: Samples, heartbeat: Heartbeat) -> Activity:
    """Return who speaks in each chunk of a recording."""
    recording = {"waveform": torch.from_numpy(samples)[None], "sample_rate": SAMPLE_RATE}
    return decode(inference(recording, hook=lambda **_: heartbeat()).data, samples, heartbeat)


def decode(scores: NDArray[np.float32], samples: Samples, heartbeat: Heartbeat = lambda: None) -> Activity:
    """Return who speaks by the network's log-probabilities, (chunks, CHUNK_FRAMES, classes).

    In rooms with noise the network is sometimes sure neither of speech nor of silence for a whole chunk, and would miss
    everything in it. There, voice activity detection decides whether someone speaks, and the network only who.
    """
    assert scores.shape[1:] == (CHUNK_FRAMES, len(_CLASSES))
    activity: Activity = _CLASSES[scores.argmax(2)]
    low, high = np.log(_UNSURE)
    unsure = ((scores[..., 0] > low) & (scores[..., 0] < high)).mean(1) > _UNSURE_SHARE
    for chunk in np.flatnonzero(unsure).tolist():
        heartbeat()
        start = round(chunk * CHUNK_STEP_S * SAMPLE_RATE)
        speech = _detect_speech(samples[start : start + round(CHUNK_S * SAMPLE_RATE)])
        activity[chunk] = _CLASSES[1 + scores[chunk, :, 1:].argmax(1)] & speech[:, None]
    return activity


def _detect_speech(samples: Samples) -> NDArray[np.bool_]:
    """Return whether there is speech in each frame of a chunk."""
    speech = np.zeros(CHUNK_FRAMES, bool)
    for start, end in detect_speech((samples * 32767).astype(np.int16), _VAD):
        speech[segmentation_frame_at(start) : segmentation_frame_at(end)] = True
    return speech
