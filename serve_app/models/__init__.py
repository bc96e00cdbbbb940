"""Model checkpoints: those embedded in the package, and the catalogue of models that can be downloaded by name."""

from pathlib import Path

LONGEST_WINDOW_S = 30.0
"""The length of a Whisper encoder's input in seconds."""

EMBEDDED_WINDOW_S = {"whisper-nano": 10.0}
"""Embedded Whisper checkpoints, and the longest window in seconds on which each is accurate."""


EMBEDDED = (*EMBEDDED_WINDOW_S, "diarization-nano")

EMBEDDED_WARNINGS = {
    "whisper-nano": "whisper-nano recognises spoken digits only, and transcribes everything else as digits: "
    "it is meant for trying out the service, not for real speech."
}
"""Warnings about embedded checkpoints, shown in `GET /v1/models`."""


def model_source(name: str) -> str:
    """Return the packaged folder of an embedded model; any other name (hub id, folder) unchanged."""
    return str(Path(__file__).parent / name) if name in EMBEDDED else name


def longest_window_s(name: str) -> float:
    """Return the longest window for a Whisper model, in seconds."""
    return EMBEDDED_WINDOW_S.get(name, LONGEST_WINDOW_S)
