"""The interface between the service and an engine: a batch of windows in, their texts out. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from serve_app.schemas.request import TranscriptionOptions
from serve_app.whisper.engine.scheduler import Batching
from serve_app.whisper.window_text import WindowText

if TYPE_CHECKING:
    from serve_app.audio.windows import Window


@dataclass(frozen=True, eq=False)
class WindowBatch:
    """Windows of one job that an engine transcribes in one call, with all that it needs to do so.

    `pcm`: 16 kHz mono int16, shape (n,). `windows` are in samples of `pcm`, in order, each of at most 30 s.
    Interactive batches have priority. `previous_tokens`: tokens of the text before this batch, null for the first
    batch of a recording; with `condition_on_previous_text` they are the prompt, and the windows are decoded one after
    another.
    """

    pcm: NDArray[np.int16]
    windows: tuple[Window, ...]
    options: TranscriptionOptions
    job_id: str
    interactive: bool = True
    previous_tokens: tuple[int, ...] | None = None


@dataclass(frozen=True)
class EngineStats:
    """Counters of an engine since it started, and the current number of its windows.

    `windows`: finished windows; `tokens`: theirs; `failed`: windows that ended in an error. `encoded`: windows that
    went through the encoder. `attempts`: decoding attempts. `remaining_clips`: clips that were decoded because a text
    left out speech of its window. `uncovered_s`: seconds of detected speech that have no text nevertheless. `steps`:
    decoder steps; `rows`: the rows they computed in total. `waiting`: windows queued now; `decoding`: windows that have
    rows now.
    """

    windows: int = 0
    failed: int = 0
    tokens: int = 0
    encoded: int = 0
    attempts: int = 0
    remaining_clips: int = 0
    uncovered_s: float = 0.0
    steps: int = 0
    rows: int = 0
    waiting: int = 0
    decoding: int = 0

    @property
    def mean_batch_size(self) -> float:
        """Mean number of rows per decoder step."""
        return self.rows / self.steps if self.steps else 0.0


class TranscriptionEngine(Protocol):
    """The interface of a Whisper replica's engine; `whisper/engine/engine.py` implements it.

    To add another: a folder beside `whisper/engine/` with a class of these methods, which `deployments/whisper.py`
    makes instead. Nothing else depends on an engine: `Pipeline` passes batches on and gets `WindowText`s back.
    Requests are checked before they reach an engine, by the `ModelCard` of the checkpoint (`whisper/model/card.py`).
    An engine of models that are no Whisper checkpoints needs a card of its own too, where `deployments/ingress.py`
    loads them.
    """

    async def transcribe(self, batch: WindowBatch) -> list[WindowText]:
        """Return the text of each window, in order; times are in seconds of the window.

        Many calls run at a time, and share the device. Cancelling aborts the windows. Raises InvalidRequest for
        options that the model does not support, and Unavailable after `close`.
        """

    @property
    def batching(self) -> Batching:
        """The current options of batching."""

    def reconfigure(self, batching: Batching) -> None:
        """Change the options of batching while windows are transcribed."""

    def stats(self) -> EngineStats:
        """Return the current counters. An engine without decoder rows leaves theirs at zero."""

    def check_health(self) -> None:
        """Raise RuntimeError if the engine is unhealthy, so that its replica is replaced."""

    def close(self) -> None:
        """Cancel all unfinished windows and free the device."""
