"""The diarizer replica: a diarization pipeline, one recording at a time. Only bound when `diarization.pipeline` is set.

The pipeline imports pyannote.audio and torch; processes that only deploy this class do not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serve_app.cores import limit_openmp_spinning
from serve_app.observability.logs import configure_logging
from serve_app.schemas.request import DiarizationOptions
from serve_app.schemas.transcript import Turn
from serve_app.settings import AppSettings


class Diarizer:
    """Finds the speaker turns of whole recordings."""

    def __init__(self, settings: AppSettings) -> None:
        configure_logging(settings.logs)
        limit_openmp_spinning()  # before torch is imported
        from serve_app.diarization.pipeline import SpeakerPipeline
        from serve_app.diarization.worker import Worker

        self.pipeline = SpeakerPipeline.load(settings.diarization, settings.vad, settings.models_dir)
        self.worker = Worker(self.pipeline.begin, settings.diarization.watchdog_s)

    async def diarize(
        self, pcm: NDArray[np.int16], options: DiarizationOptions, interactive: bool = True
    ) -> tuple[Turn, ...]:
        """Return the speaker turns of a recording; see `SpeakerPipeline.diarize`. Interactive ones have priority."""
        return await self.worker.submit(lambda beat: self.pipeline.diarize(pcm, options, beat), interactive)

    def check_health(self) -> None:
        """Raise when the pipeline's thread has ended or hangs: Serve then replaces the replica."""
        self.worker.check_health()
