"""Diarization of a recording: audio in, speaker turns out."""

from base64 import b64decode
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Self

import av
import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from serve_app.audio import SAMPLE_RATE
from serve_app.cores import count_cores
from serve_app.diarization.channels import channel_name, detect_speech
from serve_app.diarization.loudness import with_loudness
from serve_app.diarization.protocol import DiarizationPipeline, Embedding, Heartbeat, Samples, SpeakerBounds
from serve_app.diarization.pyannote_pipeline import PyannotePipeline
from serve_app.diarization.speaker_naming import Match, match_speakers, relabelled
from serve_app.models.catalogue import PIPELINES
from serve_app.models.resolve import resolve_pipeline
from serve_app.schemas.request import DiarizationOptions, KnownSpeaker
from serve_app.schemas.transcript import Turn
from serve_app.settings import DiarizationSettings, VadSettings
from serve_app.whisper.model.malloc import retain_freed_memory

Pcm = NDArray[np.int16]

_VOICE_SAMPLES = 30 * SAMPLE_RATE
"""The length of a channel's speech that is compared with known speakers."""


class SpeakerPipeline:
    """Diarizes one recording at a time, always in the same thread."""

    def __init__(self, pipeline: DiarizationPipeline, settings: DiarizationSettings, vad: VadSettings) -> None:
        self._pipeline = pipeline
        self._threads = settings.threads or count_cores()
        self._known_similarity = settings.known_similarity or pipeline.known_similarity
        self._vad = vad

    @classmethod
    def load(cls, settings: DiarizationSettings, vad: VadSettings, models_dir: Path) -> Self:
        """Load `settings.pipeline`; one of the catalogue is downloaded to `models_dir` first.

        Raises PipelineError if it does not exist or the token gives no access to it, ModelUnavailable, CheckpointError.
        """
        name, device = settings.pipeline, settings.device
        assert name is not None, "diarization is off"
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            retain_freed_memory()
        pipeline: DiarizationPipeline
        if name in PIPELINES:
            from serve_app.diarization.pyannote_campplus.pipeline import CampplusPipeline

            folder = Path(resolve_pipeline(name, models_dir))
            pipeline = CampplusPipeline.load(folder, device, settings.batch_size)
        else:
            token = settings.token.get_secret_value() if settings.token else None
            pipeline = PyannotePipeline.load(name, token, device, settings.batch_size)
        return cls(pipeline, settings, vad)

    def begin(self) -> None:
        """Set the number of threads; call this first, in the thread that will call `diarize`."""
        torch.set_num_threads(self._threads)
        threadpool_limits(self._threads)  # of numpy and scipy

    def diarize(self, pcm: Pcm, options: DiarizationOptions, heartbeat: Heartbeat = lambda: None) -> tuple[Turn, ...]:
        """Return the speaker turns in 16 kHz audio of shape (samples,) or, for separate channels, (samples, channels).

        `heartbeat` is called every few seconds and cancels the work by raising. Known speakers have their names, the
        others are `SPEAKER_00` and so on in order of appearance, or `CHANNEL_0` and so on; turns may overlap. Times are
        rounded to milliseconds.
        """
        if options.channels == "separate":
            return self._by_channel(pcm, options, heartbeat)
        bounds = SpeakerBounds(
            options.num_speakers or options.min_speakers or 1, options.num_speakers or options.max_speakers
        )
        found = self._pipeline.find_speakers(_to_float(pcm), bounds, heartbeat)
        seconds = len(pcm) / SAMPLE_RATE
        # The last chunk is padded with silence, in which the network may still detect a speaker.
        turns = [
            _turn(turn.start, min(turn.end, seconds), turn.speaker) for turn in found.turns if turn.start < seconds
        ]
        matches = self._match(found.embeddings, options.known_speakers)
        return with_loudness(relabelled(turns, matches), pcm)

    def _by_channel(self, pcm: Pcm, options: DiarizationOptions, heartbeat: Heartbeat) -> tuple[Turn, ...]:
        turns: list[Turn] = []
        embeddings: dict[str, Embedding] = {}
        for number, channel in enumerate(pcm.T):
            speech = detect_speech(channel, self._vad, heartbeat)
            turns += (_turn(start / SAMPLE_RATE, end / SAMPLE_RATE, channel_name(number)) for start, end in speech)
            if speech and options.known_speakers:
                speech_pcm = np.concatenate([channel[start:end] for start, end in speech])
                embeddings[channel_name(number)] = self._pipeline.embed(_to_float(speech_pcm[:_VOICE_SAMPLES]))
        channels = {channel_name(number): Match(channel_name(number)) for number in range(pcm.shape[1])}
        named = relabelled(turns, channels | self._match(embeddings, options.known_speakers))
        return with_loudness(named, pcm.mean(axis=1, dtype=np.float32))  # the same mix that Whisper transcribes

    def _match(self, embeddings: Mapping[str, Embedding], known: Sequence[KnownSpeaker]) -> dict[str, Match]:
        """Return the speakers that match a known speaker."""
        if not embeddings:
            return {}
        clips = {speaker.name: _decode_flac(b64decode(speaker.reference)) for speaker in known}
        references = {name: self._pipeline.embed(_to_float(clip)) for name, clip in clips.items()}
        return match_speakers(embeddings, references, self._known_similarity)


def _turn(start: float, end: float, speaker: str) -> Turn:
    return Turn(start=round(start, 3), end=round(end, 3), speaker=speaker)


def _to_float(pcm: Pcm) -> Samples:
    """Convert (samples,) to values between -1 and 1."""
    samples: Samples = np.multiply(pcm, 1 / 32768, dtype=np.float32)
    return samples


def _decode_flac(data: bytes) -> Pcm:
    with av.open(BytesIO(data), "r", format="flac") as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
