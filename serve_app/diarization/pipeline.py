"""A loaded pyannote pipeline: audio in, speaker turns out."""

import os
import re
import warnings
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from serve_app.audio import SAMPLE_RATE
from serve_app.cores import count_cores
from serve_app.diarization.channels import channel_name, detect_speech
from serve_app.diarization.loudness import with_loudness
from serve_app.diarization.speaker_naming import Embedding, match_speakers, relabelled
from serve_app.models import model_source
from serve_app.schemas.request import DiarizationOptions, KnownSpeaker
from serve_app.schemas.transcript import Turn
from serve_app.settings import DiarizationSettings, VadSettings
from serve_app.whisper.model.malloc import retain_freed_memory

Pcm = NDArray[np.int16]

BATCH_SIZE = {"cpu": 8, "cuda": 32}
"""Chunks computed together. Measured on a CPU with diarization-nano: 4 and 16 are a tenth slower, 32 is a third slower,
because it exceeds a core's cache.
"""

KNOWN_SIMILARITY = {"diarization-nano": 0.85}
"""The cosine similarity above which two embeddings are of one speaker. Measured with 455 clips of 2.5 to 10 s against
the speakers found in 16 held-out conversations: 2 % of matching pairs are below, 9 % of others above.
"""

OTHERS_SIMILARITY = 0.5
"""For other pipelines; not measured. Embeddings trained on thousands of people separate strangers more clearly."""

EXAMPLE_PIPELINE = "pyannote/speaker-diarization-community-1"

_HUB_ID = r"[\w.-]+/[\w.-]+"
_VOICE_SAMPLES = 30 * SAMPLE_RATE
"""The length of a channel's speech that is compared with known speakers."""


class PipelineError(ValueError):
    """A pipeline can't be loaded; the message says what would help."""


