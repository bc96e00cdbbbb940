"""espeak-ng through its C library: hundreds of seconds of speech a second, with the start of each word."""

import ctypes
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

_RATE, _VOLUME, _PITCH, _RANGE, _WORD_GAP = 1, 2, 3, 4, 7  # espeak_PARAMETER
_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: no sound card, the callback gets the samples
_UTF8, _CHARACTERS = 1, 1  # espeakCHARS_UTF8, POS_CHARACTER
_END_OF_EVENTS, _WORD_EVENT = 0, 1  # espeak_EVENT_TYPE


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h (1.51)."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """The library; one instance for each process, as it has global state. Raises OSError if not installed."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libespeak-ng.so.1")
        except OSError as error:
            raise OSError("espeak-ng is not installed (apt-get install espeak-ng)") from error
        self.sample_rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, 0)
        if self.sample_rate <= 0:
            raise OSError("espeak-ng found no voice data (apt-get install espeak-ng-data)")
        self._pieces: list[npt.NDArray[np.int16]] = []
        self._starts: dict[int, float] = {}
        self._callback = _Callback(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        index = 0
        while events[index].type != _END_OF_EVENTS:
            if events[index].type == _WORD_EVENT:
                self._starts[events[index].text_position - 1] = events[index].audio_position / 1000
            index += 1
        return 0

    def synthesise(
        self, text: str, voice: str, *, rate: int, pitch: int, pitch_range: int, word_gap: int
    ) -> tuple[npt.NDArray[np.float32], dict[int, float]]:
        """Return speech at `sample_rate` in -1..1, and the start in seconds of each word by its position in `text`.

        `rate`: words a minute; `pitch`, `pitch_range`: 0-100; `word_gap`: pauses of 10 ms between words.
        Raises ValueError for an unknown voice.
        """
        self._pieces.clear()
        self._starts = {}
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        parameters = {_RATE: rate, _VOLUME: 100, _PITCH: pitch, _RANGE: pitch_range, _WORD_GAP: word_gap}
        for parameter, value in parameters.items():
            self._library.espeak_SetParameter(parameter, value, 0)
        line = text.encode() + b"\0"
        self._library.espeak_Synth(line, len(line), 0, _CHARACTERS, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(self._pieces).astype(np.float32) / np.float32(32768), self._starts


@cache
def espeak() -> Espeak:
    """Return this process's library."""
    return Espeak()
