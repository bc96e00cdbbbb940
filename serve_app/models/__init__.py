"""Checkpoints: those embedded in the package, and the catalogue that others are fetched from."""

from pathlib import Path

LONGEST_WINDOW_S = 30.0
"""Seconds of sound a Whisper encoder sees at once."""

EMBEDDED_WINDOW_S = {"whisper-nano": 10.0}
"""Embedded Whisper checkpoints and the longest window each is accurate on, in seconds."""


EMBEDDED = (*EMBEDDED_WINDOW_S, "diarization-nano")

EMBEDDED_WARNINGS = {
    "whisper-nano": "whisper-nano knows spoken digits only, and hears digits in everything else: "
    "it is there to try the service, not for real speech."
}
"""Warnings about embedded checkpoints, which `GET /v1/models` shows."""


def model_source(name: str) -> str:
    """The packaged folder of an embedded model; any other name (hub id, folder) as it is."""
    return str(Path(__file__).parent / name) if name in EMBEDDED else name


def longest_window_s(name: str) -> float:
    """The longest window that suits a Whisper model, in seconds."""
    return EMBEDDED_WINDOW_S.get(name, LONGEST_WINDOW_S)
