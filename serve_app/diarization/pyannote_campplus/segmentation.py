"""pyannote/segmentation-3.0: who of up to three speakers speaks in each frame of a chunk."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from serve_app.diarization.protocol import Heartbeat, Samples
from serve_app.diarization.pyannote_campplus.campplus import SAMPLE_RATE
from serve_app.diarization.pyannote_campplus.frames import (
    CHUNK_FRAMES,
    CHUNK_S,
    CHUNK_STEP_S,
    SPEAKERS,
    Activity,
)
from serve_app.diarization.pyannote_library import import_pyannote

BATCH_SIZE = {"cpu": 8, "cuda": 32}


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
    scores = inference(recording, hook=lambda **_: heartbeat()).data
    assert scores.shape[1:] == (CHUNK_FRAMES, SPEAKERS)
    activity: Activity = np.nan_to_num(scores) > 0.5
    return activity
