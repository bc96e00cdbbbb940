"""Resampling of decoded frames to 16 kHz, in an FFmpeg filter graph."""

from collections.abc import Iterable, Iterator

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.filter import Graph
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE

CHUNK_SAMPLES = 5 * SAMPLE_RATE
"""Maximum samples per channel of a chunk."""

_QUEUED_SAMPLES = 2**16
"""Samples that are queued before the graph runs: running it for every frame takes longer than decoding some codecs."""


def resample(frames: Iterable[AudioFrame], separate_channels: bool) -> Iterator[NDArray[np.int16]]:
    """Yield frames as int16 chunks (samples, channels) at `SAMPLE_RATE`.

    Channels are mixed down to one unless `separate_channels`. The format of the frames may change midway.
    """
    graph: Graph | None = None
    current_format = None
    queued = 0
    for frame in frames:
        frame_format = (frame.format.name, frame.layout.name, frame.sample_rate)
        if graph is None or frame_format != current_format:
            if graph is not None:
                yield from _flush(graph)
            graph = _build_filter_graph(frame, separate_channels)
            current_format = frame_format
            queued = 0
            channels = frame.layout.nb_channels
        frame.pts = None  # time is counted in samples: timestamps of a hostile file must not matter
        graph.push(frame)
        queued += frame.samples * channels
        if queued >= _QUEUED_SAMPLES:
            queued = 0
            yield from _pull_chunks(graph)
    if graph is not None:
        yield from _flush(graph)


def _build_filter_graph(frame: AudioFrame, separate_channels: bool) -> Graph:
    """Return a graph that converts frames in the format of `frame` to 16-bit chunks at `SAMPLE_RATE`."""
    graph = Graph()
    nodes = [graph.add_abuffer(sample_rate=frame.sample_rate, format=frame.format, layout=frame.layout)]
    channels = frame.layout.nb_channels
    if not separate_channels and channels > 2 and frame.layout.channels[0].name == "NONE":
        # The file has no channel layout. FFmpeg would assume one for up to eight channels (and drop the "subwoofer"),
        # and fail with more: mix them down to their mean.
        nodes.append(graph.add("pan", "mono|c0<" + "+".join(f"c{channel}" for channel in range(channels))))
    layout = {} if separate_channels else {"channel_layouts": "mono"}
    nodes.append(graph.add("aformat", sample_fmts="s16", sample_rates=str(SAMPLE_RATE), **layout))
    graph.link_nodes(*nodes, graph.add("abuffersink")).configure()
    graph.set_audio_frame_size(CHUNK_SAMPLES)
    return graph


def _pull_chunks(graph: Graph) -> Iterator[NDArray[np.int16]]:
    """Yield the chunks (samples, channels) that are ready."""
    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        assert isinstance(frame, AudioFrame)
        yield np.asarray(frame.to_ndarray(), np.int16).reshape(-1, frame.layout.nb_channels)


def _flush(graph: Graph) -> Iterator[NDArray[np.int16]]:
    """Yield the remaining chunks, after the last frame."""
    graph.push(None)
    return _pull_chunks(graph)
