"""The diarizer replica: a pyannote pipeline, one recording at a time. Only bound when `diarization.pipeline` is set.

The pipeline brings pyannote.audio and torch; the processes that only deploy this one are spared them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serve_app.cores import limit_openmp_spinning
from serve_app.schemas.request import DiarizationOptions
from serve_app.schemas.transcript import Turn
from serve_app.settings import AppSettings


class Diarizer:
    """Tells the speakers of whole recordings apart."""

    def __init__(self, settings: AppSettings) -> None:
        limit_openmp_spinning()  # before torch is imported
        from serve_app.diarization.pipeline import SpeakerPipeline
        from serve_app.diarization.worker import Worker

        self.pipeline = SpeakerPipeline.load(settings.diarization, settings.vad)
        self.worker = Worker(self.pipeline.begin, settings.diarization.watchdog_s)

    async def diarize(
        self, pcm: NDArray[np.int16], options: DiarizationOptions, interactive: bool = True
    ) -> tuple[Turn, ...]:
        """Return the speaker turns: see `SpeakerPipeline.diarize`. Interactive recordings have priority."""
        return await self.worker.submit(lambda beat: self.pipeline.diarize(pcm, options, beat), interactive)

    def check_health(self) -> None:
        """Raise when the pipeline's thread is gone or hangs: Serve then replaces the replica."""
        self.worker.check()