class SpeakerPipeline:
    """Diarizes one recording at a time, always in the same thread."""

    def __init__(self, pipeline: Any, settings: DiarizationSettings, vad: VadSettings) -> None:
        self._pipeline = pipeline
        self._threads = settings.threads or count_cores()
        default = KNOWN_SIMILARITY.get(settings.pipeline or "", OTHERS_SIMILARITY)
        self._known_similarity = settings.known_similarity or default
        self._vad = vad

    @classmethod
    def load(cls, settings: DiarizationSettings, vad: VadSettings) -> Self:
        """Load `settings.pipeline`. Raises PipelineError if it does not exist or the token gives no access to it."""
        assert settings.pipeline is not None, "diarization is off"
        pipeline = load_pyannote(settings.pipeline, settings.token.get_secret_value() if settings.token else None)
        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            retain_freed_memory()
        pipeline.to(torch.device(device))
        from serve_app.diarization.fast_pipeline import (
            BatchedSpeakerDiarization,  # after `load_pyannote`, which imports its library quietly
        )

        if BatchedSpeakerDiarization.is_supported(pipeline):
            pipeline.__class__ = BatchedSpeakerDiarization
        pipeline.segmentation_batch_size = pipeline.embedding_batch_size = settings.batch_size or BATCH_SIZE[device]
        return cls(pipeline, settings, vad)

    def begin(self) -> None:
        """Set the number of threads; call this first, in the thread that will call `diarize`."""
        torch.set_num_threads(self._threads)
        threadpool_limits(self._threads)  # of numpy and scipy

    def diarize(
        self, pcm: Pcm, options: DiarizationOptions, heartbeat: Callable[[], None] = lambda: None
    ) -> tuple[Turn, ...]:
        """Return the speaker turns in 16 kHz audio of shape (samples,) or, for separate channels, (samples, channels).

        `heartbeat` is called every few seconds and cancels the work by raising. Known speakers have their names, the
        others are `SPEAKER_00` and so on in order of appearance, or `CHANNEL_0` and so on; turns may overlap. Times are
        rounded to milliseconds.
        """
        if options.channels == "separate":
            return self._by_channel(pcm, options, heartbeat)
        with warnings.catch_warnings():
            # Warnings about speech too short for an embedding, and about fewer speakers than requested.
            warnings.simplefilter("ignore")
            found = self._pipeline.apply(
                {"waveform": _to_float(pcm), "sample_rate": SAMPLE_RATE, "uri": "recording"},
                num_speakers=options.num_speakers,
                min_speakers=options.min_speakers,
                max_speakers=options.max_speakers,
                hook=lambda *_, **__: heartbeat(),
            )
        seconds = len(pcm) / SAMPLE_RATE
        # The last chunk is padded with silence, in which the network may still detect a speaker.
        turns = [
            _turn(max(0.0, at.start), min(at.end, seconds), label)
            for at, _, label in found.speaker_diarization.itertracks(yield_label=True)
            if at.start < seconds
        ]
        embeddings = dict(zip(found.speaker_diarization.labels(), found.speaker_embeddings, strict=True))
        return with_loudness(relabelled(turns, self._names(embeddings, options.known_speakers)), pcm)

    def _by_channel(self, pcm: Pcm, options: DiarizationOptions, heartbeat: Callable[[], None]) -> tuple[Turn, ...]:
        turns: list[Turn] = []
        embeddings: dict[str, Embedding] = {}
        for number, channel in enumerate(pcm.T):
            speech = detect_speech(channel, self._vad, heartbeat)
            turns += (_turn(start / SAMPLE_RATE, end / SAMPLE_RATE, channel_name(number)) for start, end in speech)
            if speech and options.known_speakers:
                speech_pcm = np.concatenate([channel[start:end] for start, end in speech])
                embeddings[channel_name(number)] = self._embed(speech_pcm[:_VOICE_SAMPLES])
        channels = {channel_name(number): channel_name(number) for number in range(pcm.shape[1])}
        named = relabelled(turns, channels | self._names(embeddings, options.known_speakers))
        return with_loudness(named, pcm.mean(axis=1, dtype=np.float32))  # the same mix that Whisper transcribes

    def _names(self, embeddings: Mapping[str, Embedding], known: Sequence[KnownSpeaker]) -> dict[str, str]:
        """Return the names of the speakers that match a known speaker."""
        if not embeddings:
            return {}
        references = {speaker.name: self._embed(_decode_flac(b64decode(speaker.reference))) for speaker in known}
        return match_speakers(embeddings, references, self._known_similarity)

    def _embed(self, pcm: Pcm) -> Embedding:
        """Return the embedding of audio with a single speaker."""
        embedding: Embedding = self._pipeline._embedding(_to_float(pcm)[None])[0]
        return embedding


def load_pyannote(name: str, token: str | None) -> Any:
    """Load pyannote's own pipeline: embedded, from a folder, or from a hub. Telemetry is disabled.

    Raises PipelineError.
    """
    source = Path(model_source(name))
    local = source.is_dir()
    if not local and (source.is_absolute() or not re.fullmatch(_HUB_ID, name)):
        # pyannote would look it up on the hub.
        raise PipelineError(f"{name} is neither an existing folder nor a hub id such as {EXAMPLE_PIPELINE}")
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"  # read at every use
    if local:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read at the import
    with warnings.catch_warnings():
        # torchcodec warns that it finds no FFmpeg, which is not needed: pyannote gets decoded audio.
        warnings.filterwarnings("ignore", module=r"pyannote\.audio\.core\.io")
        from pyannote.audio import Pipeline
    try:
        pipeline = Pipeline.from_pretrained(str(source) if local else name, token=token)
    except (OSError, ValueError, KeyError) as error:
        raise PipelineError(f"{name} can't be loaded: {error}") from error
    if pipeline is None:
        raise PipelineError(f"{name} can't be downloaded: accept its conditions on the hub and set diarization.token")
    return pipeline


def _turn(start: float, end: float, speaker: str) -> Turn:
    return Turn(start=round(start, 3), end=round(end, 3), speaker=speaker)


def _to_float(pcm: Pcm) -> torch.Tensor:
    """Convert (samples,) to (1, samples) between -1 and 1."""
    return torch.from_numpy(np.multiply(pcm, 1 / 32768, dtype=np.float32))[None]


def _decode_flac(data: bytes) -> Pcm:
    with av.open(BytesIO(data), "r", format="flac") as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
