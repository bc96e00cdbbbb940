"""From a media file to 16 kHz PCM, mono unless told otherwise, streaming, in bounded memory.

The file is a stranger's. Only formats whose demuxers read nothing but the file itself are
allowed (a playlist such as HLS, DASH, SDP or a concat script names other files and URLs to open),
FFmpeg may open nothing by name, and no video decoder runs.
"""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.filter import Graph
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE
from serve_app.errors import AudioError, TooLarge
from serve_app.settings import LimitSettings

CHUNK_SAMPLES = 5 * SAMPLE_RATE

_FORMATS = (
    *("wav", "w64", "aiff", "au", "caf", "voc", "sox", "nistsphere", "ircam", "dsf"),
    *("flac", "ogg", "mp3", "aac", "loas", "ac3", "eac3", "dts", "amr", "gsm", "qcp"),
    *("ape", "mpc", "mpc8", "shn", "tak", "tta", "wv", "xwma"),
    *("mov", "matroska", "avi", "asf", "flv", "mpeg", "mpegts", "mxf", "nut", "rm", "dv"),
)


def _is_audio_decoder(name: str) -> bool:
    try:
        return bool(av.Codec(name, "r").type == "audio")
    except av.codec.codec.UnknownCodecError:
        return False  # an encoder


_AUDIO_DECODERS = tuple(sorted(filter(_is_audio_decoder, av.codecs_available)))

# Limits on one packet and one frame, so that a hostile header can't ask for gigabytes.
_MAX_PACKET_BYTES = 4 * 2**20
_SAMPLE_RATES = range(4_000, 768_001)

# Samples that wait in the graph before it runs: to run it for every frame takes longer than some codecs.
_QUEUED_SAMPLES = 2**16

# These have no header that states a duration; FFmpeg guesses one from the first bit rate it meets.
_HEADERLESS = ("mp3", "aac", "loas", "ac3", "eac3", "dts", "amr", "gsm", "mpegts", "mpeg")


