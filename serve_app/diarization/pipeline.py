"""A pyannote pipeline, loaded once: sound in, turns out."""

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
from serve_app.diarization.channels import channel_name, speech_of
from serve_app.diarization.loudness import with_loudness
from serve_app.diarization.speaker_naming import Embedding, matched, relabelled
from serve_app.models import model_source
from serve_app.schemas.request import DiarizationOptions, KnownSpeaker
from serve_app.schemas.transcript import Turn
from serve_app.settings import DiarizationSettings, VadSettings
from serve_app.whisper.model.malloc import retain_freed_memory

Pcm = NDArray[np.int16]

BATCH_SIZE = {"cpu": 8, "cuda": 32}
"""Chunks computed together. Measured on a CPU with diarization-nano: 4 and 16 take a tenth longer, 32 a third: what a
core's cache does not hold."""

KNOWN_SIMILARITY = {"diarization-nano": 0.85}
"""From which cosine similarity on two embeddings are of one voice. Measured with 455 clips of 2.5 to 10 s against the
speakers found in 16 held-out conversations: 2 % of the right pairs lie below, 9 % of the wrong ones above."""

OTHERS_SIMILARITY = 0.5
"""Not measured; embeddings trained on thousands of people keep strangers further apart than ours does."""

COMMUNITY = "pyannote/speaker-diarization-community-1"

_HUB_ID = r"[\w.-]+/[\w.-]+"
_VOICE_SAMPLES = 30 * SAMPLE_RATE
"""Of a channel's speech, so much is compared with known speakers."""


class PipelineError(ValueError):
    """A pipeline that can't be loaded, and what would help."""


class SpeakerPipeline:
    """Tells speakers apart. One recording at a time, always in the same thread."""

    def __init__(self, pipeline: Any, settings: DiarizationSettings, vad: VadSettings) -> None:
        self._pipeline = pipeline
        self._threads = settings.threads or count_cores()
        usual = KNOWN_SIMILARITY.get(settings.pipeline or "", OTHERS_SIMILARITY)
        self._known_similarity = settings.known_similarity or usual
        self._vad = vad

    @classmethod
    def load(cls, settings: DiarizationSettings, vad: VadSettings) -> Self:
        """Load `settings.pipeline`. Raises PipelineError for what is no pipeline, or one the token does not open."""
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
        """Have the calling thread, which will call the rest, use the cores it may."""
        torch.set_num_threads(self._threads)
        threadpool_limits(self._threads)  # of numpy and scipy

    def diarize(
        self, pcm: Pcm, options: DiarizationOptions, beat: Callable[[], None] = lambda: None
    ) -> tuple[Turn, ...]:
        """Return the turns in 16 kHz audio of shape (samples,), or (samples, channels) for `channels: separate`.

        `beat` is called every few seconds, and ends the work by raising. Known speakers have their names, the others
        `SPEAKER_00` and so on in order of appearance, or `CHANNEL_0` and so on; speech may overlap. Times are
        rounded to milliseconds.
        """
        if options.channels == "separate":
            return self._by_channel(pcm, options, beat)
        with warnings.catch_warnings():
            # Of speech too short for an embedding, and of fewer speakers than were wished for.
            warnings.simplefilter("ignore")
            found = self._pipeline.apply(
                {"waveform": _floats(pcm), "sample_rate": SAMPLE_RATE, "uri": "recording"},
                num_speakers=options.num_speakers,
                min_speakers=options.min_speakers,
                max_speakers=options.max_speakers,
                hook=lambda *_, **__: beat(),
            )
        seconds = len(pcm) / SAMPLE_RATE
        # The last chunk goes on in silence, where a network may still hear somebody.
        turns = [
            _turn(max(0.0, at.start), min(at.end, seconds), label)
            for at, _, label in found.speaker_diarization.itertracks(yield_label=True)
            if at.start < seconds
        ]
        voices = dict(zip(found.speaker_diarization.labels(), found.speaker_embeddings, strict=True))
        return with_loudness(relabelled(turns, self._names(voices, options.known_speakers)), pcm)

    def _by_channel(self, pcm: Pcm, options: DiarizationOptions, beat: Callable[[], None]) -> tuple[Turn, ...]:
        turns: list[Turn] = []
        voices: dict[str, Embedding] = {}
        for number, channel in enumerate(pcm.T):
            speech = speech_of(channel, self._vad, beat)
            turns += (_turn(start / SAMPLE_RATE, end / SAMPLE_RATE, channel_name(number)) for start, end in speech)
            if speech and options.known_speakers:
                heard = np.concatenate([channel[start:end] for start, end in speech])
                voices[channel_name(number)] = self._voice(heard[:_VOICE_SAMPLES])
        channels = {channel_name(number): channel_name(number) for number in range(pcm.shape[1])}
        named = relabelled(turns, channels | self._names(voices, options.known_speakers))
        return with_loudness(named, pcm.mean(axis=1, dtype=np.float32))  # which is what the text is found in

    def _names(self, voices: Mapping[str, Embedding], known: Sequence[KnownSpeaker]) -> dict[str, str]:
        """The names of those speakers that are known."""
        if not voices:
            return {}
        references = {speaker.name: self._voice(_unflac(b64decode(speaker.reference))) for speaker in known}
        return matched(voices, references, self._known_similarity)

    def _voice(self, pcm: Pcm) -> Embedding:
        """Return the embedding of audio with a single speaker."""
        voice: Embedding = self._pipeline._embedding(_floats(pcm)[None])[0]
        return voice


def load_pyannote(name: str, token: str | None) -> Any:
    """pyannote's own pipeline: embedded, in a folder, or from a hub; nothing is told to its makers.

    Raises PipelineError.
    """
    source = Path(model_source(name))
    local = source.is_dir()
    if not local and (source.is_absolute() or not re.fullmatch(_HUB_ID, name)):
        # pyannote would ask a hub for it.
        raise PipelineError(f"{name}: there is no such folder, and it is no hub id such as {COMMUNITY}")
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"  # read at every use
    if local:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read at the import
    with warnings.catch_warnings():
        # torchcodec finds no FFmpeg: pyannote would decode with it, and gets decoded sound.
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


def _floats(pcm: Pcm) -> torch.Tensor:
    """(samples,) → (1, samples) between -1 and 1."""
    return torch.from_numpy(np.multiply(pcm, 1 / 32768, dtype=np.float32))[None]


def _unflac(data: bytes) -> Pcm:
    with av.open(BytesIO(data), "r", format="flac") as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
