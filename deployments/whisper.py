"""The Whisper replica: one engine, shared by all requests.

The engine brings torch; the processes that only deploy this one are spared them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serve_app.cores import limit_openmp_spinning
from serve_app.schemas.request import TranscriptionOptions
from serve_app.settings import ServedModel, WhisperSettings
from serve_app.whisper.engine.scheduler import Batching
from serve_app.whisper.window_text import WindowText

if TYPE_CHECKING:
    from serve_app.audio.windows import Window
    from serve_app.whisper.engine.stats import EngineStats


class Whisper:
    """Windows of all requests for one model meet in this replica's engine and leave it as text."""

    def __init__(self, model: ServedModel, settings: WhisperSettings, models_dir: Path) -> None:
        limit_openmp_spinning()  # before torch is imported
        from serve_app.models.resolve import resolve_checkpoint
        from serve_app.whisper.engine.engine import Engine
        from serve_app.whisper.model.whisper_model import WhisperModel

        source = resolve_checkpoint(model.checkpoint, models_dir)
        loaded = WhisperModel.load(source, model.effective_whisper_settings(settings))
        self.engine = Engine(loaded, Batching(), settings.watchdog_s)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take `user_config` of the Serve config, at start and live."""
        self.engine.reconfigure(Batching.model_validate(user_config))

    async def transcribe(
        self,
        pcm: NDArray[np.int16],
        windows: list[Window],
        options: TranscriptionOptions,
        job_id: str,
        interactive: bool = True,
        previous: tuple[int, ...] | None = None,
    ) -> list[WindowText]:
        """The text of each window of `pcm`, in order; see `block.recognise`."""
        from serve_app.whisper.engine.batch import transcribe_windows

        return await transcribe_windows(
            self.engine, pcm, windows, options, job_id, interactive=interactive, previous=previous
        )

    def stats(self) -> EngineStats:
        """Return the counters of the engine."""
        return self.engine.stats()

    def batching(self) -> Batching:
        """Return the current options of batching."""
        return self.engine.batching

    def check_health(self) -> None:
        """Raise when the engine's thread is gone or hangs: Serve then replaces the replica."""
        self.engine.check_health()
