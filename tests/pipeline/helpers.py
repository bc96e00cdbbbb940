"""A pipeline around a stand-in for the Whisper replicas."""

from contextlib import aclosing
from pathlib import Path
from typing import Any

from serve_app.net.ssrf import guarded_session
from serve_app.pipeline.block_cache import BlockCache
from serve_app.pipeline.diarize import Diarize
from serve_app.pipeline.progress import Report
from serve_app.pipeline.transcribe import Pipeline, TranscribeBatch
from serve_app.schemas.job import Job
from serve_app.schemas.request import JobRequest, TranscriptionOptions
from serve_app.schemas.transcript import TranscriptStream
from serve_app.settings import AppSettings
from serve_app.storage.blobs import BlobStore
from serve_app.whisper.window_text import WindowSegment, WindowText

NO_TEXT = WindowText(
    language="en", text="", segments=(), tokens=(), avg_logprob=0, no_speech_prob=1, compression_ratio=0
)


def window_text(text: str, tokens: tuple[int, ...] = (1,)) -> WindowText:
    """The text of a window with one segment."""
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
    """Transcribe a file's bytes; afterwards no temporary file is left."""
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


def settings_of(data_dir: Path, **settings: Any) -> AppSettings:
    return AppSettings(model="whisper-nano", data_dir=data_dir, **settings)
