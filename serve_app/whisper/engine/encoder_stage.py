"""The encoder stage of the engine. On a CUDA device it runs concurrently with the decoder."""

import time
from collections.abc import Sequence
from contextlib import nullcontext

import torch

from serve_app.whisper.engine.window_task import WindowTask
from serve_app.whisper.model.whisper_model import WhisperModel

CUDA_BATCH_SIZE, CPU_BATCH_SIZE = 8, 1
"""Windows per encoder batch: enough to use the whole device, few enough not to delay decoding and urgent windows."""


class EncodingBatch:
    """Windows whose encoding was started at `started` (monotonic clock)."""

    def __init__(self, tasks: Sequence[WindowTask], started: float, done: torch.cuda.Event | None) -> None:
        self.tasks = list(tasks)
        self.started = started
        self._done = done

    def is_ready(self) -> bool:
        """Return whether the device has finished."""
        return self._done is None or self._done.query()

    def join(self) -> list[WindowTask]:
        """Return the windows with their encoder states. Later work on the current stream waits for the states."""
        if self._done is not None:
            torch.cuda.current_stream().wait_event(self._done)
        return self.tasks


class EncoderStage:
    """A model's encoder, on a CUDA stream of its own."""

    def __init__(self, model: WhisperModel) -> None:
        self._model = model
        self.batch_size = CUDA_BATCH_SIZE if model.device.type == "cuda" else CPU_BATCH_SIZE
        """Windows per encoder batch."""
        self._stream = torch.cuda.Stream(model.device) if model.device.type == "cuda" else None

    def start(self, tasks: Sequence[WindowTask]) -> EncodingBatch:
        """Start encoding the windows that have no encoder states yet."""
        started = time.monotonic()
        unencoded = [task for task in tasks if task.states is None]
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            if unencoded:
                states = self._model.encode(self._model.features([task.audio for task in unencoded]))
                for task, window_states in zip(unencoded, states.split(1), strict=True):
                    task.states = window_states
            done = None
            if self._stream:
                done = torch.cuda.Event()
                done.record()
        return EncodingBatch(tasks, started, done)
