"""Decode media files to 16 kHz PCM, streaming, in bounded memory.

Files are untrusted. Only formats whose demuxers read nothing but the file itself are allowed (playlists such as HLS,
DASH, SDP or concat scripts refer to other files and URLs), FFmpeg must not open anything by name, and no video decoder
runs.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.resample import resample
from serve_app.errors import AudioError, TooLarge
from serve_app.settings import LimitSettings

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

# Limits on a packet and a frame, so that a hostile header can't cause gigabytes to be allocated.
_MAX_PACKET_BYTES = 4 * 2**20
_SAMPLE_RATES = range(4_000, 768_001)

# Formats without a duration in their header: FFmpeg estimates one from the first bit rate it finds.
_FORMATS_WITHOUT_DURATION = ("mp3", "aac", "loas", "ac3", "eac3", "dts", "amr", "gsm", "mpegts", "mpeg")


class _InputFile(io.FileIO):
    """A file that Python opens, so that FFmpeg's own file protocol can stay forbidden."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except OSError:
            # A damaged file may contain any offset. PyAV would raise this error at a later, unrelated call.
            return -1


class AudioDecoder:
    """Iterator over the audio of a file in chunks: int16 (samples,) at `SAMPLE_RATE`, at most `CHUNK_SAMPLES` long.

    Iterate once. `samples_read`: samples yielded so far. `fraction_read`: the part of the file read so far, from 0 to
    1. `warnings` is complete after the last chunk. The best audio stream is decoded, with its channels mixed down; with
    `separate_channels` chunks are (samples, channels). For a truncated or damaged file, what can be decoded is yielded
    and a warning is added.

    Raises AudioError with the code `empty_file`, `not_audio`, `no_audio_stream` or `undecodable_audio`, and TooLarge as
    soon as the audio is longer than `limits.max_audio_s`. Both name `param`.
    """

    def __init__(self, path: Path, limits: LimitSettings, param: str = "file", separate_channels: bool = False) -> None:
        self.samples_read = 0
        self.fraction_read = 0.0
        self.warnings: list[str] = []
        self._path = path
        self._max_audio_s = limits.max_audio_s
        self._param = param
        self._separate_channels = separate_channels
        self._damaged_packets = 0
        self._is_truncated = False

    def __iter__(self) -> Iterator[NDArray[np.int16]]:
        size = self._path.stat().st_size
        if not size:
            raise self._error("the file is empty", "empty_file")
        with _InputFile(self._path) as file, self._open(file) as container:
            stream = self._best_stream(container)
            for chunk in self._chunks(container, stream):
                self.samples_read += len(chunk)
                self.fraction_read = min(1.0, file.tell() / size)
                if self.samples_read > self._max_audio_s * SAMPLE_RATE:
                    raise TooLarge(
                        f"the recording is longer than {self._max_audio_s:g} s", self._param, "audio_too_long"
                    )
                yield chunk
            if not self.samples_read:
                raise self._error(
                    f"the file has no {stream.codec_context.name} audio that can be decoded",
                    "undecodable_audio",
                )
            if not _is_piped_wav(container, file):
                self._add_warning(_header_duration(container, stream, file))

    @property
    def channels(self) -> int:
        """The number of channels in the file's header. Raises AudioError as iterating does."""
        with _InputFile(self._path) as file, self._open(file) as container:
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
                "the file is not in a supported audio or video format (such as wav, mp3, m4a, flac, ogg, webm or mp4), "
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
            raise self._error("the file's audio codec is not supported", "undecodable_audio")
        return best if best in decodable else decodable[0]

    def _chunks(self, container: InputContainer, stream: AudioStream) -> Iterator[NDArray[np.int16]]:
        try:
            for chunk in resample(self._frames(container, stream), self._separate_channels):
                yield chunk if self._separate_channels else chunk[:, 0]
        except av.FFmpegError:  # a layout or format that can't be converted
            self._is_truncated = True

    def _frames(self, container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
        try:
            for packet in container.demux(stream):
                if packet.size > _MAX_PACKET_BYTES:
                    self._damaged_packets += 1
                    continue
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    self._damaged_packets += 1
                    self._is_truncated = True
                    continue
                if packet.size:
                    # Overwritten by later packets: only damage in the last one means that the file is truncated.
                    self._is_truncated = packet.is_corrupt
                yield from (frame for frame in frames if frame.sample_rate in _SAMPLE_RATES)
        except av.FFmpegError:
            self._is_truncated = True
        except IndexError:
            pass  # raised by PyAV at the end of a file in which another stream began midway

    def _add_warning(self, header_s: float | None) -> None:
        read_s = self.samples_read / SAMPLE_RATE
        if header_s is not None and _is_too_short(read_s, header_s):
            self.warnings.append(f"the file is truncated: it ends after {read_s:.1f} s of {header_s:.1f} s")
        elif self._is_truncated:
            self.warnings.append(f"the file is truncated: it ends after {read_s:.1f} s")
        elif self._damaged_packets:
            self.warnings.append(f"the file is damaged: {self._damaged_packets} packets could not be decoded")

    def _error(self, message: str, code: str) -> AudioError:
        return AudioError(message, self._param, code)


def _header_duration(container: InputContainer, stream: AudioStream, file: BinaryIO) -> float | None:
    """Return the duration in seconds that the file's header states, if it states one."""
    if container.format.name in _FORMATS_WITHOUT_DURATION and not _has_xing_header(file):
        return None
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration / av.time_base)
    return None


def _is_too_short(read_s: float, header_s: float) -> bool:
    """Return whether so much is missing that the file must be truncated: headers are often slightly wrong."""
    return read_s < 0.999 * header_s - 1.0


def _has_xing_header(file: BinaryIO) -> bool:
    """Return whether an mp3 states its number of frames in the first frame after an ID3v2 tag."""
    file.seek(0)
    tag = file.read(10)
    if tag.startswith(b"ID3"):
        seven_bits = tag[6:10]
        file.seek(10 + sum(byte << shift for byte, shift in zip(seven_bits, (21, 14, 7, 0), strict=True)))
    else:
        file.seek(0)
    first_frame = file.read(256)
    return b"Xing" in first_frame or b"Info" in first_frame


def _is_piped_wav(container: InputContainer, file: BinaryIO) -> bool:
    """Return whether a wav was written as a stream: the size in its header is then about 0, 2 GiB or 4 GiB."""
    file.seek(4)
    return container.format.name == "wav" and not 100 <= int.from_bytes(file.read(4), "little") < 0x7FFFF000
