"""Formats of media files, wav files, and decoding, for tests."""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.audio.resample import CHUNK_SAMPLES
from serve_app.settings import LimitSettings

CONTAINERS = {
    "wav-8": ("wav", "pcm_u8"),
    "wav-16": ("wav", "pcm_s16le"),
    "wav-24": ("wav", "pcm_s24le"),
    "wav-32": ("wav", "pcm_s32le"),
    "wav-float": ("wav", "pcm_f32le"),
    "wav-double": ("wav", "pcm_f64le"),
    "wav-mulaw": ("wav", "pcm_mulaw"),
    "wav-adpcm": ("wav", "adpcm_ima_wav"),
    "mp3": ("mp3", "libmp3lame"),
    "m4a": ("mp4", "aac"),
    "m4a-alac": ("mp4", "alac"),
    "aac": ("adts", "aac"),
    "flac": ("flac", "flac"),
    "ogg-opus": ("ogg", "libopus"),
    "ogg-flac": ("ogg", "flac"),
    "webm": ("webm", "libopus"),
    "mkv": ("matroska", "flac"),
    "mov": ("mov", "pcm_s16le"),
    "aiff": ("aiff", "pcm_s16be"),
    "caf": ("caf", "pcm_s16le"),
    "au": ("au", "pcm_s16be"),
    "avi": ("avi", "libmp3lame"),
    "flv": ("flv", "aac"),
    "mpegts": ("mpegts", "aac"),
    "ac3": ("ac3", "ac3"),
    "wavpack": ("wv", "wavpack"),
    "tta": ("tta", "tta"),
    "w64": ("w64", "pcm_s16le"),
}


def decode(path: Path, max_audio_s: float = 3600.0) -> tuple[NDArray[np.int16], list[str]]:
    decoding = AudioDecoder(path, LimitSettings(max_audio_s=max_audio_s))
    chunks = list(decoding)
    assert all(chunk.dtype == np.int16 and chunk.ndim == 1 and 0 < len(chunk) <= CHUNK_SAMPLES for chunk in chunks)
    pcm = np.concatenate(chunks)
    assert decoding.samples_read == len(pcm)
    return pcm, decoding.warnings


def wav(data: bytes, channels: int = 1, rate: int = SAMPLE_RATE, header_bytes: int | None = None) -> bytes:
    """A plain 16-bit wav file; `header_bytes`: the size of the data in its header."""
    size = len(data) if header_bytes is None else header_bytes
    format_chunk = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2, channels * 2, 16)
    riff = b"WAVEfmt " + struct.pack("<I", 16) + format_chunk + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", min(size + 36, 0xFFFFFFFF)) + riff + data
