"""Options and windows for tests of the engine."""

from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from serve_app.schemas.request import TranscriptionOptions
from serve_app.whisper.engine.engine import Engine
from serve_app.whisper.window_text import WindowText

Windows = dict[str, NDArray[np.int16]]
Transcripts = dict[str, tuple[str, str]]

DEFAULTS = TranscriptionOptions()
INVALID: TranscriptionOptions = TranscriptionOptions.model_construct(  # would not pass validation
    **(DEFAULTS.model_dump() | {"task": "sing", "language": "en"})
)


def submit_together(
    engine: Engine, windows: Sequence[NDArray[np.int16]], options: Sequence[TranscriptionOptions], job: str = "job"
) -> "list[Future[WindowText]]":
    """Submit windows while the lock keeps the engine's thread from starting the first one."""
    with engine._condition:
        return [engine.submit(window, each, job) for window, each in zip(windows, options, strict=True)]
