"""Sound to encoder states, beside the decoder where the device can do two things at once."""

import time
from collections.abc import Sequence
from contextlib import nullcontext

import torch

from serve_app.whisper.engine.window_task import WindowTask
from serve_app.whisper.model.whisper_model import WhisperModel

CUDA_BATCH, CPU_BATCH = 8, 1
"""Windows a device encodes at a time: enough to fill it, few enough that decoding steps, and windows that are more
urgent, get in between."""


class EncodingBatch:
    """Windows on their way through the encoder, since `started` (of the monotonic clock)."""

    def __init__(self, works: Sequence[WindowTask], started: float, done: torch.cuda.Event | None) -> None:
        self.tasks = list(works)
        self.started = started
        self._done = done

    def is_ready(self) -> bool:
        """Whether the device has finished."""
        return self._done is None or self._done.query()

    def join(self) -> list[WindowTask]:
        """The windows, each with its states; what the device does from now on waits for them."""
        if self._done is not None:
            torch.cuda.current_stream().wait_event(self._done)
        return self.tasks


class EncoderStage:
    """A model's encoder, on a stream of its own."""

    def __init__(self, model: WhisperModel) -> None:
        self._model = model
        self.batch_size = CUDA_BATCH if model.device.type == "cuda" else CPU_BATCH
        """Windows to start with at a time."""
        self._stream = torch.cuda.Stream(model.device) if model.device.type == "cuda" else None

    def start(self, works: Sequence[WindowTask]) -> EncodingBatch:
        """Encode the windows that have not been encoded yet."""
        started = time.monotonic()
        fresh = [work for work in works if work.states is None]
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            if fresh:
                states = self._model.encode(self._model.features([work.sound for work in fresh]))
                for work, own in zip(fresh, states.split(1), strict=True):
                    work.states = own
            done = None
            if self._stream:
                done = torch.cuda.Event()
                done.record()
        return EncodingBatch(works, started, done)
