"""Recordings made for a test."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE


def tone(seconds: float, rate: int = SAMPLE_RATE, hertz: float = 440.0) -> NDArray[np.int16]:
    times = np.arange(round(seconds * rate)) / rate
    return (0.5 * 32767 * np.sin(2 * np.pi * hertz * times)).astype(np.int16)


def write(
    path: Path,
    format_name: str,
    codec: str,
    mono: NDArray[np.int16],
    rate: int = SAMPLE_RATE,
    layout: str = "mono",
    picture: str | None = None,
    **options: str,
) -> Path:
    """Encode `mono`, the same in every channel; with `picture` a codec, some frames of video beside."""
    with av.open(str(path), "w", format=format_name, options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        if picture:
            video = container.add_stream(picture, rate=25, width=64, height=64, pix_fmt="yuv420p")
            for _ in range(round(25 * len(mono) / rate)):
                container.mux(video.encode(av.VideoFrame(64, 64, "yuv420p")))
            container.mux(video.encode(None))
        for start in range(0, len(mono), 1024):
            piece = np.repeat(mono[start : start + 1024], stream.codec_context.layout.nb_channels)
            frame = av.AudioFrame.from_ndarray(piece[None], format="s16", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def peak_hertz(pcm: NDArray[np.int16]) -> float:
    """The strongest frequency of 16 kHz sound."""
    spectrum = np.abs(np.fft.rfft(pcm * np.hanning(len(pcm))))
    return float(np.argmax(spectrum)) * SAMPLE_RATE / len(pcm)
