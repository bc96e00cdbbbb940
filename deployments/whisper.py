"""The Whisper replica: one engine, shared by all requests.

The engine imports torch; processes that only deploy this class do not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deployments.metrics import RayMetrics
from serve_app.cores import limit_openmp_spinning
from serve_app.observability.logs import configure_logging, log_context
from serve_app.settings import LogSettings, ServedModel, WhisperSettings
from serve_app.whisper.engine.scheduler import Batching
from serve_app.whisper.engine_metrics import record_engine_stats
from serve_app.whisper.protocol import EngineStats, TranscriptionEngine, WindowBatch
from serve_app.whisper.window_text import WindowText


class Whisper:
    """The engine of one model, which batches the windows of all requests."""

    def __init__(self, model: ServedModel, settings: WhisperSettings, models_dir: Path, logs: LogSettings) -> None:
        configure_logging(logs)
        limit_openmp_spinning()  # before torch is imported
        from serve_app.models.resolve import resolve_checkpoint
        from serve_app.whisper.engine.engine import Engine
        from serve_app.whisper.model.whisper_model import WhisperModel

        source = resolve_checkpoint(model.checkpoint, models_dir)
        loaded = WhisperModel.load(source, model.effective_whisper_settings(settings))
        self.engine: TranscriptionEngine = Engine(loaded, Batching(), settings.watchdog_s)
        self.model_id = model.id
        self.metrics = RayMetrics()
        self.recorded = EngineStats()

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Apply `user_config` of the Serve config, at start and live."""
        self.engine.reconfigure(Batching.model_validate(user_config))

    async def transcribe(self, batch: WindowBatch) -> list[WindowText]:
        """Return the text of each window of a batch, in order."""
        with log_context(job_id=batch.job_id, model=self.model_id):
            return await self.engine.transcribe(batch)

    def stats(self) -> EngineStats:
        """Return the counters of the engine."""
        return self.engine.stats()

    def batching(self) -> Batching:
        """Return the current options of batching."""
        return self.engine.batching

    def check_health(self) -> None:
        """Raise when the engine's thread has ended or hangs: Serve then replaces the replica.

        Serve calls this at a steady interval, at which the engine's counters are recorded as metrics too.
        """
        self.engine.check_health()
        stats = self.engine.stats()
        record_engine_stats(self.metrics, self.model_id, self.recorded, stats)
        self.recorded = stats