class _Input(io.FileIO):
    """The file, opened here so that FFmpeg's own file protocol can stay forbidden."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except OSError:
            # A damaged file leads anywhere. PyAV would raise this error at a later, unrelated call.
            return -1


class Decoding:
    """The sound of a file as int16 chunks of shape (n,), at `SAMPLE_RATE`, n ≤ `CHUNK_SAMPLES`.

    Iterate once. `samples` counts what was given out so far, `share_read` is how much of the file
    that took, from 0 to 1; `warnings` is complete at the end.
    The best audio stream is read, its channels mixed down; when they are to be `separate`, chunks are (n, channels).
    A file that breaks off, or is damaged midway, gives what can be read and a warning.

    Raises `AudioError` with the code `empty_file`, `not_audio`, `no_audio_stream` or
    `undecodable_audio`, and `TooLarge` as soon as the sound is longer than `limits.max_audio_s`;
    both name `param`.
    """

    def __init__(self, path: Path, limits: LimitSettings, param: str = "file", separate: bool = False) -> None:
        self.samples = 0
        self.share_read = 0.0
        self.warnings: list[str] = []
        self._path = path
        self._max_audio_s = limits.max_audio_s
        self._param = param
        self._separate = separate
        self._damaged = 0
        self._broke_off = False

    def __iter__(self) -> Iterator[NDArray[np.int16]]:
        size = self._path.stat().st_size
        if not size:
            raise self._error("the file is empty", "empty_file")
        with _Input(self._path) as file, self._open(file) as container:
            stream = self._best_stream(container)
            for chunk in self._chunks(container, stream):
                self.samples += len(chunk)
                self.share_read = min(1.0, file.tell() / size)
                if self.samples > self._max_audio_s * SAMPLE_RATE:
                    raise TooLarge(
                        f"the recording is longer than {self._max_audio_s:g} s", self._param, "audio_too_long"
                    )
                yield chunk
            if not self.samples:
                raise self._error(
                    f"the file's {stream.codec_context.name} audio holds no sound that can be decoded",
                    "undecodable_audio",
                )
            if not _is_piped_wav(container, file):
                self._warn(_stated_duration(container, stream, file))

    @property
    def channels(self) -> int:
        """Return the number of samples that the file states. Raises what iterating does for an unreadable file."""
        with _Input(self._path) as file, self._open(file) as container:
            return self._best_stream(container).codec_context.channels

    def _open(self, file: BinaryIO) -> InputContainer:
        try:
            return av.open(
                file,
                "r",
                container_options={
                    "format_whitelist": ",".join(_FORMATS),
                    "protocol_whitelist": "none",
                    "codec_whitelist": ",".join(_AUDIO_DECODERS),
                },
                metadata_errors="replace",
            )
        except (av.FFmpegError, ValueError) as error:
            raise self._error(
                "the file is not a recording that can be read (such as wav, mp3, m4a, flac, ogg, webm or mp4), "
                "or its beginning is damaged",
                "not_audio",
            ) from error

    def _best_stream(self, container: InputContainer) -> AudioStream:
        streams = container.streams.audio
        if not streams:
            raise self._error(f"the file ({container.format.name}) has no audio stream", "no_audio_stream")
        best = container.streams.best("audio")
        decodable = [stream for stream in streams if stream.codec_context is not None]
        if not decodable:
            raise self._error("the file's audio has a codec that can't be decoded", "undecodable_audio")
        return best if best in decodable else decodable[0]

    def _chunks(self, container: InputContainer, stream: AudioStream) -> Iterator[NDArray[np.int16]]:
        try:
            for chunk in _resampled(self._frames(container, stream), self._separate):
                yield chunk if self._separate else chunk[:, 0]
        except av.FFmpegError:  # a layout or format that can't be converted
            self._broke_off = True

    def _frames(self, container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
        try:
            for packet in container.demux(stream):
                if packet.size > _MAX_PACKET_BYTES:
                    self._damaged += 1
                    continue
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    self._damaged += 1
                    self._broke_off = True
                    continue
                if packet.size:
                    # Only the last packet's state stays: damage there is a file that broke off.
                    self._broke_off = packet.is_corrupt
                yield from (frame for frame in frames if frame.sample_rate in _SAMPLE_RATES)
        except av.FFmpegError:
            self._broke_off = True
        except IndexError:
            pass  # PyAV's way to end a file in which another stream began midway

    def _warn(self, stated_s: float | None) -> None:
        read_s = self.samples / SAMPLE_RATE
        if stated_s is not None and _is_short(read_s, stated_s):
            self.warnings.append(f"the file breaks off after {read_s:.1f} s of {stated_s:.1f} s")
        elif self._broke_off:
            self.warnings.append(f"the file breaks off after {read_s:.1f} s")
        elif self._damaged:
            self.warnings.append(f"the file is damaged: {self._damaged} parts of it could not be decoded")

    def _error(self, message: str, code: str) -> AudioError:
        return AudioError(message, self._param, code)


def _resampled(frames: Iterable[AudioFrame], separate: bool) -> Iterator[NDArray[np.int16]]:
    graph: Graph | None = None
    current = None
    waiting = 0
    for frame in frames:
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if graph is None or kind != current:
            if graph is not None:
                yield from _rest(graph)
            graph = _graph(frame, separate)
            current = kind
            waiting = 0
            channels = frame.layout.nb_channels
        frame.pts = None  # sound is counted in samples; a hostile clock must not matter
        graph.push(frame)
        waiting += frame.samples * channels
        if waiting >= _QUEUED_SAMPLES:
            waiting = 0
            yield from _pulled(graph)
    if graph is not None:
        yield from _rest(graph)


def _graph(frame: AudioFrame, separate: bool) -> Graph:
    """From frames like this one to chunks of 16-bit sound at `SAMPLE_RATE`, mono or with its channels."""
    graph = Graph()
    nodes = [graph.add_abuffer(sample_rate=frame.sample_rate, format=frame.format, layout=frame.layout)]
    channels = frame.layout.nb_channels
    if not separate and channels > 2 and frame.layout.channels[0].name == "NONE":
        # The file does not say where its channels belong. FFmpeg would take positions for granted
        # up to eight channels (and drop the "subwoofer"), and fail beyond: take their mean.
        nodes.append(graph.add("pan", "mono|c0<" + "+".join(f"c{channel}" for channel in range(channels))))
    layout = {} if separate else {"channel_layouts": "mono"}
    nodes.append(graph.add("aformat", sample_fmts="s16", sample_rates=str(SAMPLE_RATE), **layout))
    graph.link_nodes(*nodes, graph.add("abuffersink")).configure()
    graph.set_audio_frame_size(CHUNK_SAMPLES)
    return graph


def _pulled(graph: Graph) -> Iterator[NDArray[np.int16]]:
    """The chunks that the graph can give out by now, (n, channels)."""
    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        assert isinstance(frame, AudioFrame)
        yield np.asarray(frame.to_ndarray(), np.int16).reshape(-1, frame.layout.nb_channels)


def _rest(graph: Graph) -> Iterator[NDArray[np.int16]]:
    """The graph's last chunks."""
    graph.push(None)
    return _pulled(graph)


def _stated_duration(container: InputContainer, stream: AudioStream, file: BinaryIO) -> float | None:
    """Seconds of sound that the file's header claims, where it does claim."""
    if container.format.name in _HEADERLESS and not _has_xing_header(file):
        return None
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration / av.time_base)
    return None


def _is_short(read_s: float, stated_s: float) -> bool:
    """Return whether so much is missing that the file must be truncated; headers are often slightly wrong."""
    return read_s < 0.999 * stated_s - 1.0


def _has_xing_header(file: BinaryIO) -> bool:
    """Return whether an mp3 states its number of frames in the first frame after an ID3v2 tag."""
    file.seek(0)
    tag = file.read(10)
    if tag.startswith(b"ID3"):
        seven_bits = tag[6:10]
        file.seek(10 + sum(byte << shift for byte, shift in zip(seven_bits, (21, 14, 7, 0), strict=True)))
    else:
        file.seek(0)
    head = file.read(256)
    return b"Xing" in head or b"Info" in head


def _is_piped_wav(container: InputContainer, file: BinaryIO) -> bool:
    """Return whether a wav was written as a stream: its stated size is close to 0, 2 GiB or 4 GiB."""
    file.seek(4)
    return container.format.name == "wav" and not 100 <= int.from_bytes(file.read(4), "little") < 0x7FFFF000
