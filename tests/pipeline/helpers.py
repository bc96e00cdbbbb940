"""A pipeline around a stand-in for the Whisper replicas."""

from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
from pydub import AudioSegment

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.net.ssrf import guarded_session
from serve_app.pipeline.block_cache import BlockCache
from serve_app.pipeline.diarize import Diarize
from serve_app.pipeline.progress import Report
from serve_app.pipeline.transcribe import Pipeline, TranscribeBatch
from serve_app.schemas.job import Job
from serve_app.schemas.request import JobRequest, TranscriptionOptions
from serve_app.schemas.transcript import Transcript, TranscriptStream, final_transcript
from serve_app.settings import AppSettings, LimitSettings
from serve_app.storage.blobs import BlobStore
from serve_app.whisper.protocol import WindowBatch
from serve_app.whisper.window_text import WindowSegment, WindowText

DATA = Path(__file__).parents[1] / "data"

NO_TEXT = WindowText(
    language="en", text="", segments=(), tokens=(), avg_logprob=0, no_speech_prob=1, compression_ratio=0
)


def window_text(text: str, tokens: tuple[int, ...] = (1,)) -> WindowText:
    """Return the text of a window with one segment."""
    segment = WindowSegment(start=0.0, end=0.5, text=text, tokens=tokens)
    return NO_TEXT.model_copy(update={"segments": (segment,), "tokens": tokens})


async def transcribe(
    settings: AppSettings,
    sound: bytes,
    transcribe_batch: TranscribeBatch,
    *,
    options: TranscriptionOptions | None = None,
    diarize: Diarize | None = None,
    stream: bool = False,
    report: Report = lambda progress: None,
    block_cache: BlockCache | None = None,
) -> TranscriptStream:
    """Transcribe a file's bytes, and check that no temporary file is left."""
    blobs = BlobStore(settings.blob_root)

    async def chunks() -> Any:
        yield sound

    request = JobRequest(source=await blobs.write(chunks()), options=options or TranscriptionOptions())
    async with guarded_session(settings.network) as session:
        pipeline = Pipeline(settings, blobs, session, transcribe_batch, diarize)
        try:
            async with aclosing(pipeline.transcribe(Job.running("job", request), stream, report, block_cache)) as items:
                async for item in items:
                    yield item
        finally:
            assert not list(settings.spool_dir.iterdir()), "temporary files were left"


def pipeline_settings(data_dir: Path, **settings: Any) -> AppSettings:
    return AppSettings(model="whisper-nano", data_dir=data_dir, **settings)


async def run(
    folder: Path,
    sound: bytes,
    transcribe_batch: TranscribeBatch,
    windows: dict[str, float] | None = None,
    **more: Any,
) -> Transcript:
    """Return the transcript of a recording."""
    return await final_transcript(
        transcribe(pipeline_settings(folder, windows=windows or {}), sound, transcribe_batch, **more)
    )


def minutes_of_speech(count: int) -> bytes:
    """Return a recording repeated at decreasing volume, so that no two blocks are equal."""
    pcm = np.concatenate(list(AudioDecoder(DATA / "es.wav", LimitSettings())))
    repeats = [pcm * (1 - number / 200) for number in range(count * 60 * SAMPLE_RATE // len(pcm))]
    sound = np.concatenate(repeats).astype(np.int16)
    segment = AudioSegment(sound.tobytes(), sample_width=2, frame_rate=SAMPLE_RATE, channels=1)
    file: bytes = segment.export(format="wav").read()
    return file


async def no_text(model: str, batch: WindowBatch) -> Sequence[WindowText]:
    """Return no text for each window of a batch."""
    return [NO_TEXT] * len(batch.windows)
