"""Clips of known speakers' voices: checked when they come, and made small, as they travel with their job."""

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
"""The field of a speaker's clip in a request; the number counts from 0."""


OFF = "diarization_off"
"""The code of an error: there are no speakers here to be asked for."""


def validate_diarization(options: TranscriptionOptions, settings: AppSettings) -> TranscriptionOptions:
    """The options, known speakers' clips `prepared`. Raises InvalidRequest where speakers are not told apart."""
    if options.diarization is None:
        return options
    if settings.diarization.pipeline is None:
        message = "diarization: nothing is set up to tell speakers apart (diarization.pipeline of the settings)"
        raise InvalidRequest(message, "diarization", OFF)
    speakers = normalize_clips(options.diarization.known_speakers, settings)
    return options.model_copy(
        update={"diarization": options.diarization.model_copy(update={"known_speakers": speakers})}
    )


def normalize_clips(speakers: tuple[KnownSpeaker, ...], settings: AppSettings) -> tuple[KnownSpeaker, ...]:
    """Known speakers whose clips are base64 of 16 kHz mono FLAC; those that are already come out the same.

    Raises InvalidRequest, naming the field, for a clip that can't be read or lasts less than 2 or more than 10 s, and
    TooLarge for one of more than `limits.max_clip_bytes`. Decodes: not for an event loop.
    """
    return tuple(
        speaker.model_copy(update={"reference": _reencode(speaker.reference, settings, FIELD.format(number))})
        for number, speaker in enumerate(speakers)
    )


def _reencode(reference: str, settings: AppSettings, param: str) -> str:
    clip = decode_base64(reference, param)
    most = settings.limits.max_clip_bytes
    if len(clip) > most:
        raise TooLarge(
            f"{param}: the clip is {len(clip)} bytes long; at most {most} are allowed", param, "clip_too_large"
        )
    settings.spool_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=settings.spool_dir) as folder:
        path = Path(folder) / "clip"
        path.write_bytes(clip)
        limits = settings.limits.model_copy(update={"max_audio_s": LONGEST_S + 1})
        try:
            pcm = np.concatenate(list(AudioDecoder(path, limits, param)))
        except TooLarge:
            raise _wrong_length("more", param) from None
        except AudioError as error:
            raise AudioError(f"{param}: {error.message}", param, error.code) from None
    seconds = round(len(pcm) / SAMPLE_RATE, 1)  # codecs fill up their last frame
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise _wrong_length(f"{seconds:g} s", param)
    return base64.b64encode(encode_flac(pcm)).decode()


def _wrong_length(is_so_long: str, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"{param}: a clip must last {SHORTEST_S} to {LONGEST_S} s; this one {is_so_long}", param, "clip_length"
    )
