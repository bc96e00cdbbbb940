"""Reference clips of known speakers: validated when a job is submitted, and re-encoded to travel with it."""

import base64
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.audio.encode import encode_flac
from serve_app.audio.inline import decode_base64
from serve_app.errors import AudioError, InvalidRequest, TooLarge
from serve_app.schemas.request import KnownSpeaker, TranscriptionOptions
from serve_app.settings import AppSettings

SHORTEST_S, LONGEST_S = 2, 10
"""The limits of OpenAI's API."""

FIELD = "diarization.known_speakers.{}.reference"
"""The request field of a speaker's clip; the number counts from 0."""


OFF = "diarization_off"
"""The error code if diarization is not configured."""


def validate_diarization(options: TranscriptionOptions, settings: AppSettings) -> TranscriptionOptions:
    """Return the options with normalised reference clips. Raises InvalidRequest if diarization is not configured."""
    if options.diarization is None:
        return options
    if settings.diarization.pipeline is None:
        message = "`diarization` is not available: no diarization pipeline is configured (setting diarization.pipeline)"
        raise InvalidRequest(message, "diarization", OFF)
    speakers = normalize_clips(options.diarization.known_speakers, settings)
    return options.model_copy(
        update={"diarization": options.diarization.model_copy(update={"known_speakers": speakers})}
    )


def normalize_clips(speakers: tuple[KnownSpeaker, ...], settings: AppSettings) -> tuple[KnownSpeaker, ...]:
    """Return the known speakers with their clips as base64 of 16 kHz mono FLAC; clips in this format are unchanged.

    Raises InvalidRequest, naming the field, for a clip that can't be read or is shorter than 2 s or longer than 10 s,
    and TooLarge for one larger than `limits.max_clip_bytes`. Decodes audio: do not call this in an event loop.
    """
    return tuple(
        speaker.model_copy(update={"reference": _reencode(speaker.reference, settings, FIELD.format(number))})
        for number, speaker in enumerate(speakers)
    )


def _reencode(reference: str, settings: AppSettings, param: str) -> str:
    clip = decode_base64(reference, param)
    most = settings.limits.max_clip_bytes
    if len(clip) > most:
        raise TooLarge(f"{param}: the clip has {len(clip)} bytes; at most {most} are allowed", param, "clip_too_large")
    settings.spool_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=settings.spool_dir) as folder:
        path = Path(folder) / "clip"
        path.write_bytes(clip)
        limits = settings.limits.model_copy(update={"max_audio_s": LONGEST_S + 1})
        try:
            pcm = np.concatenate(list(AudioDecoder(path, limits, param)))
        except TooLarge:
            raise _wrong_length("is longer", param) from None
        except AudioError as error:
            raise AudioError(f"{param}: {error.message}", param, error.code) from None
    seconds = round(len(pcm) / SAMPLE_RATE, 1)  # codecs fill up their last frame
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise _wrong_length(f"is {seconds:g} s long", param)
    return base64.b64encode(encode_flac(pcm)).decode()


def _wrong_length(actual: str, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"{param}: a clip must last {SHORTEST_S} to {LONGEST_S} s; this one {actual}", param, "clip_length"
    )
