"""Encode PCM as FLAC."""

import io

import av
import numpy as np
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE


def encode_flac(pcm: NDArray[np.int16]) -> bytes:
    """Encode int16 samples (samples,), mono at `SAMPLE_RATE`, as FLAC. The same samples always give the same bytes."""
    file = io.BytesIO()
    # Without `bitexact` FFmpeg writes its version into the file.
    with av.open(file, "w", format="flac", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono", options={"flags": "+bitexact"})
        frame = AudioFrame.from_ndarray(pcm[np.newaxis], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for part in (frame, None):
            container.mux(stream.encode(part))
    return file.getvalue()
